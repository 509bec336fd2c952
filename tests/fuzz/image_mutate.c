/* Mutations with knowledge of the format: set fields of the header, table entries, descriptors of
 * compressed clusters, snapshots and extensions to harmful values. */
#include "tests/fuzz/fuzz_image.h"

#include "base/bytes.h"
#include "base/util.h"
#include "block/qcow2/format.h"

#include <string.h>

#define PLACES_MAX 256u

/* An input's image and its parsed properties. Offsets are unchecked; at() checks them. */
struct mutation {
	uint8_t *image;
	size_t len;
	uint64_t random;
	uint32_t cluster_bits, entry_bytes;
	uint64_t cluster;
	uint64_t places[PLACES_MAX]; /* offsets of clusters in use, tables first */
	unsigned nplaces;
};

static uint64_t next(struct mutation *m)
{
	m->random ^= m->random << 13;
	m->random ^= m->random >> 7;
	m->random ^= m->random << 17;
	return m->random * 0x2545f4914f6cdd1dULL >> 11;
}

static uint64_t below(struct mutation *m, uint64_t n)
{
	return n ? next(m) % n : 0;
}

static uint8_t *at(const struct mutation *m, uint64_t off, uint64_t len)
{
	return range_inside(off, len, m->len) ? m->image + off : NULL;
}

static uint64_t get(const struct mutation *m, uint64_t off, unsigned size)
{
	const uint8_t *p = at(m, off, size);
	uint64_t v = 0;

	for (unsigned i = 0; p && i < size; i++)
		v = v << 8 | p[i];
	return v;
}

static void put(struct mutation *m, uint64_t off, unsigned size, uint64_t v)
{
	uint8_t *p = at(m, off, size);

	for (unsigned i = size; p && i--; v >>= 8)
		p[i] = (uint8_t)v;
}

static void place_add(struct mutation *m, uint64_t off)
{
	if (m->nplaces < PLACES_MAX)
		m->places[m->nplaces++] = off;
}

static uint64_t place(struct mutation *m)
{
	return m->nplaces ? m->places[below(m, m->nplaces)] : 0;
}

/* Collect the offset in each used entry of the table of n 8-byte entries at off. */
static void places_of(struct mutation *m, uint64_t off, uint64_t n, unsigned step)
{
	for (uint64_t i = 0; i < n && i < 512; i += step) {
		uint64_t to = get(m, off + i * 8, 8) & QCOW2_OFFSET_MASK;

		if (to && to < m->len)
			place_add(m, ROUND_DOWN(to, m->cluster));
	}
}

static void learn(struct mutation *m)
{
	uint32_t bits = (uint32_t)get(m, QCOW2_AT_CLUSTER_BITS, 4);
	uint64_t l1 = get(m, QCOW2_AT_L1_OFFSET, 8), n = get(m, QCOW2_AT_L1_SIZE, 4);
	uint64_t reftable = get(m, QCOW2_AT_REFTABLE_OFFSET, 8);
	bool ext = get(m, QCOW2_AT_INCOMPATIBLE, 8) & QCOW2_INCOMPAT_EXTENDED_L2;

	m->cluster_bits = bits < 9 || bits > 21 ? 9 : bits;
	m->cluster = 1ULL << m->cluster_bits;
	m->entry_bytes = ext && get(m, QCOW2_AT_VERSION, 4) > 2 ? 16 : 8;
	place_add(m, l1);
	place_add(m, reftable);
	place_add(m, get(m, QCOW2_AT_SNAPSHOTS_OFFSET, 8));
	places_of(m, l1, n, 1);
	places_of(m, reftable, m->cluster / 8, 1);
	for (uint64_t i = 0; i < n && i < 8; i++)
		places_of(m, get(m, l1 + i * 8, 8) & QCOW2_OFFSET_MASK, 64, m->entry_bytes / 8);
}

