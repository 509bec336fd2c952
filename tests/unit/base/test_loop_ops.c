/* loop: asynchronous operations on files and pipes, more than the ring has entries. */
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/base/loop_group.h"

#define MS 1000000ULL

struct op {
	struct loop_op op;
	int res;
	unsigned done;
	uint8_t data[16];
	struct iovec iov[2];
};

struct bench {
	struct loop *loop;
	int fd; /* a memfd */
};

static long transfer_wait_ns;
static pthread_t loop_thread; /* of the tests that count transfers */
static atomic_uint transfers_here;

ssize_t preadv(int fd, const struct iovec *iov, int n, off_t offset);
ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t offset);

static void transfer_count(void)
{
	if (transfer_wait_ns)
		nanosleep(&(struct timespec){ .tv_nsec = transfer_wait_ns }, NULL);
	atomic_fetch_add(&transfers_here, pthread_equal(pthread_self(), loop_thread));
}

/* Replaces libc's. */
ssize_t preadv(int fd, const struct iovec *iov, int n, off_t offset)
{
	transfer_count();
	return syscall(SYS_preadv, fd, iov, n, offset, 0);
}

/* Replaces libc's. */
ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	transfer_count();
	return syscall(SYS_pwritev, fd, iov, n, offset, 0);
}

static int bench_setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct err e;

	*state = b;
	b->fd = memfd_create("cairn-test", MFD_CLOEXEC);
	return b->fd < 0 ? -1 : loop_new(8, &b->loop, &e);
}

static int bench_teardown(void **state)
{
	struct bench *b = *state;

	loop_free(b->loop);
	close(b->fd);
	free(b);
	return 0;
}

static void op_done(struct loop_op *o, int res)
{
	struct op *op = container_of(o, struct op, op);

	op->res = res;
	op->done++;
}

static void wait_all(struct loop *l)
{
	while (loop_ops_in_flight(l))
		loop_run_once(l, UINT64_MAX);
}

static int waited(struct bench *b, struct op *op)
{
	assert_int_equal(op->done, 0); /* done() never runs inside the submitting call */
	assert_int_equal(loop_ops_in_flight(b->loop), 1);
	wait_all(b->loop);
	assert_int_equal(op->done, 1);
	return op->res;
}

static struct op op_over(void *p, size_t n)
{
	return (struct op){ .op = { .done = op_done }, .iov = { { p, n } } };
}

static void test_write_sync_read(void **state)
{
	struct bench *b = *state;
	char text[] = "hello, disk", back[32] = { 0 };
	struct op op = op_over(text, 11);

	loop_writev(b->loop, &op.op, b->fd, op.iov, 1, 4096);
	assert_int_equal(waited(b, &op), 11);
	op = op_over(NULL, 0);
	loop_fdatasync(b->loop, &op.op, b->fd);
	assert_int_equal(waited(b, &op), 0);
	op = op_over(back, 5);
	op.iov[1] = (struct iovec){ back + 10, 20 };
	loop_readv(b->loop, &op.op, b->fd, op.iov, 2, 4096);
	assert_int_equal(waited(b, &op), 11); /* short read: end of file */
	assert_memory_equal(back, "hello\0\0\0\0\0, disk\0", 17);
	op = op_over(back, 4);
	loop_readv(b->loop, &op.op, b->fd, op.iov, 1, 1 << 20);
	assert_int_equal(waited(b, &op), 0);
}

static void test_fallocate(void **state)
{
	struct bench *b = *state;
	struct op op = op_over(NULL, 0);
	struct stat st;

	loop_fallocate(b->loop, &op.op, b->fd, 0, 0, 1 << 20);
	assert_int_equal(waited(b, &op), 0);
	assert_int_equal(fstat(b->fd, &st), 0);
	assert_int_equal(st.st_size, 1 << 20);
	op = op_over(NULL, 0);
	loop_fallocate(
		b->loop, &op.op, b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20);
	assert_int_equal(waited(b, &op), 0);
	assert_int_equal(fstat(b->fd, &st), 0);
	assert_int_equal(st.st_blocks, 0);
}

