/* Processes in a pid namespace of their own. tests/e2e/api/vm/test_cgroups.py tries those in a control group. */
#include "api/vm/child_spawn.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* Run a shell's script, which ends with the status 0 if its condition holds. */
static int script_run(const char *script, bool own_pids)
{
	char *const argv[] = { (char *)"sh", (char *)"-c", (char *)script, NULL };
	const int files[] = { -1, 1, 2 };
	const struct child_spawn s = { .cgroup = -1, .own_pids = own_pids, .program = "sh", .argv = argv, .files = files,
		.nfiles = ARRAY_SIZE(files) };
	int status;
	pid_t pid;
	int r = child_spawn(&s, &pid);

	if (r < 0)
		return r;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void skip_unless(int r)
{
	if (r == -ENOSYS || r == -EPERM) {
		print_message("skipped: this host, or this build, cannot create such processes\n");
		skip();
	}
}

static void test_process_is_the_first_of_its_pid_namespace(void **state)
{
	(void)state;
	skip_unless(child_spawn_try(-1, true));
	assert_int_equal(script_run("test $$ = 1", true), 0);
	assert_int_equal(child_spawn_try(-1, true), 0);
}

static void test_process_shares_the_pid_namespace_otherwise(void **state)
{
	(void)state;
	skip_unless(child_spawn_try(-1, false));
	assert_int_equal(script_run("test $$ != 1", false), 0);
}

static void test_missing_program_is_an_error(void **state)
{
	char *const argv[] = { (char *)"x", NULL };
	const int files[] = { -1 };
	pid_t pid;

	(void)state;
	skip_unless(child_spawn_try(-1, false));
	for (int own_pids = 0; own_pids <= !geteuid(); own_pids++) {
		const struct child_spawn s = { .cgroup = -1, .own_pids = own_pids, .program = "/nonexistent", .argv = argv,
			.files = files, .nfiles = 1 };

		if (!child_spawn_try(-1, own_pids))
			assert_int_equal(child_spawn(&s, &pid), -ENOENT);
	}
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_process_is_the_first_of_its_pid_namespace),
		cmocka_unit_test(test_process_shares_the_pid_namespace_otherwise),
		cmocka_unit_test(test_missing_program_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