/* Return a value for a field that holds an offset or a count. */
static uint64_t wicked(struct mutation *m, uint64_t old)
{
	static const uint64_t numbers[] = { 0, 1, 2, 7, 8, 63, 64, 255, 511, 512, 65535, 65536, 65537,
		0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 1ULL << 48, 1ULL << 55,
		QCOW2_OFFSET_MASK, 1ULL << 56, 1ULL << 62, 1ULL << 63, INT64_MAX, UINT64_MAX,
		UINT64_MAX - 511, UINT64_MAX << 9, (32 << 20) / 8, (32 << 20) / 8 + 1, 8 << 20 };

	switch (below(m, 9)) {
	case 0:
		return numbers[below(m, ARRAY_SIZE(numbers))];
	case 1:
		return old ^ 1ULL << below(m, 64);
	case 2:
		return old + (1ULL << below(m, 24));
	case 3:
		return old - (1ULL << below(m, 24));
	case 4:
		return place(m);
	case 5:
		return place(m) + (next(m) & 0x3ff);
	case 6:
		return ROUND_UP((uint64_t)m->len, m->cluster) + m->cluster * below(m, 4);
	case 7:
		return below(m, m->len / m->cluster + 8) * m->cluster;
	default:
		return next(m) << below(m, 40);
	}
}

/* Return a value for an entry of an L1 or L2 table. */
static uint64_t wicked_entry(struct mutation *m, uint64_t old)
{
	uint32_t x = 62 - (m->cluster_bits - 8);

	switch (below(m, 10)) {
	case 0:
		return 0;
	case 1:
		return old ^ QCOW2_COPIED;
	case 2:
		return old ^ QCOW2_ZERO;
	case 3:
		return old ^ QCOW2_COMPRESSED;
	case 4: /* points to another cluster in use */
		return place(m) | (old & QCOW2_COPIED);
	case 5:
		return place(m) | QCOW2_COPIED;
	case 6: /* a compressed stream of some offset and length */
		return QCOW2_COMPRESSED | (place(m) + (next(m) & 0x1ff)) | below(m, 1ULL << (62 - x)) << x;
	case 7:
		return old | 1ULL << (56 + below(m, 6));
	case 8:
		return (old & QCOW2_COPIED) | (wicked(m, old) & QCOW2_OFFSET_MASK);
	default:
		return wicked(m, old);
	}
}

/* ---- fields to mutate ---- */

struct field {
	uint8_t at, size;
};

static void mutate_header(struct mutation *m)
{
	static const struct field fields[] = { { 0, 4 }, { 4, 4 }, { 8, 8 }, { 16, 4 }, { 20, 4 },
		{ 24, 8 }, { 32, 4 }, { 36, 4 }, { 40, 8 }, { 48, 8 }, { 56, 4 }, { 60, 4 }, { 64, 8 },
		{ 72, 8 }, { 80, 8 }, { 88, 8 }, { 96, 4 }, { 100, 4 }, { 104, 1 } };
	const struct field *f = &fields[2 + below(m, ARRAY_SIZE(fields) - 2)];
	uint64_t old = get(m, f->at, f->size), v;

	if (!below(m, 50)) /* magic or version: rarely, because the image is then rejected */
		f = &fields[below(m, 2)];
	switch (f->at) {
	case QCOW2_AT_CLUSTER_BITS:
		v = 8 + below(m, 15);
		break;
	case QCOW2_AT_REFCOUNT_ORDER:
		v = below(m, 8);
		break;
	case QCOW2_AT_VERSION:
		v = 2 + below(m, 2);
		break;
	case QCOW2_AT_INCOMPATIBLE:
	case QCOW2_AT_COMPATIBLE:
	case QCOW2_AT_AUTOCLEAR:
		v = old ^ 1ULL << below(m, below(m, 8) ? 5 : 64);
		break;
	case QCOW2_AT_SIZE:
	case QCOW2_AT_L1_SIZE:
	case QCOW2_AT_NB_SNAPSHOTS:
	case QCOW2_AT_REFTABLE_CLUSTERS:
		v = below(m, 2) ? old + below(m, 17) - 8 : wicked(m, old);
		break;
	default:
		v = wicked(m, old);
		break;
	}
	put(m, f->at, f->size, v);
}

