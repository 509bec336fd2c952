#include "img.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "base/suggest.h"
#include "base/util.h"
#include "block/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define BAD_VALUE(e, key, value, what)                                                             \
	err_set(e, -EINVAL, ERR_INVALID, "invalid value '%s' of %s; use " what, value, key)

static int parse_bool(const char *key, const char *v, bool *ret, struct err *e)
{
	if (!strcmp(v, "on") || !strcmp(v, "true") || !strcmp(v, "yes"))
		*ret = true;
	else if (!strcmp(v, "off") || !strcmp(v, "false") || !strcmp(v, "no"))
		*ret = false;
	else
		return BAD_VALUE(e, key, v, "on or off");
	return 0;
}

static int parse_log2(const char *key, const char *v, uint64_t min, uint64_t max, uint32_t *ret,
	struct err *e)
{
	uint64_t n;
	int r = img_parse_size(v, &n, e);

	if (r < 0)
		return r;
	if (!is_power_of_two(n) || n < min || n > max)
		return err_set(e, -EINVAL, ERR_INVALID, "%s must be a power of two from %llu to %llu", key,
			(unsigned long long)min, (unsigned long long)max);
	*ret = (uint32_t)__builtin_ctzll(n);
	return 0;
}

static int option_words(struct img_create *c, const char *key, const char *v, struct err *e)
{
	struct qcow2_create *q = &c->qcow2;

	if (!strcmp(key, "compat")) {
		c->compat = v;
		if (!strcmp(v, "0.10") || !strcmp(v, "v2"))
			q->version = 2;
		else if (!strcmp(v, "1.1") || !strcmp(v, "v3"))
			q->version = 3;
		else
			return BAD_VALUE(e, key, v, "0.10 or 1.1");
	} else if (!strcmp(key, "compression_type")) {
		if (strcmp(v, "zlib") && strcmp(v, "zstd"))
			return BAD_VALUE(e, key, v, "zlib or zstd");
		q->compression = !strcmp(v, "zstd");
	} else if (!strcmp(key, "preallocation")) {
		c->prealloc_word = v;
		return img_prealloc_word(v, &c->prealloc, e);
	} else {
		char hint[SUGGEST_HINT_BYTES];

		return err_set(e, -EINVAL, ERR_INVALID, "unknown option '%s'%s", key,
			*suggest_hint(key, "", img_options_key_at, NULL, hint) ? hint : "; see `cairn-img help create`");
	}
	return 0;
}

/* Options about the file, which QEMU takes with each format. */
static int parse_nocow(struct img_create *c, const char *v, struct err *e)
{
	bool on;
	int r = parse_bool("nocow", v, &on, e);

	c->names_nocow = true;
	return r || !on ? r : err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "nocow=on is not supported; create the image in a folder "
		"with the attribute of `chattr +C`");
}

static int parse_extent_hint(struct img_create *c, const char *v, struct err *e)
{
	c->names_extent_hint = true;
	return img_parse_size(v, &c->extent_hint_bytes, e);
}

#define NO_ENCRYPTION "Cairn does not encrypt images; put the image on an encrypted device, or use qemu-img"

static int option_apply(struct img_create *c, const char *key, const char *v, struct err *e)
{
	struct qcow2_create *q = &c->qcow2;

	if (!strcmp(key, "size")) {
		c->has_size = true;
		return img_parse_size(v, &q->size_bytes, e);
	}
	if (!strcmp(key, "encryption") && c->format == BLOCK_FORMAT_QCOW2) {
		bool on;
		int r = parse_bool(key, v, &on, e);

		c->names_encryption = true;
		return r || !on ? r : err_set(e, -ENOTSUP, ERR_UNSUPPORTED, NO_ENCRYPTION);
	}
	if (!strcmp(key, "nocow"))
		return parse_nocow(c, v, e);
	if (!strcmp(key, "extent_size_hint")) /* a hint about speed, which has no effect here */
		return parse_extent_hint(c, v, e);
	if (!strncmp(key, "encrypt.", 8))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, NO_ENCRYPTION);
	if (c->format != BLOCK_FORMAT_QCOW2 && strcmp(key, "preallocation"))
		return err_set(e, -EINVAL, ERR_INVALID, "the format raw does not support the option %s", key);
	if (!strcmp(key, "cluster_size"))
		return parse_log2(key, v, 512, 2 * MIB, &q->cluster_bits, e);
	if (!strcmp(key, "refcount_bits"))
		return parse_log2(key, v, 1, 64, &q->refcount_order, e);
	if (!strcmp(key, "lazy_refcounts"))
		return parse_bool(key, v, &q->lazy_refcounts, e);
	if (!strcmp(key, "extended_l2"))
		return parse_bool(key, v, &q->extended_l2, e);
	if (!strcmp(key, "data_file_raw"))
		return parse_bool(key, v, &q->data_file_raw, e);
	if (!strcmp(key, "data_file"))
		q->data_file = v;
	else if (!strcmp(key, "backing_file"))
		q->backing_name = v;
	else if (!strcmp(key, "backing_fmt"))
		q->backing_format = v;
	else
		return option_words(c, key, v, e);
	return 0;
}

