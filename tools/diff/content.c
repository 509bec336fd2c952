#include "base/util.h"
#include "tools/diff/files.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES (256 * 1024u)
#define ATTRIBUTE_MAGIC 0xea020000u
#define BLOCK_HEADER_BYTES 32u /* of a block with attributes: magic, reference count, hash, checksum */
#define SMALL_MAX 65536u /* content inside an inode is smaller */

/* ---- data ---- */

/* Find the first part of [off, off + len) in the disk where it differs. Returns its length; 0: there is none. */
static uint64_t differing_part(const struct diff_disk *d, uint64_t off, uint64_t len, uint64_t *ret_off)
{
	size_t low = 0, high = d->nranges;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (d->ranges[mid].off + d->ranges[mid].len <= off)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == d->nranges || d->ranges[low].off >= off + len)
		return 0;
	*ret_off = MAX(off, d->ranges[low].off);
	return MIN(off + len, d->ranges[low].off + d->ranges[low].len) - *ret_off;
}

/* physical: block; 0: zeros. Returns whether the bytes could be read. */
static bool bytes_read(struct ext *x, uint64_t physical, uint64_t skip, uint8_t *buf, size_t len)
{
	uint64_t at;

	if (!physical) {
		memset(buf, 0, len);
		return true;
	}
	if (__builtin_mul_overflow(physical, (uint64_t)x->fs->blocksize, &at) || at > x->bytes || skip > x->bytes - at)
		return false;
	return view_read(x->v, x->start + at + skip, buf, len) == 0;
}

/* Compare `len` bytes from a byte offset in both runs on. */
static bool data_is_same(struct file *a, struct file *b, uint64_t pa, uint64_t pb, uint64_t skip, uint64_t len)
{
	uint8_t *buf = must_alloc(malloc(2 * CHUNK_BYTES));
	bool same = true;

	for (uint64_t off = 0; off < len && same; off += CHUNK_BYTES) {
		size_t n = (size_t)MIN(len - off, CHUNK_BYTES);

		if (!bytes_read(a->x, pa, skip + off, buf, n) || !bytes_read(b->x, pb, skip + off, buf + CHUNK_BYTES, n)) {
			b->x->damaged++;
			break; /* data that cannot be read in one of them counts as the same */
		}
		same = !memcmp(buf, buf + CHUNK_BYTES, n);
	}
	free(buf);
	return same;
}

/* Compare a piece that one run, or none, of each has. */
static bool piece_is_same(const struct diff_disk *d, struct file *a, struct file *b, uint64_t pa, uint64_t pb, uint64_t len)
{
	uint64_t at = b->x->start + pb * b->x->fs->blocksize, off, n;

	if (!pa && !pb)
		return true;
	if (pa != pb || a->x->fs->blocksize != b->x->fs->blocksize || pb > UINT64_MAX / 65536)
		return data_is_same(a, b, pa, pb, 0, len);
	for (uint64_t done = 0; done < len; done = off - at + n) {
		n = differing_part(d, at + done, len - done, &off);
		if (!n)
			return true;
		if (!data_is_same(a, b, pa, pb, off - at, n))
			return false;
	}
	return true;
}

/* Returns the block of a run at a logical block; 0: a hole. ret_n: for so many blocks. */
static uint64_t run_at(const struct runs *r, size_t *i, uint64_t logical, uint64_t *ret_n)
{
	const struct run *x;

	while (*i < r->n && r->list[*i].logical + r->list[*i].n <= logical)
		(*i)++;
	if (*i == r->n) {
		*ret_n = UINT64_MAX;
		return 0;
	}
	x = &r->list[*i];
	*ret_n = logical < x->logical ? x->logical - logical : x->logical + x->n - logical;
	return logical < x->logical ? 0 : x->physical + (logical - x->logical);
}

static bool runs_are_same(const struct diff_disk *d, struct file *a, struct file *b, const struct runs *ra, const struct runs *rb)
{
	uint64_t unit = a->x->fs->blocksize, blocks = DIV_ROUND_UP(file_bytes(a), unit), n, na, nb;
	size_t i = 0, k = 0;

	for (uint64_t at = 0; at < blocks; at += n) {
		uint64_t pa = run_at(ra, &i, at, &na), pb = run_at(rb, &k, at, &nb);

		n = MIN(MIN(na, nb), blocks - at);
		if (!piece_is_same(d, a, b, pa, pb, MIN(n * unit, file_bytes(a) - at * unit)))
			return false;
	}
	return true;
}

/* Read a small file by libext2fs, which also knows data inside an inode. Returns whether all could be read. */
static bool small_read(struct file *f, uint8_t *buf, unsigned bytes)
{
	ext2_file_t file;
	unsigned got = 0;
	errcode_t r = ext2fs_file_open2(f->x->fs, f->ino, (struct ext2_inode *)f->inode, 0, &file);

	if (!r) {
		r = ext2fs_file_read(file, buf, bytes, &got);
		ext2fs_file_close(file);
	}
	f->x->damaged += r || got != bytes;
	return !r && got == bytes;
}