static void test_errors_come_as_results(void **state)
{
	struct bench *b = *state;
	char buf[8];
	struct op op = op_over(buf, sizeof(buf));
	int fds[2];

	loop_readv(b->loop, &op.op, 9999, op.iov, 1, 0);
	assert_int_equal(waited(b, &op), -EBADF);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	op = op_over(buf, sizeof(buf));
	loop_readv(b->loop, &op.op, fds[1], op.iov, 1, 0);
	assert_int_equal(waited(b, &op), -EBADF); /* the pipe's write end */
	op = op_over((void *)8, 8);
	loop_writev(b->loop, &op.op, b->fd, op.iov, 1, 0);
	assert_int_equal(waited(b, &op), -EFAULT);
	op = op_over(NULL, 0);
	loop_fdatasync(b->loop, &op.op, fds[0]);
	assert_int_equal(waited(b, &op), -EINVAL);
	close(fds[0]);
	close(fds[1]);
}

/* A read from an empty pipe stays in flight, and the loop stays usable. */
static void test_pipe_waits_for_its_writer(void **state)
{
	struct bench *b = *state;
	char buf[8] = { 0 };
	struct op op = op_over(buf, sizeof(buf)), nop = op_over(NULL, 0);
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	loop_readv(b->loop, &op.op, fds[0], op.iov, 1, (uint64_t)-1);
	loop_run_once(b->loop, 1 * MS);
	loop_nop(b->loop, &nop.op);
	assert_int_equal(nop.done, 0);
	for (int i = 0; i < 100 && !nop.done; i++)
		loop_run_once(b->loop, 1 * MS);
	assert_int_equal(nop.done, 1);
	assert_int_equal(nop.res, 0);
	assert_int_equal(op.done, 0);
	assert_int_equal(loop_ops_in_flight(b->loop), 1);
	assert_int_equal(write(fds[1], "abc", 3), 3);
	wait_all(b->loop);
	assert_int_equal(op.res, 3);
	assert_string_equal(buf, "abc");
	close(fds[0]);
	close(fds[1]);
}

struct counter {
	struct loop_trace trace;
	unsigned submitted, completed;
	int in_file; /* length of the file when the last operation was submitted */
};

static void count_submit(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	struct counter *c = container_of(t, struct counter, trace);
	struct stat st;

	(void)op, (void)kind, (void)iov, (void)niov, (void)offset, (void)len, (void)mode;
	c->submitted++;
	c->in_file = fstat(fd, &st) ? -1 : (int)st.st_size;
}

static void count_complete(struct loop_trace *t, struct loop_op *op, int res)
{
	struct counter *c = container_of(t, struct counter, trace);

	(void)op, (void)res;
	c->completed++;
}

/* A memfd: a small write takes effect at once, completes in the next iteration as any other, and
 * the trace sees it before its effect. */
static void test_memory_file_is_written_at_once(void **state)
{
	struct bench *b = *state;
	struct counter c = { .trace = { .submit = count_submit, .complete = count_complete } };
	char text[] = "hello, memory", back[32] = { 0 };
	struct op op = op_over(text, 6);

	loop_file_in_memory(b->loop, b->fd, true);
	loop_trace(b->loop, &c.trace);
	op.iov[1] = (struct iovec){ text + 6, 7 };
	loop_writev(b->loop, &op.op, b->fd, op.iov, 2, 100);
	assert_int_equal(pread(b->fd, back, sizeof(back), 100), 13);
	assert_string_equal(back, text);
	assert_int_equal(c.in_file, 0);
	assert_int_equal(c.submitted, 1);
	assert_int_equal(c.completed, 0);
	assert_int_equal(waited(b, &op), 13);
	assert_int_equal(c.completed, 1);
	loop_trace(b->loop, NULL);
}

