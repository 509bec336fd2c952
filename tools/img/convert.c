/* convert: copy a disk to another format or place. */
#include "convert.h"

#include "base/cleanup.h"
#include "base/util.h"
#include "block/lock.h"
#include "block/parts.h"
#include "block/qcow2/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ---- opening the target ---- */

struct target {
	const char *path;
	uint64_t size_bytes;
	char real[2 * PATH_MAX]; /* the file to which path leads */
	char tmp[PATH_MAX]; /* temporary name; empty: written directly */
	bool is_device, in_place; /* both are written directly; in_place: a file of --fd, or see img_replacement_open() */
	int old_fd; /* holds the lock on the file that will be replaced */
	struct img_data data;
};

static bool is_direct(const struct target *t)
{
	return t->is_device || t->in_place;
}

static int target_prepare(struct target *t, struct err *e)
{
	struct stat st;
	int r;

	img_path_follow(t->path, t->real);
	t->in_place = img_fd_given(t->path) >= 0;
	t->old_fd = img_fd_open(t->path, O_RDWR | O_CLOEXEC | O_NONBLOCK, 0);
	if (t->old_fd < 0 && errno != ENOENT)
		return err_set_errno(e, -errno, "cannot write %s", t->path);
	if (t->old_fd >= 0) {
		if (fstat(t->old_fd, &st) < 0)
			return err_set_errno(e, -errno, "%s", t->path);
		r = img_kind_check(&st, t->path, e);
		if (r < 0)
			return r;
		t->is_device = S_ISBLK(st.st_mode);
		if (lock_acquire(t->old_fd, LOCK_AS_WRITER, t->path, e) < 0)
			return -EBUSY;
	}
	if (!is_direct(t) &&
		snprintf(t->tmp, sizeof(t->tmp), "%s.part-%d", t->real, (int)getpid()) >= (int)sizeof(t->tmp))
		return err_set_errno(e, -ENAMETOOLONG, "%s", t->path);
	return 0;
}

/* Open the new image for writing.
 * fd: the image's file; taken on success. */
static int image_open(struct target *t, struct loop *l, const struct img_create *ic, int fd, struct block **ret_b, struct err *e)
{
	struct block_layer layer = { .format = ic->format, .fd = fd, .data_fd = t->data.fd ? dup(t->data.fd) : 0 };
	struct block_open bo = { .layers = &layer, .nlayers = 1, .buffered = true, .name = t->path };
	int r = block_open(l, &bo, ret_b, e);

	if (r < 0 && layer.data_fd)
		close(layer.data_fd);
	return r;
}

/* Open the new image and its backing files. The user named the first backing file, so its folder is allowed. */
static int overlay_open(struct target *t, struct loop *l, const struct img_create *ic, const struct img_common *x,
	struct block **ret_b, struct err *e)
{
	struct img_open o = { .path = is_direct(t) ? t->path : t->tmp, .named = t->path, .format = "qcow2", .writable = true };
	char path[2 * PATH_MAX], real[PATH_MAX], *slash;

	img_common_open(x, &o);
	o.no_lock = false;
	o.data_fd = t->data.fd;
	if (img_is_no_path(ic->qcow2.backing_name)) {
		if (strncmp(ic->qcow2.backing_name, "json:", 5)) /* a URL has no further backing files */
			o.trust = img_backing_name;
		return img_block_open(l, &o, ret_b, e);
	}
	img_path_beside(t->path, ic->qcow2.backing_name, path, sizeof(path));
	if (!realpath(path, real))
		return err_set_errno(e, -errno, "backing file %s", path);
	slash = strrchr(real, '/');
	slash[slash == real] = 0;
	o.allow[o.nallow++] = real;
	return img_block_open(l, &o, ret_b, e);
}

/* Returns the file to write to, owned; -errno. */
static int target_file(struct target *t, struct err *e)
{
	int fd = is_direct(t) ? 0 : img_replacement_open(t->tmp, t->old_fd);

	if (fd < 0) {
		*t->tmp = 0;
		return err_set_errno(e, fd, "cannot create %s", t->path);
	}
	if (fd)
		return fd;
	*t->tmp = 0;
	t->in_place = !t->is_device;
	return steal_fd(&t->old_fd);
}

