/* A network interface with several pairs of queues. A packet socket stands for each queue of the tap. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/virtio/net_filter.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_net_header.h"
#include "snapshot/state.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOT 4
#define PAIRS 4
#define RX(pair) (2 * (pair))
#define TX(pair) (2 * (pair) + 1)
#define ALL (~0ULL)
#define OK 0
#define REFUSED 1
#define FRAME_BYTES 60

struct net_test {
	struct fixture f;
	struct device *dev;
	struct drv d;
	unsigned ctrl; /* the control queue */
	int tap[PAIRS], their[PAIRS];
	uint64_t buf;
	unsigned offered; /* buffers for received frames */
};

/* The queues of the tap, by their files, as last set in the kernel. */
static struct {
	int fds[PAIRS];
	bool detached[PAIRS];
	unsigned calls;
	int refuse; /* errno for the next one that attaches; 0: none */
} tap;

int __wrap_ioctl(int fd, unsigned long request, ...);

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	const struct ifreq *r;
	va_list ap;

	va_start(ap, request);
	r = va_arg(ap, const struct ifreq *);
	va_end(ap);
	for (unsigned i = 0; i < PAIRS && request == TUNSETQUEUE; i++) {
		bool detach = r->ifr_flags & IFF_DETACH_QUEUE;

		if (tap.fds[i] != fd)
			continue;
		tap.calls++;
		errno = tap.detached[i] == detach ? EINVAL : detach ? 0 : tap.refuse;
		if (errno)
			return -1;
		tap.detached[i] = detach;
	}
	return 0;
}

static void net_new(struct net_test *t, unsigned pairs)
{
	struct virtio_net_config c = { .name = "net0", .mac = { 0x52, 0x54, 0, 1, 2, 3 }, .pairs = pairs, .slot = SLOT };

	fx_init(&t->f);
	memset(&tap, 0, sizeof(tap));
	for (unsigned i = 0; i < PAIRS; i++) {
		int pair[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
		t->tap[i] = pair[0];
		t->their[i] = tap.fds[i] = pair[1];
		*(i ? &c.more_fds[i - 1] : &c.tap_fd) = pair[1];
	}
	c.loop = t->f.host.loop;
	assert_int_equal(virtio_net_new(&t->f.host, t->f.pci, &c, &t->dev, NULL), 0);
}

static void driver_begin(struct net_test *t, uint64_t features)
{
	drv_init(&t->d, &t->f, SLOT, features, true);
	t->ctrl = features & NET_F_MQ ? 2 * PAIRS : 2;
	for (unsigned q = 0; q <= t->ctrl; q++)
		drv_queue_setup(&t->d, q, 16);
	drv_ok(&t->d);
	fx_run(&t->f, 3);
}

static void net_begin(struct net_test *t, uint64_t features)
{
	net_new(t, PAIRS);
	t->buf = fx_alloc(&t->f, 1 << 20, 4096);
	driver_begin(t, features);
}

static void net_end(struct net_test *t)
{
	t->dev->ops->free(t->dev);
	fx_run(&t->f, 2);
	for (unsigned i = 0; i < PAIRS; i++) {
		close(t->tap[i]);
		close(t->their[i]);
	}
	fx_done(&t->f);
}

/* Put a command into the control queue. */
static void command_send(struct net_test *t, uint8_t class, uint8_t cmd, const void *data, uint32_t bytes)
{
	struct drv_sg sg[] = { { t->buf, 2 + bytes, false }, { t->buf + 8192, 1, true } };
	uint8_t *p = fx_ram(&t->f, t->buf);

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, bytes);
	p[8192] = 0x77;
	drv_add(&t->d.q[t->ctrl], sg, 2, false);
	drv_kick(&t->d.q[t->ctrl]);
}

static uint8_t command(struct net_test *t, uint8_t class, uint8_t cmd, const void *data, uint32_t bytes)
{
	uint32_t len;

	command_send(t, class, cmd, data, bytes);
	drv_wait(&t->d.q[t->ctrl], &len);
	return *(uint8_t *)fx_ram(&t->f, t->buf + 8192);
}

static uint8_t pairs_set(struct net_test *t, uint16_t pairs)
{
	uint8_t raw[2];

	store_le16(raw, pairs);
	return command(t, NET_CLASS_MQ, 0, raw, sizeof(raw));
}

/* Returns whether the guest gets a frame that comes by this queue of the tap. */
static bool arrives(struct net_test *t, unsigned pair)
{
	uint8_t packet[NET_HEADER_BYTES + FRAME_BYTES] = { [NET_HEADER_BYTES] = 0xff };
	struct drv_sg sg = { t->buf + 65536 + 2048 * (t->offered++ % 8), 2048, true };
	uint16_t before = drv_used_idx(&t->d.q[RX(pair)]);

	drv_add(&t->d.q[RX(pair)], &sg, 1, false);
	drv_kick(&t->d.q[RX(pair)]);
	assert_int_equal(write(t->tap[pair], packet, sizeof(packet)), sizeof(packet));
	fx_run(&t->f, 5);
	return drv_used_idx(&t->d.q[RX(pair)]) != before;
}

