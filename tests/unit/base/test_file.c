/* file: full reads and writes, atomic replacement, mkdir -p, age. */
#include "base/err.h"
#include "base/file.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define NOBODY 65534

struct folder {
	char dir[96];
	char path[128]; /* result of the last path_in() */
};

static int folder_setup(void **state)
{
	struct folder *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "%s/cairn-file-XXXXXX", tmp_folder());
	*state = f;
	return mkdtemp(f->dir) ? 0 : -1;
}

static int folder_teardown(void **state)
{
	struct folder *f = *state;
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", f->dir);
	assert_int_equal(system(cmd), 0);
	free(f);
	return 0;
}

static const char *path_in(struct folder *f, const char *name)
{
	snprintf(f->path, sizeof(f->path), "%s/%s", f->dir, name);
	return f->path;
}

static void content_check(const char *path, const char *want)
{
	struct err e;
	char *buf;
	size_t len;

	assert_int_equal(file_read(path, 1 << 20, &buf, &len, &e), 0);
	assert_int_equal(len, strlen(want));
	assert_string_equal(buf, want);
	free(buf);
}

static void test_read_at_most_max(void **state)
{
	static const size_t sizes[] = { 1, 4094, 4095, 4096, 4097, 8190, 8191, 8192, 8193 };
	char text[9000], *buf = NULL;
	struct err e;
	size_t len;

	memset(text, 'q', sizeof(text));
	/* The buffer starts at 4096 bytes and doubles: test sizes on both sides of each step. */
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t n = sizes[i];

		assert_int_equal(file_write_atomic(path_in(*state, "f"), text, n, 0600, &e), 0);
		assert_int_equal(file_read(path_in(*state, "f"), n, &buf, &len, &e), 0);
		assert_int_equal(len, n);
		assert_int_equal(buf[n], 0);
		free(buf);
		buf = NULL;
		assert_int_equal(file_read(path_in(*state, "f"), n - 1, &buf, &len, &e), -EFBIG);
		assert_non_null(strstr(e.msg, path_in(*state, "f")));
		assert_null(buf); /* untouched on error */
	}
}

static void test_read_errors_name_the_path(void **state)
{
	struct err e;
	char *buf;
	size_t len;

	assert_int_equal(file_read(path_in(*state, "none"), 10, &buf, &len, &e), -ENOENT);
	assert_int_equal(e.cls, ERR_NOT_FOUND);
	assert_non_null(strstr(e.msg, "/none"));
	assert_int_equal(file_read(((struct folder *)*state)->dir, 10, &buf, &len, &e), -EISDIR);
	assert_int_equal(e.cls, ERR_INVALID);
}

static void test_number_behind_a_word(void **state)
{
	static const char text[] = "MemTotal:  24 kB\nsome avg10=0.50 avg300=1.25 total=9\nfull avg300=3\n";
	struct err e;

	assert_int_equal(file_write_atomic(path_in(*state, "f"), text, strlen(text), 0600, &e), 0);
	assert_true(file_number_behind(path_in(*state, "f"), "MemTotal:") == 24);
	assert_true(file_number_behind(path_in(*state, "f"), "avg300=") == 1.25);
	assert_true(file_number_behind(path_in(*state, "f"), "SwapFree:") == 0);
	assert_true(file_number_behind(path_in(*state, "missing"), "MemTotal:") == 0);
}

static void test_empty_file(void **state)
{
	struct err e;

	assert_int_equal(file_write_atomic(path_in(*state, "f"), "", 0, 0600, &e), 0);
	content_check(path_in(*state, "f"), "");
}

static void test_an_endless_file_is_refused(void **state)
{
	struct err e;
	char *buf;
	size_t len;

	(void)state;
	assert_int_equal(file_read("/dev/zero", 1 << 16, &buf, &len, &e), -EFBIG);
}