static int target_open(struct target *t, const struct img_convert *v, struct block **ret_b, struct err *e)
{
	CLEANUP_CLOSE int fd = target_file(t, e);
	int r;

	if (fd < 0)
		return fd;
	r = img_data_make(&t->data, t->path, &v->ic.qcow2, e);
	if (!r)
		r = img_create_fd(fd, &v->ic, e);
	if (r < 0)
		return r;
	if (v->ic.qcow2.backing_name) {
		close(steal_fd(&fd)); /* a device's lock, too */
		return overlay_open(t, v->loop, &v->ic, &v->common, ret_b, e);
	}
	r = image_open(t, v->loop, &v->ic, fd, ret_b, e);
	if (!r)
		(void)steal_fd(&fd);
	return r;
}

static int target_finish(struct target *t, struct block *to, int r, struct err *e)
{
	r = img_block_close(to, t->path, r, e);
	if (!r)
		r = img_data_size(&t->data, t->size_bytes, e);
	r = img_data_finish(&t->data, r, e);
	if (!r && *t->tmp && rename(t->tmp, t->real) < 0)
		r = err_set_errno(e, -errno, "cannot rename %s to %s", t->tmp, t->real);
	if (r < 0 && *t->tmp)
		unlink(t->tmp);
	if (t->old_fd >= 0)
		close(t->old_fd);
	return r;
}

static int target_fits(const struct img_convert *v, struct err *e)
{
	struct block_info info;

	block_info(v->to, &info);
	if (v->size_bytes % info.logical_block_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "the target %s is written in blocks of %u bytes, and the %llu bytes of the source "
			"do not end with one; grow the source first", v->path, info.logical_block_bytes, (unsigned long long)v->size_bytes);
	if (info.size_bytes >= v->size_bytes)
		return 0;
	return err_set(e, -ENOSPC, ERR_NO_SPACE, "the target %s has %llu bytes, fewer than the %llu of the source", v->path,
		(unsigned long long)info.size_bytes, (unsigned long long)v->size_bytes);
}

/* Return the path of the target's data file, which ret may hold; NULL: there is none, or the target cannot be opened,
 * as a later open reports. */
static const char *target_data(const struct img_convert *v, char *ret, size_t cap)
{
	struct img_layer layers[BLOCK_LAYERS_MAX];
	struct img_open o = v->target;
	struct err e;
	unsigned n;

	if (v->existing && o.data_path)
		return o.data_path;
	*ret = 0;
	o.no_backing = true;
	o.writable = false;
	if (!v->existing && v->ic.qcow2.data_file) {
		img_path_beside(v->path, v->ic.qcow2.data_file, ret, cap);
	} else if (v->existing && img_layers_open(&o, layers, &n, &e) >= 0) {
		if (*layers[0].header.data_file)
			img_path_beside(v->path, layers[0].header.data_file, ret, cap);
		img_layers_free(layers, n);
	}
	return *ret ? ret : NULL;
}

static int sources_open(struct img_convert *v, struct block_part *parts, unsigned *n, struct err *e)
{
	char beside[2 * PATH_MAX];
	const char *data = target_data(v, beside, sizeof(beside));

	for (*n = 0; *n < v->nsources; ++*n) {
		struct img_open o = v->sources[*n];
		struct block_info info;
		int r;

		o.targets[0] = strcmp(v->path, "-") ? v->path : NULL;
		o.targets[1] = data;
		r = img_block_open(v->from_loop, &o, &parts[*n].b, e);
		if (r < 0)
			return r;
		block_info(parts[*n].b, &info);
		if (v->skip_bytes > MIN(v->end_bytes, info.size_bytes))
			img_warn("%s: cannot skip to the offset %llu, behind its end", o.path, (unsigned long long)v->skip_bytes);
		parts[*n].offset = MIN(v->skip_bytes, info.size_bytes);
		parts[*n].len = MIN(v->end_bytes, info.size_bytes);
		parts[*n].len -= MIN(parts[*n].len, parts[*n].offset);
	}
	return 0;
}

