/* pflash: the commands as UEFI gives them, what is on disk when they return, saved states, and a file after a crash at
 * each write. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/util.h"
#include "devices/legacy/pflash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES (4 * FLASH_BLOCK_BYTES)
#define GPA 0xffc00000ULL
#define HEAD 4096

struct state {
	struct fixture f;
	struct device *d;
	int file, template, view_fd;
	uint8_t *view;
};

static int file_make(const void *content, size_t bytes)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite_full(fd, content, bytes, 0), 0);
	return fd;
}

static void device_open(struct state *s)
{
	struct pflash_config c = { .gpa = GPA };
	CLEANUP_FREE uint8_t *content = NULL;

	assert_int_equal(flash_file_open(&c.file, s->file, s->template, &content, NULL), 0);
	c.content = content;
	c.view_fd = s->view_fd = memfd_create("view", MFD_CLOEXEC);
	assert_int_equal(ftruncate(s->view_fd, 2 * BYTES), 0);
	c.view = s->view = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, s->view_fd, 0);
	assert_ptr_not_equal(s->view, MAP_FAILED);
	assert_int_equal(pflash_new(&s->f.host, s->f.mmio, &c, &s->d, NULL), 0);
}

static void device_close(struct state *s)
{
	s->d->ops->free(s->d);
	munmap(s->view, BYTES);
	close(s->view_fd);
}

static int setup(void **state)
{
	struct state *s = calloc(1, sizeof(*s));
	uint8_t content[BYTES];

	for (unsigned i = 0; i < BYTES; i++)
		content[i] = (uint8_t)(i >> 8) + 1;
	fx_init(&s->f);
	s->template = file_make(content, BYTES);
	s->file = file_make("", 0);
	device_open(s);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct state *s = *state;

	device_close(s);
	close(s->file);
	close(s->template);
	fx_done(&s->f);
	free(s);
	return 0;
}

static void put(struct state *s, uint32_t off, uint8_t v)
{
	fx_write(&s->f, GPA + off, 1, v);
}

/* As OVMF's QemuFlashWrite() and QemuFlashEraseBlock(). */
static void program(struct state *s, uint32_t off, uint8_t v)
{
	put(s, off, 0x10);
	put(s, off, v);
	put(s, off, 0xff);
}

static void erase(struct state *s, uint32_t off)
{
	put(s, off, 0x20);
	put(s, off, 0xd0);
	put(s, off, 0xff);
}

static uint8_t stored(struct state *s, uint32_t off)
{
	uint8_t v;

	assert_int_equal(pread_full(s->file, &v, 1, off), 0);
	return v;
}

static void test_new_file_has_the_template(void **state)
{
	struct state *s = *state;

	assert_int_equal(s->view[0x1234], 0x13);
	assert_int_equal(stored(s, 0x1234), 0x13);
}

static void test_detection_as_ovmf_does_it(void **state)
{
	struct state *s = *state;

	put(s, 0, 0x50);
	assert_int_equal(s->view[0], 1); /* RAM would yield 0x50 */
	put(s, 0, 0x70);
	assert_int_equal(s->view[0], 0); /* ROM would yield 1 */
	put(s, 0, 0xff);
	assert_int_equal(s->view[0], 1);
}

static void test_program_and_erase_are_on_disk_with_array_mode(void **state)
{
	struct state *s = *state;

	put(s, 0x1234, 0x10);
	put(s, 0x1234, 0xab);
	assert_int_equal(s->view[0], 0x80); /* status, at each address */
	assert_int_equal(s->view[BYTES - 1], 0x80);
	assert_int_equal(stored(s, 0x1234), 0x13);
	put(s, 0x1234, 0xff);
	assert_int_equal(s->view[0x1234], 0xab);
	assert_int_equal(stored(s, 0x1234), 0xab);
	erase(s, 0x1fff);
	assert_int_equal(s->view[0xfff], 0x10);
	for (unsigned i = 0x1000; i < 0x2000; i++)
		assert_int_equal(s->view[i], 0xff);
	assert_int_equal(s->view[0x2000], 0x21);
	assert_int_equal(stored(s, 0x1234), 0xff);
}

