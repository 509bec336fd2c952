/* convert: copy a disk to another format or place. */
#include "pack.h"

#include "base/cleanup.h"
#include "base/util.h"
#include "block/lock.h"
#include "block/qcow2/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct convert {
	struct img_common common;
	struct img_open src;
	struct img_create ic;
	const char *path; /* "-": standard output */
	bool compress, existing, target_is_zero;
	struct img_rate rate;
	struct loop *from_loop, *loop;
	struct block *from, *to;
	uint64_t size_bytes;
};

/* ---- opening the target ---- */

struct target {
	const char *path;
	uint64_t size_bytes;
	char tmp[PATH_MAX]; /* temporary name; empty: a device, written directly */
	bool is_device;
	int old_fd; /* holds the lock on the file that will be replaced */
	struct img_data data;
};

static int target_prepare(struct target *t, const struct img_open *src, struct err *e)
{
	struct stat st, from;

	t->old_fd = open(t->path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (t->old_fd < 0 && errno != ENOENT)
		return err_set_errno(e, -errno, "cannot write %s", t->path);
	if (t->old_fd >= 0) {
		if (fstat(t->old_fd, &st) < 0)
			return err_set_errno(e, -errno, "%s", t->path);
		if (!stat(src->path, &from) && st.st_dev == from.st_dev && st.st_ino == from.st_ino)
			return err_set(e, -EINVAL, ERR_INVALID, "source and target are the same file");
		t->is_device = S_ISBLK(st.st_mode);
		if (lock_acquire(t->old_fd, LOCK_AS_WRITER, t->path, e) < 0)
			return -EBUSY;
	}
	if (!t->is_device &&
		snprintf(t->tmp, sizeof(t->tmp), "%s.part-%d", t->path, (int)getpid()) >= (int)sizeof(t->tmp))
		return err_set_errno(e, -ENAMETOOLONG, "%s", t->path);
	return 0;
}

static int target_open(struct target *t, struct loop *l, const struct img_create *ic,
	struct block **ret_b, struct err *e)
{
	const char *path = t->is_device ? t->path : t->tmp;
	CLEANUP_CLOSE int fd = t->is_device ? steal_fd(&t->old_fd)
		: open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	struct block_layer layer = { .format = ic->format };
	struct block_open bo = { .layers = &layer, .nlayers = 1, .buffered = true, .name = t->path };
	int r;

	if (fd < 0)
		return err_set_errno(e, -errno, "cannot create %s", path);
	r = img_data_make(&t->data, t->path, &ic->qcow2, e);
	if (!r)
		r = img_create_fd(fd, ic, e);
	layer.fd = fd;
	layer.data_fd = t->data.fd ? dup(t->data.fd) : 0;
	if (!r)
		r = block_open(l, &bo, ret_b, e);
	if (!r)
		(void)steal_fd(&fd);
	else if (layer.data_fd)
		close(layer.data_fd);
	return r;
}

static int target_finish(struct target *t, struct block *to, int r, struct err *e)
{
	int closed = to ? block_close(to) : 0;

	if (!r && closed < 0)
		r = err_set_errno(e, closed, "cannot write %s", t->path);
	if (!r)
		r = img_data_size(&t->data, t->size_bytes, e);
	r = img_data_finish(&t->data, r, e);
	if (!r && *t->tmp && rename(t->tmp, t->path) < 0)
		r = err_set_errno(e, -errno, "cannot rename %s to %s", t->tmp, t->path);
	if (r < 0 && *t->tmp)
		unlink(t->tmp);
	if (t->old_fd >= 0)
		close(t->old_fd);
	return r;
}

static int target_fits(const struct convert *v, struct err *e)
{
	struct block_info info;

	block_info(v->to, &info);
	if (info.size_bytes >= v->size_bytes)
		return 0;
	return err_set(e, -ENOSPC, ERR_NO_SPACE, "the target %s has %llu bytes, fewer than the %llu of the source", v->path,
		(unsigned long long)info.size_bytes, (unsigned long long)v->size_bytes);
}

static int source_open(struct convert *v, struct err *e)
{
	struct block_info info;
	int r = img_block_open(v->from_loop, &v->src, &v->from, e);

	if (r < 0)
		return r;
	block_info(v->from, &info);
	v->size_bytes = v->ic.qcow2.size_bytes = info.size_bytes;
	return v->ic.format == BLOCK_FORMAT_QCOW2 ? qcow2_create_check(&v->ic.qcow2, e) : 0;
}

static int image_copy(struct convert *v, bool to_is_zero, struct err *e)
{
	struct img_copy c = { .from = v->from, .to = v->to, .from_loop = v->from_loop, .loop = v->loop, .to_is_zero = to_is_zero,
		.rate = &v->rate, .progress = &v->common.progress };

	return img_copy(&c, e);
}

/* ---- writing compressed images; the verb convert ---- */

static int compressed_copy(struct convert *v, struct img_sink *to, const struct qcow2_create *like, struct err *e)
{
	struct img_pack p = { .from = v->from, .loop = v->from_loop, .to = to,
		.cluster_bytes = 1u << like->cluster_bits, .compression = like->compression, .rate = &v->rate,
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
	uint64_t size_bytes;
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
	struct block_req z = { .op = BLOCK_WRITE_ZEROES, .flags = BLOCK_REQ_MAY_UNMAP, .offset = off, .len = len };

	return block_run(container_of(s, struct old_image, sink)->b, &z);
}

static int pack_existing(struct convert *v, struct err *e)
{
	struct old_image o = { .sink = { .add = old_add, .zero = v->target_is_zero ? NULL : old_zero }, .b = v->to,
		.size_bytes = v->size_bytes };
	struct qcow2_create like;
	int over, r = qcow2_streams_new(v->to, &o.streams, &like, e);

	if (r < 0)
		return r;
	r = compressed_copy(v, &o.sink, &like, e);
	over = qcow2_streams_free(o.streams);
	return !r && over < 0 ? err_set_errno(e, over, "cannot write %s", v->path) : r;
}

/* Write into an existing image (-n). A failure leaves the image incomplete. */
static int convert_existing(struct convert *v, struct err *e)
{
	struct img_open o = { .path = v->path, .format = block_format_name(v->ic.format),
		.writable = true };
	int closed, r;

	img_common_open(&v->common, &o);
	o.no_lock = false;
	r = img_block_open(v->loop, &o, &v->to, e);
	if (!r)
		r = target_fits(v, e);
	if (!r)
		r = v->compress ? pack_existing(v, e) : image_copy(v, v->target_is_zero, e);
	closed = block_close(v->to);
	if (!r && closed < 0)
		r = err_set_errno(e, closed, "cannot write %s", v->path);
	return r;
}

static int pack_new(struct convert *v, struct target *t, struct err *e)
{
	struct new_image n = { .sink.add = new_add };
	CLEANUP_CLOSE int fd = -1;
	int r;

	if (t->is_device)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "cannot write a compressed image to %s, which is "
			"a device; use a file", v->path);
	fd = open(t->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_set_errno(e, -errno, "cannot create %s", t->tmp);
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
static bool new_is_zero(const struct convert *v, const struct target *t)
{
	if (v->ic.format == BLOCK_FORMAT_RAW)
		return !t->is_device;
	return !(v->ic.qcow2.data_file_raw && t->data.is_device);
}

static int copy_new(struct convert *v, struct target *t, struct err *e)
{
	int r = target_open(t, v->loop, &v->ic, &v->to, e);

	if (!r && t->is_device)
		r = target_fits(v, e);
	if (!r)
		r = img_preallocate(v->to, img_create_prealloc(&v->ic), 0, NULL, e);
	if (!r)
		r = image_copy(v, v->target_is_zero || new_is_zero(v, t), e);
	return r;
}

static int convert_new(struct convert *v, struct target *t, struct err *e)
{
	int r;

	t->size_bytes = v->size_bytes;
	r = v->compress ? pack_new(v, t, e) : copy_new(v, t, e);

	return target_finish(t, v->to, r, e);
}

static int image_convert(struct convert *v, struct err *e)
{
	struct target t = { .path = v->path, .old_fd = -1, .data.old_fd = -1 };
	bool stream = !strcmp(v->path, "-");
	int r = loop_new(64, &v->loop, e);

	if (!r)
		r = loop_new(64, &v->from_loop, e);
	if (!r && !stream && !v->existing)
		r = target_prepare(&t, &v->src, e);
	if (!r)
		r = source_open(v, e);
	if (r < 0)
		target_finish(&t, NULL, r, NULL);
	else if (stream)
		r = img_copy_stream(v->from, 1, &v->rate, &v->common.progress, e);
	else
		r = v->existing ? convert_existing(v, e) : convert_new(v, &t, e);
	block_close(v->from);
	loop_free(v->from_loop);
	loop_free(v->loop);
	return r;
}

static int args_check(struct convert *v, int argc, char **argv)
{
	if (argc - optind != 2)
		return img_usage("convert", "SOURCE and TARGET are required");
	v->src.path = argv[optind];
	v->path = argv[optind + 1];
	if (v->ic.qcow2.backing_name)
		return img_usage("convert", "convert does not support a backing file for the target");
	if (v->compress && v->ic.format != BLOCK_FORMAT_QCOW2)
		return img_usage("convert", "-c requires -O qcow2");
	if (v->compress && v->ic.prealloc)
		return img_usage("convert", "-c and preallocation exclude each other");
	if (v->compress && v->ic.qcow2.data_file)
		return img_usage("convert", "-c and data_file exclude each other: a data file has no compressed "
			"clusters");
	if (v->existing && v->ic.qcow2.data_file)
		return img_usage("convert", "-n and data_file exclude each other: only a new image gets a data file");
	if (!strcmp(v->path, "-") && (v->ic.format != BLOCK_FORMAT_RAW || v->existing))
		return img_usage("convert", "only the format raw can be written to standard output");
	if (v->target_is_zero && !v->existing)
		return img_usage("convert", "--target-is-zero requires -n: it is about a TARGET that exists");
	return 0;
}

const char *img_snapshot_word(const char *arg)
{
	static const char *const prefixes[] = { "snapshot.name=", "snapshot.id=" };

	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (!strncmp(arg, prefixes[i], strlen(prefixes[i])))
			return arg + strlen(prefixes[i]);
	return arg;
}

static int option_take(struct convert *v, int c, char *arg)
{
	struct err e;

	switch (c) {
	case 'f':
		v->src.format = arg;
		return 0;
	case 'O':
		return img_create_format(&v->ic, "convert", arg);
	case 'c':
		v->compress = true;
		return 0;
	case 'n':
		v->existing = true;
		return 0;
	case 'l':
		v->src.snapshot = img_snapshot_word(arg);
		return 0;
	case 'r':
		return img_parse_size(arg, &v->rate.bytes_per_second, &e) < 0 ? img_fail(&e) : 0;
	case IMG_OPT_OWN:
		v->target_is_zero = true;
		return 0;
	case 't':
	case 'T':
	case 'm':
	case 'W':
		return 0; /* options of qemu-img without effect: cache modes, number and order of requests */
	default:
		return img_common_option(&v->common, c, arg);
	}
}

int img_convert_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS,
		{ "target-is-zero", no_argument, NULL, IMG_OPT_OWN }, { NULL, 0, NULL, 0 } };
	struct convert v = { .ic = IMG_CREATE_DEFAULT };
	char *opts = NULL;
	struct err e;
	int c, r, st = 0;

	img_common_init(&v.common, "convert");
	while (!st && (c = getopt_long(argc, argv, "f:O:o:l:r:t:T:m:WpqUcn", longs, NULL)) != -1) {
		if (c == 'o')
			opts = optarg; /* parsed later, when the format is known */
		else
			st = option_take(&v, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (!st && opts && img_create_options(&v.ic, opts, &e) < 0)
		st = img_fail(&e);
	if (!st)
		st = args_check(&v, argc, argv);
	if (st)
		return st;
	img_common_open(&v.common, &v.src);
	if (!strcmp(v.path, "-"))
		v.common.progress.to = stderr;
	img_common_progress(&v.common);
	img_signals_catch();
	r = image_convert(&v, &e);
	img_progress_end(&v.common.progress, !r);
	return r < 0 ? img_fail(&e) : 0;
}
