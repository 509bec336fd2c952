/* A mirror: random requests while the disk is copied, and the copy equals the disk at its end. */
#include "fixture_block.h"

#include "base/bytes.h"
#include "base/util.h"
#include "block/mirror.h"
#include "block/qcow2/qcow2.h"

#include <signal.h>
#include <sys/resource.h>

#define SIZE (24 * MIB + 512)
#define PIECE (256 * KIB)

/* Copies in the background, and lets both disks get each change when little is due. */
struct copier {
	struct block *from, *to;
	struct block_mirror *m;
	struct block_req req;
	struct iovec iov;
	uint64_t off, len;
	bool reading, holding, both;
	unsigned pieces;
	int res;
	uint8_t *buf;
};

static void copy_next(struct copier *c);

static void held(void *opaque)
{
	copy_next(opaque);
}

static void copied(struct block_req *r, int res)
{
	struct copier *c = container_of(r, struct copier, req);

	c->res = res;
	if (res < 0)
		return;
	if (!c->reading) {
		copy_next(c);
		return;
	}
	c->reading = false;
	c->req = (struct block_req){ .op = BLOCK_WRITE, .offset = c->off, .len = c->len, .iov = &c->iov, .niov = 1, .done = copied };
	block_submit(c->to, &c->req);
}

static void copy_next(struct copier *c)
{
	if (!c->holding && c->pieces > 40 && block_mirror_due(c->m) < 8 * PIECE) {
		c->holding = true;
		block_mirror_hold(c->m, false, held, c);
		return;
	}
	if (!block_mirror_next(c->m, PIECE, &c->off, &c->len)) {
		if (!c->holding) {
			c->holding = true;
			block_mirror_hold(c->m, false, held, c);
			return;
		}
		c->both = true;
		block_mirror_release(c->m, true);
		return;
	}
	c->pieces++;
	c->reading = true;
	c->iov = (struct iovec){ c->buf, c->len };
	c->req = (struct block_req){ .op = BLOCK_READ, .offset = c->off, .len = c->len, .iov = &c->iov, .niov = 1, .done = copied };
	block_submit(c->from, &c->req);
}

static void note_end(void *opaque)
{
	*(bool *)opaque = true;
}

static struct block *disk_new(struct fixture *f, const char *name, bool raw)
{
	struct qcow2_create c = { .size_bytes = SIZE, .cluster_bits = 16, .refcount_order = 4, .version = 3 };

	if (raw)
		fixture_run(f, "truncate -s %llu %s", (unsigned long long)SIZE, name);
	else
		fixture_create(f, name, &c);
	return fixture_open(f, name, raw ? BLOCK_FORMAT_RAW : BLOCK_FORMAT_QCOW2, false);
}

static void run(bool raw_from, bool raw_to, bool pivot, unsigned seed)
{
	struct fixture f = { 0 };
	struct copier c = { .buf = aligned_alloc(4096, PIECE) };
	bool over = false;

	fixture_begin(&f, seed);
	c.from = disk_new(&f, "from", raw_from);
	c.to = disk_new(&f, "to", raw_to);
	fixture_run(&f, "truncate -s %llu shadow", (unsigned long long)SIZE);
	fixture_shadow_open(&f, "shadow", SIZE);
	shadow_run(&f, c.from, 100, 8);
	assert_int_equal(block_mirror_new(c.from, c.to, &c.m, &f.err), 0);
	assert_int_equal(block_mirror_due(c.m), ROUND_UP(SIZE, 64 * KIB));
	copy_next(&c);
	shadow_run(&f, c.from, 600, 8);
	while (!c.both)
		loop_run_once(f.loop, UINT64_MAX);
	assert_int_equal(c.res, 0);
	/* Now each request is complete on both. */
	shadow_run(&f, c.from, 200, 8);
	assert_int_equal(block_mirror_due(c.m), 0);
	assert_int_equal(shadow_flush(&f, c.from), 0);
	block_mirror_hold(c.m, true, note_end, &over);
	while (!over)
		loop_run_once(f.loop, UINT64_MAX);
	block_mirror_submit(block_mirror_end(c.m), pivot ? c.to : c.from);
	shadow_verify(&f, c.to);
	shadow_verify(&f, c.from);
	/* The other disk is on its own. */
	shadow_run(&f, pivot ? c.to : c.from, 50, 8);
	shadow_verify(&f, pivot ? c.to : c.from);
	assert_int_equal(block_close(c.from), 0);
	assert_int_equal(block_close(c.to), 0);
	if (!raw_to)
		fixture_run(&f, "qemu-img check -q to");
	free(c.buf);
	fixture_end(&f);
}

