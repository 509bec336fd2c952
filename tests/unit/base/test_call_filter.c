/* call_filter: system calls under a filter, each in a child that the filter may kill. */
#include "base/call_filter.h"
#include "base/util.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
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
#define REQUESTS 300 /* more than a conditional jump can skip */
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
	call_filter_calls(f, SECCOMP_RET_ALLOW, calls, ARRAY_SIZE(calls));
}

/* Returns what run() returns in a child with the filter, or KILLED. */
static int under(struct call_filter *f, uint32_t otherwise, bool all_threads, int (*run)(const long *args), const long *args)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		signal(SIGSYS, SIG_DFL); /* cmocka handles it */
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || call_filter_install(f, otherwise, all_threads) < 0)
			_exit(255);
		syscall(SYS_exit_group, run(args));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		return KILLED;
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int one_call(const long *a)
{
	return syscall(a[0], a[1], a[2], a[3]) < 0 ? errno : 0;
}

/* Returns the errno of the call under the filter, 0 or KILLED. */
static int call(bool others, long number, long a, long b)
{
	struct call_filter f;

	filter_write(&f);
	return under(&f, others ? SECCOMP_RET_ALLOW : SECCOMP_RET_TRAP, false, one_call, (const long[]){ number, a, b, 0 });
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

/* Rules for close(), of which the first that fits decides: a first argument of 1 with a second that has bit 4, but not
 * bit 5; then 1; then 2. */
static int close_under_rules(long a, long b)
{
	static const struct call_filter_argument both[] = { CALL_FILTER_IS(0, 1), { 1, 0x30, 0x10 } };
	static const struct call_filter_argument one[] = { CALL_FILTER_IS(0, 1) }, two[] = { CALL_FILTER_IS(0, 2) };
	static const int calls[] = { SYS_exit_group };
	struct call_filter f;

	call_filter_init(&f);
	call_filter_rule(&f, SYS_close, SECCOMP_RET_ERRNO | EXDEV, both, ARRAY_SIZE(both));
	call_filter_rule(&f, SYS_close, SECCOMP_RET_ERRNO | EDOM, one, 1);
	call_filter_rule(&f, SYS_close, SECCOMP_RET_ALLOW, two, 1);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, calls, ARRAY_SIZE(calls));
	return under(&f, SECCOMP_RET_KILL_PROCESS, false, one_call, (const long[]){ SYS_close, a, b, 0 });
}

static void test_first_rule_whose_conditions_hold_decides(void **state)
{
	(void)state;
	assert_int_equal(close_under_rules(1, 0x10), EXDEV);
	assert_int_equal(close_under_rules(1, 0x1f), EXDEV);
	assert_int_equal(close_under_rules(1, 0x30), EDOM);
	assert_int_equal(close_under_rules(1, 0), EDOM);
	assert_int_equal(close_under_rules(2, 0x10), 0);
	assert_int_equal(close_under_rules(3, 0x10), KILLED);
}

/* Returns the result of the call under rules for close() with a first argument of 1, 3 or 0x100, and of getppid(). */
static int call_under_values(long number, long a)
{
	static const uint32_t values[] = { 1, 3, 0x100 };
	static const int allowed[] = { SYS_exit_group, SYS_dup }, refused[] = { SYS_getppid };
	struct call_filter f;

	call_filter_init(&f);
	call_filter_values(&f, SYS_close, SECCOMP_RET_ERRNO | EDOM, 0, values, ARRAY_SIZE(values));
	call_filter_calls(&f, SECCOMP_RET_ERRNO | EXDEV, refused, ARRAY_SIZE(refused));
	call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	return under(&f, SECCOMP_RET_KILL_PROCESS, false, one_call, (const long[]){ number, a, 0, 0 });
}

static void test_values_of_an_argument_fit_one_call(void **state)
{
	(void)state;
	assert_int_equal(call_under_values(SYS_close, 1), EDOM);
	assert_int_equal(call_under_values(SYS_close, 3), EDOM);
	assert_int_equal(call_under_values(SYS_close, 0x100), EDOM);
	assert_int_equal(call_under_values(SYS_close, 2), KILLED);
	assert_int_equal(call_under_values(SYS_close, 0), KILLED);
	assert_int_equal(call_under_values(SYS_dup, FD_ONE), EBADF);
	assert_int_equal(call_under_values(SYS_dup, 1), 0);
	assert_int_equal(call_under_values(SYS_getppid, 1), EXDEV);
	assert_int_equal(call_under_values(SYS_getpid, 1), KILLED);
}

/* Run the filter for a system call of the processor's 64-bit mode with those two arguments. Returns the answer; *steps:
 * number of instructions. */
