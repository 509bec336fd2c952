/* The seeds are what Linux sends for the calls of a program; node 5 is the first new one, and handle 1 the first. */
#include "tests/fuzz/fuzz_share.h"

#include "base/bytes.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROOT = FUSE_ROOT_ID, FILE_A, FOLDER_D, LINK_L, NEW };
#define GENERATION(n) ((n) << 5)
#define ID(node) ((uint64_t)((node) >> 5) << 32 | ((node) & 31u))

struct seed {
	uint8_t *input;
	size_t len;
	unsigned requests;
};

static void bytes_put(struct seed *s, const void *p, size_t n)
{
	if (n)
		memcpy(s->input + s->len, p, n);
	s->len += n;
}

static void request_put(struct seed *s, unsigned opcode, unsigned node, const void *arg, size_t n, const void *more, size_t nmore)
{
	uint8_t head[4] = { (uint8_t)opcode, (uint8_t)node };

	store_le16(head + 2, (uint16_t)(n + nmore));
	bytes_put(s, head, sizeof(head));
	bytes_put(s, arg, n);
	bytes_put(s, more, nmore);
	s->requests++;
}

#define PUT(s, opcode, node) request_put(s, opcode, node, NULL, 0, NULL, 0)
#define PUT_ARG(s, opcode, node, type, ...) \
	request_put(s, opcode, node, &(struct type){ __VA_ARGS__ }, sizeof(struct type), NULL, 0)
#define PUT_NAMES(s, opcode, node, names) request_put(s, opcode, node, NULL, 0, names, sizeof(names))
#define PUT_ARG_NAMES(s, opcode, node, names, type, ...) \
	request_put(s, opcode, node, &(struct type){ __VA_ARGS__ }, sizeof(struct type), names, sizeof(names))