/* A small read takes its data at once, and completes in the next iteration. */
static void test_memory_file_is_read_at_once(void **state)
{
	struct bench *b = *state;
	char back[32] = { 0 };
	struct op op = op_over(back, 13);

	loop_file_in_memory(b->loop, b->fd, true);
	assert_int_equal(pwrite(b->fd, "hello, memory", 13, 100), 13);
	loop_readv(b->loop, &op.op, b->fd, op.iov, 1, 100);
	assert_string_equal(back, "hello, memory");
	assert_int_equal(waited(b, &op), 13);
	op = op_over((void *)8, 8);
	loop_readv(b->loop, &op.op, b->fd, op.iov, 1, 100);
	assert_int_equal(waited(b, &op), -EFAULT);
	op = op_over(back, sizeof(back));
	loop_readv(b->loop, &op.op, b->fd, op.iov, 1, 100);
	assert_int_equal(waited(b, &op), 13); /* the end of the file */
}

/* A file in the page cache: small writes take effect at once, but not after one that took long. */
static void test_cached_file_is_written_at_once_unless_writes_are_slow(void **state)
{
	struct bench *b = *state;
	char text[] = "hello, cache", back[32] = { 0 };
	struct op op = op_over(text, 12);
	uint64_t begin = loop_now_ns();

	loop_thread = pthread_self();
	loop_file_cached(b->loop, b->fd, false);
	loop_file_cached(b->loop, b->fd, false); /* setting it twice is allowed */
	/* The first one is slow. */
	for (int i = 0; i < 2; i++) {
		atomic_store(&transfers_here, 0);
		transfer_wait_ns = i ? 0 : 3000000;
		loop_writev(b->loop, &op.op, b->fd, op.iov, 1, 100 * i);
		if (!i || loop_now_ns() - begin < 150 * MS) /* a long pause of the test would outlast the rest */
			assert_int_equal(atomic_load(&transfers_here), !i);
		assert_int_equal(waited(b, &op), 12);
		assert_int_equal(pread(b->fd, back, sizeof(back), 100 * i), 12);
		assert_string_equal(back, text);
		op = op_over(text, 12);
	}
	loop_file_in_memory(b->loop, b->fd, false);
}

/* A file in the page cache of a file system without RWF_NOWAIT: a small read takes its data at once, but not while
 * another one is in flight, nor after one that took long. */
static void test_cached_file_is_read_at_once_if_the_ring_would_wait(void **state)
{
	struct bench *b = *state;
	char back[3][16] = { 0 };
	struct op op[3];
	uint64_t begin = loop_now_ns();

	loop_thread = pthread_self();
	assert_int_equal(pwrite(b->fd, "hello, cache", 12, 0), 12);
	loop_file_cached(b->loop, b->fd, true);
	atomic_store(&transfers_here, 0);
	for (int i = 0; i < 2; i++) {
		op[i] = op_over(back[i], 12);
		loop_readv(b->loop, &op[i].op, b->fd, op[i].iov, 1, 0);
	}
	assert_int_equal(atomic_load(&transfers_here), 1);
	assert_string_equal(back[0], "hello, cache");
	wait_all(b->loop);
	assert_string_equal(back[1], "hello, cache");
	transfer_wait_ns = 3000000;
	op[2] = op_over(back[2], 12);
	loop_readv(b->loop, &op[2].op, b->fd, op[2].iov, 1, 0);
	assert_int_equal(waited(b, &op[2]), 12);
	transfer_wait_ns = 0;
	atomic_store(&transfers_here, 0);
	op[2] = op_over(back[2], 12);
	loop_readv(b->loop, &op[2].op, b->fd, op[2].iov, 1, 0);
	if (loop_now_ns() - begin < 150 * MS) /* a long pause of the test would outlast the rest */
		assert_int_equal(atomic_load(&transfers_here), 0);
	assert_int_equal(waited(b, &op[2]), 12);
	assert_string_equal(back[2], "hello, cache");
	loop_file_in_memory(b->loop, b->fd, false);
}

