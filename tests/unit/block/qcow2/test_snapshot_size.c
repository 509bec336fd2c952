/* Space used only by one snapshot. Oracle: qemu-img deletes the snapshot in a copy of the image;
 * count the used clusters before and after. */
#include "fixture_block.h"

#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/qcow2/impl.h"

#define DISK (8 * MIB)
#define STATE (4 * MIB)

static uint64_t own(struct fixture *f, struct block *b, const char *id)
{
	struct sync_op o = {.op.done = sync_done};
	uint64_t bytes = 1;

	block_snapshot_own(b, id, &bytes, &o.op);
	assert_false(o.over);
	if (sync_wait(f, &o) < 0)
		fail_msg("own: %s", o.err.msg);
	return bytes;
}

struct state_write {
	struct block_vmstate_req req;
	bool over;
};

static void state_written(struct block_vmstate_req *r, int res)
{
	assert_int_equal(res, 0);
	container_of(r, struct state_write, req)->over = true;
}

/* Create a snapshot with `state` bytes of VM state, the second half shared with snapshot `from`. */
static void snapshot(
	struct fixture *f, struct block *b, const char *name, uint64_t state, const char *from)
{
	struct block_snapshot_info info = {.sec = 1700000000, .vm_state_bytes = state};
	struct sync_op o = {.op.done = sync_done};
	uint8_t *buf = aligned_alloc(4096, STATE);
	struct block_snapshot *s;

	memset(buf, 0x5a, STATE);
	strcpy(info.name, name);
	assert_int_equal(block_snapshot_begin(b, &s, &f->err), 0);
	for (uint64_t at = 0; at < state;) {
		bool share = from && at >= STATE / 2;
		uint64_t len = share ? state - at : 64 * KIB;
		struct iovec iov = {buf + at, len};
		struct state_write w = {.req = {.offset = at, .len = len, .done = state_written}};

		if (share) {
			block_snapshot_vmstate_share(s, from, &w.req);
		} else {
			w.req.iov = &iov;
			w.req.niov = 1;
			block_snapshot_vmstate_write(s, &w.req);
		}
		while (!w.over)
			loop_run_once(f->loop, UINT64_MAX);
		at += len;
	}
	block_snapshot_commit(s, &info, &o.op);
	if (sync_wait(f, &o) < 0)
		fail_msg("commit: %s", o.err.msg);
	free(buf);
}

/* ---- the oracle ---- */

/* Count clusters with a refcount above 0; refcounts have at least 8 bits here. */
static uint64_t in_use(struct fixture *f, const char *name)
{
	uint32_t bits = (uint32_t)fixture_peek_be(f, name, 20, 4), order = 4;
	uint64_t table = fixture_peek_be(f, name, 48, 8), n = 0, cluster = 1ULL << bits, size;
	char path[128];
	uint8_t *all;
	FILE *file;

	if (fixture_peek_be(f, name, 4, 4) >= 3)
		order = (uint32_t)fixture_peek_be(f, name, 96, 4);
	fixture_path(f, name, path, sizeof(path));
	file = fopen(path, "r");
	fseek(file, 0, SEEK_END);
	size = (uint64_t)ftell(file);
	rewind(file);
	all = calloc(1, size + cluster);
	assert_int_equal(fread(all, 1, size, file), size);
	fclose(file);
	for (uint64_t i = 0; i < cluster / 8; i++) {
		uint64_t block = 0;

		for (int k = 0; k < 8; k++)
			block = block << 8 | all[table + i * 8 + (uint64_t)k];
		for (uint64_t r = 0; block && r < cluster; r += 1ULL << order >> 3) {
			bool any = false;

			for (uint64_t k = 0; k < 1ULL << order >> 3; k++)
				any |= all[block + r + k] != 0;
			n += any;
		}
	}
	free(all);
	return n * cluster;
}

/* Return the bytes that a deletion in a copy frees, except the L1 table (one cluster here). */
static uint64_t given_back(struct fixture *f, const char *name)
{
	uint64_t cluster = 1ULL << fixture_peek_be(f, "img", 20, 4), before, after;

	fixture_run(f, "cp img copy");
	before = in_use(f, "copy");
	fixture_run(f, "qemu-img snapshot -d '%s' copy && qemu-img check -q copy", name);
	after = in_use(f, "copy");
	return before - after - cluster;
}

