/* Tests fork_seal: when the state of a fork's source counts as sealed. */
#include "api/jobs/fork_seal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static bool is_sealed(int seals)
{
	int fd = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	bool sealed;

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	sealed = fork_is_sealed(fd);
	assert_int_equal(fcntl(fd, F_GET_SEALS), seals); /* adding seals would wait for the file's lock */
	close(fd);
	return sealed;
}

static void test_the_sources_seals_are_enough_and_the_file_is_left_alone(void **state)
{
	(void)state;
	assert_true(is_sealed(F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW));
	assert_true(is_sealed(F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	assert_false(is_sealed(F_SEAL_SHRINK | F_SEAL_GROW));
	assert_false(is_sealed(F_SEAL_WRITE | F_SEAL_GROW));
	assert_false(is_sealed(F_SEAL_WRITE | F_SEAL_SHRINK));
	assert_false(is_sealed(0));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_the_sources_seals_are_enough_and_the_file_is_left_alone) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
