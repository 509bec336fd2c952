/* Copies one snapshot of an image, or the disk itself, to a new image. Every cluster keeps its offset in the file, so
 * tables are copied unchanged. Clusters that the snapshot does not use become holes, and the
 * refcounts are counted anew. The first pass checks the tables and counts the bytes. The second pass
 * copies, unless the target is a clone of the file already. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Piece of a file for one read; blocks of ZERO_BYTES zeros become holes. */
#define PIECE_BYTES (1 * MIB)
#define ZERO_BYTES 4096u

struct copier {
	const struct qcow2_copy *c;
	struct err *e;
	struct qcow2_header h; /* the source image's, with the L1 and the size of the copied snapshot */
	int from;	       /* the fd to read from */
	uint64_t file_bytes, cluster_bytes, tables, done, total;
	uint64_t run_from, run_to; /* the pending range of the file to copy */
	bool copying;
	uint8_t *l1, *l2, *piece;
};

static int source_damaged(struct copier *k, const char *what, uint64_t v)
{
	return err_set(k->e, -EINVAL, ERR_CORRUPT, "the image's tables are damaged: %s 0x%llx; see `cairn-img "
		"check`", what, (unsigned long long)v);
}

/* ---- copying ranges of the file ---- */

static int piece_write(struct copier *k, uint64_t off, size_t len)
{
	int r = 0;

	for (size_t at = 0; at < len && !r;) {
		size_t from = at, n = MIN(ZERO_BYTES, len - at);

		while (at < len && !bytes_are_zero(k->piece + at, n = MIN(ZERO_BYTES, len - at)))
			at += n;
		if (at > from)
			r = pwrite_full(k->c->to, k->piece + from, at - from, (off_t)(off + from));
		if (at < len)
			at += n;
	}
	return r;
}

static int run_copy(struct copier *k)
{
	int r = 0;

	while (k->run_from < k->run_to && !r) {
		size_t len = (size_t)MIN(PIECE_BYTES, k->run_to - k->run_from);

		r = qcow2_pread(k->from, k->piece, len, k->run_from);
		if (!r)
			r = piece_write(k, k->run_from, len);
		k->run_from += len;
		k->done += len;
		if (!r && k->c->step && k->c->step(k->c->opaque, k->done, k->total))
			return err_set(k->e, -ECANCELED, ERR_CANCELLED, "the copy was cancelled");
	}
	return r < 0 ? err_set_errno(k->e, r, "cannot copy a disk's image") : 0;
}

/* Add [off, off + len) to the copy; merge it with an adjacent range. */
static int range_add(struct copier *k, uint64_t off, uint64_t len)
{
	int r = 0;

	if (!range_inside(off, len, ROUND_UP(k->file_bytes, k->cluster_bytes)))
		return source_damaged(k, "past the end of the file:", off);
	if (!k->copying) {
		k->total += len;
		/* Only sectors of compressed clusters may overlap, so a total of twice the file shows damage. */
		return k->total / 2 > ROUND_UP(k->file_bytes, k->cluster_bytes) ? source_damaged(k, "used twice:", off) : 0;
	}
	if (off != k->run_to || k->run_to - k->run_from >= PIECE_BYTES) {
		r = run_copy(k);
		k->run_from = off;
	}
	k->run_to = off + len;
	return r;
}

/* ---- walking the tables ---- */

