#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/pin_name.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CORRUPT(e, ...) err_set(e, -EINVAL, ERR_CORRUPT, __VA_ARGS__)

uint64_t qcow2_l1_entries(uint64_t size_bytes, uint32_t cluster_bits, bool extended)
{
	uint32_t shift = 2 * cluster_bits - (extended ? 4 : 3);

	return (size_bytes >> shift) + ((size_bytes & ((1ULL << shift) - 1)) != 0);
}

bool qcow2_l1_in_file(int fd, const struct qcow2_header *h, const struct qcow2_snapshot_info *s)
{
	uint64_t cluster = 1ULL << h->cluster_bits;
	off_t end = lseek(fd, 0, SEEK_END);

	return s->l1_size <= QCOW2_L1_BYTES_MAX / 8 && !(s->l1_offset & (cluster - 1)) && end >= 0 &&
	       range_inside(s->l1_offset, s->l1_size * 8ULL, MIN(ROUND_UP((uint64_t)end, cluster), QCOW2_OFFSET_END));
}

bool qcow2_l1_is_valid(int fd, const struct qcow2_header *h, const struct qcow2_snapshot_info *s)
{
	return s->disk_bytes <= INT64_MAX && qcow2_l1_in_file(fd, h, s) &&
	       s->l1_size >= qcow2_l1_entries(s->disk_bytes, h->cluster_bits,
			h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2);
}

/* Returns true if a table at [off, off + len) is aligned and within the range of offsets. */
static bool table_ok(uint64_t off, uint64_t len, uint32_t cluster_bits)
{
	return !(off & ((1ULL << cluster_bits) - 1)) && range_inside(off, len, QCOW2_OFFSET_END);
}

static int parse_fixed(const uint8_t *p, size_t len, struct qcow2_header *h, struct err *e)
{
	if (len < QCOW2_V2_HEADER_BYTES || load_be32(p + QCOW2_AT_MAGIC) != QCOW2_MAGIC)
		return err_set(e, -EINVAL, ERR_INVALID, "not a qcow2 image");
	h->version = load_be32(p + QCOW2_AT_VERSION);
	if (h->version != 2 && h->version != 3)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "qcow2 version %u; 2 and 3 are supported",
			h->version);
	h->cluster_bits = load_be32(p + QCOW2_AT_CLUSTER_BITS);
	if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return CORRUPT(e, "cluster_bits is %u; it must be %u to %u", h->cluster_bits,
			QCOW2_CLUSTER_BITS_MIN, QCOW2_CLUSTER_BITS_MAX);
	h->size_bytes = load_be64(p + QCOW2_AT_SIZE);
	h->crypt_method = load_be32(p + QCOW2_AT_CRYPT);
	h->l1_size = load_be32(p + QCOW2_AT_L1_SIZE);
	h->l1_offset = load_be64(p + QCOW2_AT_L1_OFFSET);
	h->reftable_offset = load_be64(p + QCOW2_AT_REFTABLE_OFFSET);
	h->reftable_clusters = load_be32(p + QCOW2_AT_REFTABLE_CLUSTERS);
	h->nb_snapshots = load_be32(p + QCOW2_AT_NB_SNAPSHOTS);
	h->snapshots_offset = load_be64(p + QCOW2_AT_SNAPSHOTS_OFFSET);
	h->refcount_order = 4;
	h->header_length = QCOW2_V2_HEADER_BYTES;
	if (h->crypt_method > 2)
		return CORRUPT(e, "unknown encryption method %u", h->crypt_method);
	return 0;
}

static int parse_v3(const uint8_t *p, size_t len, struct qcow2_header *h, struct err *e)
{
	if (h->version < 3)
		return 0;
	if (len < QCOW2_V3_HEADER_MIN)
		return CORRUPT(e, "the image ends inside its header");
	h->incompatible = load_be64(p + QCOW2_AT_INCOMPATIBLE);
	h->compatible = load_be64(p + QCOW2_AT_COMPATIBLE);
	h->autoclear = load_be64(p + QCOW2_AT_AUTOCLEAR);
	h->refcount_order = load_be32(p + QCOW2_AT_REFCOUNT_ORDER);
	h->header_length = load_be32(p + QCOW2_AT_HEADER_LENGTH);
	if (h->header_length < QCOW2_V3_HEADER_MIN || h->header_length % 8 ||
		h->header_length > 1ULL << h->cluster_bits || h->header_length > len)
		return CORRUPT(e, "header_length is %u; it must be a multiple of 8 from %u to a cluster",
			h->header_length, QCOW2_V3_HEADER_MIN);
	if (h->refcount_order > 6)
		return CORRUPT(e, "refcount_order is %u; it must be 0 to 6", h->refcount_order);
	if (h->header_length > QCOW2_AT_COMPRESSION)
		h->compression = p[QCOW2_AT_COMPRESSION];
	if ((h->compression != QCOW2_COMPRESSION_ZLIB) !=
		!!(h->incompatible & QCOW2_INCOMPAT_COMPRESSION))
		return CORRUPT(e, "compression type %u and the feature bit for it contradict each other",
			h->compression);
	if ((h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) && h->cluster_bits < 14)
		return CORRUPT(e, "extended L2 entries need clusters of 16 KiB or more, not of %u bytes",
			1u << h->cluster_bits);
	return 0;
}