static void test_copy_equals_disk_after_random_requests(void **state)
{
	(void)state;
	run(false, false, true, 1);
	run(false, true, true, 2);
	run(true, false, false, 3);
	run(true, true, true, 4);
}

static void test_small_parts(void **state)
{
	(void)state;
	fixture_small_parts = true;
	run(false, false, true, 5);
	fixture_small_parts = false;
}

static void end_now(void *opaque)
{
	*(bool *)opaque = true;
}

static void write_done(struct block_req *r, int res)
{
	assert_int_equal(res, 0);
	container_of(r, struct copier, req)->both = true;
}

static void test_held_request_goes_to_the_new_disk(void **state)
{
	struct fixture f = { 0 };
	struct block_mirror *m, *second;
	struct block *from, *to;
	uint8_t *buf = aligned_alloc(4096, 4096), *back = aligned_alloc(4096, 4096);
	struct copier c = { .iov = { buf, 4096 } };
	bool over = false;

	(void)state;
	fixture_begin(&f, 6);
	from = disk_new(&f, "from", false);
	to = disk_new(&f, "to", false);
	assert_int_equal(block_mirror_new(from, to, &m, &f.err), 0);
	assert_int_equal(block_mirror_new(from, to, &second, &f.err), -EBUSY);
	block_mirror_hold(m, true, end_now, &over);
	assert_true(over);
	memset(buf, 7, 4096);
	c.req = (struct block_req){ .op = BLOCK_WRITE, .offset = 4096, .len = 4096, .iov = &c.iov, .niov = 1, .done = write_done };
	block_submit(from, &c.req);
	assert_int_equal(block_in_flight(from), 0);
	block_mirror_submit(block_mirror_end(m), to);
	while (!c.both)
		loop_run_once(f.loop, UINT64_MAX);
	assert_int_equal(fixture_rw(from, BLOCK_READ, 4096, back, 4096), 0);
	assert_int_equal(back[0], 0);
	assert_int_equal(fixture_rw(to, BLOCK_READ, 4096, back, 4096), 0);
	assert_memory_equal(back, buf, 4096);
	block_close(from);
	block_close(to);
	free(buf);
	free(back);
	fixture_end(&f);
}

static void failed_write_done(struct block_req *r, int res)
{
	container_of(r, struct copier, req)->res = res;
	container_of(r, struct copier, req)->both = true;
}

/* The copy's file takes no bytes behind 16 MiB; the qcow2 file of the disk is small. */
static void test_copy_that_lacks_a_write_is_not_equal(void **state)
{
	struct rlimit old, few = { 16 * MIB, RLIM_INFINITY };
	struct fixture f = { 0 };
	struct block_mirror *m;
	struct block *from, *to;
	uint8_t *buf = calloc(1, PIECE);
	struct copier c = { .iov = { buf, 4096 } };
	uint64_t off, len;
	bool over = false;

	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	few.rlim_max = old.rlim_max;
	fixture_begin(&f, 6);
	from = disk_new(&f, "from", false);
	to = disk_new(&f, "to", true);
	assert_int_equal(block_mirror_new(from, to, &m, &f.err), 0);
	assert_false(block_mirror_is_equal(m));
	while (block_mirror_next(m, PIECE, &off, &len))
		;
	block_mirror_hold(m, false, end_now, &over);
	block_mirror_release(m, true);
	assert_true(over && block_mirror_is_equal(m));
	for (uint64_t at = 4 * MIB; at <= 20 * MIB; at += 16 * MIB) {
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &few), 0);
		c.both = false;
		c.req = (struct block_req){ .op = BLOCK_WRITE, .offset = at, .len = 4096, .iov = &c.iov, .niov = 1, .done = failed_write_done };
		block_submit(from, &c.req);
		while (!c.both)
			loop_run_once(f.loop, UINT64_MAX);
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
		assert_int_equal(c.res < 0, at > 16 * MIB);
		assert_int_equal(block_mirror_is_equal(m), at < 16 * MIB);
	}
	block_mirror_hold(m, true, end_now, &over);
	assert_null(block_mirror_end(m));
	block_close(from);
	block_close(to);
	free(buf);
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_copy_equals_disk_after_random_requests),
		cmocka_unit_test(test_small_parts), cmocka_unit_test(test_held_request_goes_to_the_new_disk),
		cmocka_unit_test(test_copy_that_lacks_a_write_is_not_equal) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