int img_create_options(struct img_create *c, char *opts, struct err *e)
{
	int r = 0;

	for (char *o; !r && (o = img_option_next(&opts));) {
		char *eq = strchr(o, '=');

		if (!eq)
			return err_set(e, -EINVAL, ERR_INVALID, "'%s' in -o is not key=value", o);
		*eq = 0;
		r = option_apply(c, o, eq + 1, e);
	}
	return r;
}

int img_create_fd(int fd, const struct img_create *c, struct err *e)
{
	struct stat st;

	if (c->format == BLOCK_FORMAT_QCOW2)
		return qcow2_create(fd, &c->qcow2, e);
	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "stat");
	if (!S_ISREG(st.st_mode))
		return 0; /* a device has a fixed size */
	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)ROUND_UP(c->qcow2.size_bytes, 512)) < 0)
		return err_set_errno(e, -errno, "cannot set the size");
	return 0;
}

enum img_prealloc img_create_prealloc(const struct img_create *c)
{
	if (c->qcow2.backing_name && c->prealloc == IMG_PREALLOC_FULL)
		return IMG_PREALLOC_FALLOC; /* zeros as data would hide the backing file: only reserve the space */
	return c->qcow2.data_file_raw && !c->prealloc ? IMG_PREALLOC_METADATA : c->prealloc;
}

int img_create_format(struct img_create *c, const char *verb, const char *name)
{
	struct err e;

	if (img_format_is_qemus(name))
		return img_usage(verb, "unknown format '%s'; use raw or qcow2, and `qemu-img convert -O %s OLD NEW` to make an image of that format", name,
			name);
	return img_format_parse(name, &c->format, &e) < 0 ? img_usage(verb, "%s", e.msg) : 0;
}

void img_create_warn_name(const struct img_create *c, const char *verb, const char *path)
{
	size_t n = strlen(path);

	if (c->format == BLOCK_FORMAT_RAW && n > 6 && !strcmp(path + n - 6, ".qcow2"))
		img_warn("%s gets the format raw in spite of its name; for qcow2, add %s qcow2", path, !strcmp(verb, "create") ? "-f" : "-O");
}

/* ---- the verb create ---- */

struct create_args {
	struct img_create c;
	bool unsafe, quiet, format_given;
	struct img_progress progress;
	const char *name, *path, *size; /* name: as given; path: without "file:" */
	int (*trust)(struct img_open *o, char *name, struct err *e); /* see struct img_open */
};

/* Refuse a file of the backing chain as the new image or its data file, because its content would be lost. */
static int overwrite_check(const struct create_args *a, const struct stat *file, struct err *e)
{
	const char *data = a->c.qcow2.data_file;
	char beside[2 * PATH_MAX];
	const char *paths[] = { a->path, data ? beside : NULL };

	if (data)
		img_path_beside(a->path, data, beside, sizeof(beside));
	for (size_t i = 0; i < ARRAY_SIZE(paths) && paths[i]; i++) {
		struct stat st;

		if (!img_stat(paths[i], &st) && img_same_file(&st, file))
			return err_set(e, -EINVAL, ERR_INVALID, "%s belongs to the backing file %s, whose content would be lost; choose another name",
				paths[i], a->c.qcow2.backing_name);
	}
	return 0;
}