static int source_open(struct img_convert *v, struct err *e)
{
	bool whole = v->nsources == 1 && !v->skip_bytes && v->end_bytes == UINT64_MAX;
	CLEANUP_FREE struct block_part *parts = calloc(v->nsources, sizeof(*parts));
	struct block_info info;
	unsigned n = 0;
	int r = parts ? sources_open(v, parts, &n, e) : err_set_errno(e, -ENOMEM, "convert");

	if (!r && !whole)
		r = block_parts_open(v->from_loop, parts, n, &v->from, e);
	else if (!r)
		v->from = parts[0].b;
	if (r < 0) {
		while (n)
			block_close(parts[--n].b);
		return r;
	}
	if (v->bitmaps) {
		r = img_bitmaps_check(v->from, v->skip_broken_bitmaps, e);
		if (r < 0)
			return r;
	}
	block_info(v->from, &info);
	v->size_bytes = v->ic.qcow2.size_bytes = info.size_bytes;
	return v->ic.format == BLOCK_FORMAT_QCOW2 ? qcow2_create_check(&v->ic.qcow2, e) : 0;
}

static int image_copy(struct img_convert *v, bool to_is_zero, struct err *e)
{
	struct img_copy c = { .from = v->from, .to = v->to, .from_loop = v->from_loop, .loop = v->loop, .to_is_zero = to_is_zero,
		.how = &v->how, .rate = &v->rate, .progress = &v->common.progress };

	return img_copy(&c, e);
}

/* ---- writing compressed images ---- */

static int compressed_copy(struct img_convert *v, struct img_sink *to, const struct qcow2_create *like, struct err *e)
{
	struct img_pack p = { .from = v->from, .loop = v->from_loop, .to = to,
		.cluster_bytes = 1u << like->cluster_bits, .compression = like->compression, .how = &v->how, .rate = &v->rate,
		.progress = &v->common.progress };

	return img_pack(&p, e);
}

struct new_image {
	struct img_sink sink;
	struct qcow2_pack *pack;
};

static int new_add(struct img_sink *s, uint64_t off, const void *data, size_t len, bool plain)
{
	(void)plain; /* qcow2_pack_add() knows a plain cluster by its length */
	return qcow2_pack_add(container_of(s, struct new_image, sink)->pack, off, data, len);
}

struct old_image {
	struct img_sink sink;
	struct block *b;
	uint64_t size_bytes, zeros_from; /* from zeros_from on, the image reads as zeros where nothing is written */
	struct qcow2_streams *streams;
};

static int old_add(struct img_sink *s, uint64_t off, const void *data, size_t len, bool plain)
{
	struct old_image *o = container_of(s, struct old_image, sink);
	struct iovec iov = { (void *)(uintptr_t)data, MIN(len, o->size_bytes - off) };
	struct block_req w = { .op = BLOCK_WRITE, .offset = off, .len = iov.iov_len, .iov = &iov, .niov = 1 };

	return plain ? block_run(o->b, &w) : qcow2_streams_add(o->streams, off, data, len);
}

static int old_zero(struct img_sink *s, uint64_t off, uint64_t len)
{
	struct old_image *o = container_of(s, struct old_image, sink);
	struct block_req z = { .op = BLOCK_WRITE_ZEROES, .flags = BLOCK_REQ_MAY_UNMAP, .offset = off };

	z.len = off < o->zeros_from ? MIN(len, o->zeros_from - off) : 0;
	return z.len ? block_run(o->b, &z) : 0;
}

