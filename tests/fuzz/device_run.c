#include "tests/fuzz/fuzz_device.h"
#include "tests/fuzz/fuzz_api.h"
#include "tests/fuzz/fuzz_disk.h"
#include "tests/unit/devices/fixture.h"

#include "base/bytes.h"
#include "base/display.h"
#include "base/share_link.h"
#include "base/util.h"
#include "block/block.h"
#include "devices/acpi_pm.h"
#include "devices/console.h"
#include "devices/cpu_hotplug.h"
#include "devices/legacy/bochs_display.h"
#include "devices/legacy/fw_cfg.h"
#include "devices/legacy/i6300esb.h"
#include "devices/legacy/i8042.h"
#include "devices/legacy/pflash.h"
#include "devices/legacy/rtc.h"
#include "devices/legacy/serial.h"
#include "devices/pci/pci_hotplug.h"
#include "devices/virtio/virtio_balloon.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_console.h"
#include "devices/virtio/virtio_fs.h"
#include "devices/virtio/virtio_input.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_rng.h"
#include "devices/virtio/virtio_scsi.h"
#include "devices/virtio/virtio_vsock.h"

#include <linux/fuse.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOT 3
#define SCREEN_SLOT 1
#define DISK_BYTES (1u << 20)
#define RING_SIZE 8u
#define STEPS_MAX 400u
#define PORTS 2u
#define PFLASH_BYTES (4 * FLASH_BLOCK_BYTES)

struct run {
	const uint8_t *at;
	size_t left;
	struct fixture f;
	struct device *devs[2];
	unsigned ndevs;
	struct device *keyboard, *screen; /* also in devs; NULL: none */
	uint64_t shown_at; /* where the guest sees the framebuffer; 0: nowhere */
	bool serves; /* peers[0] answers requests as cairn-share does */
	struct drv d;
	unsigned nqueues; /* queues that driver_start() has set up; 0: the program has to set them up */
	struct dev_host_ops ops; /* of the balloon's host, or the screen's */
	unsigned refusals;	 /* so many pages are not given back at first */
	struct block *block, *cd; /* NULL: none */
	int files[2];	/* of a pflash; 0: none */
	uint8_t *view; /* NULL: none */
	struct console *consoles[PORTS];
	int peers[PORTS]; /* the device's connection to the outside; -1: none */
	int lent[PORTS];  /* the device's ends of peers if the device borrows them; -1: none */
};

/* ---- the program's bytes: zeros after its end ---- */

static uint64_t take(struct run *x, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && x->left; i++, x->left--)
		v |= (uint64_t)*x->at++ << 8 * i;
	return v;
}

static uint8_t take8(struct run *x)
{
	return (uint8_t)take(x, 1);
}

static size_t take_some(struct run *x, uint8_t *buf, size_t max)
{
	size_t want = take8(x), n = MIN(want, MIN(max, x->left));

	memcpy(buf, x->at, n);
	x->at += n;
	x->left -= n;
	return n;
}

/* ---- the machine ---- */

static void peers_make(struct run *x, unsigned n, int type, int ours[PORTS])
{
	for (unsigned i = 0; i < n; i++) {
		int pair[2];

		must(!socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair));
		ours[i] = pair[0];
		x->peers[i] = pair[1];
	}
}

static void consoles_make(struct run *x, unsigned n)
{
	int ours[PORTS];

	peers_make(x, n, SOCK_STREAM, ours);
	for (unsigned i = 0; i < n; i++) {
		must(!console_new(x->f.host.loop, "hvc", &x->consoles[i], NULL));
		must(!console_attach(x->consoles[i], ours[i], true, (struct console_user){ 0 }, NULL));
	}
}

static int blk_make(struct run *x, struct device **ret)
{
	struct virtio_blk_config c = { .name = "vda", .loop = x->f.host.loop, .serial = "CAIRN-0001", .queues = 2,
		.queue_size = 16, .slot = SLOT, .errors = take8(x) % 3 };

	c.block = x->block = fuzz_disk_open(x->f.host.loop, DISK_BYTES, false);
	return virtio_blk_new(&x->f.host, x->f.pci, &c, ret, NULL);
}

