/* The fixture's cleanup after a test that does not finish. */
#include "fixture_block.h"

#include <signal.h>
#include <sys/wait.h>

/* Begin a fixture in a process that dies of signal sig; returns its folder. */
static void die_of(int sig, char *ret_dir, size_t cap)
{
	int ends[2], st;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(ends), 0);
	pid = fork();
	if (!pid) {
		struct fixture f;

		signal(sig, SIG_DFL);
		fixture_begin(&f, 1);
		fixture_run(&f, "mkdir a && echo b >a/b");
		if (write(ends[1], f.dir, strlen(f.dir) + 1) < 0)
			_exit(1);
		raise(sig);
		_exit(1);
	}
	close(ends[1]);
	n = read(ends[0], ret_dir, cap);
	close(ends[0]);
	assert_true(n > 1 && !ret_dir[n - 1]);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_true(WIFSIGNALED(st) && WTERMSIG(st) == sig);
}

static void test_folder_is_removed_after_crash(void **state)
{
	static const int sigs[] = { SIGKILL, SIGALRM, SIGABRT };
	char dir[sizeof(((struct fixture *)0)->dir)];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		die_of(sigs[i], dir, sizeof(dir));
		while (!getenv("TEST_KEEP") && !access(dir, F_OK))
			usleep(1000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_folder_is_removed_after_crash) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
