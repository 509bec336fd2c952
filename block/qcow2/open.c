/* qcow2: opens and closes images. */
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/bitmap_impl.h"
#include "block/qcow2/snapshot_impl.h"
#include "block/qcow2/warm.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Limits on a request's parts in flight, and on the memory of all parts. */
#define PARTS_MAX 32
#define PARTS_BYTES_MAX (32 * MIB)

/* Default bound on cached tables: three quarters for L2 (24 GiB of disk at 64 KiB clusters), one
 * quarter for refcounts. */
#define CACHE_BYTES_DEFAULT (4 * MIB)
/* For L2 slices, if no size was asked for: enough for 256 GiB that are read at random. */
#define CACHE_BYTES_BOUND (32 * MIB)
/* A commit starts at this many bytes of dirty slices, or at a quarter of the cache if that is less. The commit
 * copies them all. */
#define DIRTY_BYTES_MAX (1 * MIB)
#define DIRTY_SLICES_MIN 8u

static void geometry_set(struct qcow2 *q)
{
	q->cluster_bits = q->h.cluster_bits;
	q->cluster_bytes = 1u << q->cluster_bits;
	q->slice_bytes = MIN(q->cluster_bytes, QCOW2_SLICE_BYTES_MAX);
	q->ext = q->h.incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
	q->l2_entry_bytes = q->ext ? 16 : 8;
	q->l2_bits = q->cluster_bits - (q->ext ? 4 : 3);
	q->slice_entries = q->slice_bytes / q->l2_entry_bytes;
	q->grain_bytes = q->ext ? q->cluster_bytes / QCOW2_SUBCLUSTERS : q->cluster_bytes;
	q->refblock_bits = q->cluster_bits + 3 - q->h.refcount_order;
	q->slice_refs_bits = (uint32_t)__builtin_ctz(q->slice_bytes) + 3 - q->h.refcount_order;
	q->header_piece_bytes = q->slice_bytes;
}

/* Read a table of n entries of 8 bytes at `offset`. cap: entries that fit into its clusters. Memory of entries that are
 * not in use is not touched: most L1 tables fill a few bytes of their cluster. */
static int table_load(struct qcow2 *q, struct table *t, uint64_t offset, uint32_t n, uint32_t cap,
	const char *what, struct err *e)
{
	int r = 0;

	if (!budget_take(&q->memory, cap * sizeof(*t->entries)))
		return qcow2_memory_exceeded(q, e);
	t->entries = io_buffer_new(MAX(cap, 1u) * sizeof(*t->entries));
	if (!t->entries || bitmap_init(&t->dirty, DIV_ROUND_UP(cap * 8ULL, q->slice_bytes)) < 0)
		return err_set_errno(e, -ENOMEM, "%s: %s", q->base.name, what);
	t->offset = offset;
	t->n = n;
	t->cap = cap;
	if (n)
		r = qcow2_pread(q->base.fd, t->entries, ROUND_UP(n * 8ULL, 4096), offset);
	if (r < 0)
		return err_set_errno(e, r, "%s: cannot read the %s", q->base.name, what);
	for (uint32_t i = 0; i < n; i++)
		t->entries[i] = be64toh(t->entries[i]);
	return 0;
}

/* Return how many entries of the refcount table are in use, in whole slices: those before a hole of the file that ends
 * the table. In a new image, all but the first slice is a hole, which the page cache would fill with pages. */
static uint32_t reftable_used(const struct qcow2 *q, uint32_t refs)
{
	off_t begin = (off_t)q->h.reftable_offset, end = begin + (off_t)refs * 8, hole, data;

	hole = q->is_device ? end : lseek(q->base.fd, begin, SEEK_HOLE);
	if (hole < begin || hole >= end)
		return refs;
	data = lseek(q->base.fd, hole, SEEK_DATA);
	if (data < 0 ? errno != ENXIO : data < end) /* ENXIO: a hole up to the end of the file */
		return refs;
	return MIN(refs, (uint32_t)(ROUND_UP(MAX((uint64_t)(hole - begin), 1u), MAX(q->slice_bytes, 4096u)) / 8));
}

/* Give back the memory of the zeros that end the refcount table. A new image of QEMU has 60 KiB of them, where one of
 * Cairn has a hole. */
