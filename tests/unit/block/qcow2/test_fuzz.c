/* Runs the fuzzer's seeds, its past finds and some mutations through the fuzzer's entry point
 * (tests/fuzz): nothing crashes, hangs or damages an image further. */
#include "fixture_block.h"

#include "tests/fuzz/fuzz_image.h"

/* Mutations per seed, with the same random numbers in each run. */
#define MUTATIONS 60u
#define GENERATIONS 3u

static uint8_t input[IMAGE_INPUT_MAX];

/* QEMU's check accepts every seed image. */
static void test_seeds_are_consistent(void **state)
{
	struct fixture f;

	fixture_begin(&f, 1);
	for (size_t i = 0; i < image_seeds(); i++) {
		size_t n = image_seed(i, input, sizeof(input));

		assert_true(n > IMAGE_PROGRAM_BYTES);
		fixture_run(&f, "head -c %zu /dev/zero >img; head -c 256k /dev/zero >base.img; "
			"cp base.img data.img",
			n - IMAGE_PROGRAM_BYTES);
		fixture_poke(&f, "img", 0, input + IMAGE_PROGRAM_BYTES, n - IMAGE_PROGRAM_BYTES);
		/* QEMU opens no image on a pin. */
		if (!strcmp(image_seed_name(i), "overlay"))
			fixture_run(&f, "! qemu-img check -q -f qcow2 img 2>/dev/null && qemu-img rebase -f qcow2 -u -b '' img");
		fixture_run(&f, "qemu-img check -q -f qcow2 img");
		image_run(input, n);
	}
	log_silence(false);
	fixture_end(&f);
	(void)state;
}

static void test_past_finds(void **state)
{
	for (size_t i = 0; i < image_nfinds; i++) {
		size_t n = image_find(&image_finds[i], input, sizeof(input));

		if (!n)
			fail_msg("%s: there is no seed '%s'", image_finds[i].what, image_finds[i].seed);
		image_run(input, n);
	}
	(void)state;
}

static void test_mutations(void **state)
{
	static uint8_t mutant[IMAGE_INPUT_MAX];

	for (size_t i = 0; i < image_seeds(); i++) {
		size_t n = image_seed(i, input, sizeof(input));

		for (unsigned m = 0; m < MUTATIONS; m++) {
			size_t len = n;

			memcpy(mutant, input, n);
			for (unsigned g = 0; g < GENERATIONS; g++) {
				len = image_mutate(mutant, len, sizeof(mutant),
					(i * MUTATIONS + m) * GENERATIONS + g + 1);
				image_run(mutant, len);
			}
		}
	}
	(void)state;
}

/* Inputs that are no image, and the empty input. */
static void test_short_inputs_are_harmless(void **state)
{
	for (size_t n = 0; n < 200; n += 7) {
		memset(input, (int)n, n);
		image_run(input, n);
	}
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_seeds_are_consistent),
		cmocka_unit_test(test_past_finds),
		cmocka_unit_test(test_mutations),
		cmocka_unit_test(test_short_inputs_are_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
