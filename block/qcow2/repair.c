/* repair: sets each refcount to the number of references that the maps have to its cluster.
 *
 * Order, each group durable before the next. A power cut in between leaves the image no worse than
 * before:
 *    0 if the bitmaps are damaged, clear their autoclear bit, which removes them all
 *    1 walk the maps and count references: clear stray flags and replace invalid entries by zeros; then clear COPIED
 *      where a cluster has not exactly one user
 *    2 write new refcounts (table and blocks), and a new snapshot table if the old one has faults, to unused clusters
 *    3 set the new tables' offsets in the header: one sector
 *    4 set COPIED where a cluster has one user
 *    5 clear the dirty and corrupt bits, if a check finds nothing but leaks
 * Leaks alone are repaired in place, by lowering refcounts, unless the image has the dirty bit and all is to be
 * repaired. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/check_impl.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int sync_now(const struct checker *k)
{
	return fdatasync(k->fd) < 0 ? -errno : 0;
}

/* ---- the header: one sector, written as a whole ---- */

#define HEADER_SECTOR_BYTES 512u

static int header_load(int fd, uint8_t *p)
{
	return pread_full(fd, p, HEADER_SECTOR_BYTES, 0);
}

static int header_store(int fd, const uint8_t *p)
{
	int r = pwrite_full(fd, p, HEADER_SECTOR_BYTES, 0);

	return r < 0 ? r : fdatasync(fd) < 0 ? -errno : 0;
}

int qcow2_autoclear_drop(int fd, struct qcow2_header *h, uint64_t drop)
{
	uint64_t keep = h->autoclear & ~drop &
			(QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA);
	uint8_t p[HEADER_SECTOR_BYTES];
	int r;

	if (h->version < 3 || keep == h->autoclear)
		return 0;
	r = header_load(fd, p);
	if (r < 0)
		return r;
	store_be64(p + QCOW2_AT_AUTOCLEAR, keep);
	h->autoclear = keep;
	return header_store(fd, p);
}

static int marks_clear(int fd, struct qcow2_header *h)
{
	uint64_t keep = h->incompatible & ~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
	uint8_t p[HEADER_SECTOR_BYTES];
	int r;

	if (keep == h->incompatible)
		return 0;
	r = header_load(fd, p);
	if (r < 0)
		return r;
	store_be64(p + QCOW2_AT_INCOMPATIBLE, keep);
	r = header_store(fd, p);
	if (!r)
		h->incompatible = keep;
	return r;
}

/* ---- repairing COPIED bits ---- */

/* Set COPIED in an entry whose cluster has one user (set), or clear it if the cluster has not exactly one (!set).
 * Returns true if the entry has changed. */
static bool copied_fix(const struct checker *k, uint64_t *e, bool set)
{
	uint64_t c = (*e & QCOW2_OFFSET_MASK) >> k->cluster_bits;
	bool alone = c && c < k->n && k->used[c] == 1;

	if (!c || (*e & QCOW2_COMPRESSED) || alone == !!(*e & QCOW2_COPIED) || alone != set)
		return false;
	*e ^= QCOW2_COPIED;
	return true;
}

/* Like copied_fix(), for an entry that names a cluster of a data file, where every cluster has exactly one user.
 * At offset 0, only COPIED marks a cluster as present. */
static bool copied_external(uint64_t *e, bool set)
{
	if (!set || (*e & (QCOW2_COMPRESSED | QCOW2_COPIED)) || !(*e & QCOW2_OFFSET_MASK))
		return false;
	*e |= QCOW2_COPIED;
	return true;
}

static int copied_l2(struct checker *k, uint64_t off, bool set)
{
	uint32_t step = k->h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 2 : 1;
	uint64_t n = k->cluster_bytes / 8;
	bool changed = false;
	int r = checker_load(k, k->table, off, n);

	for (uint64_t i = 0; !r && i < n; i += step)
		changed |= k->external ? copied_external(&k->table[i], set)
				       : copied_fix(k, &k->table[i], set);
	return r || !changed ? r : checker_store(k, k->table, off, n);
}

