/* Import: the main thread reads and decompresses the archive; another one writes the files and computes checksums. Only
 * entries of the manifest are accepted, each once and with the size in the manifest. A chain of archives is read one
 * after the other. */
#include "tools/archive/archive.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/qcow2.h"
#include "tools/archive/stage.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define READ_BLOCK_BYTES (256 * 1024)
/* A file may take so much more than its data before the difference counts: the rest of blocks at the ends of holes, and
 * the file system's own map of the file. */
#define SPACE_SLACK_BYTES (16 * KIB)
#define SPACE_SLACK_PART 32 /* of the data */

/* Space that all archives of an import may take, and take. */
struct space {
	uint64_t bound, room; /* limit of the specification; free space of the file system before the import */
	uint64_t taken;
};

struct importer {
	struct archive *a;
	struct manifest manifest;
	char *text; /* text of the manifest */
	struct stage *stage; /* NULL: only check */
	int *fds;	     /* one for each file; -1: not started */
	struct sum *sums;    /* checksums of the received data */
	uint64_t *came;	     /* received bytes, one for each file */
	uint64_t *wrote, *took; /* written bytes and the space that they count with, one for each file; the writer's */
	struct space *space; /* of all archives; borrowed */
	struct queue *queue;
	struct archive_progress *progress; /* of all archives; borrowed */
};

static int archive_corrupt(struct err *e, const char *name, const char *why)
{
	return err_set(e, -EINVAL, ERR_CORRUPT, "%.80s in the archive %s", name, why);
}

/* ---- reading entries ---- */

static int archive_failed(struct importer *x, int r, struct err *e)
{
	const char *why = archive_error_string(x->a);

	if (archive_errno(x->a) == ENOMEM)
		return err_set_errno(e, -ENOMEM, "reading the archive");
	return err_set(e, -EINVAL, ERR_CORRUPT, "the archive is damaged or truncated%s%s",
		why ? ": " : "", why ? why : r == ARCHIVE_EOF ? ": it ends too early" : "");
}

/* Read the next entry, which must be a regular file with a valid name. Returns 0; 1 at the end; -errno. */
static int entry_next(struct importer *x, struct archive_entry **ret_en, const char **ret_name,
	struct err *e)
{
	int r = archive_read_next_header(x->a, ret_en);
	const char *name;

	if (r == ARCHIVE_EOF)
		return 1;
	if (r != ARCHIVE_OK)
		return archive_failed(x, r, e);
	name = archive_entry_pathname(*ret_en);
	if (!name)
		return archive_corrupt(e, "an entry", "has no name");
	if (strchr(name, '/'))
		return archive_corrupt(e, name, "names a folder; the archive was not written by cairn");
	if (archive_entry_symlink(*ret_en) || archive_entry_hardlink(*ret_en))
		return archive_corrupt(e, name, "is a link; the archive was not written by cairn");
	if (archive_entry_filetype(*ret_en) != AE_IFREG)
		return archive_corrupt(e, name, "is not a regular file; cairn did not write this archive");
	if (!archive_entry_size_is_set(*ret_en) || archive_entry_size(*ret_en) < 0)
		return archive_corrupt(e, name, "has no size");
	*ret_name = name;
	return 0;
}

/* Read manifest.json or sums.json into memory. *ret_text ends with NUL. */
static int text_read(struct importer *x, struct archive_entry *en, const char *name, char **ret_text,
	size_t *ret_len, struct err *e)
{
	int64_t size = archive_entry_size(en);
	CLEANUP_FREE char *text = NULL;

	if (size > ARCHIVE_JSON_MAX)
		return archive_corrupt(e, name, "is too large");
	text = calloc(1, (size_t)size + 1);
	if (!text)
		return err_set_errno(e, -ENOMEM, "%s", name);
	for (size_t at = 0; at < (size_t)size;) {
		la_ssize_t n = archive_read_data(x->a, text + at, (size_t)size - at);

		if (n <= 0)
			return archive_failed(x, n ? (int)n : ARCHIVE_EOF, e);
		at += (size_t)n;
	}
	*ret_text = STEAL_PTR(text);
	*ret_len = (size_t)size;
	return 0;
}

