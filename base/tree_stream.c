#include "base/tree_stream.h"
#include "base/bytes.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A record: type (1), 0 (1), mode (2), length (4), data. */
enum record {
	RECORD_TOTAL = 'T',  /* bytes of all files (8); the first record */
	RECORD_FILE = 'F',   /* name */
	RECORD_DATA = 'd',   /* data of the file, at least one byte */
	RECORD_CLOSE = 'c',  /* the end of the file */
	RECORD_FOLDER = 'D', /* name; its content follows */
	RECORD_UP = 'u',     /* the end of the folder */
	RECORD_LINK = 'L',   /* name, NUL, target */
	RECORD_END = 'E',    /* the last record */
};

#define NO_MODE ((mode_t)-1)

static int fault(struct tree_fault *f, int error, const char *name)
{
	size_t n = strnlen(name, sizeof(f->name) - 1);

	if (!f->error) {
		f->error = error;
		memcpy(f->name, name, n);
		f->name[n] = 0;
	}
	return -error;
}

static int write_all(int fd, const uint8_t *data, size_t len)
{
	for (const uint8_t *p = data; len;) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

/* ---- writing ---- */

static int record_put(struct tree_writer *w, enum record type, mode_t mode, const void *data, size_t len)
{
	uint8_t header[TREE_HEADER_BYTES] = { (uint8_t)type };
	int r;

	store_le16(header + 2, (uint16_t)(mode & 0777));
	store_le32(header + 4, (uint32_t)len);
	r = write_all(w->fd, header, sizeof(header));
	if (!r)
		r = write_all(w->fd, data, len);
	return r < 0 ? fault(&w->fault, -r, "the connection") : 0;
}

static int file_put(struct tree_writer *w, int fd, mode_t mode, const char *name)
{
	static uint8_t buf[TREE_DATA_MAX];
	ssize_t n;
	int r = record_put(w, RECORD_FILE, mode, name, strlen(name));

	while (!r && (n = read(fd, buf, sizeof(buf))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fault(&w->fault, errno, name);
		r = record_put(w, RECORD_DATA, 0, buf, (size_t)n);
		w->done += (uint64_t)n;
		if (w->progress)
			w->progress(w);
	}
	return r ? r : record_put(w, RECORD_CLOSE, 0, "", 0);
}

static int link_put(struct tree_writer *w, int dir, const char *name)
{
	char text[TREE_TEXT_MAX];
	size_t n = strlen(name) + 1;
	ssize_t len;

	if (n > 256)
		return fault(&w->fault, ENAMETOOLONG, name);
	memcpy(text, name, n);
	len = readlinkat(dir, name, text + n, sizeof(text) - n);
	if (len <= 0)
		return fault(&w->fault, len ? errno : EINVAL, name);
	return record_put(w, RECORD_LINK, 0, text, n + (size_t)len);
}

static int folder_put(struct tree_writer *w, int fd, mode_t mode, const char *name, unsigned depth);

/* An entry of a folder. */
static int entry_put(struct tree_writer *w, int dir, const char *name, unsigned depth)
{
	struct stat st;
	int fd, r;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : fault(&w->fault, errno, name); /* the entry was removed meanwhile */
	if (S_ISLNK(st.st_mode))
		return link_put(w, dir, name);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
		w->skipped++;
		return 0;
	}
	fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		r = fault(&w->fault, errno, name);
		if (fd >= 0)
			close(fd);
		return r;
	}
	if (S_ISDIR(st.st_mode))
		return folder_put(w, fd, st.st_mode, name, depth);
	r = S_ISREG(st.st_mode) ? file_put(w, fd, st.st_mode, name) : 0;
	close(fd);
	return r;
}

