/* bitmap: change the persistent dirty bitmaps of an image. */
#include "img.h"

#include "base/bitmap.h"
#include "block/lock.h"
#include "block/qcow2/bitmap.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ACTIONS_MAX 64

/* Values of the long options; the actions' are the first ones, in the order of action_names. */
enum { ACTION_ADD = IMG_OPT_OWN, ACTION_REMOVE, ACTION_CLEAR, ACTION_ENABLE, ACTION_DISABLE, ACTION_MERGE };
static const char *const action_names[] = { "add", "remove", "clear", "enable", "disable", "merge" };

struct bitmap_args {
	struct img_common common;
	const char *source, *source_format; /* of --merge; NULL: the image itself, detected */
	const char *granularity;
	const char *name;
	struct {
		int kind;
		const char *from; /* --merge: the bitmap's name */
	} actions[ACTIONS_MAX];
	unsigned n;
	bool adds, merges;
	uint64_t granularity_bytes; /* 0: the default */
};

/* Find a bitmap in a list. */
static const struct qcow2_bitmap_info *info_find(const struct qcow2_bitmap_info *list, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(list[i].name, name))
			return &list[i];
	return NULL;
}

/* Merge bitmap `from` of an opened source image. */
static int merge_layer(const struct img_layer *y, struct block *b, const char *name, const char *from, struct err *e)
{
	const struct qcow2_bitmap_info *i;
	struct qcow2_bitmap_info *list;
	size_t n;
	int r = qcow2_bitmaps_read(y->fd, &y->header, &list, &n, e);

	if (r < 0)
		return r;
	i = info_find(list, n, from);
	r = i ? qcow2_bitmap_merge_image(b, name, y->fd, &y->header, i, e)
		: err_set(e, -ENOENT, ERR_NOT_FOUND, "Dirty bitmap '%s' not found", from);
	qcow2_bitmaps_free(list, n);
	return r;
}

static struct img_open source_options(const struct bitmap_args *a)
{
	return (struct img_open){ .path = a->source, .format = a->source_format, .no_backing = true };
}

/* Open the source image for reading its bitmaps. On error, nothing stays open. */
static int source_open(const struct bitmap_args *a, struct img_layer *layers, unsigned *ret_n, struct err *e)
{
	struct img_open o = source_options(a);
	int r = img_layers_open(&o, layers, ret_n, e);

	if (r < 0)
		return r;
	r = lock_acquire(layers[0].fd, LOCK_AS_READER, a->source, e);
	/* Read the header again under the lock. */
	if (!r && layers[0].format == BLOCK_FORMAT_QCOW2)
		r = qcow2_header_read(layers[0].fd, a->source, &layers[0].header, e);
	if (r < 0)
		img_layers_free(layers, *ret_n);
	return r;
}

static int action_do(struct bitmap_args *a, struct block *b, const struct img_layer *source, unsigned i, struct err *e)
{
	const char *from = a->actions[i].from;

	switch (a->actions[i].kind) {
	case ACTION_ADD:
		return qcow2_bitmap_add(b, a->name, a->granularity_bytes ? a->granularity_bytes : qcow2_bitmap_granularity(b),
			true, e);
	case ACTION_REMOVE:
		return qcow2_bitmap_remove(b, a->name, e);
	case ACTION_CLEAR:
		return qcow2_bitmap_clear(b, a->name, e);
	case ACTION_ENABLE:
	case ACTION_DISABLE:
		return qcow2_bitmap_enable(b, a->name, a->actions[i].kind == ACTION_ENABLE, e);
	default:
		if (!source)
			return qcow2_bitmap_merge(b, a->name, from, e);
		return source->format == BLOCK_FORMAT_QCOW2 ? merge_layer(source, b, a->name, from, e)
			: err_set(e, -ENOENT, ERR_NOT_FOUND, "Dirty bitmap '%s' not found", from);
	}
}

struct bitmap_work {
	struct bitmap_args *args;
	const struct img_layer *source; /* NULL: none */
};

