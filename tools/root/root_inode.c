#include "tools/root/root_inode.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "tools/root/merge.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Format: Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h of Linux; little-endian.
 *
 * superblock: 0 magic, 26 number of owners (2), 32 root inode (8: block << 16 | offset in it), 48 table of owners (8),
 *             64 inode table (8)
 * inode:      0 type (2), 2 mode (2), 4 owner, 6 group (2 each: numbers in the table of owners), 8 time (4)
 * metadata block: 2 bytes of length, with bit 15 if it is not compressed, then up to 8 KiB */
#define SUPERBLOCK_BYTES 96
#define MAGIC 0x73717368
#define BLOCK_BYTES 8192
#define BLOCK_PLAIN 0x8000
#define OWNERS_IN_BLOCK (BLOCK_BYTES / 4)

struct image {
	int fd;
	uint8_t super[SUPERBLOCK_BYTES];
};

/* Find a byte of the metadata that begins in a block. Returns its offset in the file; -errno. */
static off_t byte_find(const struct image *i, off_t block, unsigned at)
{
	uint8_t header[2];
	unsigned len;
	int r;

	for (;;) {
		r = pread_full(i->fd, header, sizeof(header), block);
		len = load_le16(header);
		if (r < 0)
			return r;
		if (!(len & BLOCK_PLAIN) || len == BLOCK_PLAIN)
			return -EINVAL;
		len &= ~(unsigned)BLOCK_PLAIN;
		if (at < len)
			return block + 2 + at;
		at -= len;
		block += 2 + (off_t)len;
	}
}

/* A field of an inode may lie in two blocks. */
static int field_write(const struct image *i, unsigned at, const uint8_t *data, unsigned len)
{
	uint64_t root = load_le64(i->super + 32);
	int r = 0;

	for (unsigned k = 0; k < len && !r; k++) {
		off_t off = byte_find(i, (off_t)(load_le64(i->super + 64) + (root >> 16)), (unsigned)(root & 0xffff) + at + k);

		r = off < 0 ? (int)off : pwrite_full(i->fd, data + k, 1, off);
	}
	return r;
}

static off_t owner_offset(const struct image *i, unsigned n)
{
	uint8_t pointer[8];
	int r = pread_full(i->fd, pointer, sizeof(pointer), (off_t)load_le64(i->super + 48) + n / OWNERS_IN_BLOCK * 8);

	return r < 0 ? r : byte_find(i, (off_t)load_le64(pointer), n % OWNERS_IN_BLOCK * 4);
}

/* Find an owner in the table. Returns its number there; -ENOENT; -errno. */
static int owner_find(const struct image *i, uint32_t owner)
{
	unsigned n = load_le16(i->super + 26);

	for (unsigned k = 0; k < n; k++) {
		off_t off = owner_offset(i, k);
		uint8_t v[4];
		int r = off < 0 ? (int)off : pread_full(i->fd, v, sizeof(v), off);

		if (r < 0)
			return r;
		if (load_le32(v) == owner)
			return (int)k;
	}
	return -ENOENT;
}

/* Set a field of the inode to an owner, if the table has it. Returns 0; -ENOENT; -errno. */
static int owner_set(const struct image *i, unsigned at, uint32_t owner)
{
	int n = owner_find(i, owner);
	uint8_t v[2];

	if (n < 0)
		return n;
	store_le16(v, (uint16_t)n);
	return field_write(i, at, v, sizeof(v));
}

/* Put an owner into the table in place of this process's own, to which the inode leads. */
static int owner_replace(const struct image *i, uint32_t owner, uint32_t own)
{
	int n = owner_find(i, own);
	off_t off = n < 0 ? n : owner_offset(i, (unsigned)n);
	uint8_t v[4];

	store_le32(v, owner);
	return off < 0 ? (int)off : pwrite_full(i->fd, v, sizeof(v), off);
}

static int owners_set(const struct image *i, const struct merge_root *root)
{
	int u = owner_set(i, 4, root->uid), g = owner_set(i, 6, root->gid);
	bool free_place = !root->maker_used && (getuid() != getgid() || root->uid == root->gid || !u || !g);

	if (u == -ENOENT)
		u = free_place ? owner_replace(i, root->uid, getuid()) : 0;
	if (g == -ENOENT)
		g = free_place && owner_find(i, root->gid) == -ENOENT ? owner_replace(i, root->gid, getgid()) : 0;
	return u < 0 ? u : g;
}

int root_inode_set(const char *path, const struct merge_root *root, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	struct image i = { .fd = fd };
	uint8_t time[4];
	int r = fd < 0 ? -errno : pread_full(fd, i.super, sizeof(i.super), 0);

	if (!r && load_le32(i.super) != MAGIC)
		r = -EINVAL;
	store_le32(time, root->mtime);
	if (!r)
		r = field_write(&i, 8, time, sizeof(time));
	if (!r)
		r = owners_set(&i, root);
	return r < 0 ? err_set_errno(e, r, "cannot set the owner of the root in %s", path) : 0;
}
