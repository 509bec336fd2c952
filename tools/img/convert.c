/* convert: reads and writes overlap, a few chunks at a time. */
#include "img.h"

#include "base/cleanup.h"
#include "base/util.h"
#include "block/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define CHUNK_BYTES (1 * MIB)
#define CHUNKS 8
/* Zeros shorter than this are written along with what is around them. */
#define SPARSE_BYTES 4096u

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

struct copy;

struct chunk {
	struct copy *c;
	struct block_req req;
	struct iovec iov;
	uint8_t *buf;
	uint64_t off, len;
	uint64_t done; /* bytes of it written or left out */
	bool busy;
};

struct copy {
	struct block *from, *to;
	struct loop *loop;
	uint64_t size_bytes, pos, finished;
	bool to_is_zero; /* the target reads as zeros where nothing is written */
	bool progress;
	int last_shown;
	int res;
	struct chunk chunks[CHUNKS];
};

static void progress_show(struct copy *c)
{
	int now = c->size_bytes ? (int)(c->finished * 1000 / c->size_bytes) : 1000;

	if (!c->progress || now == c->last_shown)
		return;
	c->last_shown = now;
	printf("    (%d.%d/100%%)\r", now / 10, now % 10);
	fflush(stdout);
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return !p[0] && !memcmp(p, p + 1, n - 1);
}

/* The next stretch of the chunk that is all zeros, or that is not. */
static uint64_t stretch(const struct chunk *k, bool *ret_zero)
{
	uint64_t at = k->done;

	*ret_zero = is_zero(k->buf + at, MIN(SPARSE_BYTES, k->len - at));
	do {
		at += MIN(SPARSE_BYTES, k->len - at);
	} while (at < k->len && is_zero(k->buf + at, MIN(SPARSE_BYTES, k->len - at)) == *ret_zero);
	return at - k->done;
}

static void chunk_next(struct chunk *k);

static void chunk_written(struct block_req *r, int res)
{
	struct chunk *k = container_of(r, struct chunk, req);

	if (res < 0 && !k->c->res)
		k->c->res = res;
	k->done += r->len;
	chunk_next(k);
}

/* Write what is left of the chunk, stretch by stretch. */
static void chunk_next(struct chunk *k)
{
	struct copy *c = k->c;

	while (!c->res && k->done < k->len) {
		bool zero;
		uint64_t n = stretch(k, &zero);

		if (zero && c->to_is_zero) {
			k->done += n;
			continue;
		}
		k->iov = (struct iovec){ k->buf + k->done, n };
		k->req = (struct block_req){ .op = zero ? BLOCK_WRITE_ZEROES : BLOCK_WRITE,
			.flags = zero ? BLOCK_REQ_MAY_UNMAP : 0, .offset = k->off + k->done, .len = n,
			.iov = &k->iov, .niov = 1, .done = chunk_written };
		block_submit(c->to, &k->req);
		return;
	}
	k->busy = false;
	c->finished += k->len;
}

static void chunk_read(struct block_req *r, int res)
{
	struct chunk *k = container_of(r, struct chunk, req);

	if (res < 0 && !k->c->res)
		k->c->res = res;
	chunk_next(k);
}

static void chunk_start(struct copy *c, struct chunk *k, uint64_t len)
{
	k->c = c;
	k->off = c->pos;
	k->len = len;
	k->done = 0;
	k->busy = true;
	k->iov = (struct iovec){ k->buf, len };
	k->req = (struct block_req){ .op = BLOCK_READ, .offset = c->pos, .len = len, .iov = &k->iov,
		.niov = 1, .done = chunk_read };
	c->pos += len;
	block_submit(c->from, &k->req);
}

/* Go past what is known to be zeros. */
static int holes_skip(struct copy *c)
{
	while (c->pos < c->size_bytes) {
		struct block_extent x;
		int r = block_extent(c->from, c->pos, c->size_bytes - c->pos, &x);

		if (r < 0 || !x.zero)
			return r;
		if (!c->to_is_zero) {
			struct block_req z = { .op = BLOCK_WRITE_ZEROES, .flags = BLOCK_REQ_MAY_UNMAP,
				.offset = c->pos, .len = x.len };

			r = block_run(c->to, &z);
			if (r < 0)
				return r;
		}
		c->pos += x.len;
		c->finished += x.len;
	}
	return 0;
}

static bool copy_fill(struct copy *c)
{
	bool busy = false;
	int r;

	for (unsigned i = 0; i < CHUNKS; i++) {
		if (c->chunks[i].busy || c->res || interrupted || c->pos == c->size_bytes)
			continue;
		r = holes_skip(c); /* runs the loop: chunks may end meanwhile */
		if (r < 0 && !c->res)
			c->res = r;
		if (!c->res && c->pos < c->size_bytes)
			chunk_start(c, &c->chunks[i], MIN(CHUNK_BYTES, c->size_bytes - c->pos));
	}
	for (unsigned i = 0; i < CHUNKS; i++)
		busy |= c->chunks[i].busy;
	return busy;
}

