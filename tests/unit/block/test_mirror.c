/* A mirror: random requests while the disk is copied, and the copy equals the disk at its end. */
#include "fixture_block.h"
#include "fixture_powercut.h"
#include "fixture_powerload.h"

#include "base/bytes.h"
#include "base/util.h"
#include "block/mirror.h"
#include "block/qcow2/qcow2.h"

#include <signal.h>
#include <sys/resource.h>

#define SIZE (24 * MIB + 512)
#define PIECE (256 * KIB)

/* Copies in the background, first in rounds, then while each change goes to both disks. */
struct copier {
	struct block *from, *to;
	struct block_mirror *m;
	struct block_req req;
	struct iovec iov;
	uint64_t off, len;
	bool both;
	unsigned pieces;
	int res;
	uint8_t *buf;
};

static void copy_next(struct copier *c);

static void written(struct block_req *r, int res)
{
	struct copier *c = container_of(r, struct copier, req);

	c->res = res;
	if (!res)
		copy_next(c);
}

static void part_read(struct block_req *r, int res)
{
	struct copier *c = container_of(r, struct copier, req);

	c->res = res;
	if (res < 0)
		return;
	c->req = (struct block_req){ .op = BLOCK_WRITE, .offset = c->off, .len = c->len, .iov = &c->iov, .niov = 1, .done = written };
	block_submit(c->to, &c->req);
}

static void part_ready(void *opaque)
{
	struct copier *c = opaque;

	c->iov = (struct iovec){ c->buf, c->len };
	c->req = (struct block_req){ .op = BLOCK_READ, .offset = c->off, .len = c->len, .iov = &c->iov, .niov = 1, .done = part_read };
	block_submit(c->from, &c->req);
}

static void copy_next(struct copier *c)
{
	if (c->pieces++ > 130)
		block_mirror_write_through(c->m);
	if (!block_mirror_next(c->m, PIECE, &c->off, &c->len, part_ready, c)) {
		block_mirror_write_through(c->m);
		c->both = true;
	}
}

/* Run until all is copied. A write that was in flight when the mirror began to write through may be due once more
 * when it ends, after the copier has stopped. */
static void copy_complete(struct fixture *f, struct copier *c)
{
	while (!c->both || !block_mirror_is_complete(c->m)) {
		if (c->both) {
			c->both = false;
			copy_next(c);
		}
		loop_run_once(f->loop, UINT64_MAX);
		assert_true(c->pieces < 1000);
	}
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
	copy_complete(&f, &c);
	shadow_run(&f, c.from, 20, 8);
	assert_int_equal(c.res, 0);
	assert_true(block_mirror_is_complete(c.m));
	assert_int_equal(fixture_op(c.to, BLOCK_FLUSH, 0, 0, 0), 0);
	assert_true(block_mirror_seal(c.m));
	/* Now each request is complete on both. */
	shadow_run(&f, c.from, 200, 8);
	assert_int_equal(block_mirror_due(c.m), 0);
	assert_int_equal(shadow_flush(&f, c.from), 0);
	assert_true(block_mirror_is_equal(c.m));
	block_mirror_hold(c.m, note_end, &over);
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
	block_mirror_hold(m, end_now, &over);
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

static void part_ignore(void *opaque)
{
	(void)opaque;
}

/* As if all was copied. */
static void all_take(struct block_mirror *m)
{
	uint64_t off, len;

	while (block_mirror_next(m, PIECE, &off, &len, part_ignore, NULL))
		;
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
	all_take(m);
	block_mirror_write_through(m);
	assert_false(block_mirror_is_equal(m));
	assert_true(block_mirror_seal(m) && block_mirror_is_equal(m));
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
	block_mirror_hold(m, end_now, &over);
	assert_null(block_mirror_end(m));
	block_close(from);
	block_close(to);
	free(buf);
	fixture_end(&f);
}

/* A write waits for the part in work, until that ends: copied, or not, when it is due again. */
static void test_write_waits_for_the_end_of_the_part(void **state)
{
	struct fixture f = { 0 };
	struct block_mirror *m;
	struct block *from, *to;
	uint8_t *buf = calloc(1, PIECE);
	struct copier c = { .iov = { buf, 4096 } };
	uint64_t off, len, all;

	(void)state;
	for (unsigned copied = 0; copied < 2; copied++) {
		fixture_begin(&f, 8);
		from = disk_new(&f, "from", true);
		to = disk_new(&f, "to", true);
		assert_int_equal(block_mirror_new(from, to, &m, &f.err), 0);
		all = block_mirror_due(m);
		block_mirror_write_through(m);
		block_mirror_part_end(m, copied); /* no part is in work */
		assert_true(block_mirror_next(m, PIECE, &off, &len, part_ignore, NULL));
		c.both = false;
		c.req = (struct block_req){ .op = BLOCK_WRITE, .offset = off, .len = 4096, .iov = &c.iov, .niov = 1, .done = write_done };
		block_submit(from, &c.req);
		for (unsigned i = 0; i < 10; i++)
			loop_run_once(f.loop, 1000000);
		assert_false(c.both);
		block_mirror_part_end(m, copied);
		while (!c.both)
			loop_run_once(f.loop, UINT64_MAX);
		assert_int_equal(block_mirror_due(m), copied ? all - len : all);
		assert_null(block_mirror_end(m));
		block_close(from);
		block_close(to);
		fixture_end(&f);
	}
	free(buf);
}

/* A guest that changes its buffer while the write is in flight. */
static void test_buffer_is_read_once(void **state)
{
	static const bool raw[] = { true, false };
	struct fixture f = { 0 };
	struct block_mirror *m;
	struct block *from, *to;
	uint8_t *buf = aligned_alloc(4096, 3 * MIB), *a = malloc(3 * MIB), *b = malloc(3 * MIB);
	struct copier c = { .iov = { buf, 3 * MIB } };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(raw); i++) {
		fixture_begin(&f, 7);
		from = disk_new(&f, "from", raw[i]);
		to = disk_new(&f, "to", !raw[i]);
		assert_int_equal(block_mirror_new(from, to, &m, &f.err), 0);
		all_take(m);
		block_mirror_write_through(m);
		assert_true(block_mirror_seal(m));
		memset(buf, 0, 3 * MIB);
		c.both = false;
		c.req = (struct block_req){ .op = BLOCK_WRITE, .offset = MIB, .len = 3 * MIB, .iov = &c.iov, .niov = 1,
			.done = write_done };
		block_submit(from, &c.req);
		for (uint8_t n = 1; !c.both; n++) {
			memset(buf, n, 3 * MIB);
			loop_run_once(f.loop, UINT64_MAX);
		}
		assert_int_equal(fixture_rw(from, BLOCK_READ, MIB, a, 3 * MIB), 0);
		assert_int_equal(fixture_rw(to, BLOCK_READ, MIB, b, 3 * MIB), 0);
		assert_memory_equal(a, b, 3 * MIB);
		assert_null(block_mirror_end(m));
		block_close(from);
		block_close(to);
		fixture_end(&f);
	}
	free(buf);
	free(a);
	free(b);
}

