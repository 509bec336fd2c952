/* amend: change an image's options in place. */
#include "img.h"

#include "base/util.h"
#include "block/lock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct amend {
	struct img_common common;
	bool backing; /* the image has a backing file */
	const char *compat, *lazy, *refcount_bits, *size, *data_file, *data_file_raw, *backing_file, *backing_fmt;
};

static int option_take(struct amend *a, char *key, char *value)
{
	const char **to = !strcmp(key, "compat") ? &a->compat : !strcmp(key, "lazy_refcounts") ? &a->lazy
		: !strcmp(key, "refcount_bits") ? &a->refcount_bits : !strcmp(key, "size") ? &a->size
		: !strcmp(key, "data_file") ? &a->data_file
		: !strcmp(key, "data_file_raw") ? &a->data_file_raw : !strcmp(key, "backing_file") ? &a->backing_file
		: !strcmp(key, "backing_fmt") ? &a->backing_fmt : NULL;

	if (!to)
		return img_usage("amend", "cannot change %s in place, only compat, lazy_refcounts, "
			"refcount_bits, size, data_file and data_file_raw=off; use `rebase` for the backing file", key);
	*to = value;
	return 0;
}

static int options_take(struct amend *a, char *opts)
{
	int st = 0;

	for (char *o; !st && (o = img_option_next(&opts));) {
		char *eq = strchr(o, '=');

		if (!eq)
			return img_usage("amend", "'%s' in -o is not key=value", o);
		*eq = 0;
		st = option_take(a, o, eq + 1);
	}
	return st;
}

/* All changes, parsed before anything changes. */
struct plan {
	struct img_create c;
	bool complete_snapshots; /* entries of the snapshot table lack the sizes that version 3 needs */
};

/* As in qemu-img, the backing file can only be named as it is. */
static int backing_check(const struct amend *a, const struct qcow2_header *h, struct err *e)
{
	bool given = a->backing_file || a->backing_fmt;

	if (!given || (h->has_backing && a->backing_file && !strcmp(a->backing_file, h->backing_name) &&
		a->backing_fmt && !strcmp(a->backing_fmt, h->backing_format)))
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "amend does not change the backing file; use `cairn-img rebase`");
}

static int plan_make(const struct amend *a, const struct qcow2_header *h, struct plan *p, struct err *e)
{
	const char *const keys[] = { "compat", "lazy_refcounts", "refcount_bits", "size",
		"data_file_raw" };
	const char *const values[] = { a->compat, a->lazy, a->refcount_bits, a->size,
		a->data_file_raw };
	struct qcow2_create *q = &p->c.qcow2;
	int r;

	*p = (struct plan){ .c = { .format = BLOCK_FORMAT_QCOW2, .qcow2 = { .version = h->version,
		.cluster_bits = h->cluster_bits, .refcount_order = h->refcount_order,
		.size_bytes = h->size_bytes, .lazy_refcounts = h->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS,
		.extended_l2 = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2,
		.data_file_raw = h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA,
		.compression = h->compression } } };
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		char word[64];

		if (!values[i])
			continue;
		if (snprintf(word, sizeof(word), "%s=%s", keys[i], values[i]) >= (int)sizeof(word))
			return err_set(e, -EINVAL, ERR_INVALID, "the value of %s is too long", keys[i]);
		r = img_create_options(&p->c, word, e);
		if (r < 0)
			return r;
	}
	if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE || a->data_file)
		q->data_file = a->data_file ? a->data_file : h->data_file;
	else if (!a->data_file_raw)
		q->data_file_raw = false;
	if (q->version < 3 && !a->lazy)
		q->lazy_refcounts = false;
	if (q->size_bytes < h->size_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "this would discard data; use `cairn-img resize "
			"--shrink` instead");
	r = backing_check(a, h, e);
	if (!r && a->size && h->incompatible & QCOW2_INCOMPAT_DATA_FILE) /* the data file grows, too */
		r = img_probed_refuse(&a->common.o, "data", e);
	return r ? r : qcow2_create_check(q, e);
}