static int chain_check(const struct create_args *a, const struct block *b, struct err *e)
{
	struct block_layer layers[BLOCK_LAYERS_MAX];
	unsigned n = block_layers(b, layers);
	struct stat st;
	int r = 0;

	for (unsigned i = 0; !r && i < n; i++) {
		if (!fstat(layers[i].fd, &st))
			r = overwrite_check(a, &st, e);
		if (!r && layers[i].data_fd > 0 && !fstat(layers[i].data_fd, &st))
			r = overwrite_check(a, &st, e);
	}
	return r;
}

/* The same for a backing file that is not opened (-u). */
static int unopened_check(const struct create_args *a, struct err *e)
{
	char path[2 * PATH_MAX];
	struct stat st;

	if (img_is_no_path(a->c.qcow2.backing_name))
		return 0;
	img_path_beside(a->path, a->c.qcow2.backing_name, path, sizeof(path));
	return stat(path, &st) < 0 ? 0 : overwrite_check(a, &st, e);
}

/* Open the backing file, which gives the default size. The user gave its name, so every folder is allowed. */
static int backing_probe(struct create_args *a, struct err *e)
{
	struct qcow2_create *q = &a->c.qcow2;
	struct img_open o = { .format = q->backing_format, .no_lock = true, .trust = a->trust };
	struct block_info info;
	struct block *b;
	char path[2 * PATH_MAX];
	int r;

	r = img_backing_take(&o, a->path, q->backing_name, path, e);
	if (!r)
		r = img_block_open(img_loop(0), &o, &b, e);
	if (!r) {
		block_info(b, &info);
		if (!a->c.has_size)
			q->size_bytes = info.size_bytes;
		a->c.has_size = true;
		r = img_depth_check(b, q->backing_name, e);
		if (!r)
			r = chain_check(a, b, e);
		block_close(b);
	}
	return r;
}

static int args_check(struct create_args *a, struct err *e)
{
	struct qcow2_create *q = &a->c.qcow2;
	enum block_format backing_format;
	int r = 0;

	if (a->size && a->c.has_size)
		r = err_set(e, -EINVAL, ERR_INVALID, "the size is given twice, as SIZE and in -o");
	else if (a->size) {
		r = img_parse_size(a->size, &q->size_bytes, e);
		a->c.has_size = true;
	}
	if (!r && q->backing_name && a->c.format != BLOCK_FORMAT_QCOW2)
		r = err_set(e, -EINVAL, ERR_INVALID, "a raw image cannot have a backing file; use -f qcow2");
	if (!r && q->backing_name && !q->backing_format)
		r = err_set(e, -EINVAL, ERR_INVALID, "no format of the backing file given; add -F raw or "
			"-F qcow2");
	if (!r && q->backing_format && !q->backing_name)
		r = err_set(e, -EINVAL, ERR_INVALID, "a format of the backing file is given, but no backing file; add -b FILE, or omit -F");
	if (!r && q->backing_format)
		r = img_format_parse(q->backing_format, &backing_format, e);
	if (!r && q->backing_name)
		r = a->unsafe ? unopened_check(a, e) : backing_probe(a, e);
	if (!r && !a->c.has_size)
		r = err_set(e, -EINVAL, ERR_INVALID, "no size given; add SIZE");
	if (!r && a->c.format == BLOCK_FORMAT_QCOW2)
		r = qcow2_create_check(q, e);
	if (!r && a->c.prealloc && q->backing_name && !q->extended_l2)
		r = err_set(e, -EINVAL, ERR_INVALID, "preallocated clusters would hide the backing file; "
			"add extended_l2=on to use both");
	if (!r && a->c.prealloc == IMG_PREALLOC_METADATA && a->c.format == BLOCK_FORMAT_RAW)
		r = err_set(e, -EINVAL, ERR_INVALID, "a raw image has no metadata to preallocate; use preallocation off, "
			"falloc or full");
	if (!r && q->size_bytes > INT64_MAX - 511)
		r = err_set(e, -EINVAL, ERR_INVALID, "the size is too large");
	return r;
}

