/* The generated image: clusters of 64 KiB in this order: header, refcount table, refcount blocks (16 bits; every
 * cluster is used once), L1 table, L2 tables, then the data in disk order. Everything before the data is built in
 * advance. An increment has a backing file, whose name the import replaces, and only the clusters that differ; those
 * that became zeros are zero clusters. Format: block/qcow2/format.h. */
#include "tools/archive/source.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/diff.h"
#include "block/qcow2/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CLUSTER_BITS 16
#define CLUSTER (1ULL << CLUSTER_BITS)
#define TABLE_ENTRIES (CLUSTER / 8)
#define REFCOUNTS (CLUSTER / 2)

/* Numbers of clusters of the disk, in order. */
struct clusters {
	uint32_t *list;
	uint64_t n;
};

struct snapshot_source {
	struct source source;
	struct block *disk, *b, *since; /* the disk of now, and opened again: its two snapshots. since: NULL: no increment */
	struct block_diff *diff;
	uint64_t disk_bytes;
	struct clusters data, zeros; /* zeros: only of an increment */
	uint32_t *tables; /* for each L1 entry, the number of its L2 table, from 1 on; 0: none */
	uint64_t ntables;
	uint64_t reftable, refblocks, l1, l2, total; /* number of clusters of each part, and in total */
	uint8_t *meta; /* everything before the data */
	char name[64];
};

static uint64_t meta_clusters(const struct snapshot_source *s)
{
	return 1 + s->reftable + s->refblocks + s->l1 + s->l2;
}

static uint64_t meta_bytes(const struct snapshot_source *s)
{
	return meta_clusters(s) * CLUSTER;
}

/* ---- finding the disk's data clusters ---- */

static int cluster_add(struct clusters *c, uint64_t cluster)
{
	if (c->n && c->list[c->n - 1] == cluster)
		return 0;
	if (is_power_of_two(c->n) || !c->n) {
		void *p = reallocarray(c->list, c->n ? 2 * c->n : 1, sizeof(*c->list));

		if (!p)
			return -ENOMEM;
		c->list = p;
	}
	c->list[c->n++] = (uint32_t)cluster;
	return 0;
}

/* Add the clusters of [off, end). In an increment, write a zero cluster only if the range covers the whole cluster:
 * the rest of it may have other content. */
static int range_add(struct snapshot_source *s, uint64_t off, uint64_t end, bool zero)
{
	int r = 0;

	for (uint64_t c = off / CLUSTER; c * CLUSTER < end && !r; c++) {
		bool whole = c * CLUSTER >= off && (end == s->disk_bytes || (c + 1) * CLUSTER <= end);

		if (!zero || (s->diff && !whole))
			r = cluster_add(&s->data, c);
		else if (s->diff)
			r = cluster_add(&s->zeros, c);
	}
	return r;
}

static int extent_get(struct snapshot_source *s, uint64_t off, struct block_diff_extent *ret)
{
	uint64_t len = s->disk_bytes - off;
	struct block_extent x;
	int r;

	if (s->diff)
		return block_diff_extent(s->diff, off, len, ret);
	r = block_extent(s->b, off, len, &x);
	*ret = (struct block_diff_extent){ .zero = x.zero, .len = x.len };
	return r;
}

