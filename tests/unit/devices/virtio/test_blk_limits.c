/* Limits of a disk (iops and bps), with a clock that stands still. */
#include "blk_fixture.h"

/* The clock stands at this time; 0: the real one. */
static uint64_t clock_ns;
static unsigned clock_reads;
/* How far the clock stands behind the one of the loop's timers: these fire early then, each time the loop runs. */
static uint64_t clock_lag_ns;

uint64_t __real_loop_now_ns(void);
uint64_t __wrap_loop_now_ns(void);

uint64_t __wrap_loop_now_ns(void)
{
	clock_reads++;
	return clock_ns ? clock_ns : __real_loop_now_ns();
}

#define MS 1000000ULL
#define RING 16 /* disk_start()'s */

/* Begin with a standing clock. */
static void clock_begin(struct blk_test *t, struct virtio_blk_config *c)
{
	clock_ns = __real_loop_now_ns() - clock_lag_ns;
	disk_new(t, c);
	disk_start(t, c, ALL);
}

/* The same with full rings: requests of 1 KiB, of which each uses one descriptor. */
static void limited_begin(struct blk_test *t, struct virtio_blk_config *c)
{
	clock_begin(t, c);
	for (unsigned q = 0; q < MAX(c->queues, 1u); q++)
		for (unsigned i = 0; i < RING; i++)
			submit(t, q, (q * RING + i) % 64, 1, 2 * i, t->data + 1024 * i, 1024);
	fx_run(&t->f, 20);
}

static void limited_end(struct blk_test *t)
{
	disk_end(t);
	clock_ns = 0;
}

static uint64_t written(struct blk_test *t)
{
	struct virtio_blk_stats s;

	virtio_blk_stats(t->dev, &s);
	return s.wr_reqs;
}

/* Set the standing clock on, and run the loop until the timer has fired. */
static void clock_on(struct blk_test *t, uint64_t ns)
{
	clock_ns += ns;
	while (__real_loop_now_ns() < clock_ns + 2 * MS)
		fx_run(&t->f, 1);
	fx_run(&t->f, 20);
}

/* Reset the disk, and have a new driver write by request 50. */
static void reset_and_write(struct blk_test *t)
{
	t->dev->ops->reset(t->dev);
	drv_init(&t->d, &t->f, SLOT, ALL, true);
	drv_queue_setup(&t->d, 0, RING);
	drv_ok(&t->d);
	submit(t, 0, 50, 1, 0, t->data, 1024);
	fx_run(&t->f, 20);
}

static void requests_above_iops_wait(void **state)
{
	struct virtio_blk_config c = { .limits.iops[0].rate = 40 };
	struct blk_test t;

	(void)state;
	limited_begin(&t, &c);
	/* The disk writes the requests of a tenth of a second, and no more while the clock stands. */
	assert_int_equal(written(&t), 4);
	drv_kick(&t.d.q[0]);
	fx_run(&t.f, 20);
	assert_int_equal(written(&t), 4);
	clock_on(&t, 100 * MS);
	assert_int_equal(written(&t), 8);
	/* A flush is a request, too. */
	submit(&t, 0, 40, 4, 0, 0, 0);
	clock_on(&t, 100 * MS);
	assert_int_equal(written(&t), 12);
	clock_on(&t, 100 * MS);
	assert_int_equal(written(&t), 16);
	assert_int_equal(status_get(&t, 40), 0xee);
	clock_on(&t, 100 * MS);
	assert_int_equal(status_get(&t, 40), 0);
	limited_end(&t);
}

static void bytes_above_bps_wait(void **state)
{
	struct virtio_blk_config c = { .limits.bps[0].rate = 40960 };
	struct blk_test t;

	(void)state;
	limited_begin(&t, &c);
	assert_int_equal(written(&t), 4);
	/* A request larger than the rest of the bucket passes whole, and the debt is waited for. */
	clock_on(&t, 30 * MS);
	assert_int_equal(written(&t), 6);
	clock_on(&t, 10 * MS);
	assert_int_equal(written(&t), 6);
	/* Without the limit, those that wait pass. */
	virtio_blk_set_limits(t.dev, &(struct virtio_blk_limits){ 0 });
	fx_run(&t.f, 20);
	assert_int_equal(written(&t), 16);
	limited_end(&t);
}