/* Grow the disk. opaque: the new size in bytes. */
static int size_apply(struct block *b, void *opaque, struct err *e)
{
	const uint64_t *size = opaque;

	return block_resize(b, ROUND_UP(*size, 512), e);
}

static int header_apply(const struct plan *p, int fd, struct qcow2_header *h, struct err *e)
{
	const struct qcow2_create *q = &p->c.qcow2;
	bool lazy = h->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
	bool raw = h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
	int r = 0;

	if (q->data_file && (q->data_file_raw != raw || strcmp(q->data_file, h->data_file)))
		r = qcow2_set_data_file(fd, h, q->data_file, q->data_file_raw, e);
	if (!r && p->complete_snapshots)
		r = qcow2_refcounts_rebuild(fd, h, h->refcount_order, e);
	if (!r && q->version > h->version)
		r = qcow2_set_version(fd, h, q->version, e);
	if (!r && q->refcount_order != h->refcount_order)
		r = qcow2_refcounts_rebuild(fd, h, q->refcount_order, e);
	if (!r && q->lazy_refcounts != lazy && q->version >= 3)
		r = qcow2_set_lazy_refcounts(fd, h, q->lazy_refcounts, e);
	if (!r && q->version < h->version)
		r = qcow2_set_version(fd, h, q->version, e);
	return r;
}

/* Refuse an image with errors: a rebuild of its refcounts relies on a correct image, and would hide the errors. */
static int image_is_faultless(int fd, const struct qcow2_header *h, struct err *e)
{
	struct qcow2_check c = { 0 };
	int r = qcow2_check(fd, h, &c, e);

	if (!r && (c.corruptions || c.errors))
		r = err_set(e, -EUCLEAN, ERR_CORRUPT, "the image has errors; repair them with `cairn-img check "
			"-r all` first");
	return r;
}

/* compat 0.10 has no zero clusters: zero clusters that hide a backing file or are allocated become data, and other zero
 * clusters become unallocated. */
static int zeros_to_data(struct block *b, void *opaque, struct err *e)
{
	const struct amend *a = opaque;
	struct block_info info;
	struct block_extent x;
	int r = 0;

	block_info(b, &info);
	for (uint64_t off = 0; off < info.size_bytes && !r; off += x.len) {
		r = block_extent(b, off, info.size_bytes - off, &x);
		if (!r && x.zero && x.present && !x.layer && (a->backing || x.has_host))
			r = img_zeros_write(b, off, off + x.len, NULL);
	}
	return r < 0 ? err_set_errno(e, r, "cannot write %s", a->common.o.path) : 0;
}

/* compat 0.10 does not keep the sizes of snapshots: refuse a downgrade if one has another size than the disk. compat
 * 1.1 needs the sizes, which an old program may have left out. */
static int snapshots_fit(const struct img_layer *y, struct plan *p, struct err *e)
{
	const struct qcow2_create *q = &p->c.qcow2;
	struct qcow2_snapshot_info *list;
	size_t n;
	int r = q->version != y->header.version ? qcow2_snapshots_read(y->fd, &y->header, &list, &n, e) : 1;

	if (r)
		return r < 0 ? r : 0;
	for (size_t i = 0; i < n && !r; i++) {
		p->complete_snapshots |= list[i].extra_len < QCOW2_SNAPSHOT_SIZES_BYTES;
		if (q->version < 3 && list[i].disk_bytes != ROUND_UP(q->size_bytes, 512))
			r = err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the disk would have another size than its snapshot %s, "
				"which compat=0.10 does not support; delete the snapshot first", list[i].id);
	}
	qcow2_snapshots_free(list, n);
	return r;
}

/* Rebuild the refcounts of an image with lazy refcounts that was not closed. It is read anew under the lock. */
static int dirty_repair(struct img_layer *y, struct err *e)
{
	struct qcow2_check c = { 0 };
	int r = lock_acquire(y->fd, LOCK_AS_WRITER, y->path, e);

	if (!r)
		r = qcow2_header_read(y->fd, y->path, &y->header, e);
	if (!r)
		r = qcow2_header_supported(&y->header, false, e);
	if (!r && (y->header.incompatible & QCOW2_INCOMPAT_DIRTY))
		r = qcow2_repair(y->fd, &y->header, QCOW2_REPAIR_ALL, &c, e);
	return r;
}