static uint32_t filter_run(const struct call_filter *f, int call, const uint32_t args[2], unsigned *steps)
{
	const struct seccomp_data data = { .nr = call, .arch = AUDIT_ARCH_X86_64, .args = { args[0], args[1] } };
	uint32_t value = 0;

	*steps = 0;
	for (unsigned at = 0;; at++) {
		const struct sock_filter *i = &f->insn[at];
		bool jumps = false;

		assert_true(at < f->n);
		++*steps;
		switch (i->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			assert_in_range(i->k, 0, sizeof(data) - sizeof(value));
			memcpy(&value, (const char *)&data + i->k, sizeof(value));
			break;
		case BPF_ALU | BPF_AND | BPF_K:
			value &= i->k;
			break;
		case BPF_JMP | BPF_JA:
			at += i->k;
			continue;
		case BPF_JMP | BPF_JEQ | BPF_K:
			jumps = value == i->k;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			jumps = value >= i->k;
			break;
		case BPF_RET | BPF_K:
			return i->k;
		default:
			fail();
		}
		if (BPF_CLASS(i->code) == BPF_JMP)
			at += jumps ? i->jt : i->jf;
	}
}

/* When a filter is installed, the kernel runs it for each system call that there is. */
static void test_calls_of_a_list_are_found_in_few_steps(void **state)
{
	enum { MOST = 120, CALLS = 600 };
	static const uint32_t none[2];
	bool listed[CALLS];
	int calls[MOST];
	unsigned steps;

	(void)state;
	srandom(7);
	for (unsigned n = 1; n <= MOST; n++) {
		struct call_filter f;

		memset(listed, 0, sizeof(listed));
		for (unsigned i = 0; i < n; i++) {
			/* neighbours, repeated ones and single ones, in any order */
			calls[i] = (int)(random() % (n % 3 ? CALLS : n + 3));
			listed[calls[i]] = true;
		}
		call_filter_init(&f);
		call_filter_calls(&f, SECCOMP_RET_ALLOW, calls, n);
		f.insn[f.n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
		for (int c = 0; c < CALLS; c++) {
			assert_int_equal(filter_run(&f, c, none, &steps), listed[c] ? SECCOMP_RET_ALLOW : SECCOMP_RET_TRAP);
			assert_in_range(steps, 1, 4 + 1 + 8 + 1);
		}
	}
}

/* A rule of a random filter: a list of calls, or one call with up to two conditions. */
struct random_rule {
	int calls[40];
	unsigned ncalls, nargs;
	struct call_filter_argument args[2];
	uint32_t answer;
};

static void random_rule_put(struct call_filter *f, struct random_rule *r, unsigned most_calls)
{
	r->ncalls = random() % 2 ? 1 : 1 + (unsigned)random() % ARRAY_SIZE(r->calls);
	r->nargs = r->ncalls > 1 ? 0 : (unsigned)random() % 3;
	r->answer = SECCOMP_RET_ERRNO | (uint32_t)(1 + random() % 1000);
	for (unsigned i = 0; i < r->ncalls; i++)
		r->calls[i] = (int)(random() % most_calls);
	for (unsigned i = 0; i < r->nargs; i++)
		r->args[i] = (struct call_filter_argument){ (unsigned)random() % 2, random() % 2 ? UINT32_MAX : 1,
			(uint32_t)random() % 2 };
	if (r->nargs)
		call_filter_rule(f, r->calls[0], r->answer, r->args, r->nargs);
	else
		call_filter_calls(f, r->answer, r->calls, r->ncalls);
}

static bool random_rule_fits(const struct random_rule *r, int call, const uint32_t args[2])
{
	bool fits = false;

	for (unsigned i = 0; i < r->ncalls; i++)
		fits |= r->calls[i] == call;
	for (unsigned i = 0; i < r->nargs; i++)
		fits &= (args[r->args[i].at] & r->args[i].mask) == r->args[i].value;
	return fits;
}

static void test_first_rule_of_random_filters_decides(void **state)
{
	enum { RULES = 6 };
	static const uint32_t args[][2] = { { 0, 0 }, { 0, 1 }, { 1, 0 }, { 1, 1 }, { 2, 3 } };
	struct random_rule rules[RULES];
	unsigned steps;

	(void)state;
	srandom(8);
	for (unsigned round = 0; round < 100; round++) {
		unsigned calls = round % 2 ? 12 : 600;
		struct call_filter f;

		call_filter_init(&f);
		for (unsigned i = 0; i < RULES; i++)
			random_rule_put(&f, &rules[i], calls);
		f.insn[f.n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
		for (unsigned c = 0; c < calls * ARRAY_SIZE(args); c++) {
			const uint32_t *a = args[c / calls];
			unsigned i = 0;

			while (i < RULES && !random_rule_fits(&rules[i], (int)(c % calls), a))
				i++;
			assert_int_equal(filter_run(&f, (int)(c % calls), a, &steps), i < RULES ? rules[i].answer : SECCOMP_RET_TRAP);
		}
	}
}

/* The kernel compiles a filter at each start of a VM. */
static void test_values_of_a_list_take_an_instruction_each(void **state)
{
	static const uint32_t values[20] = { 7 };
	struct call_filter f, g;

	(void)state;
	call_filter_init(&f);
	call_filter_init(&g);
	call_filter_values(&f, SYS_fcntl, SECCOMP_RET_ALLOW, 1, values, 5);
	call_filter_values(&g, SYS_fcntl, SECCOMP_RET_ALLOW, 1, values, ARRAY_SIZE(values));
	assert_int_equal(g.n - f.n, 15);
	call_filter_ioctls(&f, &(struct call_filter_ioctls){ -1, values, 5 }, 1);
	call_filter_ioctls(&g, &(struct call_filter_ioctls){ -1, values, ARRAY_SIZE(values) }, 1);
	assert_int_equal(g.n - f.n, 30);
}

static void test_rule_without_conditions_fits_each_call(void **state)
{
	struct call_filter f;

	(void)state;
	call_filter_init(&f);
	call_filter_rule(&f, SYS_getppid, SECCOMP_RET_ERRNO | EDOM, NULL, 0);
	assert_int_equal(under(&f, SECCOMP_RET_ALLOW, false, one_call, (const long[]){ SYS_getppid, 0, 0, 0 }), EDOM);
}

/* 20 is getpid() for 32-bit programs, and writev() for others. */
static int call_of_32_bits(const long *args)
{
	long r;

	(void)args;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
	return r <= 0;
}

/* A kernel without 32-bit calls ends the child with SIGSEGV. */
static bool host_has_32_bits(void)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		signal(SIGSEGV, SIG_DFL); /* cmocka's handler would go on with the tests in the child */
		_exit(call_of_32_bits(NULL));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

static void test_calls_of_another_processor_mode_kill(void **state)
{
	static const int calls[] = { SYS_writev, SYS_exit_group };
	struct call_filter f;

	(void)state;
	call_filter_init(&f);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, calls, ARRAY_SIZE(calls));
	/* x32: getppid() of that mode */
	assert_int_equal(under(&f, SECCOMP_RET_ALLOW, false, one_call, (const long[]){ 0x40000000 + SYS_getppid, 0, 0, 0 }), KILLED);
	if (host_has_32_bits())
		assert_int_equal(under(&f, SECCOMP_RET_ALLOW, false, call_of_32_bits, NULL), KILLED);
}

static void *thread_call(void *opaque)
{
	volatile int *state = opaque;

	*state = 1;
	while (*state == 1)
		;
	*state = syscall(SYS_getppid) < 0 ? errno : 3;
	return NULL;
}

/* Returns the result of the call in a thread that is older than the filter. */
static int older_thread(bool all_threads)
{
	static volatile int state;
	struct call_filter f;
	pthread_t thread;
	int status;
	pid_t pid = fork();

	if (!pid) {
		if (pthread_create(&thread, NULL, thread_call, (void *)&state))
			_exit(255);
		while (!state)
			;
		call_filter_init(&f);
		call_filter_rule(&f, SYS_getppid, SECCOMP_RET_ERRNO | EDOM, NULL, 0);
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || call_filter_install(&f, SECCOMP_RET_ALLOW, all_threads) < 0)
			_exit(255);
		state = 2;
		pthread_join(thread, NULL);
		_exit(state);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_older_threads_get_the_filter_if_asked(void **state)
{
	(void)state;
	assert_int_equal(older_thread(true), EDOM);
	assert_int_equal(older_thread(false), 3);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_calls_of_the_list_are_allowed),
		cmocka_unit_test(test_ioctls_go_by_request_and_fd),
		cmocka_unit_test(test_upper_halves_of_ioctl_arguments_do_not_count),
		cmocka_unit_test(test_first_rule_whose_conditions_hold_decides),
		cmocka_unit_test(test_values_of_an_argument_fit_one_call),
		cmocka_unit_test(test_calls_of_a_list_are_found_in_few_steps),
		cmocka_unit_test(test_first_rule_of_random_filters_decides),
		cmocka_unit_test(test_values_of_a_list_take_an_instruction_each),
		cmocka_unit_test(test_rule_without_conditions_fits_each_call),
		cmocka_unit_test(test_calls_of_another_processor_mode_kill),
		cmocka_unit_test(test_older_threads_get_the_filter_if_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
