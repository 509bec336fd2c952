/* loop: which back end loop_new() chooses, on a host that refuses io_uring, too. */
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 1000000ULL

/* Let system calls fail with error, as a container's profile does. */
static void refuse(int error, const int *calls, size_t n)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);

	for (size_t i = 0; i < n; i++)
		if (seccomp_rule_add(ctx, SCMP_ACT_ERRNO((unsigned)error), calls[i], 0))
			_exit(100);
	if (seccomp_load(ctx))
		_exit(101);
	seccomp_release(ctx);
}

/* Run a part in a child process, because a filter stays. Returns its exit status; its log is in text. */
static int run_child(int (*part)(int error), int error, char *text, size_t size)
{
	int fd = memfd_create("log", MFD_CLOEXEC), status;
	pid_t pid = fork();
	ssize_t n;

	if (!pid) {
		log_set_fd(fd);
		_exit(part(error));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	n = pread(fd, text, size - 1, 0);
	text[n > 0 ? n : 0] = 0;
	close(fd);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void io_uring_refuse(int error)
{
	refuse(error, (const int[]){ SCMP_SYS(io_uring_setup) }, 1);
}

/* Returns the kind of a new loop that also works; 99: none. */
static int kind_of_new(struct err *e)
{
	struct loop *l;
	int kind;

	if (loop_new(8, &l, e) < 0)
		return 99;
	kind = (int)loop_kind(l);
	loop_stop(l);
	loop_run(l);
	loop_free(l);
	return kind;
}

static int two_loops(int error)
{
	struct err e;
	int kind;

	unsetenv("CAIRN_LOOP");
	io_uring_refuse(error);
	kind = kind_of_new(&e);
	return kind_of_new(&e) == kind ? kind : 98;
}

static void test_refused_io_uring_leaves_epoll_and_one_line(void **state)
{
	static const int errors[] = { EPERM, ENOSYS, EACCES };
	char text[4096];

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		const char *line;

		assert_int_equal(run_child(two_loops, errors[i], text, sizeof(text)), LOOP_EPOLL);
		line = strstr(text, "io_uring is refused (");
		assert_non_null(line);
		assert_non_null(strstr(line, strerror(errors[i])));
		assert_non_null(strstr(line, "seccomp profile"));
		assert_null(strstr(line + 1, "io_uring is refused ("));
	}
}

/* A loop after a refused one would be killed if it tried io_uring. Returns 0 if it is on epoll. */
static int next_tries_no_ring(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	struct err e;

	if (seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, SCMP_SYS(io_uring_setup), 0) || seccomp_load(ctx))
		return 10;
	return kind_of_new(&e) == LOOP_EPOLL ? 0 : 11;
}

static int first_loop_refused(int error)
{
	struct err e;

	unsetenv("CAIRN_LOOP");
	io_uring_refuse(error);
	if (kind_of_new(&e) != LOOP_EPOLL || loop_kinds() != LOOP_KIND(LOOP_EPOLL))
		return 1;
	return next_tries_no_ring();
}

static int second_loop_refused(int error)
{
	struct err e;

	unsetenv("CAIRN_LOOP");
	if (kind_of_new(&e) != LOOP_IO_URING || loop_kinds() != LOOP_KIND(LOOP_IO_URING))
		return 1;
	io_uring_refuse(error);
	if (kind_of_new(&e) != LOOP_EPOLL || loop_kinds() != LOOP_KINDS_ALL)
		return 2;
	return next_tries_no_ring();
}

static void test_loops_after_a_refused_one_are_on_epoll(void **state)
{
	static int (*const refused[])(int error) = { first_loop_refused, second_loop_refused };
	char text[4096];

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		const char *line;

		assert_int_equal(run_child(refused[i], ENOMEM, text, sizeof(text)), 0);
		line = strstr(text, "raise the limit of locked memory");
		assert_non_null(line);
		assert_null(strstr(line + 1, "raise the limit of locked memory"));
	}
}

/* A sandbox may forbid to look for the reason. */
static int second_loop_forbidden(int error)
{
	struct err e = { 0 };

	unsetenv("CAIRN_LOOP");
	if (kind_of_new(&e) != LOOP_IO_URING)
		return 1;
	io_uring_refuse(error);
	return kind_of_new(&e) == 99 && e.cls == ERR_HOST ? 0 : 2;
}

static int ring_wanted(int error)
{
	struct err e = { 0 };
	int kind;

	setenv("CAIRN_LOOP", "io_uring", 1);
	io_uring_refuse(error);
	kind = kind_of_new(&e);
	return kind == 99 && e.cls == ERR_HOST && strstr(e.msg, strerror(error)) ? 0 : 1;
}