static void formatting_print(const struct create_args *a)
{
	const struct qcow2_create *q = &a->c.qcow2;

	printf("Formatting '%s', fmt=%s ", a->name, block_format_name(a->c.format));
	if (a->c.names_encryption)
		printf("encryption=off ");
	if (a->c.format == BLOCK_FORMAT_QCOW2)
		printf("cluster_size=%u extended_l2=%s ", 1u << q->cluster_bits, q->extended_l2 ? "on" : "off");
	if (a->c.prealloc_word && a->c.format == BLOCK_FORMAT_QCOW2)
		printf("preallocation=%s ", a->c.prealloc_word);
	if (a->c.format == BLOCK_FORMAT_QCOW2)
		printf("compression_type=%s ", q->compression ? "zstd" : "zlib");
	printf("size=%llu", (unsigned long long)q->size_bytes);
	if (a->c.compat)
		printf(" compat=%s", a->c.compat);
	if (q->backing_name)
		printf(" backing_file=%s backing_fmt=%s", q->backing_name, q->backing_format);
	if (q->data_file)
		printf(" data_file=%s", q->data_file);
	if (q->data_file_raw)
		printf(" data_file_raw=on");
	if (a->c.format == BLOCK_FORMAT_QCOW2)
		printf(" lazy_refcounts=%s refcount_bits=%u", q->lazy_refcounts ? "on" : "off",
			1u << q->refcount_order);
	if (a->c.names_nocow)
		printf(" nocow=off");
	if (a->c.prealloc_word && a->c.format != BLOCK_FORMAT_QCOW2)
		printf(" preallocation=%s", a->c.prealloc_word);
	if (a->c.names_extent_hint)
		printf(" extent_size_hint=%llu", (unsigned long long)a->c.extent_hint_bytes);
	putchar('\n');
}

static int space_make(struct create_args *a, int fd, const struct img_data *d, struct err *e)
{
	enum img_prealloc how = img_create_prealloc(&a->c);
	/* The header names the backing file, but preallocation must not open it: nothing is copied from it. */
	struct block_layer layers[2] = { { .fd = dup(fd), .format = a->c.format,
						 .data_fd = d->fd ? dup(d->fd) : 0 },
		{ .fd = -1, .format = BLOCK_FORMAT_RAW } };
	struct block_open bo = { .layers = layers, .nlayers = 1, .no_lock = true, .buffered = true,
		.name = a->path };
	struct block *b;
	int r;

	if (a->c.qcow2.backing_name) {
		layers[1].fd = memfd_create("nothing", MFD_CLOEXEC);
		bo.nlayers = 2;
	}
	r = block_open(img_loop(0), &bo, &b, e);
	if (!r) {
		r = img_preallocate(b, how, 0, &a->progress, e);
		r = img_block_close(b, a->path, r, e);
	} else {
		close(layers[0].fd);
		if (layers[0].data_fd)
			close(layers[0].data_fd);
	}
	return r;
}

/* Make a device a raw disk: blank its first sector, which may hold the header of another format. */
static int device_blank(const struct create_args *a, int fd, struct err *e)
{
	static const uint8_t zeros[BLOCK_SECTOR_BYTES];
	off_t end = lseek(fd, 0, SEEK_END);
	int r = end < 0 ? -errno : 0;

	if (!r && (uint64_t)end < a->c.qcow2.size_bytes)
		return err_set(e, -ENOSPC, ERR_NO_SPACE, "the device has %llu bytes, fewer than the size %llu", (unsigned long long)end,
			(unsigned long long)a->c.qcow2.size_bytes);
	if (!r)
		r = pwrite_full(fd, zeros, MIN((uint64_t)end, sizeof(zeros)), 0);
	if (!r && fdatasync(fd) < 0)
		r = -errno;
	return r < 0 ? err_set_errno(e, r, "cannot write") : 0;
}