static void test_buffered_write(void **state)
{
	struct state *s = *state;

	put(s, 0x2000, 0xe8);
	assert_int_equal(s->view[0], 0x80);
	put(s, 0x2000, 2); /* three bytes */
	for (unsigned i = 0; i < 3; i++)
		put(s, 0x2010 + i, (uint8_t)(0x60 + i));
	assert_int_equal(s->view[0x2010], 0x80);
	put(s, 0x2000, 0xd0);
	put(s, 0, 0xff);
	assert_memory_equal(s->view + 0x2010, "\x60\x61\x62\x21", 4);
	put(s, 0x2000, 0xe8);
	put(s, 0x2000, 0);
	put(s, 0x2010, 0x77);
	put(s, 0x2000, 0xff); /* not confirmed */
	assert_int_equal(s->view[0x2010], 0x60);
	put(s, 0x2000, 0x70);
	assert_int_equal(s->view[0], 0xb0);
}

static void test_numbers_and_query_table(void **state)
{
	struct state *s = *state;

	put(s, 0, 0x90);
	assert_memory_equal(s->view, "\x89\x18\x00\x00", 4);
	put(s, 0, 0x98);
	assert_memory_equal(s->view + 0x10, "QRY", 3);
	assert_int_equal(1u << s->view[0x27], BYTES);
	assert_int_equal(s->view[0x2d], 3); /* one less than the blocks */
	assert_int_equal(s->view[0x30] << 8 | s->view[0x2f], FLASH_BLOCK_BYTES >> 8);
	put(s, 0, 0xff);
	assert_int_equal(s->view[0x10], 1);
}

static void test_state(void **state)
{
	struct state *s = *state;
	struct fx_state saved;

	put(s, 0, 0xe8);
	put(s, 0, 1);
	put(s, 0x3000, 0x55);
	fx_state_test(&s->f, s->d, 300);
	put(s, 0x3001, 0x56);
	put(s, 0, 0xd0);
	put(s, 0, 0xff);
	assert_memory_equal(s->view + 0x3000, "\x55\x56\x31", 3);
	s->d->ops->pause(s->d);
	fx_save(s->d, &saved);
	s->d->ops->resume ? s->d->ops->resume(s->d) : (void)0;
	erase(s, 0);
	program(s, 0x3001, 0x99);
	assert_int_equal(fx_load(s->d, &saved), 0);
	assert_memory_equal(s->view + 0x3000, "\x55\x56\x31", 3);
	assert_int_equal(s->view[0], 1);
	assert_int_equal(stored(s, 0x3001), 0x56); /* a revert is on disk, too */
	assert_int_equal(stored(s, 0), 1);
	free(saved.buf);
}

/* The fields after the number of bytes in the state: see pflash_save(). */
enum { AT_CYCLE = 5, AT_COUNT = 7, AT_FILLED = 13 };

static void test_a_refused_count_can_be_saved(void **state)
{
	struct state *s = *state;

	put(s, 0, 0xe8);
	fx_write(&s->f, GPA, 8, 0xff); /* 2048 bytes: more than the buffer has */
	fx_state_test(&s->f, s->d, 0);
	put(s, 0, 0x70);
	assert_int_equal(s->view[0], 0xb0);
}