static void reftable_trim(struct qcow2 *q)
{
	struct table *t = &q->reftable;
	uint32_t used = t->n;

	while (used > 1 && !t->entries[used - 1])
		used--;
	used = ROUND_UP(used, MAX(q->slice_bytes, 4096u) / (uint32_t)sizeof(*t->entries));
	if (used >= t->n)
		return;
	(void)madvise(t->entries + used, (t->n - used) * sizeof(*t->entries), MADV_DONTNEED);
	t->n = used;
}

static int tables_load(struct qcow2 *q, struct err *e)
{
	uint32_t per_cluster = q->cluster_bytes / 8, l1_cap = ROUND_UP(q->h.l1_size, per_cluster);
	uint32_t refs = q->h.reftable_clusters * per_cluster;
	int r;

	q->memory.max_bytes = qcow2_memory_max(q->base.fd, &q->h);
	r = table_load(q, &q->disk.l1, q->h.l1_offset, q->h.l1_size, l1_cap, "L1 table", e);
	if (r < 0 || q->base.info.read_only)
		return r;
	r = table_load(q, &q->reftable, q->h.reftable_offset, reftable_used(q, refs), refs, "refcount table", e);
	q->meta.budget = &q->memory;
	if (!r)
		reftable_trim(q);
	if (!r)
		r = qcow2_meta_load(q, e);
	if (!r)
		r = bitmaps_load(q, e);
	q->meta.budget = NULL;
	return r;
}

static int header_keep(struct qcow2 *q, struct err *e)
{
	int r;

	q->header_piece = io_buffer_new(4096);
	if (!q->header_piece)
		return err_set_errno(e, -ENOMEM, "%s", q->base.name);
	r = qcow2_pread(q->base.fd, q->header_piece, 4096, 0);
	return r < 0 ? err_set_errno(e, r, "%s: cannot read the header", q->base.name) : 0;
}

static int backing_check(const struct qcow2 *q, const struct block_format_open *o, struct err *e)
{
	if (q->h.has_backing && !o->backing)
		return err_set(e, -EINVAL, ERR_INVALID,
			"%s: the image has the backing file '%s', which the definition lacks; add it to \"backing\" of the disk (cairn edit)",
			o->name, q->h.backing_name);
	if (!q->h.has_backing && o->backing)
		return err_set(e, -EINVAL, ERR_INVALID,
			"%s: the image has no backing file; give no backing layer", o->name);
	return 0;
}

/* Switch direct I/O off for a file. */
static void direct_off(int fd, const struct block_file *f)
{
	if (f->direct)
		(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT);
}

/* Parts of a request may begin at any multiple of 512 in memory, and the engine reads and writes whole grains and
 * slices. If a file needs a larger alignment for direct I/O, use the page cache. */
static void direct_decide(struct qcow2 *q, const struct block_format_open *o)
{
	const struct block_file *data = q->external ? o->data_file : o->file;
	bool direct = o->file->direct && data->direct &&
		      MAX(o->file->memory_align, data->memory_align) <= 512 &&
		      data->offset_align <= q->grain_bytes &&
		      o->file->offset_align <= MIN(q->grain_bytes, q->slice_bytes);

	if (!direct) {
		direct_off(o->fd, o->file);
		if (q->external)
			direct_off(q->data_fd, data);
	}
	q->base.info.direct = direct;
	q->base.info.buffer_align = direct ? MAX(o->file->memory_align, data->memory_align) : 1;
}

static int engine_start(struct qcow2 *q, const struct block_format_open *o)
{
	uint64_t bytes = o->cache_bytes ? o->cache_bytes : CACHE_BYTES_DEFAULT;
	uint64_t l2_bytes = bytes / 4 * 3;
	int r = cache_init(&q->l2, q, q->slice_bytes, l2_bytes, o->cache_bytes ? l2_bytes : CACHE_BYTES_BOUND);

	q->dirty_max = MAX((unsigned)(MIN(bytes / 4, DIRTY_BYTES_MAX) / q->slice_bytes),
		DIRTY_SLICES_MIN);
	if (!r)
		q->l2.runs = l2_runs_new(q, bytes / 8);
	if (o->pin && o->warm && q->slice_bytes == QCOW2_WARM_SLICE_BYTES &&
		qcow2_warm_is_of(o->warm, o->pin->id))
		q->l2.warm = o->warm;
	if (!r)
		r = cache_init(&q->refs, q, q->slice_bytes, bytes / 4, bytes / 4);
	return r ? r : commit_init(q);
}

