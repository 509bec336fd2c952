/* check: counts every reference in the image and compares the counts with its refcounts. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/bitmap.h"
#include "block/qcow2/check_impl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Limit on the image's size: 12 bytes of address space per cluster; untouched pages take no memory. */
#define CHECK_CLUSTERS_MAX (1ULL << 28)
/* The counts are charged by pages of this many clusters. */
#define PAGE_CLUSTERS 1024u
#define PAGE_BYTES (PAGE_CLUSTERS * sizeof(uint32_t))
/* The memory for counts that a file may have for each byte of its space. Clusters with a count come with at least 4 KiB
 * of the file for a page of each of three counts, and for pages of bitmaps: a cluster of data, or 10 bytes of
 * preallocated metadata for each. */
#define MEMORY_FACTOR 4
#define CHECK_PROGRESS_TABLES 64u
#define ALL_ZERO 0xffffffff00000000ULL /* the bitmap of an extended L2 entry */

static void fault_report(struct checker *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void fault_report(struct checker *k, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	if (!k->c->report)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	k->c->report(k->c->opaque, line);
}

/* A repair walks the image again, and does not repeat the check's reports. */
#define BAD(k, ...) ((k)->c->corruptions++, (k)->fix ? (void)0 : fault_report(k, "ERROR " __VA_ARGS__))
/* A fault of the snapshot table. `does`: the word that a repair says. */
#define BAD_SNAPSHOT(k, does, fmt, ...)                                                            \
	((k)->c->corruptions++, fault_report(k, "%s " fmt, (k)->fix ? (does) : "ERROR", __VA_ARGS__))

/* ---- memory ---- */

enum count_kind { COUNT_USED, COUNT_REFS, COUNT_L2_REFS, COUNT_KINDS };

/* Charge the page of a count before it becomes other than 0. Returns false if that exceeds the budget. */
static bool count_charge(struct checker *k, enum count_kind kind, uint64_t c)
{
	uint64_t page = c / PAGE_CLUSTERS * COUNT_KINDS + kind;

	if (bitmap_test(&k->touched, page))
		return true;
	if (!budget_take(&k->memory, PAGE_BYTES)) {
		k->exceeded = true;
		return false;
	}
	bitmap_set(&k->touched, page);
	return true;
}

static int memory_exceeded(const struct checker *k, struct err *e)
{
	return err_set(e, -EDQUOT, ERR_UNSUPPORTED, "a check of the image needs more than %llu MiB of memory, but its file has only "
		"%llu MiB of data; copy the image with `cairn-img convert`", (unsigned long long)(k->memory.max_bytes / MIB),
		(unsigned long long)(qcow2_allocated_bytes(k->fd) / MIB));
}

/* ---- counting references ---- */

/* Add `times` references to the clusters of [off, off + len). Returns false if the range is outside
 * the file. */
static bool cluster_use_times(struct checker *k, uint64_t off, uint64_t len, uint32_t times, const char *what)
{
	if (!len)
		return true;
	if (!range_inside(off, len, k->n << k->cluster_bits)) {
		BAD(k, "%s at 0x%llx lies past the end of the file", what, (unsigned long long)off);
		return false;
	}
	for (uint64_t c = off >> k->cluster_bits; c <= (off + len - 1) >> k->cluster_bits; c++)
		if (count_charge(k, COUNT_USED, c))
			k->used[c] += MIN(times, UINT32_MAX - k->used[c]);
	return true;
}

static bool cluster_use(struct checker *k, uint64_t off, uint64_t len, const char *what)
{
	return cluster_use_times(k, off, len, 1, what);
}

int checker_load(struct checker *k, uint64_t *t, uint64_t off, uint64_t n)
{
	int r = qcow2_pread(k->fd, t, ROUND_UP(n * 8, 4096), off);

	if (r < 0) {
		k->c->errors++;
		fault_report(k, "ERROR cannot read a table at 0x%llx: %s", (unsigned long long)off,
			strerror(-r));
		return r;
	}
	for (uint64_t i = 0; i < n; i++)
		t[i] = be64toh(t[i]);
	return 0;
}

int checker_store(struct checker *k, const uint64_t *t, uint64_t off, uint64_t n)
{
	CLEANUP_FREE uint64_t *be = malloc(n * 8);

	if (!be)
		return -ENOMEM;
	for (uint64_t i = 0; i < n; i++)
		be[i] = htobe64(t[i]);
	return pwrite_full(k->fd, be, n * 8, (off_t)off);
}

/* Read a table into new memory. Returns NULL if it cannot be read. */
static uint64_t *table_load(struct checker *k, uint64_t off, uint64_t n)
{
	uint64_t *t = io_buffer_new(ROUND_UP(MAX(n, 1u) * 8, 4096));

	if (!t)
		k->c->errors++;
	else if (checker_load(k, t, off, n) == 0)
		return t;
	free(t);
	return NULL;
}

static void table_store(struct checker *k, const uint64_t *t, uint64_t off, uint64_t n)
{
	if (k->changed && checker_store(k, t, off, n) < 0)
		k->c->errors++;
	k->changed = false;
}

static bool offset_is_aligned(const struct checker *k, uint64_t off)
{
	return !(off & (k->cluster_bytes - 1));
}

/* ---- reading the image's refcounts ---- */

uint64_t checker_ref(uint32_t order, const uint8_t *p, uint64_t i)
{
	uint32_t bits = 1u << order;

	if (order < 3)
		return p[i * bits / 8] >> (i * bits % 8) & ((1u << bits) - 1);
	p += i << (order - 3);
	return order == 3 ? *p : order == 4 ? load_be16(p) : order == 5 ? load_be32(p) : load_be64(p);
}

void checker_ref_set(uint32_t order, uint8_t *p, uint64_t i, uint64_t v)
{
	uint32_t bits = 1u << order, shift = (uint32_t)(i * bits % 8);

	if (order < 3) {
		p += i * bits / 8;
		*p = (uint8_t)((*p & ~(((1u << bits) - 1) << shift)) | v << shift);
		return;
	}
	for (uint32_t n = bits / 8; n--; v >>= 8)
		p[(i << (order - 3)) + n] = (uint8_t)v;
}

/* Read the refcounts of n clusters from cluster `first` on. */
static void block_load(struct checker *k, uint64_t first, uint64_t n, uint64_t off)
{
	CLEANUP_FREE uint8_t *buf = io_buffer_new(k->cluster_bytes);
	int r = buf ? qcow2_pread(k->fd, buf, ROUND_UP(k->cluster_bytes, 512u), off) : -ENOMEM;

	if (r < 0) {
		k->c->errors++;
		return;
	}
	for (uint64_t i = 0; i < n; i++) {
		uint64_t c = first + i, v = checker_ref(k->h->refcount_order, buf, i);

		if (!v)
			continue;
		if (c >= k->n)
			k->c->leaks++; /* beyond the end of the file */
		else if (count_charge(k, COUNT_REFS, c))
			k->refs[c] = (uint32_t)MIN(v, UINT32_MAX);
	}
}

static void counts_mark(struct checker *k, uint64_t off, uint64_t len)
{
	for (uint64_t c = off >> k->cluster_bits; c <= (off + len - 1) >> k->cluster_bits; c++)
		bitmap_set(&k->counts, c);
}

/* Read the image's refcounts and count the clusters of their table and blocks. */
static void checker_refcounts(struct checker *k)
{
	uint64_t n = (uint64_t)k->h->reftable_clusters * k->cluster_bytes / 8;
	uint64_t per_block = (uint64_t)k->cluster_bytes * 8 >> k->h->refcount_order;
	CLEANUP_FREE uint64_t *t = table_load(k, k->h->reftable_offset, n);

	if (n && cluster_use(k, k->h->reftable_offset, n * 8, "the refcount table"))
		counts_mark(k, k->h->reftable_offset, n * 8);
	for (uint64_t i = 0; t && i < n && !k->exceeded; i++) {
		uint64_t off = t[i];

		if (!off)
			continue;
		if ((off & QCOW2_REFTABLE_RESERVED) || !offset_is_aligned(k, off) || off >= QCOW2_OFFSET_END) {
			BAD(k, "refcount block %llu is misaligned (0x%llx)", (unsigned long long)i,
				(unsigned long long)off);
			continue;
		}
		if (!cluster_use(k, off, k->cluster_bytes, "a refcount block"))
			continue;
		/* Of blocks beyond the end of the file, a table can name one any number of times. */
		if (i * per_block < k->n || !bitmap_test(&k->counts, off >> k->cluster_bits))
			block_load(k, i * per_block, per_block, off);
		counts_mark(k, off, k->cluster_bytes);
	}
}

/* ---- counting the references of maps ---- */

static void check_copied(struct checker *k, uint64_t off, bool copied, const char *what)
{
	uint64_t c = off >> k->cluster_bits;

	if (c >= k->n || k->fix || (k->refs[c] == 1) == copied)
		return;
	/* A crash during a snapshot operation can leave a COPIED bit set that should be clear, or clear
	 * that should be set. The first is only dangerous if the cluster has several users, which is not
	 * known yet. The second costs only a needless copy. */
	if (copied) {
		bitmap_set(&k->suspects, c);
		return;
	}
	k->c->leaks++;
	fault_report(k, "COPIED of the %s at 0x%llx is missing", what, (unsigned long long)off);
}

static bool compressed_ok(struct checker *k, uint64_t e, const struct checker_l2 *l2)
{
	uint32_t x = 62 - (k->cluster_bits - 8);
	uint64_t off = e & ((1ULL << x) - 1), n = ((e & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> x) + 1;
	uint64_t end = k->n << k->cluster_bits;

	if (k->external) {
		BAD(k, "a compressed cluster (0x%llx), which a data file cannot have",
			(unsigned long long)off);
		return false;
	}
	if (e & QCOW2_COPIED) {
		BAD(k, "a compressed cluster (0x%llx) is marked COPIED", (unsigned long long)off);
		if (k->fix)
			return false;
	}
	if (l2->active) {
		k->c->compressed_clusters++;
		k->c->allocated_clusters++;
		k->c->fragmented_clusters++;
	}
	if (off < k->cluster_bytes) {
		BAD(k, "a compressed cluster (0x%llx) lies in the header", (unsigned long long)off);
		return false;
	}
	return cluster_use_times(k, off, MAX(MIN(n * 512 - (off & 511), end - MIN(off, end)), 1u),
		k->l2_refs[l2->off >> k->cluster_bits], "a compressed cluster");
}

static void data_count(struct checker *k, uint64_t off)
{
	k->c->allocated_clusters++;
	if (k->next_data && off != k->next_data)
		k->c->fragmented_clusters++;
	k->next_data = off + k->cluster_bytes;
}

/* Returns true if the entry's cluster in the data file lies at its guest offset. */
static bool external_ok(struct checker *k, uint64_t e, uint64_t guest)
{
	uint64_t off = e & QCOW2_OFFSET_MASK;

	if (off != guest) {
		BAD(k, "the cluster of offset 0x%llx lies at 0x%llx of the data file, not at its own place",
			(unsigned long long)guest, (unsigned long long)off);
		return false;
	}
	if (!(e & QCOW2_COPIED) && !k->fix) {
		k->c->leaks++;
		fault_report(k, "COPIED of the data cluster at 0x%llx is missing", (unsigned long long)off);
	}
	data_count(k, off);
	return true;
}

static bool plain_ok(struct checker *k, uint64_t e, uint64_t bitmap, uint64_t guest,
	const struct checker_l2 *l2)
{
	bool ext = k->h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
	uint64_t off = e & QCOW2_OFFSET_MASK, allocated = bitmap & 0xffffffff;
	bool has_host = off || (k->external && (e & QCOW2_COPIED));

	if ((e & QCOW2_L2_RESERVED) || !offset_is_aligned(k, off) ||
		((e & QCOW2_ZERO) && (ext || k->h->version < 3)) || (allocated & bitmap >> 32) ||
		(allocated && !has_host)) {
		BAD(k, "an L2 entry is invalid (0x%016llx)", (unsigned long long)e);
		return false;
	}
	if (!has_host)
		return true;
	if (k->external)
		return external_ok(k, e, guest);
	if (!cluster_use_times(k, off, k->cluster_bytes, k->l2_refs[l2->off >> k->cluster_bits],
		    "a data cluster"))
		return false;
	if (l2->active) {
		check_copied(k, off, e & QCOW2_COPIED, "data cluster");
		data_count(k, off);
	}
	return true;
}

/* Replace an invalid entry by one that reads as zeros, also if there is a backing file (but version 2, which has
 * no zero flag, then reads from the backing file). With a raw data file, the entry names the cluster at its guest
 * offset instead. */
static void entry_clear(struct checker *k, uint64_t *e, uint64_t *bitmap, uint64_t guest)
{
	bool ext = k->h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2, packed = *e & QCOW2_COMPRESSED;

	*e = 0;
	if (k->raw) {
		*e = guest | QCOW2_COPIED;
		if (bitmap)
			*bitmap = 0xffffffff;
	} else if (bitmap) /* subclusters without data in the cluster keep their meaning */
		*bitmap = !k->h->has_backing ? 0 : packed ? ALL_ZERO : (*bitmap | *bitmap << 32) & ALL_ZERO;
	else if (!ext && k->h->has_backing && k->h->version >= 3)
		*e = QCOW2_ZERO;
	k->changed = true;
}

/* Clear stray flags and bits of the bitmap, and keep the entry's cluster. */
static void entry_repair(struct checker *k, uint64_t *e, uint64_t *bitmap)
{
	bool ext = k->h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
	uint64_t v = *e, b = bitmap ? *bitmap : 0;

	if (v & QCOW2_COMPRESSED)
		v &= ~QCOW2_COPIED;
	else
		v &= ~(QCOW2_L2_RESERVED | (ext || k->h->version < 3 ? QCOW2_ZERO : 0));
	if (b) /* both allocated and zero: make it zero */
		b &= ~(b >> 32) &
		     ~(v & QCOW2_OFFSET_MASK || (k->external && (v & QCOW2_COPIED)) ? 0 : 0xffffffffULL);
	k->changed |= v != *e || (bitmap && b != *bitmap);
	*e = v;
	if (bitmap)
		*bitmap = b;
}

static void check_l2(struct checker *k, const struct checker_l2 *l2)
{
	uint32_t step = k->h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 2 : 1;
	uint64_t n = k->cluster_bytes / 8, *t = k->table, c = l2->off >> k->cluster_bits;
	/* Do not write to a cluster that is also used for something else. */
	bool fix = k->fix && k->used[c] == k->l2_refs[c];

	k->next_data = 0;
	if (checker_load(k, t, l2->off, n) < 0)
		return;
	for (uint64_t i = 0; i < n; i += step) {
		uint64_t *second = step == 2 ? &t[i + 1] : NULL, bitmap;
		uint64_t guest = l2->guest + (i / step << k->cluster_bits);
		bool ok;

		if (fix)
			entry_repair(k, &t[i], second);
		bitmap = second ? *second : 0;
		if (!t[i] && !bitmap)
			continue;
		ok = t[i] & QCOW2_COMPRESSED ? compressed_ok(k, t[i], l2)
					     : plain_ok(k, t[i], bitmap, guest, l2);
		if (!ok && fix)
			entry_clear(k, &t[i], second, guest);
	}
	table_store(k, t, l2->off, n);
}

/* Note an L2 table for a later walk, or count one more L1 entry that names it: snapshots share tables, and a
 * hostile image may name one a million times. Each table is walked once, when its number of users is known. */
static bool l2_note(struct checker *k, uint64_t off, uint64_t guest, bool active)
{
	uint32_t *refs = &k->l2_refs[off >> k->cluster_bits];

	if (*refs) {
		*refs += *refs != UINT32_MAX;
		return true;
	}
	if (!count_charge(k, COUNT_L2_REFS, off >> k->cluster_bits))
		return true;
	if (k->nl2 == k->l2_room) {
		size_t room = k->l2_room ? 2 * k->l2_room : 64;
		struct checker_l2 *l2;

		if (!budget_take(&k->memory, (room - k->l2_room) * sizeof(*l2))) {
			k->exceeded = true;
			return true;
		}
		l2 = realloc(k->l2, room * sizeof(*l2));
		if (!l2)
			return false;
		k->l2 = l2;
		k->l2_room = room;
	}
	k->l2[k->nl2++] = (struct checker_l2){ .off = off, .guest = guest, .active = active };
	*refs = 1;
	return true;
}

static bool l1_entry_ok(struct checker *k, uint64_t e, uint32_t i, bool active)
{
	uint64_t l2 = e & QCOW2_OFFSET_MASK;
	bool ext = k->h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;

	if ((e & QCOW2_L1_RESERVED) || !offset_is_aligned(k, l2)) {
		BAD(k, "L1 entry %u is invalid (0x%016llx)", i, (unsigned long long)e);
		return false;
	}
	if (!cluster_use(k, l2, k->cluster_bytes, "an L2 table"))
		return false;
	if (active)
		check_copied(k, l2, e & QCOW2_COPIED, "L2 table");
	if (!l2_note(k, l2, (uint64_t)i << (2 * k->cluster_bits - (ext ? 4 : 3)), active))
		k->c->errors++;
	return true;
}

static void check_l1(struct checker *k, uint64_t off, uint32_t n, bool active)
{
	CLEANUP_FREE uint64_t *t = NULL;
	bool changed = false;

	if (!n)
		return;
	if (!off || !offset_is_aligned(k, off) || n > QCOW2_L1_BYTES_MAX / 8) {
		BAD(k, "an L1 table is misplaced (0x%llx, %u entries)", (unsigned long long)off, n);
		return;
	}
	if (!cluster_use(k, off, n * 8ULL, "an L1 table"))
		return;
	t = table_load(k, off, n);
	for (uint32_t i = 0; t && i < n; i++) {
		if (!(t[i] & (QCOW2_OFFSET_MASK | QCOW2_L1_RESERVED)))
			continue;
		if (k->fix && (t[i] & QCOW2_L1_RESERVED)) {
			t[i] &= t[i] & QCOW2_OFFSET_MASK ? ~QCOW2_L1_RESERVED : 0;
			changed = true;
		}
		if (t[i] && !l1_entry_ok(k, t[i], i, active) && k->fix) {
			t[i] = 0;
			changed = true;
			k->raw_lost = k->raw;
		}
	}
	k->changed = changed;
	if (t)
		table_store(k, t, off, n);
}

/* Report the faults of a table that qcow2_snapshots_read_damaged() has read. */
static void snapshot_faults(struct checker *k)
{
	uint64_t over = k->h->nb_snapshots - k->nsnapshots;

	for (size_t i = 0; i < k->nsnapshots; i++) {
		const struct qcow2_snapshot_info *s = &k->snapshots[i];
		bool too_long = s->extra_in_file > s->extra_len, too_short = s->extra_len < QCOW2_SNAPSHOT_SIZES_BYTES;

		k->snapshots_rewrite |= too_long || too_short;
		if (too_long)
			BAD_SNAPSHOT(k, "Discarding", "too much extra metadata in snapshot table entry %zu (%u > %u)", i,
				s->extra_in_file, QCOW2_SNAPSHOT_EXTRA_MAX);
		else if (too_short && k->h->version >= 3)
			BAD_SNAPSHOT(k, "Repairing", "snapshot table entry %zu is incomplete", i);
	}
	if (over) {
		BAD_SNAPSHOT(k, "Discarding", "%llu overhanging snapshots", (unsigned long long)over);
		k->c->corruptions += over - 1; /* one for each */
	}
}

static int check_snapshots(struct checker *k, struct err *e)
{
	int r;

	if (!k->h->nb_snapshots)
		return 0;
	r = qcow2_snapshots_read_damaged(k->fd, k->h, &k->snapshots, &k->nsnapshots, e);
	if (r < 0)
		return r;
	k->snapshots_bytes = k->nsnapshots ? k->snapshots[k->nsnapshots - 1].table_bytes : 0;
	snapshot_faults(k);
	if (k->nsnapshots && !(k->fix && k->snapshots_rewrite)) /* the old table becomes free */
		cluster_use(k, k->h->snapshots_offset, k->snapshots_bytes, "the snapshot table");
	for (size_t i = 0; i < k->nsnapshots; i++)
		check_l1(k, k->snapshots[i].l1_offset, k->snapshots[i].l1_size, false);
	return 0;
}

/* Count a reference to clusters of bitmaps, which nothing else may use. */
static bool bitmap_use(struct checker *k, uint64_t off, uint64_t len, const char *what)
{
	bool ok = cluster_use(k, off, len, what);

	for (uint64_t c = off >> k->cluster_bits; ok && c <= (off + len - 1) >> k->cluster_bits; c++)
		bitmap_set(&k->bitmaps, c);
	return ok;
}

/* Are all the clusters used once so far? Tables of hostile images may overlap, which would make their walk endless. */
static bool used_once(const struct checker *k, uint64_t off, uint64_t len)
{
	for (uint64_t c = off >> k->cluster_bits; c <= (off + len - 1) >> k->cluster_bits; c++)
		if (k->used[c] != 1)
			return false;
	return true;
}

/* Count the references of one bitmap. Returns false if its table is damaged. */
static bool check_bitmap(struct checker *k, const struct qcow2_bitmap_info *b)
{
	CLEANUP_FREE uint64_t *t = NULL;
	uint64_t bytes = b->table_entries * 8ULL;
	bool ok = bitmap_use(k, b->table_offset, bytes, "a bitmap's table");

	if (ok && used_once(k, b->table_offset, bytes))
		t = table_load(k, b->table_offset, b->table_entries);
	for (uint32_t i = 0; t && i < b->table_entries; i++) {
		uint64_t off = t[i] & QCOW2_OFFSET_MASK;

		if (!qcow2_bitmap_entry_valid(t[i], k->cluster_bytes)) {
			BAD(k, "an entry of a bitmap's table is invalid (0x%016llx)", (unsigned long long)t[i]);
			ok = false;
		} else if (off) {
			ok &= bitmap_use(k, off, k->cluster_bytes, "a bitmap's data");
		}
	}
	return ok;
}

/* If the autoclear bit is clear, the bitmap extension is stale, and its clusters may have other users. */
static void check_bitmaps(struct checker *k)
{
	struct qcow2_bitmap_info *list;
	struct err why;
	size_t n;
	int r = qcow2_bitmaps_read(k->fd, k->h, &list, &n, &why);

	if (r < 0 && r != -EINVAL)
		k->c->errors++;
	else if (r < 0)
		BAD(k, "the bitmaps cannot be read: %s", why.msg);
	k->c->bitmaps_damaged = r == -EINVAL;
	if (!r && n)
		bitmap_use(k, k->h->bitmaps_offset, k->h->bitmaps_bytes, "the bitmap directory");
	for (size_t i = 0; !r && i < n; i++)
		k->c->bitmaps_damaged |= !check_bitmap(k, &list[i]);
	qcow2_bitmaps_free(list, r ? 0 : n);
}

/* ---- comparing references with refcounts ---- */

static void counts_compare(struct checker *k)
{
	uint64_t end = 0;

	for (uint64_t c = 0; c < k->n; c++) {
		if (k->refs[c] || k->used[c])
			end = c + 1;
		if (bitmap_test(&k->suspects, c) && k->used[c] > 1)
			BAD(k, "cluster %llu is marked COPIED but used %u times", (unsigned long long)c,
				k->used[c]);
		/* This is a corruption with any refcount, because a change of either use overwrites the other. */
		if (k->used[c] > 1 && bitmap_test(&k->counts, c))
			BAD(k, "cluster %llu holds refcounts and something else", (unsigned long long)c);
		if (k->used[c] > 1 && bitmap_test(&k->bitmaps, c)) {
			BAD(k, "cluster %llu holds a bitmap and something else", (unsigned long long)c);
			k->c->bitmaps_damaged = true;
		}
		if (k->refs[c] == k->used[c])
			continue;
		if (k->refs[c] < k->used[c]) {
			BAD(k, "cluster %llu refcount=%u reference=%u", (unsigned long long)c, k->refs[c], k->used[c]);
		} else {
			k->c->leaks++;
			fault_report(k, "Leaked cluster %llu refcount=%u reference=%u", (unsigned long long)c, k->refs[c],
				k->used[c]);
		}
	}
	k->c->image_end_offset = end << k->cluster_bits;
}

int checker_init(struct checker *k, int fd, const struct qcow2_header *h, struct qcow2_check *c,
	struct err *e)
{
	off_t end = lseek(fd, 0, SEEK_END);

	*k = (struct checker){ .fd = fd, .h = h, .c = c, .cluster_bits = h->cluster_bits,
		.cluster_bytes = 1u << h->cluster_bits,
		.external = h->incompatible & QCOW2_INCOMPAT_DATA_FILE };
	k->raw = k->external && (h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA);
	if (end < 0)
		return err_set_errno(e, -errno, "cannot find the image's end");
	k->n = DIV_ROUND_UP((uint64_t)end, (uint64_t)k->cluster_bytes);
	if (k->n > CHECK_CLUSTERS_MAX)
		return err_set(e, -EFBIG, ERR_UNSUPPORTED, "the image has %llu clusters; at most %llu can be "
			"checked", (unsigned long long)k->n, CHECK_CLUSTERS_MAX);
	k->used = calloc(k->n + 1, sizeof(*k->used));
	k->refs = calloc(k->n + 1, sizeof(*k->refs));
	k->l2_refs = calloc(k->n + 1, sizeof(*k->l2_refs));
	k->table = io_buffer_new(k->cluster_bytes);
	if (!k->used || !k->refs || !k->l2_refs || !k->table || bitmap_init(&k->suspects, k->n + 1) < 0 ||
		bitmap_init(&k->counts, k->n + 1) < 0 || bitmap_init(&k->bitmaps, k->n + 1) < 0 ||
		bitmap_init(&k->touched, (k->n / PAGE_CLUSTERS + 1) * COUNT_KINDS) < 0)
		return err_set_errno(e, -ENOMEM, "check");
	k->memory.max_bytes = qcow2_memory_max(fd, h) + MEMORY_FACTOR * qcow2_allocated_bytes(fd);
	return 0;
}

void checker_done(struct checker *k)
{
	free(k->used);
	free(k->refs);
	free(k->l2_refs);
	free(k->l2);
	qcow2_snapshots_free(k->snapshots, k->nsnapshots);
	free(k->table);
	bitmap_done(&k->suspects);
	bitmap_done(&k->counts);
	bitmap_done(&k->bitmaps);
	bitmap_done(&k->touched);
}

int checker_walk(struct checker *k, struct err *e)
{
	int r;

	cluster_use(k, 0, k->cluster_bytes, "the header");
	check_l1(k, k->h->l1_offset, k->h->l1_size, true);
	check_bitmaps(k);
	r = check_snapshots(k, e);
	for (size_t i = 0; !r && !k->exceeded && i < k->nl2; i++) {
		if (k->c->progress && i % CHECK_PROGRESS_TABLES == 0)
			k->c->progress(k->c->opaque, i, k->nl2);
		check_l2(k, &k->l2[i]);
	}
	return r || !k->exceeded ? r : memory_exceeded(k, e);
}

int checker_run(struct checker *k, int fd, const struct qcow2_header *h, struct qcow2_check *c, struct err *e)
{
	int r = checker_init(k, fd, h, c, e);

	if (r < 0)
		return r;
	checker_refcounts(k);
	return checker_walk(k, e);
}

int qcow2_check(int fd, const struct qcow2_header *h, struct qcow2_check *c, struct err *e)
{
	struct checker k;
	int r = checker_run(&k, fd, h, c, e);

	c->total_clusters = DIV_ROUND_UP(h->size_bytes, (uint64_t)k.cluster_bytes);
	if (!r)
		counts_compare(&k);
	checker_done(&k);
	return r;
}
