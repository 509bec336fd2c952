#include "tools/cairn/warm_state.h"
#include "api/store/paths.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/first_pages.h"
#include "snapshot/vmstate.h"
#include "tools/cairn/warm_key.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".state"
#define WORK ".tmp"
#define NAME_BYTES 32
/* The key stands where a saved file has its definition: a magic number (8), its length (4), the key. */
#define KEY_OFFSET (12 * MIB + VMSTATE_HEADER_BYTES)
#define KEY_MAGIC "CAIRNKEY"
#define KEY_HEADER_BYTES 12
#define CHUNK_BLOCKS 16
/* The time of change of a state whose memory was checked: a later write to the file sets another one. */
#define CHECKED_S 1000000000

_Static_assert(KEY_HEADER_BYTES + WARM_KEY_MAX <= VMSTATE_DEFINITION_MAX_BYTES, "a key fits");

static void name_of(const struct warm_key *k, char ret[NAME_BYTES])
{
	snprintf(ret, NAME_BYTES, "%s" SUFFIX, warm_key_name(k));
}

/* Nobody but this user may have written a state from which a VM begins. */
static bool is_own(const struct stat *st)
{
	return st->st_uid == geteuid() && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

/* make: make the folder if it is missing. Returns an owned fd; -ENOENT; -errno with a sentence. */
static int folder_open(bool make, struct err *e)
{
	char path[PATH_MAX];
	struct stat st;
	int fd, r = paths_cache("warm", path, sizeof(path), e);

	if (!r && make)
		r = mkdir_all(path, 0700, e);
	if (r < 0)
		return r;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (fstat(fd, &st) == 0 && is_own(&st))
		return fd;
	close(fd);
	return err_set(e, -EPERM, ERR_PERMISSION, "%s: the folder belongs to another user, or others may write to it", path);
}

/* ---- reading ---- */

static bool key_fits(int fd, const struct warm_key *k)
{
	CLEANUP_FREE uint8_t *buf = NULL;
	uint8_t head[KEY_HEADER_BYTES];
	size_t len;
	const uint8_t *key = warm_key_bytes(k, &len);

	if (pread_full(fd, head, sizeof(head), KEY_OFFSET) < 0 || memcmp(head, KEY_MAGIC, 8) || load_le32(head + 8) != len)
		return false;
	buf = must_alloc(malloc(len));
	return pread_full(fd, buf, len, KEY_OFFSET + KEY_HEADER_BYTES) == 0 && !memcmp(buf, key, len);
}

static bool is_whole(int fd, uint64_t bytes)
{
	struct vmstate_header h;
	struct vmstate_file f;
	struct err e;

	vmstate_file_init(&f, fd);
	return vmstate_read_header(&f.store, &h, &e) == 0 && bytes == h.layout.total_bytes;
}

static int state_check(int fd, const struct warm_key *k, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "the saved state");
	if (!S_ISREG(st.st_mode) || !is_own(&st))
		return err_set(e, -EPERM, ERR_PERMISSION, "the saved state belongs to another user, or others may write to it");
	if (!is_whole(fd, (uint64_t)st.st_size))
		return err_set(e, -EINVAL, ERR_CORRUPT, "the saved state is cut off or damaged");
	return key_fits(fd, k) ? 0 : err_set(e, -EINVAL, ERR_CORRUPT, "the saved state is damaged, or of another run");
}

int warm_state_open(const struct warm_key *k, struct err *e)
{
	CLEANUP_CLOSE int folder = folder_open(false, e);
	char name[NAME_BYTES];
	int fd, r;

	if (folder < 0)
		return folder;
	name_of(k, name);
	fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_set_errno(e, -errno, "the saved state");
	r = state_check(fd, k, e);
	if (!r) {
		futimens(fd, (struct timespec[]){ { .tv_nsec = UTIME_NOW }, { .tv_nsec = UTIME_OMIT } });
		return fd;
	}
	close(fd);
	unlinkat(folder, name, 0);
	return r;
}

/* Check blocks [from, to). They are read, because a block that should be zero may have got content. */
static int blocks_check(struct vmstate_file *f, const struct vmstate_header *h, const uint32_t *crcs, uint64_t from, uint64_t to,
	uint8_t *buf, struct err *e)
{
	int r = 0;

	for (uint64_t n; from < to && !r; from += n) {
		n = MIN(to - from, (uint64_t)CHUNK_BLOCKS);
		r = vmstate_read_blocks(&f->store, h, crcs, from, n, buf, e);
	}
	return r;
}

