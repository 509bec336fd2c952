/* More L2 tables than the cache holds: the runs kept from evicted slices stay correct, and the cache grows. */
#include "fixture_block.h"

#include "base/util.h"
#include "block/block_snapshot.h"

#define CLUSTER (64 * KIB)
#define SLICES 128u /* sixteen per table */
#define REACH (512 * CLUSTER) /* bytes that a slice describes */
#define CACHE_BYTES (128 * KIB) /* room for 24 slices */

struct counter {
	struct loop_trace trace;
	unsigned reads;
};

static void count_submit(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	container_of(t, struct counter, trace)->reads += kind == LOOP_OP_READ;
	(void)op, (void)fd, (void)iov, (void)niov, (void)offset, (void)len, (void)mode;
}

static void count_complete(struct loop_trace *t, struct loop_op *op, int res)
{
	(void)t, (void)op, (void)res;
}

/* Read a block in the ranges of n slices, `step` apart; count the reads of the file. */
static unsigned visit(struct fixture *f, struct block *b, unsigned n, unsigned step)
{
	struct counter c = { .trace = { count_submit, count_complete } };
	static uint8_t buf[512];

	loop_trace(f->loop, &c.trace);
	for (unsigned i = 0; i < n; i++) {
		uint64_t slice = (uint64_t)i * step % n;

		assert_int_equal(fixture_rw(b, BLOCK_READ, slice * REACH + slice % 512 * CLUSTER, buf, sizeof(buf)), 0);
	}
	loop_trace(f->loop, NULL);
	return c.reads;
}

static unsigned visit_all(struct fixture *f, struct block *b)
{
	return visit(f, b, SLICES, 1);
}

static struct block *mapped_open(struct fixture *f, unsigned seed)
{
	fixture_begin(f, seed);
	f->cache_bytes = CACHE_BYTES;
	fixture_run(f, "qemu-img create -q -f qcow2 -o preallocation=metadata img 4G");
	return fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
}

static void test_tables_in_order_are_read_once(void **state)
{
	struct fixture f;
	struct block *b = mapped_open(&f, 1);

	assert_int_equal(visit_all(&f, b), 2 * SLICES);
	assert_int_equal(visit_all(&f, b), SLICES);
	assert_int_equal(visit_all(&f, b), SLICES);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

static void assert_reads(struct block *b, uint64_t off, uint8_t want)
{
	static uint8_t buf[CLUSTER], expected[CLUSTER];

	memset(expected, want, sizeof(expected));
	assert_int_equal(fixture_rw(b, BLOCK_READ, off, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, expected, sizeof(buf));
}

/* Clusters change in the range of a kept slice while other slices are loaded and evicted. */
static void test_changes_reach_kept_slices(void **state)
{
	static uint8_t pattern[CLUSTER];
	uint64_t off = 3 * REACH + 5 * CLUSTER;
	struct fixture f;
	struct block *b = mapped_open(&f, 2);

	visit_all(&f, b);
	for (uint8_t round = 1; round < 6; round++) {
		memset(pattern, round, sizeof(pattern));
		assert_int_equal(fixture_rw(b, BLOCK_WRITE, off, pattern, sizeof(pattern)), 0);
		visit_all(&f, b);
		assert_reads(b, off, round);
		assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), 0);
		visit_all(&f, b);
		assert_int_equal(fixture_op(b, BLOCK_DISCARD, 0, off, CLUSTER), 0);
		assert_reads(b, off, 0);
		assert_reads(b, off + CLUSTER, 0);
		assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), 0);
		visit_all(&f, b);
		assert_reads(b, off, 0);
	}
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, off, pattern, sizeof(pattern)), 0);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img");
	fixture_run(&f, "qemu-io -r -c 'read -q -P 5 %llu 64k' -c 'read -q -P 0 0 64M' img",
		(unsigned long long)off);
	fixture_end(&f);
	(void)state;
}

/* Tables are copied away from a snapshot and freed when it is applied; their clusters hold other
 * tables in the next round. */
static void test_reused_clusters_do_not_confuse_cache(void **state)
{
	static uint8_t pattern[CLUSTER];
	struct fixture f;
	struct block *b = mapped_open(&f, 4);

	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img snapshot -c one img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	for (uint64_t round = 1; round < 6; round++) {
		struct sync_op o = { .op.done = sync_done };

		memset(pattern, (int)round, sizeof(pattern));
		for (uint64_t i = round; i < SLICES; i += 8)
			assert_int_equal(fixture_rw(b, BLOCK_WRITE, i * REACH, pattern, sizeof(pattern)), 0);
		assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), 0);
		visit_all(&f, b);
		for (uint64_t i = 0; i < SLICES; i++) {
			assert_reads(b, i * REACH, i % 8 == round ? (uint8_t)round : 0);
			assert_reads(b, i * REACH + CLUSTER, 0);
		}
		block_snapshot_apply(b, "1", &o.op);
		if (sync_wait(&f, &o) < 0)
			fail_msg("%s", o.err.msg);
	}
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img");
	fixture_end(&f);
	(void)state;
}

