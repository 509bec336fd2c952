/* files: shared parts of the comparison of file systems: ext2, ext3 and ext4, on a whole disk or in a partition.
 * libext2fs reads them; their journals are not replayed. Everything in them comes from a hostile guest.
 * Threading: the main thread. */
#ifndef CAIRN_TOOLS_DIFF_FILES_H
#define CAIRN_TOOLS_DIFF_FILES_H

#include "tools/diff/diff.h"

#include <ext2fs/ext2fs.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- one content of a disk, read through a cache (view.c) ---- */

struct view {
	struct block *b; /* borrowed */
	uint64_t bytes;
	uint8_t *lines; /* the cache */
	uint64_t *numbers; /* of its lines */
};
/* Returns 0 or -ENOMEM; the caller calls view_done() in both cases. */
int view_init(struct view *v, struct block *b);
void view_done(struct view *v);
/* Read any bytes. Returns 0; -EIO: not all are inside the disk; -errno. */
int view_read(struct view *v, uint64_t off, void *buf, size_t len);

/* ---- partitions (parts.c) ---- */

#define PARTS_MAX 128u
struct part {
	unsigned number; /* 0: the whole disk */
	uint64_t start, bytes;
};
struct parts {
	struct part list[PARTS_MAX];
	size_t n;
};
/* Add the partitions of a disk, except those that begin where one in the list does. */
void parts_find(struct view *v, struct parts *p);

/* ---- a file system (ext.c) ---- */

struct ext {
	struct view *v; /* borrowed */
	uint64_t start, bytes; /* its place in the disk */
	ext2_filsys fs;
	uint64_t damaged; /* number of directories, inodes and maps that could not be read */
	uint8_t *seen; /* bitmap of directories that the walk was in */
};
/* Returns whether there is such a file system. */
bool ext_is_there(struct view *v, const struct part *p);
/* Open it. ret: the caller calls ext_close(), also after an error. Returns 0; or a code of libext2fs. */
errcode_t ext_open(struct view *v, const struct part *p, struct ext *ret);
void ext_close(struct ext *x);
/* Read an inode with all its fields. Returns it, owned; NULL: it cannot be read, which is counted. */
struct ext2_inode_large *ext_inode(struct ext *x, ext2_ino_t ino);

/* Blocks of a file that have data, in order, without overlaps. */
struct run {
	uint64_t logical, physical, n;
};
struct runs {
	struct run *list; /* owned */
	size_t n, cap;
};
/* Read the map of a file's blocks. Returns whether it could be read. The caller frees the list in both cases. */
bool ext_runs(struct ext *x, ext2_ino_t ino, struct ext2_inode_large *inode, struct runs *ret);

/* ---- comparing a file (content.c) ---- */

struct file {
	struct ext *x;
	ext2_ino_t ino, parent; /* parent: the directory that it was found in; 0: it is the root */
	struct ext2_inode_large *inode;
};
enum file_change {
	FILE_TYPE = 1, FILE_CONTENT = 2, FILE_MODE = 4, FILE_OWNER = 8, FILE_TIME = 16, FILE_LINKS = 32, FILE_ATTRIBUTES = 64,
};
/* Returns the attributes that differ between two files. For directories, time, links and content do not count. d:
 * where the disk differs. */
unsigned file_compare(const struct diff_disk *d, struct file *a, struct file *b);
static inline uint64_t file_bytes(const struct file *f)
{
	return EXT2_I_SIZE(f->inode);
}

/* ---- walking through both (walk.c) ---- */

struct walk {
	const struct diff_disk *d;
	struct diff_page *page;
	struct part part;
	struct ext *a, *b; /* the earlier and the later one */
	uint64_t deadline_ns; /* the page ends then */
	bool began; /* it has compared a name */
};
/* Add the differences to the page. from: the escaped path at which to begin; "": the root.
 * Returns false if the page has ended. */
bool files_walk(struct walk *w, const char *from);

/* Compare the file systems of all disks. result: gets members. Returns 0; -errno with a sentence. */
int files_put(const struct diff_disk *disks, size_t n, struct json_object *spec, struct json_object *result, struct err *e);

#endif
