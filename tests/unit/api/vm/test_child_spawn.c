/* Processes in a pid namespace of their own. tests/e2e/api/vm/test_cgroups.py tries those in a control group. */
#include "api/vm/child_spawn.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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

/* Run a shell's script with these files and no others. Returns the script's status. */
static int script_run_with(const char *script, const int *files, unsigned nfiles, struct child_files *numbers)
{
	char *const argv[] = { (char *)"sh", (char *)"-c", (char *)script, NULL };
	const struct child_spawn s = { .cgroup = -1, .program = "sh", .argv = argv, .files = files, .nfiles = nfiles,
		.numbers = numbers };
	int status;
	pid_t pid;

	assert_int_equal(child_spawn(&s, &pid), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static unsigned files_count(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_process_gets_its_files_with_kept_numbers(void **state)
{
	static const char script[] = "echo word >&4; read a <&3; test \"$a\" = word && test ! -e /proc/$$/fd/5 && test -c /proc/$$/fd/0";
	struct child_files *numbers;
	unsigned before;
	int ends[2];

	(void)state;
	skip_unless(child_spawn_try(-1, false));
	numbers = child_files_new();
	assert_non_null(numbers);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
		assert_int_equal(fcntl(ends[1], F_DUPFD_CLOEXEC, 100), 100); /* above all kept numbers, of which there are 49 */
		before = files_count();
		assert_int_equal(script_run_with(script, (int[]){ -1, 1, 2, ends[0], 100 }, 5, numbers), 0);
		assert_int_equal(files_count(), before); /* the child's table was its own */
		/* No kept number holds the pipe. */
		close(100);
		close(ends[1]);
		assert_int_equal(read(ends[0], &before, 1), 0);
		close(ends[0]);
	}
	child_files_free(numbers);
}

static void *threads_script_run(void *opaque)
{
	int ends[2], status;
	char c;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return opaque;
	for (int i = 0; i < 5; i++) {
		status = script_run_with("echo x >&3", (int[]){ -1, 1, 2, ends[1] }, 4, opaque);
		assert_int_equal(status, 0);
		assert_int_equal(read(ends[0], &c, 1), 1);
		assert_int_equal(read(ends[0], &c, 1), 1);
	}
	close(ends[0]);
	close(ends[1]);
	return NULL;
}

/* More threads than reserved fd numbers. Each thread gets the output of its own process. */
static void test_threads_spawn_at_once(void **state)
{
	struct child_files *numbers;
	pthread_t threads[8];
	void *failed;

	(void)state;
	skip_unless(child_spawn_try(-1, false));
	numbers = child_files_new();
	assert_non_null(numbers);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, threads_script_run, numbers), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		assert_int_equal(pthread_join(threads[i], &failed), 0);
		assert_null(failed);
	}
	child_files_free(numbers);
}

static void test_more_files_than_kept_numbers(void **state)
{
	struct child_files *numbers;
	int files[40] = { -1, 1, 2 };

	(void)state;
	skip_unless(child_spawn_try(-1, false));
	numbers = child_files_new();
	assert_non_null(numbers);
	for (int i = 3; i < 40; i++)
		files[i] = fcntl(2, F_DUPFD_CLOEXEC, 40);
	assert_int_equal(script_run_with("test -e /proc/$$/fd/39 && test ! -e /proc/$$/fd/40", files, 40, numbers), 0);
	for (int i = 3; i < 40; i++)
		close(files[i]);
	child_files_free(numbers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_process_is_the_first_of_its_pid_namespace),
		cmocka_unit_test(test_process_shares_the_pid_namespace_otherwise),
		cmocka_unit_test(test_missing_program_is_an_error),
		cmocka_unit_test(test_process_gets_its_files_with_kept_numbers),
		cmocka_unit_test(test_threads_spawn_at_once),
		cmocka_unit_test(test_more_files_than_kept_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