static int manifest_read(struct importer *x, struct err *e)
{
	struct archive_entry *en;
	const char *name;
	size_t len;
	int r = entry_next(x, &en, &name, e);

	if (r == 1 || (!r && strcmp(name, ARCHIVE_MANIFEST)))
		return err_set(e, -EINVAL, ERR_INVALID,
			"not an archive of cairn export: the first file is not %s", ARCHIVE_MANIFEST);
	if (!r)
		r = text_read(x, en, name, &x->text, &len, e);
	return r < 0 ? r : manifest_parse(x->text, len, &x->manifest, e);
}

/* ---- the thread that writes files ---- */

static int space_bound(const struct space *s, struct err *e)
{
	if (s->taken > s->bound)
		return err_set(e, -EFBIG, ERR_INVALID, "the archive's files take more than the limit of %llu bytes; "
			"scattered data take whole blocks", (unsigned long long)s->bound);
	if (s->taken > s->room)
		return err_set(e, -ENOSPC, ERR_NO_SPACE, "the archive's files take more than the %llu MiB that the file system of the "
			"folder had free; scattered data take whole blocks; choose another folder with --folder",
			(unsigned long long)(s->room / MIB));
	return 0;
}

/* Count the space of a file after a write: a byte of data occupies a whole block of the file system. */
static int space_count(struct importer *x, unsigned i, struct err *e)
{
	uint64_t counts = x->wrote[i], most = counts + counts / SPACE_SLACK_PART + SPACE_SLACK_BYTES;
	struct stat st;

	if (fstat(x->fds[i], &st) < 0)
		return err_set_errno(e, -errno, "%s", x->manifest.files[i].name);
	if ((uint64_t)st.st_blocks * 512 > most)
		counts = (uint64_t)st.st_blocks * 512;
	x->space->taken += counts - x->took[i];
	x->took[i] = counts;
	x->progress->space = x->space->taken;
	return space_bound(x->space, e);
}

static int chunk_write(struct importer *x, struct chunk *c, struct err *e)
{
	int r;

	sum_update(&x->sums[c->file], c->off, c->buf, c->len);
	if (!x->stage || x->manifest.files[c->file].skipped)
		return 0;
	r = pwrite_full(x->fds[c->file], c->buf, c->len, (off_t)c->off);
	if (r < 0)
		return err_set_errno(e, r, "writing %s", x->manifest.files[c->file].name);
	x->wrote[c->file] += c->len;
	return space_count(x, c->file, e);
}

struct writer {
	struct importer *x;
	int r;
	struct err e;
};

static void *writer_main(void *opaque)
{
	struct writer *w = opaque;
	struct chunk *c;

	while (!w->r && (c = queue_next(w->x->queue))) {
		w->r = chunk_write(w->x, c, &w->e);
		queue_took(w->x->queue);
	}
	if (w->r < 0)
		queue_give_up(w->x->queue);
	return NULL;
}

/* ---- passing entries to the writer ---- */

static int data_put(struct importer *x, unsigned file, uint64_t off, const uint8_t *p, size_t len)
{
	while (len) {
		struct chunk *c = queue_room(x->queue);
		size_t n = MIN(len, CHUNK_BYTES);

		if (!c)
			return -ECANCELED;
		*c = (struct chunk){ .file = file, .off = off, .len = n, .buf = c->buf };
		memcpy(c->buf, p, n);
		queue_put(x->queue);
		archive_progress_add(x->progress, n);
		off += n;
		p += n;
		len -= n;
	}
	return 0;
}

static int file_read_all(struct importer *x, unsigned i, struct err *e)
{
	const struct archive_file *f = &x->manifest.files[i];
	uint64_t at = 0;
	const void *p;
	size_t len;
	int64_t off;
	int r;

	while ((r = archive_read_data_block(x->a, &p, &len, &off)) == ARCHIVE_OK) {
		if (!len)
			continue;
		if (off < 0 || (uint64_t)off < at || !range_inside((uint64_t)off, len, f->size_bytes))
			return archive_corrupt(e, f->name, "is larger than its manifest says");
		x->came[i] += len;
		if (x->came[i] > f->data_bytes)
			return archive_corrupt(e, f->name, "has more data than its manifest says");
		at = (uint64_t)off + len;
		r = data_put(x, i, (uint64_t)off, p, len);
		if (!r)
			r = archive_cancelled(e);
		if (r < 0)
			return r;
	}
	return r == ARCHIVE_EOF ? 0 : archive_failed(x, r, e);
}