static int file_make(struct create_args *a, struct err *e)
{
	struct stat st;
	bool existed = img_fd_given(a->path) >= 0 || !stat(a->path, &st);
	char real[2 * PATH_MAX];
	struct img_data data;
	CLEANUP_CLOSE int fd = img_fd_open(a->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "cannot create %s", a->path);
	r = img_kind_check(&st, a->path, e);
	if (r < 0)
		return r;
	/* Take the lock before truncating, to protect an image in use. */
	r = lock_acquire(fd, LOCK_AS_WRITER, a->path, e);
	if (r < 0)
		return r;
	if (S_ISBLK(st.st_mode) && img_create_prealloc(&a->c) >= IMG_PREALLOC_FALLOC)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s is a device, which has all of its space already; use preallocation off or metadata",
			a->path);
	r = img_data_make(&data, a->path, &a->c.qcow2, e);
	if (!r)
		r = img_create_fd(fd, &a->c, e);
	if (!r && S_ISBLK(st.st_mode) && a->c.format == BLOCK_FORMAT_RAW)
		r = device_blank(a, fd, e);
	img_signals_catch();
	if (!r && img_create_prealloc(&a->c))
		r = space_make(a, fd, &data, e);
	if (!r)
		r = img_data_size(&data, ROUND_UP(a->c.qcow2.size_bytes, 512), e);
	r = img_data_finish(&data, r, e);
	if (r < 0) {
		err_prefix(e, "%s", a->path);
		if (!existed) {
			img_path_follow(a->path, real);
			unlink(real);
		}
	}
	return r;
}

static int confine(const struct create_args *a, struct err *e)
{
	const struct qcow2_create *q = &a->c.qcow2;
	const struct img_open like = { .trust = a->trust };

	img_sandbox_target(a->path);
	img_sandbox_data(a->path, q);
	if (q->backing_name && !a->unsafe)
		img_sandbox_backing(a->path, q->backing_name, &like, true);
	return img_confine(1, 64, e);
}

/* Take one option. Returns 0; an exit status after an error message. */
static int option_take(struct create_args *a, struct img_options *opts, int c, char *arg)
{
	switch (c) {
	case 'f':
		a->format_given = true;
		return img_create_format(&a->c, "create", arg);
	case 'o':
		return img_options_add(opts, "create", arg);
	case 'b':
		a->c.qcow2.backing_name = arg;
		return 0;
	case 'F':
		a->c.qcow2.backing_format = arg;
		return 0;
	case 'u':
		a->unsafe = true;
		return 0;
	case 'p':
		a->progress.mode = IMG_PROGRESS_BAR;
		return 0;
	case 'q':
		a->quiet = true;
		return 0;
	case IMG_OPT_FD:
		return img_fd_option("create", arg);
	case IMG_OPT_TRUST:
		a->trust = img_backing_name;
		return 0;
	case IMG_OPT_OBJECT:
		return img_object_refuse("create");
	default:
		return img_bad_option("create", arg);
	}
}

int img_create_main(int argc, char **argv)
{
	static const struct option longs[] = { { "object", required_argument, NULL, IMG_OPT_OBJECT },
		{ "trust-backing", no_argument, NULL, IMG_OPT_TRUST }, { "fd", required_argument, NULL, IMG_OPT_FD }, { NULL, 0, NULL, 0 } };
	struct create_args a = { .c = IMG_CREATE_DEFAULT, .progress = { .to = stdout, .shown = -1 } };
	struct img_options opts = { 0 };
	struct err e;
	int o, r;

	while ((o = getopt_long(argc, argv, "f:o:b:F:upq", longs, NULL)) != -1)
		if (option_take(&a, &opts, o, o == '?' ? argv[optind - 1] : optarg))
			return 1;
	if (img_options_ask_help(&opts)) {
		img_options_help(a.c.format, false);
		return 0;
	}
	if (argc - optind < 1 || argc - optind > 2)
		return img_usage("create", "FILE and SIZE are required");
	a.name = argv[optind];
	if (!strncmp(a.name, "nbd:", 4) || !strncmp(a.name, "nbd+", 4) || !strncmp(a.name, "json:", 5))
		return img_usage("create", "%s is no path; a server's disk exists already, and `cairn-img convert -n` writes to it",
			a.name);
	if (!*a.name)
		return img_usage("create", "the name of the image is empty");
	a.path = img_name_path(a.name);
	a.size = argv[optind + 1];
	if (!a.quiet && !a.format_given)
		img_create_warn_name(&a.c, "create", a.path);
	r = img_options_apply(&a.c, &opts, &e);
	if (!r)
		r = confine(&a, &e);
	if (!r)
		r = args_check(&a, &e);
	if (!r && !a.quiet)
		formatting_print(&a);
	if (!r)
		r = file_make(&a, &e);
	img_progress_end(&a.progress, !r);
	return r < 0 ? img_fail(&e) : 0;
}
