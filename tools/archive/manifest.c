/* manifest.json, the first entry of an archive:
 *   {"format":1, "cairn":"0.1.0", "snapshot":"s1", "definition":{…},
 *    "files":[{"name":"vda.qcow2","size":N,"data":N,"format":"qcow2","backing":"base.raw",
 *              "backing_format":"raw"}]}
 * sums.json, the last: {"sha256":{"manifest.json":"…","vda.qcow2":"…"}} */
#include "tools/archive/archive.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SIZE_MAX_BYTES (1ULL << 60)

void manifest_done(struct manifest *m)
{
	json_object_put(m->definition);
	free(m->files);
	*m = (struct manifest){ 0 };
}

bool manifest_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (!n || n > ARCHIVE_NAME_MAX || name[0] == '.' || name[0] == '-')
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("._-", *name))
			return false;
	return true;
}

/* ---- printing a manifest ---- */

static char *text_of(struct json_object *o)
{
	return strdup(json_object_to_json_string_ext(o,
		JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static void put_unless_empty(struct json_object *o, const char *key, const char *v)
{
	if (v[0])
		js_put_str(o, key, v);
}

char *manifest_print(const struct manifest *m)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *files = json_object_new_array();

	js_put_int(o, "format", m->since[0] ? ARCHIVE_FORMAT_INCREMENT : ARCHIVE_FORMAT);
	js_put_str(o, "cairn", CAIRN_VERSION);
	put_unless_empty(o, "snapshot", m->snapshot);
	put_unless_empty(o, "snapshot_id", m->snapshot_id);
	put_unless_empty(o, "since", m->since);
	put_unless_empty(o, "since_id", m->since_id);
	js_put(o, "definition", json_object_get(m->definition));
	for (unsigned i = 0; i < m->nfiles; i++) {
		struct json_object *f = json_object_new_object();

		js_put_str(f, "name", m->files[i].name);
		js_put_uint(f, "size", m->files[i].size_bytes);
		js_put_uint(f, "data", m->files[i].data_bytes);
		if (m->files[i].qcow2)
			js_put_str(f, "format", "qcow2");
		if (m->files[i].increment)
			js_put_bool(f, "increment", true);
		put_unless_empty(f, "backing", m->files[i].backing);
		put_unless_empty(f, "backing_format", m->files[i].backing_format);
		put_unless_empty(f, "data_file", m->files[i].data_file);
		json_object_array_add(files, f);
	}
	js_put(o, "files", files);
	return text_of(o);
}

char *manifest_print_sums(const struct manifest *m)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *sums = json_object_new_object();

	js_put_str(sums, ARCHIVE_MANIFEST, m->own_sum);
	for (unsigned i = 0; i < m->nfiles; i++)
		js_put_str(sums, m->files[i].name, m->files[i].sum);
	js_put(o, "sha256", sums);
	return text_of(o);
}

/* ---- parsing a manifest ---- */

static int manifest_bad(struct err *e, const char *what)
{
	return err_set(e, -EINVAL, ERR_CORRUPT, "%s is damaged: %s", ARCHIVE_MANIFEST, what);
}

static int take_name(struct json_object *f, const char *key, char *ret, struct err *e)
{
	struct json_object *v = js_get(f, key);
	const char *s = v ? js_plain_string(v) : NULL;

	if (!v)
		return 0;
	if (!s || !manifest_name_ok(s))
		return err_set(e, -EINVAL, ERR_CORRUPT,
			"%s: invalid file name '%.80s'; cairn did not write this archive",
			ARCHIVE_MANIFEST, s ? s : "?");
	strcpy(ret, s);
	return 0;
}

static int take_size(struct json_object *f, const char *key, uint64_t *ret, struct err *e)
{
	struct json_object *v = js_get(f, key);

	if (!json_object_is_type(v, json_type_int) || json_object_get_int64(v) < 0 ||
		json_object_get_uint64(v) > SIZE_MAX_BYTES)
		return manifest_bad(e, "the size of a file");
	*ret = json_object_get_uint64(v);
	return 0;
}

static int file_parse(struct json_object *o, struct archive_file *f, struct err *e)
{
	const char *format;
	int r = take_name(o, "name", f->name, e);

	if (!r)
		r = take_name(o, "backing", f->backing, e);
	if (!r)
		r = take_name(o, "data_file", f->data_file, e);
	if (!r)
		r = take_size(o, "size", &f->size_bytes, e);
	if (!r)
		r = take_size(o, "data", &f->data_bytes, e);
	if (r < 0)
		return r;
	if (!f->name[0] || f->data_bytes > f->size_bytes)
		return manifest_bad(e, "a file without a name, or with more data than its size");
	format = js_get_str(o, "format");
	if (js_get(o, "format") && (!format || (strcmp(format, "raw") && strcmp(format, "qcow2"))))
		return manifest_bad(e, "the format of a file");
	f->qcow2 = format && !strcmp(format, "qcow2");
	strcpy(f->stored, f->name);
	f->increment = js_get_bool(o, "increment", false);
	if (f->increment && (!f->qcow2 || f->backing[0] || f->data_file[0]))
		return manifest_bad(e, "an increment that is no qcow2 image, or names a backing or data file");
	if (!f->qcow2 && (f->backing[0] || f->data_file[0]))
		return manifest_bad(e, "a backing file of an image that is not qcow2");
	format = js_get_str(o, "backing_format");
	if (f->backing[0] && (!format || (strcmp(format, "raw") && strcmp(format, "qcow2"))))
		return manifest_bad(e, "the format of a backing file");
	if (format && f->backing[0])
		strcpy(f->backing_format, format);
	return 0;
}

static const struct archive_file *file_find(const struct manifest *m, const char *name)
{
	for (unsigned i = 0; i < m->nfiles; i++)
		if (!strcmp(m->files[i].name, name))
			return &m->files[i];
	return NULL;
}

/* Check that the files that an image names are in the archive, in the formats in which the image reads them. The
 * import does not check the header of a file that the manifest calls raw. So no tool may read that file as a qcow2
 * image, which could name a file of this host. */
static int links_check(const struct manifest *m, const struct archive_file *f, struct err *e)
{
	const struct archive_file *backing = f->backing[0] ? file_find(m, f->backing) : NULL;
	const struct archive_file *data = f->data_file[0] ? file_find(m, f->data_file) : NULL;

	if ((f->backing[0] && !backing) || (f->data_file[0] && !data))
		return manifest_bad(e, "a backing file that is not in the archive");
	if (backing && backing->qcow2 != !strcmp(f->backing_format, "qcow2"))
		return manifest_bad(e, "a backing file has another format than the image that names it says");
	if (data && data->qcow2)
		return manifest_bad(e, "a data file that is not raw");
	return 0;
}

static int files_parse(struct json_object *list, struct manifest *m, struct err *e)
{
	size_t n = list ? json_object_array_length(list) : 0;
	int r = 0;

	if (!list || n > ARCHIVE_FILES_MAX)
		return manifest_bad(e, "its list of files");
	m->files = calloc(n + 1, sizeof(*m->files));
	if (!m->files)
		return err_set_errno(e, -ENOMEM, "%s", ARCHIVE_MANIFEST);
	for (size_t i = 0; i < n && !r; i++) {
		struct archive_file f = { 0 };

		r = file_parse(json_object_array_get_idx(list, i), &f, e);
		if (!r && (file_find(m, f.name) || !strcmp(f.name, ARCHIVE_MANIFEST) ||
				  !strcmp(f.name, ARCHIVE_SUMS)))
			r = manifest_bad(e, "two files of one name");
		m->files[i] = f;
		m->nfiles += !r;
	}
	for (unsigned i = 0; i < m->nfiles && !r; i++)
		r = links_check(m, &m->files[i], e);
	return r;
}

/* Take a text that may be missing. */
static int take_word(struct json_object *o, const char *key, char *ret, size_t cap, struct err *e)
{
	const char *s = js_get_str(o, key);

	if (s && strlen(s) >= cap)
		return manifest_bad(e, "the name or id of a snapshot");
	snprintf(ret, cap, "%s", s ? s : "");
	return 0;
}

static int snapshots_take(struct json_object *o, struct manifest *m, struct err *e)
{
	int r = take_word(o, "snapshot", m->snapshot, sizeof(m->snapshot), e);

	if (!r)
		r = take_word(o, "snapshot_id", m->snapshot_id, sizeof(m->snapshot_id), e);
	if (!r)
		r = take_word(o, "since", m->since, sizeof(m->since), e);
	if (!r)
		r = take_word(o, "since_id", m->since_id, sizeof(m->since_id), e);
	if (!r && m->since[0] && !m->since_id[0])
		r = manifest_bad(e, "an increment without the id of its snapshot");
	return r;
}

static int manifest_take(struct json_object *o, struct manifest *m, struct err *e)
{
	int64_t format = js_get_int(o, "format", 0);
	int r;

	if (format > ARCHIVE_FORMAT_INCREMENT)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"the archive has format %lld; this cairn reads format %d: import it with a newer one",
			(long long)format, ARCHIVE_FORMAT_INCREMENT);
	if (format < 1)
		return manifest_bad(e, "its format");
	if (!json_object_is_type(js_get(o, "definition"), json_type_object))
		return manifest_bad(e, "its definition");
	r = snapshots_take(o, m, e);
	if (r < 0)
		return r;
	m->definition = json_object_get(js_get(o, "definition"));
	return files_parse(js_get_array(o, "files"), m, e);
}

int manifest_parse(const char *text, size_t len, struct manifest *ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct manifest m = { 0 };
	int r = js_parse(text, len, ARCHIVE_MANIFEST, &o, e);

	if (r < 0)
		return r;
	r = manifest_take(o, &m, e);
	if (r < 0)
		manifest_done(&m);
	else
		*ret = m;
	return r;
}

static int sum_take(struct json_object *sums, const char *name, char *ret, struct err *e)
{
	const char *s = js_get_str(sums, name);

	if (!s || strlen(s) != SUM_TEXT - 1)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s has no SHA-256 of %s", ARCHIVE_SUMS, name);
	strcpy(ret, s);
	return 0;
}

int manifest_parse_sums(const char *text, size_t len, struct manifest *m, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *sums;
	int r = js_parse(text, len, ARCHIVE_SUMS, &o, e);

	if (r < 0)
		return r;
	sums = js_get(o, "sha256");
	r = sum_take(sums, ARCHIVE_MANIFEST, m->own_sum, e);
	for (unsigned i = 0; i < m->nfiles && !r; i++)
		r = sum_take(sums, m->files[i].name, m->files[i].sum, e);
	return r;
}