static void compare(struct fixture *f, const char *const *names, size_t n)
{
	struct block *b;
	uint64_t bytes[8];

	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	for (size_t i = 0; i < n; i++) {
		char id[8];

		snprintf(id, sizeof(id), "%zu", i + 1);
		bytes[i] = own(f, b, id);
	}
	assert_int_equal(block_close(b), 0);
	for (size_t i = 0; i < n; i++)
		if (bytes[i] != given_back(f, names[i]))
			fail_msg("%s: %llu, and deleting gives %llu", names[i],
				(unsigned long long)bytes[i],
				(unsigned long long)given_back(f, names[i]));
}

/* ---- tests ---- */

static const char *const creates[] = {
	"qemu-img create -q -f qcow2 img 8M",
	"qemu-img create -q -f qcow2 -o cluster_size=4k img 8M",
	"qemu-img create -q -f qcow2 -o cluster_size=2M,refcount_bits=8 img 8M",
	"qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=64k img 8M",
};

static void against_qemu(struct fixture *f, const char *create)
{
	static const char *const names[] = {"one", "two", "three", "four"};
	struct block *b;
	uint64_t one, two;

	fixture_run(f, "truncate -s 8M shadow && %s", create);
	fixture_shadow_open(f, "shadow", DISK);
	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(f, b, 200, 8);
	snapshot(f, b, "one", 0, NULL);
	assert_int_equal(own(f, b, "1"), 0); /* nothing has changed since */
	shadow_run(f, b, 100, 8);
	one = own(f, b, "1");
	assert_true(one > 0);
	snapshot(f, b, "two", STATE, NULL);
	assert_int_equal(own(f, b, "1"), one);
	two = own(f, b, "2");
	assert_true(two >= STATE);
	shadow_run(f, b, 50, 8);
	snapshot(f, b, "three", STATE, "2");
	assert_true(own(f, b, "3") < two);
	snapshot(f, b, "four", 0, NULL);
	assert_int_equal(own(f, b, "4"), 0);
	shadow_run(f, b, 20, 8);
	assert_int_equal(block_close(b), 0);
	compare(f, names, ARRAY_SIZE(names));
}

static void test_own_size_matches_qemu(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(creates); i++) {
		struct fixture f;

		fixture_begin(&f, i);
		against_qemu(&f, creates[i]);
		fixture_end(&f);
	}
}

