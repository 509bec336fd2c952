#include "base/bytes.h"
#include "base/util.h"
#include "tools/diff/files.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bounds on the work for one map: 72 MiB of runs, and nodes of a forged tree that lead to one another. */
#define RUNS_MAX (3u << 20)
#define NODES_MAX (8u << 20)
#define SUPER_OFFSET 1024u
#define SUPER_MAGIC_AT 56u

/* ---- libext2fs reads through a view ---- */

static errcode_t channel_read64(io_channel c, unsigned long long block, int count, void *buf)
{
	const struct ext *x = c->private_data;
	uint64_t unit = (uint64_t)c->block_size, off, len = count < 0 ? (uint64_t)-(int64_t)count : (uint64_t)count * unit;

	if (__builtin_mul_overflow(block, unit, &off) || off > x->bytes || len > x->bytes - off)
		return EXT2_ET_SHORT_READ;
	return view_read(x->v, x->start + off, buf, len) < 0 ? EXT2_ET_SHORT_READ : 0;
}

static errcode_t channel_read(io_channel c, unsigned long block, int count, void *buf)
{
	return channel_read64(c, block, count, buf);
}

static errcode_t channel_write64(io_channel c, unsigned long long block, int count, const void *buf)
{
	(void)c;
	(void)block;
	(void)count;
	(void)buf;
	return EXT2_ET_RO_FILSYS;
}

static errcode_t channel_write(io_channel c, unsigned long block, int count, const void *buf)
{
	return channel_write64(c, block, count, buf);
}

static errcode_t channel_blksize(io_channel c, int bytes)
{
	c->block_size = bytes;
	return 0;
}

static errcode_t channel_flush(io_channel c)
{
	(void)c;
	return 0;
}

static errcode_t channel_close(io_channel c)
{
	if (--c->refcount > 0)
		return 0;
	free(c->name);
	free(c);
	return 0;
}

static errcode_t channel_open(const char *name, int flags, io_channel *ret);

static struct struct_io_manager manager = { .magic = EXT2_ET_MAGIC_IO_MANAGER, .name = "view", .open = channel_open, .close = channel_close,
	.set_blksize = channel_blksize, .read_blk = channel_read, .write_blk = channel_write, .flush = channel_flush,
	.read_blk64 = channel_read64, .write_blk64 = channel_write64 };

/* name: the address of the struct ext, because the library passes nothing else on. */
static errcode_t channel_open(const char *name, int flags, io_channel *ret)
{
	io_channel c = calloc(1, sizeof(*c));
	char *copy = strdup(name);

	(void)flags;
	if (!c || !copy) {
		free(c);
		free(copy);
		return EXT2_ET_NO_MEMORY;
	}
	c->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	c->manager = &manager;
	c->name = copy;
	c->block_size = 1024;
	c->refcount = 1;
	c->private_data = (void *)(uintptr_t)strtoumax(name, NULL, 16);
	*ret = c;
	return 0;
}

bool ext_is_there(struct view *v, const struct part *p)
{
	uint8_t magic[2];

	return p->bytes > SUPER_OFFSET + SUPER_MAGIC_AT + sizeof(magic) &&
		view_read(v, p->start + SUPER_OFFSET + SUPER_MAGIC_AT, magic, sizeof(magic)) == 0 && load_le16(magic) == EXT2_SUPER_MAGIC;
}

/* Wrong checksums are no reason to stop: a snapshot may have them while the journal is not replayed. */
errcode_t ext_open(struct view *v, const struct part *p, struct ext *ret)
{
	char name[32];
	errcode_t r;

	*ret = (struct ext){ .v = v, .start = p->start, .bytes = MIN(p->bytes, v->bytes - MIN(p->start, v->bytes)) };
	snprintf(name, sizeof(name), "%" PRIxPTR, (uintptr_t)ret);
	r = ext2fs_open2(name, NULL, EXT2_FLAG_64BITS | EXT2_FLAG_SOFTSUPP_FEATURES | EXT2_FLAG_IGNORE_CSUM_ERRORS, 0, 0, &manager, &ret->fs);
	if (r)
		return r;
	ret->seen = calloc(ret->fs->super->s_inodes_count / 8 + 1, 1);
	return ret->seen ? 0 : EXT2_ET_NO_MEMORY;
}

