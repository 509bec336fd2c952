/* share: serves FUSE requests (linux/fuse.h) on a folder. The guest writes the requests, so nothing in them is trusted:
 * share_answer() checks lengths and names before an operation reads them, and each operation looks its node ids and
 * handles up. No path is ever followed: a request names a node that the guest knows, or one name in it. */
#ifndef CAIRN_TOOLS_SHARE_SHARE_H
#define CAIRN_TOOLS_SHARE_SHARE_H

#include "base/share_link.h"
#include "tools/share/nodes.h"

#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct share {
	struct nodes nodes;
	int proc; /* /proc/self/fd, O_PATH: by it a node's file is opened */
	bool read_only;
	bool started; /* FUSE_INIT has come */
};

/* A request whose lengths and names are checked. */
struct request {
	uint32_t opcode;
	struct node *node; /* valid until a node is added; NULL for operations that need none */
	const void *arg;   /* the operation's struct of linux/fuse.h */
	const char *name[2];
	const uint8_t *data; /* the bytes behind arg, of operations without names */
	size_t data_bytes;
};

struct reply {
	uint8_t *data; /* behind struct fuse_out_header */
	size_t bytes, room;
};

/* Serve a request.
 * in: the FUSE message, aligned to 8 bytes. out: room for SHARE_FUSE_MAX bytes, aligned likewise.
 * Returns the length of the answer; 0: the request has none. */
size_t share_answer(struct share *s, const uint8_t *in, size_t bytes, uint8_t *out);

/* An operation. Returns 0, and the reply is filled in; -errno. */
typedef int share_op(struct share *s, const struct request *q, struct reply *r);

/* ---- share_names.c ---- */
share_op share_lookup, share_mknod, share_mkdir, share_symlink, share_link, share_unlink, share_rmdir, share_rename,
	share_rename2, share_readlink, share_create;
/* ---- share_files.c ---- */
share_op share_getattr, share_setattr, share_open, share_read, share_write, share_flush, share_fsync, share_release,
	share_fallocate, share_lseek, share_statfs, share_opendir, share_readdir, share_fsyncdir;

/* Append to the reply, unless there is no room. p: NULL: zeros. */
void reply_add(struct reply *r, const void *p, size_t bytes);
void share_attr_fill(struct fuse_attr *a, const struct stat *st);
/* Get what the guest may know of a name in a folder.
 * d: of that name. Only a symbolic link gets a node and a reference: Windows' driver reads it, and older drivers never
 * drop the references of a list. */
void share_entry_fill(struct share *s, int folder, const struct fuse_dirent *d, const char *name, struct fuse_entry_out *ret);
/* Add a handle for the fd, which is taken, and the struct fuse_open_out. Returns 0 or -errno. */
int share_handle_reply(struct share *s, int fd, bool is_folder, struct reply *r);

/* Files get new entries and attributes from the host after so many seconds. */
#define SHARE_VALID_S 1

#endif
