/* Malformed images, field by field and table by table: a clear error or a safe read. A write that would
 * cause damage marks the image corrupt and fails. */
#include "fixture_block.h"

#include "base/cleanup.h"
#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/qcow2/qcow2.h"

#include <endian.h>

struct header_case {
	const char *what;
	uint64_t at;
	unsigned size;
	uint64_t value;
	const char *says; /* expected part of the message */
};

static const struct header_case headers[] = {
	{ "magic", 0, 4, 0x51464900, "not a qcow2 image" },
	{ "version", 4, 4, 4, "version 4" },
	{ "cluster_bits low", 20, 4, 8, "cluster_bits is 8" },
	{ "cluster_bits high", 20, 4, 22, "cluster_bits is 22" },
	{ "header_length huge", 100, 4, 0xfffffff8, "header_length" },
	{ "header_length odd", 100, 4, 107, "header_length" },
	{ "header_length short", 100, 4, 64, "header_length" },
	{ "no refcount table", 56, 4, 0, "refcount table has 0" },
	{ "refcount table over 8 MiB", 56, 4, 129, "refcount table has 129" },
	{ "refcount table misaligned", 48, 8, 0x10200, "refcount table's offset" },
	{ "refcount table beyond 2^63", 48, 8, 1ULL << 63, "refcount table's offset" },
	{ "refcount order", 96, 4, 7, "refcount_order is 7" },
	{ "no L1", 36, 4, 0, "too small" },
	{ "L1 too large", 36, 4, (32 << 20) / 8 + 1, "L1 table has" },
	{ "L1 misaligned", 40, 8, 0x30200, "L1 table's offset" },
	{ "L1 past the end", 40, 8, 1ULL << 40, "past the end" },
	{ "L1 nowhere", 40, 8, 0, "L1 table's offset" },
	{ "size 2^63", 24, 8, 1ULL << 63, "size is" },
	{ "size beyond L1", 24, 8, 1ULL << 40, "too small" },
	{ "65537 snapshots", 60, 4, 65537, "65537 snapshots" },
	{ "unknown feature", 72, 8, 1ULL << 40, "does not know" },
	{ "data file that is not given", 72, 8, 4, "give that file, too" },
	{ "compression bit alone", 72, 8, 8, "contradict" },
	{ "compression type alone", 104, 1, 1, "contradict" },
	{ "AES", 32, 4, 1, "encrypted" },
	{ "LUKS", 32, 4, 2, "LUKS" },
	{ "crypt method", 32, 4, 3, "unknown encryption" },
	{ "extension huge", 116, 4, 0xffffffff, "leaves the first cluster" },
	{ "backing outside", 8, 8, 1 << 20, "backing file" },
	{ "corrupt", 72, 8, 2, "marked corrupt" },
};

static void test_malformed_headers_are_refused(void **state)
{
	struct fixture f;

	fixture_begin(&f, 1);
	fixture_run(&f, "qemu-img create -q -f qcow2 good 64M");
	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		const struct header_case *c = &headers[i];
		struct block *b = NULL;

		fixture_run(&f, "cp good img");
		fixture_poke_be(&f, "img", c->at, c->size, c->value);
		if (c->at == 60) /* a snapshot table */
			fixture_poke_be(&f, "img", 64, 8, 0x20000);
		if (c->at == 8)
			fixture_poke_be(&f, "img", 16, 4, 100);
		if (fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &b) >= 0)
			fail_msg("%s: opened", c->what);
		if (!strstr(f.err.msg, c->says))
			fail_msg("%s: says '%s'", c->what, f.err.msg);
	}
	fixture_end(&f);
	(void)state;
}

/* Truncated anywhere before its L1 table (at 1536): an error, never a crash. */
static void test_truncated_image_is_refused(void **state)
{
	struct fixture f;

	fixture_begin(&f, 2);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=512 good 1M");
	for (unsigned len = 0; len <= 1536; len += 48) {
		struct block *b = NULL;

		fixture_run(&f, "head -c %u good >img", len);
		assert_true(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &b) < 0);
	}
	fixture_end(&f);
	(void)state;
}

