/* The balloon: which pages it gives back, bounded work, statistics, and hostile rings. */
#include "tests/unit/devices/fixture.h"

#include "base/bytes.h"
#include "base/util.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_balloon.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOT 3
#define PAGE 4096u
#define F_STATS (1ULL << 1)
#define F_REPORTING (1ULL << 5)
enum { INFLATE, DEFLATE, STATS, REPORTS, REPORTS_SPEC };

struct given {
	uint64_t gpa, len;
};

struct bench {
	struct fixture f;
	struct dev_host_ops ops;
	struct device *dev;
	struct drv d;
	uint64_t list; /* a page for lists of page frame numbers */
};

/* The pages that the device has given back. */
static struct given given[4096];
static unsigned ngiven, refuse; /* refuse: so many calls get no room */
static int wake_fd;
static unsigned told;

static bool fake_give_back(struct dev_host *h, uint64_t gpa, uint64_t len, int fd)
{
	assert_true(len && gpa % PAGE == 0 && len % PAGE == 0);
	assert_non_null(dev_ram(h, gpa, len));
	wake_fd = fd;
	if (refuse) {
		refuse--;
		return false;
	}
	given[ngiven++ % ARRAY_SIZE(given)] = (struct given){ gpa, len };
	return true;
}

static void stats_told(void *opaque)
{
	(void)opaque;
	told++;
}

static void bench_init(struct bench *b, uint64_t features, unsigned queues)
{
	struct virtio_balloon_config c = { .name = "balloon0", .slot = SLOT, .ram_bytes = FX_LOW_BYTES + FX_HIGH_BYTES,
		.target_bytes = FX_LOW_BYTES, .told = stats_told };

	memset(b, 0, sizeof(*b));
	ngiven = refuse = told = 0;
	fx_init(&b->f);
	b->ops = *b->f.host.ops;
	b->ops.ram_give_back = fake_give_back;
	b->f.host.ops = &b->ops;
	assert_int_equal(virtio_balloon_new(&b->f.host, b->f.pci, &c, &b->dev, NULL), 0);
	drv_init(&b->d, &b->f, SLOT, features, true);
	for (unsigned q = 0; q < queues; q++)
		drv_queue_setup(&b->d, q, 32);
	drv_ok(&b->d);
	b->list = fx_alloc(&b->f, 64 * KIB, PAGE);
}

static void bench_done(struct bench *b)
{
	b->dev->ops->free(b->dev);
	fx_done(&b->f);
}

static void request(struct bench *b, unsigned q, uint64_t gpa, uint32_t len, bool writable)
{
	struct drv_sg sg = { gpa, len, writable };

	drv_add(&b->d.q[q], &sg, 1, false);
	drv_kick(&b->d.q[q]);
}

static void pfns_put(struct bench *b, const uint32_t *pfns, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		store_le32(fx_ram(&b->f, b->list + 4 * i), pfns[i]);
}

static void inflate(struct bench *b, const uint32_t *pfns, unsigned n)
{
	pfns_put(b, pfns, n);
	request(b, INFLATE, b->list, 4 * n, false);
	drv_wait(&b->d.q[INFLATE], NULL);
}

static void test_adjacent_pages_are_given_back_together(void **state)
{
	static const uint32_t pfns[] = { 600, 601, 602, 700, 699, 698, 900 };
	struct bench b;

	(void)state;
	bench_init(&b, F_STATS | F_REPORTING, 4);
	inflate(&b, pfns, ARRAY_SIZE(pfns));
	assert_int_equal(ngiven, 3);
	assert_true(given[0].gpa == 600 * PAGE && given[0].len == 3 * PAGE);
	assert_true(given[1].gpa == 698 * PAGE && given[1].len == 3 * PAGE);
	assert_true(given[2].gpa == 900 * PAGE && given[2].len == PAGE);
	request(&b, DEFLATE, b.list, 4, false);
	drv_wait(&b.d.q[DEFLATE], NULL);
	assert_int_equal(ngiven, 3);
	bench_done(&b);
}

