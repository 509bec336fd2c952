/* Memory that the guest gives back, while it is tracked and saved. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/ram_view.h"
#include "snapshot/uffd_open.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_BYTES (8 * MIB + 4096)
#define BLOCKS DIV_ROUND_UP(RAM_BYTES, VMSTATE_BLOCK_BYTES)

struct fixture {
	struct uffd uffd;
	struct fault_tracker_config c;
	struct ram_view view;
	struct fault_tracker *t;
	struct bitmap dirty, all;
	uint8_t *before, buf[VMSTATE_BLOCK_BYTES];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	f->before = malloc(RAM_BYTES);
	assert_int_equal(bitmap_init(&f->dirty, BLOCKS), 0);
	assert_int_equal(bitmap_init(&f->all, BLOCKS), 0);
	for (size_t b = 0; b < BLOCKS; b++)
		bitmap_set(&f->all, b);
	f->c.ram_fd = memfd_create("ram", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->c.ram_fd, RAM_BYTES), 0);
	f->c.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->c.ram_fd, 0);
	assert_true(f->c.ram != MAP_FAILED);
	f->c.ram_bytes = RAM_BYTES;
	f->c.aside_max_bytes = 64 * MIB;
	f->c.uffd = &f->uffd;
	return 0;
}

static void begin_unarmed(struct fixture *f)
{
	struct err e = { 0 };

	if (uffd_open(&f->uffd) < 0 || !f->uffd.can_protect) {
		print_message("skipped: no write protection by userfaultfd on this host\n");
		skip();
	}
	if (fault_tracker_new(&f->c, &f->t, &e) < 0 || fault_tracker_start(f->t, &e) < 0)
		fail_msg("%s", e.msg);
}

static void begin(struct fixture *f)
{
	struct err e = { 0 };

	begin_unarmed(f);
	if (fault_tracker_arm(f->t, &e) < 0)
		fail_msg("%s", e.msg);
}

static void reset_dirty(struct fixture *f)
{
	struct err e = { 0 };

	if (fault_tracker_reset_dirty(f->t, &f->dirty, &e) < 0)
		fail_msg("%s", e.msg);
}

#define VIEW_OFFSET (2 * MIB)
#define VIEW_DATA (4 * MIB) /* the base file has data from here on, and a hole before */

/* RAM is a clone's private view of a base file. */
static int setup_view(void **state)
{
	struct fixture *f;
	uint8_t data[4096];

	assert_int_equal(setup(state), 0);
	f = *state;
	assert_int_equal(ftruncate(f->c.ram_fd, VIEW_OFFSET + RAM_BYTES), 0);
	for (uint64_t at = VIEW_DATA; at < RAM_BYTES; at += sizeof(data)) {
		memset(data, (int)(at / sizeof(data) % 251 + 1), sizeof(data));
		assert_int_equal(pwrite(f->c.ram_fd, data, sizeof(data), (off_t)(VIEW_OFFSET + at)), sizeof(data));
	}
	munmap(f->c.ram, RAM_BYTES);
	f->c.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, f->c.ram_fd, VIEW_OFFSET);
	assert_true(f->c.ram != MAP_FAILED);
	f->view = (struct ram_view){ .ram = f->c.ram, .bytes = RAM_BYTES, .base_fd = f->c.ram_fd,
		.base_offset = VIEW_OFFSET, .pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) };
	f->c.view = &f->view;
	f->c.ram_fd = -1;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fault_tracker_free(f->t);
	uffd_close(&f->uffd);
	munmap(f->c.ram, RAM_BYTES);
	close(f->c.view ? f->view.base_fd : f->c.ram_fd);
	if (f->c.view)
		close(f->view.pagemap_fd);
	bitmap_done(&f->dirty);
	bitmap_done(&f->all);
	free(f->before);
	free(f);
	return 0;
}

static bool is_zero(const uint8_t *ram, size_t block)
{
	size_t end = MIN((block + 1) * VMSTATE_BLOCK_BYTES, RAM_BYTES);

	for (size_t i = block * VMSTATE_BLOCK_BYTES; i < end; i++)
		if (ram[i])
			return false;
	return true;
}

/* Take all wanted blocks: each has its content at the reset and comes once. */
static void save_and_compare(struct fixture *f, const struct bitmap *wanted)
{
	struct bitmap seen;
	uint64_t block;

	assert_int_equal(bitmap_init(&seen, BLOCKS), 0);
	while (fault_tracker_save_next(f->t, &block, f->buf) > 0) {
		size_t len = (size_t)MIN(VMSTATE_BLOCK_BYTES, RAM_BYTES - block * VMSTATE_BLOCK_BYTES);

		assert_false(bitmap_test(&seen, block));
		assert_true(bitmap_test(wanted, block));
		bitmap_set(&seen, block);
		assert_memory_equal(f->buf, f->before + block * VMSTATE_BLOCK_BYTES, len);
	}
	for (size_t b = bitmap_next_set(wanted, 0); b < BLOCKS; b = bitmap_next_set(wanted, b + 1))
		assert_true(bitmap_test(&seen, b) || is_zero(f->before, b)); /* never touched */
	fault_tracker_save_end(f->t);
	bitmap_done(&seen);
}

