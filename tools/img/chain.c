/* rebase and commit: changes to a backing chain. */
#include "pack.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/pin_name.h"
#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define STEP_BYTES (2 * MIB)
#define SECTOR_BYTES 512u

static int read_at(struct block *b, uint64_t off, uint64_t len, uint8_t *buf, struct err *e)
{
	struct block_info info;
	uint64_t there;
	struct iovec iov;
	struct block_req q = { .op = BLOCK_READ, .offset = off, .iov = &iov, .niov = 1 };
	int r;

	if (!b) {
		memset(buf, 0, len);
		return 0;
	}
	block_info(b, &info);
	there = off < info.size_bytes ? MIN(len, info.size_bytes - off) : 0;
	memset(buf + there, 0, len - there);
	iov = (struct iovec){ buf, there };
	q.len = there;
	r = there ? block_run(b, &q) : 0;
	return r < 0 ? block_read_error(b, off, there, r, e) : 0;
}

static int write_at(struct block *b, uint64_t off, uint64_t len, uint8_t *buf)
{
	struct iovec iov = { buf, len };
	struct block_req r = { .op = BLOCK_WRITE, .offset = off, .len = len, .iov = &iov, .niov = 1 };

	return block_run(b, &r);
}

static int extent_at(struct block *b, uint64_t off, uint64_t len, struct block_extent *x, struct err *e)
{
	struct block_info info;
	int r;

	*x = (struct block_extent){ .zero = true, .len = len };
	if (!b)
		return 0;
	block_info(b, &info);
	if (off >= info.size_bytes)
		return 0;
	r = block_extent(b, off, MIN(len, info.size_bytes - off), x);
	return r < 0 ? block_read_error(b, off, len, r, e) : 0;
}

/* ---- rebase ---- */

struct rebase {
	struct img_common common;
	bool unsafe, has_zero_clusters;
	const char *base, *base_format; /* "" or NULL: no backing file */
	struct loop *loop;
	struct block *top, *new;
	uint64_t old_bytes; /* size of the old backing file */
	uint8_t *a, *b;
};

/* Put the old content of a part of a cluster into the image. As in qemu-img, zeros from behind the end of the old
 * backing file become zero clusters; zeros that this file contains are written as data. */
static int rebase_put(struct rebase *z, uint64_t off, uint64_t len, bool is_whole, uint8_t *buf)
{
	struct block_req zeros = { .op = BLOCK_WRITE_ZEROES, .flags = BLOCK_REQ_MAP_ZEROES, .offset = off, .len = len };

	if (is_whole && z->has_zero_clusters && off >= z->old_bytes && bytes_are_zero(buf, len))
		return block_run(z->top, &zeros);
	return write_at(z->top, off, len, buf);
}

/* Keep the disk's content in a stretch at off: where the image has no data and the old and the new backing chain
 * differ, copy the old content into the image. *len: most to handle; set to the length handled. */
static int rebase_step(struct rebase *z, uint64_t off, uint64_t *len, uint64_t grain, struct err *e)
{
	struct block_extent x, y;
	int r = extent_at(z->top, off, *len, &x, e);

	if (!r)
		*len = MIN(*len, x.len);
	if (r < 0 || (x.present && !x.layer))
		return r;
	r = extent_at(z->new, off, *len, &y, e);
	if (r < 0)
		return r;
	*len = MIN(*len, y.len);
	if (x.zero && y.zero && *len >= SECTOR_BYTES) {
		*len = ROUND_DOWN(*len, SECTOR_BYTES);
		return 0;
	}
	/* An extent of a raw file ends anywhere, a request does not. */
	*len = MIN(ROUND_UP(*len, SECTOR_BYTES), STEP_BYTES);
	r = read_at(z->top, off, *len, z->a, e);
	if (!r)
		r = read_at(z->new, off, *len, z->b, e);
	for (uint64_t i = 0, n; i < *len && !r; i += n) {
		n = MIN(*len - i, grain - (off + i) % grain);
		if (memcmp(z->a + i, z->b + i, n))
			r = rebase_put(z, off + i, n, n == grain, z->a + i);
		/* A write of a part of a cluster reads the rest of it. */
		if (r == -EIO && read_at(z->top, ROUND_DOWN(off + i, grain), grain, z->a, e) < 0)
			return r;
		if (r < 0)
			return err_set_errno(e, r, "%s: cannot copy", z->common.o.path);
	}
	return r;
}