static int scsi_make(struct run *x, struct device **ret)
{
	uint8_t how = take8(x);
	struct virtio_scsi_disk disks[2] = {
		{ .id = "sda", .loop = x->f.host.loop, .serial = "CAIRN-0001", .wwn = how, .errors = how % 3,
			.logical_bytes = how & 4 ? 4096 : 512, .detect_zeroes = how & 8 ? BLOCK_ZEROES_ON : BLOCK_ZEROES_OFF },
		{ .id = "sdb", .loop = x->f.host.loop, .cdrom = true, .errors = how % 3 } };
	struct virtio_scsi_config c = { .name = "scsi0", .disks = disks, .ndisks = 2, .queues = 2, .queue_size = 16, .slot = SLOT };

	disks[0].block = x->block = fuzz_disk_open(x->f.host.loop, DISK_BYTES, false);
	disks[1].block = x->cd = fuzz_disk_open(x->f.host.loop, how & 16 ? 0 : DISK_BYTES, true);
	return virtio_scsi_new(&x->f.host, x->f.pci, &c, ret, NULL);
}

static int net_make(struct run *x, struct device **ret)
{
	struct virtio_net_config c = { .name = "net0", .loop = x->f.host.loop, .mac = { 2, 0, 0, 0, 0, 1 }, .user = true,
		.slot = SLOT };
	int ours[PORTS];

	c.pairs = take8(x) % 4 ? 2 : 1;
	peers_make(x, c.pairs, SOCK_SEQPACKET, ours);
	c.tap_fd = x->lent[0] = ours[0];
	if (c.pairs > 1)
		c.more_fds[0] = x->lent[1] = ours[1];
	return virtio_net_new(&x->f.host, x->f.pci, &c, ret, NULL);
}

static int console_make(struct run *x, struct device **ret)
{
	struct virtio_console_port_config ports[PORTS] = { { 0 }, { .name = "org.cairn.test" } };
	struct virtio_console_config c = { .name = "virtio-console0", .ports = ports, .nports = PORTS, .slot = SLOT };

	consoles_make(x, PORTS);
	for (unsigned i = 0; i < PORTS; i++)
		ports[i].console = x->consoles[i];
	return virtio_console_new(&x->f.host, x->f.pci, &c, ret, NULL);
}

static int pflash_make(struct run *x, struct device **ret)
{
	static uint8_t content[PFLASH_BYTES];
	struct pflash_config c = { .gpa = FX_MMIO32, .content = content };

	for (unsigned i = 0; i < 2; i++) {
		x->files[i] = memfd_create("flash", MFD_CLOEXEC);
		must(x->files[i] >= 0 && !ftruncate(x->files[i], 2 * PFLASH_BYTES));
	}
	c.view_fd = x->files[0];
	c.view = x->view = mmap(NULL, PFLASH_BYTES, PROT_READ, MAP_SHARED, c.view_fd, 0);
	must(c.view != MAP_FAILED);
	c.file = (struct flash_file){ .fd = x->files[1], .bytes = PFLASH_BYTES };
	return pflash_new(&x->f.host, x->f.mmio, &c, ret, NULL);
}

static int fw_cfg_make(struct run *x, struct device **ret)
{
	must(!fw_cfg_new(&x->f.host, x->f.pio, ret, NULL));
	return fw_cfg_add_file(*ret, "etc/e820", "a file of 20 bytes..", 20, NULL);
}

/* peers[0]: the dialer's end. */
static int vsock_make(struct run *x, struct device **ret)
{
	struct virtio_vsock_config c = { .name = "vsock0", .cid = 3, .listen_fd = -1, .slot = SLOT };
	int ours[PORTS];

	peers_make(x, 1, SOCK_SEQPACKET, ours);
	c.dial_fd = x->lent[0] = ours[0];
	return virtio_vsock_new(&x->f.host, x->f.pci, &c, ret, NULL);
}

static int fs_make(struct run *x, struct device **ret)
{
	struct virtio_fs_config c = { .name = "share0", .tag = "data", .slot = SLOT };
	int ours[PORTS];

	peers_make(x, 1, SOCK_SEQPACKET, ours);
	c.fd = x->lent[0] = ours[0];
	x->serves = true;
	return virtio_fs_new(&x->f.host, x->f.pci, &c, ret, NULL);
}

static void vsock_answered(void *opaque, int r, const struct err *e)
{
	(void)opaque;
	(void)r;
	(void)e;
}