static int compressed_add(struct copier *k, uint64_t e)
{
	uint32_t x = 62 - (k->h.cluster_bits - 8);
	uint64_t off = e & ((1ULL << x) - 1), n = ((e & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> x) + 1;
	uint64_t from = ROUND_DOWN(off, 512), end = ROUND_UP(k->file_bytes, 512), len = n * 512;

	if (off < k->cluster_bytes || off >= k->file_bytes)
		return source_damaged(k, "a compressed cluster at", off);
	return range_add(k, from, MIN(len, end - from));
}

static int entry_add(struct copier *k, uint64_t e, uint64_t bitmap)
{
	bool ext = k->h.incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
	uint64_t off = e & QCOW2_OFFSET_MASK;

	if (e & QCOW2_COMPRESSED)
		return compressed_add(k, e);
	if ((e & QCOW2_L2_RESERVED) || off & (k->cluster_bytes - 1) ||
		((e & QCOW2_ZERO) && (ext || k->h.version < 3)) ||
		((uint32_t)bitmap & (bitmap >> 32)) || ((uint32_t)bitmap && !off))
		return source_damaged(k, "an L2 entry", e);
	if (!off)
		return 0;
	/* The entry reads as zeros, so its cluster becomes a hole of the copy. */
	if ((e & QCOW2_ZERO) || (ext && !(uint32_t)bitmap))
		return range_inside(off, k->cluster_bytes, ROUND_UP(k->file_bytes, k->cluster_bytes)) ? 0 :
			source_damaged(k, "past the end of the file:", off);
	return range_add(k, off, k->cluster_bytes);
}

static int l2_add(struct copier *k, uint64_t off)
{
	uint32_t step = k->h.incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 16 : 8;
	int r;

	if (off & (k->cluster_bytes - 1) || !range_inside(off, k->cluster_bytes, k->file_bytes) ||
		++k->tables > k->file_bytes >> k->h.cluster_bits)
		return source_damaged(k, "an L2 table at", off);
	r = qcow2_pread(k->from, k->l2, k->cluster_bytes, off);
	if (r < 0)
		return err_set_errno(k->e, r, "cannot read a table of a disk's image");
	if (k->copying && !k->c->cloned) {
		r = pwrite_full(k->c->to, k->l2, k->cluster_bytes, (off_t)off);
		if (r < 0)
			return err_set_errno(k->e, r, "cannot copy a disk's image");
	}
	for (uint32_t at = 0; at < k->cluster_bytes && !r; at += step)
		r = entry_add(k, load_be64(k->l2 + at), step == 16 ? load_be64(k->l2 + at + 8) : 0);
	return r;
}

static int l1_walk(struct copier *k, bool copying)
{
	int r = 0;

	k->copying = copying;
	k->tables = k->run_from = k->run_to = 0;
	for (uint32_t i = 0; i < k->h.l1_size && !r; i++) {
		uint64_t e = load_be64(k->l1 + i * 8ULL);

		if (e & QCOW2_L1_RESERVED)
			r = source_damaged(k, "an L1 entry", e);
		else if (e & QCOW2_OFFSET_MASK)
			r = l2_add(k, e & QCOW2_OFFSET_MASK);
	}
	return r || !copying ? r : run_copy(k);
}

/* Read the L1 entries of the disk. Zeros replace those behind them, which describe VM state. */
static int l1_load(struct copier *k)
{
	uint64_t bytes = k->h.l1_size * 8ULL, room = ROUND_UP(MAX(bytes, 1u), k->cluster_bytes);
	int r;

	if (!k->h.l1_offset || k->h.l1_offset & (k->cluster_bytes - 1) || bytes > QCOW2_L1_BYTES_MAX ||
		!range_inside(k->h.l1_offset, bytes, ROUND_UP(k->file_bytes, k->cluster_bytes)))
		return source_damaged(k, "an L1 table at", k->h.l1_offset);
	k->l1 = io_buffer_new(ROUND_UP(room, 4096));
	if (!k->l1)
		return err_set_errno(k->e, -ENOMEM, "copying a disk");
	r = qcow2_pread(k->from, k->l1, ROUND_UP(room, 512), k->h.l1_offset);
	memset(k->l1 + bytes, 0, room - bytes);
	return r < 0 ? err_set_errno(k->e, r, "cannot read a table of a disk's image") : 0;
}

/* ---- the copy's header and refcounts ---- */

static int snapshot_find(struct copier *k)
{
	struct qcow2_snapshot_info *list;
	size_t n, i;
	int r = qcow2_snapshots_read(k->from, &k->h, &list, &n, k->e);

	if (r < 0)
		return r;
	for (i = 0; i < n && strcmp(list[i].id, k->c->snapshot); i++)
		;
	if (i < n) {
		uint64_t want = qcow2_l1_entries(list[i].disk_bytes, k->h.cluster_bits,
			k->h.incompatible & QCOW2_INCOMPAT_EXTENDED_L2);

		k->h.size_bytes = list[i].disk_bytes;
		k->h.l1_offset = list[i].l1_offset;
		k->h.l1_size = (uint32_t)MIN(want, list[i].l1_size);
		if (want > list[i].l1_size)
			r = source_damaged(k, "too small an L1 table at", list[i].l1_offset);
	} else {
		r = err_set(k->e, -ENOENT, ERR_NOT_FOUND, "the image has no snapshot %s", k->c->snapshot);
	}
	qcow2_snapshots_free(list, n);
	return r;
}

static int header_load(struct copier *k)
{
	struct stat st;
	int r;

	if (fstat(k->from, &st) < 0)
		return err_set_errno(k->e, -errno, "a disk's image");
	k->file_bytes = (uint64_t)st.st_size;
	r = qcow2_header_read(k->from, "a disk's image", &k->h, k->e);
	if (!r)
		r = qcow2_header_supported(&k->h, false, k->e);
	if (!r && (k->h.incompatible & (QCOW2_INCOMPAT_DATA_FILE | QCOW2_INCOMPAT_CORRUPT)))
		r = err_set(k->e, -ENOTSUP, ERR_UNSUPPORTED, "copying an image that is marked corrupt or has an external "
			"data file is not supported");
	k->cluster_bytes = 1ULL << k->h.cluster_bits;
	return r || !k->c->snapshot ? r : snapshot_find(k);
}

/* Write the L1 and the header: the source image's header without snapshots, with the L1 and the size of the copied
 * snapshot. The refcounts are not valid before refcounts_make(). */
static int header_store(struct copier *k)
{
	uint8_t *p = k->l2;
	int r = qcow2_pread(k->from, p, k->cluster_bytes, 0);

	store_be64(p + QCOW2_AT_SIZE, k->h.size_bytes);
	store_be32(p + QCOW2_AT_L1_SIZE, k->h.l1_size);
	store_be64(p + QCOW2_AT_L1_OFFSET, k->h.l1_offset);
	store_be32(p + QCOW2_AT_NB_SNAPSHOTS, 0);
	store_be64(p + QCOW2_AT_SNAPSHOTS_OFFSET, 0);
	if (k->h.version >= 3) {
		store_be64(p + QCOW2_AT_INCOMPATIBLE, k->h.incompatible & ~QCOW2_INCOMPAT_DIRTY);
		store_be64(p + QCOW2_AT_AUTOCLEAR, 0);
	}
	if (!r)
		r = pwrite_full(k->c->to, k->l1, ROUND_UP(MAX(k->h.l1_size * 8ULL, 1u), k->cluster_bytes),
			(off_t)k->h.l1_offset);
	if (!r)
		r = pwrite_full(k->c->to, p, k->cluster_bytes, 0);
	return r < 0 ? err_set_errno(k->e, r, "cannot copy a disk's image") : 0;
}

static int refcounts_make(struct copier *k)
{
	struct qcow2_header h;
	int r = qcow2_header_read(k->c->to, "the copy of a disk", &h, k->e);

	if (!r)
		r = qcow2_refcounts_rebuild(k->c->to, &h, h.refcount_order, k->e);
	/* If the target is a clone of the file, free everything else in it. */
	return r || !k->c->cloned ? r : qcow2_trim(k->c->to, &h, k->e);
}

static int image_copy_all(struct copier *k)
{
	int r = header_load(k);

	if (!r)
		r = l1_load(k);
	k->l2 = io_buffer_new(ROUND_UP(k->cluster_bytes, 4096));
	k->piece = io_buffer_new(PIECE_BYTES);
	if (!r && (!k->l2 || !k->piece))
		r = err_set_errno(k->e, -ENOMEM, "copying a disk");
	if (!r)
		r = l1_walk(k, false);
	if (!r && !k->c->cloned && (ftruncate(k->c->to, 0) < 0 ||
		ftruncate(k->c->to, (off_t)ROUND_UP(k->file_bytes, k->cluster_bytes)) < 0))
		r = err_set_errno(k->e, -errno, "cannot make room for a disk");
	if (!r && !k->c->cloned)
		r = l1_walk(k, true);
	if (!r)
		r = header_store(k);
	return r ? r : refcounts_make(k);
}

int qcow2_copy(const struct qcow2_copy *c, struct err *e)
{
	struct copier k = { .c = c, .e = e, .from = c->cloned ? c->to : c->from };
	int r = image_copy_all(&k);

	free(k.l1);
	free(k.l2);
	free(k.piece);
	return r;
}