static void file_calls(struct seed *s)
{
	static const char text[] = "other content";

	PUT_ARG(s, FUSE_OPEN, FILE_A, fuse_open_in, .flags = O_RDWR);
	PUT_ARG(s, FUSE_READ, FILE_A, fuse_read_in, .fh = 1, .size = 4096);
	request_put(s, FUSE_WRITE, FILE_A, &(struct fuse_write_in){ .fh = 1, .offset = 5000, .size = sizeof(text) },
		sizeof(struct fuse_write_in), text, sizeof(text));
	PUT_ARG(s, FUSE_LSEEK, FILE_A, fuse_lseek_in, .fh = 1, .offset = 1, .whence = SEEK_HOLE);
	PUT_ARG(s, FUSE_LSEEK, FILE_A, fuse_lseek_in, .fh = 1, .offset = 4096, .whence = SEEK_DATA);
	PUT_ARG(s, FUSE_FALLOCATE, FILE_A, fuse_fallocate_in, .fh = 1, .length = 8192, .mode = FALLOC_FL_KEEP_SIZE);
	PUT_ARG(s, FUSE_FALLOCATE, FILE_A, fuse_fallocate_in, .fh = 1, .length = 4096, .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
	PUT_ARG(s, FUSE_SETATTR, FILE_A, fuse_setattr_in, .valid = FATTR_SIZE | FATTR_FH, .fh = 1, .size = 100);
	PUT_ARG(s, FUSE_FLUSH, FILE_A, fuse_flush_in, .fh = 1);
	PUT_ARG(s, FUSE_FSYNC, FILE_A, fuse_fsync_in, .fh = 1);
	PUT_ARG(s, FUSE_FSYNC, FILE_A, fuse_fsync_in, .fh = 1, .fsync_flags = FUSE_FSYNC_FDATASYNC);
	PUT_ARG(s, FUSE_RELEASE, FILE_A, fuse_release_in, .fh = 1);
	PUT_ARG(s, FUSE_OPEN, FILE_A, fuse_open_in, .flags = O_WRONLY | O_TRUNC);
	PUT_ARG(s, FUSE_GETATTR, FILE_A, fuse_getattr_in, .getattr_flags = FUSE_GETATTR_FH, .fh = 1ULL << 32 | 1);
	PUT_ARG(s, FUSE_RELEASE, FILE_A, fuse_release_in, .fh = 1ULL << 32 | 1);
}

static void attribute_calls(struct seed *s)
{
	PUT_ARG(s, FUSE_SETATTR, FILE_A, fuse_setattr_in, .valid = FATTR_MODE, .mode = S_IFREG | 0640);
	PUT_ARG(s, FUSE_SETATTR, FILE_A, fuse_setattr_in, .valid = FATTR_UID | FATTR_GID, .uid = getuid(), .gid = getgid());
	PUT_ARG(s, FUSE_SETATTR, FILE_A, fuse_setattr_in, .valid = FATTR_SIZE, .size = 65536);
	PUT_ARG(s, FUSE_SETATTR, FILE_A, fuse_setattr_in, .valid = FATTR_ATIME | FATTR_MTIME, .atime = 1, .mtime = 2, .mtimensec = 3);
	PUT_ARG(s, FUSE_SETATTR, LINK_L, fuse_setattr_in, .valid = FATTR_ATIME_NOW | FATTR_MTIME_NOW | FATTR_ATIME | FATTR_MTIME);
	PUT_ARG(s, FUSE_SETATTR, FOLDER_D, fuse_setattr_in, .valid = FATTR_MODE, .mode = S_IFDIR | 01755);
	PUT_ARG(s, FUSE_GETATTR, LINK_L, fuse_getattr_in, 0);
	PUT(s, FUSE_READLINK, LINK_L);
	PUT(s, FUSE_STATFS, ROOT);
}

static void name_calls(struct seed *s)
{
	PUT_ARG_NAMES(s, FUSE_MKDIR, ROOT, "n", fuse_mkdir_in, .mode = 0755);
	PUT_ARG_NAMES(s, FUSE_MKNOD, NEW, "f", fuse_mknod_in, .mode = S_IFREG | 0644);
	PUT_ARG_NAMES(s, FUSE_MKNOD, NEW, "p", fuse_mknod_in, .mode = S_IFIFO | 0600);
	PUT_NAMES(s, FUSE_SYMLINK, ROOT, "s\0../../etc/passwd");
	PUT_ARG_NAMES(s, FUSE_LINK, FOLDER_D, "h", fuse_link_in, .oldnodeid = FILE_A);
	PUT_ARG_NAMES(s, FUSE_RENAME, NEW, "f\0g", fuse_rename_in, .newdir = FOLDER_D);
	PUT_ARG_NAMES(s, FUSE_RENAME2, ROOT, "a\0g", fuse_rename2_in, .newdir = FOLDER_D, .flags = RENAME_EXCHANGE);
	PUT_ARG_NAMES(s, FUSE_RENAME2, FOLDER_D, "g\0b", fuse_rename2_in, .newdir = ROOT, .flags = RENAME_NOREPLACE);
	PUT_NAMES(s, FUSE_LOOKUP, ROOT, "b");
	PUT_NAMES(s, FUSE_UNLINK, NEW, "p");
	PUT_NAMES(s, FUSE_RMDIR, ROOT, "n");
}

static void folder_calls(struct seed *s)
{
	PUT(s, FUSE_STATFS, ROOT);
	PUT_ARG(s, FUSE_OPENDIR, ROOT, fuse_open_in, .flags = O_DIRECTORY);
	PUT_ARG(s, FUSE_READDIR, ROOT, fuse_read_in, .fh = 1, .size = 64);
	PUT_ARG(s, FUSE_READDIR, ROOT, fuse_read_in, .fh = 1, .size = 4096);
	PUT_ARG(s, FUSE_READDIRPLUS, ROOT, fuse_read_in, .fh = 1, .size = 300);
	PUT_ARG(s, FUSE_READDIRPLUS, ROOT, fuse_read_in, .fh = 1, .size = 8192);
	PUT_ARG(s, FUSE_FSYNCDIR, ROOT, fuse_fsync_in, .fh = 1);
	PUT_ARG(s, FUSE_OPEN, FILE_A, fuse_open_in, .flags = O_RDONLY);
	PUT_ARG(s, FUSE_READ, FILE_A, fuse_read_in, .fh = 2, .size = 4096);
	PUT_ARG(s, FUSE_RELEASE, FILE_A, fuse_release_in, .fh = 2);
	PUT_ARG(s, FUSE_RELEASEDIR, ROOT, fuse_release_in, .fh = 1);
}

/* Nodes end, get another generation, and the guest mounts the folder again. */
static void node_calls(struct seed *s)
{
	static const struct fuse_forget_one two[] = { { FILE_A, 1 }, { ID(GENERATION(1) | NEW), 2 } };

	PUT_ARG_NAMES(s, FUSE_CREATE, ROOT, "c", fuse_create_in, .flags = O_RDWR | O_EXCL, .mode = S_IFREG | 0644);
	PUT_NAMES(s, FUSE_LOOKUP, ROOT, "c");
	PUT_ARG(s, FUSE_FORGET, NEW, fuse_forget_in, .nlookup = 2);
	PUT_NAMES(s, FUSE_LOOKUP, ROOT, "c");
	PUT_ARG_NAMES(s, FUSE_CREATE, ROOT, "c", fuse_create_in, .flags = O_RDWR, .mode = S_IFREG | 0644);
	PUT_ARG(s, FUSE_GETATTR, GENERATION(1) | NEW, fuse_getattr_in, 0);
	request_put(s, FUSE_BATCH_FORGET, 0, &(struct fuse_batch_forget_in){ .count = 2 }, sizeof(struct fuse_batch_forget_in), two, sizeof(two));
	PUT_ARG(s, FUSE_INTERRUPT, 0, fuse_interrupt_in, .unique = 7);
	PUT(s, FUSE_DESTROY, 0);
	PUT_ARG(s, FUSE_INIT, 0, fuse_init_in, .major = FUSE_KERNEL_VERSION, .minor = 36, .flags = FUSE_MAX_PAGES);
	PUT_NAMES(s, FUSE_LOOKUP, ROOT, "d");
}

static const struct {
	void (*put)(struct seed *s);
	uint8_t read_only;
} seeds[] = { { file_calls, 0 }, { attribute_calls, 0 }, { name_calls, 0 }, { folder_calls, 0 }, { folder_calls, 1 }, { node_calls, 0 } };

size_t share_seeds(void)
{
	return sizeof(seeds) / sizeof(*seeds);
}

size_t share_seed(size_t i, uint8_t *input, unsigned *ret_requests)
{
	struct seed s = { .input = input };

	bytes_put(&s, &seeds[i].read_only, 1);
	seeds[i].put(&s);
	*ret_requests = s.requests;
	return s.len;
}