/* peers[1]: a client that connects to port 1, if the driver has started. */
static void vsock_client_make(struct run *x)
{
	int pair[2];

	must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair));
	x->peers[1] = pair[1];
	if (virtio_vsock_connect(x->devs[0], 1, pair[0], &(struct console_user){ 0 }, vsock_answered, NULL, NULL) < 0)
		close(pair[0]);
}

static int serial_make(struct run *x, struct device **ret)
{
	struct serial_config c = { .name = "serial0" };

	consoles_make(x, 1);
	c.console = x->consoles[0];
	return serial_new(&x->f.host, x->f.pio, &c, ret, NULL);
}

static int hotplug_make(struct run *x, struct device **ret)
{
	must(!acpi_pm_new(&x->f.host, x->f.pio, &x->devs[x->ndevs], NULL));
	must(!pci_hotplug_new(&x->f.host, x->f.pio, x->devs[x->ndevs++], ret, NULL));
	for (unsigned slot = 1; slot < 16; slot++)
		(slot & 1 ? pci_hotplug_plugged : pci_hotplug_ask_release)(*ret, slot);
	return 0;
}

static void vcpus_released(void *opaque, uint64_t vcpus)
{
	struct device *d = *(struct device **)opaque;

	/* Only one that was asked for, and that is there. */
	must(vcpus && !(vcpus & ~cpu_hotplug_present(d)) && !(vcpus & 1) && !(vcpus >> 40));
	for (; vcpus; vcpus &= vcpus - 1)
		cpu_hotplug_removed(d, (unsigned)__builtin_ctzll(vcpus));
}

static void vcpus_refused(void *opaque, uint64_t vcpus)
{
	must(vcpus && !(vcpus & ~cpu_hotplug_present(*(struct device **)opaque)));
}

static int cpu_hotplug_make(struct run *x, struct device **ret)
{
	struct cpu_hotplug_config c = { .count = 40, .present = take(x, 5) };
	struct cpu_hotplug_listener l = { vcpus_released, vcpus_refused, ret };

	must(!acpi_pm_new(&x->f.host, x->f.pio, &x->devs[x->ndevs], NULL));
	c.pm = x->devs[x->ndevs++];
	must(!cpu_hotplug_new(&x->f.host, x->f.pio, &c, ret, NULL));
	cpu_hotplug_listen(*ret, &l);
	for (unsigned i = 1; i < 40; i++)
		(cpu_hotplug_present(*ret) >> i & 1 ? cpu_hotplug_ask_release : cpu_hotplug_add)(*ret, i);
	return 0;
}

static int input_make(struct run *x, struct device **ret)
{
	int r = virtio_input_new(&x->f.host, x->f.pci, "tablet0", SLOT, ret, NULL);

	for (unsigned n = take8(x) % 8; n && !r; n--) {
		struct input_event ev = { .kind = (uint8_t)take(x, 1), .code = take8(x), .down = take8(x), .x = (int16_t)take(x, 2),
			.y = (int16_t)take(x, 2) };

		if (input_event_ok(&ev) && ev.kind != INPUT_KEY)
			virtio_input_event(*ret, &ev);
	}
	return r;
}

/* As the machine does it for a VM without userfaultfd; fails at times, as during a snapshot. */
static bool balloon_give_back(struct dev_host *h, uint64_t gpa, uint64_t len, int wake_fd)
{
	struct run *x = container_of(h, struct run, f.host);
	uint64_t one = 1;

	must(len && gpa % 4096 == 0 && len % 4096 == 0 && dev_ram(h, gpa, len));
	if (x->refusals && x->refusals-- % 2) {
		must(write(wake_fd, &one, sizeof(one)) == sizeof(one));
		return false;
	}
	if (gpa >= 0x100000) /* the rings are below */
		must(!madvise(dev_ram(h, gpa, len), len, MADV_DONTNEED));
	return true;
}

static void balloon_told(void *opaque)
{
	(void)opaque;
}

static int balloon_make(struct run *x, struct device **ret)
{
	struct virtio_balloon_config c = { .name = "balloon0", .slot = SLOT, .ram_bytes = FX_LOW_BYTES + FX_HIGH_BYTES,
		.target_bytes = take(x, 3), .told = balloon_told };
	int r;

	x->refusals = take8(x);
	x->ops = *x->f.host.ops;
	x->ops.ram_give_back = balloon_give_back;
	x->f.host.ops = &x->ops;
	r = virtio_balloon_new(&x->f.host, x->f.pci, &c, ret, NULL);
	if (!r)
		virtio_balloon_set_period(*ret, take8(x) % 2);
	return r;
}

