/* A network interface that vhost-net serves. A stand-in for the kernel records what it is told, and takes the guest's
 * frames when a test lets it. A packet socket stands for the tap. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_net_header.h"

#include <errno.h>
#include <linux/vhost.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOT 4
#define VHOST_FD 1000 /* no such file: only the stand-in sees it */
#define QUEUE_SIZE 16
#define FRAME_BYTES 60
enum { RX = 0, TX = 1 };

struct net_test {
	struct fixture f;
	struct device *dev;
	struct drv d;
	int tap, theirs;
	uint64_t buf;
};

static struct {
	struct {
		struct vhost_vring_addr at;
		int kick, call, error, backend;
		unsigned size;
		uint16_t base;
	} q[2];
	uint64_t features, known;
	uint64_t gpa[2], bytes[2], host[2];
	unsigned nregions, owners;
	unsigned long refuse; /* fails */
} kernel;

static int vhost(unsigned long request, void *arg)
{
	const struct vhost_vring_file *file = arg;
	struct vhost_vring_state *s = arg;
	const struct vhost_memory *m = arg;

	if (request == kernel.refuse)
		return -1;
	if (request == VHOST_SET_OWNER)
		kernel.owners++;
	else if (request == VHOST_GET_FEATURES)
		*(uint64_t *)arg = kernel.known;
	else if (request == VHOST_SET_FEATURES)
		kernel.features = *(uint64_t *)arg;
	else if (request == VHOST_SET_MEM_TABLE && (m->padding || m->regions[0].flags_padding))
		return -1;
	else if (request == VHOST_SET_MEM_TABLE)
		for (kernel.nregions = 0; kernel.nregions < m->nregions; kernel.nregions++) {
			kernel.gpa[kernel.nregions] = m->regions[kernel.nregions].guest_phys_addr;
			kernel.bytes[kernel.nregions] = m->regions[kernel.nregions].memory_size;
			kernel.host[kernel.nregions] = m->regions[kernel.nregions].userspace_addr;
		}
	else if (request == VHOST_SET_VRING_NUM)
		kernel.q[s->index].size = s->num;
	else if (request == VHOST_SET_VRING_BASE)
		kernel.q[s->index].base = (uint16_t)s->num;
	else if (request == VHOST_GET_VRING_BASE)
		s->num = kernel.q[s->index].base;
	else if (request == VHOST_SET_VRING_ADDR && ((struct vhost_vring_addr *)arg)->flags)
		return -1;
	else if (request == VHOST_SET_VRING_ADDR)
		kernel.q[((struct vhost_vring_addr *)arg)->index].at = *(struct vhost_vring_addr *)arg;
	else if (request == VHOST_SET_VRING_KICK)
		kernel.q[file->index].kick = file->fd;
	else if (request == VHOST_SET_VRING_CALL)
		kernel.q[file->index].call = file->fd;
	else if (request == VHOST_SET_VRING_ERR)
		kernel.q[file->index].error = file->fd;
	else
		kernel.q[file->index].backend = file->fd;
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, ...);

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	errno = EBUSY;
	return fd == VHOST_FD ? vhost(request, arg) : 0;
}

static bool serves(void)
{
	assert_int_equal(kernel.q[RX].backend < 0, kernel.q[TX].backend < 0);
	return kernel.q[RX].backend >= 0;
}