static bool small_is_same(struct file *a, struct file *b)
{
	unsigned bytes = (unsigned)MIN(file_bytes(a), SMALL_MAX);
	uint8_t *buf = must_alloc(calloc(2, SMALL_MAX));
	bool same = !small_read(a, buf, bytes) || !small_read(b, buf + SMALL_MAX, bytes) || !memcmp(buf, buf + SMALL_MAX, bytes);

	free(buf);
	return same;
}

/* Compare two regular files, or two symbolic links, of the same size. */
static bool content_is_same(const struct diff_disk *d, struct file *a, struct file *b)
{
	struct runs ra = { 0 }, rb = { 0 };
	bool same;

	if (ext2fs_is_fast_symlink((struct ext2_inode *)a->inode) || ext2fs_is_fast_symlink((struct ext2_inode *)b->inode))
		return !memcmp(a->inode->i_block, b->inode->i_block, sizeof(a->inode->i_block));
	if ((a->inode->i_flags | b->inode->i_flags) & EXT4_INLINE_DATA_FL || a->x->fs->blocksize != b->x->fs->blocksize)
		return small_is_same(a, b);
	same = !ext_runs(a->x, a->ino, a->inode, &ra) || !ext_runs(b->x, b->ino, b->inode, &rb) || runs_are_same(d, a, b, &ra, &rb);
	free(ra.list);
	free(rb.list);
	return same;
}

/* ---- attributes ---- */

/* Returns the attributes inside an inode. ret_bytes: their space; 0: none. */
static const uint8_t *attributes_inside(const struct file *f, size_t *ret_bytes)
{
	size_t bytes = EXT2_INODE_SIZE(f->x->fs->super), at;
	uint32_t magic;

	*ret_bytes = 0;
	if (bytes <= EXT2_GOOD_OLD_INODE_SIZE)
		return NULL;
	at = EXT2_GOOD_OLD_INODE_SIZE + f->inode->i_extra_isize;
	if (at > bytes - sizeof(magic) || f->inode->i_extra_isize & 3)
		return NULL;
	memcpy(&magic, (uint8_t *)f->inode + at, sizeof(magic));
	if (ext2fs_le32_to_cpu(magic) != ATTRIBUTE_MAGIC)
		return NULL;
	*ret_bytes = bytes - at;
	return (uint8_t *)f->inode + at;
}

static bool attributes_are_same(struct file *a, struct file *b)
{
	uint64_t pa = ext2fs_file_acl_block(a->x->fs, (struct ext2_inode *)a->inode),
		 pb = ext2fs_file_acl_block(b->x->fs, (struct ext2_inode *)b->inode);
	uint32_t unit = a->x->fs->blocksize;
	size_t na, nb;
	const uint8_t *ia = attributes_inside(a, &na), *ib = attributes_inside(b, &nb);

	if (na != nb || (na && memcmp(ia, ib, na)) || !pa != !pb)
		return false;
	return !pa || (unit == b->x->fs->blocksize && data_is_same(a, b, pa, pb, BLOCK_HEADER_BYTES, unit - BLOCK_HEADER_BYTES));
}

/* ---- the whole file ---- */

static bool time_is_same(const struct file *a, const struct file *b)
{
	uint32_t extra_a = 0, extra_b = 0;

	if (EXT2_INODE_SIZE(a->x->fs->super) > EXT2_GOOD_OLD_INODE_SIZE && a->inode->i_extra_isize >= 12)
		extra_a = a->inode->i_mtime_extra;
	if (EXT2_INODE_SIZE(b->x->fs->super) > EXT2_GOOD_OLD_INODE_SIZE && b->inode->i_extra_isize >= 12)
		extra_b = b->inode->i_mtime_extra;
	return a->inode->i_mtime == b->inode->i_mtime && extra_a == extra_b;
}

unsigned file_compare(const struct diff_disk *d, struct file *a, struct file *b)
{
	const struct ext2_inode_large *x = a->inode, *y = b->inode;
	unsigned changes = 0, kind = x->i_mode & LINUX_S_IFMT;

	if (kind != (y->i_mode & LINUX_S_IFMT))
		return FILE_TYPE;
	if (x->i_mode != y->i_mode)
		changes |= FILE_MODE;
	if (inode_uid(*x) != inode_uid(*y) || inode_gid(*x) != inode_gid(*y))
		changes |= FILE_OWNER;
	if (!attributes_are_same(a, b) || (x->i_flags ^ y->i_flags) & EXT2_FL_USER_MODIFIABLE)
		changes |= FILE_ATTRIBUTES;
	if (kind == LINUX_S_IFDIR)
		return changes;
	if (!time_is_same(a, b))
		changes |= FILE_TIME;
	if (x->i_links_count != y->i_links_count)
		changes |= FILE_LINKS;
	if (kind == LINUX_S_IFREG || kind == LINUX_S_IFLNK) {
		if (file_bytes(a) != file_bytes(b) || !content_is_same(d, a, b))
			changes |= FILE_CONTENT;
	} else if (x->i_block[0] != y->i_block[0] || x->i_block[1] != y->i_block[1]) {
		changes |= FILE_CONTENT;
	}
	return changes;
}