static void test_malformed_snapshot_tables_are_refused(void **state)
{
	struct fixture f;
	struct block *b = NULL;
	uint64_t table;

	fixture_begin(&f, 3);
	fixture_run(&f, "qemu-img create -q -f qcow2 good 64M; qemu-io -c 'write 0 1M' good; "
		"qemu-img snapshot -c one good");
	table = fixture_peek_be(&f, "good", 64, 8);
	fixture_run(&f, "cp good img");
	fixture_poke_be(&f, "img", 64, 8, table + 8);
	assert_true(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &b) < 0);
	assert_non_null(strstr(f.err.msg, "snapshot table"));
	fixture_run(&f, "cp good img");
	fixture_poke_be(&f, "img", table + 36, 4, 2000); /* extra data */
	assert_true(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &b) < 0);
	assert_non_null(strstr(f.err.msg, "2000 bytes of extra data"));
	/* 65,536 entries claimed, one present */
	fixture_run(&f, "cp good img");
	fixture_poke_be(&f, "img", 60, 4, 65536);
	assert_true(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &b) < 0);
	/* the snapshot's L1 table is outside the file: harmless until the snapshot is applied */
	fixture_run(&f, "cp good img");
	fixture_poke_be(&f, "img", table, 8, 1ULL << 50);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

/* ---- invalid tables ---- */

struct table_fixture {
	struct fixture f;
	uint64_t l1, l2, reftable, refblock, data; /* offsets */
};

static void table_find(struct table_fixture *t)
{
	t->l1 = fixture_peek_be(&t->f, "img", 40, 8);
	t->l2 = fixture_peek_be(&t->f, "img", t->l1, 8) & QCOW2_OFFSET_MASK;
	t->data = fixture_peek_be(&t->f, "img", t->l2, 8) & QCOW2_OFFSET_MASK;
	t->reftable = fixture_peek_be(&t->f, "img", 48, 8);
	t->refblock = fixture_peek_be(&t->f, "img", t->reftable, 8);
	assert_true(t->l1 && t->l2 && t->data && t->refblock);
}

/* An image with one data cluster at guest offset 0. */
static void table_begin(struct table_fixture *t, unsigned seed)
{
	fixture_begin(&t->f, seed);
	fixture_run(&t->f, "qemu-img create -q -f qcow2 img 64M; qemu-io -c 'write -P 7 0 64k' img");
	table_find(t);
}

enum { READ_FAILS = 1, READ_WORKS = 2 };

struct told {
	struct block_listener listener;
	unsigned times;
	int error;
};

static void told_trouble(struct block_listener *l, int error, const char *why)
{
	struct told *t = (struct told *)l;

	t->times++;
	t->error = error;
	assert_true(strlen(why) > 10);
}

/* A write of 4 KiB at guest offset off has to fail, set the corrupt bit, notify the listener once,
 * and change nothing else. */
static void expect_corrupt(struct table_fixture *t, uint64_t off, int read)
{
	static uint8_t buf[4096] __attribute__((aligned(4096)));
	struct told told = { .listener.on_error = told_trouble };
	struct fixture *f = &t->f;
	struct block *b;
	int r;

	fixture_run(f, "cp img before");
	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	block_set_listener(b, &told.listener);
	assert_false(block_is_corrupt(b));
	r = fixture_rw(b, BLOCK_READ, off, buf, sizeof(buf));
	assert_int_equal(r, read == READ_FAILS ? -EIO : 0);
	log_silence(true);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, off, buf, sizeof(buf)), -EIO);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 32 * MIB, buf, sizeof(buf)), -EIO);
	assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), -EIO);
	assert_true(block_is_corrupt(b));
	assert_int_equal(told.times, 1);
	assert_int_equal(told.error, -EIO);
	assert_int_equal(block_close(b), -EIO);
	log_silence(false);
	assert_int_equal(fixture_peek_be(f, "img", 72, 8) & 2, 2);
	fixture_poke_be(f, "img", 72, 8, fixture_peek_be(f, "before", 72, 8));
	fixture_run(f, "cmp img before");
	fixture_end(f);
}

