/* Internal snapshots, created and deleted while the guest writes. Oracle: a copy of the disk's
 * content, and qemu-img. */
#include "fixture_block.h"
#include "fixture_vmstate.h"

#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/qcow2/qcow2.h"

#define DISK (8 * MIB)

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
	assert_false(o->over); /* done() never runs inside block_snapshot_commit() */
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

/* ---- expected content ---- */

static void shadow_file(struct fixture *f, const char *create, uint64_t bytes)
{
	fixture_run(f, "truncate -s %llu shadow && %s", (unsigned long long)bytes, create);
	fixture_shadow_open(f, "shadow", bytes);
}

/* qemu-img reads the same content from the snapshot as the copy has. The image is closed. */
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

/* Random load before, during and after a creation, during a deletion, and after a revert. */
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
	shadow_run(f, b, 20, 8); /* while the engine counts references */
	commit_start(s, &i, &o);
	shadow_run(f, b, 200, 8); /* while the engine commits */
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

static void test_snapshots_under_load_keep_content(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(creates); i++) {
		struct fixture f;

		print_message("%s\n", creates[i]);
		fixture_begin(&f, 100 + (unsigned)i);
		f.cache_bytes = i % 2 ? 1 : 0; /* the smallest cache, so that tables are evicted and loaded */
		rounds(&f, creates[i]);
		fixture_end(&f);
	}
}

/* ---- the VM state ---- */

/* A VM state, and a second one that shares with it, written while the guest writes. */
static void states(struct fixture *f, const char *create)
{
	uint8_t *a = aligned_alloc(4096, STATE), *c = aligned_alloc(4096, STATE), *disk;
	struct block_snapshot_info i = info_named("a"), *list;
	struct block_snapshot *s;
	char one[24], two[24];
	struct block *b;
	size_t n;

	shadow_file(f, create, DISK);
	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(f, b, 100, 8);
	memset(a, 0, STATE);
	s = begin(f, b);
	disk = shadow_copy(f);
	for (unsigned k = 0; k < 4; k++) {
		state_load(f, s, a, 10);
		shadow_run(f, b, 20, 8);
	}
	vm_is(f, b, s, NULL, a, STATE);
	i.vm_state_bytes = STATE;
	i.extra_bytes = 300;
	memset(i.extra, 0x5a, 300);
	commit(f, s, &i, one);
	shadow_run(f, b, 100, 8);
	vm_is(f, b, NULL, one, a, STATE);
	map_is(f, b, one, a);

	memcpy(c, a, STATE);
	s = begin(f, b);
	assert_int_equal(vm_share(f, s, one, 0, STATE), 0);
	vm_is(f, b, s, NULL, a, STATE);
	state_load(f, s, c, 6);
	shadow_run(f, b, 50, 8);
	assert_int_equal(vm_share(f, s, one, 2 * MIB, 2 * MIB), 0); /* shared again: the later call counts */
	memcpy(c + 2 * MIB, a + 2 * MIB, 2 * MIB);
	state_load(f, s, c, 3);
	i = info_named("c");
	i.vm_state_bytes = STATE;
	commit(f, s, &i, two);
	vm_is(f, b, NULL, one, a, STATE);
	vm_is(f, b, NULL, two, c, STATE);
	map_is(f, b, one, a);
	map_is(f, b, two, c);
	shadow_verify(f, b);
	assert_int_equal(block_snapshot_list(b, &list, &n, &f->err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(list[0].extra_bytes, 300);
	assert_int_equal(list[0].extra[299], 0x5a);
	assert_int_equal(list[0].vm_state_bytes, STATE);
	assert_int_equal(list[0].disk_bytes, DISK);
	assert_int_equal(list[0].vm_clock_ns, 3000000000);
	free(list);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	snapshot_is(f, "a", disk, DISK);

	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	delete(f, b, one);
	vm_is(f, b, NULL, two, c, STATE);
	shadow_verify(f, b);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	vm_is(f, b, NULL, two, c, STATE);
	apply(f, b, two);
	vm_is(f, b, NULL, two, c, STATE);
	delete(f, b, two);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q img");
	free(a);
	free(c);
	free(disk);
}

static void test_vm_states_are_shared_and_read_back(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(creates); i++) {
		struct fixture f;

		print_message("%s\n", creates[i]);
		fixture_begin(&f, 200 + (unsigned)i);
		f.cache_bytes = i % 2 ? 0 : 1;
		states(&f, creates[i]);
		fixture_end(&f);
	}
}

static struct block_snapshot *open_early(struct fixture *f, struct block *b, const char *share)
{
	struct block_snapshot *s = NULL;

	assert_int_equal(block_snapshot_open(b, &s, &f->err), 0);
	if (share)
		assert_int_equal(vm_share(f, s, share, 0, STATE), 0);
	return s;
}

/* The VM state is written while the guest changes the disk; the snapshot's disk is as at the freeze. */
static void state_first(struct fixture *f, const char *create)
{
	uint8_t *a = aligned_alloc(4096, STATE), *c = aligned_alloc(4096, STATE), *disk;
	struct block_snapshot_info i = info_named("c");
	struct sync_op o = { .op.done = sync_done };
	struct block_snapshot *s;
	char one[24], two[24];
	struct block *b;

	shadow_file(f, create, DISK);
	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(f, b, 100, 8);
	memset(a, 0, STATE);
	s = open_early(f, b, NULL);
	assert_int_equal(block_snapshot_freeze(s, &f->err), 0); /* at once */
	state_load(f, s, a, 10);
	i = info_named("a");
	i.vm_state_bytes = STATE;
	commit(f, s, &i, one);

	memcpy(c, a, STATE);
	s = open_early(f, b, one);
	for (unsigned k = 0; k < 4; k++) {
		state_load(f, s, c, 6);
		shadow_run(f, b, 50, 8);
	}
	assert_int_equal(block_snapshot_freeze(s, &f->err), 0);
	disk = shadow_copy(f);
	shadow_run(f, b, 20, 8); /* while the engine counts references */
	state_load(f, s, c, 3);
	i = info_named("c");
	i.vm_state_bytes = STATE;
	commit(f, s, &i, two);
	shadow_run(f, b, 100, 8);
	vm_is(f, b, NULL, one, a, STATE);
	vm_is(f, b, NULL, two, c, STATE);

	s = open_early(f, b, two);
	state_load(f, s, c, 6);
	block_snapshot_abort(s, &o.op); /* without a freeze */
	shadow_run(f, b, 50, 8);
	sync_wait(f, &o);
	shadow_verify(f, b);
	(void)open_early(f, b, two); /* closing aborts it */
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	snapshot_is(f, "c", disk, DISK);
	free(a);
	free(c);
	free(disk);
}

static void test_vm_state_may_be_written_before_the_freeze(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(creates); i++) {
		struct fixture f;

		print_message("%s\n", creates[i]);
		fixture_begin(&f, 250 + (unsigned)i);
		f.cache_bytes = i % 2 ? 0 : 1;
		state_first(&f, creates[i]);
		fixture_end(&f);
	}
}

