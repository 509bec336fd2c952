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

static void text_write(struct audit_file *f, const char *text)
{
	size_t n = 0;
	int r = line_append(f->fd, text, &n);

	/* Remove a part of the line that a full disk took: the next line would continue it. */
	if (r < 0 && f->fd >= 0 && ftruncate(f->fd, (off_t)f->size) < 0)
		log_error("audit", "cannot remove a part of a line: %s", strerror(errno));
	if (r < 0)
		log_error("audit", "cannot write this line (%s): %s", strerror(-r), text);
	f->size += n;
}

/* End a last line of which a power cut left only a part: the next line would continue it. */
static void torn_line_end(struct audit_file *f)
{
	char last = '\n';

	if (pread(f->fd, &last, 1, (off_t)f->size - 1) == 1 && last != '\n')
		text_write(f, "");
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

static int present_open(struct audit_file *f, uint64_t base)
{
	char name[NAME_BYTES], head[48];
	struct stat st;
	int r;

	file_name(f, 0, name);
	f->fd = openat(f->dir_fd, name, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (f->fd < 0 || fstat(f->fd, &st) < 0)
		return -errno;
	f->size = (uint64_t)st.st_size;
	f->base = base;
	if (f->size) {
		r = base_read(f->fd, &f->base);
		if (r == 0)
			torn_line_end(f);
		return r;
	}
	snprintf(head, sizeof(head), "{\"base\":%llu}", (unsigned long long)base);
	text_write(f, head);
	return 0;
}

static void files_turn(struct audit_file *f)
{
	char from[NAME_BYTES], to[NAME_BYTES];

	close(f->fd);
	f->fd = -1;
	for (unsigned i = AUDIT_FILES - 1; i; i--) {
		file_name(f, i - 1, from);
		file_name(f, i, to);
		if (renameat(f->dir_fd, from, f->dir_fd, to) < 0 && errno != ENOENT)
			log_error("audit", "%s: %s", to, strerror(errno));
	}
}

/* Begin a new file when the present one is full. If that fails, the next line tries it again, without another rotation,
 * which would remove the oldest file. */
static void file_ready(struct audit_file *f)
{
	int r;

	if (f->fd >= 0 && f->size < AUDIT_FILE_BYTES)
		return;
	if (f->fd >= 0)
		files_turn(f);
	r = present_open(f, f->base + f->size);
	if (r < 0)
		log_error("audit", "cannot begin a new file: %s", strerror(-r));
}

void audit_file_append(struct audit_file *f, const char *text)
{
	file_ready(f);
	text_write(f, text);
}

uint64_t audit_file_end(const struct audit_file *f)
{
	return f->base + f->size;
}

/* ---- opening ---- */

/* Return the place at which the newest rotated file ends, the greatest of all; 1 if there is none. */
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

	*f = (struct audit_file){ .dir_fd = dir_fd, .name = name, .fd = -1 };
	r = present_open(f, old_end(f));
	if (r == -EINVAL) { /* the file is no audit log: rotate it, and begin a new one */
		files_turn(f);
		r = present_open(f, old_end(f));
	}
	return r;
}

void audit_file_close(struct audit_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
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
