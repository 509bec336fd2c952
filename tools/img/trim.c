/* trim: free unused space in an image's file, in place. */
#include "img.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "block/lock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define STEP_BYTES (2 * MIB)

struct trim {
	struct img_common common;
	bool zeros;
	char data_path[PATH_MAX]; /* path of the data file; empty: none */
};

static int zeros_drop(struct block *b, uint64_t off, uint64_t n, const uint8_t *buf, uint64_t grain)
{
	int r = 0;

	for (uint64_t i = 0; i < n && !r; i += grain) {
		struct block_req z = { .op = BLOCK_WRITE_ZEROES, .flags = BLOCK_REQ_MAY_UNMAP,
			.offset = off + i, .len = MIN(grain, n - i) };

		if (bytes_are_zero(buf + i, z.len))
			r = block_run(b, &z);
	}
	return r;
}

/* Free clusters that a guest has filled with zeros. */
static int zeros_scan(struct trim *t, struct block *b, uint8_t *buf)
{
	struct block_info info;
	uint64_t grain, off = 0;
	int r = 0;

	block_info(b, &info);
	grain = MIN(MAX(info.discard_granularity, 4096u), STEP_BYTES);
	while (off < info.size_bytes && !r && !img_interrupted()) {
		struct iovec iov = { buf, 0 };
		struct block_req q = { .op = BLOCK_READ, .offset = off, .iov = &iov, .niov = 1 };
		struct block_extent x;
		uint64_t reach = ROUND_DOWN(off, STEP_BYTES) + STEP_BYTES;

		r = block_extent(b, off, info.size_bytes - off, &x);
		if (!r && !x.zero && x.present && !x.layer) {
			x.len = MIN(x.len, reach - off);
			iov.iov_len = q.len = x.len;
			r = block_run(b, &q);
			if (!r)
				r = zeros_drop(b, off, x.len, buf, grain);
		}
		off += x.len;
		img_progress_set(&t->common.progress, off, info.size_bytes);
	}
	return r;
}

/* Find the external data file: zeros of the disk are freed in that file. */
static int data_path_find(struct trim *t, struct err *e)
{
	struct img_layer layers[BLOCK_LAYERS_MAX];
	unsigned n;
	int r = img_layers_open(&t->common.o, layers, &n, e);

	if (r < 0)
		return r;
	if (layers[0].data_path)
		snprintf(t->data_path, sizeof(t->data_path), "%s", layers[0].data_path);
	img_layers_free(layers, n);
	return 0;
}

static int zeros_free(struct block *b, void *opaque, struct err *e)
{
	CLEANUP_FREE uint8_t *buf = aligned_alloc(4096, STEP_BYTES);
	struct trim *t = opaque;
	int r = buf ? zeros_scan(t, b, buf) : -ENOMEM;

	return r < 0 ? err_set_errno(e, r, "%s: cannot free zeros", t->common.o.path) : 0;
}

static int tables_trim(struct trim *t, struct err *e)
{
	struct img_layer layers[BLOCK_LAYERS_MAX];
	unsigned n;
	int r;

	t->common.o.no_backing = true;
	r = img_layers_open(&t->common.o, layers, &n, e);
	if (r < 0)
		return r;
	r = lock_acquire(layers[0].fd, LOCK_AS_WRITER, t->common.o.path, e);
	if (!r && layers[0].format == BLOCK_FORMAT_QCOW2) {
		r = qcow2_header_read(layers[0].fd, t->common.o.path, &layers[0].header, e);
		if (!r)
			r = qcow2_header_supported(&layers[0].header, true, e);
		if (!r)
			r = qcow2_trim(layers[0].fd, &layers[0].header, e);
		if (r < 0 && !strstr(e->msg, t->common.o.path))
			err_prefix(e, "%s", t->common.o.path);
	}
	img_layers_free(layers, n);
	return r;
}

static uint64_t file_space(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

static uint64_t space_of(const struct trim *t)
{
	return file_space(t->common.o.path) + (*t->data_path ? file_space(t->data_path) : 0);
}

static int trim_run(struct trim *t, struct err *e)
{
	int r = t->zeros ? data_path_find(t, e) : 0;
	uint64_t before = space_of(t), after;
	char a[32], b[32];

	if (!r && t->zeros)
		r = img_block_run(img_loop(0), &t->common.o, zeros_free, t, e);
	if (!r) {
		img_signals_end();
		r = tables_trim(t, e);
	}
	if (r < 0)
		return r;
	after = space_of(t);
	img_format_size(before, a, sizeof(a));
	img_format_size(after, b, sizeof(b));
	if (t->common.json)
		printf("{\"event\": \"result\", \"before\": %llu, \"after\": %llu}\n",
			(unsigned long long)before, (unsigned long long)after);
	else if (!t->common.quiet)
		printf("%s%s: %s before, %s now.\n", t->common.o.path, *t->data_path ? " and its data file" : "", a, b);
	return 0;
}

int img_trim_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS,
		{ "zeros", no_argument, NULL, IMG_OPT_OWN }, { NULL, 0, NULL, 0 } };
	struct trim t = { .common.o.writable = true };
	struct err e;
	int c, st = 0;

	img_common_init(&t.common, "trim");
	while (!st && (c = getopt_long(argc, argv, "f:pq", longs, NULL)) != -1) {
		if (c == IMG_OPT_OWN)
			t.zeros = true;
		else
			st = img_common_option(&t.common, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (st)
		return st;
	if (argc - optind != 1)
		return img_usage("trim", "one FILE is required");
	if (img_common_name(&t.common, &t.common.o, argv[optind]))
		return 1;
	img_common_progress(&t.common);
	img_signals_catch();
	st = img_confine(1, 64, &e);
	if (!st)
		st = trim_run(&t, &e);
	if (t.common.progress.mode == IMG_PROGRESS_BAR)
		img_progress_end(&t.common.progress, !st);
	return st < 0 ? img_fail(&e) : 0;
}
