/* call_filter: system calls under a filter, each in a child that the filter may kill. */
#include "base/call_filter.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define FD_ONE 900 /* no such fd is open: an allowed ioctl fails with EBADF */
#define FD_TWO 901
#define REQUEST_ONE 0x5401u
#define REQUEST_TWO 0xae80u
#define REQUEST_LAST 0xc028aa03u
#define REQUESTS 150 /* more than a conditional jump can skip */
#define KILLED (-1)

static unsigned requests[REQUESTS];

static void filter_write(struct call_filter *f)
{
	static const unsigned one[] = { REQUEST_ONE };
	static const int calls[] = { SYS_exit_group, SYS_getppid };
	const struct call_filter_ioctls groups[] = { { FD_ONE, requests, REQUESTS }, { -1, one, 1 } };

	for (unsigned i = 0; i < REQUESTS; i++)
		requests[i] = 0x1000 + i;
	requests[0] = REQUEST_TWO;
	requests[REQUESTS - 1] = REQUEST_LAST;
	call_filter_init(f);
	call_filter_ioctls(f, groups, ARRAY_SIZE(groups));
	call_filter_calls(f, calls, ARRAY_SIZE(calls));
}

/* Returns the errno of the call under the filter, 0 or KILLED. */
static int call(bool others, long number, long a, long b)
{
	struct call_filter f;
	int status;
	pid_t pid;

	filter_write(&f);
	pid = fork();
	if (!pid) {
		signal(SIGSYS, SIG_DFL); /* cmocka handles it */
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || call_filter_install(&f, others) < 0)
			_exit(255);
		syscall(SYS_exit_group, syscall(number, a, b, 0) < 0 ? errno : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		return KILLED;
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_calls_of_the_list_are_allowed(void **state)
{
	(void)state;
	assert_int_equal(call(false, SYS_getppid, 0, 0), 0);
	assert_int_equal(call(false, SYS_getpid, 0, 0), KILLED);
	assert_int_equal(call(true, SYS_getpid, 0, 0), 0);
	assert_int_equal(call(false, SYS_close, FD_ONE, 0), KILLED);
}

static void test_ioctls_go_by_request_and_fd(void **state)
{
	(void)state;
	for (int others = 0; others < 2; others++) {
		assert_int_equal(call(others, SYS_ioctl, FD_ONE, REQUEST_TWO), EBADF);
		assert_int_equal(call(others, SYS_ioctl, FD_ONE, REQUEST_LAST), EBADF);
		assert_int_equal(call(others, SYS_ioctl, FD_TWO, REQUEST_TWO), KILLED);
		assert_int_equal(call(others, SYS_ioctl, FD_TWO, REQUEST_LAST), KILLED);
		assert_int_equal(call(others, SYS_ioctl, FD_ONE, REQUEST_ONE), EBADF);
		assert_int_equal(call(others, SYS_ioctl, FD_TWO, REQUEST_ONE), EBADF);
		assert_int_equal(call(others, SYS_ioctl, FD_ONE, REQUEST_ONE + 1), KILLED);
		assert_int_equal(call(others, SYS_ioctl, FD_ONE, 0), KILLED);
	}
}

/* The kernel ignores the upper halves of both. */
static void test_upper_halves_of_ioctl_arguments_do_not_count(void **state)
{
	(void)state;
	assert_int_equal(call(false, SYS_ioctl, FD_ONE | 1L << 32, REQUEST_TWO), EBADF);
	assert_int_equal(call(false, SYS_ioctl, FD_TWO | 1L << 32, REQUEST_TWO), KILLED);
	assert_int_equal(call(false, SYS_ioctl, FD_ONE, REQUEST_TWO | 1L << 32), EBADF);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_calls_of_the_list_are_allowed),
		cmocka_unit_test(test_ioctls_go_by_request_and_fd),
		cmocka_unit_test(test_upper_halves_of_ioctl_arguments_do_not_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