static int rebase_copy(struct rebase *z, struct err *e)
{
	struct block_info info;
	uint64_t len;
	int r = 0;

	block_info(z->top, &info);
	z->old_bytes = info.backing_bytes;
	for (uint64_t off = 0; off < info.size_bytes && !r; off += len) {
		r = img_check_interrupted(e);
		if (r < 0)
			return r;
		len = info.size_bytes - off;
		r = rebase_step(z, off, &len, info.discard_granularity ? info.discard_granularity : 65536, e);
		img_progress_set(&z->common.progress, off, info.size_bytes);
	}
	return r;
}

/* Open the new backing file, with its name relative to the image's folder. The user gave the name, so every folder is
 * allowed. */
static int new_open(struct rebase *z, struct err *e)
{
	struct img_open o = { .format = z->base_format, .no_lock = z->common.o.no_lock, .trust = z->common.o.trust };
	char path[2 * PATH_MAX];
	struct stat a, b;
	int r = img_backing_take(&o, z->common.o.path, z->base, path, e);

	if (r < 0)
		return r;
	if (!img_stat(o.path, &a) && !img_stat(z->common.o.path, &b) && img_same_file(&a, &b))
		return err_set(e, -EINVAL, ERR_INVALID, "%s cannot be its own backing file", z->common.o.path);
	r = img_block_open(z->loop, &o, &z->new, e);
	return r ? r : img_depth_check(z->new, z->base, e);
}

static int rebase_content(struct rebase *z, struct err *e)
{
	int r = 0;

	z->loop = img_loop(0);
	z->a = aligned_alloc(4096, STEP_BYTES);
	z->b = aligned_alloc(4096, STEP_BYTES);
	if (!z->a || !z->b)
		r = err_set_errno(e, -ENOMEM, "rebase");
	if (!r)
		r = img_block_open(z->loop, &z->common.o, &z->top, e);
	if (!r && z->base && *z->base)
		r = new_open(z, e);
	if (!r)
		r = rebase_copy(z, e);
	r = img_block_close(z->top, z->common.o.path, r, e);
	block_close(z->new);
	free(z->a);
	free(z->b);
	return r;
}

static int rebase_check(struct rebase *z, struct err *e)
{
	struct img_layer layers[BLOCK_LAYERS_MAX];
	struct img_open o = z->common.o;
	unsigned n;
	int r;

	o.no_backing = true;
	r = img_layers_open(&o, layers, &n, e);
	if (r < 0)
		return r;
	z->has_zero_clusters = layers[0].header.version >= 3;
	r = z->unsafe ? img_pins_refuse(&layers[0], "rebase", e) : img_snapshots_refuse(&layers[0], "rebase", e);
	if (!r && !z->unsafe && (layers[0].header.incompatible & QCOW2_INCOMPAT_DATA_FILE))
		r = img_probed_refuse(&o, "data", e);
	if (!r && layers[0].format == BLOCK_FORMAT_QCOW2 && !(z->unsafe && layers[0].header.has_pin)) {
		r = qcow2_backing_check(layers[0].fd, &layers[0].header, *z->base ? z->base : NULL, z->base_format, e);
		if (r < 0)
			err_prefix(e, "%s", o.path);
	}
	img_layers_free(layers, n);
	return r;
}

/* Change the name of the image that has the pin of this overlay: the same image at another place. Under a plain name,
 * the overlay would read what that image has now. */
