/* Disk: requests of more descriptors than seg_max allows. */
#include "tests/unit/devices/virtio/blk_fixture.h"

#define SEG_BYTES 512u
#define LARGE 515u /* as virtio-win sent them before 2022 */

/* Put a request of n descriptors into the ring: header, n - 2 of data, status. Each segment of data has 512 bytes, in
 * the opposite order of the disk's. */
static void large_submit(struct blk_test *t, uint32_t type, unsigned n)
{
	struct drv_sg *sg = calloc(n, sizeof(*sg));

	assert_non_null(sg);
	sg[0] = (struct drv_sg){ t->header, 16, false };
	for (unsigned i = 1; i < n - 1; i++)
		sg[i] = (struct drv_sg){ t->data + SEG_BYTES * (n - 2 - i), SEG_BYTES, type == 0 };
	sg[n - 1] = (struct drv_sg){ t->status, 1, true };
	header_put(t, 0, type, 0);
	drv_add(&t->d.q[0], sg, n, true);
	drv_kick(&t->d.q[0]);
	free(sg);
}

/* Write with a request of n descriptors and read with another. */
static void large_transfer(struct blk_test *t, unsigned n)
{
	size_t bytes = (n - 2) * SEG_BYTES;
	uint8_t *want = malloc(bytes), first[SEG_BYTES];

	assert_non_null(want);
	fill(t, t->data, bytes, (uint8_t)n);
	memcpy(want, fx_ram(&t->f, t->data), bytes);
	large_submit(t, 1, n);
	drv_wait(&t->d.q[0], NULL);
	assert_int_equal(status_get(t, 0), 0);
	assert_int_equal(pread(t->block.fd, first, SEG_BYTES, 0), SEG_BYTES);
	assert_memory_equal(first, want + bytes - SEG_BYTES, SEG_BYTES);
	memset(fx_ram(&t->f, t->data), 0, bytes);
	large_submit(t, 0, n);
	drv_wait(&t->d.q[0], NULL);
	assert_int_equal(status_get(t, 0), 0);
	assert_memory_equal(fx_ram(&t->f, t->data), want, bytes);
	free(want);
}

static void large_begin(struct blk_test *t, struct virtio_blk_config *c)
{
	disk_new(t, c);
	disk_start(t, c, ALL);
	t->data = fx_alloc(&t->f, 1024 * SEG_BYTES, 4096);
}

static void test_disk_takes_requests_of_up_to_1024_descriptors(void **state)
{
	static const unsigned counts[] = { 258, 259, LARGE, 1024 };
	struct virtio_blk_config c = { 0 };
	struct blk_test t;

	(void)state;
	large_begin(&t, &c);
	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++)
		large_transfer(&t, counts[i]);
	disk_end(&t);
}

/* A descriptor of the ring precedes a table of 1024. */
static void test_request_of_1025_descriptors_needs_reset(void **state)
{
	struct virtio_blk_config c = { 0 };
	struct blk_test t;
	struct drv_queue *q;
	uint64_t table;

	(void)state;
	large_begin(&t, &c);
	q = &t.d.q[0];
	large_submit(&t, 0, 1024);
	drv_wait(q, NULL);
	table = t.f.next_gpa - 16 * 1024;
	drv_desc(q, 8, t.header, 16, 1, 9);
	drv_desc(q, 9, table, 16 * 1024, 4, 0);
	drv_publish(q, 8);
	drv_kick(q);
	fx_run(&t.f, 5);
	assert_true(drv_status(&t.d) & VIRTIO_STATUS_NEEDS_RESET);
	disk_end(&t);
}

static void test_large_request_that_failed_is_resubmitted(void **state)
{
	struct virtio_blk_config c = { .errors = VIRTIO_BLK_ERRORS_STOP };
	struct fx_state s;
	struct blk_test t;
	uint8_t first;

	(void)state;
	large_begin(&t, &c);
	t.block.fail_with = -ENOSPC;
	memset(fx_ram(&t.f, t.data), 'a', (LARGE - 2) * SEG_BYTES);
	large_submit(&t, 1, LARGE);
	fx_run(&t.f, 10);
	t.dev->ops->pause(t.dev);
	fx_save(t.dev, &s);
	t.block.fail_with = 0;
	assert_int_equal(fx_load(t.dev, &s), 0);
	t.dev->ops->resume(t.dev);
	drv_wait(&t.d.q[0], NULL);
	assert_int_equal(status_get(&t, 0), 0);
	assert_int_equal(pread(t.block.fd, &first, 1, 0), 1);
	assert_int_equal(first, 'a');
	free(s.buf);
	disk_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk_takes_requests_of_up_to_1024_descriptors),
		cmocka_unit_test(test_request_of_1025_descriptors_needs_reset),
		cmocka_unit_test(test_large_request_that_failed_is_resubmitted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
