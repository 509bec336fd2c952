/* The tablet: what its driver reads and is told, input without a driver or without room, and saved states. */
#include "tests/unit/devices/fixture.h"

#include "base/bytes.h"
#include "base/display.h"
#include "base/util.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_input.h"

#include <errno.h>
#include <linux/input-event-codes.h>
#include <stdlib.h>
#include <string.h>

#define SLOT 3
#define EVENTS 0
#define STATUS 1
#define ROOM 32

struct bench {
	struct fixture f;
	struct device *dev;
	struct drv d;
	uint64_t buffers;
	unsigned nbuffers;
};

struct event {
	uint16_t type, code;
	int32_t value;
};

static void bench_init(struct bench *b, bool driver)
{
	memset(b, 0, sizeof(*b));
	fx_init(&b->f);
	assert_int_equal(virtio_input_new(&b->f.host, b->f.pci, "tablet0", SLOT, &b->dev, NULL), 0);
	b->buffers = fx_alloc(&b->f, 64 * KIB, 4096);
	if (!driver)
		return;
	drv_init(&b->d, &b->f, SLOT, 0, true);
	for (unsigned q = 0; q < 2; q++)
		drv_queue_setup(&b->d, q, 64);
	drv_ok(&b->d);
}

static void bench_done(struct bench *b)
{
	b->dev->ops->free(b->dev);
	fx_done(&b->f);
}

/* Give the device room for n events. */
static void room_add(struct bench *b, unsigned n, uint32_t bytes)
{
	for (unsigned i = 0; i < n; i++) {
		struct drv_sg sg = { b->buffers + 16 * b->nbuffers++, bytes, true };

		drv_add(&b->d.q[EVENTS], &sg, 1, false);
	}
	drv_kick(&b->d.q[EVENTS]);
	fx_run(&b->f, 4);
}

/* Compare the events in the buffers from `first` on. */
static void events_check(struct bench *b, unsigned first, const struct event *want, unsigned n)
{
	fx_run(&b->f, 4);
	assert_int_equal(drv_used_idx(&b->d.q[EVENTS]), first + n);
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *p = fx_ram(&b->f, b->buffers + 16 * (first + i));

		assert_int_equal(load_le16(p), want[i].type);
		assert_int_equal(load_le16(p + 2), want[i].code);
		assert_int_equal((int32_t)load_le32(p + 4), want[i].value);
	}
}

static void send(struct bench *b, enum input_kind kind, unsigned code, bool down, int x, int y)
{
	struct input_event ev = { .kind = (uint8_t)kind, .code = (uint16_t)code, .down = down, .x = x, .y = y };

	virtio_input_event(b->dev, &ev);
}

static void test_driver_is_told_what_changes(void **state)
{
	static const struct event want[] = { { EV_ABS, ABS_X, 7 }, { EV_ABS, ABS_Y, 32767 }, { EV_SYN, 0, 0 }, { EV_KEY, BTN_RIGHT, 1 },
		{ EV_SYN, 0, 0 }, { EV_KEY, BTN_RIGHT, 0 }, { EV_SYN, 0, 0 }, { EV_REL, REL_WHEEL, -2 }, { EV_SYN, 0, 0 } };
	struct bench b;

	(void)state;
	bench_init(&b, true);
	assert_true(virtio_input_takes(b.dev));
	room_add(&b, ROOM, 8);
	send(&b, INPUT_POINT, 0, false, 7, 65535);
	send(&b, INPUT_POINT, 0, false, 7, 65535); /* nothing new */
	send(&b, INPUT_BUTTON, INPUT_RIGHT, true, 0, 0);
	virtio_input_release(b.dev);
	send(&b, INPUT_WHEEL, 0, false, -2, 0);
	events_check(&b, 0, want, ARRAY_SIZE(want));
	bench_done(&b);
}

/* The driver is told of the state, not of what came meanwhile. */
static void test_input_waits_for_room(void **state)
{
	static const struct event want[] = { { EV_ABS, ABS_X, 999 }, { EV_KEY, BTN_LEFT, 1 }, { EV_SYN, 0, 0 } };
	struct bench b;

	(void)state;
	bench_init(&b, true);
	for (int i = 0; i < 1000; i++)
		send(&b, INPUT_POINT, 0, false, i, 0);
	send(&b, INPUT_BUTTON, INPUT_LEFT, true, 0, 0);
	room_add(&b, 2, 8);
	assert_int_equal(drv_used_idx(&b.d.q[EVENTS]), 0);
	room_add(&b, 1, 8);
	events_check(&b, 0, want, ARRAY_SIZE(want));
	bench_done(&b);
}

static void test_without_a_driver_nothing_is_taken(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, false);
	assert_false(virtio_input_takes(b.dev));
	send(&b, INPUT_POINT, 0, false, 5, 5);
	bench_done(&b);
}

/* Too small, or not writable: no more of the event than fits, and nothing else. */
static void test_bad_buffers_do_no_harm(void **state)
{
	struct drv_sg readable = { 0, 8, false };
	struct bench b;

	(void)state;
	bench_init(&b, true);
	memset(fx_ram(&b.f, b.buffers), 0xee, 64);
	room_add(&b, 2, 3);
	readable.gpa = b.buffers + 48;
	drv_add(&b.d.q[EVENTS], &readable, 1, false);
	drv_add(&b.d.q[STATUS], &readable, 1, false);
	drv_kick(&b.d.q[EVENTS]);
	drv_kick(&b.d.q[STATUS]);
	send(&b, INPUT_POINT, 0, false, 5, 5);
	fx_run(&b.f, 4);
	assert_int_equal(drv_used_idx(&b.d.q[EVENTS]), 3);
	assert_int_equal(drv_used_idx(&b.d.q[STATUS]), 1);
	assert_int_equal(*(uint8_t *)fx_ram(&b.f, b.buffers + 2), 0);
	assert_int_equal(*(uint8_t *)fx_ram(&b.f, b.buffers + 3), 0xee);
	assert_int_equal(*(uint8_t *)fx_ram(&b.f, b.buffers + 48), 0xee);
	bench_done(&b);
}

/* A load releases the buttons, and keeps the place. */
static void test_saved_state(void **state)
{
	static const struct event want[] = { { EV_KEY, BTN_LEFT, 0 }, { EV_SYN, 0, 0 } };
	struct fx_state s;
	struct bench b;

	(void)state;
	bench_init(&b, true);
	room_add(&b, ROOM, 8);
	send(&b, INPUT_POINT, 0, false, 5, 6);
	send(&b, INPUT_BUTTON, INPUT_LEFT, true, 0, 0);
	b.dev->ops->pause(b.dev);
	fx_save(b.dev, &s);
	assert_int_equal(fx_load(b.dev, &s), 0);
	b.dev->ops->resume(b.dev);
	events_check(&b, 5, want, ARRAY_SIZE(want));
	fx_state_test(&b.f, b.dev, 200);
	free(s.buf);
	bench_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_driver_is_told_what_changes),
		cmocka_unit_test(test_input_waits_for_room),
		cmocka_unit_test(test_without_a_driver_nothing_is_taken),
		cmocka_unit_test(test_bad_buffers_do_no_harm),
		cmocka_unit_test(test_saved_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