static void test_memory_file_errors_and_large_writes(void **state)
{
	enum { LARGE = 8 << 20 };
	struct bench *b = *state;
	char *large = calloc(1, LARGE), small[8] = { 0 };
	struct op op = op_over((void *)8, 8);
	struct stat st;

	loop_file_in_memory(b->loop, b->fd, true);
	loop_file_in_memory(b->loop, b->fd, true); /* setting it twice is allowed */
	loop_writev(b->loop, &op.op, b->fd, op.iov, 1, 0);
	assert_int_equal(waited(b, &op), -EFAULT);
	op = op_over(large, LARGE);
	loop_writev(b->loop, &op.op, b->fd, op.iov, 1, 0);
	assert_int_equal(waited(b, &op), LARGE);
	loop_file_in_memory(b->loop, b->fd, false);
	loop_file_in_memory(b->loop, b->fd, false);
	op = op_over(small, sizeof(small));
	loop_writev(b->loop, &op.op, b->fd, op.iov, 1, LARGE);
	assert_int_equal(waited(b, &op), 8);
	assert_int_equal(fstat(b->fd, &st), 0);
	assert_int_equal(st.st_size, LARGE + 8);
	free(large);
}

/* The ring has 8 entries and room for 32 completions. */
static void test_more_than_the_ring_holds(void **state)
{
	enum { N = 5000 };
	struct bench *b = *state;
	struct op *ops = calloc(N, sizeof(*ops));

	for (unsigned i = 0; i < N; i++) {
		memset(ops[i].data, (int)(i % 251), sizeof(ops[i].data));
		ops[i].op.done = op_done;
		ops[i].iov[0] = (struct iovec){ ops[i].data, sizeof(ops[i].data) };
		loop_writev(b->loop, &ops[i].op, b->fd, ops[i].iov, 1, 16ULL * i);
	}
	assert_int_equal(loop_ops_in_flight(b->loop), N);
	wait_all(b->loop);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(ops[i].done, 1);
		assert_int_equal(ops[i].res, 16);
		memset(ops[i].data, 0xff, sizeof(ops[i].data));
		loop_readv(b->loop, &ops[i].op, b->fd, ops[i].iov, 1, 16ULL * i);
	}
	wait_all(b->loop);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(ops[i].done, 2);
		for (unsigned k = 0; k < 16; k++)
			assert_int_equal(ops[i].data[k], i % 251);
	}
	free(ops);
}

struct chain {
	struct loop_op op;
	struct loop *loop;
	int fd; /* source of the burst's reads */
	struct op *burst;
	unsigned nburst, left;
};

static void chain_done(struct loop_op *o, int res)
{
	struct chain *c = container_of(o, struct chain, op);

	assert_int_equal(res, 0);
	for (unsigned i = 0; i < c->nburst; i++)
		loop_readv(c->loop, &c->burst[i].op, c->fd, c->burst[i].iov, 1, 0);
	c->nburst = 0;
	if (c->left && --c->left)
		loop_nop(c->loop, &c->op);
}

/* A completion submits far more operations than fit while the completion queue is full. */
static void test_burst_from_a_completion(void **state)
{
	enum { N = 3000 };
	struct bench *b = *state;
	struct op *ops = calloc(N, sizeof(*ops));
	struct chain c = {
		.op = { .done = chain_done }, .loop = b->loop, .fd = b->fd, .burst = ops, .nburst = N
	};

	for (unsigned i = 0; i < N; i++)
		ops[i] = op_over(ops[i].data, sizeof(ops[i].data));
	loop_nop(b->loop, &c.op);
	wait_all(b->loop);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(ops[i].done, 1);
	free(ops);
}

static void timer_count(void *opaque)
{
	++*(unsigned *)opaque;
}