/* Do the actions; those before one that fails are stored, as qemu-img does. */
static int actions_do(struct block *b, void *opaque, struct err *e)
{
	struct bitmap_work *w = opaque;
	struct bitmap_args *a = w->args;
	struct block_info info;
	struct err store;
	int r = img_seal(false, e), stored;

	if (r < 0)
		return r;

	block_info(b, &info);
	for (unsigned i = 0; i < a->n && !r; i++) {
		if (info.format != BLOCK_FORMAT_QCOW2)
			r = err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s is raw; persistent bitmaps need qcow2",
				a->common.o.path);
		else
			r = action_do(a, b, w->source, i, e);
		if (r < 0)
			err_prefix(e, "Operation %s on bitmap %.64s failed", action_names[a->actions[i].kind - ACTION_ADD],
				a->name);
	}
	if (info.format != BLOCK_FORMAT_QCOW2)
		return r;
	stored = qcow2_bitmaps_commit(b, &store);
	if (stored < 0 && !r)
		*e = store;
	return r ? r : stored;
}

static int bitmap_run(struct bitmap_args *a, struct err *e)
{
	struct img_layer layers[BLOCK_LAYERS_MAX];
	struct bitmap_work w = { .args = a };
	struct img_open source = source_options(a);
	unsigned n = 0;
	int r;

	if (a->source)
		img_sandbox_image(&source);
	r = img_confine(1, 64, e);

	if (!r && a->source)
		r = source_open(a, layers, &n, e);
	if (r < 0)
		return r;
	if (a->source)
		w.source = &layers[0];
	r = img_block_run(img_loop(0), &a->common.o, actions_do, &w, e);
	img_layers_free(layers, n);
	return r;
}

static int action_add(struct bitmap_args *a, int kind, const char *from)
{
	if (a->n == ACTIONS_MAX)
		return img_usage("bitmap", "at most %d actions are possible", ACTIONS_MAX);
	a->actions[a->n].kind = kind;
	a->actions[a->n++].from = from;
	a->adds |= kind == ACTION_ADD;
	a->merges |= kind == ACTION_MERGE;
	return 0;
}

static int args_check(struct bitmap_args *a, int argc, char **argv)
{
	struct err e;

	if (argc - optind != 2)
		return img_usage("bitmap", "Expecting filename and bitmap name");
	if (!a->n)
		return img_usage("bitmap", "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
	if (a->granularity && !a->adds)
		return img_usage("bitmap", "granularity only supported with --add");
	if (a->source_format && !a->source)
		return img_usage("bitmap", "-F only supported with -b");
	if (a->source && !a->merges)
		return img_usage("bitmap", "Merge bitmap source file only supported with --merge");
	if (a->granularity && img_parse_size(a->granularity, &a->granularity_bytes, &e) < 0)
		return img_fail(&e);
	if (img_common_name(&a->common, &a->common.o, argv[optind]))
		return 1;
	if (a->common.o.no_lock)
		return img_usage("bitmap", "bitmap changes the image, so it needs the lock");
	a->name = argv[optind + 1];
	return 0;
}

int img_bitmap_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS, { "add", no_argument, NULL, ACTION_ADD },
		{ "remove", no_argument, NULL, ACTION_REMOVE }, { "clear", no_argument, NULL, ACTION_CLEAR },
		{ "enable", no_argument, NULL, ACTION_ENABLE }, { "disable", no_argument, NULL, ACTION_DISABLE },
		{ "merge", required_argument, NULL, ACTION_MERGE }, { "source-file", required_argument, NULL, 'b' },
		{ "source-format", required_argument, NULL, 'F' }, { "granularity", required_argument, NULL, 'g' },
		{ NULL, 0, NULL, 0 } };
	struct bitmap_args a = { .common.o = { .writable = true, .keeps_data = true, .lazy_bitmaps = true } };
	struct err e;
	int c, st = 0;

	img_common_init(&a.common, "bitmap");
	while (!st && (c = getopt_long(argc, argv, "b:f:F:g:", longs, NULL)) != -1) {
		if (c == 'b')
			a.source = optarg;
		else if (c == 'F')
			a.source_format = optarg;
		else if (c == 'g')
			a.granularity = optarg;
		else if (c >= ACTION_ADD && c <= ACTION_MERGE)
			st = action_add(&a, c, optarg);
		else
			st = img_common_option(&a.common, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (!st)
		st = args_check(&a, argc, argv);
	if (st)
		return st;
	return bitmap_run(&a, &e) < 0 ? img_fail(&e) : 0;
}