/* Compressed streams share clusters, with streams of the same or of another snapshot. */
static void test_own_size_with_compressed_clusters(void **state)
{
	static const char *const names[] = {"one", "two"};
	struct fixture f;
	struct block *b;

	(void)state;
	fixture_begin(&f, 7);
	fixture_run(&f, "for i in $(seq 1 120000); do echo $i $((i * i)); done >raw && truncate -s "
			"8M raw && "
			"qemu-img convert -c -f raw -O qcow2 raw img && cp raw shadow");
	fixture_shadow_open(&f, "shadow", DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	snapshot(&f, b, "one", 0, NULL);
	assert_int_equal(own(&f, b, "1"), 0);
	shadow_run(&f, b, 60, 8);
	snapshot(&f, b, "two", 0, NULL);
	assert_int_equal(own(&f, b, "2"), 0);
	shadow_run(&f, b, 200, 8);
	assert_int_equal(block_close(b), 0);
	compare(&f, names, ARRAY_SIZE(names));
	fixture_end(&f);
}

/* A forged image names more clusters with several compressed streams than its memory may count. */
static void test_clusters_beyond_the_budget_are_refused(void **state)
{
	struct sync_op o = {.op.done = sync_done};
	struct fixture f;
	uint64_t bytes;
	struct block *b;

	(void)state;
	fixture_begin(&f, 1);
	fixture_run(&f, "for i in $(seq 1 120000); do echo $i $((i * i)); done >raw && truncate -s 8M raw && "
		"qemu-img convert -c -f raw -O qcow2 raw img && qemu-img snapshot -c one img && "
		"qemu-io -c 'write 7M 64k' img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_in_range(own(&f, b, "1"), MIB / 16, MIB);
	qcow2_of(b)->memory.max_bytes = 4096;
	block_snapshot_own(b, "1", &bytes, &o.op);
	assert_int_equal(sync_wait(&f, &o), -EDQUOT);
	assert_non_null(strstr(o.err.msg, "copy the image with `cairn-img convert`"));
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
}

/* The guest continues meanwhile, and a change of the snapshots does not wait. */
static void test_size_query_runs_beside_other_requests(void **state)
{
	struct sync_op o = {.op.done = sync_done}, late = {.op.done = sync_done},
		       d = {.op.done = sync_done};
	uint64_t bytes = 77;
	struct fixture f;
	struct block *b;

	(void)state;
	fixture_begin(&f, 3);
	fixture_run(&f, "truncate -s 8M shadow && %s", creates[1]);
	fixture_shadow_open(&f, "shadow", DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(&f, b, 200, 8);
	snapshot(&f, b, "one", 0, NULL);
	block_snapshot_own(b, "1", &bytes, &o.op);
	shadow_run(&f, b, 200, 8);
	assert_int_equal(sync_wait(&f, &o), 0);
	shadow_verify(&f, b);

	bytes = 77;
	o = (struct sync_op){.op.done = sync_done};
	block_snapshot_own(b, "1", &bytes, &o.op);
	block_snapshot_delete(b, "1", &d.op);
	block_snapshot_own(b, "1", &bytes, &late.op);
	assert_int_equal(sync_wait(&f, &o), -ECANCELED);
	assert_int_equal(sync_wait(&f, &late), -EBUSY);
	assert_int_equal(sync_wait(&f, &d), 0);
	assert_int_equal(bytes, 77);
	o = (struct sync_op){.op.done = sync_done};
	block_snapshot_own(b, "1", &bytes, &o.op);
	assert_int_equal(sync_wait(&f, &o), -ENOENT);
	shadow_verify(&f, b);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	fixture_end(&f);
}

/* An L1 entry that is not a table, or an impossible L2 entry: skipped, without harm. */
static void test_damaged_tables_are_skipped(void **state)
{
	struct fixture f;
	struct block *b;
	uint64_t table, l1, before;

	(void)state;
	fixture_begin(&f, 5);
	fixture_run(&f, "truncate -s 8M shadow && %s", creates[1]);
	fixture_shadow_open(&f, "shadow", DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(&f, b, 200, 8);
	snapshot(&f, b, "one", 0, NULL);
	shadow_run(&f, b, 200, 8);
	before = own(&f, b, "1");
	assert_int_equal(block_close(b), 0);
	table = fixture_peek_be(&f, "img", 64, 8);
	l1 = fixture_peek_be(&f, "img", table, 8);
	fixture_poke_be(&f, "img", l1, 8, fixture_peek_be(&f, "img", 40, 8)); /* the active L1 table */
	fixture_poke_be(&f, "img", l1 + 8, 8, 0x0123456789abcdefULL);
	log_silence(true);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_true(own(&f, b, "1") < before);
	assert_int_equal(block_close(b), 0);
	fixture_poke_be(&f, "img", table, 8, 0x1001);
	b = NULL;
	if (fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &b) == 0) {
		struct sync_op o = {.op.done = sync_done};

		block_snapshot_own(b, "1", &before, &o.op);
		assert_true(sync_wait(&f, &o) < 0);
		assert_int_equal(block_close(b), 0);
	}
	log_silence(false);
	fixture_end(&f);
}

static void test_impossible_size_queries_are_refused(void **state)
{
	struct sync_op o = {.op.done = sync_done};
	struct fixture f;
	struct block *b;
	uint64_t bytes;

	(void)state;
	fixture_begin(&f, 1);
	fixture_run(&f, "truncate -s 1M img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_RAW, false);
	block_snapshot_own(b, "1", &bytes, &o.op);
	assert_int_equal(sync_wait(&f, &o), -ENOTSUP);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "%s && qemu-img snapshot -c one img", creates[0]);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	o = (struct sync_op){.op.done = sync_done};
	block_snapshot_own(b, "1", &bytes, &o.op);
	assert_int_equal(sync_wait(&f, &o), -EROFS);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_own_size_matches_qemu),
		cmocka_unit_test(test_own_size_with_compressed_clusters),
		cmocka_unit_test(test_clusters_beyond_the_budget_are_refused),
		cmocka_unit_test(test_size_query_runs_beside_other_requests),
		cmocka_unit_test(test_damaged_tables_are_skipped),
		cmocka_unit_test(test_impossible_size_queries_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