/* A chain of operations that each submit the next does not keep timers from firing. */
static void test_stream_of_operations_does_not_starve_timers(void **state)
{
	struct bench *b = *state;
	struct chain c = { .op = { .done = chain_done }, .loop = b->loop, .left = 200000 };
	struct loop_timer *t;
	unsigned fired = 0;

	assert_int_equal(loop_timer_new(b->loop, timer_count, &fired, &t), 0);
	loop_timer_arm(t, loop_now_ns() + 1 * MS);
	loop_nop(b->loop, &c.op);
	while (!fired && loop_ops_in_flight(b->loop))
		loop_run_once(b->loop, UINT64_MAX);
	assert_int_equal(fired, 1);
	c.left = 0;
	wait_all(b->loop);
	loop_timer_free(t);
}

/* A completion callback that waits for the next operation, which was ready as well. */
struct waiter {
	struct loop_op op;
	struct loop *loop;
	struct waiter *for_whom; /* NULL: none */
	unsigned done, order;
};

static unsigned order;

static void waiter_done(struct loop_op *o, int res)
{
	struct waiter *w = container_of(o, struct waiter, op);

	assert_int_equal(res, 0);
	while (w->for_whom && !w->for_whom->done)
		loop_run_once(w->loop, UINT64_MAX);
	w->done++;
	w->order = ++order;
}

static void test_callback_may_wait_for_completed_operation(void **state)
{
	struct bench *b = *state;
	struct waiter w[4], late = { .op.done = waiter_done };

	for (unsigned i = 0; i < 4; i++)
		w[i] = (struct waiter){ .op.done = waiter_done, .loop = b->loop };
	w[0].for_whom = &w[2];
	w[2].for_whom = &late;
	for (unsigned i = 0; i < 4; i++)
		loop_nop(b->loop, &w[i].op);
	loop_nop(b->loop, &late.op);
	loop_run_once(b->loop, UINT64_MAX);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(w[i].done, 1);
	assert_int_equal(late.done, 1);
	assert_true(w[1].order < w[3].order && w[3].order < late.order && late.order < w[2].order &&
		w[2].order < w[0].order);
	assert_int_equal(loop_ops_in_flight(b->loop), 0);
}

/* ---- files on a disk ---- */

/* Create a file without a name, opened with O_DIRECT; skip the test where the file system has none. */
static int direct_file(void)
{
	const char *folder = getenv("TMPDIR");
	int fd = open(folder ? folder : "/tmp", O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);

	if (fd < 0) {
		print_message("skipped: no file without a name, for O_DIRECT, in the temporary folder (%s)\n", strerror(errno));
		skip();
	}
	return fd;
}

/* Many requests at once: writes that allocate, writes in place, reads, syncs between them. */
static void test_direct_io(void **state)
{
	enum { N = 100, BYTES = 4096 };
	struct bench *b = *state;
	uint8_t *data = aligned_alloc(BYTES, N * BYTES);
	struct op *ops = calloc(N, sizeof(*ops)), sync = op_over(NULL, 0), odd = op_over(NULL, 0);
	int fd = direct_file();

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < N; i++) {
			memset(data + i * BYTES, (int)(i + round), BYTES);
			ops[i] = op_over(data + i * BYTES, BYTES);
			loop_writev(b->loop, &ops[i].op, fd, ops[i].iov, 1, i * BYTES);
		}
		wait_all(b->loop);
		sync = op_over(NULL, 0);
		loop_fdatasync(b->loop, &sync.op, fd);
		assert_int_equal(waited(b, &sync), 0);
		memset(data, 0xff, N * BYTES);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(ops[i].done, 1);
			assert_int_equal(ops[i].res, BYTES);
			ops[i] = op_over(data + i * BYTES, BYTES / 2);
			ops[i].iov[1] = (struct iovec){ data + i * BYTES + BYTES / 2, BYTES / 2 };
			loop_readv(b->loop, &ops[i].op, fd, ops[i].iov, 2, i * BYTES);
		}
		wait_all(b->loop);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(ops[i].res, BYTES);
			for (unsigned k = 0; k < BYTES; k++)
				assert_int_equal(data[i * BYTES + k], i + round);
		}
	}
	odd = op_over(data, BYTES);
	loop_readv(b->loop, &odd.op, fd, odd.iov, 1, N * BYTES);
	assert_int_equal(waited(b, &odd), 0); /* the end of the file */
	odd = op_over(data + 1, BYTES + 1);
	loop_readv(b->loop, &odd.op, fd, odd.iov, 1, 3);
	assert_int_equal(waited(b, &odd), -EINVAL);
	close(fd);
	free(ops);
	free(data);
}

