#include "block/diff.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TABLE_ALIGN 4096u
#define NO_TABLE UINT32_MAX

struct block_diff {
	struct block *b;
	const struct qcow2 *q, *since;
	uint64_t common_bytes; /* a cluster that ends behind this offset differs */
	uint32_t loaded; /* number of the L2 tables in the buffers; NO_TABLE: none */
	uint8_t *table, *since_table;
};

static const struct qcow2 *image_of(const struct block *b)
{
	return b->info.format == BLOCK_FORMAT_QCOW2 ? (const struct qcow2 *)b : NULL;
}

static bool is_one_file(const struct block *a, const struct block *b)
{
	struct stat s, t;

	return !fstat(a->fd, &s) && !fstat(b->fd, &t) && s.st_dev == t.st_dev && s.st_ino == t.st_ino;
}

int block_diff_new(struct block *b, const struct block *since, struct block_diff **ret, struct err *e)
{
	const struct qcow2 *q = image_of(b), *from = image_of(since);
	struct block_diff *d;
	size_t bytes;

	if (!q || !from || !is_one_file(b, since) || q->cluster_bits != from->cluster_bits || q->ext != from->ext || q->external)
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s: only two contents of one qcow2 image can be compared", b->name);
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set_errno(e, -ENOMEM, "disk %s", b->name);
	bytes = ROUND_UP(q->cluster_bytes, TABLE_ALIGN);
	*d = (struct block_diff){ .b = b, .q = q, .since = from, .loaded = NO_TABLE, .table = aligned_alloc(TABLE_ALIGN, bytes),
		.since_table = aligned_alloc(TABLE_ALIGN, bytes) };
	/* The last cluster of a disk may have bytes behind its end, which a larger disk shows. */
	d->common_bytes = q->base.info.size_bytes == from->base.info.size_bytes ? UINT64_MAX
		: MIN(q->base.info.size_bytes, from->base.info.size_bytes);
	if (!d->table || !d->since_table) {
		block_diff_free(d);
		return err_set_errno(e, -ENOMEM, "disk %s", b->name);
	}
	*ret = d;
	return 0;
}

void block_diff_free(struct block_diff *d)
{
	if (!d)
		return;
	free(d->table);
	free(d->since_table);
	free(d);
}

/* Returns the L1 entry without COPIED; 0 behind the end of the table. */
static uint64_t l1_entry(const struct qcow2 *q, uint32_t i)
{
	return i < q->disk.l1.n ? q->disk.l1.entries[i] & ~QCOW2_COPIED : 0;
}

static int table_read(const struct qcow2 *q, uint32_t i, uint8_t *buf)
{
	uint64_t e1 = l1_entry(q, i);

	if ((e1 & QCOW2_L1_RESERVED) || (e1 & QCOW2_OFFSET_MASK & (q->cluster_bytes - 1)))
		return -EIO;
	if (e1)
		return qcow2_pread(q->base.fd, buf, q->cluster_bytes, e1);
	memset(buf, 0, q->cluster_bytes);
	return 0;
}

static int tables_load(struct block_diff *d, uint32_t i)
{
	int r;

	if (d->loaded == i)
		return 0;
	d->loaded = NO_TABLE;
	r = table_read(d->q, i, d->table);
	if (!r)
		r = table_read(d->since, i, d->since_table);
	if (!r)
		d->loaded = i;
	return r;
}

/* The result of comparing an entry of b. LOOK: only block_extent() can tell, because the content depends on the backing
 * file or on the bitmap of the entry. */
enum kind { SAME, DATA, ZERO, LOOK };

/* Compare an entry of the loaded tables. COPIED depends on the table that the entry is in. */
static enum kind entry_compare(const struct block_diff *d, uint64_t off)
{
	const struct qcow2 *q = d->q;
	size_t at = (size_t)(off >> q->cluster_bits & ((1ULL << q->l2_bits) - 1)) * q->l2_entry_bytes;
	uint64_t e = load_be64(d->table + at) & ~QCOW2_COPIED;

	if (e == (load_be64(d->since_table + at) & ~QCOW2_COPIED) &&
		(!q->ext || load_be64(d->table + at + 8) == load_be64(d->since_table + at + 8)))
		return SAME;
	if (q->ext || !e || l2_check(q, (struct l2_entry){ .e = e }) < 0)
		return LOOK;
	return !(e & QCOW2_COMPRESSED) && (e & QCOW2_ZERO) ? ZERO : DATA;
}

/* Compare the run of clusters from off on that one L2 table has, up to end.
 * ret_to: the run's end. Returns 0 or -errno. */
static int run_compare(struct block_diff *d, uint64_t off, uint64_t end, enum kind *ret, uint64_t *ret_to)
{
	const struct qcow2 *q = d->q;
	uint64_t cluster = q->cluster_bytes, to = ROUND_DOWN(off, map_table_reach(q)) + map_table_reach(q);
	uint32_t i = l1_index(q, off);
	int r;

	*ret_to = end = MIN(end, to);
	if (ROUND_DOWN(off, cluster) + cluster > d->common_bytes) {
		*ret = LOOK;
		return 0;
	}
	*ret_to = end = MIN(end, ROUND_DOWN(d->common_bytes, cluster));
	*ret = SAME;
	if (l1_entry(q, i) == l1_entry(d->since, i))
		return 0;
	r = tables_load(d, i);
	if (r < 0)
		return r;
	*ret = entry_compare(d, off);
	do
		off = ROUND_DOWN(off, cluster) + cluster;
	while (off < end && entry_compare(d, off) == *ret);
	*ret_to = MIN(off, end);
	return 0;
}

static int extent_get(struct block_diff *d, uint64_t off, uint64_t len, struct block_diff_extent *ret)
{
	struct block_extent x;
	int r = block_extent(d->b, off, len, &x);

	if (!r)
		*ret = (struct block_diff_extent){ .zero = x.zero, .len = x.len };
	return r;
}

int block_diff_extent(struct block_diff *d, uint64_t off, uint64_t len, struct block_diff_extent *ret)
{
	uint64_t end = off + len, at, to;
	enum kind kind, next;
	int r = run_compare(d, off, end, &kind, &to);

	if (r < 0)
		return r;
	for (at = to; at < end && !run_compare(d, at, end, &next, &to) && next == kind; at = to)
		;
	if (kind == LOOK)
		return extent_get(d, off, at - off, ret);
	*ret = (struct block_diff_extent){ .same = kind == SAME, .zero = kind == ZERO, .len = at - off };
	return 0;
}
