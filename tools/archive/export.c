/* Export: one thread reads the files and computes checksums; the main thread packs them. With zstd and gzip, further
 * threads compress. */
#include "tools/archive/archive.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "tools/archive/gzip.h"
#include "tools/archive/helper.h"
#include "tools/archive/sandbox.h"
#include "tools/archive/source.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

/* Size of the mapping of zeros that libarchive gets for holes. libarchive counts these zeros but reads none of them,
 * because the entries are sparse. */
#define ZEROS_BYTES (64 * MIB)
#define LOOP_ENTRIES 64

struct exporter {
	struct manifest manifest;
	struct source **sources; /* one for each file */
	struct archive *a;
	struct gzip *gzip; /* NULL: zstd or no compression */
	const void *zeros;
	struct queue *queue;
	struct loop *loop; /* loop for the images of a snapshot */
	struct source_since since;
	int nvram; /* the VM's file of UEFI variables; -1: none */
	struct archive_progress progress;
	time_t now;
};

/* ---- reading the specification ---- */

/* The disks come first in the specification. */
static int variables_open(struct exporter *x, struct json_object *o, struct source **ret, struct err *e)
{
	struct source_variables v = { .fd = x->nvram, .template_fd = (int)js_get_int(o, "fd", -1),
		.snapshot = x->manifest.snapshot, .sources = x->sources, .nsources = x->manifest.nfiles };

	return source_of_variables(x->loop, &v, js_get_str(o, "name"), ret, e);
}

static int source_open(struct exporter *x, struct json_object *o, struct source **ret, struct err *e)
{
	struct block_layer layers[BLOCK_LAYERS_MAX];
	struct json_object *list = js_get_array(o, "layers");
	const char *name = js_get_str(o, "name");
	unsigned n = 0;
	int r;

	if (js_get_bool(o, "variables", false))
		return variables_open(x, o, ret, e);
	if (!list)
		return source_of_file((int)js_get_int(o, "fd", -1), name, ret, e);
	r = helper_layers_take(list, layers, &n, e);
	return r < 0 ? r : source_of_snapshot(x->loop, layers, n, js_get_bool(o, "present", false) ? NULL : &x->since, name, ret, e);
}

static void word_take(struct json_object *o, const char *key, char *to, size_t cap)
{
	const char *s = js_get_str(o, key);

	snprintf(to, cap, "%s", s ? s : "");
}

static int file_take(struct exporter *x, unsigned i, struct json_object *o, struct err *e)
{
	struct archive_file *f = &x->manifest.files[i];
	struct source *s;
	int r;

	word_take(o, "name", f->name, sizeof(f->name));
	f->qcow2 = js_get_str(o, "format") && !strcmp(js_get_str(o, "format"), "qcow2");
	word_take(o, "backing", f->backing, sizeof(f->backing));
	word_take(o, "backing_format", f->backing_format, sizeof(f->backing_format));
	word_take(o, "data_file", f->data_file, sizeof(f->data_file));
	if (!manifest_name_ok(f->name))
		return err_set(e, -EINVAL, ERR_INVALID, "invalid file name '%s'", f->name);
	r = source_open(x, o, &x->sources[i], e);
	if (r < 0)
		return r;
	s = x->sources[i];
	f->increment = s->is_increment;
	f->size_bytes = s->size_bytes;
	for (size_t k = 0; k < s->nextents; k++)
		f->data_bytes += s->extents[k].len;
	x->progress.total += f->data_bytes;
	return 0;
}

static int spec_take(struct exporter *x, struct json_object *spec, struct err *e)
{
	struct json_object *list = js_get_array(spec, "files");
	struct json_object *definition = js_get(spec, "definition");
	size_t n = list ? json_object_array_length(list) : 0;
	int r = 0;

	if (!definition || n > ARCHIVE_FILES_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "no definition, or too many files");
	x->manifest.definition = json_object_get(definition);
	word_take(spec, "snapshot", x->manifest.snapshot, sizeof(x->manifest.snapshot));
	x->since.snapshot = x->manifest.snapshot;
	x->since.since = js_get_str(spec, "since");
	x->nvram = (int)js_get_int(spec, "nvram", -1);
	x->manifest.files = calloc(n + 1, sizeof(*x->manifest.files));
	x->sources = calloc(n + 1, sizeof(struct source *));
	if (!x->manifest.files || !x->sources)
		return err_set_errno(e, -ENOMEM, "export");
	for (size_t i = 0; i < n && !r; i++) {
		x->manifest.nfiles++;
		r = file_take(x, (unsigned)i, json_object_array_get_idx(list, i), e);
	}
	if (!r)
		r = source_since_check(&x->since, e);
	memcpy(x->manifest.snapshot_id, x->since.snapshot_id, sizeof(x->manifest.snapshot_id));
	memcpy(x->manifest.since_id, x->since.since_id, sizeof(x->manifest.since_id));
	memcpy(x->manifest.since, x->since.since_name, sizeof(x->manifest.since));
	return r;
}