static int file_begin(struct importer *x, unsigned i, struct err *e)
{
	const struct archive_file *f = &x->manifest.files[i];

	sum_init(&x->sums[i], f->size_bytes);
	if (!x->stage || f->skipped)
		return 0;
	x->fds[i] = stage_create(x->stage, f->stored, e);
	if (x->fds[i] < 0)
		return x->fds[i];
	if (ftruncate(x->fds[i], (off_t)f->size_bytes) < 0)
		return err_set_errno(e, -errno, "%s of %llu bytes", f->name,
			(unsigned long long)f->size_bytes);
	return 0;
}

static int file_find(struct importer *x, const char *name, unsigned *ret, struct err *e)
{
	for (unsigned i = 0; i < x->manifest.nfiles; i++) {
		if (strcmp(x->manifest.files[i].name, name))
			continue;
		if (x->sums[i].begun)
			return archive_corrupt(e, name, "is there twice");
		*ret = i;
		return 0;
	}
	return archive_corrupt(e, name, "is not in its manifest");
}

static int sums_read(struct importer *x, struct archive_entry *en, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	int r = text_read(x, en, ARCHIVE_SUMS, &text, &len, e);

	return r < 0 ? r : manifest_parse_sums(text, len, &x->manifest, e);
}

/* Read all entries after the manifest. */
static int entries_read(struct importer *x, struct err *e)
{
	struct archive_entry *en;
	const char *name;
	unsigned i = 0;
	int r;

	while (!(r = entry_next(x, &en, &name, e)) && strcmp(name, ARCHIVE_SUMS)) {
		r = file_find(x, name, &i, e);
		if (!r && (uint64_t)archive_entry_size(en) != x->manifest.files[i].size_bytes)
			r = archive_corrupt(e, name, "has another size than its manifest says");
		if (!r)
			r = file_begin(x, i, e);
		if (!r)
			r = file_read_all(x, i, e);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return r;
	if (r == 1)
		return err_set(e, -EINVAL, ERR_CORRUPT, "the archive is truncated: its last file, %s, is missing",
			ARCHIVE_SUMS);
	r = sums_read(x, en, e);
	if (!r && (r = entry_next(x, &en, &name, e)) == 0)
		return archive_corrupt(e, name, "comes after its end");
	return MIN(r, 0);
}

/* ---- checking the files ---- */

static int sum_check(const char *name, const char *is, const char *should, struct err *e)
{
	return strcmp(is, should) ? archive_corrupt(e, name, "is damaged: its SHA-256 differs") : 0;
}

static int sums_check(struct importer *x, struct err *e)
{
	char text[SUM_TEXT];
	struct sum own;
	int r;

	sum_init(&own, strlen(x->text));
	sum_update(&own, 0, x->text, strlen(x->text));
	sum_final(&own, text);
	r = sum_check(ARCHIVE_MANIFEST, text, x->manifest.own_sum, e);
	for (unsigned i = 0; i < x->manifest.nfiles && !r; i++) {
		if (!x->sums[i].begun)
			return archive_corrupt(e, x->manifest.files[i].name, "is missing");
		sum_final(&x->sums[i], text);
		r = sum_check(x->manifest.files[i].name, text, x->manifest.files[i].sum, e);
	}
	return r;
}

/* Rewrite the names of backing and data files to those beside the image. A name outside of the archive is refused: it
 * would lead to a file of this host. */
static int names_rewrite(struct importer *x, unsigned i, struct err *e)
{
	const struct archive_file *f = &x->manifest.files[i];
	struct qcow2_header h;
	int r;

	if (!f->qcow2)
		return 0;
	r = qcow2_header_read(x->fds[i], f->name, &h, e);
	if (r < 0)
		return r;
	if (h.has_backing != (f->backing[0] != 0) ||
		!(h.incompatible & QCOW2_INCOMPAT_DATA_FILE) != !f->data_file[0])
		return archive_corrupt(e, f->name, "needs a file which the manifest does not name");
	if (f->backing[0] && h.has_pin)
		r = qcow2_set_pin_source(x->fds[i], &h, f->backing, e);
	else if (f->backing[0])
		r = qcow2_set_backing(x->fds[i], &h, f->backing, f->backing_format, e);
	if (!r && f->data_file[0])
		r = qcow2_set_data_file(x->fds[i], &h, f->data_file,
			(h.autoclear & QCOW2_AUTOCLEAR_RAW_DATA) != 0, e);
	return r;
}

static int files_finish(struct importer *x, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < x->manifest.nfiles && !r; i++) {
		if (x->manifest.files[i].skipped)
			continue;
		r = names_rewrite(x, i, e);
		if (!r && fsync(x->fds[i]) < 0)
			r = err_set_errno(e, -errno, "%s", x->manifest.files[i].name);
		if (!r)
			r = space_count(x, i, e); /* some file systems allocate when they flush */
	}
	return r;
}