#define TABLE_TEST(name, off, read, ...)                                                           \
	static void name(void **state)                                                             \
	{                                                                                          \
		struct table_fixture t;                                                            \
		struct fixture *f = &t.f;                                                          \
                                                                                                   \
		table_begin(&t, 11);                                                               \
		__VA_ARGS__;                                                                       \
		(void)f;                                                                           \
		expect_corrupt(&t, off, read);                                                     \
		(void)state;                                                                       \
	}

/* An L1 table is a well-formed L2 table, so reading is safe. */
TABLE_TEST(test_l1_names_itself, 0, READ_WORKS,
	fixture_poke_be(f, "img", t.l1, 8, t.l1 | QCOW2_COPIED))
TABLE_TEST(test_l2_is_refblock, 4 * MIB, READ_WORKS,
	fixture_poke_be(f, "img", t.l1, 8, t.refblock | QCOW2_COPIED))
TABLE_TEST(test_data_is_l2, 0, READ_WORKS,
	fixture_poke_be(f, "img", t.l2, 8, t.l2 | QCOW2_COPIED))
TABLE_TEST(test_data_is_reftable, 0, READ_WORKS,
	fixture_poke_be(f, "img", t.l2, 8, t.reftable | QCOW2_COPIED))
TABLE_TEST(test_l1_reserved, 0, READ_FAILS,
	fixture_poke_be(f, "img", t.l1, 8, t.l2 | QCOW2_COPIED | 1))
TABLE_TEST(test_l1_misaligned, 0, READ_FAILS,
	fixture_poke_be(f, "img", t.l1, 8, (t.l2 + 512) | QCOW2_COPIED))
TABLE_TEST(test_l2_misaligned, 0, READ_FAILS,
	fixture_poke_be(f, "img", t.l2, 8, (t.data + 512) | QCOW2_COPIED))
TABLE_TEST(test_l2_reserved, 0, READ_FAILS,
	fixture_poke_be(f, "img", t.l2, 8, t.data | QCOW2_COPIED | 1ULL << 60))
TABLE_TEST(test_compressed_copied, 0, READ_FAILS,
	fixture_poke_be(f, "img", t.l2, 8, t.data | QCOW2_COPIED | QCOW2_COMPRESSED))
TABLE_TEST(test_refblock_misaligned, 4 * MIB, READ_WORKS,
	fixture_poke_be(f, "img", t.reftable, 8, t.refblock + 512))
TABLE_TEST(test_refblock_is_l2, 4 * MIB, READ_WORKS,
	fixture_poke_be(f, "img", t.reftable, 8, t.l2))
TABLE_TEST(test_no_refblock, 4 * MIB, READ_WORKS, fixture_poke_be(f, "img", t.reftable, 8, 0))
/* The allocator would hand out the cluster of the active L2 table. */
TABLE_TEST(test_l2_refcount_0, 4 * MIB, READ_WORKS,
	fixture_poke_be(f, "img", t.refblock + (t.l2 >> 16) * 2, 2, 0))

TABLE_TEST(test_reftable_reserved, 4 * MIB, READ_WORKS,
	fixture_poke_be(f, "img", t.reftable, 8, t.refblock | 1))
/* All refcounts read as 0, so clusters in use would be handed out. */
TABLE_TEST(test_refblock_past_end, 4 * MIB, READ_WORKS,
	fixture_poke_be(f, "img", t.reftable, 8, 1ULL << 40))
TABLE_TEST(test_refblock_is_header, 4 * MIB, READ_WORKS,
	fixture_poke_be(f, "img", t.reftable, 8, t.reftable))