static int check_reftable(const struct qcow2_header *h, struct err *e)
{
	uint64_t cluster = 1ULL << h->cluster_bits;

	if (!h->reftable_clusters ||
		h->reftable_clusters > QCOW2_REFTABLE_BYTES_MAX >> h->cluster_bits)
		return CORRUPT(e, "the refcount table has %u clusters; it must have 1 to %u; `cairn-img check "
			"-r all` makes a new one",
			h->reftable_clusters, QCOW2_REFTABLE_BYTES_MAX >> h->cluster_bits);
	if (!h->reftable_offset ||
		!table_ok(h->reftable_offset, h->reftable_clusters * cluster, h->cluster_bits))
		return CORRUPT(e, "the refcount table's offset 0x%llx is misaligned or out of range; `cairn-img check "
			"-r all` makes a new table", (unsigned long long)h->reftable_offset);
	return 0;
}

/* Check the places of the tables. damaged: see qcow2_header_read_damaged(). */
static int check_tables(struct qcow2_header *h, uint64_t file_bytes, bool damaged, struct err *e)
{
	uint64_t cluster = 1ULL << h->cluster_bits;
	bool ext = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
	int r = check_reftable(h, e);

	if (r < 0 && !damaged)
		return r;
	if (r < 0)
		h->reftable_clusters = 0;
	if (h->size_bytes > INT64_MAX)
		return CORRUPT(e, "the disk's size is 0x%llx bytes", (unsigned long long)h->size_bytes);
	if (h->l1_size > QCOW2_L1_BYTES_MAX / 8)
		return CORRUPT(e, "the L1 table has %u entries; at most %u are possible", h->l1_size,
			QCOW2_L1_BYTES_MAX / 8);
	if (h->l1_size < qcow2_l1_entries(h->size_bytes, h->cluster_bits, ext))
		return CORRUPT(e, "the L1 table of %u entries is too small for %llu bytes", h->l1_size,
			(unsigned long long)h->size_bytes);
	if (h->l1_size && (!h->l1_offset ||
		!table_ok(h->l1_offset, h->l1_size * 8ULL, h->cluster_bits)))
		return CORRUPT(e, "the L1 table's offset 0x%llx is misaligned or out of range",
			(unsigned long long)h->l1_offset);
	if (h->l1_size &&
		!range_inside(h->l1_offset, h->l1_size * 8ULL, ROUND_UP(file_bytes, cluster)))
		return CORRUPT(e, "the L1 table lies past the end of the file");
	if (h->nb_snapshots > QCOW2_SNAPSHOTS_MAX && !damaged)
		return CORRUPT(e, "%u snapshots; at most %u are possible; `cairn-img check -r all` discards the last ones",
			h->nb_snapshots, QCOW2_SNAPSHOTS_MAX);
	if (h->nb_snapshots && (!h->snapshots_offset ||
		!table_ok(h->snapshots_offset, QCOW2_SNAPSHOT_HEADER_BYTES, h->cluster_bits)))
		return CORRUPT(e, "the snapshot table's offset 0x%llx is misaligned or out of range",
			(unsigned long long)h->snapshots_offset);
	return 0;
}

static int parse_backing(const uint8_t *p, size_t len, struct qcow2_header *h, struct err *e)
{
	uint64_t off = load_be64(p + QCOW2_AT_BACKING_OFFSET);
	uint32_t n = load_be32(p + QCOW2_AT_BACKING_LEN);

	if (!off)
		return 0;
	if (n > QCOW2_BACKING_NAME_MAX || off < h->header_length ||
		!range_inside(off, n, MIN(len, 1ULL << h->cluster_bits)))
		return CORRUPT(e, "the backing file's name (%u bytes at 0x%llx) lies outside the first "
			"cluster or is longer than %u bytes", n, (unsigned long long)off,
			QCOW2_BACKING_NAME_MAX);
	if (!n)
		return 0;
	if (memchr(p + off, 0, n))
		return CORRUPT(e, "the backing file's name has a NUL in it");
	memcpy(h->backing_name, p + off, n);
	h->backing_name[n] = 0;
	h->has_backing = true;
	return 0;
}