/* Call put() for each entry. Takes fd. */
static int folder_each(struct tree_writer *w, int fd, const char *name, unsigned depth,
	int (*put)(struct tree_writer *w, int dir, const char *name, unsigned depth))
{
	DIR *d = depth < TREE_DEPTH_MAX ? fdopendir(fd) : NULL;
	struct dirent *e;
	int r = 0;

	if (!d) {
		r = fault(&w->fault, depth < TREE_DEPTH_MAX ? errno : ELOOP, name);
		close(fd);
		return r;
	}
	while (!r && (errno = 0, e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			r = put(w, dirfd(d), e->d_name, depth + 1);
	if (!r && errno)
		r = fault(&w->fault, errno, name);
	closedir(d);
	return r;
}

static int folder_put(struct tree_writer *w, int fd, mode_t mode, const char *name, unsigned depth)
{
	int r = record_put(w, RECORD_FOLDER, mode, name, strlen(name));

	if (r < 0) {
		close(fd);
		return r;
	}
	r = folder_each(w, fd, name, depth, entry_put);
	return r ? r : record_put(w, RECORD_UP, 0, "", 0);
}

/* Add the sizes below a folder. The copy reports faults. */
static int entry_count(struct tree_writer *w, int dir, const char *name, unsigned depth)
{
	struct stat st;
	int fd;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
		w->total += (uint64_t)st.st_size;
	else if (S_ISDIR(st.st_mode) && depth < TREE_DEPTH_MAX) {
		fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0)
			folder_each(w, fd, name, depth, entry_count);
	}
	return 0;
}

static int total_put(struct tree_writer *w)
{
	uint8_t total[8];

	store_le64(total, w->total);
	return record_put(w, RECORD_TOTAL, 0, total, sizeof(total));
}

int tree_write(struct tree_writer *w, const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), r;
	struct stat st;

	if (fd < 0)
		return fault(&w->fault, errno, path);
	if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))) {
		close(fd);
		return fault(&w->fault, EINVAL, path);
	}
	if (S_ISREG(st.st_mode)) {
		w->total = (uint64_t)st.st_size;
		r = total_put(w);
		if (!r)
			r = file_put(w, fd, st.st_mode, "file");
		close(fd);
	} else {
		folder_each(w, dup(fd), path, 0, entry_count);
		w->fault.error = 0;
		lseek(fd, 0, SEEK_SET); /* the duplicate has the same position */
		r = total_put(w);
		if (r < 0)
			close(fd);
		else
			r = folder_put(w, fd, st.st_mode, "folder", 0);
	}
	return r ? r : record_put(w, RECORD_END, 0, "", 0);
}

int tree_write_fd(struct tree_writer *w, int fd)
{
	int r = total_put(w);

	if (!r)
		r = file_put(w, fd, 0644, "file");
	return r ? r : record_put(w, RECORD_END, 0, "", 0);
}

/* ---- reading ---- */

void tree_reader_init(struct tree_reader *t, const char *path, int single)
{
	*t = (struct tree_reader){ .path = path, .single = single, .file = -1 };
}

static bool name_ok(const char *name, size_t len)
{
	return len && len < 256 && strlen(name) == len && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

/* Find the folder and the name of the record's file. The user's path may lead through symbolic links; its own last
 * part, too, unless t->nofollow is set. */
static const char *place(const struct tree_reader *t, int *ret_dir, int *ret_nofollow)
{
	*ret_dir = t->depth ? t->dirs[t->depth - 1] : AT_FDCWD;
	*ret_nofollow = t->depth || t->nofollow ? O_NOFOLLOW : 0;
	return t->depth ? t->text : t->path;
}

static int file_open(struct tree_reader *t, mode_t mode)
{
	int dir, nofollow, flags = O_WRONLY | O_NONBLOCK | O_CLOEXEC;
	const char *name = place(t, &dir, &nofollow);
	struct stat st;

	t->in_file = true;
	t->file_mode = NO_MODE;
	t->file = t->single;
	if (t->single >= 0)
		return 0;
	t->file = openat(dir, name, flags | nofollow);
	if (t->file < 0 && errno == ENOENT) {
		t->file_mode = mode;
		t->file = openat(dir, name, flags | O_CREAT | nofollow, 0600);
	}
	if (t->file < 0)
		return fault(&t->fault, errno, name);
	if (fstat(t->file, &st) < 0 || !S_ISREG(st.st_mode))
		return fault(&t->fault, EINVAL, name);
	return ftruncate(t->file, 0) < 0 ? fault(&t->fault, errno, name) : 0;
}

/* EPERM: the file system has no permissions (FAT) */
static int mode_set(struct tree_reader *t, int fd, mode_t mode, const char *name)
{
	return mode != NO_MODE && fchmod(fd, mode) < 0 && errno != EPERM ? fault(&t->fault, errno, name) : 0;
}

static int file_close(struct tree_reader *t)
{
	int r = 0;

	if (t->file >= 0 && t->file != t->single) {
		r = mode_set(t, t->file, t->file_mode, t->depth ? t->text : t->path);
		if (close(t->file) < 0 && !r)
			r = fault(&t->fault, errno, t->depth ? t->text : t->path);
	}
	t->file = -1;
	t->in_file = false;
	return r;
}

static int folder_enter(struct tree_reader *t, mode_t mode)
{
	int dir, nofollow, fd;
	const char *name = place(t, &dir, &nofollow);
	bool made;

	if (t->single >= 0)
		return fault(&t->fault, EISDIR, name);
	if (t->depth == TREE_DEPTH_MAX)
		return fault(&t->fault, ELOOP, name);
	made = mkdirat(dir, name, 0700) == 0;
	if (!made && errno != EEXIST)
		return fault(&t->fault, errno, name);
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | nofollow);
	if (fd < 0)
		return fault(&t->fault, errno, name);
	t->modes[t->depth] = made ? mode : NO_MODE;
	t->dirs[t->depth++] = fd;
	return 0;
}