/* ---- the thread that reads files ---- */

static int chunk_read(struct exporter *x, unsigned file, uint64_t off, size_t len, struct sum *sum,
	struct err *e)
{
	struct chunk *c = queue_room(x->queue);
	int r;

	if (!c)
		return -ECANCELED;
	*c = (struct chunk){ .file = file, .off = off, .len = len, .buf = c->buf };
	r = x->sources[file]->read(x->sources[file], c->buf, off, len, e);
	if (r < 0)
		return r;
	sum_update(sum, off, c->buf, len);
	queue_put(x->queue);
	return 0;
}

static int file_read_all(struct exporter *x, unsigned file, struct err *e)
{
	struct source *s = x->sources[file];
	struct sum sum;
	int r = 0;

	sum_init(&sum, s->size_bytes);
	for (size_t k = 0; k < s->nextents; k++) {
		uint64_t off = s->extents[k].off, end = off + s->extents[k].len;

		while (off < end && !r) {
			size_t len = MIN(end - off, CHUNK_BYTES - off % CHUNK_BYTES);

			r = chunk_read(x, file, off, len, &sum, e);
			off += len;
		}
	}
	sum_final(&sum, x->manifest.files[file].sum);
	return r;
}

static void *reader_main(void *opaque)
{
	struct exporter *x = opaque;
	struct err e = { 0 };
	int r = 0;

	for (unsigned i = 0; i < x->manifest.nfiles && !r; i++)
		r = file_read_all(x, i, &e);
	queue_end(x->queue, r, &e);
	return NULL;
}

/* ---- writing entries ---- */

static int archive_failed(struct archive *a, const char *name, struct err *e)
{
	int error = archive_errno(a);

	if (error == ENOSPC || error == EFBIG || error == EDQUOT || error == EIO)
		return err_set_errno(e, -error, "writing the archive");
	return err_set(e, -EIO, ERR_IO, "writing %s: %s", name, archive_error_string(a));
}

static int entry_begin(struct exporter *x, const char *name, uint64_t size,
	const struct source *s, struct err *e)
{
	struct archive_entry *en = archive_entry_new();
	int r;

	archive_entry_set_pathname(en, name);
	archive_entry_set_filetype(en, AE_IFREG);
	archive_entry_set_perm(en, 0600);
	archive_entry_set_mtime(en, x->now, 0);
	archive_entry_set_size(en, (int64_t)size);
	for (size_t i = 0; s && i < s->nextents; i++)
		archive_entry_sparse_add_entry(en, (int64_t)s->extents[i].off,
			(int64_t)s->extents[i].len);
	/* A file that is all hole needs this entry: otherwise libarchive would store its zeros. */
	if (s && !s->nextents && size)
		archive_entry_sparse_add_entry(en, (int64_t)size, 0);
	r = archive_write_header(x->a, en);
	archive_entry_free(en);
	return r == ARCHIVE_OK ? 0 : archive_failed(x->a, name, e);
}

static int data_write(struct exporter *x, const char *name, const void *data, size_t len,
	struct err *e)
{
	return archive_write_data(x->a, data, len) == (la_ssize_t)len ? 0
								      : archive_failed(x->a, name, e);
}

static int zeros_write(struct exporter *x, const char *name, uint64_t len, struct err *e)
{
	int r = 0;

	for (uint64_t n; len && !r; len -= n) {
		n = MIN(len, ZEROS_BYTES);
		r = data_write(x, name, x->zeros, n, e);
	}
	return r;
}

static int text_write(struct exporter *x, const char *name, const char *text, struct err *e)
{
	int r = text ? entry_begin(x, name, strlen(text), NULL, e) : -ENOMEM;

	return r < 0 ? r : data_write(x, name, text, strlen(text), e);
}

/* Write the chunks of one file. */
static int file_write(struct exporter *x, unsigned i, struct err *e)
{
	const struct archive_file *f = &x->manifest.files[i];
	uint64_t at = 0, left = f->data_bytes;
	int r = entry_begin(x, f->name, f->size_bytes, x->sources[i], e);

	while (left && !r) {
		struct chunk *c = queue_next(x->queue);

		if (!c)
			return queue_result(x->queue, e);
		r = zeros_write(x, f->name, c->off - at, e);
		if (!r)
			r = data_write(x, f->name, c->buf, c->len, e);
		if (!r)
			r = archive_cancelled(e);
		at = c->off + c->len;
		left -= c->len;
		archive_progress_add(&x->progress, c->len);
		queue_took(x->queue);
	}
	return r < 0 ? r : zeros_write(x, f->name, f->size_bytes - at, e);
}