static void ext_string(const uint8_t *data, uint32_t len, char *dst, size_t cap)
{
	size_t n = MIN((size_t)len, cap - 1);

	memcpy(dst, data, n);
	dst[n] = 0;
}

static void ext_bitmaps(const uint8_t *data, uint64_t pos, uint32_t len, struct qcow2_header *h)
{
	h->has_bitmaps = true;
	h->bitmaps_at = (uint32_t)pos;
	h->bitmaps_ext_bytes = len;
	if (len < QCOW2_BITMAPS_EXT_BYTES)
		return;
	data += pos;
	h->bitmaps_reserved = load_be32(data + 4);
	h->nb_bitmaps = load_be32(data);
	h->bitmaps_bytes = load_be64(data + 8);
	h->bitmaps_offset = load_be64(data + 16);
}

/* Parse the header extensions. They end at type 0, at the backing file's name, or at the end of the first cluster. */
static int parse_extensions(const uint8_t *p, size_t len, struct qcow2_header *h, struct err *e)
{
	uint64_t end = MIN(len, 1ULL << h->cluster_bits), pos = h->header_length;
	uint64_t backing = load_be64(p + QCOW2_AT_BACKING_OFFSET);

	if (backing && backing < end)
		end = backing;
	while (pos + 8 <= end) {
		uint32_t type = load_be32(p + pos), n = load_be32(p + pos + 4);

		pos += 8;
		if (type == QCOW2_EXT_END)
			break;
		if (n > end - pos)
			return CORRUPT(e, "header extension 0x%08x has %u bytes and leaves the first cluster",
				type, n);
		if (type == QCOW2_EXT_BACKING_FORMAT)
			ext_string(p + pos, n, h->backing_format, sizeof(h->backing_format));
		else if (type == QCOW2_EXT_DATA_FILE && (n >= sizeof(h->data_file) ||
			memchr(p + pos, 0, n)))
			return CORRUPT(e, "the data file's name has %u bytes or a NUL in it", n);
		else if (type == QCOW2_EXT_DATA_FILE)
			ext_string(p + pos, n, h->data_file, sizeof(h->data_file));
		else if (type == QCOW2_EXT_BITMAPS)
			ext_bitmaps(p, pos, n, h);
		else if (type == QCOW2_EXT_PIN)
			h->has_pin = qcow2_pin_ext_get(p + pos, n, &h->pin);
		pos += ROUND_UP((uint64_t)n, 8);
	}
	return 0;
}

void qcow2_put_extension(struct cursor *cur, uint32_t type, const void *data, uint32_t len)
{
	cursor_put_be32(cur, type);
	cursor_put_be32(cur, len);
	cursor_put_padded(cur, data, len);
}

/* Check the pin extension against the backing file's name, which decides whether the image is an overlay on a pin. If
 * the extension has another name, another program has preserved it from an earlier backing file, and it is ignored. */
static int pin_check(struct qcow2_header *h, struct err *e)
{
	uint8_t id[BLOCK_PIN_ID_BYTES];
	size_t path;

	if (strncmp(h->backing_name, PIN_NAME_PROTOCOL, PIN_NAME_PATH_AT)) {
		h->has_pin = false;
		return 0;
	}
	if (!h->has_pin || !pin_name_parse(h->backing_name, &path, id) || memcmp(id, h->pin.id, sizeof(id)))
		return CORRUPT(e, "the disk is an overlay on a pin of another image, but the description of the pin in "
			"the header is missing or damaged");
	return 0;
}

/* buf: the beginning of the image: its first cluster or more, or the whole file if it is shorter.
 * file_bytes: the file's length, to check offsets. */
static int header_parse(const void *buf, size_t len, uint64_t file_bytes, bool damaged, struct qcow2_header *ret,
	struct err *e)
{
	struct qcow2_header h = { 0 };
	int r = parse_fixed(buf, len, &h, e);

	if (!r)
		r = parse_v3(buf, len, &h, e);
	if (!r)
		r = check_tables(&h, file_bytes, damaged, e);
	if (!r)
		r = parse_backing(buf, len, &h, e);
	if (!r)
		r = parse_extensions(buf, len, &h, e);
	if (!r)
		r = pin_check(&h, e);
	if (!r)
		*ret = h;
	return r;
}