/* Pages that the guest gives back read as zeros, count as written, and take no memory. A save that runs has their old
 * content. */
static void test_pages_given_back(void **state)
{
	struct fixture *f = *state;
	uint64_t at = 3 * VMSTATE_BLOCK_BYTES, block;
	struct stat before, after;

	memset(f->c.ram, 5, 8 * VMSTATE_BLOCK_BYTES);
	begin(f);
	reset_dirty(f);
	assert_int_equal(fstat(f->c.ram_fd, &before), 0);
	assert_int_equal(fault_tracker_give_back(f->t, at + 4096, 2 * VMSTATE_BLOCK_BYTES, -1), 1);
	assert_int_equal(fstat(f->c.ram_fd, &after), 0);
	assert_int_equal((before.st_blocks - after.st_blocks) * 512, 2 * VMSTATE_BLOCK_BYTES);
	assert_int_equal(f->c.ram[at + 4095], 5);
	assert_int_equal(f->c.ram[at + 4096], 0);
	assert_int_equal(f->c.ram[at + 4096 + 2 * VMSTATE_BLOCK_BYTES], 5);
	reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 3);
	fault_tracker_save_begin(f->t, &f->all);
	memcpy(f->before, f->c.ram, RAM_BYTES);
	assert_int_equal(fault_tracker_give_back(f->t, 6 * VMSTATE_BLOCK_BYTES, VMSTATE_BLOCK_BYTES, -1), 1);
	assert_int_equal(f->c.ram[6 * VMSTATE_BLOCK_BYTES], 0);
	f->c.ram[6 * VMSTATE_BLOCK_BYTES + 9] = 9;
	save_and_compare(f, &f->all);
	reset_dirty(f);
	assert_true(bitmap_test(&f->dirty, 6));
	/* A block that is a hole is left out. */
	assert_int_equal(fault_tracker_give_back(f->t, 0, VMSTATE_BLOCK_BYTES, -1), 1);
	reset_dirty(f);
	assert_true(bitmap_test(&f->dirty, 0));
	fault_tracker_save_begin(f->t, &f->dirty);
	assert_int_equal(fault_tracker_save_next(f->t, &block, f->buf), 0);
	fault_tracker_save_end(f->t);
}

/* Without room for the old content, nothing is given back, and the device is woken when there is room. */
static void test_giving_back_waits_for_room(void **state)
{
	struct fixture *f = *state;
	int fd = eventfd(0, EFD_NONBLOCK);
	uint64_t block, n;

	memset(f->c.ram, 5, 8 * VMSTATE_BLOCK_BYTES);
	f->c.aside_max_bytes = 2 * VMSTATE_BLOCK_BYTES;
	begin(f);
	reset_dirty(f);
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
	struct fixture *f = *state;
	uint64_t at = ROUND_UP(VIEW_DATA, VMSTATE_BLOCK_BYTES) + VMSTATE_BLOCK_BYTES;
	struct stat before, after;

	begin(f);
	reset_dirty(f);
	assert_int_equal(fstat(f->view.base_fd, &before), 0);
	memset(f->c.ram + at, 0xff, VMSTATE_BLOCK_BYTES);
	memset(f->c.ram + VMSTATE_BLOCK_BYTES, 0xff, VMSTATE_BLOCK_BYTES); /* in a hole */
	reset_dirty(f);
	assert_int_equal(fault_tracker_give_back(f->t, at, VMSTATE_BLOCK_BYTES, -1), 1);
	assert_int_equal(fault_tracker_give_back(f->t, VMSTATE_BLOCK_BYTES, VMSTATE_BLOCK_BYTES, -1), 1);
	assert_int_equal(f->c.ram[at], at / 4096 % 251 + 1);
	assert_int_equal(f->c.ram[VMSTATE_BLOCK_BYTES], 0);
	reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 2);
	f->c.ram[at] = 9; /* tracked again */
	f->c.ram[VMSTATE_BLOCK_BYTES] = 9;
	reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 2);
	assert_int_equal(fstat(f->view.base_fd, &after), 0);
	assert_int_equal(before.st_blocks, after.st_blocks);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pages_given_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_giving_back_waits_for_room, setup, teardown),
		cmocka_unit_test_setup_teardown(test_clone_gives_pages_back, setup_view, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