/* Set COPIED where it is missing, or clear it where it is wrong. Call it after checker_walk(). */
static int copied_walk(struct checker *k, bool set)
{
	uint32_t n = k->h->l1_size;
	CLEANUP_FREE uint64_t *t = io_buffer_new(ROUND_UP(MAX(n, 1u) * 8ULL, 4096));
	bool changed = false;
	int r = t ? checker_load(k, t, k->h->l1_offset, n) : -ENOMEM;

	for (uint32_t i = 0; i < n && !r; i++) {
		uint64_t l2 = t[i] & QCOW2_OFFSET_MASK;

		if (!l2 || l2 >> k->cluster_bits >= k->n || (l2 & (k->cluster_bytes - 1)))
			continue;
		changed |= copied_fix(k, &t[i], set);
	}
	/* If a table has two users, no cluster below it has a single user. */
	for (size_t i = 0; i < k->nl2 && !r; i++)
		if (k->l2[i].active && (!set || k->used[k->l2[i].off >> k->cluster_bits] == 1))
			r = copied_l2(k, k->l2[i].off, set);
	if (!r && changed)
		r = checker_store(k, t, k->h->l1_offset, n);
	return r ? r : sync_now(k);
}

/* ---- repairing leaks in place ---- */

static int leaks_block(struct checker *k, uint64_t block, uint64_t off)
{
	uint32_t order = k->h->refcount_order;
	uint64_t per_block = (uint64_t)k->cluster_bytes * 8 >> order;
	uint8_t *buf = (uint8_t *)k->table;
	bool changed = false;
	int r = qcow2_pread(k->fd, buf, k->cluster_bytes, off);

	for (uint64_t i = 0; i < per_block && !r; i++) {
		uint64_t c = block * per_block + i, want = c < k->n ? k->used[c] : 0;

		if (checker_ref(order, buf, i) <= want)
			continue;
		checker_ref_set(order, buf, i, want);
		if (c < k->n)
			k->refs[c] = (uint32_t)want;
		changed = true;
	}
	return r || !changed ? r : pwrite_full(k->fd, buf, k->cluster_bytes, (off_t)off);
}

static int leaks_fix(struct checker *k)
{
	uint64_t n = (uint64_t)k->h->reftable_clusters * k->cluster_bytes / 8;
	CLEANUP_FREE uint64_t *t = io_buffer_new(ROUND_UP(n * 8, 4096));
	int r = t ? checker_load(k, t, k->h->reftable_offset, n) : -ENOMEM;

	for (uint64_t i = 0; i < n && !r; i++) {
		uint64_t c = t[i] >> k->cluster_bits;

		/* Skip a block that is also used for something else. */
		if (t[i] && !(t[i] & (k->cluster_bytes - 1)) && c < k->n && k->used[c] == 1)
			r = leaks_block(k, i, t[i]);
	}
	return r ? r : sync_now(k);
}

static bool only_leaks(const struct checker *k)
{
	for (uint64_t c = 0; c < k->n; c++)
		if (k->refs[c] < k->used[c])
			return false;
	return true;
}

static int repair_leaks(int fd, struct qcow2_header *h, struct err *e)
{
	struct qcow2_check scratch = { 0 };
	struct checker k;
	int r = checker_run(&k, fd, h, &scratch, e);

	/* If tables cannot be read, clusters that look unused may be in use. */
	if (!r && scratch.errors)
		r = err_set(e, -EIO, ERR_IO, "tables cannot be read; nothing was repaired");
	else if (!r && !scratch.corruptions) { /* a damaged entry may name a cluster that looks leaked */
		r = leaks_fix(&k);
		if (!r && only_leaks(&k))
			r = copied_walk(&k, true);
		if (r < 0)
			err_set_errno(e, r, "cannot write the repaired refcounts");
	}
	checker_done(&k);
	return r;
}

/* ---- building new refcounts ---- */

struct rebuild {
	struct checker *k;
	struct bitmap old; /* clusters of the old table and blocks, and of a snapshot table to replace; in use until the switch */
	uint32_t order;
	uint64_t per_block;
	uint64_t *blocks; /* numbers of the needed blocks */
	/* The place of all new clusters begins at `start`: those of `add`, the table, the blocks. */
	const struct rebuild_addition *add;
	uint64_t nblocks, table_clusters, start;
};

static uint64_t table_start(const struct rebuild *b)
{
	return b->start + b->add->clusters;
}

static void old_add(struct rebuild *b, uint64_t off, uint64_t n)
{
	uint64_t c = off >> b->k->cluster_bits;

	for (uint64_t i = 0; i < n; i++)
		if (c + i < b->k->n)
			bitmap_set(&b->old, c + i);
}

