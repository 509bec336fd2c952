/* Creates images: header, refcount table, refcount blocks and L1, one after the other. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/pin_name.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INVALID(e, ...) err_set(e, -EINVAL, ERR_INVALID, __VA_ARGS__)

struct layout {
	uint32_t cluster_bytes;
	uint64_t l1_entries;
	/* numbers of clusters of these parts, and of all together */
	uint64_t reftable_clusters, refblocks, l1_clusters, total;
};

static const struct feature {
	uint8_t type; /* 0 incompatible, 1 compatible, 2 autoclear */
	uint8_t bit;
	const char *name;
} features[] = {
	{ 0, 0, "dirty bit" },
	{ 0, 1, "corrupt bit" },
	{ 0, 2, "external data file" },
	{ 0, 3, "compression type" },
	{ 0, 4, "extended L2 entries" },
	{ 1, 0, "lazy refcounts" },
	{ 2, 0, "bitmaps" },
	{ 2, 1, "raw external data" },
};
#define FEATURE_BYTES 48u
#define HEAD_PIECE_BYTES 4096ULL

int qcow2_create_check(const struct qcow2_create *c, struct err *e)
{
	uint64_t l1;

	if (c->cluster_bits < QCOW2_CLUSTER_BITS_MIN || c->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return INVALID(e, "the cluster size must be a power of two from 512 to 2M");
	if (c->refcount_order > 6)
		return INVALID(e, "refcount_bits must be a power of two from 1 to 64");
	if (c->version != 2 && c->version != 3)
		return INVALID(e, "compat must be 0.10 (v2) or 1.1 (v3)");
	if (c->version == 2 && (c->refcount_order != 4 || c->lazy_refcounts || c->extended_l2 ||
		c->compression != QCOW2_COMPRESSION_ZLIB))
		return INVALID(e, "refcount_bits other than 16, lazy_refcounts, extended_l2 and "
			"compression_type=zstd need compat=1.1");
	if (c->data_file && c->version == 2)
		return INVALID(e, "data_file needs compat=1.1");
	if (c->data_file_raw && !c->data_file)
		return INVALID(e, "data_file_raw needs data_file");
	if (c->data_file_raw && c->backing_name)
		return INVALID(e, "data_file_raw and a backing file do not go together");
	if (c->data_file && (!*c->data_file || strlen(c->data_file) > QCOW2_BACKING_NAME_MAX))
		return INVALID(e, "the data file's name has to have 1 to %u bytes",
			QCOW2_BACKING_NAME_MAX);
	if (c->extended_l2 && c->cluster_bits < 14)
		return INVALID(e, "extended_l2 needs a cluster_size of 16k or more");
	if (c->compression > QCOW2_COMPRESSION_ZSTD)
		return INVALID(e, "compression_type must be zlib or zstd");
	if (c->backing_name && strlen(c->backing_name) > QCOW2_BACKING_NAME_MAX)
		return INVALID(e, "the backing file's name is longer than %u bytes",
			QCOW2_BACKING_NAME_MAX);
	if (c->backing_name && !c->pin && !strncmp(c->backing_name, PIN_NAME_PROTOCOL, PIN_NAME_PATH_AT))
		return INVALID(e, "only a live clone makes an image on a pin (%s); give a path", PIN_NAME_PROTOCOL);
	if (c->backing_format && strlen(c->backing_format) > 63)
		return INVALID(e, "the backing format's name is too long");
	if (c->size_bytes > INT64_MAX - 511)
		return INVALID(e, "the size is too large");
	l1 = qcow2_l1_entries(ROUND_UP(c->size_bytes, 512), c->cluster_bits, c->extended_l2);
	if (l1 * 8 > QCOW2_L1_BYTES_MAX)
		return INVALID(e, "a disk of this size needs clusters larger than %u bytes",
			1u << c->cluster_bits);
	return 0;
}

uint64_t qcow2_refcount_clusters(const struct qcow2_create *c, uint64_t clusters, uint64_t *ret_table)
{
	uint64_t cluster_bytes = 1ULL << c->cluster_bits, refs_per_block = cluster_bytes * 8 >> c->refcount_order;
	uint64_t blocks = 0, table = 0, last;

	do {
		last = blocks + table;
		blocks = DIV_ROUND_UP(clusters + last, refs_per_block);
		table = DIV_ROUND_UP(blocks * 8, cluster_bytes);
	} while (blocks + table != last);
	*ret_table = table;
	return blocks + table;
}

/* Returns the number of clusters of a refcount table for the fully allocated disk, so that the table need not move
 * later; at most the limit of the format. */
static uint64_t reftable_wanted(const struct qcow2_create *c, const struct layout *l)
{
	uint64_t data = DIV_ROUND_UP(c->size_bytes, (uint64_t)l->cluster_bytes), n;

	qcow2_refcount_clusters(c, 1 + data + l->l1_entries + l->l1_clusters, &n);
	return MIN(n, QCOW2_REFTABLE_BYTES_MAX / l->cluster_bytes);
}

static void layout_plan(const struct qcow2_create *c, struct layout *l)
{
	uint64_t refs_per_block;

	l->cluster_bytes = 1u << c->cluster_bits;
	refs_per_block = (uint64_t)l->cluster_bytes * 8 >> c->refcount_order;
	l->l1_entries = qcow2_l1_entries(ROUND_UP(c->size_bytes, 512), c->cluster_bits,
		c->extended_l2);
	l->l1_clusters = DIV_ROUND_UP(l->l1_entries * 8, (uint64_t)l->cluster_bytes);
	l->reftable_clusters = reftable_wanted(c, l);
	l->refblocks = 1;
	do {
		l->total = 1 + l->reftable_clusters + l->refblocks + l->l1_clusters;
		if (l->total <= l->refblocks * refs_per_block)
			break;
		l->refblocks++;
	} while (1);
}

static void put_features(struct cursor *cur)
{
	uint8_t table[ARRAY_SIZE(features) * FEATURE_BYTES] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		uint8_t *p = table + i * FEATURE_BYTES;

		p[0] = features[i].type;
		p[1] = features[i].bit;
		memcpy(p + 2, features[i].name, strlen(features[i].name));
	}
	qcow2_put_extension(cur, QCOW2_EXT_FEATURE_NAMES, table, sizeof(table));
}