static int pin_rename(struct rebase *z, struct img_layer *y, struct err *e)
{
	struct img_open o = { .format = "qcow2", .no_lock = true, .no_backing = true };
	struct img_layer source[BLOCK_LAYERS_MAX];
	char path[2 * PATH_MAX];
	struct qcow2_pin pin;
	unsigned n;
	int r;

	if (!z->base || !*z->base)
		return err_set(e, -EINVAL, ERR_INVALID, "%s would lose what it reads from the disk that it was cloned from; to copy that into it, leave "
			"out -u", z->common.o.path);
	if (!strncmp(z->base, PIN_NAME_PROTOCOL, PIN_NAME_PATH_AT)) /* is refused in words */
		return qcow2_backing_check(y->fd, &y->header, z->base, z->base_format, e);
	img_path_beside(z->common.o.path, z->base, path, sizeof(path));
	o.path = path;
	r = img_layers_open(&o, source, &n, e);
	if (r < 0)
		return r;
	r = qcow2_pin_read(source[0].fd, path, y->header.pin.id, &pin, e);
	if (r == -ENOENT)
		err_set(e, r, ERR_NOT_FOUND, "%s is not the image that %s was cloned from: it lacks the pin, a hidden snapshot, with the content of then",
			path, z->common.o.path);
	if (!r)
		r = qcow2_set_pin_source(y->fd, &y->header, z->base, e);
	img_layers_free(source, n);
	return r;
}

static int image_rebase(struct rebase *z, struct err *e)
{
	struct img_layer layers[BLOCK_LAYERS_MAX];
	bool none = !z->base || !*z->base;
	enum block_format base_format;
	unsigned n;
	int r;

	if (!none && !z->base_format)
		return err_set(e, -EINVAL, ERR_INVALID, "no format of the backing file given; add -F raw "
			"or -F qcow2");
	r = none ? 0 : img_format_parse(z->base_format, &base_format, e);
	if (!r)
		r = rebase_check(z, e);
	if (!r && !z->unsafe)
		r = rebase_content(z, e);
	if (!r)
		r = img_header_open(&z->common.o, "backing file", layers, &n, e);
	if (r < 0)
		return r;
	r = img_pins_refuse(&layers[0], "rebase", e);
	if (!r && z->unsafe && layers[0].header.has_pin) {
		r = pin_rename(z, &layers[0], e);
	} else if (!r) {
		r = qcow2_set_backing(layers[0].fd, &layers[0].header, none ? NULL : z->base, z->base_format, e);
		if (r < 0)
			err_prefix(e, "%s", z->common.o.path);
	}
	img_layers_free(layers, n);
	return r;
}