/* Let the guest send a frame by this pair. Returns the queue of the tap that takes it. */
static int leaves_by(struct net_test *t, unsigned pair)
{
	struct drv_sg sg = { t->buf + 16384, NET_HEADER_BYTES + FRAME_BYTES, false };
	uint8_t packet[256];
	uint32_t len;

	memset(fx_ram(&t->f, t->buf + 16384), 0, NET_HEADER_BYTES + FRAME_BYTES);
	drv_add(&t->d.q[TX(pair)], &sg, 1, false);
	drv_kick(&t->d.q[TX(pair)]);
	drv_wait(&t->d.q[TX(pair)], &len);
	for (int i = 0; i < PAIRS; i++)
		if (read(t->tap[i], packet, sizeof(packet)) > 0)
			return i;
	return -1;
}

static uint32_t features_low(struct net_test *t)
{
	fx_write(&t->f, t->d.common, 4, 0);
	return (uint32_t)fx_read(&t->f, t->d.common + 4, 4);
}

static void one_pair_looks_as_ever(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_new(&t, 1);
	drv_init(&t.d, &t.f, SLOT, ALL, true);
	assert_int_equal(features_low(&t) & NET_F_MQ, 0);
	assert_int_equal(fx_read(&t.f, t.d.common + 18, 2), 3);
	assert_int_equal(fx_read(&t.f, t.d.device + 8, 2), 0);
	net_end(&t);
	assert_int_equal(tap.calls, 0);
}

static void driver_uses_one_pair_until_it_asks_for_more(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(fx_read(&t.f, t.d.common + 18, 2), 2 * PAIRS + 1);
	assert_int_equal(fx_read(&t.f, t.d.device + 8, 2), PAIRS);
	assert_true(tap.detached[1] && tap.detached[2] && tap.detached[3] && !tap.detached[0]);
	assert_true(arrives(&t, 0));
	assert_false(arrives(&t, 1));
	assert_int_equal(leaves_by(&t, 0), 0);
	/* Frames that the driver sends on a disabled pair are not lost. */
	assert_int_equal(leaves_by(&t, 2), 0);
	assert_int_equal(pairs_set(&t, 3), OK);
	assert_true(!tap.detached[1] && !tap.detached[2] && tap.detached[3]);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(arrives(&t, i));
		assert_int_equal(leaves_by(&t, i), i);
	}
	assert_false(arrives(&t, 3));
	assert_int_equal(pairs_set(&t, 3), OK);
	net_end(&t);
}

static void invalid_numbers_of_pairs_are_refused(void **state)
{
	static const uint16_t wrong[] = { 0, PAIRS + 1, 0x8000, 0xffff };
	struct net_test t = { 0 };
	unsigned calls;

	(void)state;
	net_begin(&t, ALL);
	calls = tap.calls;
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(pairs_set(&t, wrong[i]), REFUSED);
	assert_int_equal(command(&t, NET_CLASS_MQ, 0, (uint8_t[3]){ 2 }, 3), REFUSED);
	assert_int_equal(command(&t, NET_CLASS_MQ, 0, (uint8_t[3]){ 2 }, 1), REFUSED);
	for (unsigned cmd = 1; cmd < 4; cmd++) /* 1 and 2: RSS and hash reports, which are not offered */
		assert_int_equal(command(&t, NET_CLASS_MQ, (uint8_t)cmd, (uint8_t[2]){ 2 }, 2), REFUSED);
	assert_int_equal(tap.calls, calls);
	assert_true(arrives(&t, 0));
	assert_false(arrives(&t, 1));
	assert_int_equal(drv_status(&t.d), 15);
	net_end(&t);
}

static void without_the_feature_the_third_queue_has_the_commands(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL & ~NET_F_MQ);
	assert_int_equal(pairs_set(&t, 2), REFUSED);
	assert_int_equal(command(&t, NET_CLASS_RX, NET_RX_PROMISC, (uint8_t[1]){ 0 }, 1), OK);
	assert_true(tap.detached[1]);
	/* Queues that do not exist for such a driver are not served. */
	drv_queue_setup(&t.d, 3, 16);
	drv_kick(&t.d.q[3]);
	fx_run(&t.f, 3);
	assert_int_equal(drv_status(&t.d), 15);
	net_end(&t);
}