/* A header is nearly always shorter. So a clone's process, which reads two to four headers, need not read and fault
 * in a cluster of 64 KiB for each. */
#define HEADER_FIRST 4096

/* Read [0, len), or less if the file is shorter. */
static ssize_t read_begin(int fd, uint8_t *buf, size_t len)
{
	size_t have = 0;

	while (have < len) {
		ssize_t n = pread(fd, buf + have, len - have, (off_t)have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n || n % 512)
			return (ssize_t)have + n;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

/* Return whether the first HEADER_FIRST bytes hold the backing file's name and the extensions with their end. */
static bool header_is_whole(const uint8_t *p)
{
	uint64_t backing = load_be64(p + QCOW2_AT_BACKING_OFFSET);
	uint64_t pos = load_be32(p + QCOW2_AT_VERSION) < 3 ? QCOW2_V2_HEADER_BYTES : load_be32(p + QCOW2_AT_HEADER_LENGTH);

	if (backing && !range_inside(backing, load_be32(p + QCOW2_AT_BACKING_LEN), HEADER_FIRST))
		return false;
	for (; pos + 8 <= HEADER_FIRST; pos += 8 + ROUND_UP((uint64_t)load_be32(p + pos + 4), 8))
		if (load_be32(p + pos) == QCOW2_EXT_END)
			return true;
	return false;
}

static int header_read(int fd, const char *name, bool damaged, struct qcow2_header *ret, struct err *e)
{
	CLEANUP_FREE uint8_t *buf = aligned_alloc(4096, HEADER_FIRST);
	ssize_t n = buf ? read_begin(fd, buf, HEADER_FIRST) : -ENOMEM;
	off_t end = lseek(fd, 0, SEEK_END);
	int r;

	if (n == HEADER_FIRST && load_be32(buf) == QCOW2_MAGIC && !header_is_whole(buf)) {
		uint32_t bits = load_be32(buf + QCOW2_AT_CLUSTER_BITS);

		if (bits > 12 && bits <= QCOW2_CLUSTER_BITS_MAX) {
			free(buf);
			buf = aligned_alloc(4096, (size_t)1 << bits);
			n = buf ? read_begin(fd, buf, (size_t)1 << bits) : -ENOMEM;
		}
	}
	if (n < 0 || end < 0)
		return err_set_errno(e, n < 0 ? (int)n : -errno, "cannot read %s", name);
	r = header_parse(buf, (size_t)n, (uint64_t)end, damaged, ret, e);
	if (r < 0)
		err_prefix(e, "%s", name);
	return r;
}

int qcow2_header_read(int fd, const char *name, struct qcow2_header *ret, struct err *e)
{
	return header_read(fd, name, false, ret, e);
}

int qcow2_header_read_damaged(int fd, const char *name, struct qcow2_header *ret, struct err *e)
{
	return header_read(fd, name, true, ret, e);
}

int qcow2_header_features_known(const struct qcow2_header *h, struct err *e)
{
	uint64_t unknown = h->incompatible & ~QCOW2_INCOMPAT_KNOWN;

	return !unknown ? 0 : err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the image uses features (incompatible bits "
		"0x%llx) that this version does not know", (unsigned long long)unknown);
}

int qcow2_header_supported(const struct qcow2_header *h, bool writable, struct err *e)
{
	int r = qcow2_header_features_known(h, e);

	if (r < 0)
		return r;
	if (h->crypt_method)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"the image is encrypted (%s), which is not supported; convert it with "
			"`qemu-img convert` first", h->crypt_method == 2 ? "LUKS" : "AES");
	if ((h->incompatible & QCOW2_INCOMPAT_DATA_FILE) && h->nb_snapshots)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"the image has snapshots and an external data file, which is not supported: a "
			"data file keeps no old content");
	if (h->compression > QCOW2_COMPRESSION_ZSTD)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "compression type %u is not known",
			h->compression);
	if (writable && (h->incompatible & QCOW2_INCOMPAT_CORRUPT))
		return err_set(e, -EUCLEAN, ERR_CORRUPT,
			"the image is marked corrupt and can only be read; repair it with "
			"`cairn-img check -r all`, or open it read-only");
	if (writable && (h->incompatible & QCOW2_INCOMPAT_DIRTY))
		return err_set(e, -EUCLEAN, ERR_CORRUPT,
			"the image was not closed cleanly and its refcounts are out of date; repair it with "
			"`cairn-img check -r all`, or open it read-only");
	return 0;
}