/* The process of `cairn run` ends while a write to its terminal waits. */
static void test_free_with_a_write_that_never_ends(void **state)
{
	static char data[4096];
	static struct op op;
	struct bench *b = *state;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	while (write(fds[1], data, sizeof(data)) > 0)
		;
	assert_int_equal(fcntl(fds[1], F_SETFL, 0), 0);
	op = op_over(data, sizeof(data));
	loop_writev(b->loop, &op.op, fds[1], op.iov, 1, UINT64_MAX);
	for (int i = 0; i < 3; i++)
		loop_run_once(b->loop, 5 * MS);
	loop_free(b->loop);
	b->loop = NULL;
	assert_int_equal(op.done, 0);
	close(fds[0]); /* ends the write: EPIPE. fds[1] stays open, because a thread may still use it. */
}

/* ---- threads ---- */

/* Threads of this process without loops. A sanitizer creates one of its own, together with the first other thread. */
static unsigned threads_alone;

static void *nothing(void *opaque)
{
	return opaque;
}

/* Returns the number of the process's threads, without io_uring's, and how many of them block all signals. */
static unsigned threads_count(unsigned *ret_deaf)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *t;
	unsigned n = 0;

	*ret_deaf = 0;
	while ((t = readdir(d))) {
		bool deaf = false, counts = t->d_name[0] != '.';
		char path[300], line[128];
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%s/status", t->d_name);
		f = fopen(path, "r");
		while (f && fgets(line, sizeof(line), f)) {
			counts &= strncmp(line, "Name:\tiou-", 10) != 0;
			/* glibc lets nobody block its two own signals. */
			deaf |= !strncmp(line, "SigBlk:\tfffffffe", 16) || !strncmp(line, "SigBlk:\tffffffff", 16);
		}
		if (f)
			fclose(f);
		n += counts;
		*ret_deaf += counts && deaf;
	}
	closedir(d);
	return n;
}

/* Wait until threads of the tests before have ended. */
static void threads_settle(void)
{
	unsigned deaf;

	while (threads_count(&deaf) > threads_alone)
		usleep(1000);
}

static void test_threads_are_few_and_get_no_signal(void **state)
{
	enum { N = 64 };
	struct bench *b = *state;
	struct op ops[N];
	unsigned deaf, deaf_before, before = threads_alone, n;

	threads_settle();
	threads_count(&deaf_before);
	for (unsigned i = 0; i < N; i++) {
		ops[i] = op_over(NULL, 0);
		loop_fallocate(b->loop, &ops[i].op, b->fd, 0, 0, 4096 * (i + 1));
	}
	n = threads_count(&deaf);
	assert_in_range(n, before + 1, before + 4);
	assert_int_equal(deaf - deaf_before, n - before);
	wait_all(b->loop);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(ops[i].done, 1);
	loop_free(b->loop);
	b->loop = NULL;
	threads_settle();
}