static int memory_check(struct vmstate_file *f, const struct vmstate_header *h, const uint32_t *crcs, uint8_t *buf, struct err *e)
{
	off_t base = (off_t)h->layout.ram_offset, end = base + (off_t)h->layout.ram_bytes, data = base, hole;
	uint64_t next = 0, from;
	int r = 0;

	while (!r && next < h->layout.blocks) {
		data = lseek(f->fd, MAX(base + (off_t)(next * VMSTATE_BLOCK_BYTES), data), SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			return err_set_errno(e, -errno, "the saved state");
		from = data < 0 || data >= end ? h->layout.blocks : (uint64_t)(data - base) / VMSTATE_BLOCK_BYTES;
		for (; next < from; next++)
			if (!vmstate_block_is_zero(&h->layout, crcs, next))
				return err_set(e, -EIO, ERR_CORRUPT, "the saved state lacks memory");
		if (next == h->layout.blocks)
			break;
		hole = lseek(f->fd, data, SEEK_HOLE);
		if (hole < 0)
			return err_set_errno(e, -errno, "the saved state");
		from = next;
		next = MIN(h->layout.blocks, (uint64_t)(hole - base + VMSTATE_BLOCK_BYTES - 1) / VMSTATE_BLOCK_BYTES);
		r = blocks_check(f, h, crcs, from, next, buf, e);
	}
	return r;
}

int warm_state_check(int fd, struct err *e)
{
	CLEANUP_FREE uint8_t *buf = aligned_alloc(VMSTATE_BLOCK_BYTES, CHUNK_BLOCKS * (size_t)VMSTATE_BLOCK_BYTES);
	CLEANUP_FREE uint32_t *crcs = NULL;
	struct vmstate_header h;
	struct vmstate_file f;
	struct stat st;
	int r;

	if (fstat(fd, &st) == 0 && st.st_mtim.tv_sec == CHECKED_S && !st.st_mtim.tv_nsec)
		return 0;
	must_alloc(buf);
	vmstate_file_init(&f, fd);
	r = vmstate_read_header(&f.store, &h, e);
	if (!r)
		r = vmstate_read_crcs(&f.store, &h, &crcs, e);
	if (!r)
		r = memory_check(&f, &h, crcs, buf, e);
	if (!r)
		futimens(fd, (struct timespec[]){ { .tv_nsec = UTIME_OMIT }, { .tv_sec = CHECKED_S } });
	return r;
}

int warm_state_put_pages(int fd, const uint32_t *list, size_t n)
{
	CLEANUP_CLOSE int writable = -1;
	char path[32];
	struct stat st;
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	writable = open(path, O_RDWR | O_CLOEXEC);
	if (writable < 0 || fstat(writable, &st) < 0)
		return -errno;
	r = first_pages_write(writable, list, n);
	if (st.st_mtim.tv_sec == CHECKED_S && !st.st_mtim.tv_nsec) /* the memory is still what was checked */
		futimens(writable, (struct timespec[]){ { .tv_nsec = UTIME_OMIT }, st.st_mtim });
	return r;
}

void warm_state_drop(const struct warm_key *k)
{
	struct err e;
	CLEANUP_CLOSE int folder = folder_open(false, &e);
	char name[NAME_BYTES];

	name_of(k, name);
	if (folder >= 0)
		unlinkat(folder, name, 0);
}

/* ---- writing ---- */

static bool has_suffix(const char *name, const char *suffix)
{
	size_t len = strlen(name);

	return len > strlen(suffix) && !strcmp(name + len - strlen(suffix), suffix);
}

static DIR *folder_list(int folder)
{
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d && fd >= 0)
		close(fd);
	return d;
}

/* Remove the files of processes that were killed. */
static void files_sweep(int folder)
{
	DIR *d = folder_list(folder);
	struct dirent *entry;

	while (d && (entry = readdir(d))) {
		int fd = has_suffix(entry->d_name, WORK) ? openat(folder, entry->d_name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK) : -1;

		if (fd < 0)
			continue;
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			unlinkat(folder, entry->d_name, 0);
		close(fd);
	}
	if (d)
		closedir(d);
}