static int data_find(struct snapshot_source *s)
{
	struct block_diff_extent x;

	for (uint64_t off = 0; off < s->disk_bytes; off += x.len) {
		int r = extent_get(s, off, &x);

		if (!r && !x.same)
			r = range_add(s, off, off + x.len, x.zero);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- building the tables of the image ---- */

/* Number the L2 tables of these clusters. */
static void tables_number(struct snapshot_source *s, const struct clusters *c)
{
	for (uint64_t i = 0; i < c->n; i++)
		if (!s->tables[c->list[i] / TABLE_ENTRIES])
			s->tables[c->list[i] / TABLE_ENTRIES] = (uint32_t)++s->l2;
}

static void snapshot_layout(struct snapshot_source *s)
{
	uint64_t before;

	s->l1 = MAX(DIV_ROUND_UP(s->ntables, TABLE_ENTRIES), 1u);
	tables_number(s, &s->data);
	tables_number(s, &s->zeros);
	s->reftable = s->refblocks = 1;
	do { /* refcount blocks also count themselves */
		before = s->reftable + s->refblocks;
		s->total = meta_clusters(s) + s->data.n;
		s->refblocks = DIV_ROUND_UP(s->total, REFCOUNTS);
		s->reftable = DIV_ROUND_UP(s->refblocks, TABLE_ENTRIES);
	} while (s->reftable + s->refblocks != before);
}

/* Write the header of an empty image as block/qcow2 does, with the offsets of the generated image. */
static int header_put(struct snapshot_source *s, struct err *e)
{
	CLEANUP_CLOSE int fd = memfd_create("header", MFD_CLOEXEC);
	struct qcow2_create c = { .size_bytes = s->disk_bytes, .cluster_bits = CLUSTER_BITS,
		.refcount_order = 4, .version = 3, .backing_name = s->diff ? "base" : NULL,
		.backing_format = s->diff ? "qcow2" : NULL };
	int r = fd < 0 ? -errno : qcow2_create(fd, &c, e);

	if (!r)
		r = pread_full(fd, s->meta, CLUSTER, 0);
	if (r < 0)
		return err_set_errno(e, r, "%s", s->name);
	store_be64(s->meta + QCOW2_AT_REFTABLE_OFFSET, CLUSTER);
	store_be32(s->meta + QCOW2_AT_REFTABLE_CLUSTERS, (uint32_t)s->reftable);
	store_be64(s->meta + QCOW2_AT_L1_OFFSET, (1 + s->reftable + s->refblocks) * CLUSTER);
	return 0;
}

static void refcounts_put(struct snapshot_source *s)
{
	uint8_t *table = s->meta + CLUSTER, *blocks = table + s->reftable * CLUSTER;

	for (uint64_t i = 0; i < s->refblocks; i++)
		store_be64(table + 8 * i, (1 + s->reftable + i) * CLUSTER);
	for (uint64_t i = 0; i < s->total; i++)
		store_be16(blocks + 2 * i, 1);
}

/* Put the entries of these clusters. host: the place of the first one, which the others follow; 0: zero clusters. */
static void maps_put(struct snapshot_source *s, const struct clusters *c, uint64_t host)
{
	uint64_t l1_at = (1 + s->reftable + s->refblocks) * CLUSTER, l2_at = l1_at + s->l1 * CLUSTER;

	for (uint64_t i = 0; i < c->n; i++) {
		uint64_t n = c->list[i] / TABLE_ENTRIES, table = l2_at + (s->tables[n] - 1) * CLUSTER;

		store_be64(s->meta + l1_at + 8 * n, table | QCOW2_COPIED);
		store_be64(s->meta + table + 8 * (c->list[i] % TABLE_ENTRIES),
			host ? (host + i * CLUSTER) | QCOW2_COPIED : QCOW2_ZERO);
	}
}

static int tables_make(struct snapshot_source *s, struct err *e)
{
	int r;

	s->ntables = DIV_ROUND_UP(s->disk_bytes, CLUSTER * TABLE_ENTRIES);
	s->tables = calloc(s->ntables + 1, sizeof(*s->tables));
	if (s->tables)
		snapshot_layout(s);
	s->meta = s->tables ? calloc(meta_clusters(s), CLUSTER) : NULL;
	if (!s->meta)
		return err_set_errno(e, -ENOMEM, "%s", s->name);
	r = header_put(s, e);
	if (r < 0)
		return r;
	refcounts_put(s);
	maps_put(s, &s->data, meta_bytes(s));
	maps_put(s, &s->zeros, 0);
	s->source.size_bytes = s->total * CLUSTER;
	r = source_add_extent(&s->source, 0, s->source.size_bytes);
	return r < 0 ? err_set_errno(e, r, "%s", s->name) : 0;
}

/* ---- reading the generated image ---- */

/* Returns the number of clusters from the i-th on that are adjacent on the disk, at most `most`. */
static uint64_t run_length(const struct snapshot_source *s, uint64_t i, uint64_t most)
{
	uint64_t n = 1;

	while (n < most && i + n < s->data.n && s->data.list[i + n] == s->data.list[i] + n)
		n++;
	return n;
}

/* Read whole clusters. The disk may end inside the last one. */
static int clusters_read(struct snapshot_source *s, uint64_t i, uint64_t n, uint8_t *buf, struct err *e)
{
	uint64_t off = s->data.list[i] * CLUSTER, len = MIN(n * CLUSTER, s->disk_bytes - off);
	struct iovec iov = { buf, len };
	struct block_req r = { .op = BLOCK_READ, .offset = off, .len = len, .iov = &iov, .niov = 1 };

	int res;

	memset(buf + len, 0, n * CLUSTER - len);
	res = block_run(s->b, &r);
	return res < 0 ? block_read_error(s->b, off, len, res, e) : 0;
}

static int snapshot_read(struct source *source, void *buf, uint64_t off, size_t len, struct err *e)
{
	struct snapshot_source *s = container_of(source, struct snapshot_source, source);
	uint8_t *p = buf;

	while (len) {
		uint64_t i = (off - meta_bytes(s)) / CLUSTER, n;
		int r = 0;

		if (off < meta_bytes(s)) {
			n = MIN(len, meta_bytes(s) - off);
			memcpy(p, s->meta + off, n);
		} else {
			n = run_length(s, i, len / CLUSTER) * CLUSTER;
			r = clusters_read(s, i, n / CLUSTER, p, e);
		}
		if (r < 0)
			return r;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

/* ---- creating and freeing a source ---- */

static void snapshot_free(struct source *source)
{
	struct snapshot_source *s = container_of(source, struct snapshot_source, source);

	block_diff_free(s->diff);
	block_close(s->since);
	block_close(s->b);
	block_close(s->disk);
	free(s->source.extents);
	free(s->data.list);
	free(s->zeros.list);
	free(s->tables);
	free(s->meta);
	free(s);
}

static int again_open(const struct snapshot_source *s, int fd, const char *id, struct block **ret, struct err *e)
{
	int again = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	int r = again < 0 ? err_set_errno(e, -errno, "%s", s->name) : block_open_snapshot(s->disk, again, id, ret, e);

	if (r < 0 && again >= 0)
		close(again);
	return r;
}

/* Open the disk's snapshot and, for an increment, the one since which it is. */
static int snapshots_open(struct snapshot_source *s, int fd, struct source_since *since, struct err *e)
{
	char id[BLOCK_SNAPSHOT_ID_MAX + 1], since_id[BLOCK_SNAPSHOT_ID_MAX + 1];
	int r = source_since_find(since, s->disk, id, since_id, e);

	if (!r && !*id)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "%s has no snapshot '%.255s', which an export needs on each disk that the VM writes to; "
			"choose another snapshot (cairn snapshot-list), or take a new one (cairn snapshot-create-as)", s->name, since->snapshot);
	if (!r)
		r = again_open(s, fd, id, &s->b, e);
	if (r < 0 || !*since_id)
		return r;
	r = again_open(s, fd, since_id, &s->since, e);
	s->source.is_increment = true;
	return r ? r : block_diff_new(s->b, s->since, &s->diff, e);
}

/* Take the disk itself. Its snapshots would be lost in the image that is generated. */
static int present_open(struct snapshot_source *s, struct err *e)
{
	CLEANUP_FREE struct block_snapshot_info *list = NULL;
	size_t n = 0;
	int r = block_snapshot_list(s->disk, &list, &n, e);

	for (size_t i = 0; !r && i < n; i++)
		if (!list[i].pinned)
			return err_set(e, -EBUSY, ERR_BUSY, "%s has snapshots, and a running VM writes to its backing file; shut that VM down, or "
				"export a snapshot (--snapshotname)", s->name);
	if (!r)
		s->b = STEAL_PTR(s->disk);
	return r;
}

/* With a snapshot, nothing is read of the disk itself but its table of snapshots, so a VM may write to it. */
static int snapshot_open(struct snapshot_source *s, struct loop *l, const struct block_layer *layers, unsigned nlayers,
	struct source_since *since, struct err *e)
{
	struct block_open o = { .layers = layers, .nlayers = nlayers, .read_only = true, .no_lock = since, .buffered = true, .name = s->name };
	struct block_info info;
	int r = block_open(l, &o, &s->disk, e);

	if (!r)
		r = since ? snapshots_open(s, layers[0].fd, since, e) : present_open(s, e);
	if (r < 0)
		return r;
	s->source.disk = s->b;
	block_info(s->b, &info);
	s->disk_bytes = info.size_bytes;
	if (s->disk_bytes / CLUSTER > UINT32_MAX)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: the disk is too large", s->name);
	r = data_find(s);
	return r < 0 ? err_set_errno(e, r, "%s: reading the snapshot's tables", s->name) : 0;
}

int source_of_snapshot(struct loop *l, const struct block_layer *layers, unsigned nlayers, struct source_since *since,
	const char *name, struct source **ret, struct err *e)
{
	struct snapshot_source *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set_errno(e, -ENOMEM, "%s", name);
	s->source.read = snapshot_read;
	s->source.free = snapshot_free;
	snprintf(s->name, sizeof(s->name), "%s", name);
	r = snapshot_open(s, l, layers, nlayers, since, e);
	if (!r)
		r = tables_make(s, e);
	if (r < 0)
		snapshot_free(&s->source);
	else
		*ret = &s->source;
	return r;
}
