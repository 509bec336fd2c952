/* The limits of a disk, with a simulated clock and a guest that always has more requests. */
#include "base/util.h"
#include "devices/virtio/disk_throttle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SECOND 1000000000ULL

/* Submit requests of one kind whenever they may pass, until `until_ns`. Returns how many. */
static uint64_t flow(struct disk_throttle *t, enum block_op op, uint64_t len, uint64_t *now_ns, uint64_t until_ns)
{
	enum disk_limit kind = disk_throttle_kind(op);
	uint64_t n = 0;

	while (*now_ns < until_ns) {
		uint64_t wait_ns = MAX(disk_throttle_wait(t, DISK_LIMIT_ALL, *now_ns), disk_throttle_wait(t, kind, *now_ns));

		if (wait_ns) {
			*now_ns += wait_ns;
			continue;
		}
		disk_throttle_take(t, op, len);
		n++;
	}
	*now_ns = until_ns;
	return n;
}

#define assert_within(n, want, percent) \
	assert_in_range(n, (uint64_t)(want) * (100 - (percent)) / 100, (uint64_t)(want) * (100 + (percent)) / 100)

static void limit_holds_within_five_percent(void **state)
{
	struct virtio_blk_limits l = { .iops[DISK_LIMIT_ALL].rate = 400 };
	struct disk_throttle t = { 0 };
	uint64_t now = 1;

	(void)state;
	disk_throttle_set(&t, &l, now);
	assert_within(flow(&t, BLOCK_READ, 4096, &now, 10 * SECOND), 4000, 2);
	l = (struct virtio_blk_limits){ .bps[DISK_LIMIT_WRITE].rate = 1 << 20 };
	disk_throttle_set(&t, &l, now);
	assert_within(flow(&t, BLOCK_WRITE, 16384, &now, 20 * SECOND) * 16384, 10 << 20, 2);
}

/* After a rest, `max` a second for max_s seconds, and then `rate`; again after another rest. */
static void burst_lasts_as_long_as_said(void **state)
{
	struct virtio_blk_limits l = { .iops[DISK_LIMIT_ALL] = { .rate = 100, .max = 1000, .max_s = 3 } };
	struct disk_throttle t = { 0 };
	uint64_t now = SECOND;

	(void)state;
	disk_throttle_set(&t, &l, now);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t begin = now;

		assert_within(flow(&t, BLOCK_WRITE, 512, &now, begin + 3 * SECOND), 3000, 5);
		assert_within(flow(&t, BLOCK_WRITE, 512, &now, begin + 13 * SECOND), 1000, 5);
		now += 30 * SECOND; /* 2,700 requests that may come faster need 27 s */
	}
	/* One second is the default. */
	l.iops[DISK_LIMIT_ALL].max_s = 0;
	t = (struct disk_throttle){ 0 };
	disk_throttle_set(&t, &l, now);
	assert_within(flow(&t, BLOCK_FLUSH, 0, &now, now + 2 * SECOND), 1100, 5);
}

static void burst_of_bytes(void **state)
{
	struct virtio_blk_limits l = { .bps[DISK_LIMIT_READ] = { .rate = 1 << 20, .max = 10 << 20, .max_s = 2 } };
	struct disk_throttle t = { 0 };
	uint64_t now = SECOND;

	(void)state;
	disk_throttle_set(&t, &l, now);
	assert_within(flow(&t, BLOCK_READ, 65536, &now, 3 * SECOND) * 65536, 20 << 20, 5);
	assert_within(flow(&t, BLOCK_READ, 65536, &now, 13 * SECOND) * 65536, 10 << 20, 5);
}

static void reads_and_writes_have_limits_of_their_own(void **state)
{
	struct virtio_blk_limits l = { .iops[DISK_LIMIT_READ].rate = 50, .iops[DISK_LIMIT_WRITE].rate = 500 };
	struct disk_throttle t = { 0 };
	uint64_t now = 1;

	(void)state;
	disk_throttle_set(&t, &l, now);
	assert_within(flow(&t, BLOCK_READ, 512, &now, 10 * SECOND), 500, 2);
	assert_within(flow(&t, BLOCK_WRITE, 512, &now, 20 * SECOND), 5000, 2);
	assert_int_equal(disk_throttle_kind(BLOCK_DISCARD), DISK_LIMIT_WRITE);
	assert_int_equal(disk_throttle_kind(BLOCK_WRITE_ZEROES), DISK_LIMIT_WRITE);
	/* A flush has neither limit. */
	assert_int_equal(disk_throttle_wait(&t, disk_throttle_kind(BLOCK_FLUSH), now), 0);
}

static void large_request_counts_as_several(void **state)
{
	struct virtio_blk_limits l = { .iops[DISK_LIMIT_ALL].rate = 100, .iops_bytes = 4096 };
	struct disk_throttle t = { 0 };
	uint64_t now = 1;

	(void)state;
	disk_throttle_set(&t, &l, now);
	assert_within(flow(&t, BLOCK_READ, 16384, &now, 20 * SECOND), 500, 2);
	assert_within(flow(&t, BLOCK_READ, 16385, &now, 40 * SECOND), 400, 2);
	assert_within(flow(&t, BLOCK_READ, 512, &now, 60 * SECOND), 2000, 2);
	assert_within(flow(&t, BLOCK_DISCARD, 1 << 20, &now, 80 * SECOND), 2000, 2); /* has no bytes */
}

static void change_gives_no_burst(void **state)
{
	struct virtio_blk_limits l = { .iops[DISK_LIMIT_ALL] = { .rate = 100, .max = 1000 } };
	struct disk_throttle t = { 0 };
	uint64_t now = 1;

	(void)state;
	disk_throttle_set(&t, &l, now);
	flow(&t, BLOCK_READ, 512, &now, 5 * SECOND);
	for (unsigned i = 0; i < 5; i++)
		disk_throttle_set(&t, &l, now);
	assert_within(flow(&t, BLOCK_READ, 512, &now, 15 * SECOND), 1000, 5);
	assert_true(t.any && !t.any_one_way);
	disk_throttle_set(&t, &(struct virtio_blk_limits){ 0 }, now);
	assert_false(t.any);
	assert_int_equal(disk_throttle_wait(&t, DISK_LIMIT_ALL, now), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limit_holds_within_five_percent),
		cmocka_unit_test(burst_lasts_as_long_as_said),
		cmocka_unit_test(burst_of_bytes),
		cmocka_unit_test(reads_and_writes_have_limits_of_their_own),
		cmocka_unit_test(large_request_counts_as_several),
		cmocka_unit_test(change_gives_no_burst),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