int img_rebase_main(int argc, char **argv)
{
	struct rebase z = { .common.o.writable = true };
	struct err e;
	int c, r, st = 0;

	img_common_init(&z.common, "rebase");
	while (!st && (c = getopt_long(argc, argv, "f:b:F:t:T:uUpq", img_common_longs, NULL)) != -1) {
		if (c == 'b')
			z.base = optarg;
		else if (c == 'F')
			z.base_format = optarg;
		else if (c == 'u')
			z.unsafe = true;
		else if (c == 't' || c == 'T')
			st = img_cache_option("rebase", optarg);
		else
			st = img_common_option(&z.common, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (st)
		return st;
	if (argc - optind != 1 || !z.base)
		return img_usage("rebase", "-b with the new backing file (\"\" for none) and one IMAGE are "
			"required");
	if (img_common_name(&z.common, &z.common.o, argv[optind]))
		return 1;
	img_common_progress(&z.common);
	img_signals_catch();
	if (*z.base)
		img_sandbox_backing(z.common.o.path, z.base, &z.common.o, true);
	r = img_confine(1, 64, &e);
	if (!r)
		r = image_rebase(&z, &e);
	img_progress_end(&z.common.progress, !r);
	return r < 0 ? img_fail(&e) : 0;
}

/* ---- commit ---- */

struct commit {
	struct img_common common;
	bool keep; /* keep the committed data in the image */
	const char *base_name; /* NULL: the image's backing file */
	struct img_rate rate;
	struct loop *loop;
	struct block *top, *base;
	unsigned depth; /* the number of layers above the base, which are committed */
	uint64_t shown_bytes; /* size of the shortest layer between the image and the base; UINT64_MAX: there is none */
	uint64_t copied_bytes;
	uint8_t *buf;
};

static int commit_step(struct commit *k, uint64_t off, uint64_t *len, struct err *e)
{
	struct block_req z = { .op = BLOCK_WRITE_ZEROES, .flags = BLOCK_REQ_MAY_UNMAP, .offset = off };
	struct block_extent x;
	int r = extent_at(k->top, off, *len, &x, e);

	if (r < 0)
		return r;
	*len = MIN(*len, x.len);
	if (!x.present || x.layer >= k->depth) {
		/* Behind the end of a short layer, the disk reads as zeros, not as the base's data. */
		if (off < k->shown_bytes) {
			*len = MIN(*len, k->shown_bytes - off);
			return 0;
		}
		x.zero = true;
	}
	if (x.zero) {
		z.len = *len;
		r = block_run(k->base, &z);
		return r < 0 ? err_set_errno(e, r, "cannot commit") : 0;
	}
	*len = MIN(*len, STEP_BYTES);
	k->copied_bytes += *len;
	r = read_at(k->top, off, *len, k->buf, e);
	if (r < 0)
		return r;
	r = write_at(k->base, off, *len, k->buf);
	return r < 0 ? err_set_errno(e, r, "cannot commit") : 0;
}

static int commit_copy(struct commit *k, struct err *e)
{
	struct block_req flush = { .op = BLOCK_FLUSH };
	struct block_info top, base;
	uint64_t len;
	int r = 0;

	block_info(k->top, &top);
	block_info(k->base, &base);
	if (top.size_bytes > base.size_bytes) {
		img_signals_end();
		r = block_resize(k->base, top.size_bytes, e);
		img_signals_catch();
	}
	if (r < 0)
		return r;
	for (uint64_t off = 0; off < top.size_bytes && !r; off += len) {
		img_rate_sleep(&k->rate, k->copied_bytes);
		if (img_interrupted())
			return err_set(e, -EINTR, ERR_CANCELLED, "interrupted; the disk is unchanged, commit "
				"the rest later");
		len = top.size_bytes - off;
		r = commit_step(k, off, &len, e);
		img_progress_set(&k->common.progress, off, top.size_bytes);
	}
	/* Make the backing file durable before the image drops the data. */
	if (r < 0)
		return r;
	r = block_run(k->base, &flush);
	return r < 0 ? err_set_errno(e, r, "cannot commit") : 0;
}

/* Open the base for writing, with the chain below it. top_open() opens the layers above it separately, over an empty
 * layer: otherwise both disks would have the base open. */
static int base_open(struct commit *k, struct img_layer *layers, unsigned n, struct err *e)
{
	struct block_open bo = { .buffered = true, .name = layers[k->depth].path };
	int r = img_layer_reopen(&layers[k->depth], e);

	return r ? r : img_layers_join(k->loop, layers + k->depth, n - k->depth, &bo, &k->base, e);
}

/* Open the layers above the base over an empty layer, because a commit reads only their own data. */
static int top_open(struct commit *k, struct img_layer *layers, struct err *e)
{
	struct block_layer fds[BLOCK_LAYERS_MAX];
	struct block_open bo = { .layers = fds, .nlayers = k->depth + 1, .buffered = true, .name = k->common.o.path };
	int r;

	for (unsigned i = 0; i < k->depth; i++)
		fds[i] = img_layer_files(&layers[i]);
	fds[k->depth] = (struct block_layer){ .fd = memfd_create("nothing", MFD_CLOEXEC), .format = BLOCK_FORMAT_RAW };
	r = block_open(k->loop, &bo, &k->top, e);
	if (r < 0)
		close(fds[k->depth].fd);
	for (unsigned i = 0; !r && i < k->depth; i++)
		img_layer_given(&layers[i]);
	return r;
}

/* Returns whether layer i is the one that the user names: as the layer above names it, or by a path. */
static bool layer_is(const struct img_layer *layers, unsigned i, const char *name)
{
	char backing[QCOW2_BACKING_NAME_MAX + 1], real[PATH_MAX];

	img_backing_path(&layers[i - 1].header, backing);
	return !strcmp(backing, name) || (realpath(name, real) && !strcmp(real, layers[i].path));
}

/* Find the base. Set k->depth and k->shown_bytes. */
static int base_find(struct commit *k, const struct img_layer *layers, unsigned n, struct err *e)
{
	if (n < 2)
		return err_set(e, -EINVAL, ERR_INVALID, "%s has no backing file to commit to", k->common.o.path);
	k->depth = 1;
	k->shown_bytes = UINT64_MAX;
	while (k->base_name && k->depth < n && !layer_is(layers, k->depth, k->base_name)) {
		/* Only the lowest layer can be raw. */
		k->shown_bytes = MIN(k->shown_bytes, ROUND_DOWN(layers[k->depth].header.size_bytes, BLOCK_SECTOR_BYTES));
		k->depth++;
	}
	return k->depth < n ? 0 : err_set(e, -ENOENT, ERR_NOT_FOUND, "%s is not in the backing chain of %s", k->base_name,
		k->common.o.path);
}

/* Refuse layers that snapshots or other images need as they are. */
static int readers_refuse(const struct commit *k, const struct img_layer *layers, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < k->depth && !r; i++) {
		if (layers[i].header.has_pin)
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s is an overlay on the content that %s had when the clone "
				"was made, which must not change; make an independent image with `cairn-img rebase -b \"\" "
				"%s`", layers[i].path, layers[i + 1].path, layers[i].path);
		r = img_snapshots_refuse(&layers[i], "commit", e);
	}
	return r;
}