static void qcow2_free(struct block *b)
{
	struct qcow2 *q = qcow2_of(b);

	commit_done(q);
	if (q->l2.hash)
		cache_done(&q->l2);
	if (q->refs.hash)
		cache_done(&q->refs);
	meta_done(&q->meta);
	free(q->disk.l1.entries);
	bitmap_done(&q->disk.l1.dirty);
	free(q->reftable.entries);
	bitmap_done(&q->reftable.dirty);
	snapshot_vmstates_done(q);
	snapshots_done(q);
	bitmaps_done(q);
	free(q->header_piece);
	free(q->unpacked);
	while (q->pool) {
		struct qcow2_req *req = q->pool;

		q->pool = req->pool_next;
		free(req);
	}
	free(q);
}

/* A wait of a function that runs the loop until the wait is over. */
struct sync_wait {
	struct wait wait;
	bool done;
	int res;
};

static void sync_wait_run(struct wait *w, int res)
{
	struct sync_wait *c = container_of(w, struct sync_wait, wait);

	c->done = true;
	c->res = res;
}

static int lookup_sync(struct qcow2 *q, uint64_t off, uint64_t len, struct extent *ret)
{
	for (;;) {
		struct sync_wait c = { .wait.run = sync_wait_run };
		int r = map_lookup(q, &q->disk, off, len, &c.wait, ret);

		if (r != -EINPROGRESS)
			return r;
		while (!c.done)
			loop_run_once(q->base.loop, UINT64_MAX);
		if (c.res < 0)
			return c.res;
	}
}

static int qcow2_extent(struct block *b, uint64_t off, uint64_t len, struct block_extent *ret)
{
	struct qcow2 *q = qcow2_of(b);
	struct extent x;
	int r = lookup_sync(q, off, len, &x);

	if (r < 0)
		return r;
	*ret = (struct block_extent){ .zero = x.kind == EXTENT_ZERO, .len = x.len,
		.present = x.kind != EXTENT_UNALLOCATED, .compressed = x.kind == EXTENT_COMPRESSED,
		.has_host = x.has_host, .host = x.has_host ? x.host : 0 };
	if (x.kind == EXTENT_DATA)
		ret->zero = ret->preallocated = extent_is_hole(q, x.host, &ret->len);
	if (ret->present)
		return 0;
	ret->zero = true;
	if (backing_is_zero(q, &q->disk, off))
		return 0;
	r = block_extent(b->backing, off, MIN(x.len, b->backing->info.size_bytes - off), ret);
	ret->layer++;
	return r;
}

/* Commit until nothing is dirty: after a commit, clusters are freed, which changes refcounts again. */
static int qcow2_flush_all(struct block *b)
{
	struct qcow2 *q = qcow2_of(b);
	struct err e;
	int r = 0, stored = 0;

	qcow2_snapshot_close(q);
	if (!q->corrupt && !q->bitmaps.abandoned)
		stored = bitmaps_store(q, &e);
	if (stored < 0)
		log_error(q->base.name, "%s; the bitmaps that recorded writes stay marked as in use, and are lost", e.msg);
	while (!r && !q->corrupt && !commit_idle(q)) {
		struct sync_wait c = { .wait.run = sync_wait_run };

		commit_flush(q, &c.wait);
		while (!c.done || q->deferred_free.running)
			loop_run_once(b->loop, UINT64_MAX);
		r = c.res;
	}
	while (q->internal)
		loop_run_once(b->loop, UINT64_MAX);
	tail_cut(q);
	if (!r && q->corrupt)
		r = -EIO;
	if (!r)
		r = block_sync(b, b->fd);
	if (!r && q->external)
		r = block_sync(b, q->data_fd);
	return r ? r : stored;
}

static const struct block_ops qcow2_ops = { .submit = qcow2_submit, .extent = qcow2_extent,
	.flush_all = qcow2_flush_all, .resize = qcow2_resize, .free = qcow2_free };

