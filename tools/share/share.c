#include "tools/share/share.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define MINOR_MIN 31 /* virtio-fs came with it */
/* Of the features that the guest offers. Attributes of a file that changes on the host drop the guest's cached pages.
 */
#define FEATURES (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_AUTO_INVAL_DATA | FUSE_MAX_PAGES)

void reply_add(struct reply *r, const void *p, size_t bytes)
{
	uint8_t *to = r->data + r->bytes;

	if (bytes > r->room - r->bytes)
		return;
	if (p)
		memcpy(to, p, bytes);
	else
		memset(to, 0, bytes);
	r->bytes += bytes;
}

void share_attr_fill(struct fuse_attr *a, const struct stat *st)
{
	*a = (struct fuse_attr){ .ino = st->st_ino, .size = (uint64_t)st->st_size, .blocks = (uint64_t)st->st_blocks,
		.atime = (uint64_t)st->st_atim.tv_sec, .mtime = (uint64_t)st->st_mtim.tv_sec, .ctime = (uint64_t)st->st_ctim.tv_sec,
		.atimensec = (uint32_t)st->st_atim.tv_nsec, .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
		.ctimensec = (uint32_t)st->st_ctim.tv_nsec, .mode = st->st_mode, .nlink = (uint32_t)st->st_nlink,
		.uid = st->st_uid, .gid = st->st_gid, .rdev = (uint32_t)st->st_rdev, .blksize = (uint32_t)st->st_blksize };
}

/* ---- session ---- */

static int share_init(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_init_in *in = q->arg;
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = MIN(in->minor, FUSE_KERNEL_MINOR_VERSION),
		.max_readahead = in->max_readahead, .flags = in->flags & FEATURES, .max_background = 16, .congestion_threshold = 12,
		.max_write = SHARE_DATA_MAX, .time_gran = 1, .max_pages = SHARE_DATA_MAX / PAGE_BYTES };

	nodes_reset(&s->nodes); /* the guest has another kernel now, or has mounted the folder again */
	s->started = in->major == FUSE_KERNEL_VERSION && in->minor >= MINOR_MIN;
	if (in->major < FUSE_KERNEL_VERSION || (in->major == FUSE_KERNEL_VERSION && !s->started))
		return -EPROTO;
	reply_add(r, &out, sizeof(out)); /* a newer major number: the guest asks again, with this one */
	return 0;
}

static int share_destroy(struct share *s, const struct request *q, struct reply *r)
{
	(void)q;
	(void)r;
	nodes_reset(&s->nodes);
	s->started = false;
	return 0;
}

static int share_forget(struct share *s, const struct request *q, struct reply *r)
{
	(void)s;
	(void)q;
	(void)r;
	return 0; /* share_answer() has the node id, which need not exist */
}

static int share_batch_forget(struct share *s, const struct request *q, struct reply *r)
{
	const struct fuse_batch_forget_in *in = q->arg;
	const struct fuse_forget_one *one = (const struct fuse_forget_one *)q->data;

	(void)r;
	for (size_t i = 0; i < MIN(in->count, q->data_bytes / sizeof(*one)); i++)
		node_forget(&s->nodes, one[i].nodeid, one[i].nlookup);
	return 0;
}

static int share_nothing(struct share *s, const struct request *q, struct reply *r)
{
	(void)s;
	(void)q;
	(void)r;
	return 0;
}

/* ---- requests ---- */

enum {
	CHANGES = 1,  /* the operation changes the folder */
	NO_NODE = 2,  /* the node id counts for nothing */
	SILENT = 4,   /* without an answer */
	TEXT = 8,     /* the second name is the text of a symbolic link */
	BEFORE = 16,  /* allowed before FUSE_INIT */
	FOLDER = 32,  /* the node has to be a folder */
	WITH_DATA = 64, /* data may follow the struct */
	DOT = 128,      /* "." names the folder itself */
};

struct op {
	share_op *run;
	uint16_t arg_bytes;
	uint8_t names;
	uint8_t flags;
};