static void host_that_refuses_a_queue_keeps_the_number(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL);
	tap.refuse = E2BIG;
	assert_int_equal(pairs_set(&t, 2), REFUSED);
	assert_true(arrives(&t, 0));
	assert_false(arrives(&t, 1));
	assert_int_equal(leaves_by(&t, 1), 0);
	net_end(&t);
}

/* Each change takes a lock that all of the host's network devices share, so a guest cannot hold it. */
static void changes_that_follow_one_another_wait(void **state)
{
	struct net_test t = { 0 };
	uint8_t raw[2] = { 2 };
	uint32_t len;

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(pairs_set(&t, 4), OK);
	command_send(&t, NET_CLASS_MQ, 0, raw, sizeof(raw));
	fx_run(&t.f, 5);
	assert_int_equal(*(uint8_t *)fx_ram(&t.f, t.buf + 8192), 0x77);
	assert_false(tap.detached[2]);
	drv_wait(&t.d.q[t.ctrl], &len);
	assert_int_equal(*(uint8_t *)fx_ram(&t.f, t.buf + 8192), OK);
	assert_true(tap.detached[2] && tap.detached[3] && !tap.detached[1]);
	assert_false(arrives(&t, 2));
	net_end(&t);
}

static void reset_ends_the_use_of_pairs(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(pairs_set(&t, 4), OK);
	assert_true(arrives(&t, 3));
	fx_write(&t.f, t.d.common + 20, 1, 0);
	driver_begin(&t, ALL);
	assert_true(tap.detached[1] && tap.detached[2] && tap.detached[3]);
	assert_true(arrives(&t, 0));
	assert_false(arrives(&t, 3));
	net_end(&t);
}

static void timer_rings(void *opaque)
{
	*(bool *)opaque = true;
}

/* A frame waits for the queue of a driver that has given up the queue: the loop must sleep all the same. */
static void frame_for_a_queue_that_is_gone_keeps_nobody_busy(void **state)
{
	struct net_test t = { 0 };
	struct loop_timer *timer;
	unsigned rounds = 0;
	bool rang = false;

	(void)state;
	net_begin(&t, ALL);
	assert_true(arrives(&t, 0));
	fx_write(&t.f, t.d.common + 20, 1, 0);
	drv_init(&t.d, &t.f, SLOT, ALL, true);
	drv_queue_setup(&t.d, TX(0), 16);
	drv_ok(&t.d);
	assert_int_equal(write(t.tap[0], (uint8_t[NET_HEADER_BYTES + FRAME_BYTES]){ 0 }, NET_HEADER_BYTES + FRAME_BYTES),
		NET_HEADER_BYTES + FRAME_BYTES);
	assert_int_equal(loop_timer_new(t.f.host.loop, timer_rings, &rang, &timer), 0);
	loop_timer_arm(timer, loop_now_ns() + 50000000);
	for (; !rang; rounds++)
		loop_run_once(t.f.host.loop, UINT64_MAX);
	assert_in_range(rounds, 1, 50);
	loop_timer_free(timer);
	net_end(&t);
}

static void broken_queue_of_a_pair_stops_commands(void **state)
{
	struct net_test t = { 0 };
	struct drv_sg sg;
	unsigned calls;

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(pairs_set(&t, 2), OK);
	sg = (struct drv_sg){ t.buf, 4, false }; /* a frame without a header */
	drv_add(&t.d.q[TX(1)], &sg, 1, false);
	drv_kick(&t.d.q[TX(1)]);
	fx_run(&t.f, 3);
	assert_true(drv_status(&t.d) & VIRTIO_STATUS_NEEDS_RESET);
	calls = tap.calls;
	command_send(&t, NET_CLASS_MQ, 0, (uint8_t[2]){ 4 }, 2);
	fx_run(&t.f, 5);
	assert_int_equal(*(uint8_t *)fx_ram(&t.f, t.buf + 8192), 0x77);
	assert_int_equal(tap.calls, calls);
	fx_write(&t.f, t.d.common + 20, 1, 0);
	driver_begin(&t, ALL);
	assert_true(arrives(&t, 0));
	net_end(&t);
}

