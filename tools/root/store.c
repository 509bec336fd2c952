#include "tools/root/store.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/root/layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MEMBERS_MAX 4096
#define NAME_BYTES 96
#define TAR_BLOCK 512

struct member {
	char name[NAME_BYTES];
	uint64_t off, size;
	int fd; /* of a folder's file; -1 */
};

struct store {
	int fd; /* folder or archive */
	bool is_folder;
	char path[256]; /* for errors */
	struct member *members; /* of an archive: all; of a folder: those that were opened */
	unsigned n;
};

static struct store *store_new(const char *path, bool is_folder)
{
	struct store *s = must_alloc(calloc(1, sizeof(*s)));

	s->is_folder = is_folder;
	snprintf(s->path, sizeof(s->path), "%s", path);
	s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | (is_folder ? O_DIRECTORY : O_NONBLOCK));
	return s;
}

void store_free(struct store *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->n; i++)
		if (s->members[i].fd >= 0)
			close(s->members[i].fd);
	if (s->fd >= 0)
		close(s->fd);
	free(s->members);
	free(s);
}

int store_open_folder(const char *path, struct store **ret, struct err *e)
{
	struct store *s = store_new(path, true);
	int r = 0;

	if (s->fd < 0 || faccessat(s->fd, "index.json", F_OK, 0) < 0)
		r = err_set(e, -errno, err_class_of_errno(errno), "%s is no OCI layout: %s", path,
			s->fd < 0 ? strerror(errno) : "it has no index.json");
	if (r < 0) {
		store_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

static struct member *member_add(struct store *s, const char *name)
{
	if (s->n >= MEMBERS_MAX)
		return NULL;
	s->members = must_alloc(reallocarray(s->members, s->n + 1, sizeof(*s->members)));
	s->members[s->n] = (struct member){ .fd = -1 };
	snprintf(s->members[s->n].name, NAME_BYTES, "%s", name);
	return &s->members[s->n++];
}

/* ---- archive ---- */

/* Return whether an archive of a layout may have a file of this name. Docker adds its own description. */
static bool is_member(const char *name)
{
	return !strncmp(name, "blobs", 5) || !strcmp(name, "oci-layout") || !strcmp(name, "index.json") || !strcmp(name, "manifest.json") ||
		!strcmp(name, "repositories");
}

static la_int64_t on_skip(struct archive *a, void *arg, la_int64_t n)
{
	(void)a;
	return lseek(*(int *)arg, n, SEEK_CUR) < 0 ? 0 : n;
}

static la_ssize_t on_read(struct archive *a, void *arg, const void **ret)
{
	static char buf[4096];
	ssize_t n = read(*(int *)arg, buf, sizeof(buf));

	*ret = buf;
	if (n < 0)
		archive_set_error(a, errno, "%s", strerror(errno));
	return n;
}

/* libarchive does not tell where the content of a member begins. It ends at the header of the next one, after padding
 * to whole blocks. The digest of a blob proves the position. Returns 0; -ENOENT: it is no layout; -E2BIG. */
static int members_read(struct store *s, struct archive *a)
{
	struct archive_entry *entry;
	struct member *last = NULL;
	bool layout = false, index = false, full = false;
	int r;

	for (;;) {
		const char *name;

		r = archive_read_next_header(a, &entry);
		if (last)
			last->off = (uint64_t)archive_read_header_position(a) - ROUND_UP(last->size, TAR_BLOCK);
		last = NULL;
		if (r < ARCHIVE_WARN || r == ARCHIVE_EOF)
			return r != ARCHIVE_EOF || !layout || !index ? -ENOENT : full ? -E2BIG : 0;
		name = archive_entry_pathname(entry);
		if (!name)
			return -ENOENT;
		name += strspn(name, "./");
		if (*name && !is_member(name))
			return -ENOENT;
		if (archive_entry_filetype(entry) != AE_IFREG || strlen(name) >= NAME_BYTES)
			continue;
		layout |= !strcmp(name, "oci-layout");
		index |= !strcmp(name, "index.json");
		last = member_add(s, name);
		if (last)
			last->size = (uint64_t)archive_entry_size(entry);
		full |= !last; /* a tar archive of another kind may have a folder "blobs" */
	}
}

static struct member *member_find(struct store *s, const char *name)
{
	for (unsigned i = 0; i < s->n; i++)
		if (!strcmp(s->members[i].name, name))
			return &s->members[i];
	return NULL;
}

int store_open_archive(const char *path, struct store **ret, struct err *e)
{
	struct store *s = store_new(path, false);
	struct archive *a = archive_read_new();
	struct stat st;
	int r = 0;

	if (s->fd < 0 || fstat(s->fd, &st) < 0)
		r = err_set_errno(e, -errno, "%s", path);
	else if (!S_ISREG(st.st_mode))
		r = err_set(e, -EINVAL, ERR_INVALID, "%s is neither a folder nor a regular file", path);
	if (!r) {
		archive_read_support_format_tar(a);
		archive_read_set_skip_callback(a, on_skip);
		archive_read_set_read_callback(a, on_read);
		archive_read_set_callback_data(a, &s->fd);
		r = archive_read_open1(a) < ARCHIVE_WARN ? -ENOENT : members_read(s, a);
		if (r == -ENOENT)
			err_set(e, r, ERR_INVALID, "%s is no OCI archive (a tar file, not compressed, with oci-layout and index.json)", path);
		if (r == -E2BIG)
			err_set(e, r, ERR_UNSUPPORTED, "the OCI archive %s has more than %d files; copy the image that you need to an archive of "
				"its own, with `skopeo copy oci-archive:FILE:TAG oci-archive:NEW`", path, MEMBERS_MAX);
	}
	archive_read_free(a);
	if (r < 0) {
		store_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

/* ---- find ---- */

/* Open a file of a layout folder. */
static int folder_find(struct store *s, const char *name, struct member **ret)
{
	CLEANUP_CLOSE int fd = openat(s->fd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct member *m;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	m = member_add(s, name);
	if (!m)
		return -E2BIG;
	m->fd = steal_fd(&fd);
	m->size = (uint64_t)st.st_size;
	*ret = m;
	return 0;
}

int store_find(struct store *s, const char *name, struct layer *ret, struct err *e)
{
	struct member *m = member_find(s, name);
	int r = m ? 0 : -ENOENT;

	if (!m && s->is_folder)
		r = folder_find(s, name, &m);
	if (r < 0)
		return err_set(e, r, ERR_CORRUPT, "the image %s is incomplete: %s: %s", s->path, name, strerror(-r));
	ret->fd = s->is_folder ? m->fd : s->fd;
	ret->off = m->off;
	ret->size = m->size;
	return 0;
}