TABLE_TEST(test_data_past_2_56, 0, READ_FAILS,
	fixture_poke_be(f, "img", t.l2, 8, QCOW2_COPIED | 1ULL << 56))
/* A data entry points at a snapshot's L2 table, which the active L1 does not reference. */
static void test_data_is_inactive_l2(void **state)
{
	struct table_fixture t;
	uint64_t l2;

	table_begin(&t, 12);
	fixture_run(&t.f, "qemu-img snapshot -c one img; qemu-io -c 'write -P 8 0 64k' img");
	l2 = fixture_peek_be(&t.f, "img", t.l1, 8) & QCOW2_OFFSET_MASK;
	assert_int_not_equal(l2, t.l2);
	fixture_poke_be(&t.f, "img", l2, 8, t.l2 | QCOW2_COPIED);
	expect_corrupt(&t, 0, READ_WORKS);
	(void)state;
}

/* A table past the end of the file reads as zeros. */
static void test_l2_past_end(void **state)
{
	static uint8_t buf[4096], zeros[4096];
	struct table_fixture t;
	struct block *b;

	table_begin(&t, 13);
	fixture_poke_be(&t.f, "img", t.l1, 8, (1ULL << 40) | QCOW2_COPIED);
	b = fixture_open(&t.f, "img", BLOCK_FORMAT_QCOW2, true);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, zeros, sizeof(buf));
	assert_int_equal(block_close(b), 0);
	fixture_end(&t.f);
	(void)state;
}

static void test_garbage_deflate(void **state)
{
	static uint8_t buf[4096];
	struct fixture f;
	struct block *b;
	uint64_t l1, l2, e;

	fixture_begin(&f, 14);
	fixture_run(&f, "yes cairn | head -c 1M >src; qemu-img convert -c -f raw -O qcow2 src img");
	l1 = fixture_peek_be(&f, "img", 40, 8);
	l2 = fixture_peek_be(&f, "img", l1, 8) & QCOW2_OFFSET_MASK;
	e = fixture_peek_be(&f, "img", l2, 8);
	assert_true(e & QCOW2_COMPRESSED);
	memset(buf, 0xff, sizeof(buf));
	fixture_poke(&f, "img", e & ((1ULL << 54) - 1), buf, 64);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	log_silence(true);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf)), -EIO);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 65536, buf, sizeof(buf)), 0);
	log_silence(false);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

/* A compressed stream inside an L2 table: it is unreadable, and freeing it would free the table. */
static void test_compressed_is_l2(void **state)
{
	static uint8_t buf[65536] __attribute__((aligned(4096)));
	struct table_fixture t;
	struct block *b;

	table_begin(&t, 19);
	fixture_poke_be(&t.f, "img", t.l2, 8, QCOW2_COMPRESSED | t.l2);
	b = fixture_open(&t.f, "img", BLOCK_FORMAT_QCOW2, false);
	log_silence(true);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, 4096), -EIO);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, buf, 4096), -EIO); /* nothing to copy */
	(void)fixture_rw(b, BLOCK_WRITE, 0, buf, sizeof(buf));
	(void)fixture_op(b, BLOCK_FLUSH, 0, 0, 0); /* the flush frees the old stream */
	assert_int_equal(block_close(b), -EIO);
	log_silence(false);
	assert_int_equal(fixture_peek_be(&t.f, "img", 72, 8) & 2, 2);
	fixture_end(&t.f);
	(void)state;
}

/* ---- extended L2 and version 2 only ---- */

