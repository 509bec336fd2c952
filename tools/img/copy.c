/* copy: copy a disk to another disk or to a stream, with a rate limit and progress. */
#include "pack.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "base/util.h"
#include "block/copy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define PIECE_BYTES (256 * KIB)
/* A rate limit permits bursts of this length. */
#define RATE_AHEAD_NS 100000000ULL
#define RATE_POLL_NS 10000000ULL

/* ---- limiting the rate ---- */

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

void img_rate_sleep(struct img_rate *r, uint64_t done)
{
	while (!img_rate_allows(r, done) && !img_interrupted()) {
		uint64_t ns = img_rate_wait_ns(r, done);

		nanosleep(&(struct timespec){ (time_t)(ns / 1000000000), (long)(ns % 1000000000) }, NULL);
	}
}

void img_copy_warn(const struct img_copy_how *how, uint64_t off, int error)
{
	if (!how->quiet)
		img_warn("error while reading offset %llu: %s", (unsigned long long)off, strerror(-error));
}

/* ---- copying to another disk ---- */

static bool copy_stop(void *opaque)
{
	(void)opaque;
	return img_interrupted();
}

static uint64_t copy_hold(void *opaque, uint64_t pos)
{
	const struct img_copy *o = opaque;

	return img_rate_allows(o->rate, pos) ? 0 : img_rate_wait_ns(o->rate, pos);
}

static void copy_progress(void *opaque, uint64_t done, uint64_t total)
{
	const struct img_copy *o = opaque;

	img_progress_set(o->progress, done, total);
}

static void copy_unreadable(void *opaque, uint64_t off, int error)
{
	const struct img_copy *o = opaque;

	img_copy_warn(o->how, off, error);
}

int img_copy(const struct img_copy *o, struct err *e)
{
	struct block_copy c = { .from = o->from, .to = o->to, .from_loop = o->from_loop, .loop = o->loop,
		.to_is_zero = o->to_is_zero, .over_backing = o->how->over_backing, .dense = o->how->dense,
		.sparse_bytes = o->how->sparse_bytes, .unreadable = o->how->salvage ? copy_unreadable : NULL, .stop = copy_stop, .hold = copy_hold, .progress = copy_progress,
		.opaque = (void *)(uintptr_t)o };
	int r = block_copy(&c, e);

	return r == -ECANCELED ? img_check_interrupted(e) : r;
}

/* ---- copying to a stream ---- */

static int stream_read(struct block *from, uint8_t *buf, uint64_t off, uint64_t n)
{
	struct iovec iov = { buf, n };
	struct block_req q = { .op = BLOCK_READ, .offset = off, .len = n, .iov = &iov, .niov = 1 };

	return block_run(from, &q);
}

static int stream_piece(struct block *from, int fd, const struct img_copy_how *how, uint8_t *buf, uint64_t off, uint64_t n,
	struct err *e)
{
	int r = stream_read(from, buf, off, n);
	struct block_info info;

	block_info(from, &info);
	if (r < 0 && !how->salvage)
		return block_read_error(from, off, n, r, e);
	if (r < 0) {
		for (uint64_t i = 0; i < n; i += info.logical_block_bytes) {
			r = stream_read(from, buf + i, off + i, info.logical_block_bytes);
			if (r < 0) {
				img_copy_warn(how, off + i, r);
				memset(buf + i, 0, info.logical_block_bytes);
			}
		}
		r = 0;
	}
	r = write_full(fd, buf, n);
	return r < 0 ? err_set_errno(e, r, "copying failed") : 0;
}

int img_copy_stream(struct block *from, int fd, const struct img_copy_how *how, struct img_rate *rate,
	struct img_progress *progress, struct err *e)
{
	CLEANUP_FREE uint8_t *buf = aligned_alloc(4096, PIECE_BYTES);
	struct block_info info;
	int r = buf ? 0 : err_set_errno(e, -ENOMEM, "copying failed");

	block_info(from, &info);
	for (uint64_t off = 0, n; off < info.size_bytes && !r && !img_interrupted(); off += n) {
		img_rate_sleep(rate, off);
		n = MIN(PIECE_BYTES, info.size_bytes - off);
		r = stream_piece(from, fd, how, buf, off, n, e);
		img_progress_set(progress, off + n, info.size_bytes);
	}
	return r < 0 && r != -ECANCELED ? r : img_check_interrupted(e);
}