/* ---- running the import ---- */

/* The archives of an import: one, or a chain. */
struct chain {
	struct importer list[ARCHIVE_CHAIN_MAX];
	unsigned n;
	struct archive_progress progress;
	struct space space;
};

/* Check the sizes that the manifests give before anything is written. */
static int space_check(struct chain *c, struct json_object *spec, struct err *e)
{
	uint64_t bound = (uint64_t)js_get_int(spec, "max_bytes", INT64_MAX), sum = 0, room;
	struct stage *stage = c->list[0].stage;
	struct statvfs v;

	for (unsigned k = 0; k < c->n; k++)
		for (unsigned i = 0; i < c->list[k].manifest.nfiles; i++) {
			const struct archive_file *f = &c->list[k].manifest.files[i];

			/* Each is at most 2^60 (manifest.c). */
			c->progress.total = MIN(c->progress.total + f->data_bytes, (uint64_t)INT64_MAX);
			if (!f->skipped)
				sum = MIN(sum + f->data_bytes, (uint64_t)INT64_MAX);
		}
	if (sum > bound)
		return err_set(e, -EFBIG, ERR_INVALID,
			"the archive holds %llu bytes, more than the limit of %llu",
			(unsigned long long)sum, (unsigned long long)bound);
	if (!stage)
		return 0;
	if (fstatvfs(stage_fd(stage), &v) < 0)
		return err_set_errno(e, -errno, "the folder");
	room = (uint64_t)v.f_bavail * v.f_frsize;
	c->space = (struct space){ .bound = (uint64_t)js_get_int(spec, "max_space", INT64_MAX), .room = room };
	if (sum > room)
		return err_set(e, -ENOSPC, ERR_NO_SPACE,
			"the archive holds %llu MiB, and the file system of the folder has %llu MiB free; choose "
			"another folder with --folder",
			(unsigned long long)DIV_ROUND_UP(sum, MIB), (unsigned long long)(room / MIB));
	return 0;
}

static int importer_prepare(struct importer *x, struct err *e)
{
	unsigned n = x->manifest.nfiles + 1;

	x->fds = malloc(n * sizeof(*x->fds));
	x->sums = calloc(n, sizeof(*x->sums));
	x->came = calloc(n, sizeof(*x->came));
	x->wrote = calloc(n, sizeof(*x->wrote));
	x->took = calloc(n, sizeof(*x->took));
	x->queue = queue_new();
	if (!x->fds || !x->sums || !x->came || !x->wrote || !x->took || !x->queue)
		return err_set_errno(e, -ENOMEM, "import");
	memset(x->fds, -1, n * sizeof(*x->fds));
	return 0;
}

static int entries_take(struct importer *x, struct err *e)
{
	struct writer w = { .x = x };
	pthread_t thread;
	struct err none = { 0 };
	int r = -pthread_create(&thread, NULL, writer_main, &w);

	if (r < 0)
		return err_set_errno(e, r, "import");
	r = entries_read(x, e);
	queue_end(x->queue, 0, &none);
	pthread_join(thread, NULL);
	if (w.r < 0 && (!r || r == -ECANCELED)) {
		*e = w.e;
		return w.r;
	}
	return r;
}