/* Reverse the entries of each L2 slice, so that none is a run of adjacent clusters. */
static void entries_reverse(struct fixture *f, const char *name, unsigned tables)
{
	static uint64_t l1[1024], slice[512];
	uint64_t l1_offset;
	char path[256];
	int fd;

	fixture_path(f, name, path, sizeof(path));
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(pread(fd, &l1_offset, sizeof(l1_offset), 40), sizeof(l1_offset));
	assert_in_range(tables, 1, ARRAY_SIZE(l1));
	assert_int_equal(pread(fd, l1, tables * 8, (off_t)be64toh(l1_offset)), tables * 8);
	for (unsigned i = 0; i < tables * 16; i++) {
		off_t at = (off_t)((be64toh(l1[i / 16]) & 0x00fffffffffffe00ULL) + i % 16 * sizeof(slice));

		assert_int_equal(pread(fd, slice, sizeof(slice), at), sizeof(slice));
		for (unsigned k = 0; k < 256; k++) {
			uint64_t entry = slice[k];

			slice[k] = slice[511 - k];
			slice[511 - k] = entry;
		}
		assert_int_equal(pwrite(fd, slice, sizeof(slice), at), sizeof(slice));
	}
	close(fd);
}

/* Its tables have 4/3 of the size of the default cache. */
#define LARGE_TABLES 64u
#define LARGE_SLICES (16 * LARGE_TABLES)

static void large_make(struct fixture *f, unsigned seed)
{
	fixture_begin(f, seed);
	fixture_run(f, "qemu-img create -q -f qcow2 -o preallocation=metadata img 32G");
	entries_reverse(f, "img", LARGE_TABLES);
}

static void test_cache_grows_while_evicted_slices_are_wanted(void **state)
{
	struct fixture f;
	struct block *b;
	unsigned reads = 0;

	large_make(&f, 6);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(visit(&f, b, LARGE_SLICES, 1), 2 * LARGE_SLICES);
	for (unsigned round = 0; round < 100 && reads != LARGE_SLICES; round++)
		reads = visit(&f, b, LARGE_SLICES, 5 + 2 * (round % 50) * 3);
	assert_int_equal(visit(&f, b, LARGE_SLICES, 1), LARGE_SLICES);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img");
	fixture_end(&f);
	(void)state;
}

static void test_cache_of_a_chosen_size_does_not_grow(void **state)
{
	struct fixture f;
	struct block *b;

	large_make(&f, 8);
	f.cache_bytes = 4 * MIB;
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	for (unsigned round = 0; round < 40; round++)
		visit(&f, b, LARGE_SLICES, 5 + 6 * round);
	assert_in_range(visit(&f, b, LARGE_SLICES, 5), LARGE_SLICES + LARGE_SLICES / 8, 2 * LARGE_SLICES);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

/* 256 MiB in clusters of 512 bytes need 4 MiB of L2 tables. */
static void test_random_while_the_cache_grows(void **state)
{
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 10);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=512,preallocation=metadata img 256M && truncate -s 256M shadow");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	fixture_shadow_open(&f, "shadow", 256 * MIB);
	shadow_run(&f, b, 12000, 8);
	shadow_verify(&f, b);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img && qemu-img compare -q -f raw -F qcow2 shadow img");
	fixture_end(&f);
	(void)state;
}

static void test_random_with_small_caches(void **state)
{
	static const struct {
		const char *options;
		uint64_t cache_bytes;
	} sets[] = {
		{ "cluster_size=512", 32 * KIB },
		{ "cluster_size=512,preallocation=metadata", 48 * KIB },
		{ "cluster_size=1k,compat=0.10", 64 * KIB },
		{ "cluster_size=2k,preallocation=metadata", 64 * KIB },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(sets); i++) {
		struct fixture f;

		fixture_begin(&f, 20 + 2 * i); /* an even seed uses the tmpfs, which is faster */
		f.cache_bytes = sets[i].cache_bytes;
		fixture_run(&f, "qemu-img create -q -f qcow2 -o %s img 24M && truncate -s 24M shadow",
			sets[i].options);
		for (unsigned depth = 1; depth < 16; depth += 7) {
			struct block *b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);

			fixture_shadow_open(&f, "shadow", 24 * MIB);
			shadow_run(&f, b, 300, depth);
			shadow_verify(&f, b);
			shadow_verify(&f, b);
			assert_int_equal(block_close(b), 0);
			fixture_run(&f, "qemu-img check -q img && qemu-img compare -q -f raw -F qcow2 shadow img");
		}
		fixture_end(&f);
	}
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tables_in_order_are_read_once),
		cmocka_unit_test(test_changes_reach_kept_slices),
		cmocka_unit_test(test_reused_clusters_do_not_confuse_cache),
		cmocka_unit_test(test_random_with_small_caches),
		cmocka_unit_test(test_cache_grows_while_evicted_slices_are_wanted),
		cmocka_unit_test(test_cache_of_a_chosen_size_does_not_grow),
		cmocka_unit_test(test_random_while_the_cache_grows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