/* A count that a forged state has before the guest gives one would let it write behind the buffer. */
static void test_forged_buffers_are_refused(void **state)
{
	static const struct {
		uint8_t cycle;
		uint16_t count;
		bool valid;
	} rows[] = { { 2, 55, true }, { 3, 0, true }, { 0, 0, true }, { 1, 0, false }, { 2, 57, false }, { 2, 0, false }, { 3, 1, false },
		{ 4, 0, false } };
	struct state *s = *state;
	struct fx_state saved;

	put(s, 0, 0xe8);
	put(s, 0, 255);
	for (unsigned i = 0; i < 200; i++)
		put(s, 0x3000 + i, 0x55);
	fx_save(s->d, &saved);
	assert_int_equal(load_le16(saved.buf + AT_FILLED), 200);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		saved.buf[AT_CYCLE] = rows[i].cycle;
		store_le16(saved.buf + AT_COUNT, rows[i].count);
		assert_int_equal(fx_load(s->d, &saved), rows[i].valid ? 0 : -EINVAL);
	}
	free(saved.buf);
}

static void test_next_process_finds_the_content(void **state)
{
	struct state *s = *state;

	program(s, 7, 0x42);
	program(s, 0x3fff, 0x43);
	device_close(s);
	device_open(s);
	assert_int_equal(s->view[7], 0x42);
	assert_int_equal(s->view[0x3fff], 0x43);
}

/* The record is on disk, the content has half of the write: as after a power cut. */
static void test_torn_content_is_redone_and_torn_record_ignored(void **state)
{
	struct state *s = *state;
	uint8_t old[FLASH_BLOCK_BYTES], torn = 0xee;

	program(s, 0x1000, 0x42);
	assert_int_equal(pread_full(s->file, old, sizeof(old), 0x1000), 0);
	program(s, 0x1000, 0x43);
	for (unsigned record = 0; record < 2; record++) {
		memset(old, (int)record, sizeof(old));
		assert_int_equal(pwrite_full(s->file, old, sizeof(old) / 2, 0x1000), 0);
		device_close(s);
		device_open(s);
		assert_int_equal(s->view[0x1000], 0x43);
		assert_int_equal(stored(s, 0x1000), 0x43);
	}
	/* Damage the last record's data: number 3 of the template's, 0x42 and 0x43 lies in slot 1. */
	assert_int_equal(pwrite_full(s->file, &torn, 1, BYTES + (HEAD + BYTES) + HEAD + 9), 0);
	device_close(s);
	device_open(s);
	assert_int_equal(s->view[0x1000], 0x42); /* the write before is complete */
}

#define FILE_BYTES (BYTES + 2 * (HEAD + BYTES))
#define PAGES (FILE_BYTES / 4096)
enum { KEPT, TORN, WRITTEN, FATES };

static void image_take(struct state *s, uint8_t *image)
{
	memset(image, 0, FILE_BYTES);
	assert_true(pread(s->file, image, FILE_BYTES, 0) > 0);
}

/* Let each page that differs have a fate: 3^n of them, by the digits of `fates`. Returns 3^n. */
static unsigned pages_apply(uint8_t *image, const uint8_t *from, const uint8_t *to, unsigned begin, unsigned end, unsigned fates)
{
	unsigned n = 1;

	for (unsigned i = begin; i < end; i++) {
		size_t at = 4096ul * i;

		if (!memcmp(from + at, to + at, 4096))
			continue;
		memcpy(image + at, to + at, (size_t[FATES]){ 0, 2048, 4096 }[fates % FATES]);
		fates /= FATES;
		n *= FATES;
	}
	return n;
}

/* Open a file with this content. Returns whether the variables are `a`; otherwise they are `b`. */
static bool image_has(const struct state *s, const uint8_t *image, const uint8_t *a, const uint8_t *b)
{
	CLEANUP_FREE uint8_t *content = NULL;
	int fd = file_make(image, FILE_BYTES);
	struct flash_file f;
	bool ret;

	assert_int_equal(flash_file_open(&f, fd, s->template, &content, NULL), 0);
	ret = !memcmp(content, a, BYTES);
	assert_true(ret || !memcmp(content, b, BYTES));
	assert_int_equal(pread_full(fd, content, BYTES, 0), 0); /* and the file's first part has them, too */
	assert_memory_equal(content, ret ? a : b, BYTES);
	close(fd);
	return ret;
}

