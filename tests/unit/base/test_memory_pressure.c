/* memory_pressure: the trigger that a file gets, and what the kernel makes of it. */
#include "base/memory_pressure.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_file_gets_a_trigger_that_any_user_may_set(void **state)
{
	char path[128], text[64] = "";
	unsigned stalled_us = 0, window_us = 1;
	int tmp, fd;

	(void)state;
	snprintf(path, sizeof(path), "%s/cairn-pressure-XXXXXX", tmp_folder());
	tmp = mkstemp(path);
	assert_true(tmp >= 0);
	fd = memory_pressure_open(AT_FDCWD, path);
	assert_true(fd >= 0);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	assert_int_equal(sscanf(text, "some %u %u", &stalled_us, &window_us), 2);
	assert_true(stalled_us && stalled_us < window_us && window_us % 2000000 == 0);
	close(fd);
	close(tmp);
	unlink(path);
	assert_int_equal(memory_pressure_open(AT_FDCWD, path), -ENOENT);
}

static void test_kernel_takes_the_trigger(void **state)
{
	int fd = memory_pressure_open(AT_FDCWD, MEMORY_PRESSURE_HOST);
	struct pollfd set = { .fd = fd, .events = POLLPRI };

	(void)state;
	if (fd == -ENOENT || fd == -EPERM || fd == -EACCES || fd == -EOPNOTSUPP) {
		print_message("skipped: %s: %s\n", MEMORY_PRESSURE_HOST, strerror(-fd));
		skip();
	}
	assert_true(fd >= 0);
	assert_true(poll(&set, 1, 0) >= 0);
	assert_false(set.revents & (POLLERR | POLLNVAL));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file_gets_a_trigger_that_any_user_may_set),
		cmocka_unit_test(test_kernel_takes_the_trigger),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