/* A guest that writes without end, also twice to one place at once. */
struct writer {
	struct fixture *f;
	struct block *b;
	bool stop;
	unsigned in_flight;
};

struct slot {
	struct block_req req;
	struct iovec iov;
	struct writer *w;
	uint8_t *buf;
};

static void slot_done(struct block_req *r, int res);

static void slot_submit(struct slot *s)
{
	struct fixture *f = s->w->f;

	memset(s->buf, (int)fixture_random(f), 4096);
	s->iov = (struct iovec){ s->buf, 4096 };
	s->req = (struct block_req){ .op = fixture_random(f) % 8 ? BLOCK_WRITE : BLOCK_WRITE_ZEROES, .len = 4096, .iov = &s->iov, .niov = 1,
		.offset = fixture_random(f) % 200 * 2048 + fixture_random(f) % 24 * MIB / 2, .done = slot_done };
	s->w->in_flight++;
	block_submit(s->w->b, &s->req);
}

static void slot_done(struct block_req *r, int res)
{
	struct slot *s = container_of(r, struct slot, req);

	assert_int_equal(res, 0);
	s->w->in_flight--;
	if (!s->w->stop)
		slot_submit(s);
}

static void images_compare(struct fixture *f, struct block *a, struct block *b)
{
	uint8_t *x = malloc(PIECE), *y = malloc(PIECE);

	(void)f;
	for (uint64_t off = 0; off < SIZE; off += PIECE) {
		uint64_t n = MIN(PIECE, SIZE - off);

		assert_int_equal(fixture_rw(a, BLOCK_READ, off, x, n), 0);
		assert_int_equal(fixture_rw(b, BLOCK_READ, off, y, n), 0);
		assert_memory_equal(x, y, n);
	}
	free(x);
	free(y);
}