static void mutate_l1_at(struct mutation *m, uint64_t l1, uint64_t n)
{
	uint64_t e = l1 + below(m, MIN(MAX(n, 1u), 8u)) * 8;

	put(m, e, 8, wicked_entry(m, get(m, e, 8)));
}

static void mutate_l2_of(struct mutation *m, uint64_t l1, uint64_t n)
{
	uint64_t l2 = get(m, l1 + below(m, MIN(MAX(n, 1u), 4u)) * 8, 8) & QCOW2_OFFSET_MASK;
	uint64_t e = l2 + below(m, below(m, 4) ? 16 : m->cluster / m->entry_bytes) * m->entry_bytes;

	if (m->entry_bytes == 16 && below(m, 2)) { /* subclusters: allocated and zero */
		uint64_t bits = get(m, e + 8, 8);

		put(m, e + 8, 8, below(m, 2) ? bits ^ 1ULL << below(m, 64) : next(m) << 11 ^ next(m));
		return;
	}
	put(m, e, 8, wicked_entry(m, get(m, e, 8)));
}

static void mutate_l1(struct mutation *m)
{
	mutate_l1_at(m, get(m, QCOW2_AT_L1_OFFSET, 8), get(m, QCOW2_AT_L1_SIZE, 4));
}

static void mutate_l2(struct mutation *m)
{
	mutate_l2_of(m, get(m, QCOW2_AT_L1_OFFSET, 8), get(m, QCOW2_AT_L1_SIZE, 4));
}

static void mutate_reftable(struct mutation *m)
{
	uint64_t e = get(m, QCOW2_AT_REFTABLE_OFFSET, 8) + below(m, below(m, 3) ? 2 : 64) * 8;

	put(m, e, 8, wicked(m, get(m, e, 8)));
}

static void mutate_refcount(struct mutation *m)
{
	uint64_t table = get(m, QCOW2_AT_REFTABLE_OFFSET, 8);
	uint64_t block = get(m, table + below(m, below(m, 3) ? 1 : 4) * 8, 8);
	uint64_t at_byte = block + below(m, below(m, 4) ? 64 : m->cluster);

	put(m, at_byte, 1, below(m, 2) ? below(m, 4) : next(m));
}

/* Return the offset of entry i of the snapshot table. */
static uint64_t snapshot_at(const struct mutation *m, uint64_t i)
{
	uint64_t off = get(m, QCOW2_AT_SNAPSHOTS_OFFSET, 8);

	while (i--)
		off = ROUND_UP(off + QCOW2_SNAPSHOT_HEADER_BYTES + get(m, off + 36, 4) +
			get(m, off + 12, 2) + get(m, off + 14, 2), 8);
	return off;
}

static void mutate_snapshot(struct mutation *m)
{
	static const struct field fields[] = { { 0, 8 }, { 8, 4 }, { 12, 2 }, { 14, 2 }, { 24, 8 },
		{ 32, 4 }, { 36, 4 }, { 40, 8 }, { 48, 8 }, { 56, 8 } };
	uint64_t s = snapshot_at(m, below(m, MIN(get(m, QCOW2_AT_NB_SNAPSHOTS, 4), 4u)));
	const struct field *f = &fields[below(m, ARRAY_SIZE(fields))];
	uint64_t old = get(m, s + f->at, f->size), l1 = get(m, s, 8), n = get(m, s + 8, 4);

	switch (below(m, 6)) {
	case 0:
		mutate_l1_at(m, l1, n);
		break;
	case 1:
		mutate_l2_of(m, l1, n);
		break;
	case 2:
		put(m, s + f->at, f->size, old + below(m, 9) - 4);
		break;
	default:
		put(m, s + f->at, f->size, wicked(m, old));
		break;
	}
}