static int screen_show(struct dev_host *h, uint64_t gpa, uint64_t bytes, void *memory)
{
	struct run *x = container_of(h, struct run, f.host);

	must(bytes ? memory && !x->shown_at : gpa == x->shown_at);
	x->shown_at = bytes ? gpa : 0;
	return 0;
}

/* Read all that the mode shows, as those do who serve the screen. */
static void screen_look(const struct run *x)
{
	const uint8_t *memory = bochs_display_memory(x->screen);
	volatile uint8_t seen = 0;
	struct display_mode m;
	uint64_t line;

	if (!bochs_display_mode(x->screen, &m))
		return;
	line = (uint64_t)m.width * (m.bits / 8);
	must(line && m.height && line <= m.stride);
	must(m.offset + (uint64_t)m.stride * (m.height - 1) + line <= BOCHS_DISPLAY_BYTES);
	for (uint64_t y = 0; y < m.height; y++)
		seen = memory[m.offset + y * m.stride + line - 1];
	(void)seen;
}

/* Let the program begin with a mode, most likely one that fits. */
static int screen_make(struct run *x, struct device **ret)
{
	/* The registers' values: least + step * any number below span. */
	static const struct {
		uint16_t least, span, step;
	} mode[] = { { 0xb0c5, 1, 1 }, { 0, 2048, 1 }, { 0, 1200, 1 }, { 16, 2, 16 }, { 0x41, 1, 1 }, { 0, 1, 1 }, { 0, 4096, 1 }, { 0, 4096, 1 },
		{ 0, 256, 1 }, { 0, 256, 1 } };
	uint64_t registers;
	int r;

	x->ops = *x->f.host.ops;
	x->ops.show = screen_show;
	x->f.host.ops = &x->ops;
	r = bochs_display_new(&x->f.host, x->f.pci, ret, NULL);
	x->screen = *ret;
	registers = fx_cfg_read(&x->f, SCREEN_SLOT, 0x18, 4) & ~0xfu;
	x->d.common = registers + 0x500; /* those of the mode */
	x->d.notify = registers;	 /* the EDID */
	x->d.isr = fx_cfg_read(&x->f, SCREEN_SLOT, 0x10, 4) & ~0xfu;
	for (unsigned i = 0; i < ARRAY_SIZE(mode); i++)
		fx_write(&x->f, x->d.common + 2 * i, 2, mode[i].least + take(x, 2) % mode[i].span * mode[i].step);
	screen_look(x);
	return r;
}

static int device_make(struct run *x, enum device_kind kind, struct device **ret)
{
	struct dev_host *h = &x->f.host;

	switch (kind) {
	case DEVICE_BLK:
		return blk_make(x, ret);
	case DEVICE_SCSI_RINGS:
		return scsi_make(x, ret);
	case DEVICE_NET:
		return net_make(x, ret);
	case DEVICE_CONSOLE:
		return console_make(x, ret);
	case DEVICE_VSOCK:
		return vsock_make(x, ret);
	case DEVICE_FS:
		return fs_make(x, ret);
	case DEVICE_BALLOON:
		return balloon_make(x, ret);
	case DEVICE_PCI:
	case DEVICE_RNG:
		return virtio_rng_new(h, x->f.pci, "rng0", SLOT, ret, NULL);
	case DEVICE_SERIAL:
		return serial_make(x, ret);
	case DEVICE_RTC:
		return rtc_new(h, x->f.pio, ret, NULL);
	case DEVICE_I8042:
		return i8042_new_with_keyboard(h, x->f.pio, ret, NULL);
	case DEVICE_I6300ESB:
		return i6300esb_new(h, x->f.pci, SLOT, ret, NULL);
	case DEVICE_FW_CFG:
		return fw_cfg_make(x, ret);
	case DEVICE_PCI_HOTPLUG:
		return hotplug_make(x, ret);
	case DEVICE_CPU_HOTPLUG:
		return cpu_hotplug_make(x, ret);
	case DEVICE_INPUT:
		return input_make(x, ret);
	case DEVICE_DISPLAY:
		return screen_make(x, ret);
	case DEVICE_PFLASH:
		return pflash_make(x, ret);
	default:
		return acpi_pm_new(h, x->f.pio, ret, NULL);
	}
}