/* is_zero: the image reads as zeros where neither it nor its backing file has data. */
static int pack_existing(struct img_convert *v, bool is_zero, struct err *e)
{
	struct old_image o = { .sink = { .exists = true, .add = old_add, .zero = old_zero }, .b = v->to, .size_bytes = v->size_bytes,
		.zeros_from = UINT64_MAX };
	struct qcow2_create like;
	struct block_info info;
	int over, r = qcow2_streams_new(v->to, &o.streams, &like, e);

	if (r < 0)
		return r;
	block_info(v->to, &info);
	if (is_zero)
		o.zeros_from = ROUND_UP(info.backing_bytes, 1ULL << like.cluster_bits);
	r = compressed_copy(v, &o.sink, &like, e);
	over = qcow2_streams_free(o.streams);
	return !r && over < 0 ? err_set_errno(e, over, "cannot write %s", v->path) : r;
}

/* Write into an existing image (-n), or to a disk of a server. A failure leaves the target incomplete. */
static int convert_existing(struct img_convert *v, struct err *e)
{
	struct img_open o = v->target;
	int r;

	r = img_block_open(v->loop, &o, &v->to, e);
	if (!r)
		r = img_seal(false, e);
	if (!r)
		r = target_fits(v, e);
	if (!r)
		r = v->compress ? pack_existing(v, v->target_is_zero, e) : image_copy(v, v->target_is_zero, e);
	if (!r && v->bitmaps)
		r = img_bitmaps_copy(v->from, v->to, e);
	return img_block_close(v->to, v->path, r, e);
}

static int pack_new(struct img_convert *v, struct target *t, struct err *e)
{
	struct new_image n = { .sink.add = new_add };
	CLEANUP_CLOSE int fd = -1;
	int r;

	if (t->is_device)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "cannot write a compressed image to %s, which is "
			"a device; use a file", v->path);
	fd = target_file(t, e);
	if (fd < 0)
		return fd;
	r = img_seal(true, e);
	if (!r)
		r = qcow2_pack_new(fd, &v->ic.qcow2, &n.pack, e);
	if (r < 0)
		return r;
	r = compressed_copy(v, &n.sink, &v->ic.qcow2, e);
	if (!r)
		r = qcow2_pack_finish(n.pack, e);
	qcow2_pack_free(n.pack);
	return r;
}

/* Does a new target read as zeros? A device does not, because it keeps its old content. A qcow2 image with a device as
 * its raw data file does not either, because all of such a file is mapped. */
static bool new_is_zero(const struct img_convert *v, const struct target *t)
{
	if (v->ic.format == BLOCK_FORMAT_RAW)
		return !t->is_device;
	return !(v->ic.qcow2.data_file_raw && t->data.is_device);
}

static int copy_new(struct img_convert *v, struct target *t, struct err *e)
{
	bool is_zero = v->target_is_zero || new_is_zero(v, t);
	int r = target_open(t, v, &v->to, e);

	if (!r)
		r = img_seal(true, e);
	if (!r && t->is_device)
		r = target_fits(v, e);
	if (!r)
		r = img_preallocate(v->to, img_create_prealloc(&v->ic), 0, NULL, e);
	if (!r)
		r = v->compress ? pack_existing(v, is_zero, e) : image_copy(v, is_zero, e);
	if (!r && v->bitmaps)
		r = img_bitmaps_copy(v->from, v->to, e);
	return r;
}

static int convert_new(struct img_convert *v, struct target *t, struct err *e)
{
	int r;

	t->size_bytes = v->size_bytes;
	/* Only the slower way of copy_new() knows backing files and bitmaps. */
	r = v->compress && !v->ic.qcow2.backing_name && !v->bitmaps ? pack_new(v, t, e) : copy_new(v, t, e);
	return target_finish(t, v->to, r, e);
}

static int stream_copy(struct img_convert *v, struct err *e)
{
	int r = img_seal(false, e);

	return r ? r : img_copy_stream(v->from, 1, &v->how, &v->rate, &v->common.progress, e);
}

static int confine(const struct img_convert *v, bool stream, bool in_place, struct err *e)
{
	const struct qcow2_create *q = &v->ic.qcow2;

	if (in_place)
		img_sandbox_image(&v->target);
	else if (!stream)
		img_sandbox_target(v->path);
	if (!in_place)
		img_sandbox_data(v->path, q);
	if (q->backing_name)
		img_sandbox_backing(v->path, q->backing_name, &v->common.o, false);
	return img_confine(2, 64, e);
}