/* Numbers beyond RAM, at its end and at the end of what 32 bits hold do nothing, and those around them count. */
static void test_pages_that_are_no_ram_are_ignored(void **state)
{
	static const uint32_t pfns[] = { 0xffffffff, 0, FX_LOW_BYTES / PAGE - 1, FX_LOW_BYTES / PAGE, 0xfffffffe, 0x100000,
		0x100000 + FX_HIGH_BYTES / PAGE, 0xa0000, 600 };
	uint64_t bytes = 0;
	struct bench b;

	(void)state;
	bench_init(&b, 0, 2);
	inflate(&b, pfns, ARRAY_SIZE(pfns));
	for (unsigned i = 0; i < ngiven; i++)
		bytes += given[i].len;
	assert_int_equal(bytes, 4 * PAGE); /* 0, the last of low RAM, the first of high RAM, 600 */
	assert_int_equal(fx_count_events(&b.f, DEV_EVENT_NEEDS_RESET), 0);
	bench_done(&b);
}

/* A list of many single pages takes several turns of the loop, and each page is given back once. */
static void test_long_list_takes_turns(void **state)
{
	enum { N = 1000 };
	uint32_t pfns[N];
	struct bench b;

	(void)state;
	bench_init(&b, 0, 2);
	for (unsigned i = 0; i < N; i++)
		pfns[i] = 100 + 2 * (i % 900);
	pfns_put(&b, pfns, N);
	request(&b, INFLATE, b.list, 4 * N, false);
	fx_run(&b.f, 1);
	assert_in_range(ngiven, 1, N - 1);
	assert_int_equal(drv_used_idx(&b.d.q[INFLATE]), 0);
	drv_wait(&b.d.q[INFLATE], NULL);
	assert_int_equal(ngiven, N);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(given[i].gpa, pfns[i] * (uint64_t)PAGE);
	bench_done(&b);
}

/* While a snapshot has no room for the old content, the request waits; then it goes on where it was. */
static void test_request_waits_for_room(void **state)
{
	static const uint32_t pfns[] = { 600, 700, 800 };
	uint64_t one = 1;
	struct bench b;

	(void)state;
	bench_init(&b, 0, 2);
	pfns_put(&b, pfns, 3);
	refuse = 1;
	request(&b, INFLATE, b.list, 12, false);
	fx_run(&b.f, 5);
	assert_int_equal(ngiven, 0);
	assert_int_equal(drv_used_idx(&b.d.q[INFLATE]), 0);
	assert_int_equal(write(wake_fd, &one, sizeof(one)), sizeof(one));
	drv_wait(&b.d.q[INFLATE], NULL);
	assert_int_equal(ngiven, 3);
	assert_int_equal(given[0].gpa, 600 * PAGE);
	bench_done(&b);
}

/* Only whole pages of a reported range, in both places where its queue may be. */
static void test_reported_ranges_are_given_back(void **state)
{
	struct virtio_balloon_info i;
	struct bench b;

	(void)state;
	bench_init(&b, F_STATS | F_REPORTING, 5);
	request(&b, REPORTS, 0x200000, 0x80000, true);
	drv_wait(&b.d.q[REPORTS], NULL);
	assert_int_equal(ngiven, 1);
	assert_true(given[0].gpa == 0x200000 && given[0].len == 0x80000);
	request(&b, REPORTS_SPEC, 0x300800, 0x2000, true);
	drv_wait(&b.d.q[REPORTS_SPEC], NULL);
	assert_int_equal(ngiven, 2);
	assert_true(given[1].gpa == 0x301000 && given[1].len == 0x1000);
	request(&b, REPORTS, 0x300800, 0x900, true); /* no whole page */
	drv_wait(&b.d.q[REPORTS], NULL);
	request(&b, REPORTS, 0x400000, 0x1000, false); /* not writable: not a free range */
	drv_wait(&b.d.q[REPORTS], NULL);
	assert_int_equal(ngiven, 2);
	virtio_balloon_info(b.dev, &i);
	assert_int_equal(i.reported_bytes, 0x81000);
	bench_done(&b);
}

static void stats_put(struct bench *b, uint64_t total, uint64_t available)
{
	uint8_t *p = fx_ram(&b->f, b->list);

	store_le16(p, BALLOON_TOTAL);
	store_le64(p + 2, total);
	store_le16(p + 10, BALLOON_AVAILABLE);
	store_le64(p + 12, available);
	store_le16(p + 20, 999); /* unknown */
	store_le64(p + 22, 7);
	request(b, STATS, b->list, 30, false);
}

