#include "base/build_id.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <string.h>

/* A program head: two notes, of which the second is the id. */
struct head {
	Elf64_Ehdr e;
	Elf64_Phdr p[2];
	Elf64_Nhdr other;
	char other_name[4];
	uint8_t other_content[8];
	Elf64_Nhdr note;
	char name[4];
	uint8_t id[20];
};

static struct head head_make(void)
{
	struct head h = {
		.e = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64 }, .e_phoff = offsetof(struct head, p),
			.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 2 },
		.p = { { .p_type = PT_LOAD }, { .p_type = PT_NOTE, .p_offset = offsetof(struct head, other),
			.p_filesz = sizeof(struct head) - offsetof(struct head, other) } },
		.other = { .n_namesz = 3, .n_descsz = 7, .n_type = NT_GNU_BUILD_ID },
		.other_name = "ab",
		.note = { .n_namesz = 4, .n_descsz = 20, .n_type = NT_GNU_BUILD_ID },
		.name = "GNU",
		.id = { 1, 2, 3, 4, 5, 6, 7, 8, 9 },
	};

	return h;
}

static uint64_t id_in(const struct head *h, size_t len)
{
	return build_id_in((const uint8_t *)h, len);
}

static void test_id_of_this_program_is_that_of_its_file(void **state)
{
	assert_int_not_equal(build_id_own(), 0);
	assert_true(build_id_own() == build_id_of("/proc/self/exe"));
	(void)state;
}

static void test_files_without_an_id(void **state)
{
	assert_int_equal(build_id_of("/nonexistent"), 0);
	assert_int_equal(build_id_of("/"), 0);
	assert_int_equal(build_id_of("/dev/null"), 0);
	assert_int_equal(build_id_of("/etc/passwd"), 0);
	(void)state;
}

static void test_the_note_is_found_behind_another(void **state)
{
	struct head h = head_make();

	assert_true(id_in(&h, sizeof(h)) == 0x0807060504030201);
	h.name[0] = 'X';
	assert_int_equal(id_in(&h, sizeof(h)), 0);
	(void)state;
}

static void test_a_head_that_is_cut_has_no_id(void **state)
{
	struct head h = head_make();

	for (size_t len = 0; len < sizeof(h); len++) {
		uint8_t *part = test_malloc(len + 1);

		memcpy(part, &h, len);
		assert_int_equal(build_id_in(part, len), 0);
		test_free(part);
	}
	(void)state;
}

static void test_offsets_and_lengths_beyond_the_head_are_refused(void **state)
{
	struct head h = head_make();

	h.e.e_phoff = UINT64_MAX - 8;
	assert_int_equal(id_in(&h, sizeof(h)), 0);
	h = head_make();
	h.e.e_phnum = UINT16_MAX;
	assert_int_equal(id_in(&h, sizeof(h)), 0);
	h = head_make();
	h.p[1].p_offset = UINT64_MAX;
	assert_int_equal(id_in(&h, sizeof(h)), 0);
	h = head_make();
	h.p[1].p_filesz = UINT64_MAX;
	assert_int_equal(id_in(&h, sizeof(h)), 0);
	h = head_make();
	h.other.n_descsz = UINT32_MAX;
	assert_int_equal(id_in(&h, sizeof(h)), 0);
	h = head_make();
	h.note.n_descsz = 4;
	assert_int_equal(id_in(&h, sizeof(h)), 0);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_id_of_this_program_is_that_of_its_file),
		cmocka_unit_test(test_files_without_an_id),
		cmocka_unit_test(test_the_note_is_found_behind_another),
		cmocka_unit_test(test_a_head_that_is_cut_has_no_id),
		cmocka_unit_test(test_offsets_and_lengths_beyond_the_head_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