int img_convert_run(struct img_convert *v, struct err *e)
{
	struct target t = { .path = v->path, .old_fd = -1, .data.old_fd = -1 };
	bool stream = !strcmp(v->path, "-"), in_place = v->existing || v->target.protocol;
	int r = confine(v, stream, in_place, e);

	v->loop = img_loop(0);
	v->from_loop = img_loop(1);
	if (!r && !stream && !in_place)
		r = target_prepare(&t, e);
	if (!r)
		r = source_open(v, e);
	if (r < 0)
		target_finish(&t, NULL, r, NULL);
	else if (stream)
		r = stream_copy(v, e);
	else
		r = in_place ? convert_existing(v, e) : convert_new(v, &t, e);
	block_close(v->from);
	return r;
}

/* ---- the verb convert ---- */

struct convert_args {
	struct img_convert v;
	struct img_options opts; /* applied when the format is known */
	struct img_open src; /* options of each source */
	const char *base, *base_format; /* -B and -F */
	bool offload, sparse, target_opts, format_given; /* -C, -S, --target-image-opts, -O */
};

static int backing_check(struct img_convert *v)
{
	const struct qcow2_create *q = &v->ic.qcow2;
	enum block_format f;
	struct err e;

	if (!q->backing_name)
		return q->backing_format ? img_usage("convert", "-F requires -B") : 0;
	if (v->ic.format != BLOCK_FORMAT_QCOW2)
		return img_usage("convert", "a raw image cannot have a backing file; use -O qcow2");
	if (v->nsources > 1)
		return img_usage("convert", "several SOURCEs cannot share a backing file of the target");
	if (!q->backing_format && !v->existing)
		return img_usage("convert", "no format of the backing file given; add -F raw or -F qcow2");
	if (q->backing_format && img_format_parse(q->backing_format, &f, &e) < 0)
		return img_usage("convert", "%s", e.msg);
	if (!v->existing && !strncmp(q->backing_name, "json:", 5) && !v->common.o.trust)
		return img_usage("convert", "images with the backing file '%s' are read only with --trust-backing; add it, or give the path "
			"of a file", q->backing_name);
	if (v->target_is_zero)
		return img_usage("convert", "--target-is-zero and -B exclude each other");
	if (v->ic.prealloc && !q->extended_l2)
		return img_usage("convert", "preallocated clusters would hide the backing file; add extended_l2=on to use "
			"both");
	v->how.over_backing = true;
	return 0;
}

/* Take the names of the sources and of the target, which follows them. */
static int names_take(struct convert_args *a, char **names)
{
	struct img_convert *v = &a->v;
	struct img_open *list = calloc(v->nsources, sizeof(*list));
	char *target = names[v->nsources];
	struct err e;

	if (!list)
		return img_usage("convert", "out of memory");
	v->sources = list;
	for (unsigned i = 0; i < v->nsources; i++) {
		list[i] = a->src;
		if (img_common_name(&v->common, &list[i], names[i]))
			return 1;
	}
	v->target = (struct img_open){ .writable = true };
	memcpy(v->target.allow, a->src.allow, sizeof(v->target.allow));
	v->target.nallow = a->src.nallow;
	if (img_name_take(&v->target, target, a->target_opts, &e) < 0)
		return img_fail(&e);
	v->path = v->target.path;
	if (!v->target.format)
		v->target.format = block_format_name(v->ic.format);
	return img_create_format(&v->ic, "convert", v->target.format);
}

