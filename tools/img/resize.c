#include "img.h"

#include "base/util.h"

#include <errno.h>
#include <stdio.h>

struct resize {
	struct img_common common;
	const char *size;
	bool shrink;
	enum img_prealloc prealloc;
};

static int wanted_parse(const char *s, uint64_t now, uint64_t *ret, struct err *e)
{
	uint64_t n;
	int r = img_parse_size(s + (*s == '+' || *s == '-'), &n, e);

	if (r < 0)
		return r;
	if (*s == '-' && n >= now)
		return err_set(e, -EINVAL, ERR_INVALID, "the image has %llu bytes; cannot remove %llu "
			"bytes", (unsigned long long)now, (unsigned long long)n);
	if (*s == '+' && n > INT64_MAX - now)
		return err_set(e, -EINVAL, ERR_INVALID, "the size is too large");
	*ret = *s == '-' ? now - n : *s == '+' ? now + n : n;
	if (*ret > INT64_MAX - 511)
		return err_set(e, -EINVAL, ERR_INVALID, "the size is too large");
	*ret = ROUND_UP(*ret, 512);
	return 0;
}

static int added_allocate(struct block *b, uint64_t from, void *opaque, struct err *e)
{
	struct resize *z = opaque;
	struct block_info info;
	int r;

	block_info(b, &info);
	r = info.format == BLOCK_FORMAT_QCOW2 ? qcow2_preallocate(b, from, e) : 0;
	img_signals_catch();
	return r ? r : img_preallocate(b, z->prealloc, from, &z->common.progress, e);
}

static int size_change(struct block *b, void *opaque, struct err *e)
{
	struct resize *z = opaque;
	struct block_fill fill = { added_allocate, z };
	struct block_info info;
	uint64_t size = 0;
	int r;

	block_info(b, &info);
	r = img_seal(false, e);
	if (!r)
		r = wanted_parse(z->size, info.size_bytes, &size, e);
	if (r < 0)
		return r;
	if ((size < info.size_bytes || *z->size == '-') && !z->shrink)
		return err_set(e, -EINVAL, ERR_INVALID, "%s has %llu bytes, so this would discard data; shrink the "
			"guest's file systems, then use --shrink", z->common.o.path,
			(unsigned long long)info.size_bytes);
	if (z->prealloc && size <= info.size_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "%s has %llu bytes, so there is no added space to preallocate; omit --preallocation, or give "
			"a larger size", z->common.o.path, (unsigned long long)info.size_bytes);
	if (!size && info.size_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "the new size of %s must be above 0", z->common.o.path);
	return z->prealloc ? block_grow_filled(b, size, &fill, e) : block_resize(b, size, e);
}

/* Take the size off the end of argv, because getopt would parse "-1G" as an option. */
static const char *size_take(int *argc, char **argv)
{
	return *argc > 2 ? argv[--*argc] : NULL;
}

int img_resize_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS,
		{ "fd", required_argument, NULL, IMG_OPT_FD },
		{ "shrink", no_argument, NULL, IMG_OPT_OWN },
		{ "preallocation", required_argument, NULL, IMG_OPT_OWN + 1 }, { NULL, 0, NULL, 0 } };
	struct resize z = { .common.o.writable = true };
	struct err e;
	int c, r, st = 0;

	img_common_init(&z.common, "resize");
	z.size = size_take(&argc, argv);
	while (!st && (c = getopt_long(argc, argv, "f:pq", longs, NULL)) != -1) {
		if (c == IMG_OPT_OWN)
			z.shrink = true;
		else if (c == IMG_OPT_OWN + 1)
			st = img_prealloc_word(optarg, &z.prealloc, &e) < 0 ? img_fail(&e) : 0;
		else if (c == IMG_OPT_FD)
			st = img_fd_option("resize", optarg);
		else
			st = img_common_option(&z.common, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (st)
		return st;
	if (!z.size || argc - optind != 1)
		return img_usage("resize", "FILE and SIZE are required");
	if (img_common_name(&z.common, &z.common.o, argv[optind]))
		return 1;
	img_common_progress(&z.common);
	img_signals_end();
	r = img_confine(1, 64, &e);
	if (!r)
		r = img_block_run(img_loop(0), &z.common.o, size_change, &z, &e);
	img_progress_end(&z.common.progress, !r);
	if (!r && !z.common.quiet && !z.common.json)
		puts("Image resized.");
	return r < 0 ? img_fail(&e) : 0;
}