static int too_many_files(int error)
{
	struct err e = { 0 };

	unsetenv("CAIRN_LOOP");
	io_uring_refuse(error);
	return kind_of_new(&e) == 99 && e.cls == ERR_HOST ? 0 : 1;
}

static void test_choice_and_other_errors_do_not_fall_back(void **state)
{
	char text[4096];

	(void)state;
	assert_int_equal(run_child(ring_wanted, EPERM, text, sizeof(text)), 0);
	assert_string_equal(text, "");
	assert_int_equal(run_child(too_many_files, EMFILE, text, sizeof(text)), 0);
	assert_string_equal(text, "");
	assert_int_equal(run_child(second_loop_forbidden, EPERM, text, sizeof(text)), 0);
	assert_string_equal(text, "");
}

static void test_variable_chooses(void **state)
{
	struct err e = { 0 };

	(void)state;
	unsetenv("CAIRN_LOOP");
	assert_int_equal(kind_of_new(&e), LOOP_IO_URING);
	setenv("CAIRN_LOOP", "io_uring", 1);
	assert_int_equal(kind_of_new(&e), LOOP_IO_URING);
	setenv("CAIRN_LOOP", "epoll", 1);
	assert_int_equal(kind_of_new(&e), LOOP_EPOLL);
	setenv("CAIRN_LOOP", "kqueue", 1);
	assert_int_equal(kind_of_new(&e), 99);
	assert_int_equal(e.cls, ERR_INVALID);
	assert_non_null(strstr(e.msg, "kqueue"));
}

static void timer_fired(void *opaque)
{
	*(uint64_t *)opaque = loop_now_ns();
}

/* Profiles of 2020 do not know epoll_pwait2(). */
static int timer_without_pwait2(int error)
{
	uint64_t fired = 0, due;
	struct loop_timer *t;
	struct loop *l;
	struct err e;

	setenv("CAIRN_LOOP", "epoll", 1);
	refuse(error, (const int[]){ SCMP_SYS(epoll_pwait2) }, 1);
	if (loop_new(8, &l, &e) || loop_timer_new(l, timer_fired, &fired, &t))
		return 1;
	for (int i = 0; i < 3; i++) {
		due = loop_now_ns() + 3 * MS;
		fired = 0;
		loop_timer_arm(t, due);
		while (!fired)
			loop_run_once(l, UINT64_MAX);
		if (fired < due || fired > due + 20000 * MS)
			return 2;
	}
	loop_timer_free(t);
	loop_free(l);
	return 0;
}

static void test_timers_without_epoll_pwait2(void **state)
{
	char text[4096];

	(void)state;
	assert_int_equal(run_child(timer_without_pwait2, EPERM, text, sizeof(text)), 0);
	assert_int_equal(run_child(timer_without_pwait2, ENOSYS, text, sizeof(text)), 0);
}

static void op_done(struct loop_op *op, int res)
{
	(void)op;
	if (res != 4096)
		_exit(3);
}

/* Without io_submit() and preadv2(), threads perform all of the I/O. */
static int direct_io_by_threads(int error)
{
	const char *folder = getenv("TMPDIR");
	int fd = open(folder ? folder : "/tmp", O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
	struct iovec iov = { aligned_alloc(4096, 4096), 4096 };
	struct loop_op op = { .done = op_done };
	struct loop *l;
	struct err e;

	setenv("CAIRN_LOOP", "epoll", 1);
	refuse(error, (const int[]){ SCMP_SYS(io_setup), SCMP_SYS(preadv2) }, 2);
	if (fd < 0 || loop_new(8, &l, &e))
		return fd < 0 ? 0 : 1; /* the file system has no direct I/O */
	memset(iov.iov_base, 7, 4096);
	loop_writev(l, &op, fd, &iov, 1, 0);
	while (loop_ops_in_flight(l))
		loop_run_once(l, UINT64_MAX);
	memset(iov.iov_base, 0, 4096);
	loop_readv(l, &op, fd, &iov, 1, 0);
	while (loop_ops_in_flight(l))
		loop_run_once(l, UINT64_MAX);
	loop_free(l);
	return *(uint8_t *)iov.iov_base == 7 ? 0 : 2;
}

static void test_direct_io_without_io_setup(void **state)
{
	char text[4096];

	(void)state;
	assert_int_equal(run_child(direct_io_by_threads, EPERM, text, sizeof(text)), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused_io_uring_leaves_epoll_and_one_line),
		cmocka_unit_test(test_loops_after_a_refused_one_are_on_epoll),
		cmocka_unit_test(test_choice_and_other_errors_do_not_fall_back),
		cmocka_unit_test(test_variable_chooses),
		cmocka_unit_test(test_timers_without_epoll_pwait2),
		cmocka_unit_test(test_direct_io_without_io_setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