static int args_check(struct convert_args *a, int argc, char **argv)
{
	struct img_convert *v = &a->v;
	int st;

	if (argc - optind < 2)
		return img_usage("convert", "SOURCE and TARGET are required");
	v->nsources = (unsigned)(argc - optind - 1);
	st = names_take(a, argv + optind);
	if (!st)
		st = backing_check(v);
	if (st)
		return st;
	if (v->nsources > 1 && a->src.snapshot)
		return img_usage("convert", "-l requires a single SOURCE");
	if (v->skip_broken_bitmaps && !v->bitmaps)
		return img_usage("convert", "Use of --skip-broken-bitmaps requires --bitmaps");
	if (v->bitmaps && v->nsources > 1)
		return img_usage("convert", "Copying bitmaps only possible with single source");
	if (v->bitmaps && v->ic.format != BLOCK_FORMAT_QCOW2)
		return img_usage("convert", "Format driver 'raw' does not support bitmaps");
	if (v->bitmaps && !v->existing && v->ic.qcow2.version < 3)
		return img_usage("convert", "Format driver 'qcow2' does not support bitmaps with compat=0.10");
	if (v->compress && v->ic.format != BLOCK_FORMAT_QCOW2)
		return img_usage("convert", "-c requires -O qcow2");
	if (v->compress && v->ic.prealloc)
		return img_usage("convert", "-c and preallocation exclude each other");
	if (v->target.protocol && v->ic.prealloc)
		return img_usage("convert", "a server's disk cannot be preallocated");
	if (v->compress && v->ic.qcow2.data_file)
		return img_usage("convert", "-c and data_file exclude each other: a data file has no compressed "
			"clusters");
	if (!strcmp(v->path, "-") && (v->ic.format != BLOCK_FORMAT_RAW || v->existing))
		return img_usage("convert", "only the format raw can be written to standard output");
	if (v->target_is_zero && !v->existing)
		return img_usage("convert", "--target-is-zero requires -n: it is about a TARGET that exists");
	return 0;
}

int img_snapshot_option(struct img_open *o, const char *verb, char *arg)
{
	char *at = arg;

	o->snapshot = arg;
	o->snapshot_id = o->snapshot_name = NULL;
	if (strncmp(arg, "snapshot.", 9))
		return 0;
	for (char *word; (word = img_option_next(&at));) {
		if (!strncmp(word, "snapshot.name=", 14))
			o->snapshot_name = word + 14;
		else if (!strncmp(word, "snapshot.id=", 12))
			o->snapshot_id = word + 12;
		else
			return img_usage(verb, "invalid snapshot '%s'; give its name or id, or snapshot.name=NAME, snapshot.id=ID "
				"or both with a comma", word);
	}
	return 0;
}

/* Options that have a meaning to qemu-img only; their values are checked. */
static int qemu_option_check(int c, const char *arg)
{
	uint64_t n;
	struct err e;

	if (c == 'm' && (img_parse_size(arg, &n, &e) < 0 || n < 1 || n > 16))
		return img_usage("convert", "-m takes a number from 1 to 16, not '%s'", arg);
	return c == 't' || c == 'T' ? img_cache_option("convert", arg) : 0;
}

static int sparse_take(struct img_convert *v, const char *arg)
{
	struct err e;
	uint64_t n;

	if (img_parse_size(arg, &n, &e) < 0)
		return img_fail(&e);
	if (n % BLOCK_SECTOR_BYTES || n > 16 * MIB)
		return img_usage("convert", "-S takes a multiple of 512 up to 16M, or 0 to write zeros as data");
	v->how.sparse_bytes = (uint32_t)n;
	v->how.dense = !n;
	return 0;
}

enum { OPT_TARGET_IS_ZERO = IMG_OPT_OWN, OPT_SALVAGE, OPT_TARGET_OPTS, OPT_BITMAPS, OPT_SKIP_BROKEN_BITMAPS };

