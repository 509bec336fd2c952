/* RAM that is a private view of a base file, read without touching it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/util.h"
#include "snapshot/holes.h"
#include "snapshot/ram_view.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u
#define BYTES (4 * MIB)
#define OFFSET MIB

struct fixture {
	struct ram_view v;
	uint8_t *ram, *want; /* want: the expected content */
	uint64_t base_bytes; /* allocated for the base file at first */
};

static uint64_t base_bytes(const struct fixture *f)
{
	struct stat st;

	assert_int_equal(fstat(f->v.base_fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* The base file has data in its second MiB; before and behind it are holes. */
static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	f->v = (struct ram_view){ .bytes = BYTES, .base_offset = OFFSET, .base_fd = memfd_create("base", MFD_CLOEXEC),
		.pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) };
	f->want = calloc(1, BYTES);
	for (size_t i = MIB; i < 2 * MIB; i++)
		f->want[i] = (uint8_t)(i * 7 + i / PAGE + 1);
	assert_int_equal(ftruncate(f->v.base_fd, OFFSET + BYTES), 0);
	assert_int_equal(pwrite(f->v.base_fd, f->want + MIB, MIB, OFFSET + MIB), MIB);
	f->ram = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, f->v.base_fd, OFFSET);
	assert_true(f->ram != MAP_FAILED);
	f->v.ram = f->ram;
	f->base_bytes = base_bytes(f);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	munmap(f->ram, BYTES);
	close(f->v.base_fd);
	close(f->v.pagemap_fd);
	free(f->want);
	free(f);
	return 0;
}

static void own_write(struct fixture *f, size_t at, uint8_t value)
{
	f->ram[at] = f->want[at] = value;
}

static void read_and_compare(struct fixture *f, uint64_t off, size_t len)
{
	uint8_t *buf = malloc(len);

	memset(buf, 0xee, len);
	assert_int_equal(ram_view_read(&f->v, off, buf, len), 0);
	assert_memory_equal(buf, f->want + off, len);
	free(buf);
}

static void test_read_returns_own_pages_and_base(void **state)
{
	struct fixture *f = *state;

	own_write(f, MIB + 5 * PAGE, 1);
	own_write(f, MIB + 6 * PAGE + 9, 2);
	own_write(f, 2 * MIB - 1, 3);
	assert_int_equal(*(volatile uint8_t *)(f->ram + MIB + 9 * PAGE), f->want[MIB + 9 * PAGE]); /* mapped, not own */
	read_and_compare(f, 0, BYTES);
	read_and_compare(f, MIB + 5 * PAGE, PAGE);
	read_and_compare(f, MIB + 4 * PAGE, 4 * PAGE);
	read_and_compare(f, BYTES - PAGE, PAGE);
	assert_int_equal(base_bytes(f), f->base_bytes);
}

static void test_read_allocates_nothing_in_holes(void **state)
{
	struct fixture *f = *state;
	uint64_t before;

	own_write(f, 3 * MIB + PAGE, 4); /* allocates the page below it in the base file */
	before = base_bytes(f);
	read_and_compare(f, 0, BYTES);
	assert_int_equal(base_bytes(f), before);
	assert_true(before <= f->base_bytes + PAGE);
}

static void test_only_untouched_holes_are_holes(void **state)
{
	struct fixture *f = *state;
	struct holes h;

	own_write(f, 3 * MIB + PAGE, 4);
	ram_view_walk(&f->v, &h);
	assert_true(ram_view_is_hole(&f->v, &h, 0, 65536));
	assert_true(ram_view_is_hole(&f->v, &h, 65536, 65536));
	assert_false(ram_view_is_hole(&f->v, &h, MIB - PAGE, 2 * PAGE));
	assert_false(ram_view_is_hole(&f->v, &h, MIB, 65536));
	assert_true(ram_view_is_hole(&f->v, &h, 2 * MIB, 65536));
	assert_false(ram_view_is_hole(&f->v, &h, 3 * MIB, 65536));
	assert_true(ram_view_is_hole(&f->v, &h, BYTES - 65536, 65536));
}

static void test_error_of_base_is_returned(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[PAGE];

	assert_int_equal(ftruncate(f->v.base_fd, OFFSET), 0);
	assert_true(ram_view_read(&f->v, MIB, buf, PAGE) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_read_returns_own_pages_and_base, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_allocates_nothing_in_holes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_only_untouched_holes_are_holes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_error_of_base_is_returned, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