static void info_set(struct qcow2 *q, const struct block_format_open *o)
{
	const struct block_file *data = q->external ? o->data_file : o->file;
	uint64_t file_bytes = o->file->size_bytes;
	struct stat st;

	/* The repair may have cut the file since o->file was filled in. */
	if (!o->file->is_device && !fstat(o->fd, &st))
		file_bytes = (uint64_t)st.st_size;
	q->base.info = (struct block_info){ .format = BLOCK_FORMAT_QCOW2,
		.size_bytes = ROUND_DOWN(q->h.size_bytes, 512),
		.logical_block_bytes = data->is_device ? data->offset_align : 512,
		.data_file = q->external, .refcount_order = (uint8_t)q->h.refcount_order,
		.discard_granularity = q->cluster_bytes, .read_only = o->read_only };
	direct_decide(q, o);
	q->is_device = o->file->is_device;
	q->can_punch = true;
	q->tail.file_bytes = file_bytes;
	/* A file reads as zeros past its end; a device does not. */
	q->fresh_from = q->is_device ? UINT64_MAX
				     : DIV_ROUND_UP(file_bytes, (uint64_t)q->cluster_bytes);
}

/* Set the L1 and the size in q->h to a snapshot's. snapshot: its id, else its name. */
static int snapshot_select(struct qcow2 *q, const char *snapshot, struct err *e)
{
	struct qcow2_snapshot_info *list, *s = NULL;
	size_t n;
	int r = qcow2_snapshots_read(q->base.fd, &q->h, &list, &n, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n && !s; i++)
		s = strcmp(list[i].id, snapshot) ? NULL : &list[i];
	for (size_t i = 0; i < n && !s; i++)
		s = strcmp(list[i].name, snapshot) ? NULL : &list[i];
	if (!s) {
		r = err_set(e, -ENOENT, ERR_NOT_FOUND, "%s has no snapshot '%s'", q->base.name, snapshot);
	} else if (!qcow2_l1_is_valid(q->base.fd, &q->h, s)) {
		r = err_set(e, -EINVAL, ERR_CORRUPT, "%s: the L1 table of snapshot '%s' is "
			"invalid", q->base.name, snapshot);
	} else {
		q->h.l1_offset = s->l1_offset;
		q->h.l1_size = s->l1_size;
		q->h.size_bytes = s->disk_bytes;
	}
	qcow2_snapshots_free(list, n);
	return r;
}

static int supported_check(struct qcow2 *q, const struct block_format_open *o, struct err *e)
{
	int r = qcow2_header_supported(&q->h, false, e);

	if (!r) {
		r = qcow2_repair_leaks(o, &q->h, e);
		if (r < 0)
			return r;
		r = qcow2_header_supported(&q->h, !o->read_only, e);
	}
	if (r < 0)
		err_prefix(e, "%s", q->base.name);
	return r;
}

int qcow2_open(const struct block_format_open *o, struct block **ret_b, struct err *e)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	int r;

	if (!q)
		return err_set_errno(e, -ENOMEM, "%s", o->name);
	block_init(&q->base, &qcow2_ops, o);
	q->base.fd = o->fd;
	q->bitmaps.lazy = o->lazy_bitmaps;
	wait_list_init(&q->gate);
	q->parts_max = PARTS_MAX;
	q->parts_bytes_max = PARTS_BYTES_MAX;
	wait_list_init(&q->parts_waiters);
	r = o->pin ? qcow2_pin_open(q, o->pin, o->pin_readable ? NULL : &o->pin_wait, e) : qcow2_header_read(o->fd, q->base.name, &q->h, e);
	if (!r)
		r = supported_check(q, o, e);
	if (!r)
		r = backing_check(q, o, e);
	if (!r)
		r = qcow2_data_open(q, o, e);
	if (!r && o->snapshot)
		r = snapshot_select(q, o->snapshot, e);
	if (r < 0)
		goto fail;
	geometry_set(q);
	info_set(q, o);
	/* The gate opens quickly where nothing is to be changed. */
	q->gate_shut = (q->h.autoclear & ~autoclear_known(q, false)) && !o->read_only;
	r = header_keep(q, e);
	if (!r)
		r = tables_load(q, e);
	if (!r && o->pin)
		r = qcow2_pin_check_l1(q, o->pin, e);
	if (!r) {
		r = engine_start(q, o);
		if (r < 0)
			err_set_errno(e, r, "%s", q->base.name);
	}
	if (r < 0)
		goto fail;
	*ret_b = &q->base;
	return 0;
fail:
	qcow2_free(&q->base);
	return r;
}