/* Aborted at any point, a snapshot leaves nothing behind. */
static void test_aborted_snapshot_leaves_nothing(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 6; i++) {
		struct sync_op o = { .op.done = sync_done };
		uint8_t *vm = aligned_alloc(4096, STATE);
		struct block_snapshot *s;
		struct fixture f;
		struct block *b;

		fixture_begin(&f, 300 + i);
		shadow_file(&f, creates[i], DISK);
		b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
		shadow_run(&f, b, 300, 8);
		s = begin(&f, b);
		if (i % 3)
			shadow_run(&f, b, 30, 8);
		if (i % 2)
			state_load(&f, s, vm, 10);
		block_snapshot_abort(s, &o.op);
		shadow_run(&f, b, 100, 8);
		sync_wait(&f, &o);
		shadow_run(&f, b, 100, 8);
		if (i == 5)
			(void)begin(&f, b); /* closing aborts it */
		assert_int_equal(block_close(b), 0);
		fixture_run(&f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
		free(vm);
		fixture_end(&f);
	}
}

/* QEMU works with Cairn's snapshots and keeps their extra data, and Cairn with QEMU's. */
static void test_qemu_and_cairn_share_snapshots(void **state)
{
	struct block_snapshot_info i = info_named("ours"), *list;
	uint8_t *vm = aligned_alloc(4096, STATE), *at;
	struct block_snapshot *s;
	struct fixture f;
	struct block *b;
	char id[24];
	size_t n;

	(void)state;
	fixture_begin(&f, 400);
	shadow_file(&f, creates[1], DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(&f, b, 200, 8);
	at = shadow_copy(&f);
	s = begin(&f, b);
	memset(vm, 0, STATE);
	state_load(&f, s, vm, 20);
	i.vm_state_bytes = STATE;
	i.extra_bytes = 100;
	memset(i.extra, 0x77, 100);
	commit(&f, s, &i, id);
	shadow_run(&f, b, 200, 8);
	assert_int_equal(block_close(b), 0);

	fixture_run(&f, "qemu-img snapshot -c theirs img && qemu-img snapshot -c more img && "
		"qemu-img snapshot -d more img && qemu-img snapshot -l img | grep -q ours && "
		"qemu-img snapshot -a ours img && qemu-img check -q img");
	memcpy(f.shadow, at, DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_verify(&f, b);
	vm_is(&f, b, NULL, id, vm, STATE);
	shadow_run(&f, b, 200, 8);
	free(at);
	at = shadow_copy(&f);
	snapshot(&f, b, "third", NULL);
	assert_int_equal(block_snapshot_list(b, &list, &n, &f.err), 0);
	assert_int_equal(n, 3);
	assert_string_equal(list[0].name, "ours");
	assert_int_equal(list[0].extra_bytes, 100);
	assert_int_equal(list[0].extra[99], 0x77);
	assert_string_equal(list[1].name, "theirs");
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img && qemu-img snapshot -d ours img && qemu-img check -q img");
	snapshot_is(&f, "third", at, DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	apply(&f, b, list[1].id);
	apply(&f, b, list[2].id);
	delete(&f, b, list[1].id);
	delete(&f, b, list[2].id);
	memcpy(f.shadow, at, DISK);
	shadow_verify(&f, b);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img && test -z \"$(qemu-img snapshot -l img)\"");
	free(list);
	free(at);
	free(vm);
	fixture_end(&f);
}

/* ---- refused operations ---- */

static int commit_fails(struct fixture *f, struct block *b, const struct block_snapshot_info *i,
	const char *sentence)
{
	struct sync_op o;

	commit_start(begin(f, b), i, &o);
	sync_wait(f, &o);
	assert_non_null(strstr(o.err.msg, sentence));
	return o.res;
}

static void test_invalid_operations_are_refused(void **state)
{
	struct block_snapshot_info i = info_named("twice"), *list;
	struct block_snapshot *s, *none = NULL;
	struct sync_op o = { .op.done = sync_done };
	struct fixture f;
	struct block *b;
	size_t n;

	(void)state;
	fixture_begin(&f, 500);
	fixture_run(&f, "truncate -s 1M raw && qemu-img create -q -f qcow2 img 1M && "
		"qemu-img create -q -f qcow2 -o refcount_bits=1 one 1M");
	b = fixture_open(&f, "raw", BLOCK_FORMAT_RAW, false);
	assert_int_equal(block_snapshot_begin(b, &none, &f.err), -ENOTSUP);
	assert_string_equal(f.err.msg, "disk vda is raw; internal snapshots need qcow2");
	block_snapshot_delete(b, "1", &o.op);
	sync_wait(&f, &o);
	assert_int_equal(o.res, -ENOTSUP);
	block_close(b);
	b = fixture_open(&f, "one", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(block_snapshot_begin(b, &none, &f.err), -ENOTSUP);
	block_close(b);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	assert_int_equal(block_snapshot_begin(b, &none, &f.err), -EROFS);
	block_close(b);

	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	snapshot(&f, b, "twice", NULL);
	assert_int_equal(commit_fails(&f, b, &i, "already has a snapshot 'twice'"), -EEXIST);
	i = info_named("");
	assert_int_equal(commit_fails(&f, b, &i, "1 to 255 bytes"), -EINVAL);
	memset(i.name, 'x', sizeof(i.name));
	assert_int_equal(commit_fails(&f, b, &i, "1 to 255 bytes"), -EINVAL);
	s = begin(&f, b);
	assert_int_equal(block_snapshot_begin(b, &none, &f.err), -EBUSY);
	o = (struct sync_op){ .op.done = sync_done };
	block_snapshot_delete(b, "1", &o.op);
	sync_wait(&f, &o);
	assert_int_equal(o.res, -EBUSY);
	i = info_named("third");
	i.name[255] = 0;
	commit(&f, s, &i, NULL);
	o = (struct sync_op){ .op.done = sync_done };
	block_snapshot_apply(b, "9", &o.op);
	sync_wait(&f, &o);
	assert_int_equal(o.res, -ENOENT);
	/* Another name, other extra data. */
	i = info_named("renamed");
	strcpy(i.id, "1");
	i.extra_bytes = 3;
	memcpy(i.extra, "abc", 3);
	o = (struct sync_op){ .op.done = sync_done };
	block_snapshot_update(b, &i, &o.op);
	sync_wait(&f, &o);
	assert_int_equal(o.res, 0);
	strcpy(i.name, "third");
	o = (struct sync_op){ .op.done = sync_done };
	block_snapshot_update(b, &i, &o.op);
	sync_wait(&f, &o);
	assert_int_equal(o.res, -EEXIST);
	assert_int_equal(block_close(b), 0);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	assert_int_equal(block_snapshot_list(b, &list, &n, &f.err), 0);
	assert_int_equal(n, 2);
	assert_string_equal(list[0].name, "renamed");
	assert_memory_equal(list[0].extra, "abc", 3);
	free(list);
	block_close(b);
	fixture_run(&f, "qemu-img check -q img");
	fixture_end(&f);
}

/* A revert restores the disk's size. */
static void test_revert_restores_disk_size(void **state)
{
	struct block_info info;
	struct fixture f;
	struct block *b;
	char id[24];

	(void)state;
	fixture_begin(&f, 600);
	shadow_file(&f, creates[2], DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(&f, b, 200, 8);
	snapshot(&f, b, "small", id);
	block_close(b);
	fixture_run(&f, "qemu-img resize -q img 40M && qemu-io -c 'write -P 3 20M 3M' img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	apply(&f, b, id);
	block_info(b, &info);
	assert_int_equal(info.size_bytes, DISK);
	shadow_verify(&f, b);
	shadow_run(&f, b, 100, 8);
	block_close(b);
	fixture_run(&f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	fixture_end(&f);
}

/* QEMU reverts to a snapshot and leaves its VM state behind the disk's end: it is not part of later
 * snapshots. */
static void test_vm_state_left_by_qemu_is_ignored(void **state)
{
	struct block_snapshot_info i = info_named("one");
	uint8_t *vm = aligned_alloc(4096, STATE);
	struct block_snapshot *s;
	struct fixture f;
	struct block *b;
	char id[24];

	(void)state;
	fixture_begin(&f, 610);
	shadow_file(&f, creates[1], DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(&f, b, 50, 8);
	s = begin(&f, b);
	state_load(&f, s, vm, 10);
	i.vm_state_bytes = STATE;
	commit(&f, s, &i, id);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img snapshot -a one img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	delete(&f, b, id);
	snapshot(&f, b, "two", id);
	shadow_run(&f, b, 50, 8);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	free(vm);
	fixture_end(&f);
}

/* After the last snapshot is deleted, the file is as small as before. */
static void test_deleting_last_snapshot_shrinks_file(void **state)
{
	uint8_t *vm = aligned_alloc(4096, STATE);
	struct block_snapshot_info i = info_named("s");
	struct block_snapshot *s;
	struct fixture f;
	struct block *b;
	char id[24];

	(void)state;
	fixture_begin(&f, 700);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 8M && qemu-io -c 'write -P 1 0 4M' img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	s = begin(&f, b);
	random_fill(&f, vm, STATE);
	assert_int_equal(vm_write(&f, s, 0, vm, STATE), 0);
	i.vm_state_bytes = STATE;
	commit(&f, s, &i, id);
	delete(&f, b, id);
	fixture_run(&f, "test $(stat -c %%s img) -le $((5 * 1024 * 1024)) && test $(du -k img | cut -f1) -le 5000");
	block_close(b);
	fixture_run(&f, "qemu-img check -q img");
	free(vm);
	fixture_end(&f);
}

/* ---- damaged snapshots ---- */

static int op_on(struct fixture *f, const char *id, bool del)
{
	struct sync_op o = { .op.done = sync_done };
	struct block *b = fixture_open(f, "bad", BLOCK_FORMAT_QCOW2, false);

	if (del)
		block_snapshot_delete(b, id, &o.op);
	else
		block_snapshot_apply(b, id, &o.op);
	sync_wait(f, &o);
	(void)block_close(b);
	return o.res;
}

static uint64_t entry_of(struct fixture *f)
{
	return fixture_peek_be(f, "bad", 64, 8);
}

static void break_l1_offset(struct fixture *f)
{
	fixture_poke_be(f, "bad", entry_of(f), 8, 12345);
}

static void break_l1_size(struct fixture *f)
{
	fixture_poke_be(f, "bad", entry_of(f) + 8, 4, 0xffffffff);
}

static void break_disk_size(struct fixture *f)
{
	fixture_poke_be(f, "bad", entry_of(f) + 48, 8, 1ULL << 63);
}

static void break_l1_entry(struct fixture *f)
{
	fixture_poke_be(f, "bad", fixture_peek_be(f, "bad", entry_of(f), 8), 8, 0x200);
}

/* The snapshot's L2 table is the refcount block. */
static void break_l2_is_refblock(struct fixture *f)
{
	uint64_t block = fixture_peek_be(f, "bad", fixture_peek_be(f, "bad", 48, 8), 8);

	fixture_poke_be(f, "bad", fixture_peek_be(f, "bad", entry_of(f), 8), 8, block);
}

/* An entry of its L2 table points at the header. */
static void break_l2_entry(struct fixture *f)
{
	uint64_t l1 = fixture_peek_be(f, "bad", entry_of(f), 8), reftable = fixture_peek_be(f, "bad", 48, 8);

	fixture_poke_be(f, "bad", fixture_peek_be(f, "bad", l1, 8) & 0x00fffffffffffe00ULL, 8, reftable);
}

/* Deletion is refused or leaks, and the disk reads as before. */
static void test_damaged_snapshots_are_refused_or_leaked(void **state)
{
	static void (*const breaks[])(struct fixture *f) = { break_l1_offset, break_l1_size,
		break_disk_size, break_l1_entry, break_l2_is_refblock, break_l2_entry };
	struct fixture f;
	struct block *b;

	(void)state;
	fixture_begin(&f, 800);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=4k img 1M && "
		"qemu-io -c 'write -P 1 0 1M' img && qemu-img snapshot -c s img && "
		"qemu-io -c 'write -P 2 0 1M' img");
	log_silence(true);
	for (size_t i = 0; i < ARRAY_SIZE(breaks); i++)
		for (int del = 0; del < 2; del++) {
			fixture_run(&f, "cp img bad");
			breaks[i](&f);
			if (op_on(&f, "1", del) >= 0 && !del)
				fail_msg("break %zu: applied", i);
			b = fixture_open(&f, "bad", BLOCK_FORMAT_QCOW2, true);
			block_close(b);
			fixture_run(&f, "qemu-img convert -q -U -f qcow2 -O raw bad raw && "
				"qemu-img compare -q -f raw -F qcow2 raw img");
		}
	log_silence(false);
	fixture_end(&f);
}

/* No space: the snapshot is aborted cleanly, and the guest continues. */
static void test_full_refcount_aborts_snapshot(void **state)
{
	struct block_snapshot_info i = info_named("fourth");
	struct fixture f;
	struct block *b;

	(void)state;
	fixture_begin(&f, 900);
	shadow_file(&f, "qemu-img create -q -f qcow2 -o refcount_bits=2,cluster_size=4k img 8M", DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(&f, b, 200, 8);
	snapshot(&f, b, "one", NULL);
	snapshot(&f, b, "two", NULL);
	assert_int_equal(commit_fails(&f, b, &i, "maximum of 2 bits"), -ERANGE);
	shadow_run(&f, b, 200, 8);
	delete(&f, b, "1");
	commit(&f, begin(&f, b), &i, NULL);
	shadow_verify(&f, b);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img && qemu-img compare -f qcow2 -F raw img shadow");
	fixture_end(&f);
}

/* The pause depends on this time: it is the same for 1 TiB, mapped or not. */
/* The table has some 70 KiB, more than its first reads bring. Entries have many lengths, so some lie across the end of
 * what was read. */
static void test_long_table_is_read_in_pieces(void **state)
{
	struct block_snapshot_info *list;
	struct fixture f;
	struct block *b;
	size_t n;

	(void)state;
	fixture_begin(&f, 1);
	shadow_file(&f, creates[0], DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	for (unsigned k = 0; k < 60; k++) {
		struct block_snapshot_info i = info_named("");

		snprintf(i.name, sizeof(i.name), "%0*u", 200 + (int)k % 50, k);
		i.extra_bytes = sizeof(i.extra) - 7 * (k % 11);
		memset(i.extra, (int)k, i.extra_bytes);
		commit(&f, begin(&f, b), &i, NULL);
	}
	assert_int_equal(block_close(b), 0);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	assert_int_equal(block_snapshot_list(b, &list, &n, &f.err), 0);
	assert_int_equal(n, 60);
	for (unsigned k = 0; k < n; k++) {
		assert_int_equal(strlen(list[k].name), 200 + k % 50);
		assert_int_equal(strtoul(list[k].name, NULL, 10), k);
		assert_int_equal(list[k].extra_bytes, sizeof(list[k].extra) - 7 * (k % 11));
		for (size_t at = 0; at < list[k].extra_bytes; at++)
			assert_int_equal(list[k].extra[at], k);
	}
	free(list);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
}

static void test_begin_takes_constant_time(void **state)
{
	struct block_snapshot *s;
	struct fixture f;
	struct block *b;
	uint64_t best = UINT64_MAX;

	(void)state;
	fixture_begin(&f, 1000);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o preallocation=metadata,cluster_size=2M img 1T");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	/* Repeated, because another process may have had the CPU. */
	for (unsigned i = 0; i < 10 && best >= 20000000; i++) {
		struct sync_op o = { .op.done = sync_done };
		uint64_t ns = loop_now_ns();

		s = begin(&f, b);
		ns = loop_now_ns() - ns;
		print_message("begin: %llu us\n", (unsigned long long)ns / 1000);
		best = MIN(best, ns);
		block_snapshot_abort(s, &o.op);
		sync_wait(&f, &o);
	}
	assert_true(best < 20000000);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img");
	fixture_end(&f);
}

/* A revert changes content and the entry's extra data in one write. */
static void test_revert_updates_extra_data_atomically(void **state)
{
	struct block_snapshot_info *list, i = info_named("any");
	struct sync_op o = { .op.done = sync_done };
	uint8_t buf[512] = { 0 };
	struct fixture f;
	struct block *b;
	size_t n;

	(void)state;
	fixture_begin(&f, 31);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 1M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	snapshot(&f, b, "first", NULL);
	snapshot(&f, b, "second", NULL);
	memset(buf, 7, sizeof(buf));
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, buf, sizeof(buf)), 0);
	i.extra_bytes = 3;
	memcpy(i.extra, "new", 3);
	strcpy(i.id, "1");
	block_snapshot_apply_with(b, &i, &o.op);
	sync_wait(&f, &o);
	assert_int_equal(o.res, 0);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf)), 0);
	assert_int_equal(buf[0], 0);
	assert_int_equal(block_close(b), 0);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(block_snapshot_list(b, &list, &n, &f.err), 0);
	assert_int_equal(n, 2);
	assert_string_equal(list[0].name, "first");
	assert_int_equal(list[0].extra_bytes, 3);
	assert_memory_equal(list[0].extra, "new", 3);
	assert_string_equal(list[1].name, "second");
	free(list);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q -f qcow2 img");
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_revert_updates_extra_data_atomically),
		cmocka_unit_test(test_snapshots_under_load_keep_content),
		cmocka_unit_test(test_vm_states_are_shared_and_read_back),
		cmocka_unit_test(test_vm_state_may_be_written_before_the_freeze),
		cmocka_unit_test(test_aborted_snapshot_leaves_nothing),
		cmocka_unit_test(test_qemu_and_cairn_share_snapshots),
		cmocka_unit_test(test_invalid_operations_are_refused),
		cmocka_unit_test(test_revert_restores_disk_size),
		cmocka_unit_test(test_vm_state_left_by_qemu_is_ignored),
		cmocka_unit_test(test_deleting_last_snapshot_shrinks_file),
		cmocka_unit_test(test_damaged_snapshots_are_refused_or_leaked),
		cmocka_unit_test(test_full_refcount_aborts_snapshot),
		cmocka_unit_test(test_long_table_is_read_in_pieces),
		cmocka_unit_test(test_begin_takes_constant_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
