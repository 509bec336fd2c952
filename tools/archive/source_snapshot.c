/* The generated image: clusters of 64 KiB in this order: header, refcount table, refcount blocks (16 bits; every
 * cluster is used once), L1 table, L2 tables, then the data in disk order. Everything before the data is built in
 * advance. Format: block/qcow2/format.h. */
#include "tools/archive/source.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/qcow2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CLUSTER_BITS 16
#define CLUSTER (1ULL << CLUSTER_BITS)
#define TABLE_ENTRIES (CLUSTER / 8)
#define REFCOUNTS (CLUSTER / 2)

struct snapshot_source {
	struct source source;
	struct block *b;
	uint64_t disk_bytes;
	uint32_t *data; /* numbers of the disk's data clusters, in order */
	uint64_t ndata;
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

static int data_add(struct snapshot_source *s, uint64_t cluster)
{
	if (s->ndata && s->data[s->ndata - 1] == cluster)
		return 0;
	if (is_power_of_two(s->ndata) || !s->ndata) {
		void *p = reallocarray(s->data, s->ndata ? 2 * s->ndata : 1, sizeof(*s->data));

		if (!p)
			return -ENOMEM;
		s->data = p;
	}
	s->data[s->ndata++] = (uint32_t)cluster;
	return 0;
}

static int data_find(struct snapshot_source *s)
{
	struct block_extent x;

	for (uint64_t off = 0; off < s->disk_bytes; off += x.len) {
		int r = block_extent(s->b, off, s->disk_bytes - off, &x);

		for (uint64_t c = off / CLUSTER; !r && !x.zero && c * CLUSTER < off + x.len; c++)
			r = data_add(s, c);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- building the tables of the image ---- */

static void snapshot_layout(struct snapshot_source *s)
{
	uint64_t last = UINT64_MAX, before;

	s->l1 = DIV_ROUND_UP(DIV_ROUND_UP(s->disk_bytes, CLUSTER * TABLE_ENTRIES), TABLE_ENTRIES);
	s->l1 = MAX(s->l1, 1u);
	for (uint64_t i = 0; i < s->ndata; i++) {
		s->l2 += s->data[i] / TABLE_ENTRIES != last;
		last = s->data[i] / TABLE_ENTRIES;
	}
	s->reftable = s->refblocks = 1;
	do { /* refcount blocks also count themselves */
		before = s->reftable + s->refblocks;
		s->total = meta_clusters(s) + s->ndata;
		s->refblocks = DIV_ROUND_UP(s->total, REFCOUNTS);
		s->reftable = DIV_ROUND_UP(s->refblocks, TABLE_ENTRIES);
	} while (s->reftable + s->refblocks != before);
}

/* Write the header of an empty image as block/qcow2 does, with the offsets of the generated image. */
static int header_put(struct snapshot_source *s, struct err *e)
{
	CLEANUP_CLOSE int fd = memfd_create("header", MFD_CLOEXEC);
	struct qcow2_create c = { .size_bytes = s->disk_bytes, .cluster_bits = CLUSTER_BITS,
		.refcount_order = 4, .version = 3 };
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

static void maps_put(struct snapshot_source *s)
{
	uint64_t l1_at = (1 + s->reftable + s->refblocks) * CLUSTER, l2_at = l1_at + s->l1 * CLUSTER;
	uint64_t host = meta_bytes(s), last = UINT64_MAX;

	l2_at -= CLUSTER;
	for (uint64_t i = 0; i < s->ndata; i++, host += CLUSTER) {
		uint64_t n = s->data[i] / TABLE_ENTRIES;

		if (n != last) {
			l2_at += CLUSTER;
			store_be64(s->meta + l1_at + 8 * n, l2_at | QCOW2_COPIED);
		}
		last = n;
		store_be64(s->meta + l2_at + 8 * (s->data[i] % TABLE_ENTRIES), host | QCOW2_COPIED);
	}
}

static int tables_make(struct snapshot_source *s, struct err *e)
{
	int r;

	snapshot_layout(s);
	s->meta = calloc(meta_clusters(s), CLUSTER);
	if (!s->meta)
		return err_set_errno(e, -ENOMEM, "%s", s->name);
	r = header_put(s, e);
	if (r < 0)
		return r;
	refcounts_put(s);
	maps_put(s);
	s->source.size_bytes = s->total * CLUSTER;
	r = source_add_extent(&s->source, 0, s->source.size_bytes);
	return r < 0 ? err_set_errno(e, r, "%s", s->name) : 0;
}

/* ---- reading the generated image ---- */

/* Returns the number of clusters from the i-th on that are adjacent on the disk, at most `most`. */
static uint64_t run_length(const struct snapshot_source *s, uint64_t i, uint64_t most)
{
	uint64_t n = 1;

	while (n < most && i + n < s->ndata && s->data[i + n] == s->data[i] + n)
		n++;
	return n;
}

/* Read whole clusters. The disk may end inside the last one. */
static int clusters_read(struct snapshot_source *s, uint64_t i, uint64_t n, uint8_t *buf)
{
	uint64_t off = s->data[i] * CLUSTER, len = MIN(n * CLUSTER, s->disk_bytes - off);
	struct iovec iov = { buf, len };
	struct block_req r = { .op = BLOCK_READ, .offset = off, .len = len, .iov = &iov, .niov = 1 };

	memset(buf + len, 0, n * CLUSTER - len);
	return block_run(s->b, &r);
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
			r = clusters_read(s, i, n / CLUSTER, p);
		}
		if (r < 0)
			return err_set_errno(e, r, "%s: reading the snapshot", s->name);
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

	block_close(s->b);
	free(s->source.extents);
	free(s->data);
	free(s->meta);
	free(s);
}

static int snapshot_open(struct snapshot_source *s, struct loop *l, const struct block_layer *layers, unsigned nlayers,
	const char *snapshot, struct err *e)
{
	struct block_open o = { .layers = layers, .nlayers = nlayers, .read_only = true,
		.no_lock = true, .buffered = true, .snapshot = snapshot, .name = s->name };
	struct block_info info;
	int r = block_open(l, &o, &s->b, e);

	if (r < 0)
		return r;
	block_info(s->b, &info);
	s->disk_bytes = info.size_bytes;
	if (s->disk_bytes / CLUSTER > UINT32_MAX)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: the disk is too large", s->name);
	r = data_find(s);
	return r < 0 ? err_set_errno(e, r, "%s: reading the snapshot's tables", s->name) : 0;
}

int source_of_snapshot(struct loop *l, const struct block_layer *layers, unsigned nlayers, const char *snapshot,
	const char *name, struct source **ret, struct err *e)
{
	struct snapshot_source *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set_errno(e, -ENOMEM, "%s", name);
	s->source.read = snapshot_read;
	s->source.free = snapshot_free;
	snprintf(s->name, sizeof(s->name), "%s", name);
	r = snapshot_open(s, l, layers, nlayers, snapshot, e);
	if (!r)
		r = tables_make(s, e);
	if (r < 0)
		snapshot_free(&s->source);
	else
		*ret = &s->source;
	return r;
}
