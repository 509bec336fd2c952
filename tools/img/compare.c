/* compare: compare two images byte by byte, except where both are known to be zeros. */
#include "img.h"

#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define STEP_BYTES (2 * MIB)

enum compare_exit { COMPARE_SAME = 0, COMPARE_DIFFERS = 1, COMPARE_OPEN = 2, COMPARE_EXTENT = 3,
	COMPARE_READ = 4 };

struct side {
	struct img_open o;
	struct block *b;
	uint64_t size;
	uint8_t *buf;
	struct block_extent x;
};

struct compare {
	struct img_common common;
	struct side s[2];
	uint32_t block_bytes; /* the larger logical block of the two */
	bool strict;
};

static int verdict_print(const struct compare *c, int st, const char *fmt, uint64_t at)
{
	if (!c->common.quiet && !c->common.json) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		printf(fmt, (unsigned long long)at);
#pragma GCC diagnostic pop
	}
	return st;
}

static int verdict_set(const struct compare *c, int st, uint64_t at)
{
	if (c->common.json && st == COMPARE_SAME)
		printf("{\"event\": \"result\", \"same\": true}\n");
	else if (c->common.json)
		printf("{\"event\": \"result\", \"same\": false, \"offset\": %llu}\n",
			(unsigned long long)at);
	else if (st == COMPARE_SAME)
		return verdict_print(c, st, "Images are identical.\n", 0);
	else
		return verdict_print(c, st, "Content mismatch at offset %llu!\n", at);
	return st;
}

static int side_read(struct side *s, uint64_t off, uint64_t len)
{
	struct iovec iov = { s->buf, len };
	struct block_req r = { .op = BLOCK_READ, .offset = off, .len = len, .iov = &iov, .niov = 1 };

	return block_run(s->b, &r);
}

static uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t n)
{
	for (uint64_t i = 0; i < n; i += 4096) {
		uint64_t m = MIN(n - i, 4096u);

		if (!memcmp(a + i, b + i, m))
			continue;
		while (a[i] == b[i])
			i++;
		return i;
	}
	return n;
}

static int extent_at(struct side *s, uint64_t off, uint64_t len, struct err *e)
{
	int r;

	if (off >= s->size) {
		s->x = (struct block_extent){ .zero = true, .len = len };
		return 0;
	}
	r = block_extent(s->b, off, MIN(len, s->size - off), &s->x);
	return r < 0 ? block_read_error(s->b, off, len, r, e) : 0;
}

static int step_read(struct compare *c, uint64_t off, uint64_t len, struct err *e)
{
	for (int i = 0; i < 2; i++) {
		struct side *s = &c->s[i];
		uint64_t there = off < s->size ? MIN(len, s->size - off) : 0;
		int r = 0;

		memset(s->buf + there, 0, len - there);
		if (s->x.zero)
			memset(s->buf, 0, there);
		else
			r = side_read(s, off, there);
		if (r < 0)
			return block_read_error(s->b, off, there, r, e);
	}
	return 0;
}

/* Compare the next stretch and move *off behind it. Returns an exit status; -1: no difference yet. */
static int compare_step(struct compare *c, uint64_t *off, uint64_t end, struct err *e)
{
	uint64_t len = end - *off, at;

	for (int i = 0; i < 2; i++) {
		if (extent_at(&c->s[i], *off, len, e) < 0)
			return COMPARE_EXTENT;
		len = MIN(len, c->s[i].x.len);
	}
	if (c->strict && c->s[0].x.present != c->s[1].x.present)
		return verdict_print(c, COMPARE_DIFFERS, "Strict mode: Offset %llu allocation mismatch!\n", *off);
	/* The data of a raw file may end within a block, which is then read. */
	if (len % c->block_bytes && *off + len < end)
		len = ROUND_DOWN(len, c->block_bytes);
	if (!len) {
		len = MIN(c->block_bytes, end - *off);
		c->s[0].x.zero = c->s[1].x.zero = false;
	}
	if (!c->s[0].x.zero || !c->s[1].x.zero) {
		len = MIN(len, STEP_BYTES);
		if (step_read(c, *off, len, e) < 0)
			return COMPARE_READ;
		at = first_difference(c->s[0].buf, c->s[1].buf, len);
		if (at < len)
			return verdict_set(c, COMPARE_DIFFERS, *off + at);
	}
	*off += len;
	return -1;
}

static int compare_run(struct compare *c, struct err *e)
{
	uint64_t a = c->s[0].size, b = c->s[1].size, end = MAX(a, b);
	int st = -1;

	if (a != b && c->strict)
		return verdict_print(c, COMPARE_DIFFERS, "Strict mode: Image size mismatch!\n", 0);
	for (uint64_t off = 0; off < end && st < 0;) {
		if (img_check_interrupted(e) < 0)
			return COMPARE_READ;
		st = compare_step(c, &off, end, e);
		img_progress_set(&c->common.progress, off, end);
	}
	if (st >= 0)
		return st;
	if (a != b && !c->common.quiet && !c->common.json)
		puts("Warning: Image size mismatch!");
	return verdict_set(c, COMPARE_SAME, 0);
}

static int sides_open(struct compare *c, struct err *e)
{
	struct block_info info;
	int r = img_confine(1, 64, e);

	for (int i = 0; i < 2 && !r; i++) {
		r = img_block_open(img_loop(0), &c->s[i].o, &c->s[i].b, e);
		if (r < 0)
			return r;
		block_info(c->s[i].b, &info);
		c->s[i].size = info.size_bytes;
		c->block_bytes = MAX(c->block_bytes, info.logical_block_bytes);
		c->s[i].buf = aligned_alloc(4096, STEP_BYTES);
		if (!c->s[i].buf)
			r = err_set_errno(e, -ENOMEM, "compare");
	}
	return r ? r : img_seal(false, e);
}

static int images_compare(struct compare *c)
{
	struct err e = { 0 };
	int st;

	if (sides_open(c, &e) < 0) {
		st = COMPARE_OPEN;
	} else {
		st = compare_run(c, &e);
		if (c->common.progress.mode == IMG_PROGRESS_BAR)
			img_progress_end(&c->common.progress, st == COMPARE_SAME);
	}
	for (int i = 0; i < 2; i++) {
		block_close(c->s[i].b);
		free(c->s[i].buf);
	}
	if (st >= COMPARE_OPEN) {
		img_check_interrupted(&e);
		img_fail(&e);
	}
	return st;
}

int img_compare_main(int argc, char **argv)
{
	struct compare c = { 0 };
	int o, st;

	img_common_init(&c.common, "compare");
	while ((o = getopt_long(argc, argv, "f:F:T:pqsU", img_common_longs, NULL)) != -1) {
		if (o == 'f')
			c.s[0].o.format = optarg;
		else if (o == 'F')
			c.s[1].o.format = optarg;
		else if (o == 's')
			c.strict = true;
		else if (o != 'T' && (st = img_common_option(&c.common, o, o == '?' ? argv[optind - 1] : optarg)))
			return COMPARE_OPEN;
	}
	if (argc - optind != 2) {
		img_usage("compare", "two FILEs are required");
		return COMPARE_OPEN;
	}
	for (int i = 0; i < 2; i++) {
		img_common_open(&c.common, &c.s[i].o);
		if (img_common_name(&c.common, &c.s[i].o, argv[optind + i]))
			return COMPARE_OPEN;
	}
	img_common_progress(&c.common);
	img_signals_catch();
	return images_compare(&c);
}