static void test_statistics_come_on_request(void **state)
{
	struct virtio_balloon_info i;
	struct bench b;

	(void)state;
	bench_init(&b, F_STATS, 3);
	stats_put(&b, 1000, 300);
	fx_wait(&b.f, &told, 1);
	virtio_balloon_info(b.dev, &i);
	assert_int_equal(i.known, 1u << BALLOON_TOTAL | 1u << BALLOON_AVAILABLE);
	assert_int_equal(i.stats[BALLOON_AVAILABLE], 300);
	assert_int_equal(drv_used_idx(&b.d.q[STATS]), 0); /* kept until the host asks again */
	assert_true(virtio_balloon_ask(b.dev));
	drv_wait(&b.d.q[STATS], NULL);
	stats_put(&b, 1000, 200);
	fx_wait(&b.f, &told, 2);
	virtio_balloon_info(b.dev, &i);
	assert_int_equal(i.stats[BALLOON_AVAILABLE], 200);
	virtio_balloon_set_period(b.dev, 1); /* asks at once, and then every second */
	drv_wait(&b.d.q[STATS], NULL);
	bench_done(&b);
}

/* The driver's number of pages is an event, at most one a second. */
static void test_size_is_told(void **state)
{
	struct virtio_balloon_info i;
	struct bench b;

	(void)state;
	bench_init(&b, 0, 2);
	assert_int_equal(fx_read(&b.f, b.d.device, 4), FX_HIGH_BYTES / PAGE); /* the target of the configuration */
	fx_write(&b.f, b.d.device + 4, 4, 100);
	fx_write(&b.f, b.d.device + 4, 4, 200);
	fx_run(&b.f, 3);
	assert_int_equal(fx_count_events(&b.f, DEV_EVENT_BALLOON), 1);
	virtio_balloon_info(b.dev, &i);
	assert_int_equal(i.guest_bytes, FX_LOW_BYTES + FX_HIGH_BYTES - 200 * PAGE);
	fx_write(&b.f, b.d.device + 4, 4, 0xffffffff); /* more than there is */
	fx_run(&b.f, 3);
	assert_int_equal(fx_count_events(&b.f, DEV_EVENT_BALLOON), 1);
	virtio_balloon_info(b.dev, &i);
	assert_int_equal(i.guest_bytes, 0);
	fx_write(&b.f, b.d.device, 4, 7); /* the target is the host's */
	assert_int_equal(fx_read(&b.f, b.d.device, 4), FX_HIGH_BYTES / PAGE);
	virtio_balloon_set_target(b.dev, FX_LOW_BYTES / 2);
	assert_int_equal(fx_read(&b.f, b.d.device, 4), (FX_LOW_BYTES / 2 + FX_HIGH_BYTES) / PAGE);
	bench_done(&b);
}

static void test_state_has_the_target(void **state)
{
	struct virtio_balloon_info i;
	struct fx_state s;
	struct bench b;

	(void)state;
	bench_init(&b, F_STATS | F_REPORTING, 4);
	virtio_balloon_set_target(b.dev, 2 * MIB);
	fx_write(&b.f, b.d.device + 4, 4, 300);
	fx_state_test(&b.f, b.dev, 200);
	b.dev->ops->pause(b.dev);
	fx_save(b.dev, &s);
	virtio_balloon_set_target(b.dev, 3 * MIB);
	b.dev->ops->reset(b.dev);
	virtio_balloon_info(b.dev, &i);
	assert_int_equal(i.target_bytes, 3 * MIB); /* a reset empties the balloon, and the target stays */
	assert_int_equal(i.guest_bytes, FX_LOW_BYTES + FX_HIGH_BYTES);
	assert_int_equal(fx_load(b.dev, &s), 0);
	virtio_balloon_info(b.dev, &i);
	assert_int_equal(i.target_bytes, 2 * MIB);
	assert_int_equal(i.guest_bytes, FX_LOW_BYTES + FX_HIGH_BYTES - 300 * PAGE);
	free(s.buf);
	bench_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_adjacent_pages_are_given_back_together),
		cmocka_unit_test(test_pages_that_are_no_ram_are_ignored),
		cmocka_unit_test(test_long_list_takes_turns),
		cmocka_unit_test(test_request_waits_for_room),
		cmocka_unit_test(test_reported_ranges_are_given_back),
		cmocka_unit_test(test_statistics_come_on_request),
		cmocka_unit_test(test_size_is_told),
		cmocka_unit_test(test_state_has_the_target),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