/* A subcluster must not be both allocated and zero; bit 0 is not a flag. */
static void test_extended_l2_violations_are_detected(void **state)
{
	static const struct {
		uint64_t entry, bitmap;
	} cases[] = { { QCOW2_COPIED, 0x100000001 }, { QCOW2_COPIED | QCOW2_ZERO, 0xffffffff },
		{ 0, 1 } };
	struct table_fixture t;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		fixture_begin(&t.f, 20);
		fixture_run(&t.f, "qemu-img create -q -f qcow2 -o extended_l2=on img 64M; "
			"qemu-io -c 'write -P 7 0 64k' img");
		table_find(&t);
		fixture_poke_be(&t.f, "img", t.l2, 8, cases[i].entry | (cases[i].entry ? t.data : 0));
		fixture_poke_be(&t.f, "img", t.l2 + 8, 8, cases[i].bitmap);
		expect_corrupt(&t, 0, READ_FAILS);
	}
	(void)state;
}

/* Version 2 has neither zero clusters nor a corrupt bit. */
static void test_version_2_has_no_zero_flag(void **state)
{
	static uint8_t buf[4096] __attribute__((aligned(4096)));
	struct table_fixture t;
	struct block *b;

	fixture_begin(&t.f, 21);
	fixture_run(&t.f, "qemu-img create -q -f qcow2 -o compat=0.10 img 64M; "
		"qemu-io -c 'write -P 7 0 64k' img");
	table_find(&t);
	fixture_poke_be(&t.f, "img", t.l2, 8, t.data | QCOW2_COPIED | QCOW2_ZERO);
	fixture_run(&t.f, "cp img before");
	b = fixture_open(&t.f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf)), -EIO);
	log_silence(true);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, buf, sizeof(buf)), -EIO);
	assert_int_equal(block_close(b), -EIO);
	log_silence(false);
	fixture_run(&t.f, "cmp img before");
	fixture_end(&t.f);
	(void)state;
}

/* ---- invalid snapshots ---- */

struct op_wait {
	struct block_snapshot_op op;
	bool over;
	int res;
};

static void op_over(struct block_snapshot_op *op, int res, const struct err *e)
{
	struct op_wait *w = container_of(op, struct op_wait, op);

	(void)e;
	w->over = true;
	w->res = res;
}

static int op_run(struct fixture *f, struct block *b, const char *id,
	void (*start)(struct block *, const char *, struct block_snapshot_op *))
{
	struct op_wait w = { .op.done = op_over };

	start(b, id, &w.op);
	while (!w.over)
		loop_run_once(f->loop, UINT64_MAX);
	return w.res;
}

/* An L1 table outside the file, misaligned, too large or too small; an invalid size. */
static void test_invalid_snapshot_l1_is_refused(void **state)
{
	static const struct {
		unsigned at, size;
		uint64_t value;
	} cases[] = { { 0, 8, 1ULL << 50 }, { 0, 8, 0x10200 }, { 0, 8, UINT64_MAX }, { 0, 8, 0 },
		{ 8, 4, UINT32_MAX }, { 8, 4, 0 }, { 48, 8, UINT64_MAX }, { 48, 8, 1ULL << 40 } };
	static uint8_t buf[65536];
	struct fixture f;

	fixture_begin(&f, 22);
	fixture_run(&f, "qemu-img create -q -f qcow2 good 64M; qemu-io -c 'write -P 7 0 1M' good; "
		"qemu-img snapshot -c one good; qemu-io -c 'write -P 8 0 64k' good");
	log_silence(true);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t table = fixture_peek_be(&f, "good", 64, 8);
		struct block *b = NULL;
		bool gone;

		fixture_run(&f, "cp good img");
		fixture_poke_be(&f, "img", table + cases[i].at, cases[i].size, cases[i].value);
		/* reading the snapshot is refused, or yields zeros */
		f.snapshot = "one";
		if (!fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, true, &b)) {
			(void)fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf));
			assert_int_equal(block_close(b), 0);
		}
		f.snapshot = NULL;
		if (fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &b) < 0)
			continue;
		(void)fixture_vm_read(&f, b, "1", buf, sizeof(buf));
		(void)op_run(&f, b, "1", block_snapshot_apply);
		gone = op_run(&f, b, "1", block_snapshot_delete) == 0;
		(void)block_close(b);
		/* Deleting it freed nothing that is in use. */
		if (gone && !(fixture_peek_be(&f, "img", 72, 8) & 2))
			fixture_check_leaks_only(&f, "img");
	}
	log_silence(false);
	fixture_end(&f);
	(void)state;
}

