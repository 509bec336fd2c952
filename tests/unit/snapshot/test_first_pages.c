/* The list of the pages that a guest touches first: a written list reads back, and a damaged one counts as none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/util.h"
#include "snapshot/first_pages.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 100000u
#define OFFSET (13 * MIB + 65536)
#define CONTENT (20 + 5 + 4) /* the section's header and name, and the first entry */

static uint32_t list[FIRST_PAGES_MAX + 1], back[FIRST_PAGES_MAX];

/* A state's file is longer than the list's range. */
static int state_make(void)
{
	int fd = memfd_create("state", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 16 * MIB), 0);
	return fd;
}

static int list_make(size_t n)
{
	for (size_t i = 0; i < n; i++)
		list[i] = first_page(i * 20 + 3, i % 3 == 0);
	return (int)n;
}

static void test_list_reads_back(void **state)
{
	static const size_t sizes[] = { 0, 1, 2, FIRST_PAGES_MAX };
	int fd = state_make();

	(void)state;
	assert_int_equal(first_pages_read(fd, PAGES, back), -ENOENT);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		int n = list_make(sizes[i]);

		memset(back, 0xee, sizeof(back));
		assert_int_equal(first_pages_write(fd, list, sizes[i]), 0);
		assert_int_equal(first_pages_read(fd, PAGES, back), n);
		assert_memory_equal(back, list, sizes[i] * sizeof(*list));
	}
	assert_int_equal(first_page_number(back[3]), 63);
	assert_true(first_page_is_written(back[3]) && !first_page_is_written(back[4]));
	close(fd);
}

static void test_list_of_other_memory_is_none(void **state)
{
	int fd = state_make(), n = list_make(10);

	(void)state;
	assert_int_equal(first_pages_write(fd, list, 10), 0);
	assert_int_equal(first_pages_read(fd, 9 * 20 + 4, back), n);
	assert_int_equal(first_pages_read(fd, 9 * 20 + 3, back), -ENOENT); /* the last page is beyond the end of RAM */
	list[5] = list[4];
	assert_int_equal(first_pages_write(fd, list, 10), 0);
	assert_int_equal(first_pages_read(fd, PAGES, back), -ENOENT);
	list_make(10);
	list[9] = UINT32_MAX;
	assert_int_equal(first_pages_write(fd, list, 10), 0);
	assert_int_equal(first_pages_read(fd, PAGES, back), -ENOENT);
	close(fd);
}

static void test_damaged_list_is_none(void **state)
{
	int fd = state_make();
	uint8_t byte;

	(void)state;
	list_make(10);
	for (off_t at = 0; at < CONTENT + 36; at++) {
		assert_int_equal(first_pages_write(fd, list, 10), 0);
		assert_int_equal(pread(fd, &byte, 1, OFFSET + at), 1);
		byte ^= 0x40;
		assert_int_equal(pwrite(fd, &byte, 1, OFFSET + at), 1);
		assert_int_equal(first_pages_read(fd, PAGES, back), -ENOENT);
	}
	assert_int_equal(ftruncate(fd, OFFSET + 20), 0);
	assert_int_equal(first_pages_read(fd, PAGES, back), -ENOENT);
	close(fd);
}

static void test_list_that_is_too_long_is_none(void **state)
{
	int fd = state_make();

	(void)state;
	list_make(FIRST_PAGES_MAX + 1);
	first_pages_write(fd, list, FIRST_PAGES_MAX + 1);
	assert_int_equal(first_pages_read(fd, PAGES, back), -ENOENT);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_list_reads_back),
		cmocka_unit_test(test_list_of_other_memory_is_none),
		cmocka_unit_test(test_damaged_list_is_none),
		cmocka_unit_test(test_list_that_is_too_long_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