static void mutate_extension(struct mutation *m)
{
	static const uint32_t types[] = { QCOW2_EXT_END, QCOW2_EXT_BACKING_FORMAT,
		QCOW2_EXT_FEATURE_NAMES, QCOW2_EXT_BITMAPS, QCOW2_EXT_CRYPTO, QCOW2_EXT_DATA_FILE, 0x1234 };
	uint64_t pos = get(m, QCOW2_AT_VERSION, 4) > 2 ? get(m, QCOW2_AT_HEADER_LENGTH, 4)
						       : QCOW2_V2_HEADER_BYTES;

	for (uint64_t n = below(m, 3); n--;)
		pos += 8 + ROUND_UP(get(m, pos + 4, 4), 8);
	switch (below(m, 4)) {
	case 0:
		put(m, pos, 4, types[below(m, ARRAY_SIZE(types))]);
		break;
	case 1:
		put(m, pos + 4, 4, below(m, 2) ? below(m, 600) : wicked(m, 0));
		break;
	case 2: /* a bitmap directory */
		put(m, pos, 4, QCOW2_EXT_BITMAPS);
		put(m, pos + 4, 4, 24);
		put(m, pos + 8, 4, 1 + below(m, 3));
		put(m, pos + 16, 8, wicked(m, 64));
		put(m, pos + 24, 8, place(m));
		put(m, QCOW2_AT_AUTOCLEAR, 8, below(m, 4));
		break;
	default:
		put(m, pos + 8 + below(m, 32), 1, next(m));
		break;
	}
}

static void mutate_bytes(struct mutation *m)
{
	uint64_t off = (below(m, 2) ? place(m) : 0) + below(m, 512);

	for (uint64_t n = 1 + below(m, 8); n--; off++)
		put(m, off, 1, next(m));
}

static void copy_cluster(struct mutation *m)
{
	uint8_t *from = at(m, place(m), m->cluster), *to = at(m, place(m), m->cluster);

	if (from && to)
		memmove(to, from, m->cluster);
}

static void mutate_program(struct mutation *m, uint8_t *program)
{
	uint8_t *op = program + below(m, IMAGE_OPS) * 4;

	switch (below(m, 3)) {
	case 0:
		op[0] = (uint8_t)below(m, IMAGE_OP_COUNT);
		break;
	case 1:
		op[1 + below(m, 3)] = (uint8_t)next(m);
		break;
	default:
		for (unsigned i = 0; i < 4; i++)
			op[i] = (uint8_t)(i ? next(m) : below(m, IMAGE_OP_COUNT));
		break;
	}
}

size_t image_mutate(uint8_t *input, size_t len, size_t cap, uint64_t random)
{
	static void (*const kinds[])(struct mutation *) = { mutate_header, mutate_l1, mutate_l2,
		mutate_l2, mutate_reftable, mutate_refcount, mutate_refcount, mutate_snapshot,
		mutate_snapshot, mutate_extension, mutate_bytes, copy_cluster };
	struct mutation m = { .random = random * 0x9e3779b97f4a7c15ULL | 1 };

	if (len <= IMAGE_PROGRAM_BYTES)
		return image_seed(below(&m, image_seeds()), input, cap);
	m.image = input + IMAGE_PROGRAM_BYTES;
	m.len = len - IMAGE_PROGRAM_BYTES;
	learn(&m);
	for (uint64_t n = 1 + below(&m, 4); n--;) {
		if (below(&m, 4))
			kinds[below(&m, ARRAY_SIZE(kinds))](&m);
		else
			mutate_program(&m, input);
	}
	if (!below(&m, 64)) /* truncate the file; the rest reads as zeros */
		len = IMAGE_PROGRAM_BYTES + below(&m, m.len);
	return len;
}
