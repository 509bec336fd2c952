/* Working sets: written sets read back, and a damaged file does no harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "snapshot/working_set.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCKS 5000u

struct fixture {
	struct working_sets w, back;
	int fd;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->fd = memfd_create("touched", MFD_CLOEXEC);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	working_sets_done(&f->w);
	working_sets_done(&f->back);
	close(f->fd);
	free(f);
	return 0;
}

static void put(struct working_sets *w, uint64_t key, uint32_t first, uint32_t n)
{
	uint32_t *b = malloc((n + 1) * sizeof(*b));

	for (uint32_t i = 0; i < n; i++)
		b[i] = first + (i * 7) % n;
	working_sets_put(w, key, b, n);
	free(b);
}

static void test_empty_file_has_no_sets(void **state)
{
	struct fixture *f = *state;

	assert_null(working_sets_find(&f->w, 1));
	put(&f->w, 1, 0, 0);
	assert_null(working_sets_find(&f->w, 1));
	working_sets_read(&f->back, f->fd, BLOCKS); /* an empty file */
	assert_null(working_sets_find(&f->back, 1));
}

static void test_each_state_has_its_own_set(void **state)
{
	struct fixture *f = *state;

	for (uint64_t key = 1; key <= WORKING_SETS; key++)
		put(&f->w, key, (uint32_t)key * 100, 10);
	for (uint64_t key = 1; key <= WORKING_SETS; key++)
		assert_int_equal(working_sets_find(&f->w, key)->blocks[0], key * 100);
	/* An unknown key finds the newest set. */
	assert_int_equal(working_sets_find(&f->w, 77)->key, WORKING_SETS);
	put(&f->w, 2, 2000, 5);
	assert_int_equal(working_sets_find(&f->w, 77)->key, 2);
	assert_int_equal(working_sets_find(&f->w, 2)->n, 5);
	assert_int_equal(working_sets_find(&f->w, 3)->blocks[0], 300);
	/* The oldest set is dropped. */
	put(&f->w, 9, 900, 1);
	assert_int_equal(working_sets_find(&f->w, 1)->key, 9);
	assert_int_equal(working_sets_find(&f->w, 2)->key, 2);
	assert_int_equal(working_sets_find(&f->w, 3)->key, 3);
}

static void test_sets_read_back(void **state)
{
	struct fixture *f = *state;

	put(&f->w, 5, 4000, 1000);
	put(&f->w, 6, 0, 3);
	assert_int_equal(working_sets_write(&f->w, f->fd), 0);
	put(&f->w, 6, 17, 1); /* a shorter one replaces it */
	assert_int_equal(working_sets_write(&f->w, f->fd), 0);
	working_sets_read(&f->back, f->fd, BLOCKS);
	for (unsigned i = 0; i < 2; i++) {
		const struct working_set *a = &f->w.set[i], *b = &f->back.set[i];

		assert_int_equal(a->key, b->key);
		assert_int_equal(a->n, b->n);
		assert_memory_equal(a->blocks, b->blocks, a->n * sizeof(*a->blocks));
	}
	assert_null(f->back.set[2].blocks);
}

static void test_oldest_set_is_dropped(void **state)
{
	struct fixture *f = *state;

	for (uint64_t key = 1; key <= WORKING_SETS; key++)
		put(&f->w, key, 0, WORKING_SET_BLOCKS_MAX + 3);
	assert_int_equal(working_sets_write(&f->w, f->fd), 0);
	working_sets_read(&f->back, f->fd, WORKING_SET_BLOCKS_MAX + 3);
	assert_int_equal(working_sets_find(&f->back, 1)->n, WORKING_SET_BLOCKS_MAX);
}

static void refused(struct fixture *f, uint64_t blocks)
{
	working_sets_read(&f->back, f->fd, blocks);
	for (unsigned i = 0; i < WORKING_SETS; i++)
		assert_null(f->back.set[i].blocks);
}

static void test_damaged_file_is_ignored(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	uint8_t b;

	put(&f->w, 1, 10, 20);
	put(&f->w, 2, 10, 20);
	assert_int_equal(working_sets_write(&f->w, f->fd), 0);
	assert_int_equal(fstat(f->fd, &st), 0);
	for (off_t i = 0; i < st.st_size; i++) {
		assert_int_equal(pread(f->fd, &b, 1, i), 1);
		b ^= 0x10;
		assert_int_equal(pwrite(f->fd, &b, 1, i), 1);
		refused(f, BLOCKS);
		b ^= 0x10;
		assert_int_equal(pwrite(f->fd, &b, 1, i), 1);
	}
	refused(f, 29); /* a VM with less memory: the highest block is 29 */
	for (off_t i = st.st_size - 1; i >= 0; i--) {
		assert_int_equal(ftruncate(f->fd, i), 0);
		refused(f, BLOCKS);
	}
}

/* A VM's process gets such a copy (api/vm/working_set_file.h). */
static void test_zeros_behind_the_sets_are_ignored(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	put(&f->w, 1, 10, 20);
	assert_int_equal(working_sets_write(&f->w, f->fd), 0);
	assert_int_equal(fstat(f->fd, &st), 0);
	assert_int_equal(ftruncate(f->fd, st.st_size + 5000), 0);
	working_sets_read(&f->back, f->fd, BLOCKS);
	assert_int_equal(working_sets_find(&f->back, 1)->n, 20);
	assert_null(f->back.set[1].blocks);
}

/* A changed field with a valid checksum. */
static void poked(struct fixture *f, size_t off, uint32_t v)
{
	uint8_t b[256];
	ssize_t len;

	assert_int_equal(ftruncate(f->fd, 0), 0);
	assert_int_equal(working_sets_write(&f->w, f->fd), 0);
	len = pread(f->fd, b, sizeof(b), 0);
	assert_in_range(len, 16, sizeof(b) - 1);
	store_le32(b + off, v);
	store_le32(b + 8, crc32c(0, b + 12, (size_t)len - 12));
	assert_int_equal(pwrite(f->fd, b, (size_t)len, 0), len);
	refused(f, BLOCKS);
}

static void test_invalid_fields_are_ignored(void **state)
{
	struct fixture *f = *state;

	put(&f->w, 1, 10, 20);
	put(&f->w, 2, 10, 20);
	poked(f, 12, WORKING_SETS + 1);
	poked(f, 12, 0xffffffff);
	poked(f, 12, 1); /* and bytes are left over */
	poked(f, 12, 3);
	poked(f, 24, 0);
	poked(f, 24, 19);
	poked(f, 24, 21);
	poked(f, 24, WORKING_SET_BLOCKS_MAX + 1);
	poked(f, 24, 0x40000000);
	poked(f, 24, 0xffffffff);
	poked(f, 28, BLOCKS);
	poked(f, 28, 0xffffffff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_empty_file_has_no_sets, setup, teardown),
		cmocka_unit_test_setup_teardown(test_each_state_has_its_own_set, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sets_read_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_oldest_set_is_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_file_is_ignored, setup, teardown),
		cmocka_unit_test_setup_teardown(test_zeros_behind_the_sets_are_ignored, setup, teardown),
		cmocka_unit_test_setup_teardown(test_invalid_fields_are_ignored, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