/* Its L1 table is also something else in use, which a deletion must not free. */
static void test_delete_does_not_free_shared_snapshot_l1(void **state)
{
	static uint8_t buf[4096];
	struct fixture f;

	fixture_begin(&f, 24);
	fixture_run(&f, "qemu-img create -q -f qcow2 good 64M; qemu-io -c 'write -P 7 0 1M' good; "
		"qemu-img snapshot -c one good; qemu-io -c 'write -P 8 0 64k' good");
	log_silence(true);
	for (unsigned i = 0; i < 4; i++) {
		uint64_t snapshots = fixture_peek_be(&f, "good", 64, 8);
		uint64_t tables[] = { 0, fixture_peek_be(&f, "good", 40, 8),
			fixture_peek_be(&f, "good", 48, 8), snapshots };
		struct block *b;

		fixture_run(&f, "cp good img");
		fixture_poke_be(&f, "img", snapshots, 8, tables[i]);
		b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
		(void)op_run(&f, b, "1", block_snapshot_delete);
		assert_int_equal(block_close(b), -EIO);
		assert_int_equal(fixture_peek_be(&f, "img", 72, 8) & 2, 2);
		b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
		assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf)), 0);
		assert_int_equal(buf[0], 8);
		assert_int_equal(block_close(b), 0);
	}
	log_silence(false);
	fixture_end(&f);
	(void)state;
}

/* ---- the file changes while it is open ---- */

/* Four million L1 entries that reference one table: it is walked once, not for hours. */
static void test_shared_l2_table_is_walked_once(void **state)
{
	const uint64_t bytes = 32 * MIB;
	struct qcow2_check c = { 0 };
	CLEANUP_FREE uint64_t *l1 = malloc(bytes);
	struct qcow2_header h;
	struct fixture f;
	char path[128];
	int fd;

	fixture_begin(&f, 23);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 2048T; qemu-io -c 'write 0 64k' img");
	l1[0] = htobe64(fixture_peek_be(&f, "img", fixture_peek_be(&f, "img", 40, 8), 8) & ~(1ULL << 63));
	for (size_t i = 1; i < bytes / 8; i++)
		l1[i] = l1[0];
	fixture_poke(&f, "img", fixture_peek_be(&f, "img", 40, 8), l1, bytes);
	fixture_path(&f, "img", path, sizeof(path));
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(qcow2_header_read(fd, "img", &h, &f.err), 0);
	assert_int_equal(qcow2_check(fd, &h, &c, &f.err), 0);
	assert_int_equal(c.corruptions, 2); /* the table and its cluster, whose refcounts are too low */
	assert_int_equal(c.allocated_clusters, 1);
	log_silence(true);
	assert_true(qcow2_repair(fd, &h, QCOW2_REPAIR_ALL, &c, &f.err) < 0 || c.corruptions);
	log_silence(false);
	close(fd);
	fixture_end(&f);
	(void)state;
}

/* Truncated while open: missing data does not read as zeros, no write makes the image look intact,
 * and nothing hangs. */