/* Let the driver's program begin where a driver has set up the device, unless the input wants to do that itself. */
static void driver_start(struct run *x)
{
	uint8_t how = take8(x);
	uint64_t features = take(x, 8);

	if (how & 1)
		return;
	drv_init(&x->d, &x->f, SLOT, ~features, !(how & 2));
	x->nqueues = MIN((unsigned)fx_read(&x->f, x->d.common + 18, 2), (unsigned)ARRAY_SIZE(x->d.q));
	for (unsigned q = 0; q < x->nqueues; q++)
		drv_queue_setup(&x->d, q, RING_SIZE);
	drv_ok(&x->d);
}

static void machine_make(struct run *x, enum device_kind kind)
{
	struct device *made = NULL;

	fx_init(&x->f);
	for (unsigned i = 0; i < PORTS; i++)
		x->peers[i] = -1;
	if (kind == DEVICE_PCI)
		must(!i6300esb_new(&x->f.host, x->f.pci, SLOT + 1, &x->devs[x->ndevs++], NULL));
	must(!device_make(x, kind, &made));
	x->devs[x->ndevs++] = made;
	x->keyboard = kind == DEVICE_I8042 ? made : NULL;
	if (kind <= DEVICE_RNG)
		driver_start(x);
	if (kind == DEVICE_VSOCK)
		vsock_client_make(x);
}

static void machine_free(struct run *x)
{
	for (unsigned i = 0; i < x->ndevs; i++)
		x->devs[i]->ops->free(x->devs[i]);
	for (unsigned i = 0; i < PORTS; i++) {
		console_free(x->consoles[i]);
		if (x->peers[i] >= 0)
			close(x->peers[i]);
		if (x->lent[i] >= 0)
			close(x->lent[i]);
	}
	if (x->block)
		block_close(x->block);
	if (x->cd)
		block_close(x->cd);
	if (x->view)
		munmap(x->view, PFLASH_BYTES);
	for (unsigned i = 0; i < 2; i++)
		if (x->files[i])
			close(x->files[i]);
	fx_done(&x->f);
}

/* Finish the disk's requests: in a VM its own thread does so while another one resets or pauses the device. */
static void disk_drain(struct run *x)
{
	while ((x->block && block_in_flight(x->block)) || (x->cd && block_in_flight(x->cd)))
		loop_run_once(x->f.host.loop, 1000000);
}

/* ---- steps ---- */

static uint64_t register_take(struct run *x)
{
	const uint64_t bases[] = { x->d.common, x->d.notify, x->d.isr, x->d.device, x->d.msix, FX_MMIO32, FX_ECAM };
	uint8_t which = take8(x);

	if (which % 8 == 7)
		return take(x, 8);
	return bases[which % 8] + (take(x, 2) & (which % 8 >= 5 ? 0xffff : 0x7f));
}

static void descriptor_put(struct run *x)
{
	struct drv_queue *q = &x->d.q[take8(x) % MAX(x->nqueues, 1u)];
	unsigned i = take8(x) % RING_SIZE;
	uint64_t gpa = take8(x) % 16 ? take(x, 2) << 4 : take(x, 8);
	uint32_t bytes = take8(x) % 4 ? (uint32_t)take(x, 1) : (uint32_t)take(x, 4);
	uint16_t flags = take8(x) & 7, next = take8(x) % (RING_SIZE + 1);

	if (x->nqueues)
		drv_desc(q, i, gpa, bytes, flags, next);
}

static void publish(struct run *x)
{
	struct drv_queue *q = &x->d.q[take8(x) % MAX(x->nqueues, 1u)];
	unsigned head = take8(x) % (RING_SIZE + 1);

	if (!x->nqueues)
		return;
	drv_publish(q, head);
	drv_kick(q);
}

static void memory_write(struct run *x)
{
	uint64_t gpa = take8(x) % 4 ? take(x, 2) << 2 : take(x, 3) % (FX_LOW_BYTES - 256);
	uint8_t bytes[256];
	size_t n = take_some(x, bytes, sizeof(bytes));

	memcpy(fx_ram(&x->f, gpa), bytes, n);
}