static void copy_beside_writer(bool raw, bool small)
{
	struct fixture f = { 0 };
	struct copier c = { .buf = aligned_alloc(4096, PIECE) };
	struct writer w = { .f = &f };
	struct slot slots[16] = { 0 };

	fixture_small_parts = small;
	fixture_begin(&f, 9);
	c.from = w.b = disk_new(&f, "from", raw);
	c.to = disk_new(&f, "to", false);
	assert_int_equal(block_mirror_new(c.from, c.to, &c.m, &f.err), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(slots); i++) {
		slots[i].w = &w;
		slots[i].buf = aligned_alloc(4096, 4096);
		slot_submit(&slots[i]);
	}
	copy_next(&c);
	copy_complete(&f, &c);
	for (unsigned i = 0; i < 300; i++)
		loop_run_once(f.loop, UINT64_MAX);
	w.stop = true;
	while (w.in_flight)
		loop_run_once(f.loop, UINT64_MAX);
	assert_true(block_mirror_seal(c.m));
	images_compare(&f, c.from, c.to);
	assert_null(block_mirror_end(c.m));
	for (unsigned i = 0; i < ARRAY_SIZE(slots); i++)
		free(slots[i].buf);
	block_close(c.from);
	block_close(c.to);
	free(c.buf);
	fixture_end(&f);
	fixture_small_parts = false;
}

static void test_copy_ends_beside_a_guest_that_writes_without_end(void **state)
{
	(void)state;
	copy_beside_writer(true, false);
	copy_beside_writer(false, false);
	copy_beside_writer(false, true);
}

static void test_copy_whose_flush_failed_is_not_equal(void **state)
{
	struct fixture f = { 0 };
	struct block *from, *to;
	struct block_layer layer;
	struct block_mirror *m;
	int ends[2], kept;

	(void)state;
	fixture_begin(&f, 1);
	from = disk_new(&f, "from", true);
	to = disk_new(&f, "to", true);
	assert_int_equal(block_mirror_new(from, to, &m, &f.err), 0);
	all_take(m);
	block_mirror_write_through(m);
	/* A pipe cannot be synced. */
	block_layers(to, &layer);
	kept = dup(layer.fd);
	assert_int_equal(pipe(ends), 0);
	dup2(ends[0], layer.fd);
	assert_int_equal(fixture_op(from, BLOCK_FLUSH, 0, 0, 0), 0); /* the guest does not learn of it */
	dup2(kept, layer.fd);
	assert_true(block_mirror_is_complete(m));
	assert_false(block_mirror_seal(m));
	assert_null(block_mirror_end(m));
	close(kept);
	close(ends[0]);
	close(ends[1]);
	block_close(from);
	block_close(to);
	fixture_end(&f);
}

/* After a cut, the image alone has what was flushed. copy: it is the second disk of the mirror, else the first one. */
static void power_cut(const char *options, bool copy, unsigned seed)
{
	struct block *b[2];
	struct block_mirror *m;
	struct recorder rec;
	struct fixture f;
	char create[160];

	snprintf(create, sizeof(create), "qemu-img create -q -f qcow2 -o %s img 1M && cp img other", options);
	scene_begin(&rec, &f, create, seed);
	b[copy] = rec.disk->b;
	b[!copy] = fixture_open(&f, "other", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(block_mirror_new(b[0], b[1], &m, &f.err), 0);
	all_take(m);
	block_mirror_write_through(m);
	assert_true(block_mirror_seal(m));
	rec.disk->b = b[0]; /* gets the requests */
	load_run(&rec, 25);
	assert_true(block_mirror_is_equal(m));
	assert_null(block_mirror_end(m));
	rec.disk->b = b[copy];
	record_close(&rec);
	record_end(&rec);
	block_close(b[!copy]);
	fixture_run(&f, "qemu-img check -q img && qemu-img compare -q img other");
	scene_cut(&rec, 2);
}

/* MIRROR_CUTS: loads of some 200 cuts; MIRROR_SEED. */
static void test_power_cut_leaves_flushed_data_on_each_image(void **state)
{
	static const char *const options[] = { "cluster_size=64k", "cluster_size=4k", "cluster_size=512,refcount_bits=64" };
	unsigned loads = fixture_number("MIRROR_CUTS", 4), seed = fixture_number("MIRROR_SEED", 1);

	(void)state;
	for (unsigned i = 0; i < loads; i++)
		power_cut(options[i / 2 % ARRAY_SIZE(options)], i % 2, seed + i);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_copy_equals_disk_after_random_requests),
		cmocka_unit_test(test_small_parts), cmocka_unit_test(test_held_request_goes_to_the_new_disk),
		cmocka_unit_test(test_write_waits_for_the_end_of_the_part),
		cmocka_unit_test(test_copy_that_lacks_a_write_is_not_equal), cmocka_unit_test(test_buffer_is_read_once),
		cmocka_unit_test(test_copy_ends_beside_a_guest_that_writes_without_end),
		cmocka_unit_test(test_copy_whose_flush_failed_is_not_equal),
		cmocka_unit_test(test_power_cut_leaves_flushed_data_on_each_image) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