/* A pair that the driver uses although it has not enabled the pair's queues, or has given them odd sizes. */
static void queues_that_are_not_set_up_harm_nobody(void **state)
{
	struct net_test t = { 0 };
	struct drv_sg sg;

	(void)state;
	net_new(&t, PAIRS);
	t.buf = fx_alloc(&t.f, 1 << 20, 4096);
	drv_init(&t.d, &t.f, SLOT, ALL, true);
	t.ctrl = 2 * PAIRS;
	drv_queue_setup(&t.d, RX(0), 1);
	drv_queue_setup(&t.d, TX(0), 256);
	drv_queue_setup(&t.d, TX(3), 2);
	drv_queue_setup(&t.d, t.ctrl, 4);
	drv_ok(&t.d);
	fx_run(&t.f, 3);
	assert_int_equal(pairs_set(&t, 4), OK);
	for (unsigned i = 0; i < PAIRS; i++)
		assert_int_equal(write(t.tap[i], (uint8_t[NET_HEADER_BYTES + FRAME_BYTES]){ 0 }, NET_HEADER_BYTES + FRAME_BYTES),
			NET_HEADER_BYTES + FRAME_BYTES);
	fx_run(&t.f, 5);
	sg = (struct drv_sg){ t.buf + 65536, 2048, true };
	drv_add(&t.d.q[RX(0)], &sg, 1, false);
	drv_kick(&t.d.q[RX(0)]);
	fx_run(&t.f, 5);
	assert_int_equal(drv_used_idx(&t.d.q[RX(0)]), 1);
	assert_int_equal(leaves_by(&t, 3), 3);
	assert_int_equal(drv_status(&t.d), 15);
	net_end(&t);
}

static void state_has_the_number_of_pairs(void **state)
{
	struct net_test t = { 0 };
	struct fx_state s;
	unsigned calls;

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(pairs_set(&t, 3), OK);
	fx_state_test(&t.f, t.dev, 2000);
	fx_run(&t.f, 3);
	assert_true(!tap.detached[1] && !tap.detached[2] && tap.detached[3]);
	assert_true(arrives(&t, 2));
	t.dev->ops->pause(t.dev);
	fx_save(t.dev, &s);
	/* The last two bytes of the state are the number. */
	for (unsigned wrong = 0; wrong <= 0xff; wrong += 5) {
		s.buf[s.len - 2] = (uint8_t)wrong;
		assert_int_equal(fx_load(t.dev, &s) < 0, !wrong || wrong > PAIRS);
	}
	/* A revert to a state with one pair detaches the others. */
	s.buf[s.len - 2] = 1;
	assert_int_equal(fx_load(t.dev, &s), 0);
	calls = tap.calls;
	t.dev->ops->resume(t.dev);
	fx_run(&t.f, 3);
	assert_true(tap.calls > calls && tap.detached[1] && tap.detached[2]);
	assert_false(arrives(&t, 2));
	assert_true(arrives(&t, 0));
	free(s.buf);
	net_end(&t);
}

static void state_of_another_number_is_refused(void **state)
{
	struct net_test t = { 0 }, other = { 0 };
	struct state_reader r = { 0 };
	struct fx_state s;
	struct err e;

	(void)state;
	net_begin(&t, ALL);
	t.dev->ops->pause(t.dev);
	fx_save(t.dev, &s);
	net_end(&t);
	net_new(&other, 2);
	r.buf = s.buf;
	r.len = s.len;
	assert_int_equal(other.dev->ops->load(other.dev, &r, 2, &e), -EINVAL);
	assert_string_equal(e.msg, "net0: the state has 4 pairs of queues and the definition 2; set \"queues\" of the interface to 4, "
		"or drop the state with cairn start --force-boot");
	net_end(&other);
	free(s.buf);
}

static void lost_tap_ends_all_pairs(void **state)
{
	struct net_test t = { 0 };
	struct virtio_net_stats s;
	struct drv_sg sg;

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(pairs_set(&t, 4), OK);
	assert_true(arrives(&t, 2));
	sg = (struct drv_sg){ t.buf + 65536, 2048, true };
	drv_add(&t.d.q[RX(2)], &sg, 1, false);
	drv_kick(&t.d.q[RX(2)]);
	close(t.tap[2]);
	fx_run(&t.f, 5);
	virtio_net_stats(t.dev, &s);
	assert_false(s.link_up);
	assert_int_equal(fx_count_events(&t.f, DEV_EVENT_LINK_LOST), 1);
	assert_int_equal(leaves_by(&t, 3), -1);
	t.tap[2] = dup(t.tap[1]);
	net_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_pair_looks_as_ever),
		cmocka_unit_test(driver_uses_one_pair_until_it_asks_for_more),
		cmocka_unit_test(invalid_numbers_of_pairs_are_refused),
		cmocka_unit_test(without_the_feature_the_third_queue_has_the_commands),
		cmocka_unit_test(host_that_refuses_a_queue_keeps_the_number),
		cmocka_unit_test(changes_that_follow_one_another_wait),
		cmocka_unit_test(reset_ends_the_use_of_pairs),
		cmocka_unit_test(frame_for_a_queue_that_is_gone_keeps_nobody_busy),
		cmocka_unit_test(broken_queue_of_a_pair_stops_commands),
		cmocka_unit_test(queues_that_are_not_set_up_harm_nobody),
		cmocka_unit_test(state_has_the_number_of_pairs),
		cmocka_unit_test(state_of_another_number_is_refused),
		cmocka_unit_test(lost_tap_ends_all_pairs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
