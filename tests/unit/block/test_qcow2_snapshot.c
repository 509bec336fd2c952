/* Snapshots inside an image, taken and given back while the guest writes. Oracle: a copy of what
 * the disk held, and qemu-img. */
#include "fixture_block.h"

#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/qcow2.h"

#define DISK (8 * MIB)

/* ---- an operation, waited for ---- */

struct sync_op {
	struct block_snapshot_op op;
	bool over;
	int res;
	struct err err;
};

static void sync_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	struct sync_op *s = container_of(op, struct sync_op, op);

	s->over = true;
	s->res = res;
	s->err = *e;
}

static void sync_wait(struct fixture *f, struct sync_op *s)
{
	while (!s->over)
		loop_run_once(f->loop, UINT64_MAX);
}

static struct block_snapshot *begin(struct fixture *f, struct block *b)
{
	struct block_snapshot *s = NULL;

	if (block_snapshot_begin(b, &s, &f->err) < 0)
		fail_msg("begin: %s", f->err.msg);
	return s;
}

static struct block_snapshot_info info_named(const char *name)
{
	struct block_snapshot_info i = { .sec = 1700000000, .nsec = 5, .vm_clock_ns = 3000000000 };

	snprintf(i.name, sizeof(i.name), "%s", name);
	return i;
}

static void commit_start(struct block_snapshot *s, const struct block_snapshot_info *i,
	struct sync_op *o)
{
	*o = (struct sync_op){ .op.done = sync_done };
	block_snapshot_commit(s, i, &o->op);
	assert_false(o->over); /* done() never runs inside */
}

static void commit(struct fixture *f, struct block_snapshot *s, const struct block_snapshot_info *i,
	char *ret_id)
{
	struct sync_op o;

	commit_start(s, i, &o);
	sync_wait(f, &o);
	if (o.res < 0)
		fail_msg("commit: %s", o.err.msg);
	if (ret_id)
		strcpy(ret_id, o.op.id);
}

static void snapshot(struct fixture *f, struct block *b, const char *name, char *ret_id)
{
	struct block_snapshot_info i = info_named(name);

	commit(f, begin(f, b), &i, ret_id);
}

static void apply(struct fixture *f, struct block *b, const char *id)
{
	struct sync_op o = { .op.done = sync_done };

	block_snapshot_apply(b, id, &o.op);
	sync_wait(f, &o);
	if (o.res < 0)
		fail_msg("apply: %s", o.err.msg);
}

static void delete(struct fixture *f, struct block *b, const char *id)
{
	struct sync_op o = { .op.done = sync_done };

	block_snapshot_delete(b, id, &o.op);
	sync_wait(f, &o);
	if (o.res < 0)
		fail_msg("delete: %s", o.err.msg);
}

/* ---- what the disk held ---- */

static uint8_t *shadow_copy(struct fixture *f)
{
	uint8_t *c = malloc(f->shadow_bytes);

	memcpy(c, f->shadow, f->shadow_bytes);
	return c;
}

static void shadow_file(struct fixture *f, const char *create, uint64_t bytes)
{
	fixture_run(f, "truncate -s %llu shadow && %s", (unsigned long long)bytes, create);
	fixture_shadow_open(f, "shadow", bytes);
}

/* The image is closed: what qemu-img reads of a snapshot is what the copy has. */
static void snapshot_is(struct fixture *f, const char *name, const uint8_t *copy, uint64_t bytes)
{
	char path[128];
	FILE *file;

	fixture_path(f, "copy", path, sizeof(path));
	file = fopen(path, "w");
	assert_int_equal(fwrite(copy, 1, bytes, file), bytes);
	fclose(file);
	fixture_run(f, "qemu-img convert -q -f qcow2 -O raw -l snapshot.name='%s' img out.raw && cmp out.raw copy",
		name);
}

/* ---- tests ---- */

static const char *const creates[] = {
	"qemu-img create -q -f qcow2 img 8M",
	"qemu-img create -q -f qcow2 -o cluster_size=4k img 8M",
	"qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 8M",
	"qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=2 img 8M",
	"qemu-img create -q -f qcow2 -o cluster_size=2M,refcount_bits=8 img 8M",
	"qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=64k img 8M",
	"qemu-img create -q -f qcow2 -o compat=0.10 img 8M",
};

/* Random load before, while one is made, after, while one is deleted, after going back. */
static void rounds(struct fixture *f, const char *create)
{
	char one[24], two[24];
	uint8_t *at_one, *at_two;
	struct block_snapshot_info i = info_named("two");
	struct block_snapshot *s;
	struct sync_op o;
	struct block *b;

	shadow_file(f, create, DISK);
	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(f, b, 300, 8);
	at_one = shadow_copy(f);
	snapshot(f, b, "one", one);
	assert_string_equal(one, "1");
	shadow_run(f, b, 300, 8);

	at_two = shadow_copy(f);
	s = begin(f, b);
	shadow_run(f, b, 20, 8); /* while it counts */
	commit_start(s, &i, &o);
	shadow_run(f, b, 200, 8); /* while it commits */
	sync_wait(f, &o);
	assert_int_equal(o.res, 0);
	strcpy(two, o.op.id);
	assert_string_equal(two, "2");
	shadow_run(f, b, 200, 8);
	shadow_verify(f, b);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	snapshot_is(f, "one", at_one, DISK);
	snapshot_is(f, "two", at_two, DISK);

	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	o = (struct sync_op){ .op.done = sync_done };
	block_snapshot_delete(b, one, &o.op);
	shadow_run(f, b, 300, 8);
	sync_wait(f, &o);
	if (o.res < 0)
		fail_msg("delete: %s", o.err.msg);
	shadow_run(f, b, 100, 8);
	shadow_verify(f, b);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	snapshot_is(f, "two", at_two, DISK);

	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	apply(f, b, two);
	memcpy(f->shadow, at_two, DISK);
	shadow_verify(f, b);
	shadow_run(f, b, 100, 8);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	snapshot_is(f, "two", at_two, DISK);
	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	delete(f, b, two);
	shadow_run(f, b, 100, 8);
	shadow_verify(f, b);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	free(at_one);
	free(at_two);
}

static void test_rounds(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(creates); i++) {
		struct fixture f;

		print_message("%s\n", creates[i]);
		fixture_begin(&f, (getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : 100) + (unsigned)i);
		if (getenv("ONLY") && atoi(getenv("ONLY")) != (int)i) {
			fixture_end(&f);
			continue;
		}
		f.cache_bytes = i % 2 ? 1 : 0; /* the smallest: tables come and go */
		rounds(&f, creates[i]);
		fixture_end(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rounds),
	};

	alarm(30);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