static int archive_begin(struct importer *x, int fd, struct err *e)
{
	x->a = archive_read_new();
	if (!x->a)
		return err_set_errno(e, -ENOMEM, "import");
	if (lseek(fd, 0, SEEK_SET) < 0) /* the fd may have been read before */
		return err_set_errno(e, -errno, "the archive");
	if (archive_read_support_format_tar(x->a) || archive_read_support_filter_gzip(x->a) ||
		archive_read_support_filter_zstd(x->a) ||
		archive_read_open_fd(x->a, fd, READ_BLOCK_BYTES))
		return err_set(e, -EINVAL, ERR_INVALID, "not an archive of cairn export: %s",
			archive_error_string(x->a));
	return 0;
}

static void importer_done(struct importer *x)
{
	for (unsigned i = 0; x->fds && i < x->manifest.nfiles; i++)
		if (x->fds[i] >= 0)
			close(x->fds[i]);
	free(x->fds);
	free(x->sums);
	free(x->came);
	free(x->wrote);
	free(x->took);
	free(x->text);
	queue_free(x->queue);
	manifest_done(&x->manifest);
	if (x->a)
		archive_read_free(x->a);
}

static void files_put(const struct importer *x, struct json_object *files)
{
	const struct manifest *m = &x->manifest;

	for (unsigned i = 0; i < m->nfiles; i++) {
		struct json_object *f;

		if (m->files[i].skipped)
			continue;
		f = json_object_new_object();
		js_put_str(f, "name", m->files[i].stored);
		js_put_str(f, "format", m->files[i].qcow2 ? "qcow2" : "raw");
		js_put_uint(f, "size", m->files[i].size_bytes);
		js_put_uint(f, "data", x->took ? MAX(m->files[i].data_bytes, x->took[i]) : m->files[i].data_bytes);
		json_object_array_add(files, f);
	}
}

static void result_put(const struct chain *c, struct json_object *result)
{
	const struct manifest *last = &c->list[c->n - 1].manifest;
	struct json_object *files = json_object_new_array();

	for (unsigned k = 0; k < c->n; k++)
		files_put(&c->list[k], files);
	js_put(result, "definition", json_object_get(last->definition));
	js_put(result, "files", files);
	if (last->snapshot[0])
		js_put_str(result, "snapshot", last->snapshot);
}

/* Read the manifests of all archives, and join them. */
static int chain_open(struct chain *c, struct json_object *spec, struct stage *stage, struct err *e)
{
	struct json_object *more = js_get_array(spec, "increments");
	size_t n = more ? json_object_array_length(more) : 0;
	struct manifest *manifests[ARCHIVE_CHAIN_MAX];
	int r = 0;

	if (n >= ARCHIVE_CHAIN_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "an import takes at most %d archives", ARCHIVE_CHAIN_MAX);
	for (size_t k = 0; k <= n && !r; k++) {
		struct importer *x = &c->list[c->n];
		int fd = k ? (int)json_object_get_int(json_object_array_get_idx(more, k - 1)) : (int)js_get_int(spec, "input", -1);

		manifests[c->n++] = &x->manifest;
		*x = (struct importer){ .stage = stage, .progress = &c->progress, .space = &c->space };
		r = archive_begin(x, fd, e);
		if (!r)
			r = manifest_read(x, e);
		if (r < 0 && n)
			err_prefix(e, "archive %zu", k + 1);
	}
	return r < 0 ? r : chain_join(manifests, c->n, e);
}

static int chain_take(struct chain *c, struct err *e)
{
	int r = 0;

	for (unsigned k = 0; k < c->n && !r; k++) {
		struct importer *x = &c->list[k];

		r = importer_prepare(x, e);
		if (!r)
			r = entries_take(x, e);
		if (!r)
			r = sums_check(x, e);
		if (!r && x->stage)
			r = files_finish(x, e);
		if (r < 0 && c->n > 1)
			err_prefix(e, "archive %u", k + 1);
	}
	return r;
}

int archive_import(struct json_object *spec, struct stage *stage, struct json_object *result,
	struct err *e)
{
	struct chain c = { .n = 0 };
	int r = chain_open(&c, spec, stage, e);

	if (!r && !js_get_bool(spec, "manifest_only", false)) {
		r = space_check(&c, spec, e);
		if (!r)
			r = chain_take(&c, e);
	}
	if (!r)
		result_put(&c, result);
	for (unsigned k = 0; k < c.n; k++)
		importer_done(&c.list[k]);
	return r;
}
