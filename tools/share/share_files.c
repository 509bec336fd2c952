/* Operations on files and folders that the guest knows or has open. */
#include "base/cleanup.h"
#include "base/util.h"
#include "tools/share/share.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define FUSE_UNKNOWN_INO 0xffffffffu /* as the guest's kernel has it */
#define ENTRIES_BYTES 32768
#define TIMES (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)

/* Open the file of a node. Files that are neither regular nor folders are never opened. Returns an owned fd; -errno. */
static int share_node_open(const struct share *s, const struct node *n, int flags)
{
	char number[16];
	int fd;

	if (!S_ISREG(n->type) && !S_ISDIR(n->type))
		return S_ISLNK(n->type) ? -ELOOP : -ENXIO;
	snprintf(number, sizeof(number), "%d", n->fd);
	fd = openat(s->proc, number, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int share_handle_reply(struct share *s, int fd, bool is_folder, struct reply *r)
{
	struct fuse_open_out out = { 0 };
	int error = handle_add(&s->nodes, fd, is_folder, &out.fh);

	if (!error)
		reply_add(r, &out, sizeof(out));
	return error;
}

/* ---- attributes ---- */

static int attr_reply(const struct node *n, struct reply *r)
{
	struct fuse_attr_out out = { .attr_valid = SHARE_VALID_S };
	struct stat st;

	if (fstat(n->fd, &st) < 0)
		return -errno;
	share_attr_fill(&out.attr, &st);
	reply_add(r, &out, sizeof(out));
	return 0;
}

int share_getattr(struct share *s, const struct request *q, struct reply *r)
{
	(void)s;
	return attr_reply(q->node, r);
}

static int size_set(struct share *s, const struct node *n, const struct fuse_setattr_in *in)
{
	CLEANUP_CLOSE int own = -1;
	int fd;

	if (in->size > INT64_MAX)
		return -EFBIG;
	if (!S_ISREG(n->type))
		return -EINVAL;
	fd = in->valid & FATTR_FH ? handle_fd(&s->nodes, in->fh, false) : (own = share_node_open(s, n, O_WRONLY));
	if (fd < 0)
		return fd;
	return ftruncate(fd, (off_t)in->size) < 0 ? -errno : 0;
}

static int mode_set(struct share *s, const struct node *n, uint32_t mode)
{
	char number[16];

	if (S_ISLNK(n->type))
		return -EOPNOTSUPP;
	snprintf(number, sizeof(number), "%d", n->fd);
	return fchmodat(s->proc, number, mode & 01777, 0) < 0 ? -errno : 0;
}

/* Returns the time to set. */
static struct timespec time_of(uint32_t valid, uint32_t given, uint32_t now, uint64_t s, uint32_t ns)
{
	if (valid & now)
		return (struct timespec){ .tv_nsec = UTIME_NOW };
	if (!(valid & given) || ns >= 1000000000)
		return (struct timespec){ .tv_nsec = UTIME_OMIT };
	return (struct timespec){ .tv_sec = (time_t)s, .tv_nsec = ns };
}

static int times_set(const struct node *n, const struct fuse_setattr_in *in)
{
	struct timespec t[2] = { time_of(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
		time_of(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec) };

	return utimensat(n->fd, "", t, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int owner_set(const struct node *n, const struct fuse_setattr_in *in)
{
	uid_t uid = in->valid & FATTR_UID ? in->uid : (uid_t)-1;
	gid_t gid = in->valid & FATTR_GID ? in->gid : (gid_t)-1;

	return fchownat(n->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int share_setattr(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_setattr_in *in = q->arg;
	int error = in->valid & FATTR_MODE ? mode_set(s, q->node, in->mode) : 0;

	if (!error && in->valid & (FATTR_UID | FATTR_GID))
		error = owner_set(q->node, in);
	if (!error && in->valid & FATTR_SIZE)
		error = size_set(s, q->node, in);
	if (!error && in->valid & TIMES)
		error = times_set(q->node, in);
	return error ? error : attr_reply(q->node, r);
}

int share_statfs(struct share *s, const struct request *q, struct reply *r)
{
	struct fuse_statfs_out out = { 0 };
	struct statfs f;

	(void)s;
	if (fstatfs(q->node->fd, &f) < 0)
		return -errno;
	out.st = (struct fuse_kstatfs){ .blocks = f.f_blocks, .bfree = f.f_bfree, .bavail = f.f_bavail, .files = f.f_files,
		.ffree = f.f_ffree, .bsize = (uint32_t)f.f_bsize, .namelen = (uint32_t)f.f_namelen, .frsize = (uint32_t)f.f_frsize };
	reply_add(r, &out, sizeof(out));
	return 0;
}

/* ---- open files ---- */

int share_open(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_open_in *in = q->arg;
	int flags = (int)(in->flags & (O_ACCMODE | O_TRUNC)), fd;

	if (s->read_only && flags != O_RDONLY)
		return -EROFS;
	if (!S_ISREG(q->node->type))
		return S_ISDIR(q->node->type) ? -EISDIR : -ENXIO;
	fd = share_node_open(s, q->node, flags);
	return fd < 0 ? fd : share_handle_reply(s, fd, false, r);
}

int share_read(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_read_in *in = q->arg;
	int fd = handle_fd(&s->nodes, in->fh, false);
	ssize_t n;

	if (fd < 0)
		return fd;
	if (in->size > SHARE_DATA_MAX || in->offset > INT64_MAX)
		return -EINVAL;
	n = pread(fd, r->data, in->size, (off_t)in->offset);
	if (n < 0)
		return -errno;
	r->bytes = (size_t)n;
	return 0;
}

int share_write(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_write_in *in = q->arg;
	struct fuse_write_out out = { 0 };
	int fd = handle_fd(&s->nodes, in->fh, false);
	ssize_t n;

	if (fd < 0)
		return fd;
	if (in->size != q->data_bytes || in->size > SHARE_DATA_MAX || in->offset > INT64_MAX)
		return -EINVAL;
	n = pwrite(fd, q->data, in->size, (off_t)in->offset);
	if (n < 0)
		return -errno;
	out.size = (uint32_t)n;
	reply_add(r, &out, sizeof(out));
	return 0;
}

/* The guest closes one of a file's descriptors: return errors that the host's file system reports at a close. */
int share_flush(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_flush_in *in = q->arg;
	int fd = handle_fd(&s->nodes, in->fh, false), copy;

	(void)r;
	if (fd < 0)
		return fd;
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return copy < 0 || close(copy) < 0 ? -errno : 0;
}

static int sync_run(int fd, uint32_t flags)
{
	if (fd < 0)
		return fd;
	return (flags & FUSE_FSYNC_FDATASYNC ? fdatasync(fd) : fsync(fd)) < 0 ? -errno : 0;
}

int share_fsync(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_fsync_in *in = q->arg;

	(void)r;
	return sync_run(handle_fd(&s->nodes, in->fh, false), in->fsync_flags);
}

int share_fsyncdir(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_fsync_in *in = q->arg;

	(void)r;
	return sync_run(handle_fd(&s->nodes, in->fh, true), in->fsync_flags);
}

int share_release(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_release_in *in = q->arg;

	(void)r;
	return handle_close(&s->nodes, in->fh);
}

int share_fallocate(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_fallocate_in *in = q->arg;
	int fd = handle_fd(&s->nodes, in->fh, false);

	(void)r;
	if (fd < 0)
		return fd;
	if (in->offset > INT64_MAX || in->length > INT64_MAX || in->mode & ~(uint32_t)(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE |
		FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;
	return fallocate(fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0 ? -errno : 0;
}

int share_lseek(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_lseek_in *in = q->arg;
	struct fuse_lseek_out out;
	int fd = handle_fd(&s->nodes, in->fh, false);
	off_t at;

	if (fd < 0)
		return fd;
	if ((in->whence != SEEK_DATA && in->whence != SEEK_HOLE) || in->offset > INT64_MAX)
		return -EINVAL;
	at = lseek(fd, (off_t)in->offset, (int)in->whence);
	if (at < 0)
		return -errno;
	out.offset = (uint64_t)at;
	reply_add(r, &out, sizeof(out));
	return 0;
}

/* ---- open folders ---- */

int share_opendir(struct share *s, const struct request *q, struct reply *r)
{
	int fd = share_node_open(s, q->node, O_RDONLY | O_DIRECTORY);

	return fd < 0 ? fd : share_handle_reply(s, fd, true, r);
}

/* fd: of the folder. Returns false if there is no room for the entry. */
static bool entry_add(struct share *s, const struct request *q, int fd, struct reply *r, size_t limit, const struct dirent64 *d)
{
	bool plus = q->opcode == FUSE_READDIRPLUS;
	struct fuse_entry_out entry;
	struct fuse_dirent out = { .ino = d->d_ino, .off = (uint64_t)d->d_off, .namelen = (uint32_t)strlen(d->d_name), .type = d->d_type };
	size_t bytes = FUSE_DIRENT_SIZE(&out), entry_bytes = plus ? sizeof(entry) : 0;

	if (!strcmp(d->d_name, ".."))
		out.ino = FUSE_UNKNOWN_INO; /* above the shared folder is nothing that the guest may know */
	if (bytes + entry_bytes > limit - r->bytes)
		return false;
	if (plus) {
		share_entry_fill(s, fd, &out, d->d_name, &entry);
		reply_add(r, &entry, sizeof(entry));
	}
	reply_add(r, &out, FUSE_NAME_OFFSET);
	reply_add(r, d->d_name, out.namelen);
	reply_add(r, NULL, bytes - FUSE_NAME_OFFSET - out.namelen);
	return true;
}

int share_readdir(struct share *s, const struct request *q, struct reply *r)
{
	static union {
		struct dirent64 align;
		char bytes[ENTRIES_BYTES];
	} entries;
	const struct fuse_read_in *in = q->arg;
	size_t limit = MIN(in->size, SHARE_DATA_MAX);
	int fd = handle_fd(&s->nodes, in->fh, true);
	ssize_t n = 0;

	if (fd < 0)
		return fd;
	if (lseek(fd, (off_t)in->offset, SEEK_SET) < 0)
		return -errno;
	while ((n = getdents64(fd, &entries, sizeof(entries))) > 0) {
		for (ssize_t at = 0; at < n;) {
			const struct dirent64 *d = (const struct dirent64 *)(entries.bytes + at);

			if (!entry_add(s, q, fd, r, limit, d))
				return 0; /* the guest asks for the rest, from the last entry's offset on */
			at += d->d_reclen;
		}
	}
	return n < 0 && !r->bytes ? -errno : 0;
}
