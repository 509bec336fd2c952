/* bench: send requests repeatedly and measure the time, like `qemu-img bench`. */
#include "img.h"

#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DEPTH_MAX 4096u

struct bench;

struct slot {
	struct bench *b;
	struct block_req req;
	struct iovec iov;
};

struct bench {
	struct img_common common;
	uint64_t count, depth, bytes, step, offset, flush_interval, pattern;
	bool write, random, no_drain, durable;
	struct block *block;
	uint64_t size, started, finished, since_flush, state;
	unsigned in_flight;
	bool flushing;
	struct block_req flush;
	struct slot *slots, **idle;
	unsigned nidle;
	uint8_t *buf;
	int res;
};

static void buffers_fill(struct bench *b);

static void flush_done(struct block_req *r, int res)
{
	struct bench *b = container_of(r, struct bench, flush);

	b->flushing = false;
	b->in_flight--;
	if (res < 0 && !b->res)
		b->res = res;
	buffers_fill(b);
}

static void slot_done(struct block_req *r, int res)
{
	struct slot *s = container_of(r, struct slot, req);
	struct bench *b = s->b;

	b->in_flight--;
	b->finished++;
	b->since_flush++;
	b->idle[b->nidle++] = s;
	if (res < 0 && !b->res)
		b->res = res;
	buffers_fill(b);
}

/* xorshift64* (Vigna, 2016) */
static uint64_t random_next(struct bench *b)
{
	b->state ^= b->state >> 12;
	b->state ^= b->state << 25;
	b->state ^= b->state >> 27;
	return b->state * 0x2545f4914f6cdd1dULL;
}

static uint64_t offset_next(struct bench *b)
{
	uint64_t at = b->offset;

	if (b->random)
		return random_next(b) % (b->size / b->bytes) * b->bytes;
	if (at + b->bytes > b->size)
		at = 0;
	b->offset = at + b->step;
	if (b->size <= b->offset)
		b->offset %= b->size;
	return at;
}

static bool flush_due(struct bench *b)
{
	if (!b->flush_interval || b->since_flush < b->flush_interval || b->flushing)
		return false;
	return b->no_drain || !b->in_flight;
}

static void flush_start(struct bench *b)
{
	b->flushing = true;
	b->since_flush = 0;
	b->in_flight++;
	b->flush = (struct block_req){ .op = BLOCK_FLUSH, .done = flush_done };
	block_submit(b->block, &b->flush);
}

static bool may_start(const struct bench *b)
{
	if (b->res || img_interrupted() || !b->nidle || b->started == b->count)
		return false;
	if (b->no_drain || !b->flush_interval)
		return true;
	return !b->flushing && b->since_flush + b->in_flight < b->flush_interval;
}

static void buffers_fill(struct bench *b)
{
	if (flush_due(b))
		flush_start(b);
	while (may_start(b)) {
		struct slot *s = b->idle[--b->nidle];

		b->started++;
		b->in_flight++;
		s->req = (struct block_req){ .op = b->write ? BLOCK_WRITE : BLOCK_READ,
			.flags = b->write && b->durable ? BLOCK_REQ_FUA : 0,
			.offset = offset_next(b), .len = b->bytes, .iov = &s->iov, .niov = 1,
			.done = slot_done };
		block_submit(b->block, &s->req);
	}
}

static int slots_make(struct bench *b)
{
	b->slots = calloc(b->depth, sizeof(*b->slots));
	b->idle = calloc(b->depth, sizeof(*b->idle));
	b->buf = aligned_alloc(4096, ROUND_UP(b->depth * b->bytes, 4096));
	if (!b->slots || !b->idle || !b->buf)
		return -ENOMEM;
	memset(b->buf, (int)b->pattern, b->depth * b->bytes);
	for (uint64_t i = 0; i < b->depth; i++) {
		b->slots[i].b = b;
		b->slots[i].iov = (struct iovec){ b->buf + i * b->bytes, b->bytes };
		b->idle[b->nidle++] = &b->slots[i];
	}
	return 0;
}

static int args_check(struct bench *b, struct err *e)
{
	struct block_info info;

	block_info(b->block, &info);
	b->size = info.size_bytes;
	if (b->size < b->bytes || b->offset > b->size - b->bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "%s has %llu bytes, too few for requests of %llu bytes at "
			"offset %llu", b->common.o.path, (unsigned long long)b->size, (unsigned long long)b->bytes,
			(unsigned long long)b->offset);
	if ((b->bytes | b->offset | b->step) % info.logical_block_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "sizes and offsets must be multiples of %u",
			info.logical_block_bytes);
	return 0;
}

static void say_begin(const struct bench *b)
{
	if (b->common.quiet || b->common.json)
		return;
	printf("Sending %llu %s requests, %llu bytes each, %llu in parallel (",
		(unsigned long long)b->count, b->write ? "write" : "read", (unsigned long long)b->bytes,
		(unsigned long long)b->depth);
	if (b->random)
		puts("random offsets)");
	else
		printf("starting at offset %llu, step size %llu)\n", (unsigned long long)b->offset, (unsigned long long)b->step);
	if (b->flush_interval)
		printf("Sending flush every %llu %srequests\n", (unsigned long long)b->flush_interval,
			b->no_drain ? "" : "(drained) ");
}

