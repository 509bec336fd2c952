/* Memory of requests in flight: however a guest chooses its requests, what they take from the host's heap stays within
 * the limits, all requests complete, and their data is right. */
#include "fixture_block.h"
#include "fixture_vmstate.h"

#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/qcow2/impl.h"

#define DISK_BYTES (128 * MIB)
#define REQUESTS 64

struct many {
	struct block_req req[REQUESTS];
	struct iovec iov[REQUESTS];
	unsigned done;
};

static struct many *running;

static void many_done(struct block_req *r, int res)
{
	(void)r;
	assert_int_equal(res, 0);
	running->done++;
}

static void many_submit(struct many *m, struct block *b, enum block_op op, uint64_t step, uint8_t *memory, uint64_t len)
{
	running = m;
	for (unsigned i = 0; i < REQUESTS; i++) {
		m->iov[i] = (struct iovec){ memory, len };
		m->req[i] = (struct block_req){ .op = op, .offset = i * step, .len = len, .iov = &m->iov[i], .niov = 1,
			.done = many_done };
		block_submit(b, &m->req[i]);
	}
}

/* 64 requests of 2 MiB to memory that is not aligned. */
static void test_bounce_buffers_are_limited(void **state)
{
	struct fixture f;
	uint8_t *memory = malloc(2 * MIB + 512);
	struct many m = { 0 };
	uint64_t most = 0;
	struct block *b;

	(void)state;
	fixture_begin(&f, 1);
	fixture_run(&f, "head -c 128M /dev/zero | tr '\\0' 'x' >img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_RAW, false);
	b->info.direct = true;
	b->info.buffer_align = 1u << 30;
	for (unsigned op = BLOCK_READ; op <= BLOCK_WRITE; op++) {
		memset(memory, op == BLOCK_READ ? 0 : 'y', 2 * MIB + 512);
		m.done = 0;
		many_submit(&m, b, (enum block_op)op, 2 * MIB, memory + 3, 2 * MIB);
		while (m.done < REQUESTS) {
			most = MAX(most, b->bounce.used_bytes);
			loop_run_once(f.loop, UINT64_MAX);
		}
		for (unsigned i = 0; op == BLOCK_READ && i < 2 * MIB; i++)
			assert_int_equal(memory[3 + i], 'x');
		assert_int_equal(b->bounce.used_bytes, 0);
	}
	assert_int_equal(most, 32 * MIB);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "test $(tr -d y <img | wc -c) = 0");
	free(memory);
	fixture_end(&f);
}

/* A disk of single clusters of 512 bytes: a request of 1 MiB has 2,048 parts. */
static void test_parts_of_fragmented_clusters_are_limited(void **state)
{
	struct fixture f;
	uint8_t *memory = calloc(1, MIB), sector[512];
	struct many m = { 0 };
	uint64_t most = 0;
	struct block *b;

	(void)state;
	fixture_begin(&f, 2);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=512 img 1M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	for (unsigned odd = 0; odd < 2; odd++)
		for (unsigned i = odd; i < 2048; i += 2) {
			memset(sector, (int)(i % 251), 512);
			assert_int_equal(fixture_rw(b, BLOCK_WRITE, i * 512ULL, sector, 512), 0);
		}
	many_submit(&m, b, BLOCK_READ, 0, memory, MIB);
	while (m.done < REQUESTS) {
		most = MAX(most, qcow2_of(b)->parts_bytes);
		loop_run_once(f.loop, UINT64_MAX);
	}
	assert_in_range(most, 1, REQUESTS * 32 * 1024);
	assert_int_equal(qcow2_of(b)->parts_bytes, 0);
	for (unsigned i = 0; i < MIB; i++)
		assert_int_equal(memory[i], i / 512 % 251);
	assert_int_equal(block_close(b), 0);
	free(memory);
	fixture_end(&f);
}

/* Small writes to clusters of 2 MiB that a snapshot shares: each copies a cluster. */
static void test_copies_of_clusters_are_limited(void **state)
{
	struct fixture f;
	uint8_t *memory = malloc(4096);
	struct many m = { 0 };
	uint64_t most = 0;
	struct block *b;

	(void)state;
	fixture_begin(&f, 3);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=2M img 128M && qemu-io -c 'write -P 7 0 128M' img && "
		"qemu-img snapshot -c one img");
	memset(memory, 8, 4096);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	many_submit(&m, b, BLOCK_WRITE, 2 * MIB, memory, 4096);
	while (m.done < REQUESTS) {
		most = MAX(most, qcow2_of(b)->parts_bytes);
		loop_run_once(f.loop, UINT64_MAX);
	}
	assert_in_range(most, 30 * MIB, 36 * MIB); /* the last copy may exceed the limit */
	assert_int_equal(qcow2_of(b)->parts_bytes, 0);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "for i in 0 20 126; do qemu-io -c \"read -P 8 ${i}M 4k\" -c \"read -P 7 $((i * 1024 + 4))k 2044k\" img; done "
		"| grep -c 'verification failed' | grep -qx 0 && qemu-img check -q img");
	free(memory);
	fixture_end(&f);
}

/* Have the pieces of a VM state listed. Returns the result, and sets *ret_n to their number. */
static int state_map(struct fixture *f, struct block *b, const char *id, struct sync_op *o, size_t *ret_n)
{
	struct block_vmstate_map map = { 0 };

	*o = (struct sync_op){ .op.done = sync_done };
	block_vmstate_map(b, id, &map, &o->op);
	sync_wait(f, o);
	*ret_n = map.nextents;
	free(map.extents);
	return o->res;
}

/* A VM state that lies in the file backwards: each of its clusters is a piece. The image's budget limits the list of
 * pieces, because tables that a snapshot's L1 table names again and again make any number of them. */
static void test_pieces_of_a_vm_state_are_limited(void **state)
{
	struct block_snapshot_info info = { .name = "one", .vm_state_bytes = 128 * 4096 };
	struct fixture f;
	struct sync_op o = { .op.done = sync_done };
	struct block_snapshot *s = NULL;
	static _Alignas(4096) uint8_t cluster[4096] = { 1 };
	struct block *b;
	size_t n;

	(void)state;
	fixture_begin(&f, 4);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=4k img 1M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(block_snapshot_begin(b, &s, &f.err), 0);
	for (uint64_t i = 128; i--;)
		assert_int_equal(vm_write(&f, s, i * sizeof(cluster), cluster, sizeof(cluster)), 0);
	block_snapshot_commit(s, &info, &o.op);
	sync_wait(&f, &o);
	assert_int_equal(o.res, 0);
	strcpy(info.id, o.op.id);

	assert_int_equal(state_map(&f, b, info.id, &o, &n), 0);
	assert_in_range(n, 100, 128);
	qcow2_of(b)->memory.max_bytes = 64 * sizeof(struct block_vmstate_extent);
	assert_int_equal(state_map(&f, b, info.id, &o, &n), -EDQUOT);
	assert_non_null(strstr(o.err.msg, "in more pieces than the file has data for"));
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bounce_buffers_are_limited),
		cmocka_unit_test(test_parts_of_fragmented_clusters_are_limited),
		cmocka_unit_test(test_copies_of_clusters_are_limited),
		cmocka_unit_test(test_pieces_of_a_vm_state_are_limited),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
