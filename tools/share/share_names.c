/* Operations on the names in a folder. */
#include "base/cleanup.h"
#include "tools/share/share.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A guest's file never gets its owner's rights on the host by a set-user-ID bit. */
#define MODE_MASK 01777u

static void entry_fill(struct fuse_entry_out *e, uint64_t id, const struct stat *st)
{
	*e = (struct fuse_entry_out){ .nodeid = id, .entry_valid = SHARE_VALID_S, .attr_valid = SHARE_VALID_S };
	share_attr_fill(&e->attr, st);
}

/* Reply with the node of an O_PATH fd, which is taken. */
static int entry_reply(struct share *s, int fd, struct reply *r)
{
	struct fuse_entry_out e;
	struct stat st;
	uint64_t id;
	int error = fd < 0 ? -errno : node_add(&s->nodes, fd, &id, &st);

	if (error < 0)
		return error;
	entry_fill(&e, id, &st);
	reply_add(r, &e, sizeof(e));
	return 0;
}

void share_entry_fill(struct share *s, int folder, const struct fuse_dirent *d, const char *name, struct fuse_entry_out *ret)
{
	struct stat st = { .st_ino = d->ino, .st_mode = DTTOIF(d->type) };
	uint64_t id = 0;
	int fd;

	if (strcmp(name, ".") && strcmp(name, "..") && fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode)) {
		fd = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0 && node_add(&s->nodes, fd, &id, &st) < 0)
			id = 0;
		/* Lookups, which fail without a node, have half of the nodes for themselves. */
		if (id && s->nodes.n > s->nodes.max / 2 && node_get(&s->nodes, id)->lookups == 1) {
			node_forget(&s->nodes, id, 1);
			id = 0;
		}
	}
	entry_fill(ret, id, &st);
}

/* The name has no slash and is not "..", and a symbolic link is not followed: the file is in this folder. */
static int entry_find(struct share *s, int folder, const char *name, struct reply *r)
{
	return entry_reply(s, openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), r);
}

int share_lookup(struct share *s, const struct request *q, struct reply *r)
{
	return entry_find(s, q->node->fd, q->name[0], r);
}

int share_mknod(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_mknod_in *in = q->arg;
	int folder = q->node->fd;

	if (!S_ISREG(in->mode) && !S_ISFIFO(in->mode) && !S_ISSOCK(in->mode))
		return -EPERM;
	if (mknodat(folder, q->name[0], in->mode & (S_IFMT | MODE_MASK), 0) < 0)
		return -errno;
	return entry_find(s, folder, q->name[0], r);
}

int share_mkdir(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_mkdir_in *in = q->arg;
	int folder = q->node->fd;

	if (mkdirat(folder, q->name[0], in->mode & MODE_MASK) < 0)
		return -errno;
	return entry_find(s, folder, q->name[0], r);
}

int share_symlink(struct share *s, const struct request *q, struct reply *r)
{
	int folder = q->node->fd;

	if (symlinkat(q->name[1], folder, q->name[0]) < 0)
		return -errno;
	return entry_find(s, folder, q->name[0], r);
}

int share_link(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_link_in *in = q->arg;
	const struct node *of = node_get(&s->nodes, in->oldnodeid);
	int folder = q->node->fd;
	char number[16];

	if (!of)
		return -ESTALE;
	snprintf(number, sizeof(number), "%d", of->fd);
	if (linkat(s->proc, number, folder, q->name[0], AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	return entry_find(s, folder, q->name[0], r);
}

int share_unlink(struct share *s, const struct request *q, struct reply *r)
{
	(void)s;
	(void)r;
	return unlinkat(q->node->fd, q->name[0], 0) < 0 ? -errno : 0;
}

int share_rmdir(struct share *s, const struct request *q, struct reply *r)
{
	(void)s;
	(void)r;
	return unlinkat(q->node->fd, q->name[0], AT_REMOVEDIR) < 0 ? -errno : 0;
}

static int name_move(struct share *s, const struct request *q, uint64_t to, unsigned flags)
{
	const struct node *n = node_get(&s->nodes, to);

	if (!n)
		return -ESTALE;
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	return renameat2(q->node->fd, q->name[0], n->fd, q->name[1], flags) < 0 ? -errno : 0;
}

int share_rename(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_rename_in *in = q->arg;

	(void)r;
	return name_move(s, q, in->newdir, 0);
}

int share_rename2(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_rename2_in *in = q->arg;

	(void)r;
	return name_move(s, q, in->newdir, in->flags);
}

int share_readlink(struct share *s, const struct request *q, struct reply *r)
{
	char text[PATH_MAX];
	ssize_t n = readlinkat(q->node->fd, "", text, sizeof(text));

	(void)s;
	if (n < 0)
		return errno == ENOENT ? -EINVAL : -errno; /* it is no symbolic link */
	reply_add(r, text, (size_t)n);
	return 0;
}

int share_create(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_create_in *in = q->arg;
	int flags = (int)(in->flags & (O_ACCMODE | O_EXCL | O_TRUNC)), path, error;
	CLEANUP_CLOSE int fd = openat(q->node->fd, q->name[0], flags | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
		in->mode & MODE_MASK & ~(unsigned)S_ISVTX);
	char number[16];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EEXIST;
	snprintf(number, sizeof(number), "%d", fd);
	path = openat(s->proc, number, O_PATH | O_CLOEXEC); /* the same file, whoever changes the name meanwhile */
	error = entry_reply(s, path, r);
	return error ? error : share_handle_reply(s, steal_fd(&fd), false, r);
}
