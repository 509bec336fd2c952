/* map: show the allocation of an image, layer by layer. */
#include "img.h"

#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct entry {
	uint64_t start, len;
	struct block_extent x;
};

struct map {
	struct img_common common;
	struct img_layer layers[BLOCK_LAYERS_MAX];
	unsigned nlayers;
	uint64_t from, max;
	bool first;
};

static bool extents_mergeable(const struct entry *a, const struct block_extent *x)
{
	const struct block_extent *y = &a->x;

	return y->zero == x->zero && y->preallocated == x->preallocated && y->present == x->present && y->layer == x->layer &&
	       y->compressed == x->compressed && y->has_host == x->has_host &&
	       (!x->has_host || x->host == y->host + a->len);
}

static int map_print(const struct map *m, const struct entry *n, struct err *e)
{
	const struct img_layer *y = &m->layers[n->x.layer];
	char shown[PATH_MAX];

	if (n->x.compressed)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s has compressed clusters, which have no "
			"offset to show; use --output json", m->common.o.path);
	if (!n->x.zero && n->x.has_host)
		printf("%#-16llx%#-16llx%#-16llx%s\n", (unsigned long long)n->start,
			(unsigned long long)n->len, (unsigned long long)n->x.host,
			img_printable(y->data_path ? y->data_path : img_layer_shown(y), shown, sizeof(shown)));
	return 0;
}

static void map_print_json(struct map *m, const struct entry *n)
{
	printf("%s{ \"start\": %llu, \"length\": %llu, \"depth\": %u, \"present\": %s, \"zero\": %s, "
		"\"data\": %s, \"compressed\": %s", m->first ? "[" : ",\n", (unsigned long long)n->start,
		(unsigned long long)n->len, n->x.layer, n->x.present ? "true" : "false",
		n->x.zero ? "true" : "false", n->x.present && (!n->x.zero || n->x.preallocated) ? "true" : "false",
		n->x.compressed ? "true" : "false");
	if (n->x.has_host)
		printf(", \"offset\": %llu", (unsigned long long)n->x.host);
	printf("}");
	m->first = false;
}

static int extent_put(struct map *m, const struct entry *n, struct err *e)
{
	if (!n->len)
		return 0;
	if (!m->common.json)
		return map_print(m, n, e);
	map_print_json(m, n);
	return 0;
}

static int map_walk(struct map *m, struct block *b, struct err *e)
{
	struct entry now = { 0 };
	struct block_info info;
	uint64_t end, off = m->from;
	int r = 0;

	block_info(b, &info);
	if (off > info.size_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "the image ends at %llu, before the start offset",
			(unsigned long long)info.size_bytes);
	end = off + MIN(m->max, info.size_bytes - off);
	if (!m->common.json)
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	while (off < end && !r) {
		struct block_extent x;

		r = block_extent(b, off, end - off, &x);
		if (r < 0)
			return err_set_errno(e, r, "%s: cannot look up offset %llu", m->common.o.path,
				(unsigned long long)off);
		if (m->common.o.ranged) { /* the file is raw */
			x.has_host = true;
			x.host = m->common.o.offset + off;
		}
		if (now.len && extents_mergeable(&now, &x)) {
			now.len += x.len;
		} else {
			r = extent_put(m, &now, e);
			now = (struct entry){ off, x.len, x };
		}
		off += x.len;
	}
	if (!r)
		r = extent_put(m, &now, e);
	if (m->common.json)
		puts(m->first ? "[]" : "]");
	return r;
}

static int map_run(struct map *m, struct err *e)
{
	struct block *b = NULL;
	int r = img_confine(1, 64, e);

	if (!r)
		r = img_disk_layers_open(&m->common.o, m->layers, &m->nlayers, e); /* opened for their names only */
	if (r < 0)
		return r;
	r = img_block_open(img_loop(0), &m->common.o, &b, e);
	if (!r)
		r = img_seal(false, e);
	if (!r)
		r = map_walk(m, b, e);
	block_close(b);
	img_layers_free(m->layers, m->nlayers);
	return r;
}

int img_map_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS,
		{ "start-offset", required_argument, NULL, 's' },
		{ "max-length", required_argument, NULL, 'l' }, { NULL, 0, NULL, 0 } };
	struct map *m = calloc(1, sizeof(*m));
	struct err e;
	int c, st = 0;

	if (!m)
		return 1;
	img_common_init(&m->common, "map");
	m->max = UINT64_MAX;
	m->first = true;
	m->common.o.takes_context = true;
	while (!st && (c = getopt_long(argc, argv, "f:s:l:U", longs, NULL)) != -1) {
		if (c == 's' || c == 'l')
			st = img_parse_size(optarg, c == 's' ? &m->from : &m->max, &e) < 0 ? img_fail(&e) : 0;
		else
			st = img_common_option(&m->common, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (!st && argc - optind != 1)
		st = img_usage("map", "one FILE is required");
	if (!st) {
		st = img_common_name(&m->common, &m->common.o, argv[optind]);
		if (!st)
			st = map_run(m, &e) < 0 ? img_fail(&e) : 0;
	}
	free(m);
	return st;
}