static void say_end(const struct bench *b, uint64_t ns)
{
	double s = (double)ns / 1e9;

	if (b->common.json)
		printf("{\"event\": \"result\", \"seconds\": %.6f, \"requests\": %llu, \"iops\": %.0f}\n", s,
			(unsigned long long)b->finished, s > 0 ? (double)b->finished / s : 0);
	else if (!b->common.quiet)
		printf("Run completed in %3.3f seconds.\n", s);
}

static int bench_run(struct bench *b, struct loop *l, struct err *e)
{
	uint64_t begin;
	int r = args_check(b, e);

	if (r < 0)
		return r;
	r = slots_make(b);
	say_begin(b);
	begin = loop_now_ns();
	if (!r)
		buffers_fill(b);
	while (!r && b->in_flight) {
		loop_run_once(l, UINT64_MAX);
		buffers_fill(b); /* start a drained flush if it is due */
	}
	if (!r)
		r = b->res;
	if (r < 0)
		return err_set_errno(e, r, "a request failed");
	say_end(b, loop_now_ns() - begin);
	return img_check_interrupted(e);
}

static int image_bench(struct bench *b, struct err *e)
{
	struct loop *l = img_loop(0);
	int r = img_block_open(l, &b->common.o, &b->block, e);

	if (!r) {
		r = img_seal(false, e);
		if (!r)
			r = bench_run(b, l, e);
		r = img_block_close(b->block, b->common.o.path, r, e);
	}
	free(b->slots);
	free(b->idle);
	free(b->buf);
	return r;
}

static int number_option(struct bench *b, int c, const char *arg)
{
	uint64_t *to = c == 'c' ? &b->count : c == 'd' ? &b->depth : c == 's' ? &b->bytes
		: c == 'S' ? &b->step : c == 'o' ? &b->offset : c == IMG_OPT_OWN ? &b->flush_interval
		: c == IMG_OPT_OWN + 1 ? &b->pattern : &b->common.o.cache_bytes;
	bool is_size = to == &b->bytes || to == &b->step || to == &b->offset || to == &b->common.o.cache_bytes;
	struct err e;

	if (img_parse_size(arg, to, &e) < 0)
		return is_size ? img_fail(&e) : img_usage("bench", "'%s' is not a number, or is too large", arg);
	if ((c == 'd' && (!*to || *to > DEPTH_MAX)) || (c == IMG_OPT_OWN + 1 && *to > 255) ||
		(c == 's' && (!*to || *to > 64 * MIB)))
		return img_usage("bench", "%s is out of range", arg);
	return 0;
}

static int cache_mode(struct bench *b, const char *arg)
{
	b->common.o.direct = !strcmp(arg, "none") || !strcmp(arg, "directsync");
	b->durable = !strcmp(arg, "writethrough") || !strcmp(arg, "directsync");
	return img_cache_option("bench", arg);
}

/* QEMU's I/O methods, which have no effect here. */
static int aio_check(const char *arg)
{
	if (!strcmp(arg, "threads") || !strcmp(arg, "native") || !strcmp(arg, "io_uring"))
		return 0;
	return img_usage("bench", "unknown I/O method '%s'; use threads, native or io_uring", arg);
}

int img_bench_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS,
		{ "flush-interval", required_argument, NULL, IMG_OPT_OWN },
		{ "pattern", required_argument, NULL, IMG_OPT_OWN + 1 },
		{ "no-drain", no_argument, NULL, IMG_OPT_OWN + 2 },
		{ "random", no_argument, NULL, IMG_OPT_OWN + 3 },
		{ "cache-bytes", required_argument, NULL, IMG_OPT_OWN + 4 }, { NULL, 0, NULL, 0 } };
	struct bench b = { .count = 75000, .depth = 64, .bytes = 4096, .state = 0x9e3779b97f4a7c15ULL };
	struct err e;
	int c, st = 0;

	img_common_init(&b.common, "bench");
	while (!st && (c = getopt_long(argc, argv, "c:d:f:ni:o:qs:S:t:wU", longs, NULL)) != -1) {
		if (c == 'w')
			b.write = true;
		else if (c == 't')
			st = cache_mode(&b, optarg);
		else if (c == 'i')
			st = aio_check(optarg);
		else if (c == 'n') /* QEMU's name of `-i native` */
			continue;
		else if (c == IMG_OPT_OWN + 2)
			b.no_drain = true;
		else if (c == IMG_OPT_OWN + 3)
			b.random = true;
		else if (c == 'c' || c == 'd' || c == 's' || c == 'S' || c == 'o' || (c >= IMG_OPT_OWN))
			st = number_option(&b, c, optarg);
		else
			st = img_common_option(&b.common, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (st)
		return st;
	if (argc - optind != 1)
		return img_usage("bench", "one FILE is required");
	if (b.flush_interval && !b.write)
		return img_usage("bench", "--flush-interval requires -w");
	if (!b.step)
		b.step = b.bytes;
	b.common.o.writable = b.write;
	if (img_common_name(&b.common, &b.common.o, argv[optind]))
		return 1;
	img_signals_catch();
	return img_confine(1, MAX((unsigned)b.depth, 64u), &e) < 0 || image_bench(&b, &e) < 0 ? img_fail(&e) : 0;
}