static void test_atomic_write_replaces_and_leaves_nothing(void **state)
{
	mode_t mask = umask(022);
	struct err e;
	struct stat st;

	assert_int_equal(file_write_atomic(path_in(*state, "f"), "old content", 11, 0640, &e), 0);
	assert_int_equal(file_write_atomic(path_in(*state, "f"), "new", 3, 0640, &e), 0);
	content_check(path_in(*state, "f"), "new");
	assert_int_equal(stat(path_in(*state, "f"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(access(path_in(*state, "f.tmp"), F_OK), -1);
	umask(mask);
}

static void test_rename_replaces_nothing(void **state)
{
	struct err e;
	char from[PATH_MAX], to[PATH_MAX];

	snprintf(from, sizeof(from), "%s", path_in(*state, "from"));
	snprintf(to, sizeof(to), "%s", path_in(*state, "to"));
	assert_int_equal(file_write_atomic(from, "new", 3, 0600, &e), 0);
	assert_int_equal(file_write_atomic(to, "old", 3, 0600, &e), 0);
	assert_int_equal(file_rename_new(AT_FDCWD, from, to), -EEXIST);
	content_check(to, "old");
	assert_int_equal(unlink(to), 0);
	assert_int_equal(file_rename_new(AT_FDCWD, from, to), 0);
	content_check(to, "new");
	assert_int_equal(file_rename_new(AT_FDCWD, from, to), -ENOENT);
}

/* A temporary file left by a crashed write must not affect the next write. */
static void test_stale_temporary_file_is_replaced(void **state)
{
	struct err e;
	struct stat st;
	int fd = open(path_in(*state, "f.tmp"), O_WRONLY | O_CREAT, 0666);

	assert_int_equal(write_full(fd, "half of something far longer", 28), 0);
	close(fd);
	assert_int_equal(chmod(path_in(*state, "f.tmp"), 0666), 0);
	assert_int_equal(file_write_atomic(path_in(*state, "f"), "new", 3, 0600, &e), 0);
	content_check(path_in(*state, "f"), "new");
	assert_int_equal(stat(path_in(*state, "f"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600); /* not the mode of the stale file */
}

static void test_temporary_link_is_not_followed(void **state)
{
	struct folder *f = *state;
	char victim[128];
	struct err e;

	snprintf(victim, sizeof(victim), "%s", path_in(f, "victim"));
	assert_int_equal(file_write_atomic(victim, "precious", 8, 0600, &e), 0);
	assert_int_equal(symlink(victim, path_in(f, "f.tmp")), 0);
	file_write_atomic(path_in(f, "f"), "new", 3, 0600, &e); /* refuses or replaces the link */
	content_check(victim, "precious");
}

static void test_failed_write_keeps_old_file(void **state)
{
	struct folder *f = *state;
	struct err e;

	/* The target is a folder, so the final rename fails. */
	assert_int_equal(mkdir(path_in(f, "d"), 0700), 0);
	assert_int_equal(mkdir(path_in(f, "d/inside"), 0700), 0);
	assert_true(file_write_atomic(path_in(f, "d"), "x", 1, 0600, &e) < 0);
	assert_int_equal(access(path_in(f, "d/inside"), F_OK), 0);
	assert_int_equal(access(path_in(f, "d.tmp"), F_OK), -1);
	assert_int_equal(file_write_atomic(path_in(f, "no/f"), "x", 1, 0600, &e), -ENOENT);
	assert_int_equal(e.cls, ERR_NOT_FOUND);
	assert_non_null(strstr(e.msg, "no/f"));
}

static void test_folder_without_permission(void **state)
{
	struct folder *f = *state;
	bool root = !geteuid();
	struct err e;
	int r;

	assert_int_equal(file_write_atomic(path_in(f, "f"), "old", 3, 0644, &e), 0);
	assert_int_equal(chmod(f->dir, 0555), 0);
	if (root)
		assert_int_equal(seteuid(NOBODY), 0);
	r = file_write_atomic(path_in(f, "f"), "new", 3, 0600, &e);
	if (root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(chmod(f->dir, 0700), 0);
	assert_int_equal(r, -EACCES);
	assert_int_equal(e.cls, ERR_PERMISSION);
	content_check(path_in(f, "f"), "old");
}

static void test_full_disk_keeps_old_file(void **state)
{
	struct folder *f = *state;
	size_t len = 1 << 20;
	struct err e;
	char *big;

	if (geteuid() || mount("cairn-test", f->dir, "tmpfs", 0, "size=64k") < 0) {
		print_message("skipped: mounting a tmpfs of 64 KiB needs root (%s)\n", geteuid() ? "plain user" : strerror(errno));
		skip();
	}
	big = calloc(1, len);
	assert_int_equal(file_write_atomic(path_in(f, "f"), "old", 3, 0600, &e), 0);
	assert_int_equal(file_write_atomic(path_in(f, "f"), big, len, 0600, &e), -ENOSPC);
	assert_int_equal(e.cls, ERR_NO_SPACE);
	content_check(path_in(f, "f"), "old");
	assert_int_equal(access(path_in(f, "f.tmp"), F_OK), -1);
	/* The space is free again. */
	assert_int_equal(file_write_atomic(path_in(f, "f"), big, 16384, 0600, &e), 0);
	free(big);
	assert_int_equal(umount(f->dir), 0);
}

static void test_path_too_long(void **state)
{
	char path[PATH_MAX + 10];
	struct err e;

	(void)state;
	memset(path, 'a', sizeof(path));
	path[0] = '/';
	path[sizeof(path) - 1] = 0;
	assert_int_equal(file_write_atomic(path, "x", 1, 0600, &e), -ENAMETOOLONG);
	assert_int_equal(mkdir_all(path, 0700, &e), -ENAMETOOLONG);
}

static void test_early_end_is_an_error(void **state)
{
	char buf[16];
	struct err e;
	int fd;

	assert_int_equal(file_write_atomic(path_in(*state, "f"), "0123456789", 10, 0600, &e), 0);
	fd = open(path_in(*state, "f"), O_RDWR | O_CLOEXEC);
	assert_int_equal(pread_full(fd, buf, 0, 10), 0);
	assert_int_equal(pread_full(fd, buf, 5, 5), 0);
	assert_memory_equal(buf, "56789", 5);
	assert_int_equal(pread_full(fd, buf, 6, 5), -EIO);
	assert_int_equal(pwrite_full(fd, "abc", 3, 20), 0);
	assert_int_equal(pread_full(fd, buf, 4, 19), 0);
	assert_memory_equal(buf, "\0abc", 4);
	close(fd);
	assert_int_equal(pread_full(fd, buf, 1, 0), -EBADF);
	assert_int_equal(write_full(fd, buf, 1), -EBADF);
}

static void *slow_writer(void *opaque)
{
	const int *fd = opaque;
	static char block[200000];

	write_full(*fd, block, sizeof(block)); /* more than a pipe holds */
	close(*fd);
	return NULL;
}

static void test_short_counts_are_continued(void **state)
{
	pthread_t t;
	struct err e;
	size_t len;
	char *buf;
	int fd[2];

	(void)state;
	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	assert_int_equal(pthread_create(&t, NULL, slow_writer, &fd[1]), 0);
	assert_int_equal(file_read_fd(fd[0], "pipe", 300000, &buf, &len, &e), 0);
	assert_int_equal(len, 200000);
	pthread_join(t, NULL);
	close(fd[0]);
	free(buf);
}

static void test_mkdir_all(void **state)
{
	struct folder *f = *state;
	struct stat st;
	struct err e;

	assert_int_equal(mkdir_all(path_in(f, "a/b/c"), 0700, &e), 0);
	assert_int_equal(stat(path_in(f, "a/b/c"), &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(mkdir_all(path_in(f, "a/b/c"), 0700, &e), 0);
	assert_int_equal(mkdir_all(path_in(f, "a//b/d/"), 0700, &e), 0);
	assert_int_equal(stat(path_in(f, "a/b/d"), &st), 0);
	assert_int_equal(mkdir_all("/", 0700, &e), 0);
}

static void test_mkdir_all_over_file_fails(void **state)
{
	struct folder *f = *state;
	struct err e;

	assert_int_equal(file_write_atomic(path_in(f, "f"), "x", 1, 0600, &e), 0);
	assert_int_equal(mkdir_all(path_in(f, "f/a"), 0700, &e), -ENOTDIR);
	assert_int_equal(mkdir_all(path_in(f, "f"), 0700, &e), -ENOTDIR);
	assert_non_null(strstr(e.msg, path_in(f, "f")));
	assert_int_equal(mkdir_all("", 0700, &e), -ENOENT);
}

/* A file system that does not tell the birth of a file has no older files. */
static void test_older_file(void **state)
{
	struct folder *f = *state;
	struct statx st;
	struct err e;
	uint64_t born;

	assert_false(file_is_older(path_in(f, "missing"), UINT64_MAX));
	assert_int_equal(file_write_atomic(path_in(f, "f"), "x", 1, 0600, &e), 0);
	assert_int_equal(statx(AT_FDCWD, path_in(f, "f"), 0, STATX_BTIME, &st), 0);
	if (!(st.stx_mask & STATX_BTIME)) {
		assert_false(file_is_older(path_in(f, "f"), UINT64_MAX));
		return;
	}
	born = (uint64_t)st.stx_btime.tv_sec * 1000000000 + st.stx_btime.tv_nsec;
	assert_true(file_is_older(path_in(f, "f"), born + 1));
	assert_false(file_is_older(path_in(f, "f"), born));
	assert_false(file_is_older(path_in(f, "f"), 0));
}

int main(void)
{
#define FILE_TEST(t) cmocka_unit_test_setup_teardown(t, folder_setup, folder_teardown)
	const struct CMUnitTest tests[] = {
		FILE_TEST(test_read_at_most_max),
		FILE_TEST(test_read_errors_name_the_path),
		FILE_TEST(test_number_behind_a_word),
		FILE_TEST(test_empty_file),
		FILE_TEST(test_an_endless_file_is_refused),
		FILE_TEST(test_rename_replaces_nothing),
		FILE_TEST(test_atomic_write_replaces_and_leaves_nothing),
		FILE_TEST(test_stale_temporary_file_is_replaced),
		FILE_TEST(test_temporary_link_is_not_followed),
		FILE_TEST(test_failed_write_keeps_old_file),
		FILE_TEST(test_folder_without_permission),
		FILE_TEST(test_full_disk_keeps_old_file),
		FILE_TEST(test_path_too_long),
		FILE_TEST(test_early_end_is_an_error),
		FILE_TEST(test_short_counts_are_continued),
		FILE_TEST(test_mkdir_all),
		FILE_TEST(test_mkdir_all_over_file_fails),
		FILE_TEST(test_older_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
