/* Runs the seeds of the control plane's fuzzers and some mutations through the fuzzers' entry
 * points (tests/fuzz/fuzz_api.h): nothing crashes, hangs, leaks or violates a property. Past finds
 * are seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "tests/fuzz/fuzz_api.h"

/* Mutations per seed, the same in each run. */
#define WIRE_MUTATIONS 2000u
#define CONFIG_MUTATIONS 100000u
#define SCRIPT_MUTATIONS 80u

struct seed {
	const char *name;
	/* Expected number of texts, or of answers that are no errors, which shows that the seed
	 * does its job. */
	unsigned good;
};

static const struct seed wire_seeds[] = { { "bytes", 3 }, { "deep", 1 }, { "quotes", 2 }, { "reset", 1 }, { "two", 2 },
	{ "values", 1 } };
static const struct seed script_seeds[] = { { "life", 18 }, { "qmp", 17 }, { "strange", 7 }, { "killed", 4 },
	{ "stranger", 3 }, { "files", 10 } };

static uint8_t input[SCRIPT_INPUT_MAX];
static bool is_root; /* so this process can play the stranger as well */

static size_t seed_read(const char *folder, const char *name)
{
	char path[128];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "tests/data/%s/%s", folder, name);
	f = fopen(path, "r");
	assert_non_null(f);
	n = fread(input, 1, sizeof(input), f);
	fclose(f);
	assert_true(n > 0 && n < sizeof(input));
	return n;
}

static uint64_t random_next(uint64_t *x)
{
	*x = *x * 6364136223846793005ULL + 1442695040888963407ULL;
	return *x >> 33;
}

static void test_wire_seeds(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wire_seeds); i++)
		assert_int_equal(wire_run(input, seed_read("wire", wire_seeds[i].name)), wire_seeds[i].good);
}

static void test_wire_mutations(void **state)
{
	static const uint8_t breaks[] = { '{', '}', '[', ']', '"', '\'', '\\', ',', ':', 0, 0xff, 0x80, 0xed, '\n', '/', '-' };
	uint64_t x = 1;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wire_seeds); i++)
		for (unsigned m = 0; m < WIRE_MUTATIONS; m++) {
			size_t n = seed_read("wire", wire_seeds[i].name);

			for (unsigned k = 1 + m % 4; k; k--) {
				size_t at = random_next(&x) % n;

				input[at] = breaks[random_next(&x) % ARRAY_SIZE(breaks)];
			}
			wire_run(input, n);
		}
}

/* Of configurations with a few changes, some are accepted and most are not. */
static void test_config_mutations(void **state)
{
	static const uint8_t breaks[] = { 0, 1, 2, 7, 0x40, 0x7f, 0x80, 0xfe, 0xff };
	unsigned taken = 0;
	uint64_t x = 1;

	(void)state;
	assert_true(config_run(NULL, 0));
	for (unsigned i = 0; i < CONFIG_MUTATIONS; i++) {
		size_t n = 1 + 3 * (1 + random_next(&x) % 4);

		input[0] = i % 4 ? 12 : (uint8_t)random_next(&x);
		for (size_t at = 1; at < n; at += 3) {
			/* The strings and disks in the middle are large and mostly zero. */
			input[at] = (uint8_t)(random_next(&x) % 2 ? random_next(&x) % 2 : random_next(&x));
			input[at + 1] = (uint8_t)random_next(&x);
			input[at + 2] = breaks[random_next(&x) % sizeof(breaks)];
		}
		taken += config_run(input, n);
	}
	assert_in_range(taken, CONFIG_MUTATIONS / 20, CONFIG_MUTATIONS - CONFIG_MUTATIONS / 20);
}

/* why_not: NULL, or why this process runs no scripts. */
static void need_scripts(const char *why_not)
{
	if (!why_not)
		return;
	print_message("skipped: %s\n", why_not);
	skip();
}

static void test_script_seeds(void **state)
{
	need_scripts(*state);
	for (size_t i = 0; i < ARRAY_SIZE(script_seeds); i++) {
		bool played = is_root || strcmp(script_seeds[i].name, "stranger");

		assert_int_equal(script_run(input, seed_read("script", script_seeds[i].name), true), played ? script_seeds[i].good : 0);
	}
}

static void test_script_mutations(void **state)
{
	need_scripts(*state);
	for (size_t i = 0; i < ARRAY_SIZE(script_seeds); i++) {
		size_t n = seed_read("script", script_seeds[i].name);

		for (unsigned m = 0; m < SCRIPT_MUTATIONS; m++) {
			/* Each mutation continues from the previous one. */
			if (m % 8 == 0)
				n = seed_read("script", script_seeds[i].name);
			n = script_mutate(input, n, sizeof(input), m + 1);
			script_run(input, n, false);
		}
	}
}

/* Runs last, because it confines the process: from here on only a tmpfs can be written. */
static int shut_in(void **state)
{
	static char why_not[128];
	int r = 0;

#ifdef __SANITIZE_THREAD__
	*state = "pretended VMs share our memory, and the thread sanitizer takes them for a fork";
	return 0;
#endif
	is_root = !getuid();
	r = script_setup(NULL);
	snprintf(why_not, sizeof(why_not), "cannot make a namespace of mounts: %s", strerror(-r));
	*state = r < 0 ? why_not : NULL;
	return 0;
}

int main(void)
{
	const struct CMUnitTest wire[] = {
		cmocka_unit_test(test_wire_seeds),
		cmocka_unit_test(test_wire_mutations),
		cmocka_unit_test(test_config_mutations),
	};
	const struct CMUnitTest scripts[] = {
		cmocka_unit_test(test_script_seeds),
		cmocka_unit_test(test_script_mutations),
	};
	int failed;

	failed = cmocka_run_group_tests(wire, NULL, NULL);
	return failed + cmocka_run_group_tests(scripts, shut_in, NULL);
}
