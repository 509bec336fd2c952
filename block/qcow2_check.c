/* Check: count every reference in the image and compare with its refcounts. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2_impl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Memory is 4 bytes a cluster: at most 1 GiB. */
#define CHECK_CLUSTERS_MAX (1ULL << 28)
#define CHECK_LINES_MAX 64u
#define CHECK_BITMAP_DIRECTORY_MAX (64 * MIB)

struct checker {
	int fd;
	const struct qcow2_header *h;
	struct qcow2_check *c;
	uint32_t cluster_bits, cluster_bytes;
	uint32_t *used; /* references counted, by cluster */
	uint32_t *refs; /* what the image says */
	uint64_t n;	/* clusters of the file */
	uint64_t next_data; /* where the next data cluster would lie unfragmented */
	unsigned lines;
};

static void report(struct checker *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void report(struct checker *k, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	if (!k->c->report || k->lines > CHECK_LINES_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (k->lines++ == CHECK_LINES_MAX)
		snprintf(line, sizeof(line), "(more faults are counted but not listed)");
	k->c->report(k->c->opaque, line);
}

#define BAD(k, ...) ((k)->c->corruptions++, report(k, "ERROR " __VA_ARGS__))

/* Bytes [off, off + len) of the file are used once more. */
static void use(struct checker *k, uint64_t off, uint64_t len, const char *what)
{
	if (!len)
		return;
	if (!range_inside(off, len, k->n << k->cluster_bits)) {
		BAD(k, "%s at 0x%llx lies past the end of the file", what, (unsigned long long)off);
		return;
	}
	for (uint64_t c = off >> k->cluster_bits; c <= (off + len - 1) >> k->cluster_bits; c++)
		if (k->used[c] != UINT32_MAX)
			k->used[c]++;
}

/* n big-endian u64 at off, in host order; NULL when they cannot be read. */
static uint64_t *load_table(struct checker *k, uint64_t off, uint64_t n)
{
	size_t bytes = ROUND_UP(MAX(n, 1u) * 8, 4096);
	uint64_t *t = io_buffer_new(bytes);
	int r = t ? qcow2_pread(k->fd, t, bytes, off) : -ENOMEM;

	if (r < 0) {
		k->c->errors++;
		report(k, "ERROR cannot read a table at 0x%llx: %s", (unsigned long long)off,
			strerror(-r));
		free(t);
		return NULL;
	}
	for (uint64_t i = 0; i < n; i++)
		t[i] = be64toh(t[i]);
	return t;
}

static bool aligned(const struct checker *k, uint64_t off)
{
	return !(off & (k->cluster_bytes - 1));
}

/* ---- refcounts as the image has them ---- */

static uint64_t block_ref(const struct checker *k, const uint8_t *p, uint64_t i)
{
	uint32_t order = k->h->refcount_order, bits = 1u << order;

	if (order < 3)
		return p[i * bits / 8] >> (i * bits % 8) & ((1u << bits) - 1);
	p += i << (order - 3);
	return order == 3 ? *p : order == 4 ? load_be16(p) : order == 5 ? load_be32(p) : load_be64(p);
}

static void load_block(struct checker *k, uint64_t block, uint64_t off)
{
	uint64_t per_block = (uint64_t)k->cluster_bytes * 8 >> k->h->refcount_order;
	CLEANUP_FREE uint8_t *buf = io_buffer_new(k->cluster_bytes);
	int r = buf ? qcow2_pread(k->fd, buf, ROUND_UP(k->cluster_bytes, 512u), off) : -ENOMEM;

	if (r < 0) {
		k->c->errors++;
		return;
	}
	for (uint64_t i = 0; i < per_block; i++) {
		uint64_t c = block * per_block + i, v = block_ref(k, buf, i);

		if (c < k->n)
			k->refs[c] = (uint32_t)MIN(v, UINT32_MAX);
		else if (v)
			k->c->leaks++; /* behind the end of the file */
	}
}

static void check_reftable(struct checker *k)
{
	uint64_t n = (uint64_t)k->h->reftable_clusters * k->cluster_bytes / 8;
	CLEANUP_FREE uint64_t *t = load_table(k, k->h->reftable_offset, n);

	use(k, k->h->reftable_offset, n * 8, "the refcount table");
	for (uint64_t i = 0; t && i < n; i++) {
		uint64_t off = t[i];

		if (!off)
			continue;
		if ((off & QCOW2_REFTABLE_RESERVED) || !aligned(k, off) || off >= QCOW2_OFFSET_END) {
			BAD(k, "refcount block %llu is misaligned (0x%llx)", (unsigned long long)i,
				(unsigned long long)off);
			continue;
		}
		use(k, off, k->cluster_bytes, "a refcount block");
		load_block(k, i, off);
	}
}

/* ---- maps ---- */

static void check_copied(struct checker *k, uint64_t off, bool copied, const char *what)
{
	uint64_t c = off >> k->cluster_bits;

	if (c < k->n && (k->refs[c] == 1) != copied)
		BAD(k, "COPIED of the %s at 0x%llx is %s but its refcount is %u", what,
			(unsigned long long)off, copied ? "set" : "clear", k->refs[c]);
}

static void check_compressed(struct checker *k, uint64_t e)
{
	uint32_t x = 62 - (k->cluster_bits - 8);
	uint64_t off = e & ((1ULL << x) - 1), n = ((e & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> x) + 1;

	if (e & QCOW2_COPIED)
		BAD(k, "a compressed cluster (0x%llx) is marked COPIED", (unsigned long long)off);
	use(k, off, MIN(n * 512 - (off & 511), (k->n << k->cluster_bits) - MIN(off, k->n << k->cluster_bits)),
		"a compressed cluster");
	k->c->compressed_clusters++;
	k->c->allocated_clusters++;
	k->c->fragmented_clusters++;
}

static void check_l2_entry(struct checker *k, uint64_t e, uint64_t bitmap, bool active)
{
	bool ext = k->h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
	uint64_t off = e & QCOW2_OFFSET_MASK;

	if (e & QCOW2_COMPRESSED) {
		check_compressed(k, e);
		return;
	}
	if ((e & QCOW2_L2_RESERVED) || !aligned(k, off) ||
		((e & QCOW2_ZERO) && (ext || k->h->version < 3)) || (bitmap & bitmap >> 32 & 0xffffffff)) {
		BAD(k, "an L2 entry is against the format (0x%016llx)", (unsigned long long)e);
		return;
	}
	if (!off)
		return;
	use(k, off, k->cluster_bytes, "a data cluster");
	if (active) {
		check_copied(k, off, e & QCOW2_COPIED, "data cluster");
		k->c->allocated_clusters++;
		if (k->next_data && off != k->next_data)
			k->c->fragmented_clusters++;
		k->next_data = off + k->cluster_bytes;
	}
}

static void check_l2(struct checker *k, uint64_t off, bool active)
{
	uint32_t step = k->h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 2 : 1;
	uint64_t n = k->cluster_bytes / 8;
	CLEANUP_FREE uint64_t *t = load_table(k, off, n);

	k->next_data = 0;
	for (uint64_t i = 0; t && i < n; i += step)
		if (t[i] || (step == 2 && t[i + 1]))
			check_l2_entry(k, t[i], step == 2 ? t[i + 1] : 0, active);
}

static void check_l1(struct checker *k, uint64_t off, uint32_t n, bool active)
{
	CLEANUP_FREE uint64_t *t = NULL;

	if (!n)
		return;
	if (!off || !aligned(k, off) || n > QCOW2_L1_BYTES_MAX / 8) {
		BAD(k, "an L1 table is misplaced (0x%llx, %u entries)", (unsigned long long)off, n);
		return;
	}
	use(k, off, n * 8ULL, "an L1 table");
	t = load_table(k, off, n);
	for (uint32_t i = 0; t && i < n; i++) {
		uint64_t l2 = t[i] & QCOW2_OFFSET_MASK;

		if (!l2 && !(t[i] & QCOW2_L1_RESERVED))
			continue;
		if ((t[i] & QCOW2_L1_RESERVED) || !aligned(k, l2)) {
			BAD(k, "L1 entry %u is against the format (0x%016llx)", i, (unsigned long long)t[i]);
			continue;
		}
		use(k, l2, k->cluster_bytes, "an L2 table");
		if (active)
			check_copied(k, l2, t[i] & QCOW2_COPIED, "L2 table");
		check_l2(k, l2, active);
	}
}

static int check_snapshots(struct checker *k, struct err *e)
{
	struct qcow2_snapshot_info *list;
	size_t n;
	int r;

	if (!k->h->nb_snapshots)
		return 0;
	r = qcow2_snapshots_read(k->fd, k->h, &list, &n, e);
	if (r < 0)
		return r;
	use(k, k->h->snapshots_offset, list[n - 1].table_bytes, "the snapshot table");
	for (size_t i = 0; i < n; i++)
		check_l1(k, list[i].l1_offset, list[i].l1_size, false);
	qcow2_snapshots_free(list, n);
	return 0;
}

static void check_bitmap(struct checker *k, uint64_t table, uint32_t n)
{
	CLEANUP_FREE uint64_t *t = NULL;

	if (!aligned(k, table) || n > QCOW2_L1_BYTES_MAX / 8) {
		BAD(k, "a bitmap's table is misplaced (0x%llx)", (unsigned long long)table);
		return;
	}
	use(k, table, n * 8ULL, "a bitmap's table");
	t = load_table(k, table, n);
	for (uint32_t i = 0; t && i < n; i++)
		if (t[i] & QCOW2_OFFSET_MASK)
			use(k, t[i] & QCOW2_OFFSET_MASK, k->cluster_bytes, "a bitmap's data");
}

static void check_bitmaps(struct checker *k)
{
	CLEANUP_FREE uint8_t *buf = NULL;
	struct cursor cur;

	if (!k->h->has_bitmaps || !k->h->nb_bitmaps)
		return;
	if (!aligned(k, k->h->bitmaps_offset) || k->h->bitmaps_bytes > CHECK_BITMAP_DIRECTORY_MAX) {
		BAD(k, "the bitmap directory is misplaced");
		return;
	}
	use(k, k->h->bitmaps_offset, k->h->bitmaps_bytes, "the bitmap directory");
	buf = io_buffer_new(ROUND_UP(k->h->bitmaps_bytes, 4096) + 4096);
	if (!buf || qcow2_pread(k->fd, buf, ROUND_UP(k->h->bitmaps_bytes, 4096), k->h->bitmaps_offset)) {
		k->c->errors++;
		return;
	}
	cur = cursor_over(buf, k->h->bitmaps_bytes);
	for (uint32_t i = 0; i < k->h->nb_bitmaps && cursor_ok(&cur); i++) {
		uint64_t table = cursor_be64(&cur);
		uint32_t n = cursor_be32(&cur), name, extra;

		cursor_skip(&cur, 6);
		name = cursor_be16(&cur);
		extra = cursor_be32(&cur);
		cursor_skip(&cur, ROUND_UP(name + (size_t)extra, 8));
		if (cursor_ok(&cur))
			check_bitmap(k, table, n);
	}
}

/* ---- the comparison ---- */

static void compare(struct checker *k)
{
	uint64_t end = 0;

	for (uint64_t c = 0; c < k->n; c++) {
		if (k->refs[c] || k->used[c])
			end = c + 1;
		if (k->refs[c] == k->used[c])
			continue;
		if (k->refs[c] < k->used[c]) {
			BAD(k, "cluster %llu: refcount %u, used %u times", (unsigned long long)c, k->refs[c],
				k->used[c]);
		} else {
			k->c->leaks++;
			report(k, "Leaked cluster %llu: refcount %u, used %u times",
				(unsigned long long)c, k->refs[c], k->used[c]);
		}
	}
	k->c->image_end_offset = end << k->cluster_bits;
}

static int checker_init(struct checker *k, struct err *e)
{
	off_t end = lseek(k->fd, 0, SEEK_END);

	if (end < 0)
		return err_set_errno(e, -errno, "cannot find the image's end");
	k->n = DIV_ROUND_UP((uint64_t)end, (uint64_t)k->cluster_bytes);
	if (k->n > CHECK_CLUSTERS_MAX)
		return err_set(e, -EFBIG, ERR_UNSUPPORTED, "the image has %llu clusters; at most %llu can be "
			"checked", (unsigned long long)k->n, CHECK_CLUSTERS_MAX);
	k->used = calloc(k->n + 1, sizeof(*k->used));
	k->refs = calloc(k->n + 1, sizeof(*k->refs));
	return k->used && k->refs ? 0 : err_set_errno(e, -ENOMEM, "check");
}

int qcow2_check(int fd, const struct qcow2_header *h, struct qcow2_check *c, struct err *e)
{
	struct checker k = { .fd = fd, .h = h, .c = c, .cluster_bits = h->cluster_bits,
		.cluster_bytes = 1u << h->cluster_bits };
	int r = checker_init(&k, e);

	if (!r) {
		c->total_clusters = DIV_ROUND_UP(h->size_bytes, (uint64_t)k.cluster_bytes);
		use(&k, 0, k.cluster_bytes, "the header");
		check_reftable(&k);
		check_l1(&k, h->l1_offset, h->l1_size, true);
		check_bitmaps(&k);
		r = check_snapshots(&k, e);
	}
	if (!r)
		compare(&k);
	free(k.used);
	free(k.refs);
	return r;
}
