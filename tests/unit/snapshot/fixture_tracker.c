#include "fixture_tracker.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int tracker_setup(void **state)
{
	struct tracker_fixture *f = calloc(1, sizeof(*f));

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

void tracker_begin_unarmed(struct tracker_fixture *f)
{
	struct err e = { 0 };
	int r = uffd_open(&f->uffd);

	if (r < 0) {
		print_message("skipped: no userfaultfd for this user (%s)\n", strerror(-r));
		skip();
	}
	if (!f->uffd.can_protect) {
		print_message("skipped: no write protection by userfaultfd on this host\n");
		skip();
	}
	if (fault_tracker_new(&f->c, &f->t, &e) < 0 || fault_tracker_start(f->t, &e) < 0)
		fail_msg("%s", e.msg);
}

void tracker_begin(struct tracker_fixture *f)
{
	struct err e = { 0 };

	tracker_begin_unarmed(f);
	if (fault_tracker_arm(f->t, &e) < 0)
		fail_msg("%s", e.msg);
}

void tracker_reset_dirty(struct tracker_fixture *f)
{
	struct err e = { 0 };

	if (fault_tracker_reset_dirty(f->t, &f->dirty, &e) < 0)
		fail_msg("%s", e.msg);
}

/* RAM is a clone's private view of a base file. */
int tracker_setup_view(void **state)
{
	struct tracker_fixture *f;
	uint8_t data[4096];

	assert_int_equal(tracker_setup(state), 0);
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

int tracker_teardown(void **state)
{
	struct tracker_fixture *f = *state;

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
void tracker_save_and_compare(struct tracker_fixture *f, const struct bitmap *wanted, unsigned delay_us)
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
		if (delay_us)
			usleep(delay_us);
	}
	for (size_t b = bitmap_next_set(wanted, 0); b < BLOCKS; b = bitmap_next_set(wanted, b + 1))
		assert_true(bitmap_test(&seen, b) || is_zero(f->before, b)); /* never touched */
	fault_tracker_save_end(f->t);
	bitmap_done(&seen);
}