static int all_write(struct exporter *x, struct err *e)
{
	CLEANUP_FREE char *text = manifest_print(&x->manifest);
	CLEANUP_FREE char *sums = NULL;
	struct sum sum;
	int r = text_write(x, ARCHIVE_MANIFEST, text, e);

	for (unsigned i = 0; i < x->manifest.nfiles && !r; i++)
		r = file_write(x, i, e);
	if (!r && !queue_next(x->queue)) /* the checksums are complete when the reader has ended */
		r = queue_result(x->queue, e);
	if (r < 0)
		return r;
	sum_init(&sum, strlen(text));
	sum_update(&sum, 0, text, strlen(text));
	sum_final(&sum, x->manifest.own_sum);
	sums = manifest_print_sums(&x->manifest);
	return text_write(x, ARCHIVE_SUMS, sums, e);
}

/* ---- writing the archive ---- */

static la_ssize_t gzip_take(struct archive *a, void *opaque, const void *buf, size_t len)
{
	int r = gzip_write(opaque, buf, len);

	if (!r)
		return (la_ssize_t)len;
	archive_set_error(a, -r, "%s", strerror(-r));
	return -1;
}

/* Open the archive for writing. zstd compresses with libzstd's threads, one for each processor; gzip with those of
 * gzip.c. */
static int output_open(struct exporter *x, int fd, const char *compress, int level)
{
	char text[48];
	int r;

	if (!strcmp(compress, "gzip")) {
		x->gzip = gzip_new(fd, level);
		if (x->gzip)
			return archive_write_open(x->a, x->gzip, NULL, gzip_take, NULL);
		archive_set_error(x->a, ENOMEM, "%s", strerror(ENOMEM));
		return ARCHIVE_FATAL;
	}
	if (!strcmp(compress, "zstd")) {
		snprintf(text, sizeof(text), "zstd:compression-level=%d,zstd:threads=%d", level, get_nprocs());
		r = archive_write_add_filter_zstd(x->a);
		if (r || (r = archive_write_set_options(x->a, text)))
			return r;
	}
	return archive_write_open_fd(x->a, fd);
}

static int archive_begin(struct exporter *x, struct json_object *spec, struct err *e)
{
	const char *compress = js_get_str(spec, "compress");
	bool gzip = compress && !strcmp(compress, "gzip");
	int64_t level = js_get_int(spec, "level", gzip ? 6 : 3);

	if (level < 1 || level > (gzip ? 9 : 19))
		return err_set(e, -EINVAL, ERR_INVALID, "the compression level of %s must be 1 to %d",
			gzip ? "gzip" : "zstd", gzip ? 9 : 19);
	x->a = archive_write_new();
	if (!x->a)
		return err_set_errno(e, -ENOMEM, "export");
	if (archive_write_set_format_pax_restricted(x->a) || archive_write_set_bytes_per_block(x->a, 1024 * 1024) ||
		archive_write_set_bytes_in_last_block(x->a, 1) ||
		output_open(x, (int)js_get_int(spec, "output", -1), compress ? compress : "zstd", (int)level))
		return archive_failed(x->a, "the archive", e);
	return 0;
}

static int archive_run(struct exporter *x, struct err *e)
{
	pthread_t reader;
	int r;

	x->queue = queue_new();
	if (!x->queue)
		return err_set_errno(e, -ENOMEM, "export");
	r = -pthread_create(&reader, NULL, reader_main, x);
	if (r < 0)
		return err_set_errno(e, r, "export");
	r = all_write(x, e);
	if (r < 0)
		archive_write_fail(x->a); /* otherwise libarchive would fill the rest of the entry with zeros */
	queue_give_up(x->queue);
	pthread_join(reader, NULL);
	if (!r && archive_write_close(x->a))
		r = archive_failed(x->a, "the archive", e);
	if (!r && x->gzip && (r = gzip_end(x->gzip)) < 0)
		err_set_errno(e, r, "writing the archive");
	return r;
}

static void exporter_done(struct exporter *x)
{
	for (unsigned i = 0; i < x->manifest.nfiles; i++)
		source_free(x->sources[i]);
	free(x->sources);
	loop_free(x->loop);
	queue_free(x->queue);
	manifest_done(&x->manifest);
	if (x->a)
		archive_write_free(x->a);
	gzip_free(x->gzip);
}

int archive_export(struct json_object *spec, struct json_object *result, struct err *e)
{
	int output = (int)js_get_int(spec, "output", -1);
	struct exporter x = { .now = time(NULL) };
	/* Create the loop before the sandbox: a process that can create an io_uring could open files through it. */
	int r = loop_new(LOOP_ENTRIES, &x.loop, e);

	if (!r)
		r = archive_sandbox(-1, e);
	if (!r)
		r = archive_begin(&x, spec, e);
	if (!r)
		r = spec_take(&x, spec, e);
	x.zeros = mmap(NULL, ZEROS_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!r && x.zeros == MAP_FAILED)
		r = err_set_errno(e, -errno, "export");
	if (!r)
		r = archive_run(&x, e);
	if (!r && fsync(output) < 0 && errno != EINVAL && errno != EROFS)
		r = err_set_errno(e, -errno, "writing the archive");
	if (!r) {
		js_put_uint(result, "data", x.progress.done);
		js_put_uint(result, "written", (uint64_t)lseek(output, 0, SEEK_CUR));
	}
	exporter_done(&x);
	return r;
}