void ext_close(struct ext *x)
{
	if (x->fs)
		ext2fs_free(x->fs);
	free(x->seen);
}

struct ext2_inode_large *ext_inode(struct ext *x, ext2_ino_t ino)
{
	size_t bytes = MAX(sizeof(struct ext2_inode_large), (size_t)EXT2_INODE_SIZE(x->fs->super));
	struct ext2_inode_large *inode = must_alloc(calloc(1, bytes));

	if (ino && ino <= x->fs->super->s_inodes_count &&
		!ext2fs_read_inode_full(x->fs, ino, (struct ext2_inode *)inode, EXT2_INODE_SIZE(x->fs->super)))
		return inode;
	x->damaged++;
	free(inode);
	return NULL;
}

/* ---- maps of blocks ---- */

/* Returns false if the map is malformed or too large. */
static bool run_add(struct runs *runs, uint64_t logical, uint64_t physical, uint64_t n)
{
	struct run *last = runs->n ? &runs->list[runs->n - 1] : NULL;

	if (last && logical < last->logical + last->n)
		return false;
	if (last && last->logical + last->n == logical && last->physical + last->n == physical) {
		last->n += n;
		return true;
	}
	if (runs->n == runs->cap) {
		size_t cap = runs->cap ? 2 * runs->cap : 8;
		struct run *p = cap > RUNS_MAX ? NULL : reallocarray(runs->list, cap, sizeof(*p));

		if (!p)
			return false;
		runs->list = p;
		runs->cap = cap;
	}
	runs->list[runs->n++] = (struct run){ logical, physical, n };
	return true;
}

/* Blocks that are not initialized read as zeros, so they are holes. */
static bool extents_read(struct ext *x, ext2_ino_t ino, struct ext2_inode_large *inode, struct runs *ret)
{
	ext2_extent_handle_t h;
	struct ext2fs_extent e;
	errcode_t r = ext2fs_extent_open2(x->fs, ino, (struct ext2_inode *)inode, &h);
	bool good = !r;

	if (r)
		return false;
	r = ext2fs_extent_get(h, EXT2_EXTENT_ROOT, &e);
	for (unsigned n = 0; good && !r; n++) {
		bool data = (e.e_flags & EXT2_EXTENT_FLAGS_LEAF) && !(e.e_flags & (EXT2_EXTENT_FLAGS_UNINIT | EXT2_EXTENT_FLAGS_SECOND_VISIT));

		good = n < NODES_MAX && (!data || run_add(ret, e.e_lblk, e.e_pblk, e.e_len));
		if (good)
			r = ext2fs_extent_get(h, EXT2_EXTENT_NEXT, &e);
	}
	ext2fs_extent_free(h);
	return good && (r == EXT2_ET_EXTENT_NO_NEXT || r == EXT2_ET_NO_CURRENT_NODE);
}

struct map_read {
	struct runs *runs;
	bool bad;
};

static int block_take(ext2_filsys fs, blk64_t *blk, e2_blkcnt_t logical, blk64_t ref, int at, void *opaque)
{
	struct map_read *m = opaque;

	(void)fs;
	(void)ref;
	(void)at;
	if (logical >= 0 && *blk && !run_add(m->runs, (uint64_t)logical, *blk, 1))
		m->bad = true;
	return m->bad ? BLOCK_ABORT : 0;
}

bool ext_runs(struct ext *x, ext2_ino_t ino, struct ext2_inode_large *inode, struct runs *ret)
{
	struct map_read m = { .runs = ret };
	bool good;

	if (inode->i_flags & EXT4_EXTENTS_FL)
		good = extents_read(x, ino, inode, ret);
	else
		good = !ext2fs_block_iterate3(x->fs, ino, BLOCK_FLAG_DATA_ONLY | BLOCK_FLAG_READ_ONLY, NULL, block_take, &m) && !m.bad;
	x->damaged += !good;
	return good;
}