static void test_truncated_while_open(void **state)
{
	static const char *const lengths[] = { "0", "512", "64k", "200k", "320k", "1T" };
	static uint8_t buf[65536] __attribute__((aligned(4096)));
	struct fixture f;

	fixture_begin(&f, 23);
	f.cache_bytes = 1;
	fixture_run(&f, "qemu-img create -q -f qcow2 good 64M; qemu-io -c 'write -P 7 0 1M' good");
	log_silence(true);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		bool cut = i + 1 < sizeof(lengths) / sizeof(lengths[0]);
		struct block *b;

		fixture_run(&f, "cp good img");
		b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
		fixture_run(&f, "truncate -s %s img", lengths[i]);
		assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf)), cut ? -ENODATA : 0);
		(void)fixture_rw(b, BLOCK_WRITE, 0, buf, sizeof(buf));
		(void)fixture_rw(b, BLOCK_WRITE, 40 * MIB, buf, sizeof(buf));
		(void)fixture_op(b, BLOCK_DISCARD, 0, 0, 512 * KIB);
		assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), cut ? -EIO : 0);
		assert_int_equal(block_is_corrupt(b), cut);
		(void)block_close(b);
	}
	log_silence(false);
	/* in the last case the file only grew */
	fixture_run(&f, "qemu-img check -q -f qcow2 img");
	fixture_end(&f);
	(void)state;
}

/* Flip every byte of the header and the tables, one at a time: open, read, write, close. Passes
 * when nothing crashes or takes long. */
static void test_flipped_bits_do_not_crash(void **state)
{
	static uint8_t buf[65536] __attribute__((aligned(4096)));
	struct fixture f;

	fixture_begin(&f, 15);
	f.buffered = true;
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=512 good 256k; "
		"qemu-io -c 'write -P 1 0 20k' good; qemu-img snapshot -c one good; "
		"qemu-io -c 'write -P 2 4k 1k' good");
	log_silence(true);
	for (unsigned i = 0; i < 500; i++) {
		uint64_t at = fixture_random(&f) % (i % 2 ? 120 : 24 * KIB);
		struct block *b = NULL;
		uint8_t v = (uint8_t)fixture_random(&f);

		fixture_run(&f, "cp good img");
		fixture_poke(&f, "img", at, &v, 1);
		if (fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &b) < 0)
			continue;
		(void)fixture_rw(b, BLOCK_READ, 0, buf, 16384);
		(void)fixture_rw(b, BLOCK_WRITE, 1024, buf, 8192);
		(void)fixture_op(b, BLOCK_DISCARD, 0, 0, 16384);
		(void)fixture_op(b, BLOCK_FLUSH, 0, 0, 0);
		(void)block_close(b);
	}
	log_silence(false);
	fixture_end(&f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_malformed_headers_are_refused),
		cmocka_unit_test(test_truncated_image_is_refused),
		cmocka_unit_test(test_malformed_snapshot_tables_are_refused),
		cmocka_unit_test(test_l1_names_itself),
		cmocka_unit_test(test_l2_is_refblock),
		cmocka_unit_test(test_data_is_l2),
		cmocka_unit_test(test_data_is_reftable),
		cmocka_unit_test(test_l1_reserved),
		cmocka_unit_test(test_l1_misaligned),
		cmocka_unit_test(test_l2_misaligned),
		cmocka_unit_test(test_l2_reserved),
		cmocka_unit_test(test_compressed_copied),
		cmocka_unit_test(test_refblock_misaligned),
		cmocka_unit_test(test_refblock_is_l2),
		cmocka_unit_test(test_no_refblock),
		cmocka_unit_test(test_l2_refcount_0),
		cmocka_unit_test(test_data_is_inactive_l2),
		cmocka_unit_test(test_l2_past_end),
		cmocka_unit_test(test_garbage_deflate),
		cmocka_unit_test(test_reftable_reserved),
		cmocka_unit_test(test_refblock_past_end),
		cmocka_unit_test(test_refblock_is_header),
		cmocka_unit_test(test_data_past_2_56),
		cmocka_unit_test(test_compressed_is_l2),
		cmocka_unit_test(test_extended_l2_violations_are_detected),
		cmocka_unit_test(test_version_2_has_no_zero_flag),
		cmocka_unit_test(test_invalid_snapshot_l1_is_refused),
		cmocka_unit_test(test_delete_does_not_free_shared_snapshot_l1),
		cmocka_unit_test(test_shared_l2_table_is_walked_once),
		cmocka_unit_test(test_truncated_while_open),
		cmocka_unit_test(test_flipped_bits_do_not_crash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
