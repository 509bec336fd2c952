/* copy: reads and writes overlap, a few chunks at a time. */
#include "pack.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Small enough that a chunk is still in the cache when it is written. */
#define CHUNK_BYTES (256 * KIB)
#define CHUNKS 8
/* Zeros shorter than this are written along with what is around them. */
#define SPARSE_BYTES 4096u
/* What a rate limit lets through at once. */
#define RATE_AHEAD_NS 100000000ULL
#define RATE_POLL_NS 10000000ULL

/* ---- rate ---- */

static uint64_t rate_due_ns(struct img_rate *r, uint64_t done)
{
	if (!r->begin_ns)
		r->begin_ns = loop_now_ns();
	return r->begin_ns + (uint64_t)((double)done * 1e9 / (double)r->bytes_per_second);
}

bool img_rate_allows(struct img_rate *r, uint64_t done)
{
	return !r->bytes_per_second || rate_due_ns(r, done) <= loop_now_ns() + RATE_AHEAD_NS;
}

uint64_t img_rate_wait_ns(struct img_rate *r, uint64_t done)
{
	uint64_t due, now = loop_now_ns();

	if (!r->bytes_per_second)
		return UINT64_MAX;
	due = rate_due_ns(r, done);
	return due > now + RATE_AHEAD_NS ? due - now - RATE_AHEAD_NS : RATE_POLL_NS;
}

/* ---- chunks ---- */

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
	const struct img_copy *o;
	struct block *from, *to;
	uint64_t size_bytes, pos, finished;
	bool to_is_zero;
	int res;
	struct chunk chunks[CHUNKS];
};

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
		if (c->chunks[i].busy || c->res || img_interrupted() || c->pos == c->size_bytes)
			continue;
		r = holes_skip(c); /* runs the loop: chunks may end meanwhile */
		if (r < 0 && !c->res)
			c->res = r;
		if (!c->res && c->pos < c->size_bytes && !img_rate_allows(c->o->rate, c->pos))
			return true;
		if (!c->res && c->pos < c->size_bytes)
			chunk_start(c, &c->chunks[i], MIN(CHUNK_BYTES, c->size_bytes - c->pos));
	}
	for (unsigned i = 0; i < CHUNKS; i++)
		busy |= c->chunks[i].busy;
	return busy;
}

static int copy_run(struct copy *c)
{
	int r = 0;

	for (unsigned i = 0; i < CHUNKS && !r; i++) {
		c->chunks[i].buf = aligned_alloc(4096, CHUNK_BYTES);
		r = c->chunks[i].buf ? 0 : -ENOMEM;
	}
	while (!r && copy_fill(c)) {
		loop_run_once(c->o->loop, img_rate_wait_ns(c->o->rate, c->pos));
		img_progress_set(c->o->progress, c->finished, c->size_bytes);
	}
	for (unsigned i = 0; i < CHUNKS; i++)
		free(c->chunks[i].buf);
	return r ? r : c->res;
}

int img_copy(const struct img_copy *o, struct err *e)
{
	struct copy c = { .o = o, .from = o->from, .to = o->to, .to_is_zero = o->to_is_zero };
	struct block_info info;
	int r;

	block_info(o->from, &info);
	c.size_bytes = info.size_bytes;
	r = copy_run(&c);
	return r < 0 ? err_set_errno(e, r, "copying failed") : img_check_interrupted(e);
}

/* ---- a stream ---- */

static int stream_piece(struct block *from, int fd, uint8_t *buf, uint64_t off, uint64_t n)
{
	struct iovec iov = { buf, n };
	struct block_req q = { .op = BLOCK_READ, .offset = off, .len = n, .iov = &iov, .niov = 1 };
	int r = block_run(from, &q);

	return r ? r : write_full(fd, buf, n);
}

int img_copy_stream(struct block *from, int fd, struct img_rate *rate, struct img_progress *progress,
	struct err *e)
{
	CLEANUP_FREE uint8_t *buf = aligned_alloc(4096, CHUNK_BYTES);
	struct block_info info;
	int r = buf ? 0 : -ENOMEM;

	block_info(from, &info);
	for (uint64_t off = 0, n; off < info.size_bytes && !r && !img_interrupted(); off += n) {
		while (!img_rate_allows(rate, off) && !img_interrupted()) {
			uint64_t ns = img_rate_wait_ns(rate, off);

			nanosleep(&(struct timespec){ (time_t)(ns / 1000000000), (long)(ns % 1000000000) }, NULL);
		}
		n = MIN(CHUNK_BYTES, info.size_bytes - off);
		r = stream_piece(from, fd, buf, off, n);
		img_progress_set(progress, off + n, info.size_bytes);
	}
	return r < 0 ? err_set_errno(e, r, "copying failed") : img_check_interrupted(e);
}