static int old_mark(struct rebuild *b)
{
	struct checker *k = b->k;
	uint64_t n = (uint64_t)k->h->reftable_clusters * k->cluster_bytes / 8;
	CLEANUP_FREE uint64_t *t = io_buffer_new(ROUND_UP(MAX(n, 1u) * 8, 4096));
	int r = t ? bitmap_init(&b->old, k->n + 1) : -ENOMEM;

	if (!r)
		r = checker_load(k, t, k->h->reftable_offset, n);
	if (r < 0)
		return r;
	old_add(b, k->h->reftable_offset, k->h->reftable_clusters);
	for (uint64_t i = 0; i < n; i++)
		if (t[i])
			old_add(b, t[i], 1);
	old_add(b, k->h->snapshots_offset, DIV_ROUND_UP(k->snapshots_bytes, (uint64_t)k->cluster_bytes));
	return 0;
}

/* Returns the start of the first run of len unused clusters; else of the shorter run at the end of the file,
 * beyond which the file must grow. */
static uint64_t place_find(const struct rebuild *b, uint64_t len)
{
	const struct checker *k = b->k;
	uint64_t n = 0;

	for (uint64_t c = 1; c < k->n; c++) {
		n = k->used[c] || bitmap_test(&b->old, c) ? 0 : n + 1;
		if (n == len)
			return c + 1 - len;
	}
	return k->n - n;
}

static bool block_needed(const struct rebuild *b, uint64_t block, uint64_t len)
{
	const struct checker *k = b->k;
	uint64_t first = block * b->per_block, end = MIN(first + b->per_block, k->n);

	if (first < b->start + len && b->start < first + b->per_block)
		return true;
	for (uint64_t c = first; c < end; c++)
		if (k->used[c])
			return true;
	return false;
}

/* Choose the places of the new table and blocks. These clusters may need one more block, which
 * needs a place, too. */
static int rebuild_plan(struct rebuild *b)
{
	struct checker *k = b->k;
	uint64_t want = 1;

	b->table_clusters = 1;
	for (unsigned tries = 0; tries < 64; tries++) {
		uint64_t len = b->add->clusters + want + b->table_clusters, end, n = 0, max;

		b->start = place_find(b, len);
		end = MAX(k->n, b->start + len);
		max = DIV_ROUND_UP(end, b->per_block);
		free(b->blocks);
		b->blocks = calloc(max + 1, sizeof(*b->blocks));
		if (!b->blocks)
			return -ENOMEM;
		for (uint64_t i = 0; i < max; i++)
			if (block_needed(b, i, len))
				b->blocks[n++] = i;
		b->nblocks = want;
		max = MAX(DIV_ROUND_UP(max * 8, (uint64_t)k->cluster_bytes), b->table_clusters);
		if (n <= want && max == b->table_clusters) {
			/* Fewer blocks may suffice; the surplus clusters of the place stay unused. */
			b->nblocks = n;
			return 0;
		}
		want = MAX(want, n);
		b->table_clusters = max;
		if (max * k->cluster_bytes > QCOW2_REFTABLE_BYTES_MAX)
			return -EFBIG;
	}
	return -EFBIG;
}

/* Returns the refcount of a new cluster; 0 for other clusters. */
static uint64_t new_cluster_refs(const struct rebuild *b, uint64_t c)
{
	uint64_t i = c - b->start;

	if (c < b->start || c >= table_start(b) + b->table_clusters + b->nblocks)
		return 0;
	return i >= b->add->clusters ? 1 : MIN(b->add->refs_each, b->add->refs - i * b->add->refs_each);
}

static int block_build(struct rebuild *b, uint64_t at, struct err *e)
{
	struct checker *k = b->k;
	uint8_t *buf = (uint8_t *)k->table;
	uint64_t max = b->order == 6 ? UINT64_MAX : (1ULL << (1u << b->order)) - 1;

	memset(buf, 0, k->cluster_bytes);
	for (uint64_t i = 0; i < b->per_block; i++) {
		uint64_t c = b->blocks[at] * b->per_block + i, v = new_cluster_refs(b, c);

		if (!v)
			v = c < k->n ? k->used[c] : 0;
		if (v > max)
			return err_set(e, -ERANGE, ERR_UNSUPPORTED, "cluster %llu is used %llu times, which "
				"refcounts of %u bits cannot hold; convert the image into a new one", (unsigned long long)c, (unsigned long long)v,
				1u << b->order);
		if (v)
			checker_ref_set(b->order, buf, i, v);
	}
	return 0;
}

static int addition_write(const struct rebuild *b)
{
	struct checker *k = b->k;
	int r = 0;

	memset(k->table, 0, k->cluster_bytes);
	for (uint64_t i = 0; i < b->add->clusters && !r; i++)
		r = pwrite_full(k->fd, b->add->data ? b->add->data + (i << k->cluster_bits) : (uint8_t *)k->table,
			k->cluster_bytes, (off_t)((b->start + i) << k->cluster_bits));
	return r;
}