/* A running disk serves what the new limit allows, and the change itself gives no burst. */
static void changed_limit_holds_at_once(void **state)
{
	struct virtio_blk_config c = { .limits.iops[0].rate = 10 };
	struct blk_test t;

	(void)state;
	limited_begin(&t, &c);
	assert_int_equal(written(&t), 1);
	for (unsigned i = 0; i < 5; i++)
		virtio_blk_set_limits(t.dev, &(struct virtio_blk_limits){ .iops[0].rate = 40 + i });
	virtio_blk_set_limits(t.dev, &(struct virtio_blk_limits){ .iops[0].rate = 40 });
	fx_run(&t.f, 20);
	assert_int_equal(written(&t), 1);
	clock_on(&t, 100 * MS);
	assert_int_equal(written(&t), 5);
	clock_on(&t, 100 * MS);
	assert_int_equal(written(&t), 9);
	virtio_blk_set_limits(t.dev, &(struct virtio_blk_limits){ .bps[0].rate = 10240 }); /* 10 requests a second, one at once */
	fx_run(&t.f, 20);
	assert_int_equal(written(&t), 10);
	clock_on(&t, 100 * MS);
	assert_int_equal(written(&t), 11);
	clock_on(&t, 300 * MS);
	assert_int_equal(written(&t), 12);
	limited_end(&t);
}

/* A host that cannot zero in another way writes the zeros, as many as one request may have. */
static void zeroes_count_for_bps(void **state)
{
	static const struct {
		uint64_t bps;
		uint32_t sectors;
	} rows[] = { { 0, 1u << 22 }, { 4096, 8 }, { 409600, 80 }, { 600000, 112 }, { 1ULL << 40, 1u << 22 } };
	struct virtio_blk_config c = { .limits.bps[0].rate = 40960 };
	struct blk_test t;

	(void)state;
	clock_begin(&t, &c);
	store_le32((uint8_t *)fx_ram(&t.f, t.data) + 8, 16); /* 8 KiB, for two tenths of a second */
	submit(&t, 0, 0, 13, 0, t.data, 16);
	submit(&t, 0, 1, 1, 0, t.data, 1024);
	fx_run(&t.f, 20);
	assert_int_equal(status_get(&t, 0), 0);
	assert_int_equal(status_get(&t, 1), 0xee);
	clock_on(&t, 110 * MS);
	assert_int_equal(status_get(&t, 1), 0);
	limited_end(&t);
	/* So that no other request waits for long, the driver is asked for pieces of a tenth of a second. */
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		c = (struct virtio_blk_config){ .limits.bps[0].rate = rows[i].bps };
		disk_new(&t, &c);
		disk_start(&t, &c, ALL);
		assert_int_equal(fx_read(&t.f, t.d.device + 48, 4), rows[i].sectors);
		disk_end(&t);
	}
}

/* On many hosts a look at the clock is a system call. */
static void disk_without_limits_looks_at_no_clock(void **state)
{
	struct virtio_blk_config c = { 0 };
	struct blk_test t;
	unsigned before;

	(void)state;
	disk_new(&t, &c);
	disk_start(&t, &c, ALL);
	before = clock_reads;
	for (unsigned i = 0; i < 4; i++)
		submit(&t, 0, i, 8, 0, t.data + 64 * i, 20); /* T_GET_ID: statistics need no time */
	fx_run(&t.f, 3);
	assert_int_equal(status_get(&t, 3), 0);
	assert_int_equal(clock_reads, before);
	disk_end(&t);
}

static void rings_share_a_limit(void **state)
{
	struct virtio_blk_config c = { .queues = 4, .limits.iops[0].rate = 10 };
	struct blk_test t;

	(void)state;
	limited_begin(&t, &c);
	for (unsigned i = 0; i < 15; i++)
		clock_on(&t, 100 * MS);
	assert_int_equal(written(&t), 16);
	for (unsigned q = 0; q < 4; q++)
		assert_in_range(drv_used_idx(&t.d.q[q]), 3, 5);
	limited_end(&t);
}

static void early_timer_takes_no_rings_turn(void **state)
{
	clock_lag_ns = 60000 * MS;
	rings_share_a_limit(state);
	clock_lag_ns = 0;
}