#define ARG(type) sizeof(struct type)
static const struct op ops[] = {
	[FUSE_INIT] = { share_init, offsetof(struct fuse_init_in, flags2), 0, NO_NODE | BEFORE | WITH_DATA },
	[FUSE_DESTROY] = { share_destroy, 0, 0, NO_NODE | BEFORE | WITH_DATA },
	[FUSE_FORGET] = { share_forget, ARG(fuse_forget_in), 0, NO_NODE | SILENT },
	[FUSE_BATCH_FORGET] = { share_batch_forget, ARG(fuse_batch_forget_in), 0, NO_NODE | SILENT | WITH_DATA },
	[FUSE_INTERRUPT] = { share_nothing, 0, 0, NO_NODE | SILENT | WITH_DATA },
	[FUSE_LOOKUP] = { share_lookup, 0, 1, FOLDER | DOT },
	[FUSE_GETATTR] = { share_getattr, ARG(fuse_getattr_in), 0, 0 },
	[FUSE_SETATTR] = { share_setattr, ARG(fuse_setattr_in), 0, CHANGES },
	[FUSE_READLINK] = { share_readlink, 0, 0, WITH_DATA }, /* Windows' driver sends bytes without a meaning */
	[FUSE_SYMLINK] = { share_symlink, 0, 2, CHANGES | TEXT | FOLDER },
	[FUSE_MKNOD] = { share_mknod, ARG(fuse_mknod_in), 1, CHANGES | FOLDER },
	[FUSE_MKDIR] = { share_mkdir, ARG(fuse_mkdir_in), 1, CHANGES | FOLDER },
	[FUSE_UNLINK] = { share_unlink, 0, 1, CHANGES | FOLDER },
	[FUSE_RMDIR] = { share_rmdir, 0, 1, CHANGES | FOLDER },
	[FUSE_RENAME] = { share_rename, ARG(fuse_rename_in), 2, CHANGES | FOLDER },
	[FUSE_RENAME2] = { share_rename2, ARG(fuse_rename2_in), 2, CHANGES | FOLDER },
	[FUSE_LINK] = { share_link, ARG(fuse_link_in), 1, CHANGES | FOLDER },
	[FUSE_CREATE] = { share_create, ARG(fuse_create_in), 1, CHANGES | FOLDER },
	[FUSE_OPEN] = { share_open, ARG(fuse_open_in), 0, 0 },
	[FUSE_READ] = { share_read, ARG(fuse_read_in), 0, 0 },
	[FUSE_WRITE] = { share_write, ARG(fuse_write_in), 0, CHANGES | WITH_DATA },
	[FUSE_STATFS] = { share_statfs, 0, 0, 0 },
	[FUSE_FLUSH] = { share_flush, ARG(fuse_flush_in), 0, 0 },
	[FUSE_FSYNC] = { share_fsync, ARG(fuse_fsync_in), 0, 0 },
	[FUSE_RELEASE] = { share_release, ARG(fuse_release_in), 0, 0 },
	[FUSE_FALLOCATE] = { share_fallocate, ARG(fuse_fallocate_in), 0, CHANGES },
	[FUSE_LSEEK] = { share_lseek, ARG(fuse_lseek_in), 0, 0 },
	[FUSE_OPENDIR] = { share_opendir, ARG(fuse_open_in), 0, FOLDER },
	[FUSE_READDIR] = { share_readdir, ARG(fuse_read_in), 0, FOLDER },
	[FUSE_READDIRPLUS] = { share_readdir, ARG(fuse_read_in), 0, FOLDER }, /* of Windows' driver, which asks for no feature */
	[FUSE_FSYNCDIR] = { share_fsyncdir, ARG(fuse_fsync_in), 0, FOLDER },
	[FUSE_RELEASEDIR] = { share_release, ARG(fuse_release_in), 0, FOLDER },
};

static bool name_is_sound(const char *name)
{
	return name[0] && strlen(name) <= NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Find the names, each with its NUL, which take up all that follows the struct. Returns 0; -EINVAL; -ENAMETOOLONG. */
static int names_parse(const struct op *op, struct request *q)
{
	const char *at = (const char *)q->data;
	size_t left = q->data_bytes;

	for (unsigned i = 0; i < op->names; i++) {
		size_t n = strnlen(at, left);

		if (n == left || n >= PATH_MAX)
			return n == left ? -EINVAL : -ENAMETOOLONG;
		q->name[i] = at;
		at += n + 1;
		left -= n + 1;
		if (!(op->flags & TEXT && i) && !(op->flags & DOT && !strcmp(q->name[i], ".")) && !name_is_sound(q->name[i]))
			return strlen(q->name[i]) > NAME_MAX ? -ENAMETOOLONG : -EINVAL;
	}
	return left && !(op->flags & WITH_DATA) ? -EINVAL : 0;
}

/* Check the parts of a request that do not depend on the operation. Returns 0; -errno. */
static int request_parse(struct share *s, const struct op *op, const struct fuse_in_header *head, struct request *q)
{
	size_t bytes = head->len - sizeof(*head);
	int r;

	if (!s->started && !(op->flags & BEFORE))
		return -EIO;
	if (bytes < op->arg_bytes)
		return -EINVAL;
	*q = (struct request){ .opcode = head->opcode, .arg = head + 1, .data = (const uint8_t *)(head + 1) + op->arg_bytes,
		.data_bytes = bytes - op->arg_bytes };
	r = names_parse(op, q);
	if (r < 0 || op->flags & NO_NODE)
		return r;
	q->node = node_get(&s->nodes, head->nodeid);
	if (!q->node)
		return -ESTALE; /* the guest's kernel looks the name up again */
	if (op->flags & FOLDER && !S_ISDIR(q->node->type))
		return -ENOTDIR;
	return op->flags & CHANGES && s->read_only ? -EROFS : 0;
}

size_t share_answer(struct share *s, const uint8_t *in, size_t bytes, uint8_t *out)
{
	const struct fuse_in_header *head = (const struct fuse_in_header *)in;
	struct fuse_out_header *answer = (struct fuse_out_header *)out;
	struct reply r = { .data = (uint8_t *)(answer + 1), .room = SHARE_FUSE_MAX - sizeof(*answer) };
	const struct op *op;
	struct request q;
	int error;

	if (bytes < sizeof(*head))
		return 0;
	op = head->opcode < ARRAY_SIZE(ops) && ops[head->opcode].run ? &ops[head->opcode] : NULL;
	error = head->len != bytes ? -EINVAL : op ? request_parse(s, op, head, &q) : -ENOSYS;
	if (!error && head->opcode == FUSE_FORGET)
		node_forget(&s->nodes, head->nodeid, ((const struct fuse_forget_in *)q.arg)->nlookup);
	if (!error)
		error = op->run(s, &q, &r);
	if (op && op->flags & SILENT)
		return 0;
	if (error)
		r.bytes = 0;
	*answer = (struct fuse_out_header){ .len = (uint32_t)(sizeof(*answer) + r.bytes), .error = error, .unique = head->unique };
	return answer->len;
}