static int rebuild_write(struct rebuild *b, struct err *e)
{
	struct checker *k = b->k;
	uint64_t n = b->table_clusters * k->cluster_bytes / 8;
	CLEANUP_FREE uint64_t *t = calloc(n, 8);
	int r = t ? addition_write(b) : -ENOMEM;

	for (uint64_t i = 0; i < b->nblocks && !r; i++) {
		uint64_t at = (table_start(b) + b->table_clusters + i) << k->cluster_bits;

		r = block_build(b, i, e);
		if (r < 0)
			return r;
		t[b->blocks[i]] = at;
		r = pwrite_full(k->fd, k->table, k->cluster_bytes, (off_t)at);
	}
	if (!r)
		r = checker_store(k, t, table_start(b) << k->cluster_bits, n);
	if (!r)
		r = sync_now(k);
	return r < 0 ? err_set_errno(e, r, "cannot write new refcounts") : 0;
}

static int rebuild_switch(struct rebuild *b, struct qcow2_header *h)
{
	struct checker *k = b->k;
	struct qcow2_header new = *h;
	uint8_t p[HEADER_SECTOR_BYTES];
	int r = header_load(k->fd, p);

	if (r < 0)
		return r;
	new.reftable_offset = table_start(b) << k->cluster_bits;
	new.reftable_clusters = (uint32_t)b->table_clusters;
	new.refcount_order = b->order;
	new.nb_snapshots = (uint32_t)k->nsnapshots;
	if (k->snapshots_rewrite)
		new.snapshots_offset = b->start << k->cluster_bits;
	store_be64(p + QCOW2_AT_REFTABLE_OFFSET, new.reftable_offset);
	store_be32(p + QCOW2_AT_REFTABLE_CLUSTERS, new.reftable_clusters);
	store_be32(p + QCOW2_AT_NB_SNAPSHOTS, new.nb_snapshots);
	store_be64(p + QCOW2_AT_SNAPSHOTS_OFFSET, new.snapshots_offset);
	if (h->version >= 3)
		store_be32(p + QCOW2_AT_REFCOUNT_ORDER, b->order);
	r = header_store(k->fd, p);
	if (!r)
		*h = new;
	return r;
}

int checker_rebuild(struct checker *k, struct qcow2_header *h, uint32_t order, const struct rebuild_addition *add,
	uint64_t *ret_place, struct err *e)
{
	struct rebuild b = { .k = k, .order = order, .add = add,
		.per_block = (uint64_t)k->cluster_bytes * 8 >> order };
	struct stat st;
	int r = fstat(k->fd, &st) < 0 ? -errno : old_mark(&b);

	if (!r)
		r = rebuild_plan(&b);
	if (!r && S_ISBLK(st.st_mode) && table_start(&b) + b.table_clusters + b.nblocks > k->n)
		r = -ENOSPC;
	if (r < 0) {
		err_set_errno(e, r, "cannot find room for new refcounts");
	} else {
		r = rebuild_write(&b, e);
		if (!r) {
			r = rebuild_switch(&b, h);
			if (r < 0)
				err_set_errno(e, r, "cannot write the header");
		}
	}
	*ret_place = b.start << k->cluster_bits;
	bitmap_done(&b.old);
	free(b.blocks);
	return r;
}

/* Rebuild the refcounts and, if it has faults, the snapshot table. */
static int tables_rebuild(struct checker *k, struct qcow2_header *h, uint32_t order, struct err *e)
{
	CLEANUP_FREE uint8_t *buf = NULL;
	struct rebuild_addition add = { .refs_each = 1 };
	uint64_t bytes = 0, place;
	int r = k->snapshots_rewrite ? snapshots_serialize(k->snapshots, k->nsnapshots, k->cluster_bytes, &buf, &bytes) : 0;

	if (r < 0)
		return err_set_errno(e, r, "cannot make a new snapshot table");
	add.data = buf;
	add.clusters = add.refs = bytes >> k->cluster_bits;
	return checker_rebuild(k, h, order, &add, &place, e);
}