/* Make a file with a name, and lock it: another process sees there that this one has not ended. */
static int named_file_open(struct warm_file *f, int folder)
{
	struct stat st;

	snprintf(f->name, sizeof(f->name), "%d" WORK, getpid());
	f->fd = openat(folder, f->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (f->fd < 0) {
		f->name[0] = 0;
		return -errno;
	}
	/* Another process may have taken it for one of a killed process before. */
	return flock(f->fd, LOCK_EX) < 0 || fstat(f->fd, &st) < 0 ? -errno : st.st_nlink ? 0 : -EAGAIN;
}

int warm_file_new(struct warm_file *f, struct err *e)
{
	CLEANUP_CLOSE int folder = folder_open(true, e);
	int r = 0;

	*f = (struct warm_file){ .fd = -1 };
	if (folder < 0)
		return folder;
	files_sweep(folder);
	f->fd = openat(folder, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	if (f->fd < 0)
		r = errno == EOPNOTSUPP || errno == EISDIR ? named_file_open(f, folder) : -errno;
	return r < 0 ? err_set_errno(e, r, "cannot make a file in the cache") : 0;
}

void warm_file_done(struct warm_file *f)
{
	struct err e;
	CLEANUP_CLOSE int folder = f->name[0] ? folder_open(false, &e) : -1;

	if (folder >= 0)
		unlinkat(folder, f->name, 0);
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	f->name[0] = 0;
}

size_t warm_states_list(struct warm_state_info **ret)
{
	struct err e;
	CLEANUP_CLOSE int folder = folder_open(false, &e);
	DIR *d = folder < 0 ? NULL : folder_list(folder);
	struct dirent *entry;
	struct stat st;
	size_t n = 0;

	*ret = NULL;
	while (d && (entry = readdir(d))) {
		if (!has_suffix(entry->d_name, SUFFIX) || strlen(entry->d_name) >= NAME_BYTES || fstatat(folder, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		*ret = must_alloc(reallocarray(*ret, n + 1, sizeof(**ret)));
		(*ret)[n] = (struct warm_state_info){ .bytes = (uint64_t)st.st_blocks * 512, .used_s = st.st_atim.tv_sec };
		strcpy((*ret)[n++].name, entry->d_name);
	}
	if (d)
		closedir(d);
	return n;
}

bool warm_state_has_file(const char *name, const struct stat *file)
{
	struct err e;
	CLEANUP_CLOSE int folder = folder_open(false, &e);
	CLEANUP_CLOSE int fd = folder < 0 ? -1 : openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	CLEANUP_FREE uint8_t *key = NULL;
	uint8_t head[KEY_HEADER_BYTES];
	uint32_t len;

	if (fd < 0 || pread_full(fd, head, sizeof(head), KEY_OFFSET) < 0 || memcmp(head, KEY_MAGIC, 8))
		return false;
	len = load_le32(head + 8);
	if (len > WARM_KEY_MAX)
		return false;
	key = must_alloc(malloc(len + 1));
	return pread_full(fd, key, len, KEY_OFFSET + KEY_HEADER_BYTES) == 0 && warm_key_has_file(key, len, file);
}

void warm_state_remove(const char *name)
{
	struct err e;
	CLEANUP_CLOSE int folder = folder_open(false, &e);

	if (folder >= 0)
		unlinkat(folder, name, 0);
}

/* Remove the states that have not been used for the longest time, but WARM_STATES_MAX. */
static void states_limit(int folder)
{
	char oldest[NAME_MAX + 1];
	size_t n;

	do {
		DIR *d = folder_list(folder);
		struct timespec least = { 0 };
		struct dirent *entry;
		struct stat st;

		n = 0;
		while (d && (entry = readdir(d))) {
			if (!has_suffix(entry->d_name, SUFFIX) ||
				fstatat(folder, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(st.st_mode))
				continue;
			if (!n++ || st.st_atim.tv_sec < least.tv_sec ||
				(st.st_atim.tv_sec == least.tv_sec && st.st_atim.tv_nsec < least.tv_nsec)) {
				least = st.st_atim;
				snprintf(oldest, sizeof(oldest), "%s", entry->d_name);
			}
		}
		if (d)
			closedir(d);
	} while (n > WARM_STATES_MAX && unlinkat(folder, oldest, 0) == 0);
}

static int key_write(int fd, const struct warm_key *k)
{
	uint8_t head[KEY_HEADER_BYTES] = KEY_MAGIC;
	size_t len;
	const uint8_t *key = warm_key_bytes(k, &len);
	int r = pwrite_full(fd, key, len, KEY_OFFSET + KEY_HEADER_BYTES);

	store_le32(head + 8, (uint32_t)len);
	return r ? r : pwrite_full(fd, head, sizeof(head), KEY_OFFSET);
}

int warm_file_keep(const struct warm_file *f, const struct warm_key *k, struct err *e)
{
	CLEANUP_CLOSE int folder = folder_open(true, e);
	char name[NAME_BYTES], path[32];
	int r;

	if (folder < 0)
		return folder;
	name_of(k, name);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	r = key_write(f->fd, k);
	if (!r && f->name[0])
		r = linkat(folder, f->name, folder, name, 0) < 0 ? -errno : 0;
	else if (!r)
		r = linkat(AT_FDCWD, path, folder, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
	if (r == -EEXIST) /* another run was quicker */
		r = 0;
	if (!r)
		states_limit(folder);
	return r < 0 ? err_set_errno(e, r, "cannot keep the state of the guest in the cache") : 0;
}