static void test_no_threads_while_deferred(void **state)
{
	struct bench *b = *state;
	struct op op = op_over(NULL, 0);
	unsigned deaf, before = threads_alone;

	threads_settle();
	loop_defer_threads(b->loop, true);
	loop_fallocate(b->loop, &op.op, b->fd, 0, 0, 4096);
	assert_int_equal(waited(b, &op), 0);
	assert_int_equal(threads_count(&deaf), before);
	loop_defer_threads(b->loop, false);
	op = op_over(NULL, 0);
	loop_fallocate(b->loop, &op.op, b->fd, 0, 0, 8192);
	assert_int_equal(waited(b, &op), 0);
	assert_int_equal(threads_count(&deaf), before + 1);
}

/* ---- what an attacker in this process can do with the ring ---- */

static int ring_fd_find(void)
{
	for (int fd = 3; fd < 64; fd++) {
		char path[32], target[64];
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = 0;
		if (!strcmp(target, "anon_inode:[io_uring]"))
			return fd;
	}
	return -1;
}

/* Map the loop's ring a second time, without the loop. */
static void ring_map(struct io_uring *ring)
{
	struct io_uring_params p = { .flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE, .cq_entries = 8 * 4 };
	int fd = ring_fd_find(), like;

#ifdef IORING_SETUP_NO_SQARRAY /* liburing 2.5 makes its rings so */
	p.flags |= IORING_SETUP_NO_SQARRAY;
#endif
	assert_true(fd >= 0);
	like = io_uring_setup(8, &p); /* gives the offsets of the ring's fields */
	assert_true(like >= 0);
	close(like);
	assert_int_equal(io_uring_queue_mmap(fd, &p, ring), 0);
	ring->flags = p.flags;
	ring->ring_fd = ring->enter_ring_fd = fd; /* liburing 2.9 leaves it out */
	ring->sq.sqe_head = ring->sq.sqe_tail = *ring->sq.ktail;
}

/* Returns the request's result; -EBADRQC when the kernel refuses the request. */
static int ring_ask(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int res;

	io_uring_submit(ring);
	if (io_uring_wait_cqe(ring, &cqe) < 0)
		return -EBADRQC;
	res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return res;
}

static void test_ring_refuses_files_and_sockets(void **state)
{
	struct io_uring ring;

	(void)state;
	ring_map(&ring);
	io_uring_prep_openat(io_uring_get_sqe(&ring), AT_FDCWD, "/", O_RDONLY, 0);
	assert_int_equal(ring_ask(&ring), -EACCES);
	io_uring_prep_socket(io_uring_get_sqe(&ring), AF_INET, SOCK_STREAM, 0, 0);
	assert_int_equal(ring_ask(&ring), -EACCES);
	io_uring_prep_unlinkat(io_uring_get_sqe(&ring), AT_FDCWD, "/tmp/none-of-this-name", 0);
	assert_int_equal(ring_ask(&ring), -EACCES);
}

/* ---- operations that the kernel cancels ---- */

/* From here on the kernel can create no thread for io_uring in this process, as where a user's limit of processes is
 * reached. root has no such limit. */
static void threads_forbid(void)
{
	if (!geteuid() && setresuid(65534, 65534, 65534) < 0)
		_exit(100);
	if (setrlimit(RLIMIT_NPROC, &(struct rlimit){ 0, 0 }) < 0)
		_exit(101);
}

