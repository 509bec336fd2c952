/* fork_files: a thread that nobody waits for any more removes the files that it has created, and no other ones. */
#include "api/jobs/fork_files.h"
#include "api/access/fork_as.h"
#include "base/err.h"
#include "base/file.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char first[128], second[128];
static atomic_bool given_up;
static bool replaced; /* another job has made the first file anew meanwhile */

/* Linked in place of open(). When the second file is opened, nobody waits any more. */
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

int __wrap_open(const char *path, int flags, ...)
{
	int fd = __real_open(path, flags, 0600);

	if (fd < 0 || strcmp(path, second) != 0)
		return fd;
	if (replaced) {
		assert_int_equal(unlink(first), 0);
		assert_int_equal(file_write_atomic(first, "x", 1, 0600, NULL), 0);
	}
	atomic_store(&given_up, true);
	return fd;
}

/* Returns whether the first file is there at the end. */
static bool open_and_give_up(void)
{
	struct fork_files f = { .list = { { first, true, .at = 1 }, { second, true, .at = 2 } }, .n = 2 };
	struct fork_as_result out = { .given_up = &given_up, .input = dup(0) };
	char folder[96];
	struct err e;
	bool there;

	snprintf(folder, sizeof(folder), "%s/cairn-fork-files-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(folder));
	snprintf(first, sizeof(first), "%s/first", folder);
	snprintf(second, sizeof(second), "%s/second", folder);
	atomic_store(&given_up, false);
	assert_int_equal(fork_files_open(&f, &out, &e), -ECANCELED);
	assert_true(out.nheld == 0 && out.input == -1);
	assert_int_equal(access(second, F_OK), -1);
	there = !access(first, F_OK);
	unlink(first);
	rmdir(folder);
	return there;
}

static void test_created_files_are_removed(void **state)
{
	(void)state;
	replaced = false;
	assert_false(open_and_give_up());
}

static void test_file_of_another_job_stays(void **state)
{
	(void)state;
	replaced = true;
	assert_true(open_and_give_up());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_created_files_are_removed),
		cmocka_unit_test(test_file_of_another_job_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
