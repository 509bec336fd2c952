/* Runs random programs against each device through the fuzzers' entry point (tests/fuzz/fuzz_device.h), and one that
 * shows that a program reaches the device's requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <string.h>

#include "tests/fuzz/fuzz_device.h"

#define PROGRAMS 150u /* for each device, the same in each run; fewer where each saves a framebuffer */

/* A driver with all features; a writable descriptor of 64 bytes at 0x40000, then made available; the loop runs. */
static const uint8_t ask[] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 64, 1, 64, 2, 0, 7, 0, 0, 0, 10, 3 };

static void test_program_gets_an_answer(void **state)
{
	(void)state;
	assert_int_equal(device_run(DEVICE_RNG, ask, sizeof(ask)), 1);
}

static unsigned open_files(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_random_programs(void **state)
{
	uint8_t program[DEVICE_INPUT_MAX];
	uint64_t x = 1;

	(void)state;
	for (unsigned kind = 0; kind < DEVICE_KINDS; kind++) {
		unsigned files = open_files();

		for (unsigned n = 0; n < PROGRAMS; n += kind == DEVICE_DISPLAY ? 5 : 1) {
			size_t len = 64 + n * 8;

			for (size_t i = 0; i < len; i++) {
				x = x * 6364136223846793005ULL + 1442695040888963407ULL;
				/* Small numbers name steps, queues and descriptors. */
				program[i] = (uint8_t)(x >> 40 & (x >> 33 & 3 ? 15 : 255));
			}
			device_run(kind, program, len);
		}
		assert_int_equal(open_files(), files);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_program_gets_an_answer),
		cmocka_unit_test(test_random_programs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
