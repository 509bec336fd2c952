/* A batch of frames costs one doorbell, one turn of the loop and one interrupt. A packet socket stands for the tap. */
#include "fixture.h"

#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_net_header.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOT 4
#define RX 0
#define TX 1
#define FRAMES 64
#define BUF_BYTES 2048
#define PACKET_BYTES (NET_HEADER_BYTES + 60)

struct batch_test {
	struct fixture f;
	struct device *dev;
	struct drv d;
	int tap, their;
	uint64_t buf;
};

static void batch_begin(struct batch_test *t, uint64_t features)
{
	struct virtio_net_config c = { .name = "net0", .mac = { 0x52, 0x54, 0, 1, 2, 3 }, .slot = SLOT };
	int pair[2];

	fx_init(&t->f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	t->tap = pair[0];
	t->their = c.tap_fd = pair[1];
	c.loop = t->f.host.loop;
	assert_int_equal(virtio_net_new(&t->f.host, t->f.pci, &c, &t->dev, NULL), 0);
	drv_init(&t->d, &t->f, SLOT, features, true);
	drv_queue_setup(&t->d, RX, FRAMES);
	drv_queue_setup(&t->d, TX, FRAMES);
	drv_ok(&t->d);
	t->buf = fx_alloc(&t->f, FRAMES * BUF_BYTES, 4096);
	fx_run(&t->f, 3);
}

static void batch_end(struct batch_test *t)
{
	t->dev->ops->free(t->dev);
	fx_run(&t->f, 2);
	close(t->tap);
	close(t->their);
	fx_done(&t->f);
}

/* Add a batch to a queue, and ring the doorbell for each buffer for which the device wants it. Returns the number of
 * doorbells. */
static unsigned batch_add(struct batch_test *t, unsigned q, uint32_t bytes, bool writable)
{
	unsigned rung = 0;

	for (unsigned i = 0; i < FRAMES; i++) {
		struct drv_sg sg = { t->buf + i * BUF_BYTES, bytes, writable };
		uint16_t old = t->d.q[q].avail_idx;

		drv_add(&t->d.q[q], &sg, 1, false);
		if (!drv_wants_kick(&t->d.q[q], old))
			continue;
		drv_kick(&t->d.q[q]);
		rung++;
	}
	return rung;
}

/* Run the loop until the end of the first turn that completes something. */
static void turn_that_completes(struct batch_test *t, unsigned q)
{
	for (unsigned i = 0; i < 1000 && !drv_used_idx(&t->d.q[q]); i++)
		loop_run_once(t->f.host.loop, 10000000);
}

static unsigned packets_read(struct batch_test *t)
{
	uint8_t got[256];
	unsigned n = 0;

	while (read(t->tap, got, sizeof(got)) == PACKET_BYTES)
		n++;
	return n;
}

static void batch_from_guest_costs_one_doorbell_and_one_interrupt(void **state)
{
	struct batch_test t = { 0 };
	unsigned msi;

	(void)state;
	batch_begin(&t, ~0ULL);
	msi = t.f.nmsi;
	assert_int_equal(batch_add(&t, TX, PACKET_BYTES, false), 1);
	assert_int_equal(drv_used_idx(&t.d.q[TX]), 0);
	turn_that_completes(&t, TX);
	assert_int_equal(drv_used_idx(&t.d.q[TX]), FRAMES); /* all in the turn that found the doorbell */
	fx_run(&t.f, 5);
	assert_int_equal(t.f.nmsi, msi + 1);
	assert_int_equal(packets_read(&t), FRAMES);
	batch_end(&t);
}

static void batch_to_guest_costs_one_wake_up_and_one_interrupt(void **state)
{
	static const uint8_t packet[PACKET_BYTES];
	struct batch_test t = { 0 };
	unsigned msi;

	(void)state;
	batch_begin(&t, ~0ULL);
	batch_add(&t, RX, BUF_BYTES, true);
	fx_run(&t.f, 5);
	msi = t.f.nmsi;
	for (unsigned i = 0; i < FRAMES; i++)
		assert_int_equal(write(t.tap, packet, sizeof(packet)), PACKET_BYTES);
	turn_that_completes(&t, RX);
	assert_int_equal(drv_used_idx(&t.d.q[RX]), FRAMES); /* all in the turn that found the tap readable */
	fx_run(&t.f, 5);
	assert_int_equal(t.f.nmsi, msi + 1);
	batch_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(batch_from_guest_costs_one_doorbell_and_one_interrupt),
		cmocka_unit_test(batch_to_guest_costs_one_wake_up_and_one_interrupt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
