#include "api/policy/export_file.h"
#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAKER "who made the schedule" /* the user, in errors */
#define END_TIMEOUT_NS (600 * 1000000000ULL) /* of a sync of the whole file */

struct names {
	const char *folder, *name;
	bool keep;
	char part[NAME_MAX + 1];
};

static int names_make(struct names *n, const char *folder, const char *name, const char *id, struct err *e)
{
	*n = (struct names){ .folder = folder, .name = name };
	if (snprintf(n->part, sizeof(n->part), ".%s.part", id) >= (int)sizeof(n->part) || strlen(name) > NAME_MAX)
		return err_set(e, -ENAMETOOLONG, ERR_INVALID, "the archive's name %.60s… is too long", name);
	return 0;
}

static int folder_open(const struct names *n, int *ret_fd, struct err *e)
{
	*ret_fd = open(n->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *ret_fd < 0 ? err_set_errno(e, -errno, "%.300s", n->folder) : 0;
}

/* Runs in the forked process, as does archive_end(). */
static int archive_open(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct names *n = arg;
	CLEANUP_CLOSE int dir = -1;
	struct stat st;
	int fd, r = folder_open(n, &dir, e);

	if (r < 0)
		return r;
	if (fstatat(dir, n->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "%.200s exists in %.200s", n->name, n->folder);
	unlinkat(dir, n->part, 0);
	fd = openat(dir, n->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set_errno(e, -errno, "%.200s/%.200s", n->folder, n->part);
	out->held[0] = fd;
	out->held_at[0] = 0;
	out->nheld = 1;
	return 0;
}

static int archive_end(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct names *n = arg;
	CLEANUP_CLOSE int dir = -1;
	CLEANUP_CLOSE int fd = -1;
	int r = folder_open(n, &dir, e);

	(void)out;
	if (r < 0)
		return r;
	if (!n->keep)
		return unlinkat(dir, n->part, 0) < 0 && errno != ENOENT ? err_set_errno(e, -errno, "%.200s", n->part) : 0;
	fd = openat(dir, n->part, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	r = fd < 0 || fsync(fd) < 0 ? -errno : file_rename_new(dir, n->part, n->name);
	if (r < 0)
		unlinkat(dir, n->part, 0);
	else if (fsync(dir) < 0)
		r = -errno;
	return r < 0 ? err_set_errno(e, r, "%.200s/%.200s", n->folder, n->name) : 0;
}

int export_file_open(struct helpers *h, const struct rights *rights, const char *folder, const char *name, const char *id,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct client_file **ret, struct err *e)
{
	struct names n;
	struct client_file_spec s = { .rights = rights, .of_author = true, .who = MAKER, .run = archive_open, .arg = &n,
		.what = "opening the archive", .done = done, .opaque = opaque };
	int r = names_make(&n, folder, name, id, e);

	return r ? r : client_file_new(h, &s, ret, e);
}

int export_file_end(struct helpers *h, const struct rights *rights, const char *folder, const char *name, const char *id, bool keep,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque, struct err *e)
{
	struct names n;
	struct fork_as_spec s = { .rights = rights, .run = archive_end, .arg = &n, .who = MAKER, .what = "completing the archive",
		.timeout_ns = END_TIMEOUT_NS, .done = done, .opaque = opaque };
	struct fork_as *x;
	int r = names_make(&n, folder, name, id, e);

	n.keep = keep;
	return r ? r : fork_as_begin(h, &s, &x, e);
}