/* The ring passes an operation on a memfd to a thread. */
static void cancelled_run(void)
{
	char text[] = "abcdefgh", back[8] = { 0 };
	struct op op = op_over(text, 8);
	int ends[2], fd = memfd_create("cairn-test", MFD_CLOEXEC);
	struct io_uring ring;
	struct stat st;
	struct loop *l;
	struct err e;

	threads_forbid();
	assert_int_equal(io_uring_queue_init(8, &ring, 0), 0);
	io_uring_prep_fsync(io_uring_get_sqe(&ring), fd, 0);
	assert_int_equal(ring_ask(&ring), -ECANCELED); /* otherwise the rest proves nothing */
	io_uring_queue_exit(&ring);

	assert_int_equal(loop_new(8, &l, &e), 0);
	op.iov[0].iov_len = 3;
	op.iov[1] = (struct iovec){ text + 3, 5 };
	loop_writev(l, &op.op, fd, op.iov, 2, 4096);
	wait_all(l);
	assert_int_equal(op.res, 8);
	loop_fdatasync(l, &op.op, fd);
	wait_all(l);
	assert_int_equal(op.res, 0);
	loop_fallocate(l, &op.op, fd, 0, 0, 1 << 20);
	wait_all(l);
	assert_int_equal(op.res, 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 1 << 20);
	op.iov[0] = (struct iovec){ back, 8 };
	loop_readv(l, &op.op, fd, op.iov, 1, 4096);
	wait_all(l);
	assert_int_equal(op.res, 8);
	assert_memory_equal(back, text, 8);
	/* An error is the operation's own. */
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	loop_fdatasync(l, &op.op, ends[0]);
	wait_all(l);
	assert_int_equal(op.res, -EINVAL);
	/* The caller repeats an operation at the file's position. */
	loop_writev(l, &op.op, fd, op.iov, 1, UINT64_MAX);
	wait_all(l);
	assert_int_equal(op.res, -EINTR);
	assert_int_equal(op.done, 6);
	loop_free(l);
}

/* The limit stays, so a child process runs the test. */
static void test_operations_cancelled_by_the_kernel_are_repeated(void **state)
{
	pid_t pid;
	int status;

	(void)state;
	fflush(NULL);
	pid = fork();
	if (!pid) {
		setenv("CMOCKA_TEST_ABORT", "1", 1); /* a failed assertion ends this process */
		cancelled_run();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
#define OPS_TEST(t) cmocka_unit_test_setup_teardown(t, bench_setup, bench_teardown)
	const struct CMUnitTest tests[] = {
		OPS_TEST(test_write_sync_read),
		OPS_TEST(test_fallocate),
		OPS_TEST(test_errors_come_as_results),
		OPS_TEST(test_pipe_waits_for_its_writer),
		OPS_TEST(test_memory_file_is_written_at_once),
		OPS_TEST(test_memory_file_is_read_at_once),
		OPS_TEST(test_memory_file_errors_and_large_writes),
		OPS_TEST(test_cached_file_is_written_at_once_unless_writes_are_slow),
		OPS_TEST(test_cached_file_is_read_at_once_if_the_ring_would_wait),
		OPS_TEST(test_more_than_the_ring_holds),
		OPS_TEST(test_burst_from_a_completion),
		OPS_TEST(test_stream_of_operations_does_not_starve_timers),
		OPS_TEST(test_callback_may_wait_for_completed_operation),
		OPS_TEST(test_direct_io),
		OPS_TEST(test_free_with_a_write_that_never_ends),
	};
	const struct CMUnitTest of_io_uring[] = {
		OPS_TEST(test_ring_refuses_files_and_sockets),
		cmocka_unit_test(test_operations_cancelled_by_the_kernel_are_repeated),
	};
	const struct CMUnitTest of_epoll[] = {
		OPS_TEST(test_threads_are_few_and_get_no_signal),
		OPS_TEST(test_no_threads_while_deferred),
	};
	pthread_t first;
	unsigned deaf;
	int failed;

	signal(SIGPIPE, SIG_IGN);
	pthread_create(&first, NULL, nothing, NULL);
	pthread_join(first, NULL);
	threads_alone = threads_count(&deaf);
	for (int i = 0; i < 20; i++) { /* /proc may still show a joined thread for a moment */
		usleep(1000);
		threads_alone = MIN(threads_alone, threads_count(&deaf));
	}
	failed = loop_group_run(tests);

	setenv("CAIRN_LOOP", "io_uring", 1);
	failed += cmocka_run_group_tests(of_io_uring, NULL, NULL);
	setenv("CAIRN_LOOP", "epoll", 1);
	return failed + cmocka_run_group_tests(of_epoll, NULL, NULL);
}
