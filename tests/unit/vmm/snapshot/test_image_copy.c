/* image_copy: the same content and length, holes stay holes; a source that shrinks yields an error,
 * not a signal. */
#include "vmm/snapshot/image_copy.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* A tmpfs and the build's folder: normally one of them supports direct I/O. */
static const char *const folders[] = { "/dev/shm", "." };

struct pair {
	int source, copy;
	unsigned steps, stop_at;
	off_t shrink_to; /* shrink in the first step after a piece; 0: do not */
	uint64_t last;
};

static int file_new(const char *folder)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/test_image_copy.XXXXXX", folder);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

static struct pair pair_new(const char *folder)
{
	return (struct pair){ .source = file_new(folder), .copy = file_new(folder) };
}

static void pair_done(struct pair *p)
{
	close(p->source);
	close(p->copy);
}

static int step(void *opaque, uint64_t done, uint64_t total)
{
	struct pair *p = opaque;

	assert_true(done >= p->last && done <= total);
	p->last = done;
	if (p->shrink_to && done)
		assert_int_equal(ftruncate(p->source, p->shrink_to), 0);
	return ++p->steps == p->stop_at;
}

static void fill(int fd, uint64_t off, size_t len, int seed)
{
	uint8_t *buf = malloc(len);

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(seed + i / 512);
	assert_int_equal(pwrite_full(fd, buf, len, (off_t)off), 0);
	free(buf);
}

static void compare(const struct pair *p)
{
	static uint8_t a[MIB], b[MIB];
	struct stat s, c;

	assert_int_equal(fstat(p->source, &s), 0);
	assert_int_equal(fstat(p->copy, &c), 0);
	assert_int_equal(s.st_size, c.st_size);
	for (off_t at = 0; at < s.st_size; at += MIB) {
		size_t len = (size_t)MIN((off_t)MIB, s.st_size - at);

		assert_int_equal(pread_full(p->source, a, len, at), 0);
		assert_int_equal(pread_full(p->copy, b, len, at), 0);
		assert_memory_equal(a, b, len);
	}
}

static int copy(struct pair *p, struct err *e)
{
	return image_copy(p->source, p->copy, step, p, e);
}

static void test_copy_has_same_content_and_holes(void **state)
{
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		struct pair p = pair_new(folders[i]);
		struct stat st;

		fill(p.copy, 6 * MIB, MIB, 9); /* old content, dropped by the copy */
		fill(p.source, 0, 6 * MIB, 1);
		fill(p.source, 8 * MIB + 5, 4096, 2); /* across a page boundary */
		fill(p.source, 10 * MIB - 100, 5 * MIB + 1234, 3);
		assert_int_equal(ftruncate(p.source, 32 * MIB + 77), 0);
		assert_int_equal(copy(&p, &e), 0);
		compare(&p);
		assert_int_equal(fstat(p.copy, &st), 0);
		assert_true((uint64_t)st.st_blocks * 512 < 12 * MIB);
		assert_false(fcntl(p.copy, F_GETFL) & O_DIRECT);
		assert_int_equal(pwrite(p.copy, "x", 1, 3), 1);
		pair_done(&p);
	}
}

static void test_small_files_are_copied(void **state)
{
	static const size_t lengths[] = { 0, 1, 511, 4096, 4097, 65536 };
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		for (size_t k = 0; k < ARRAY_SIZE(lengths); k++) {
			struct pair p = pair_new(folders[i]);

			fill(p.source, 0, lengths[k], 4);
			assert_int_equal(copy(&p, &e), 0);
			compare(&p);
			pair_done(&p);
		}
}

static void test_cancelled_copy_stops(void **state)
{
	struct pair p = pair_new(".");
	struct err e;

	(void)state;
	fill(p.source, 0, 6 * MIB, 5);
	p.stop_at = 1;
	assert_int_equal(copy(&p, &e), -ECANCELED);
	assert_int_equal(e.cls, ERR_CANCELLED);
	assert_false(fcntl(p.copy, F_GETFL) & O_DIRECT);
	pair_done(&p);
}

static void test_shrinking_source_is_an_error(void **state)
{
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		struct pair p = pair_new(folders[i]);

		/* The file is so short that one thread copies it. The second extent comes after the step. */
		fill(p.source, 0, MIB, 6);
		fill(p.source, 2 * MIB, MIB, 6);
		p.shrink_to = 100;
		assert_int_equal(copy(&p, &e), -EIO);
		pair_done(&p);
	}
}

static void test_unwritable_target_is_an_error(void **state)
{
	struct pair p = pair_new(".");
	int fd = open("/dev/null", O_RDONLY);
	struct err e;

	(void)state;
	fill(p.source, 0, MIB, 7);
	assert_true(image_copy(p.source, fd, step, &p, &e) < 0);
	assert_non_null(strstr(e.msg, "cannot copy a disk's image"));
	close(fd);
	pair_done(&p);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_copy_has_same_content_and_holes),
		cmocka_unit_test(test_small_files_are_copied),
		cmocka_unit_test(test_cancelled_copy_stops),
		cmocka_unit_test(test_shrinking_source_is_an_error),
		cmocka_unit_test(test_unwritable_target_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