static int folder_leave(struct tree_reader *t)
{
	int fd = t->dirs[--t->depth], r = mode_set(t, fd, t->modes[t->depth], "permissions of a folder");

	close(fd);
	return r;
}

/* A link replaces an older link of that name; nothing else is removed. */
static int link_make(struct tree_reader *t, const char *target)
{
	int dir = t->dirs[t->depth - 1];
	struct stat st;

	if (symlinkat(target, dir, t->text) == 0)
		return 0;
	if (errno == EEXIST && fstatat(dir, t->text, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode) &&
		unlinkat(dir, t->text, 0) == 0 && symlinkat(target, dir, t->text) == 0)
		return 0;
	return fault(&t->fault, errno, t->text);
}

/* Return whether the record may come now, with data of this length. */
static bool record_allowed(const struct tree_reader *t, uint8_t type, uint32_t len)
{
	bool first = !t->begun, top = t->depth || first;

	switch (type) {
	case RECORD_TOTAL:
		return first && len == 8 && !t->total;
	case RECORD_FILE:
	case RECORD_FOLDER:
		return !t->in_file && top && len > 0 && len < 256;
	case RECORD_LINK:
		return !t->in_file && t->depth && len > 2 && len <= TREE_TEXT_MAX;
	case RECORD_DATA:
		return t->in_file && len > 0 && len <= TREE_DATA_MAX;
	case RECORD_CLOSE:
		return t->in_file && !len;
	case RECORD_UP:
		return !t->in_file && t->depth && !len;
	case RECORD_END:
		return !t->in_file && !t->depth && t->begun && !len;
	default:
		return false;
	}
}

/* Carry out a record whose text is complete. Returns 0 or -errno. */
static int record_do(struct tree_reader *t, size_t len)
{
	mode_t mode = load_le16(t->header + 2) & 0777 & ~t->mask;
	size_t name_len = strnlen(t->text, len);

	t->text[len] = 0;
	switch (t->header[0]) {
	case RECORD_TOTAL:
		t->total = load_le64(t->text);
		return 0;
	case RECORD_FILE:
	case RECORD_FOLDER:
		if (!name_ok(t->text, len))
			return -EPROTO;
		t->begun = true;
		return t->header[0] == RECORD_FILE ? file_open(t, mode) : folder_enter(t, mode);
	case RECORD_LINK:
		/* The target's own NUL would cut it off. */
		if (!name_ok(t->text, name_len) || name_len + 1 >= len || strlen(t->text + name_len + 1) != len - name_len - 1)
			return -EPROTO;
		return link_make(t, t->text + name_len + 1);
	case RECORD_CLOSE:
		return file_close(t);
	case RECORD_UP:
		return folder_leave(t);
	default:
		t->complete = true;
		return 0;
	}
}

/* Take the rest of a header, text or data. Returns the number of bytes; -errno. */
static ssize_t some_take(struct tree_reader *t, const uint8_t *data, size_t len)
{
	size_t n, text;
	int r = 0;

	if (t->left) {
		n = MIN(len, t->left);
		r = (t->write ? t->write : write_all)(t->file, data, n);
		t->left -= (uint32_t)n;
		t->done += n;
		return r < 0 ? fault(&t->fault, -r, t->depth ? t->text : t->path) : (ssize_t)n;
	}
	if (t->have < TREE_HEADER_BYTES) {
		n = MIN(len, TREE_HEADER_BYTES - t->have);
		memcpy(t->header + t->have, data, n);
		t->have += n;
		if (t->have < TREE_HEADER_BYTES)
			return (ssize_t)n;
		if (t->complete || t->header[1] || !record_allowed(t, t->header[0], load_le32(t->header + 4)))
			return -EPROTO;
	} else {
		n = 0;
	}
	text = load_le32(t->header + 4);
	if (t->header[0] == RECORD_DATA) {
		t->left = (uint32_t)text;
		t->have = 0;
		return (ssize_t)n;
	}
	text = MIN(len - n, text - (t->have - TREE_HEADER_BYTES));
	memcpy(t->text + (t->have - TREE_HEADER_BYTES), data + n, text);
	t->have += text;
	if (t->have == TREE_HEADER_BYTES + load_le32(t->header + 4)) {
		r = record_do(t, t->have - TREE_HEADER_BYTES);
		t->have = 0;
	}
	return r < 0 ? r : (ssize_t)(n + text);
}

int tree_reader_take(struct tree_reader *t, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = some_take(t, data, len);

		if (n < 0)
			return (int)n;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

int tree_reader_end(struct tree_reader *t)
{
	if (t->file >= 0 && t->file != t->single)
		close(t->file);
	t->file = -1;
	while (t->depth)
		close(t->dirs[--t->depth]);
	return t->complete ? 0 : -EPROTO;
}
