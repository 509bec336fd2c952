#include "api/access/audit_file.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_BYTES 32

static void file_name(const struct audit_file *f, unsigned i, char buf[NAME_BYTES])
{
	if (i)
		snprintf(buf, NAME_BYTES, "%s.%u", f->name, i);
	else
		snprintf(buf, NAME_BYTES, "%s", f->name);
}

/* ---- writing ---- */

static int text_write(struct audit_file *f, const char *text)
{
	size_t n = 0;
	int r = line_append(f->fd, text, &n);

	/* Remove a part of the line that a full disk took: the next line would continue it. */
	if (r < 0 && f->fd >= 0 && ftruncate(f->fd, (off_t)f->size) < 0)
		log_error("audit", "cannot remove a part of a line: %s", strerror(errno));
	f->size += n;
	return r;
}

/* End a last line of which a power cut left only a part: the next line would continue it. */
static int torn_line_end(struct audit_file *f)
{
	char last = '\n';

	if (pread(f->fd, &last, 1, (off_t)f->size - 1) == 1 && last != '\n')
		return text_write(f, "");
	return 0;
}

/* Read from a file's first line the offset that the file's first byte has in the whole log. Returns 0; -EINVAL: the
 * file is no audit log; -errno. */
static int base_read(int fd, uint64_t *ret)
{
	char head[64] = "";
	unsigned long long base;

	if (pread(fd, head, sizeof(head) - 1, 0) < 0)
		return -errno;
	if (sscanf(head, "{\"base\":%llu}\n", &base) != 1)
		return -EINVAL;
	*ret = base;
	return 0;
}

/* Open the present file, and create it if it is missing. On errors, the caller calls fd_leave(). */
static int present_open(struct audit_file *f, uint64_t base)
{
	char name[NAME_BYTES], head[48];
	struct stat st;
	int r;

	file_name(f, 0, name);
	f->fd = openat(f->dir_fd, name, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (f->fd < 0 || fstat(f->fd, &st) < 0)
		return -errno;
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	f->size = (uint64_t)st.st_size;
	f->base = base;
	f->has_room = false;
	f->is_new = true;
	if (f->size) {
		r = base_read(f->fd, &f->base);
		return r < 0 ? r : torn_line_end(f);
	}
	snprintf(head, sizeof(head), "{\"base\":%llu}", (unsigned long long)base);
	return text_write(f, head);
}

/* Close the present file, unless it is being synced: then the end of the sync closes it. */
static void fd_leave(struct audit_file *f)
{
	if (f->fd >= 0 && f->fd != f->sync_fd)
		close(f->fd);
	f->fd = -1;
}

void audit_file_rotate(struct audit_file *f)
{
	char from[NAME_BYTES], to[NAME_BYTES];

	fd_leave(f);
	for (unsigned i = AUDIT_FILES - 1; i; i--) {
		file_name(f, i - 1, from);
		file_name(f, i, to);
		if (renameat(f->dir_fd, from, f->dir_fd, to) < 0 && errno != ENOENT)
			log_error("audit", "%s: %s", to, strerror(errno));
	}
}

/* Open the present file, or begin a new one if it is no audit log. */
static int present_begin(struct audit_file *f, uint64_t base)
{
	int r = present_open(f, base);

	if (r == -EINVAL) {
		audit_file_rotate(f);
		r = present_open(f, base);
	}
	if (r < 0)
		fd_leave(f);
	return r;
}

/* Return whether the name still leads to the open file. */
static bool is_in_place(const struct audit_file *f)
{
	char name[NAME_BYTES];
	struct stat st;

	file_name(f, 0, name);
	return fstatat(f->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == f->dev && st.st_ino == f->ino;
}

/* Allocate all blocks of the file, so that its lines fit on a disk that becomes full. */
static int room_make(struct audit_file *f)
{
	if (f->has_room || !f->wants_room)
		return 0;
	if (fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, AUDIT_FILE_BYTES + AUDIT_FILE_BYTES / 8) < 0 && errno != EOPNOTSUPP)
		return -errno;
	f->has_room = true;
	return 0;
}

int audit_file_ready(struct audit_file *f)
{
	int r;

	if (f->fd >= 0 && !is_in_place(f)) {
		log_warn("audit", "%s was removed or replaced; the daemon begins a new one", f->name);
		fd_leave(f);
	}
	if (f->fd >= 0 && f->size >= AUDIT_FILE_BYTES && f->sync_fd < 0 && !f->unsynced) /* an earlier daemon filled it */
		audit_file_rotate(f);
	if (f->fd < 0 && (r = present_begin(f, f->base + f->size)) < 0)
		return r;
	return room_make(f);
}

int audit_file_append(struct audit_file *f, const char *text)
{
	int ready = audit_file_ready(f);
	int r = f->fd < 0 ? ready : text_write(f, text);

	f->unsynced += !r;
	return r;
}

uint64_t audit_file_end(const struct audit_file *f)
{
	return f->base + f->size;
}

/* ---- opening ---- */

/* Return the place behind the newest rotated file, which is the greatest of all; 1 if there is no rotated file. */
static uint64_t old_end(const struct audit_file *f)
{
	uint64_t end = 1, base;

	for (unsigned i = 1; i < AUDIT_FILES; i++) {
		CLEANUP_CLOSE int fd = -1;
		char name[NAME_BYTES];
		struct stat st;

		file_name(f, i, name);
		fd = openat(f->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd >= 0 && fstat(fd, &st) == 0 && base_read(fd, &base) == 0)
			end = MAX(end, base + (uint64_t)st.st_size);
	}
	return end;
}

int audit_file_open(struct audit_file *f, int dir_fd, const char *name)
{
	int r;

	*f = (struct audit_file){ .dir_fd = dir_fd, .name = name, .fd = -1, .sync_fd = -1 };
	f->base = old_end(f);
	r = present_begin(f, f->base);
	f->error = r == -ENOSPC || r == -EDQUOT || r == -EIO ? r : 0;
	return f->error ? 0 : r;
}

void audit_file_close(struct audit_file *f)
{
	fd_leave(f);
}

/* ---- reading ---- */

/* Open the file that holds the byte at *place. If that file is gone, open the next newer one, and set *place to its
 * first byte. Returns an owned fd; -ENOENT: *place is at or behind the end. */
static int file_at(const struct audit_file *f, uint64_t *place, uint64_t *ret_base)
{
	for (unsigned i = AUDIT_FILES; i--;) {
		CLEANUP_CLOSE int fd = -1;
		char name[NAME_BYTES];
		struct stat st;

		file_name(f, i, name);
		fd = openat(f->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0 || fstat(fd, &st) < 0 || base_read(fd, ret_base) < 0 ||
			*place >= *ret_base + (uint64_t)st.st_size)
			continue;
		*place = MAX(*place, *ret_base);
		return steal_fd(&fd);
	}
	return -ENOENT;
}

ssize_t audit_file_read(const struct audit_file *f, uint64_t *place, char *buf, size_t size)
{
	CLEANUP_CLOSE int fd = -1;
	uint64_t base;
	ssize_t n;

	fd = file_at(f, place, &base);
	if (fd < 0)
		return 0;
	n = pread(fd, buf, size, (off_t)(*place - base));
	return n < 0 ? -errno : n;
}