static void put_fixed(uint8_t *p, const struct qcow2_create *c, const struct layout *l)
{
	store_be32(p + QCOW2_AT_MAGIC, QCOW2_MAGIC);
	store_be32(p + QCOW2_AT_VERSION, c->version);
	store_be32(p + QCOW2_AT_CLUSTER_BITS, c->cluster_bits);
	store_be64(p + QCOW2_AT_SIZE, ROUND_UP(c->size_bytes, 512));
	store_be32(p + QCOW2_AT_L1_SIZE, (uint32_t)l->l1_entries);
	store_be64(p + QCOW2_AT_L1_OFFSET,
		l->l1_entries ? (1 + l->reftable_clusters + l->refblocks) * l->cluster_bytes : 0);
	store_be64(p + QCOW2_AT_REFTABLE_OFFSET, l->cluster_bytes);
	store_be32(p + QCOW2_AT_REFTABLE_CLUSTERS, (uint32_t)l->reftable_clusters);
	if (c->version < 3)
		return;
	store_be64(p + QCOW2_AT_INCOMPATIBLE,
		(c->extended_l2 ? QCOW2_INCOMPAT_EXTENDED_L2 : 0) |
			(c->data_file ? QCOW2_INCOMPAT_DATA_FILE : 0) |
			(c->compression ? QCOW2_INCOMPAT_COMPRESSION : 0));
	store_be64(p + QCOW2_AT_COMPATIBLE, c->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0);
	store_be64(p + QCOW2_AT_AUTOCLEAR, c->data_file_raw ? QCOW2_AUTOCLEAR_RAW_DATA : 0);
	store_be32(p + QCOW2_AT_REFCOUNT_ORDER, c->refcount_order);
	store_be32(p + QCOW2_AT_HEADER_LENGTH, QCOW2_V3_HEADER_BYTES);
	p[QCOW2_AT_COMPRESSION] = c->compression;
}

/* Write the first cluster. Feature names are optional and left out if they do not fit. */
static int put_header(uint8_t *p, const struct qcow2_create *c, const struct layout *l,
	struct err *e)
{
	size_t name_len = c->backing_name ? strlen(c->backing_name) : 0;
	struct cursor cur = cursor_over(p, l->cluster_bytes);