static void limited_disk_is_paused_and_reset(void **state)
{
	struct virtio_blk_config c = { .limits.iops[0].rate = 40 };
	struct blk_test t;

	(void)state;
	limited_begin(&t, &c);
	t.dev->ops->pause(t.dev);
	clock_on(&t, 200 * MS);
	assert_int_equal(written(&t), 4);
	t.dev->ops->resume(t.dev);
	fx_run(&t.f, 20);
	assert_int_equal(written(&t), 8);
	/* A driver after a reset finds the limit as it was left, not a disk that rests forever. */
	reset_and_write(&t);
	assert_int_equal(status_get(&t, 50), 0xee);
	clock_on(&t, 100 * MS);
	assert_int_equal(status_get(&t, 50), 0);
	limited_end(&t);
}

/* In one ring: those of the other kind pass, and the order of those that wait stays. */
static void reads_pass_while_writes_wait(void **state)
{
	struct virtio_blk_config c = { .limits.iops[DISK_LIMIT_WRITE].rate = 10 };
	struct blk_test t;

	(void)state;
	clock_begin(&t, &c);
	for (unsigned i = 0; i < 4; i++)
		submit(&t, 0, i, 1, 2 * i, t.data + 1024 * i, 1024);
	for (unsigned i = 4; i < 8; i++)
		submit(&t, 0, i, 0, 2 * i, t.data + 1024 * i, 1024);
	submit(&t, 0, 8, 4, 0, 0, 0); /* a flush */
	fx_run(&t.f, 20);
	assert_int_equal(written(&t), 1);
	for (unsigned i = 0; i < 9; i++)
		assert_int_equal(status_get(&t, i), i == 0 || i >= 4 ? 0 : 0xee);
	/* A state has those that wait, and a pause and a load keep them and their order. */
	fx_state_test(&t.f, t.dev, 200);
	fx_run(&t.f, 20);
	assert_int_equal(written(&t), 1);
	clock_on(&t, 110 * MS);
	assert_int_equal(status_get(&t, 1), 0);
	assert_int_equal(status_get(&t, 2), 0xee);
	clock_on(&t, 100 * MS);
	assert_int_equal(status_get(&t, 2), 0);
	assert_int_equal(status_get(&t, 3), 0xee);
	/* Without the limit, the last one passes. */
	virtio_blk_set_limits(t.dev, &(struct virtio_blk_limits){ 0 });
	fx_run(&t.f, 20);
	assert_int_equal(status_get(&t, 3), 0);
	limited_end(&t);
}

static void reset_forgets_requests_that_wait(void **state)
{
	struct virtio_blk_config c = { .limits.bps[DISK_LIMIT_READ].rate = 10240 };
	struct blk_test t;

	(void)state;
	clock_begin(&t, &c);
	for (unsigned i = 0; i < 4; i++)
		submit(&t, 0, i, 0, 2 * i, t.data + 1024 * i, 1024);
	fx_run(&t.f, 20);
	assert_int_equal(status_get(&t, 3), 0xee);
	t.dev->ops->pause(t.dev);
	t.dev->ops->resume(t.dev);
	fx_run(&t.f, 20);
	assert_int_equal(status_get(&t, 3), 0xee);
	reset_and_write(&t);
	assert_int_equal(status_get(&t, 50), 0);
	clock_on(&t, 500 * MS);
	assert_int_equal(status_get(&t, 3), 0xee);
	limited_end(&t); /* with none that waits */
}

static void writes_share_the_limit_of_all(void **state)
{
	struct virtio_blk_config c = { .limits = { .iops[DISK_LIMIT_ALL].rate = 40, .bps[DISK_LIMIT_WRITE].rate = 10240 } };
	struct blk_test t;

	(void)state;
	limited_begin(&t, &c);
	assert_int_equal(written(&t), 1); /* 1 KiB of a tenth of a second */
	clock_on(&t, 100 * MS);
	assert_int_equal(written(&t), 2);
	submit(&t, 0, 40, 0, 0, t.data, 512);
	clock_on(&t, 500 * MS);
	assert_int_equal(status_get(&t, 40), 0);
	limited_end(&t); /* while writes wait */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_pass_while_writes_wait),
		cmocka_unit_test(reset_forgets_requests_that_wait),
		cmocka_unit_test(writes_share_the_limit_of_all),
		cmocka_unit_test(requests_above_iops_wait),
		cmocka_unit_test(bytes_above_bps_wait),
		cmocka_unit_test(changed_limit_holds_at_once),
		cmocka_unit_test(zeroes_count_for_bps),
		cmocka_unit_test(disk_without_limits_looks_at_no_clock),
		cmocka_unit_test(rings_share_a_limit),
		cmocka_unit_test(early_timer_takes_no_rings_turn),
		cmocka_unit_test(limited_disk_is_paused_and_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
