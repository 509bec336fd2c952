/* Memory that the guest gives back, while it is tracked and saved. */
#include "fixture_tracker.h"

#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

/* Pages that the guest gives back read as zeros, count as written, and take no memory. A save that runs has their old
 * content. */
static void test_pages_given_back(void **state)
{
	struct tracker_fixture *f = *state;
	uint64_t at = 3 * VMSTATE_BLOCK_BYTES, block;
	struct stat before, after;

	memset(f->c.ram, 5, 8 * VMSTATE_BLOCK_BYTES);
	tracker_begin(f);
	tracker_reset_dirty(f);
	assert_int_equal(fstat(f->c.ram_fd, &before), 0);
	assert_int_equal(fault_tracker_give_back(f->t, at + 4096, 2 * VMSTATE_BLOCK_BYTES, -1), 1);
	assert_int_equal(fstat(f->c.ram_fd, &after), 0);
	assert_int_equal((before.st_blocks - after.st_blocks) * 512, 2 * VMSTATE_BLOCK_BYTES);
	assert_int_equal(f->c.ram[at + 4095], 5);
	assert_int_equal(f->c.ram[at + 4096], 0);
	assert_int_equal(f->c.ram[at + 4096 + 2 * VMSTATE_BLOCK_BYTES], 5);
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 3);
	fault_tracker_save_begin(f->t, &f->all);
	memcpy(f->before, f->c.ram, RAM_BYTES);
	assert_int_equal(fault_tracker_give_back(f->t, 6 * VMSTATE_BLOCK_BYTES, VMSTATE_BLOCK_BYTES, -1), 1);
	assert_int_equal(f->c.ram[6 * VMSTATE_BLOCK_BYTES], 0);
	f->c.ram[6 * VMSTATE_BLOCK_BYTES + 9] = 9;
	tracker_save_and_compare(f, &f->all, 0);
	tracker_reset_dirty(f);
	assert_true(bitmap_test(&f->dirty, 6));
	/* A block that is a hole is left out. */
	assert_int_equal(fault_tracker_give_back(f->t, 0, VMSTATE_BLOCK_BYTES, -1), 1);
	tracker_reset_dirty(f);
	assert_true(bitmap_test(&f->dirty, 0));
	fault_tracker_save_begin(f->t, &f->dirty);
	assert_int_equal(fault_tracker_save_next(f->t, &block, f->buf), 0);
	fault_tracker_save_end(f->t);
}

/* Without room for the old content, nothing is given back, and the device is woken when there is room. */
static void test_giving_back_waits_for_room(void **state)
{
	struct tracker_fixture *f = *state;
	int fd = eventfd(0, EFD_NONBLOCK);
	uint64_t block, n;

	memset(f->c.ram, 5, 8 * VMSTATE_BLOCK_BYTES);
	f->c.aside_max_bytes = 2 * VMSTATE_BLOCK_BYTES;
	tracker_begin(f);
	tracker_reset_dirty(f);
	memcpy(f->before, f->c.ram, RAM_BYTES);
	fault_tracker_save_begin(f->t, &f->all);
	assert_int_equal(fault_tracker_give_back(f->t, 0, 4 * VMSTATE_BLOCK_BYTES, fd), 0);
	assert_int_equal(f->c.ram[0], 5);
	for (int i = 0; i < 2; i++)
		assert_int_equal(fault_tracker_save_next(f->t, &block, f->buf), 1);
	assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
	assert_int_equal(fault_tracker_give_back(f->t, 0, 4 * VMSTATE_BLOCK_BYTES, fd), 1);
	assert_int_equal(f->c.ram[0], 0);
	fault_tracker_save_end(f->t);
	close(fd);
}

/* A clone's own pages go, and it reads the base file again; holes of the base file stay holes. */
static void test_clone_gives_pages_back(void **state)
{
	struct tracker_fixture *f = *state;
	uint64_t at = ROUND_UP(VIEW_DATA, VMSTATE_BLOCK_BYTES) + VMSTATE_BLOCK_BYTES;
	struct stat before, after;

	tracker_begin(f);
	tracker_reset_dirty(f);
	assert_int_equal(fstat(f->view.base_fd, &before), 0);
	memset(f->c.ram + at, 0xff, VMSTATE_BLOCK_BYTES);
	memset(f->c.ram + VMSTATE_BLOCK_BYTES, 0xff, VMSTATE_BLOCK_BYTES); /* in a hole */
	tracker_reset_dirty(f);
	assert_int_equal(fault_tracker_give_back(f->t, at, VMSTATE_BLOCK_BYTES, -1), 1);
	assert_int_equal(fault_tracker_give_back(f->t, VMSTATE_BLOCK_BYTES, VMSTATE_BLOCK_BYTES, -1), 1);
	assert_int_equal(f->c.ram[at], at / 4096 % 251 + 1);
	assert_int_equal(f->c.ram[VMSTATE_BLOCK_BYTES], 0);
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 2);
	f->c.ram[at] = 9; /* tracked again */
	f->c.ram[VMSTATE_BLOCK_BYTES] = 9;
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 2);
	assert_int_equal(fstat(f->view.base_fd, &after), 0);
	assert_int_equal(before.st_blocks, after.st_blocks);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pages_given_back, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_giving_back_waits_for_room, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_clone_gives_pages_back, tracker_setup_view, tracker_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
