/* A deletion that was killed at any point is completed by the next user of the image. */
#include "fixture_block.h"

#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/qcow2/qcow2.h"

#include <sys/stat.h>
#include <sys/wait.h>

#define DISK (4 * MIB)
#define KILLED 9

/* ---- dying at an operation ---- */

struct death {
	struct loop_trace trace;
	unsigned left; /* number of operations before the kill */
};

static void on_submit(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	struct death *d = container_of(t, struct death, trace);

	if (kind != LOOP_OP_NOP && !d->left--)
		_exit(KILLED);
	(void)op;
	(void)fd;
	(void)iov;
	(void)niov;
	(void)offset;
	(void)len;
	(void)mode;
}

static void on_complete(struct loop_trace *t, struct loop_op *op, int res)
{
	(void)t;
	(void)op;
	(void)res;
}

static void delete_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	if (res < 0)
		fprintf(stderr, "delete: %s\n", e->msg);
	op->engine = res < 0 ? NULL : op;
}

static int delete_in_child(struct fixture *f, unsigned ops)
{
	struct death d = { { on_submit, on_complete }, ops };
	struct block_snapshot_op op = { .done = delete_done };
	struct block *b;

	if (loop_new(64, &f->loop, &f->err) < 0)
		return 1;
	b = fixture_open(f, "cut", BLOCK_FORMAT_QCOW2, false);
	loop_trace(f->loop, &d.trace);
	block_snapshot_delete(b, "1", &op);
	while (!op.engine)
		loop_run_once(f->loop, UINT64_MAX);
	loop_trace(f->loop, NULL);
	return block_close(b) < 0;
}

/* Returns true when the process was killed. */
static bool delete_killed(struct fixture *f, unsigned ops)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(delete_in_child(f, ops));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == KILLED);
	return WEXITSTATUS(status) == KILLED;
}

/* ---- checks ---- */

static bool marked_dirty(struct fixture *f, const char *name)
{
	return fixture_peek_be(f, name, QCOW2_AT_INCOMPATIBLE, 8) & QCOW2_INCOMPAT_DIRTY;
}

static void content_check(struct block *b)
{
	static const struct {
		uint64_t off, len;
		uint8_t byte;
	} want[] = { { 0, MIB / 2, 3 }, { MIB / 2, MIB / 2, 1 }, { MIB, 2 * MIB, 2 }, { 3 * MIB, MIB, 0 } };
	uint8_t *buf = aligned_alloc(4096, 2 * MIB);

	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		assert_int_equal(fixture_rw(b, BLOCK_READ, want[i].off, buf, want[i].len), 0);
		assert_int_equal(buf[0], want[i].byte);
		assert_memory_equal(buf, buf + 1, want[i].len - 1);
	}
	free(buf);
}

static void faults_count(struct fixture *f, const char *name, struct qcow2_check *ret)
{
	struct qcow2_header h;
	char path[128];
	int fd;

	fixture_path(f, name, path, sizeof(path));
	fd = open(path, O_RDONLY);
	*ret = (struct qcow2_check){ 0 };
	assert_int_equal(qcow2_header_read(fd, name, &h, &f->err), 0);
	assert_int_equal(qcow2_check(fd, &h, ret, &f->err), 0);
	close(fd);
}

static struct stat stat_of(struct fixture *f, const char *name)
{
	char path[128];
	struct stat st;

	fixture_path(f, name, path, sizeof(path));
	assert_int_equal(stat(path, &st), 0);
	return st;
}

/* After one open for writing, the image is as if nothing had been killed. */
static void resume_check(struct fixture *f, unsigned ops, const struct stat *whole)
{
	bool gone = fixture_peek_be(f, "cut", QCOW2_AT_NB_SNAPSHOTS, 4) == 1, dirty = marked_dirty(f, "cut");
	struct block *b = fixture_open(f, "cut", BLOCK_FORMAT_QCOW2, false);
	struct qcow2_check c;
	struct stat st;

	content_check(b);
	/* The engine's idea of the file's length is right. */
	assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), 0);
	assert_int_equal(block_close(b), 0);
	faults_count(f, "cut", &c);
	if (c.corruptions || c.errors || ((gone || dirty) && c.leaks))
		fail_msg("killed after %u: %llu corruptions, %llu leaks", ops,
			(unsigned long long)c.corruptions, (unsigned long long)c.leaks);
	assert_false(marked_dirty(f, "cut"));
	if (!gone || !dirty)
		return;
	st = stat_of(f, "cut");
	if (st.st_size > whole->st_size || st.st_blocks > whole->st_blocks + 16)
		fail_msg("killed after %u: the file keeps %lld bytes, not %lld", ops,
			(long long)st.st_blocks * 512, (long long)whole->st_blocks * 512);
}

static void test_killed_delete_is_completed_by_next_user(void **state)
{
	struct fixture f;
	struct stat whole;
	unsigned dirty = 0, ops;
	bool killed = true;

	(void)state;
	fixture_begin(&f, 1);
	f.cache_bytes = 1;
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=4k img 4M && "
		"qemu-io -c 'write -q -P 1 0 2M' img && qemu-img snapshot -c a img && "
		"qemu-io -c 'write -q -P 2 1M 2M' img && qemu-img snapshot -c b img && "
		"qemu-io -c 'write -q -P 3 0 512k' img && cp img cut");
	assert_false(delete_killed(&f, UINT32_MAX));
	fixture_run(&f, "qemu-img check -q cut");
	assert_false(marked_dirty(&f, "cut"));
	whole = stat_of(&f, "cut");
	for (ops = 0; killed; ops++) {
		fixture_run(&f, "cp --sparse=always img cut");
		killed = delete_killed(&f, ops);
		if (marked_dirty(&f, "cut") && dirty++ % 4 == 2) /* QEMU completes it as well */
			fixture_run(&f, "cp --sparse=always cut other && qemu-io -c 'read -q -P 3 0 512k' other && "
				"qemu-img check -q other");
		resume_check(&f, ops, &whole);
	}
	print_message("%u operations, killed at %u of them with the mark\n", ops, dirty);
	assert_true(dirty > 8);
	fixture_end(&f);
}

/* Refcounts that are too low are not guessed. */
static void test_too_low_refcounts_are_not_guessed(void **state)
{
	struct fixture f;
	struct block *b;

	(void)state;
	fixture_begin(&f, 2);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 1M && qemu-io -c 'write -q -P 1 0 64k' img");
	fixture_poke_be(&f, "img", QCOW2_AT_INCOMPATIBLE, 8, QCOW2_INCOMPAT_DIRTY);
	fixture_poke_be(&f, "img", 2 * 65536 + 2 * 5, 2, 0);
	assert_int_equal(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &b), -EUCLEAN);
	assert_true(marked_dirty(&f, "img"));
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	block_close(b);
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_killed_delete_is_completed_by_next_user),
		cmocka_unit_test(test_too_low_refcounts_are_not_guessed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