/* An image that was not closed is repaired first, but not for a change that is refused anyway. */
static int dirty_check(const struct amend *a, struct err *e)
{
	struct img_layer layers[BLOCK_LAYERS_MAX];
	struct img_open o = a->common.o;
	struct plan p;
	unsigned n;
	int r;

	o.no_backing = true;
	r = img_layers_open(&o, layers, &n, e);
	if (r < 0)
		return r;
	if (layers[0].format == BLOCK_FORMAT_QCOW2 && (layers[0].header.incompatible & QCOW2_INCOMPAT_DIRTY) &&
		!(layers[0].header.incompatible & QCOW2_INCOMPAT_CORRUPT)) {
		r = plan_make(a, &layers[0].header, &p, e);
		if (!r)
			r = dirty_repair(&layers[0], e);
	}
	img_layers_free(layers, n);
	return r;
}

/* Open and lock the image and plan the changes. On error, nothing stays open. */
static int plan_open(const struct amend *a, struct img_layer *layers, unsigned *n, struct plan *p,
	struct err *e)
{
	int r = img_header_open(&a->common.o, "options", layers, n, e);

	if (r < 0)
		return r;
	r = plan_make(a, &layers[0].header, p, e);
	if (!r)
		r = snapshots_fit(&layers[0], p, e);
	if (!r)
		r = image_is_faultless(layers[0].fd, &layers[0].header, e);
	if (r < 0)
		img_layers_free(layers, *n);
	return r;
}

static int image_amend(struct amend *a, struct err *e)
{
	struct img_layer layers[BLOCK_LAYERS_MAX];
	const struct qcow2_header *h = &layers[0].header;
	struct plan p;
	unsigned n;
	int r = dirty_check(a, e);

	if (!r)
		r = plan_open(a, layers, &n, &p, e);
	if (!r && p.c.qcow2.version < h->version && !h->incompatible) {
		a->backing = h->has_backing;
		img_layers_free(layers, n);
		r = img_block_run(img_loop(0), &a->common.o, zeros_to_data, a, e);
		if (!r)
			r = plan_open(a, layers, &n, &p, e);
	}
	if (r < 0)
		return r;
	r = header_apply(&p, layers[0].fd, &layers[0].header, e);
	img_layers_free(layers, n);
	if (!r && a->size)
		r = img_block_run(img_loop(0), &a->common.o, size_apply, &p.c.qcow2.size_bytes, e);
	return r;
}

int img_amend_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS, { "force", no_argument, NULL, IMG_OPT_OWN },
		{ NULL, 0, NULL, 0 } };
	struct amend a = { .common.o.writable = true };
	struct img_options opts = { 0 };
	struct err e;
	int c, st = 0;

	img_common_init(&a.common, "amend");
	while (!st && (c = getopt_long(argc, argv, "f:o:t:pq", longs, NULL)) != -1) {
		if (c == 'o')
			st = img_options_add(&opts, "amend", optarg);
		else if (c == 't')
			st = img_cache_option("amend", optarg);
		else if (c != IMG_OPT_OWN) /* --force is about encryption */
			st = img_common_option(&a.common, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (!st && img_options_ask_help(&opts)) {
		img_options_help(BLOCK_FORMAT_QCOW2, true);
		return 0;
	}
	for (unsigned i = 0; i < opts.n && !st; i++)
		st = options_take(&a, opts.list[i]);
	if (st)
		return st;
	if (argc - optind != 1 || !opts.n)
		return img_usage("amend", "-o OPTIONS and one FILE are required");
	if (img_common_name(&a.common, &a.common.o, argv[optind]))
		return 1;
	img_signals_end();
	return img_confine(1, 64, &e) < 0 || image_amend(&a, &e) < 0 ? img_fail(&e) : 0;
}