static void input_act(struct run *x)
{
	struct input_event ev = { .kind = take8(x) % 5, .down = take8(x) & 1, .code = take8(x), .x = (int32_t)take(x, 2),
		.y = (int32_t)take(x, 2) };

	if (ev.kind == INPUT_WHEEL)
		ev.x = (int8_t)ev.x;
	if (input_event_ok(&ev))
		i8042_input(x->keyboard, &ev);
	else
		i8042_release(x->keyboard);
}

/* Answer a request, mostly with its id. */
static void request_serve(struct run *x)
{
	static struct {
		struct share_header head;
		union {
			struct fuse_in_header in;
			uint8_t bytes[SHARE_FUSE_MAX];
		} fuse;
	} m;
	ssize_t n = recv(x->peers[0], &m, sizeof(m), MSG_DONTWAIT);
	size_t answer = take(x, 2) % sizeof(m);

	if (n < 0)
		return;
	must((size_t)n >= sizeof(m.head) + sizeof(m.fuse.in) && (size_t)n == sizeof(m.head) + m.fuse.in.len);
	if (take8(x) % 8)
		answer = MAX(answer, sizeof(m.head));
	else
		m.head.id = take8(x);
	(void)!send(x->peers[0], &m, MAX(answer, 1), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void peer_act(struct run *x)
{
	if (x->keyboard) {
		input_act(x);
		return;
	}
	if (x->screen) {
		screen_look(x);
		return;
	}
	if (x->serves) {
		request_serve(x);
		return;
	}

	int fd = x->peers[take8(x) % PORTS];
	uint8_t bytes[4096] = { 0 };
	size_t n = take_some(x, bytes, sizeof(bytes)), more = take(x, 2) % (sizeof(bytes) - n);

	if (fd < 0)
		return;
	while (recv(fd, bytes + n, sizeof(bytes) - n, MSG_DONTWAIT) > 0)
		;
	(void)!send(fd, bytes, n + more, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void state_check(struct run *x, struct device *d)
{
	struct fx_state first, second;

	if (d->ops->pause)
		d->ops->pause(d);
	fx_save(d, &first);
	must(!fx_load(d, &first));
	fx_save(d, &second);
	must(first.len == second.len && !memcmp(first.buf, second.buf, first.len));
	if (d->ops->resume)
		d->ops->resume(d);
	free(first.buf);
	free(second.buf);
	fx_run(&x->f, 1);
}

static void step(struct run *x)
{
	unsigned what = take8(x) % 12, size = 1u << (take8(x) & 3);
	uint64_t at;

	switch (what) {
	case 0:
	case 1:
		at = register_take(x);
		disk_drain(x);
		if (what)
			fx_read(&x->f, at, size);
		else
			fx_write(&x->f, at, size, take(x, size));
		return;
	case 2:
		at = take(x, 2);
		fx_out(&x->f, (uint16_t)at, MIN(size, 4u), (uint32_t)take(x, MIN(size, 4u)));
		return;
	case 3:
		fx_in(&x->f, (uint16_t)take(x, 2), MIN(size, 4u));
		return;
	case 4:
		at = take(x, 2);
		disk_drain(x);
		fx_cfg_write(&x->f, (x->screen ? SCREEN_SLOT : SLOT) + (at >> 8) % 2, at & 0xfc, MIN(size, 4u), (uint32_t)take(x, MIN(size, 4u)));
		return;
	case 5:
		memory_write(x);
		return;
	case 6:
		descriptor_put(x);
		return;
	case 7:
		publish(x);
		return;
	case 8:
		peer_act(x);
		return;
	case 9:
		disk_drain(x);
		if (size == 8)
			state_check(x, x->devs[x->ndevs - 1]);
		else if (size == 4)
			x->devs[x->ndevs - 1]->ops->reset(x->devs[x->ndevs - 1]);
		return;
	default:
		fx_run(&x->f, size);
		return;
	}
}

unsigned device_run(enum device_kind kind, const uint8_t *input, size_t len)
{
	struct run x = { .at = input, .left = len, .lent = { -1, -1 } };
	unsigned answered = 0;

	machine_make(&x, kind);
	for (unsigned i = 0; i < STEPS_MAX && x.left; i++)
		step(&x);
	fx_run(&x.f, 2);
	disk_drain(&x);
	for (unsigned q = 0; q < x.nqueues; q++)
		answered += drv_used_idx(&x.d.q[q]);
	for (unsigned i = 0; i < x.ndevs; i++)
		state_check(&x, x.devs[i]);
	disk_drain(&x);
	machine_free(&x);
	return answered;
}