/* A power cut in a write before its sync: of the write's pages, and of those that the write before left without a sync,
 * each has its old content, its new content, or half of it. After the sync, only those of the last step may. */
static void test_each_power_cut_leaves_the_old_or_the_new_content(void **state)
{
	static uint8_t first[FILE_BYTES], second[FILE_BYTES], third[FILE_BYTES], image[FILE_BYTES];
	struct state *s = *state;
	unsigned n = 1, fresh = 0;

	program(s, 0x800, 0x41);
	device_close(s);
	device_open(s); /* and all is on disk */
	image_take(s, first);
	program(s, 0x1800, 0x42);
	image_take(s, second);
	program(s, 0x1801, 0x43);
	image_take(s, third);
	for (unsigned before = 0; before < FATES; before++)
		for (unsigned fates = 0; fates < n; fates++) {
			memcpy(image, second, FILE_BYTES);
			memcpy(image, first, BYTES);
			assert_int_equal(pages_apply(image, first, second, 0, BYTES / 4096, before), FATES);
			n = pages_apply(image, second, third, BYTES / 4096, PAGES, fates);
			fresh += image_has(s, image, third, second);
		}
	assert_true(n > FATES);
	assert_true(fresh >= FATES); /* with all pages of the record */
	for (unsigned fates = 0; fates < FATES; fates++) {
		memcpy(image, third, FILE_BYTES);
		memcpy(image, second, BYTES);
		pages_apply(image, second, third, 0, BYTES / 4096, fates);
		assert_true(image_has(s, image, third, second));
	}
}

static void test_wrong_files_are_refused(void **state)
{
	static const uint8_t junk[BYTES + 1] = { 1 };
	struct state *s = *state;
	const struct {
		size_t file, template;
		const char *why;
	} rows[] = {
		{ BYTES - 1, BYTES, "is truncated: it has 16383 bytes instead of 16384" },
		{ BYTES + 1, BYTES, NULL }, /* a byte more is no journal, but does no harm */
		{ 0, 0, "boot.nvram_template: the file has 0 bytes" },
		{ 0, BYTES + 1, "boot.nvram_template: the file has 16385 bytes" },
	};
	uint8_t *content = NULL;
	struct flash_file f;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		int file = file_make(junk, rows[i].file), template = file_make(junk, rows[i].template);
		struct err e = { 0 };

		assert_int_equal(flash_file_open(&f, file, template, &content, &e), rows[i].why ? -EINVAL : 0);
		if (rows[i].why)
			assert_non_null(strstr(e.msg, rows[i].why));
		close(file);
		close(template);
	}
	free(content);
	content = NULL;
	/* The template of another size than the file was made from. */
	{
		int small = file_make(junk, FLASH_BLOCK_BYTES);
		struct err e = { 0 };

		assert_int_equal(flash_file_open(&f, s->file, small, &content, &e), -EINVAL);
		assert_non_null(strstr(e.msg, "is of another size (57344 bytes) than its template (4096 bytes)"));
		close(small);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_new_file_has_the_template, setup, teardown),
		cmocka_unit_test_setup_teardown(test_detection_as_ovmf_does_it, setup, teardown),
		cmocka_unit_test_setup_teardown(test_program_and_erase_are_on_disk_with_array_mode, setup, teardown),
		cmocka_unit_test_setup_teardown(test_buffered_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_numbers_and_query_table, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_refused_count_can_be_saved, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forged_buffers_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_next_process_finds_the_content, setup, teardown),
		cmocka_unit_test_setup_teardown(test_torn_content_is_redone_and_torn_record_ignored, setup, teardown),
		cmocka_unit_test_setup_teardown(test_each_power_cut_leaves_the_old_or_the_new_content, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_files_are_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