/* report: gets a line for each repaired entry of the snapshot table. */
static int rebuild_all(int fd, struct qcow2_header *h, uint32_t order, const struct qcow2_check *report, struct err *e)
{
	struct qcow2_check scratch = { .report = report->report, .opaque = report->opaque };
	struct checker k;
	int r;

	if (h->version < 3 && order != 4)
		return err_set(e, -EINVAL, ERR_INVALID, "an image of version 2 has refcounts of 16 bits; "
			"use `cairn-img amend -o compat=1.1` first");
	r = checker_init(&k, fd, h, &scratch, e);
	k.fix = true;
	if (!r) {
		r = qcow2_autoclear_drop(fd, h, 0);
		if (r < 0)
			err_set_errno(e, r, "cannot write the header");
	}
	if (!r)
		r = checker_walk(&k, e);
	if (!r && scratch.errors)
		r = err_set(e, -EIO, ERR_IO, "tables cannot be read; the refcounts stay as they are");
	if (!r) {
		r = copied_walk(&k, false);
		if (r < 0)
			err_set_errno(e, r, "cannot write the maps");
	}
	if (!r)
		r = tables_rebuild(&k, h, order, e);
	if (!r) {
		r = copied_walk(&k, true);
		if (r < 0)
			err_set_errno(e, r, "cannot write the maps");
	}
	if (!r && k.raw_lost)
		r = qcow2_autoclear_drop(fd, h, QCOW2_AUTOCLEAR_RAW_DATA);
	checker_done(&k);
	return r;
}

int qcow2_refcounts_rebuild(int fd, struct qcow2_header *h, uint32_t order, struct err *e)
{
	return rebuild_all(fd, h, order, &(struct qcow2_check){ 0 }, e);
}

/* ---- repairing everything ---- */

/* Rebuild the refcounts, with more bits if a cluster has more users than the present ones can count. */
static int rebuild_wide_enough(int fd, struct qcow2_header *h, struct qcow2_check *c, struct err *e)
{
	uint32_t old = h->refcount_order, order = old;
	char line[80];
	int r = rebuild_all(fd, h, order, c, e);

	while (r == -ERANGE && h->version >= 3 && order < 6)
		r = rebuild_all(fd, h, ++order, &(struct qcow2_check){ 0 }, e); /* without its report a second time */
	if (!r && order > old && c->report) {
		snprintf(line, sizeof(line), "Widened the refcounts from %u to %u bits", 1u << old, 1u << order);
		c->report(c->opaque, line);
	}
	return r;
}

/* Where the check before a repair reports its findings. */
struct repair_report {
	const struct qcow2_check *c;
	enum qcow2_repair how;
};

/* Report a wrong refcount that is going to be repaired. Other faults are counted. */
static void repair_line(void *opaque, const char *line)
{
	static const char leaked[] = "Leaked cluster ", error[] = "ERROR cluster ";
	const struct repair_report *r = opaque;
	size_t skip = !strncmp(line, leaked, strlen(leaked)) ? strlen("Leaked")
		: r->how == QCOW2_REPAIR_ALL && !strncmp(line, error, strlen(error)) && strstr(line, " refcount=")
		? strlen("ERROR") : 0;
	char text[80];

	if (!skip)
		return;
	snprintf(text, sizeof(text), "Repairing%s", line + skip);
	r->c->report(r->c->opaque, text);
}

static void repair_progress(void *opaque, uint64_t done, uint64_t total)
{
	const struct repair_report *r = opaque;

	r->c->progress(r->c->opaque, done, total);
}

int qcow2_repair(int fd, struct qcow2_header *h, enum qcow2_repair how, struct qcow2_check *c,
	struct err *e)
{
	struct repair_report report = { c, how };
	struct qcow2_check before = { .report = c->report ? repair_line : NULL,
		.progress = c->progress ? repair_progress : NULL, .opaque = &report };
	int r = qcow2_autoclear_drop(fd, h, 0);

	if (r < 0)
		return err_set_errno(e, r, "cannot write the header");
	r = qcow2_check(fd, h, &before, e);
	if (!r && how == QCOW2_REPAIR_ALL && before.bitmaps_damaged)
		r = qcow2_drop_bitmaps(fd, h, e);
	if (!r && how == QCOW2_REPAIR_ALL &&
		(before.corruptions || (h->incompatible & QCOW2_INCOMPAT_DIRTY)))
		r = rebuild_wide_enough(fd, h, c, e);
	else if (!r && before.leaks)
		r = repair_leaks(fd, h, e);
	if (!r)
		r = qcow2_check(fd, h, c, e);
	if (r < 0)
		return r;
	c->corruptions_fixed = before.corruptions - MIN(before.corruptions, c->corruptions);
	c->leaks_fixed = before.leaks - MIN(before.leaks, c->leaks);
	if (!c->corruptions && !c->errors) {
		r = marks_clear(fd, h);
		if (r < 0)
			err_set_errno(e, r, "cannot write the header");
	}
	return r;
}