static int option_take(struct convert_args *a, int c, char *arg)
{
	struct img_convert *v = &a->v;
	struct err e;

	switch (c) {
	case 'f':
		a->src.format = arg;
		return 0;
	case 'O':
		a->format_given = true;
		return img_create_format(&v->ic, "convert", arg);
	case 'o':
		return img_options_add(&a->opts, "convert", arg);
	case 'B':
		a->base = arg;
		return 0;
	case 'F':
		a->base_format = arg;
		return 0;
	case 'S':
		a->sparse = true;
		return sparse_take(v, arg);
	case 'C':
		a->offload = true;
		return 0;
	case 'c':
		v->compress = true;
		return 0;
	case 'n':
		v->existing = true;
		return 0;
	case 'l':
		return img_snapshot_option(&a->src, "convert", arg);
	case 'r':
		return img_parse_size(arg, &v->rate.bytes_per_second, &e) < 0 ? img_fail(&e) : 0;
	case OPT_TARGET_IS_ZERO:
		v->target_is_zero = true;
		return 0;
	case OPT_TARGET_OPTS:
		a->target_opts = true;
		return 0;
	case OPT_BITMAPS:
		v->bitmaps = true;
		return 0;
	case OPT_SKIP_BROKEN_BITMAPS:
		v->skip_broken_bitmaps = true;
		return 0;
	case OPT_SALVAGE:
		v->how.salvage = true;
		return 0;
	case IMG_OPT_FD:
		return img_fd_option("convert", arg);
	case 't':
	case 'T':
	case 'm':
	case 'W':
		return qemu_option_check(c, arg);
	default:
		return img_common_option(&v->common, c, arg);
	}
}

/* Check options that exclude each other, and apply -o, -B and -F. */
static int options_join(struct convert_args *a)
{
	struct qcow2_create *q = &a->v.ic.qcow2;
	struct err e;

	if (a->target_opts && !a->v.existing)
		return img_usage("convert", "--target-image-opts requires -n: only an existing TARGET has such options");
	if (a->target_opts && a->format_given)
		return img_usage("convert", "--target-image-opts and -O exclude each other; use driver");
	if (a->v.existing && a->opts.n)
		return img_usage("convert", "-o has no effect with -n: TARGET exists");
	if (a->offload && (a->v.compress || a->sparse || a->v.how.salvage))
		return img_usage("convert", "-C and %s exclude each other", a->v.compress ? "-c" : a->sparse ? "-S"
			: "--salvage");
	if (img_options_apply(&a->v.ic, &a->opts, &e) < 0)
		return img_fail(&e);
	if (a->base)
		q->backing_name = a->base;
	if (a->base_format)
		q->backing_format = a->base_format;
	return 0;
}

int img_convert_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS,
		{ "target-is-zero", no_argument, NULL, OPT_TARGET_IS_ZERO },
		{ "target-image-opts", no_argument, NULL, OPT_TARGET_OPTS },
		{ "bitmaps", no_argument, NULL, OPT_BITMAPS },
		{ "skip-broken-bitmaps", no_argument, NULL, OPT_SKIP_BROKEN_BITMAPS },
		{ "salvage", no_argument, NULL, OPT_SALVAGE }, { "fd", required_argument, NULL, IMG_OPT_FD }, { NULL, 0, NULL, 0 } };
	struct convert_args a = { .v = { .ic = IMG_CREATE_DEFAULT, .end_bytes = UINT64_MAX } };
	struct img_convert *v = &a.v;
	struct err e;
	int c, r, st = 0;

	img_common_init(&v->common, "convert");
	while (!st && (c = getopt_long(argc, argv, "f:O:o:B:F:S:l:r:t:T:m:WpqUcnC", longs, NULL)) != -1)
		st = option_take(&a, c, c == '?' ? argv[optind - 1] : optarg);
	if (!st && img_options_ask_help(&a.opts)) {
		img_options_help(v->ic.format, false);
		return 0;
	}
	if (!st)
		st = options_join(&a);
	if (!st)
		img_common_open(&v->common, &a.src);
	if (!st)
		st = args_check(&a, argc, argv);
	if (st)
		goto out;
	v->how.quiet = v->common.quiet;
	if (!v->how.quiet && !a.format_given && !v->existing)
		img_create_warn_name(&v->ic, "convert", v->path);
	if (!strcmp(v->path, "-"))
		v->common.progress.to = stderr;
	img_common_progress(&v->common);
	img_signals_catch();
	r = img_convert_run(v, &e);
	img_progress_end(&v->common.progress, !r);
	st = r < 0 ? img_fail(&e) : 0;
out:
	free((void *)(uintptr_t)v->sources);
	return st;
}