static void begin(struct net_test *t)
{
	struct virtio_net_config c = { .name = "net0", .mac = { 0x52, 0x54, 0, 1, 2, 3 }, .slot = SLOT, .vhost = true,
		.vhost_fds = { VHOST_FD } };
	int pair[2];

	memset(&kernel, 0, sizeof(kernel));
	kernel.q[RX].backend = kernel.q[TX].backend = -1;
	kernel.known = 0x33d008000ULL; /* Linux 6.1's */
	fx_init(&t->f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	t->tap = pair[0];
	t->theirs = c.tap_fd = pair[1];
	c.loop = t->f.host.loop;
	assert_int_equal(virtio_net_new(&t->f.host, t->f.pci, &c, &t->dev, NULL), 0);
	t->buf = fx_alloc(&t->f, 65536, 4096);
}

static void driver_begin(struct net_test *t)
{
	drv_init(&t->d, &t->f, SLOT, ~0ULL, true);
	for (unsigned q = 0; q <= 2; q++)
		drv_queue_setup(&t->d, q, QUEUE_SIZE);
	drv_ok(&t->d);
	fx_run(&t->f, 3);
}

static void end(struct net_test *t)
{
	t->dev->ops->free(t->dev);
	assert_false(serves());
	fx_run(&t->f, 2);
	close(t->tap);
	close(t->theirs);
	fx_done(&t->f);
}

static void guest_sends(struct net_test *t)
{
	struct drv_sg sg = { t->buf, NET_HEADER_BYTES + FRAME_BYTES, false };

	memset(fx_ram(&t->f, t->buf), 0, NET_HEADER_BYTES + FRAME_BYTES);
	drv_add(&t->d.q[TX], &sg, 1, false);
	drv_kick(&t->d.q[TX]);
}

/* Do what the kernel does with the frames in the ring. Returns their number. */
static unsigned kernel_takes(void)
{
	const uint8_t *avail = (const uint8_t *)(uintptr_t)kernel.q[TX].at.avail_user_addr;
	uint8_t *used = (uint8_t *)(uintptr_t)kernel.q[TX].at.used_user_addr;
	uint16_t idx = load_le16(used + 2);
	uint64_t one = 1;
	unsigned n = 0;

	assert_true(serves());
	for (; kernel.q[TX].base != load_le16(avail + 2); kernel.q[TX].base++, idx++, n++) {
		store_le32(used + 4 + 8 * (idx % QUEUE_SIZE), load_le16(avail + 4 + 2 * (kernel.q[TX].base % QUEUE_SIZE)));
		store_le32(used + 8 + 8 * (idx % QUEUE_SIZE), 0);
	}
	store_le16(used + 2, idx);
	assert_int_equal(write(kernel.q[TX].call, &one, sizeof(one)), sizeof(one));
	return n;
}

/* Return whether the frame that the guest sends leaves by the loop. */
static bool loop_takes(struct net_test *t)
{
	uint8_t packet[256];
	uint16_t before = drv_used_idx(&t->d.q[TX]);

	guest_sends(t);
	fx_run(&t->f, 5);
	return drv_used_idx(&t->d.q[TX]) == (uint16_t)(before + 1) && read(t->tap, packet, sizeof(packet)) > 0;
}

static void kernel_gets_rings_and_memory(void **state)
{
	struct net_test t = { 0 };
	uint64_t doorbells;
	unsigned msi;

	(void)state;
	begin(&t);
	assert_false(serves());
	assert_int_equal(kernel.owners, 0);
	driver_begin(&t);
	assert_true(serves());
	assert_int_equal(kernel.q[TX].backend, t.theirs);
	/* It gets the doorbells that the loop has taken, and the loop takes none any more. */
	fx_run(&t.f, 3);
	assert_int_equal(read(kernel.q[TX].kick, &doorbells, sizeof(doorbells)), sizeof(doorbells));
	assert_int_equal(kernel.nregions, 2);
	assert_int_equal(kernel.gpa[1], FX_HIGH_GPA);
	assert_int_equal(kernel.bytes[0], FX_LOW_BYTES);
	assert_int_equal(kernel.host[0], (uintptr_t)fx_ram(&t.f, 0));
	/* Numbers, as linux/vhost.h has others by these names: VERSION_1, EVENT_IDX, INDIRECT_DESC, MRG_RXBUF. */
	assert_int_equal(kernel.features, 1ULL << 32 | 1ULL << 29 | 1ULL << 28 | 1ULL << 15);
	assert_int_equal(kernel.q[RX].at.desc_user_addr, (uintptr_t)fx_ram(&t.f, t.d.q[RX].desc));
	assert_int_equal(kernel.q[RX].size, QUEUE_SIZE);
	assert_false(loop_takes(&t));
	msi = t.f.nmsi;
	assert_int_equal(kernel_takes(), 1);
	fx_run(&t.f, 2);
	assert_int_equal(t.f.nmsi, msi + 1);
	end(&t);
}

static void pause_takes_the_queues_back(void **state)
{
	struct net_test t = { 0 };
	unsigned msi;

	(void)state;
	begin(&t);
	driver_begin(&t);
	for (unsigned i = 0; i < 3; i++)
		guest_sends(&t);
	assert_int_equal(kernel_takes(), 3);
	msi = t.f.nmsi;
	t.dev->ops->pause(t.dev);
	assert_false(serves());
	assert_true(kernel.q[TX].kick < 0 && kernel.q[RX].kick < 0);
	assert_int_equal(t.f.nmsi, msi + 1); /* not lost: the loop has not read the event */
	fx_state_test(&t.f, t.dev, 200);
	fx_run(&t.f, 4);
	assert_true(serves());
	assert_int_equal(kernel.q[TX].base, 3);
	guest_sends(&t);
	assert_int_equal(kernel_takes(), 1);
	/* The loop goes on where the kernel was. */
	virtio_net_hold_vhost(t.dev, true);
	assert_false(serves());
	for (unsigned i = 0; i < 2 * QUEUE_SIZE; i++)
		assert_true(loop_takes(&t));
	virtio_net_hold_vhost(t.dev, false);
	fx_run(&t.f, 4);
	assert_true(serves());
	assert_int_equal(kernel.q[TX].base, 4 + 2 * QUEUE_SIZE);
	assert_int_equal(kernel.owners, 1);
	end(&t);
}

static void limits_link_and_snapshots_are_the_loops(void **state)
{
	struct virtio_net_limits some = { .out = { .average = 1u << 30 } }, other = { .in = { .packets = 1u << 20 } }, none = { 0 };
	struct net_test t = { 0 };

	(void)state;
	begin(&t);
	driver_begin(&t);
	virtio_net_set_limits(t.dev, &some);
	assert_false(serves());
	assert_true(loop_takes(&t));
	assert_false(serves());
	virtio_net_set_limits(t.dev, &other);
	assert_true(loop_takes(&t));
	assert_false(serves());
	virtio_net_set_limits(t.dev, &none);
	fx_run(&t.f, 4);
	assert_true(serves());
	virtio_net_set_link(t.dev, false);
	assert_false(serves());
	fx_run(&t.f, 4);
	assert_false(serves());
	virtio_net_set_link(t.dev, true);
	fx_run(&t.f, 4);
	assert_true(serves());
	t.dev->ops->pause(t.dev);
	virtio_net_mark(t.dev, 7);
	t.dev->ops->resume(t.dev);
	assert_true(loop_takes(&t));
	assert_false(serves());
	end(&t);
}

static void reset_of_the_driver_takes_the_queues_back(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	begin(&t);
	driver_begin(&t);
	guest_sends(&t);
	assert_int_equal(kernel_takes(), 1);
	fx_write(&t.f, t.d.common + 20, 1, 0);
	assert_false(serves());
	driver_begin(&t);
	assert_true(serves());
	assert_int_equal(kernel.q[TX].base, 0);
	end(&t);
}

static void loop_serves_if_the_kernel_refuses(void **state)
{
	static const unsigned long each[] = { VHOST_SET_OWNER, VHOST_GET_FEATURES, VHOST_SET_FEATURES, VHOST_SET_MEM_TABLE,
		VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR };

	(void)state;
	for (unsigned i = 0; i <= ARRAY_SIZE(each); i++) {
		struct net_test t = { 0 };

		begin(&t);
		virtio_net_hold_vhost(t.dev, true);
		driver_begin(&t);
		assert_true(loop_takes(&t));
		if (i < ARRAY_SIZE(each))
			kernel.refuse = each[i];
		else
			kernel.known = 1ULL << 32;
		virtio_net_hold_vhost(t.dev, false);
		fx_run(&t.f, 4);
		assert_false(serves());
		assert_int_equal(drv_used_idx(&t.d.q[TX]), 1);
		assert_true(loop_takes(&t) && loop_takes(&t));
		end(&t);
	}
}

static void broken_ring_is_reported_by_the_loop(void **state)
{
	struct net_test t = { 0 };
	uint64_t one = 1;

	(void)state;
	begin(&t);
	driver_begin(&t);
	drv_desc(&t.d.q[TX], 0, 1ULL << 60, 100, 0, 0);
	drv_publish(&t.d.q[TX], 0);
	assert_int_equal(write(kernel.q[TX].error, &one, sizeof(one)), sizeof(one));
	fx_run(&t.f, 5);
	assert_false(serves());
	assert_int_equal(fx_count_events(&t.f, DEV_EVENT_NEEDS_RESET), 1);
	driver_begin(&t);
	assert_false(serves());
	assert_true(loop_takes(&t));
	end(&t);
}

static void kvm_sends_the_interrupts_while_vhost_serves(void **state)
{
	struct net_test t = { 0 };
	unsigned msi;

	(void)state;
	begin(&t);
	fx_link_msi(&t.f);
	driver_begin(&t);
	for (unsigned q = RX; q <= TX; q++)
		assert_int_equal(fx_linked(&t.f, kernel.q[q].call), SLOT << 8 | q);
	/* A masked vector's interrupt is pending, though nobody but vhost knows of it so far. */
	fx_write(&t.f, t.d.msix + 16 * TX + 12, 4, 1);
	assert_int_equal(fx_linked(&t.f, kernel.q[TX].call), -1);
	assert_int_equal(fx_linked(&t.f, kernel.q[RX].call), SLOT << 8 | RX);
	guest_sends(&t);
	assert_int_equal(kernel_takes(), 1);
	msi = t.f.nmsi;
	fx_run(&t.f, 2);
	assert_int_equal(t.f.nmsi, msi);
	assert_int_equal(fx_read(&t.f, t.d.msix + MSIX_PBA_OFFSET, 8), 1 << TX);
	fx_write(&t.f, t.d.msix + 16 * TX + 12, 4, 0);
	assert_int_equal(t.f.nmsi, msi + 1);
	assert_int_equal(fx_linked(&t.f, kernel.q[TX].call), SLOT << 8 | TX);
	/* The driver gives the queue another vector, and none. */
	fx_write(&t.f, t.d.common + 22, 2, TX);
	fx_write(&t.f, t.d.common + 26, 2, RX);
	assert_int_equal(fx_linked(&t.f, kernel.q[TX].call), SLOT << 8 | RX);
	fx_write(&t.f, t.d.common + 26, 2, MSIX_NO_VECTOR);
	assert_int_equal(fx_linked(&t.f, kernel.q[TX].call), -1);
	fx_write(&t.f, t.d.common + 26, 2, TX);
	/* A pause: the state has the masked vector's interrupt. */
	fx_write(&t.f, t.d.msix + 16 * TX + 12, 4, 1);
	guest_sends(&t);
	assert_int_equal(kernel_takes(), 1);
	t.dev->ops->pause(t.dev);
	assert_int_equal(fx_linked(&t.f, kernel.q[RX].call), -1);
	assert_int_equal(fx_read(&t.f, t.d.msix + MSIX_PBA_OFFSET, 8), 1 << TX);
	fx_state_test(&t.f, t.dev, 200);
	fx_run(&t.f, 4);
	assert_true(serves());
	assert_int_equal(fx_read(&t.f, t.d.msix + MSIX_PBA_OFFSET, 8), 1 << TX);
	assert_int_equal(fx_linked(&t.f, kernel.q[RX].call), SLOT << 8 | RX);
	fx_write(&t.f, t.d.common + 20, 1, 0);
	assert_int_equal(fx_linked(&t.f, kernel.q[RX].call), -1);
	/* Without MSI-X, the loop raises the line. */
	drv_init(&t.d, &t.f, SLOT, ~0ULL, false);
	for (unsigned cap = fx_cfg_read(&t.f, SLOT, 0x34, 1); cap; cap = fx_cfg_read(&t.f, SLOT, cap + 1, 1))
		if (fx_cfg_read(&t.f, SLOT, cap, 1) == 0x11)
			fx_cfg_write(&t.f, SLOT, cap + 2, 2, 0);
	for (unsigned q = 0; q <= 2; q++)
		drv_queue_setup(&t.d, q, QUEUE_SIZE);
	drv_ok(&t.d);
	fx_run(&t.f, 3);
	assert_true(serves());
	assert_int_equal(fx_linked(&t.f, kernel.q[TX].call), -1);
	guest_sends(&t);
	assert_int_equal(kernel_takes(), 1);
	fx_run(&t.f, 2);
	assert_true(t.f.level[PCI_INTX_GSI(SLOT)]);
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernel_gets_rings_and_memory),
		cmocka_unit_test(pause_takes_the_queues_back),
		cmocka_unit_test(limits_link_and_snapshots_are_the_loops),
		cmocka_unit_test(reset_of_the_driver_takes_the_queues_back),
		cmocka_unit_test(loop_serves_if_the_kernel_refuses),
		cmocka_unit_test(kvm_sends_the_interrupts_while_vhost_serves),
		cmocka_unit_test(broken_ring_is_reported_by_the_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