	put_fixed(p, c, l);
	cursor_skip(&cur, c->version < 3 ? QCOW2_V2_HEADER_BYTES : QCOW2_V3_HEADER_BYTES);
	if (c->backing_name && c->backing_format)
		qcow2_put_extension(&cur, QCOW2_EXT_BACKING_FORMAT, c->backing_format,
			(uint32_t)strlen(c->backing_format));
	if (c->pin) {
		uint8_t ext[QCOW2_PIN_EXT_BYTES];

		qcow2_pin_ext_put(ext, c->pin);
		qcow2_put_extension(&cur, QCOW2_EXT_PIN, ext, sizeof(ext));
	}
	if (c->data_file)
		qcow2_put_extension(&cur, QCOW2_EXT_DATA_FILE, c->data_file, (uint32_t)strlen(c->data_file));
	if (c->version >= 3 &&
		cursor_left(&cur) >= 16 + ARRAY_SIZE(features) * FEATURE_BYTES + name_len)
		put_features(&cur);
	cursor_put_be64(&cur, 0); /* end of the extensions */
	if (name_len) {
		store_be64(p + QCOW2_AT_BACKING_OFFSET, cur.pos);
		store_be32(p + QCOW2_AT_BACKING_LEN, (uint32_t)name_len);
		cursor_put_bytes(&cur, c->backing_name, name_len);
	}
	if (!cursor_ok(&cur))
		return INVALID(e, "the backing and data files' names do not fit into a cluster of %u bytes",
			l->cluster_bytes);
	return 0;
}

/* Set a refcount of 1 for each used cluster. All refcount blocks are adjacent. */
static void put_refcounts(uint8_t *p, const struct qcow2_create *c, const struct layout *l)
{
	uint32_t bits = 1u << c->refcount_order;

	for (uint64_t i = 0; i < l->total; i++) {
		if (bits < 8)
			p[i * bits / 8] |= (uint8_t)(1u << (i * bits % 8));
		else
			p[(i + 1) * bits / 8 - 1] = 1;
	}
}

static int file_blank(int fd, uint64_t bytes)
{
	CLEANUP_FREE uint8_t *zeros = NULL;
	struct stat st;
	int r = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISREG(st.st_mode))
		return ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)bytes) < 0 ? -errno : 0;
	zeros = calloc(1, 1 * MIB);
	if (!zeros)
		return -ENOMEM;
	for (uint64_t at = 0; at < bytes && !r; at += MIB)
		r = pwrite_full(fd, zeros, MIN(bytes - at, MIB), (off_t)at);
	return r;
}

/* Write the parts of the head that are not zeros: the rest of a file stays a hole. A new image of 64 KiB clusters then
 * takes 12 KiB instead of 192. */
static int head_write(int fd, const uint8_t *buf, uint64_t bytes)
{
	uint64_t from = 0, to;
	int r = 0;

	while (!r && from < bytes) {
		to = from;
		while (to < bytes && !bytes_are_zero(buf + to, MIN(bytes - to, HEAD_PIECE_BYTES)))
			to += MIN(bytes - to, HEAD_PIECE_BYTES);
		if (to > from)
			r = pwrite_full(fd, buf + from, to - from, (off_t)from);
		from = to + HEAD_PIECE_BYTES;
	}
	return r;
}

int qcow2_create(int fd, const struct qcow2_create *c, struct err *e)
{
	return qcow2_create_all(&fd, 1, c, e);
}

int qcow2_create_all(const int *fds, unsigned n, const struct qcow2_create *c, struct err *e)
{
	CLEANUP_FREE uint8_t *buf = NULL;
	struct layout l;
	uint64_t head_clusters;
	int r = qcow2_create_check(c, e);

	if (r < 0)
		return r;
	layout_plan(c, &l);
	head_clusters = 1 + l.reftable_clusters + l.refblocks;
	buf = calloc(head_clusters, l.cluster_bytes);
	if (!buf)
		return err_set_errno(e, -ENOMEM, "qcow2 header");
	r = put_header(buf, c, &l, e);
	if (r < 0)
		return r;
	for (uint64_t i = 0; i < l.refblocks; i++)
		store_be64(buf + l.cluster_bytes + i * 8,
			(1 + l.reftable_clusters + i) * l.cluster_bytes);
	put_refcounts(buf + (1 + l.reftable_clusters) * l.cluster_bytes, c, &l);
	for (unsigned i = 0; i < n && !r; i++) {
		r = file_blank(fds[i], l.total * l.cluster_bytes);
		if (!r)
			r = head_write(fds[i], buf, head_clusters * l.cluster_bytes);
	}
	return r < 0 ? err_set_errno(e, r, "cannot write the new image") : 0;
}