static int copy_run(struct copy *c, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < CHUNKS && !r; i++) {
		c->chunks[i].buf = aligned_alloc(4096, CHUNK_BYTES);
		r = c->chunks[i].buf ? 0 : -ENOMEM;
	}
	c->last_shown = -1;
	while (!r && copy_fill(c)) {
		loop_run_once(c->loop, UINT64_MAX);
		progress_show(c);
	}
	progress_show(c);
	if (c->progress)
		putchar('\n');
	for (unsigned i = 0; i < CHUNKS; i++)
		free(c->chunks[i].buf);
	if (!r)
		r = c->res;
	if (!r && interrupted)
		return err_set(e, -EINTR, ERR_CANCELLED, "interrupted; nothing has changed");
	return r < 0 ? err_set_errno(e, r, "copying failed") : 0;
}

/* ---- the target ---- */

struct target {
	const char *path;
	char tmp[PATH_MAX]; /* empty: a device, written directly */
	bool is_device;
	int old_fd; /* keeps the lock on what is replaced */
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
		if (lock_acquire(t->old_fd, true, t->path, e) < 0)
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
	r = img_create_fd(fd, ic, e);
	layer.fd = fd;
	if (!r)
		r = block_open(l, &bo, ret_b, e);
	if (!r)
		(void)steal_fd(&fd);
	return r;
}

static int target_finish(struct target *t, struct block *to, int r, struct err *e)
{
	int closed = to ? block_close(to) : 0;

	if (!r && closed < 0)
		r = err_set_errno(e, closed, "cannot write %s", t->path);
	if (!r && *t->tmp && rename(t->tmp, t->path) < 0)
		r = err_set_errno(e, -errno, "cannot rename %s to %s", t->tmp, t->path);
	if (r < 0 && *t->tmp)
		unlink(t->tmp);
	if (t->old_fd >= 0)
		close(t->old_fd);
	return r;
}

static int device_fits(const struct copy *c, const struct target *t, struct err *e)
{
	struct block_info info;

	block_info(c->to, &info);
	if (info.size_bytes >= c->size_bytes)
		return 0;
	return err_set(e, -ENOSPC, ERR_NO_SPACE, "%s has %llu bytes, the source %llu", t->path,
		(unsigned long long)info.size_bytes, (unsigned long long)c->size_bytes);
}

static int convert(const struct img_open *src, struct img_create *ic, const char *path, bool progress,
	struct err *e)
{
	struct target t = { .path = path, .old_fd = -1 };
	struct copy c = { .progress = progress };
	struct block_info info;
	int r = loop_new(64, &c.loop, e);

	if (!r)
		r = target_prepare(&t, src, e);
	if (!r)
		r = img_block_open(c.loop, src, &c.from, e);
	if (!r) {
		block_info(c.from, &info);
		c.size_bytes = info.size_bytes;
		ic->qcow2.size_bytes = info.size_bytes;
		if (ic->format == BLOCK_FORMAT_QCOW2)
			r = qcow2_create_check(&ic->qcow2, e);
	}
	if (!r)
		r = target_open(&t, c.loop, ic, &c.to, e);
	c.to_is_zero = !t.is_device || ic->format == BLOCK_FORMAT_QCOW2;
	if (!r && t.is_device)
		r = device_fits(&c, &t, e);
	if (!r)
		r = copy_run(&c, e);
	r = target_finish(&t, c.to, r, e);
	block_close(c.from);
	loop_free(c.loop);
	return r;
}

int img_convert_main(int argc, char **argv)
{
	static const struct option longs[] = { { "force-share", no_argument, NULL, 'U' },
		{ "allow", required_argument, NULL, 'A' }, { NULL, 0, NULL, 0 } };
	struct img_create ic = { .format = BLOCK_FORMAT_RAW,
		.qcow2 = { .cluster_bits = 16, .refcount_order = 4, .version = 3 } };
	struct img_open src = { 0 };
	bool progress = false;
	char *opts = NULL;
	struct sigaction sa = { .sa_handler = on_signal };
	struct err e;
	int c, f;

	while ((c = getopt_long(argc, argv, "f:O:o:pqUc", longs, NULL)) != -1) {
		switch (c) {
		case 'f':
			src.format = optarg;
			break;
		case 'O':
			f = block_format_from_name(optarg);
			if (f < 0)
				return img_usage("convert", "'%s' is no format; raw and qcow2 are", optarg);
			ic.format = (enum block_format)f;
			break;
		case 'o':
			opts = optarg;
			break;
		case 'p':
			progress = isatty(1);
			break;
		case 'q':
			progress = false;
			break;
		case 'U':
			src.no_lock = true;
			break;
		case 'A':
			if (img_allow_add(&src, optarg))
				return 1;
			break;
		case 'c':
			return img_usage("convert", "writing compressed images is not supported; use "
				"`qemu-img convert -c`");
		default:
			return img_bad_option("convert", argv[optind - 1]);
		}
	}
	if (argc - optind != 2)
		return img_usage("convert", "a source and a target are needed");
	src.path = argv[optind];
	if (opts && img_create_options(&ic, opts, &e) < 0)
		return img_fail(&e);
	if (ic.qcow2.backing_name)
		return img_usage("convert", "a backing file for the target is not supported");
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	return convert(&src, &ic, argv[optind + 1], progress, &e) < 0 ? img_fail(&e) : 0;
}
