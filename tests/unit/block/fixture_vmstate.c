#include "fixture_vmstate.h"
#include "fixture_block.h"

#include "base/util.h"
#include "block/block_snapshot.h"

struct vm_op {
	struct block_vmstate_req req;
	struct iovec iov;
	bool over;
	int res;
};

static void vm_done(struct block_vmstate_req *r, int res)
{
	struct vm_op *v = container_of(r, struct vm_op, req);

	v->over = true;
	v->res = res;
}

static struct vm_op vm_op_of(uint64_t off, void *buf, uint64_t len)
{
	return (struct vm_op){ .iov = { buf, len }, .req = { .offset = off, .len = len, .niov = 1,
		.done = vm_done } };
}

static int vm_wait(struct fixture *f, struct vm_op *v)
{
	assert_false(v->over); /* done() never runs inside the call */
	while (!v->over)
		loop_run_once(f->loop, UINT64_MAX);
	return v->res;
}

int vm_write(struct fixture *f, struct block_snapshot *s, uint64_t off, void *buf, uint64_t len)
{
	struct vm_op v = vm_op_of(off, buf, len);

	v.req.iov = &v.iov;
	block_snapshot_vmstate_write(s, &v.req);
	return vm_wait(f, &v);
}

int vm_share(struct fixture *f, struct block_snapshot *s, const char *id, uint64_t off,
	uint64_t len)
{
	struct vm_op v = vm_op_of(off, NULL, len);

	block_snapshot_vmstate_share(s, id, &v.req);
	return vm_wait(f, &v);
}

int vm_read(struct fixture *f, struct block *b, struct block_snapshot *s, const char *id,
	uint64_t off, void *buf, uint64_t len)
{
	struct vm_op v = vm_op_of(off, buf, len);

	v.req.iov = &v.iov;
	if (s)
		block_snapshot_vmstate_read(s, &v.req);
	else
		block_vmstate_read(b, id, &v.req);
	return vm_wait(f, &v);
}

void vm_is(struct fixture *f, struct block *b, struct block_snapshot *s, const char *id,
	const uint8_t *want, uint64_t bytes)
{
	uint8_t *buf = aligned_alloc(4096, bytes);

	memset(buf, 0xee, bytes);
	assert_int_equal(vm_read(f, b, s, id, 0, buf, bytes), 0);
	for (uint64_t i = 0; i < bytes; i++)
		if (buf[i] != want[i])
			fail_msg("VM state of %s differs at 0x%llx", id ? id : "the new one",
				(unsigned long long)i);
	free(buf);
}

void random_fill(struct fixture *f, uint8_t *p, uint64_t len)
{
	for (uint64_t i = 0; i < len; i += 8) {
		uint64_t v = fixture_random(f);

		memcpy(p + i, &v, 8);
	}
}

void state_load(struct fixture *f, struct block_snapshot *s, uint8_t *state, unsigned n)
{
	while (n--) {
		uint64_t off = fixture_random(f) % (STATE / 4096) * 4096, len;

		len = (1 + fixture_random(f) % 40) * 4096;
		len = MIN(len, STATE - off);
		random_fill(f, state + off, len);
		assert_int_equal(vm_write(f, s, off, state + off, len), 0);
	}
}

void map_is(struct fixture *f, struct block *b, const char *id, const uint8_t *state)
{
	struct block_vmstate_map map = { 0 };
	struct sync_op o = { .op.done = sync_done };
	uint8_t *buf;

	block_vmstate_map(b, id, &map, &o.op);
	sync_wait(f, &o);
	if (o.res < 0)
		fail_msg("map: %s", o.err.msg);
	assert_int_equal(map.n, DIV_ROUND_UP(STATE, (uint64_t)map.cluster_bytes));
	buf = aligned_alloc(4096, MAX(map.cluster_bytes, 4096u));
	for (uint64_t i = 0; i < map.n; i++) {
		uint64_t at = i * map.cluster_bytes, len = MIN(STATE - at, (uint64_t)map.cluster_bytes), n;
		uint64_t host = block_vmstate_map_host(&map, i, &n);

		memset(buf, 0, map.cluster_bytes);
		assert_in_range(n, 1, map.n - i);
		if (host)
			assert_true(pread(map.fd, buf, map.cluster_bytes, (off_t)host) >= 0);
		assert_memory_equal(buf, state + at, len);
	}
	free(buf);
	free(map.extents);
}