static int commit_run(struct commit *k, struct img_layer *layers, unsigned n, struct err *e)
{
	int r = base_find(k, layers, n, e);

	if (!r)
		r = img_probed_refuse(&k->common.o, "backing", e);
	if (!r)
		r = readers_refuse(k, layers, e);
	k->loop = img_loop(0);
	if (!r)
		r = base_open(k, layers, n, e);
	if (!r)
		r = top_open(k, layers, e);
	if (!r)
		r = img_seal(false, e);
	if (!r)
		r = commit_copy(k, e);
	if (!r && !k->keep) {
		img_signals_end();
		r = qcow2_make_empty(k->top, e);
		img_signals_catch();
	}
	r = img_block_close(k->base, layers[k->depth].path, r, e);
	return img_block_close(k->top, k->common.o.path, r, e);
}

static int image_commit(struct commit *k, struct err *e)
{
	struct img_layer *layers = calloc(BLOCK_LAYERS_MAX, sizeof(*layers));
	unsigned n = 0;
	int r;

	k->buf = aligned_alloc(4096, STEP_BYTES);
	if (!layers || !k->buf)
		r = err_set_errno(e, -ENOMEM, "commit");
	else
		r = img_layers_open(&k->common.o, layers, &n, e);
	if (!r) {
		r = commit_run(k, layers, n, e);
		img_layers_free(layers, n);
	}
	free(layers);
	free(k->buf);
	return r;
}

int img_commit_main(int argc, char **argv)
{
	struct commit k = { .common.o.writable = true };
	struct err e;
	int c, r, st = 0;

	img_common_init(&k.common, "commit");
	while (!st && (c = getopt_long(argc, argv, "f:t:b:r:dpq", img_common_longs, NULL)) != -1) {
		if (c == 'b')
			k.base_name = optarg;
		if (c == 'b' || c == 'd')
			k.keep = true;
		else if (c == 'r')
			st = img_parse_size(optarg, &k.rate.bytes_per_second, &e) < 0 ? img_fail(&e) : 0;
		else if (c == 't')
			st = img_cache_option("commit", optarg);
		else
			st = img_common_option(&k.common, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (st)
		return st;
	if (argc - optind != 1)
		return img_usage("commit", "one FILE is required");
	if (img_common_name(&k.common, &k.common.o, argv[optind]))
		return 1;
	img_common_progress(&k.common);
	img_signals_catch();
	r = img_confine(1, 64, &e);
	if (!r)
		r = image_commit(&k, &e);
	img_progress_end(&k.common.progress, !r);
	if (!r && !k.common.quiet && !k.common.json)
		puts("Image committed.");
	return r < 0 ? img_fail(&e) : 0;
}
