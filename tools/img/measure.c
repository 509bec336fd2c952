/* measure: show the file size of a future image. The formulas are QEMU's (block/qcow2.c, qcow2_calc_prealloc_size), so
 * that a target of this size fits. */
#include "img.h"

#include "base/util.h"
#include "block/qcow2/bitmap.h"

#include <stdio.h>
#include <string.h>

struct measure {
	struct img_common common;
	struct img_create target;
	const char *size;
	uint64_t size_bytes, data_bytes, bitmaps_bytes;
	bool has_bitmaps; /* the formats of both images can have bitmaps */
};

static uint64_t tables_bytes(uint64_t size, const struct qcow2_create *q)
{
	uint64_t cluster = 1ULL << q->cluster_bits, entry = q->extended_l2 ? 16 : 8;
	uint64_t l2 = ROUND_UP(DIV_ROUND_UP(size, cluster), cluster / entry) * entry;
	uint64_t l1 = ROUND_UP(l2 / cluster, cluster / 8) * 8;
	uint64_t meta = cluster + l2 + l1, reftable;

	return meta + qcow2_refcount_clusters(q, (meta + ROUND_UP(size, cluster)) / cluster, &reftable) * cluster;
}

/* Count the bytes of target clusters that are not zeros according to the tables. */
static int data_count(struct measure *m, struct block *b, struct err *e)
{
	uint64_t cluster = m->target.format == BLOCK_FORMAT_QCOW2
		? 1ULL << m->target.qcow2.cluster_bits : 1, counted = 0;

	for (uint64_t off = 0; off < m->size_bytes;) {
		struct block_extent x;
		int r = block_extent(b, off, m->size_bytes - off, &x);

		if (r < 0)
			return err_set_errno(e, r, "%s: cannot look up offset %llu", m->common.o.path,
				(unsigned long long)off);
		if (!x.zero) {
			uint64_t from = MAX(ROUND_DOWN(off, cluster), counted);

			counted = ROUND_UP(off + x.len, cluster);
			m->data_bytes += counted > from ? counted - from : 0;
		}
		off += x.len;
	}
	return 0;
}

/* Add the bytes that the source's bitmaps take in the new image. */
static int bitmaps_count(struct measure *m, struct block *b, struct err *e)
{
	uint32_t bits = m->target.qcow2.cluster_bits;
	uint64_t cluster = 1ULL << bits, directory = 0;
	struct block_layer layers[BLOCK_LAYERS_MAX];
	struct qcow2_bitmap_info *list;
	struct qcow2_header h;
	size_t n;
	int r;

	block_layers(b, layers);
	if (m->target.format != BLOCK_FORMAT_QCOW2 || layers[0].format != BLOCK_FORMAT_QCOW2)
		return 0;
	r = qcow2_header_read(layers[0].fd, m->common.o.path, &h, e);
	if (!r)
		r = qcow2_bitmaps_read(layers[0].fd, &h, &list, &n, e);
	if (r < 0)
		return r;
	m->has_bitmaps = h.version >= 3 && m->target.qcow2.version >= 3;
	for (size_t i = 0; i < n; i++) {
		uint64_t entries = qcow2_bitmap_table_entries(m->size_bytes, list[i].granularity_bits, bits);

		m->bitmaps_bytes += entries * cluster + ROUND_UP(entries * 8, cluster);
		directory += qcow2_bitmap_entry_bytes(strlen(list[i].name));
	}
	m->bitmaps_bytes += ROUND_UP(directory, cluster);
	qcow2_bitmaps_free(list, n);
	return 0;
}

static int image_measure(struct block *b, void *opaque, struct err *e)
{
	struct measure *m = opaque;
	struct block_info info;
	int r;

	block_info(b, &info);
	m->size_bytes = info.size_bytes;
	r = img_seal(false, e);
	if (!r)
		r = bitmaps_count(m, b, e);
	return r ? r : data_count(m, b, e);
}

static void size_print(const struct measure *m)
{
	uint64_t required = m->size_bytes, full = m->size_bytes;

	if (m->target.format == BLOCK_FORMAT_QCOW2) {
		uint64_t meta = tables_bytes(m->size_bytes, &m->target.qcow2);

		full = meta + ROUND_UP(m->size_bytes, 1ULL << m->target.qcow2.cluster_bits);
		required = meta + m->data_bytes;
	}
	if (m->common.json) {
		puts("{");
		if (m->has_bitmaps)
			printf("    \"bitmaps\": %llu,\n", (unsigned long long)m->bitmaps_bytes);
		printf("    \"required\": %llu,\n    \"fully-allocated\": %llu\n}\n",
			(unsigned long long)required, (unsigned long long)full);
		return;
	}
	printf("required size: %llu\nfully allocated size: %llu\n", (unsigned long long)required,
		(unsigned long long)full);
	if (m->has_bitmaps)
		printf("bitmaps size: %llu\n", (unsigned long long)m->bitmaps_bytes);
}

static int measure_run(struct measure *m, const struct img_options *opts, struct err *e)
{
	int r = img_options_apply(&m->target, opts, e);

	if (!r && m->size) {
		r = img_parse_size(m->size, &m->size_bytes, e);
		m->size_bytes = ROUND_UP(m->size_bytes, 512);
	} else if (!r) {
		r = img_confine(1, 64, e);
		if (!r)
			r = img_block_run(img_loop(0), &m->common.o, image_measure, m, e);
	}
	m->target.qcow2.size_bytes = m->size_bytes;
	if (!r && m->target.format == BLOCK_FORMAT_QCOW2)
		r = qcow2_create_check(&m->target.qcow2, e);
	if (!r && m->target.prealloc)
		m->data_bytes = ROUND_UP(m->size_bytes, 1ULL << m->target.qcow2.cluster_bits);
	if (!r)
		size_print(m);
	return r;
}

int img_measure_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS,
		{ "size", required_argument, NULL, IMG_OPT_OWN }, { NULL, 0, NULL, 0 } };
	struct measure m = { .target = IMG_CREATE_DEFAULT };
	struct img_options opts = { 0 };
	struct err e;
	int c, st = 0;

	img_common_init(&m.common, "measure");
	while (!st && (c = getopt_long(argc, argv, "f:O:o:l:U", longs, NULL)) != -1) {
		if (c == 'O')
			st = img_create_format(&m.target, "measure", optarg);
		else if (c == 'o')
			st = img_options_add(&opts, "measure", optarg);
		else if (c == 'l')
			st = img_snapshot_option(&m.common.o, "measure", optarg);
		else if (c == IMG_OPT_OWN)
			m.size = optarg;
		else
			st = img_common_option(&m.common, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (st)
		return st;
	if (img_options_ask_help(&opts)) {
		img_options_help(m.target.format, false);
		return 0;
	}
	if (argc - optind != (m.size ? 0 : 1))
		return img_usage("measure", "either --size or one FILE is required");
	if (!m.size && img_common_name(&m.common, &m.common.o, argv[optind]))
		return 1;
	return measure_run(&m, &opts, &e) < 0 ? img_fail(&e) : 0;
}
