/* name: the names of images on the command line: paths, "file:PATH", NBD exports as "nbd:..." and "nbd+unix:...",
 * and QEMU's options of a block device, which are "json:{...}" or, with --image-opts, "key=value,...". */
#include "img.h"

#include "api/wire/json.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Limits for options, which may come from untrusted input of another program. */
#define OPTIONS_BYTES_MAX (64 * 1024u)
#define OPTIONS_MAX 64
#define DEPTH_MAX 4
#define JSON_DEPTH_MAX 16
#define KEY_BYTES_MAX 128

struct options {
	struct {
		char key[KEY_BYTES_MAX];
		const char *value;
	} list[OPTIONS_MAX];
	unsigned n;
};

static int option_add(struct options *o, const char *key, const char *value, struct err *e)
{
	if (o->n == OPTIONS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "an image has at most %d options", OPTIONS_MAX);
	if (snprintf(o->list[o->n].key, KEY_BYTES_MAX, "%s", key) >= KEY_BYTES_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "an option's name has more than %d bytes", KEY_BYTES_MAX - 1);
	o->list[o->n++].value = value;
	return 0;
}

/* ---- reading the two forms ---- */

/* The text, which is modified, holds the values. */
static int words_read(char *text, struct options *o, struct err *e)
{
	int r = 0;

	for (char *w; !r && (w = img_option_next(&text));) {
		char *eq = strchr(w, '=');

		if (!eq)
			return err_set(e, -EINVAL, ERR_INVALID, "'%s' is not key=value; --image-opts takes options such as "
				"driver=qcow2,file.filename=FILE", w);
		*eq = 0;
		r = option_add(o, w, eq + 1, e);
	}
	return r;
}

/* Where the values of an object go: the memory of its text, which is not needed any more. */
struct room {
	char *at, *end;
};

static int value_add(struct options *o, const char *key, struct json_object *v, struct room *to, struct err *e)
{
	const char *s = json_object_is_type(v, json_type_string) ? js_plain_string(v)
		: json_object_is_type(v, json_type_boolean) ? (json_object_get_boolean(v) ? "on" : "off")
		: json_object_is_type(v, json_type_int) ? json_object_get_string(v) : NULL;
	size_t n = s ? strlen(s) + 1 : 0;

	if (!s || n > (size_t)(to->end - to->at))
		return err_set(e, -EINVAL, ERR_INVALID, "the option '%s' of an image must be a string, a number, true or false",
			key);
	memcpy(to->at, s, n);
	to->at += n;
	return option_add(o, key, to->at - n, e);
}

static int object_read(struct json_object *from, const char *prefix, unsigned depth, struct options *o, struct room *to,
	struct err *e)
{
	if (depth > DEPTH_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "the options of an image are nested more than %d deep", DEPTH_MAX);
	json_object_object_foreach(from, name, v) {
		char key[KEY_BYTES_MAX];
		int r;

		if (snprintf(key, sizeof(key), "%s%s%s", prefix, *prefix ? "." : "", name) >= (int)sizeof(key))
			return err_set(e, -EINVAL, ERR_INVALID, "an option's name has more than %d bytes", KEY_BYTES_MAX - 1);
		if (!v && !strcmp(key, "backing"))
			r = option_add(o, key, "", e);
		else if (json_object_is_type(v, json_type_object))
			r = object_read(v, key, depth + 1, o, to, e);
		else
			r = value_add(o, key, v, to, e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int json_read(char *text, struct options *o, struct err *e)
{
	struct json_tokener *t = json_tokener_new_ex(JSON_DEPTH_MAX);
	struct room to = { text, text + strlen(text) };
	struct json_object *all = NULL;
	int r = t ? 0 : err_set_errno(e, -ENOMEM, "json:");

	/* Like QEMU, accept strings in single quotes, which need no escape in a shell; js_parse() does not. */
	if (t) {
		json_tokener_set_flags(t, JSON_TOKENER_VALIDATE_UTF8);
		all = json_tokener_parse_ex(t, text, (int)strlen(text) + 1);
		if (json_tokener_get_error(t) != json_tokener_success || text[json_tokener_get_parse_end(t)])
			r = err_set(e, -EINVAL, ERR_INVALID, "the text behind json: is not JSON: %s",
				json_tokener_error_desc(json_tokener_get_error(t)));
		json_tokener_free(t);
	}
	if (!r && !json_object_is_type(all, json_type_object))
		r = err_set(e, -EINVAL, ERR_INVALID, "json: takes an object such as "
			"{\"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", \"filename\": \"FILE\"}}");
	if (!r)
		r = object_read(all, "", 1, o, &to, e);
	json_object_put(all);
	return r;
}

/* ---- NBD exports ---- */

/* Where an export is: at a socket, or at a host and port. */
struct export {
	const char *socket, *host, *port, *name; /* NULL: not given */
};

/* Append a text to a URL, with %XX for characters that have a meaning there. */
static void url_escape(FILE *to, const char *text)
{
	for (; *text; text++) {
		bool plain = isalnum((unsigned char)*text) || strchr("-._~/", *text); /* in the locale C, which no one changes */

		fprintf(to, plain ? "%c" : "%%%02X", (unsigned char)*text);
	}
}

static int export_url(struct img_open *o, const struct export *x, struct err *e)
{
	FILE *to = fmemopen(o->url, sizeof(o->url), "w");
	bool named = x->name && *x->name, fits;

	if (!to)
		return err_set_errno(e, -errno, "nbd");
	if (x->socket)
		fputs("nbd+unix://", to);
	else
		fprintf(to, strchr(x->host, ':') ? "nbd://[%s]" : "nbd://%s", x->host);
	if (x->port)
		fprintf(to, ":%s", x->port);
	fputs(named ? "/" : "", to);
	url_escape(to, named ? x->name : "");
	if (x->socket) {
		fputs("?socket=", to);
		url_escape(to, x->socket);
	}
	fputc(0, to);
	fits = !fflush(to) && !ferror(to);
	fclose(to);
	if (!fits)
		return err_set(e, -EINVAL, ERR_INVALID, "the name of an NBD export has more than %d bytes", IMG_URL_BYTES - 1);
	o->protocol = &img_nbd;
	o->path = o->url;
	return 0;
}

static int export_check(const struct export *x, struct err *e)
{
	const char *host_chars = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_:";

	if (x->socket ? x->host || x->port || !*x->socket : !x->host || !*x->host)
		return err_set(e, -EINVAL, ERR_INVALID, "an NBD export is at a socket or at a host; give server.type=unix,"
			"server.path=PATH or server.type=inet,server.host=HOST,server.port=PORT");
	if (x->host && x->host[strspn(x->host, host_chars)])
		return err_set(e, -EINVAL, ERR_INVALID, "'%s' is no name of a host", x->host);
	if (x->port && (!*x->port || strlen(x->port) > 5 || x->port[strspn(x->port, "0123456789")]))
		return err_set(e, -EINVAL, ERR_INVALID, "'%s' is no port; give a number", x->port);
	return 0;
}

/* Take "nbd:unix:PATH" or "nbd:HOST:PORT", each with or without ":exportname=NAME". The text is modified. */
static int export_words(struct img_open *o, char *name, struct err *e)
{
	static const char word[] = ":exportname=";
	char *at = name + 4, *end = strstr(at, word);
	struct export x = { 0 };
	int r;

	if (end) {
		*end = 0;
		x.name = end + strlen(word);
	}
	if (!strncmp(at, "unix:", 5)) {
		x.socket = at + 5;
	} else {
		x.host = *at == '[' ? at + 1 : at;
		end = *at == '[' ? strstr(at, "]:") : strchr(at, ':');
		if (!end)
			return err_set(e, -EINVAL, ERR_INVALID, "'%s': the port is missing; use nbd:HOST:PORT, nbd:unix:PATH or a URL",
				name);
		x.port = end + (*end == ']' ? 2 : 1);
		*end = 0;
	}
	r = export_check(&x, e);
	return r ? r : export_url(o, &x, e);
}

/* Take a URL of NBD. Returns 0; 1: it is none; -errno. */
static int export_take(struct img_open *o, char *name, struct err *e)
{
	if (!strncmp(name, "nbds", 4) && img_has_protocol(name))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "'%s': NBD with TLS is not supported; copy the disk with `nbdcopy`, or "
			"let a server such as nbdkit pass it on without TLS", name);
	if (!strncmp(name, "nbd:", 4) && strncmp(name, "nbd://", 6))
		return export_words(o, name, e);
	if (strncmp(name, "nbd://", 6) && strncmp(name, "nbd+unix://", 11) && strncmp(name, "nbd+tcp://", 10))
		return 1;
	if (strlen(name) >= sizeof(o->url))
		return err_set(e, -EINVAL, ERR_INVALID, "the name of an NBD export has more than %d bytes", IMG_URL_BYTES - 1);
	if (!strncmp(name, "nbd+tcp:", 8))
		snprintf(o->url, sizeof(o->url), "nbd%s", name + 7); /* libnbd lacks the longer name */
	else
		snprintf(o->url, sizeof(o->url), "%s", name);
	o->protocol = &img_nbd;
	o->path = o->url;
	return 0;
}

/* ---- the meaning of the options ---- */

static bool name_is(const char *const *names, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
}

/* Options about speed, and names: they do not change a disk's content. */
static bool option_is_ignored(const char *key)
{
	static const char *const names[] = { "node-name", "aio", "discard", "cache.direct", "cache.no-flush", "cache.writeback",
		"auto-read-only", "cache-size", "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size",
		"cache-clean-interval", "overlap-check", "overlap-check.template", "pass-discard-request", "pass-discard-snapshot",
		"pass-discard-other", "x-check-cache-dropped" };

	return name_is(names, ARRAY_SIZE(names), strncmp(key, "file.", 5) ? key : key + 5);
}

static int flag_parse(const char *key, const char *value, bool *ret, struct err *e)
{
	*ret = !strcmp(value, "on");
	return *ret || !strcmp(value, "off") ? 0 : err_set(e, -EINVAL, ERR_INVALID, "the option %s is on or off, not '%s'", key,
		value);
}

static bool is_file_driver(const char *name)
{
	return !strcmp(name, "file") || !strcmp(name, "host_device");
}

struct meaning {
	const char *driver, *protocol; /* of the image and of its file */
	const char *below_raw;	       /* driver of the file, if `protocol` is raw; NULL: not given */
	bool nested;		       /* an option of the file below `protocol` was given */
	struct json_object *backing;   /* options of the backing file; NULL: none given */
	const char *file, *server_type;
	const char *of_nbd; /* an option of NBD that was given */
	struct export export;
};

/* Returns where the value of an option of an NBD export goes; NULL: it is no such option. */
static const char **export_option(struct meaning *m, const char *key)
{
	const struct {
		const char *key;
		const char **to;
	} list[] = { { "server.type", &m->server_type }, { "server.path", &m->export.socket }, { "server.host", &m->export.host },
		{ "server.port", &m->export.port }, { "path", &m->export.socket }, { "host", &m->export.host },
		{ "port", &m->export.port }, { "export", &m->export.name } };

	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		if (!strcmp(list[i].key, key))
			return list[i].to;
	return NULL;
}

static int locking_take(struct img_open *o, const char *value, struct err *e)
{
	if (!strcmp(value, "on") || !strcmp(value, "auto"))
		return 0;
	if (strcmp(value, "off"))
		return err_set(e, -EINVAL, ERR_INVALID, "the option locking is on, off or auto, not '%s'", value);
	if (o->writable)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "an image is not changed without its lock; leave out locking=off");
	o->no_lock = true;
	return 0;
}

/* Take an option of the backing file or of the data file. key: the whole key. */
static int other_file_take(struct img_open *o, struct meaning *m, const char *key, const char *value, struct err *e)
{
	if (!strcmp(key, "backing") && !*value) {
		o->backing = "";
		return 0;
	}
	if (!strncmp(key, "backing.", 8)) {
		if (!m->backing)
			m->backing = json_object_new_object();
		json_object_object_add(m->backing, key + 8, json_object_new_string(value));
		return 0;
	}
	if (!strcmp(key, "data-file.filename") || !strcmp(key, "data-file.file.filename"))
		o->data_path = value;
	else if (!strcmp(key, "data-file.driver") || !strcmp(key, "data-file.file.driver")) {
		if (!is_file_driver(value) && strcmp(value, "raw"))
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the driver '%s' of a data file is not supported; use file", value);
	} else if (!strcmp(key, "backing") || !strcmp(key, "data-file"))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the option %s cannot name a node ('%s'); use %s.file.filename=FILE%s", key,
			value, key, *key == 'b' ? ", or no value for none" : "");
	else if (!option_is_ignored(key + strlen("data-file.")))
		return err_set(e, -EINVAL, ERR_INVALID, "unknown option '%s' of an image", key);
	return 0;
}

static int range_take(struct img_open *o, const char *key, const char *value, struct err *e)
{
	uint64_t n;
	int r = img_parse_size(value, &n, e);

	if (r < 0)
		return r;
	if (*key == 's' && (n % BLOCK_SECTOR_BYTES || !n))
		return err_set(e, -EINVAL, ERR_INVALID, "the option size must be a multiple of 512, not '%s'", value);
	o->ranged = true;
	*(*key == 's' ? &o->size_bytes : &o->offset) = n;
	return 0;
}

static int option_take(struct img_open *o, struct meaning *m, const char *key, const char *value, struct err *e)
{
	const char *below;
	bool on;
	int r;

	if (!strncmp(key, "file.file.", 10)) {
		m->nested = true;
		key += 5;
		if (!strcmp(key, "file.driver")) {
			m->below_raw = value;
			return 0;
		}
	}
	below = strncmp(key, "file.", 5) ? key : key + 5;
	if (!strcmp(key, "driver"))
		m->driver = value;
	else if (!strcmp(key, "offset") || !strcmp(key, "size"))
		return range_take(o, key, value, e);
	else if (!strcmp(key, "file.driver"))
		m->protocol = value;
	else if (!strcmp(below, "filename"))
		m->file = value;
	else if (!strcmp(below, "locking"))
		return locking_take(o, value, e);
	else if (!strcmp(key, "file"))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the option file cannot name a node ('%s'); use file.filename=FILE",
			value);
	else if (!strncmp(key, "backing", 7) || !strncmp(key, "data-file", 9))
		return other_file_take(o, m, key, value, e);
	else if (!strncmp(key, "encrypt.", 8))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "encrypted images are not supported; use qemu-img");
	else if (!strcmp(below, "read-only") || !strcmp(below, "force-share") || !strcmp(below, "detect-zeroes")) {
		r = flag_parse(key, value, &on, e);
		if (!r && on && (o->writable || !strcmp(below, "detect-zeroes")))
			r = err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the option %s=on is not supported here", key);
		o->no_lock |= on && !strcmp(below, "force-share");
		return r;
	} else if (export_option(m, below)) {
		*export_option(m, below) = value;
		m->of_nbd = key;
	} else if (!strcmp(below, "x-dirty-bitmap")) {
		if (!o->takes_context)
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "only `map` takes the option x-dirty-bitmap, because it hides what "
				"the disk has");
		o->context = value;
		m->of_nbd = key;
	} else if (!strncmp(below, "tls-", 4))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "NBD with TLS (%s) is not supported; copy the disk with `nbdcopy`", key);
	else if (!option_is_ignored(key))
		return err_set(e, -EINVAL, ERR_INVALID, "unknown option '%s' of an image", key);
	return 0;
}

static int meaning_nbd(struct img_open *o, const struct meaning *m, struct err *e)
{
	const char *type = m->server_type;
	int r;

	if (m->file)
		return err_set(e, -EINVAL, ERR_INVALID, "the driver nbd takes no filename; give server.path or server.host, and export");
	if (type && strcmp(type, m->export.socket ? "unix" : "inet"))
		return err_set(e, -EINVAL, ERR_INVALID, "server.type is unix, with server.path, or inet, with server.host and "
			"server.port, not '%s'", type);
	r = export_check(&m->export, e);
	return r ? r : export_url(o, &m->export, e);
}

static int meaning_take(struct img_open *o, const struct meaning *m, struct err *e)
{
	bool raw_between = m->protocol && !strcmp(m->protocol, "raw");
	const char *protocol = raw_between ? m->below_raw : m->protocol;
	bool nbd = !strcmp(protocol ? protocol : m->driver && !raw_between ? m->driver : "", "nbd");
	enum block_format f = BLOCK_FORMAT_RAW;
	int r = 0;

	if (raw_between != m->nested)
		return err_set(e, -EINVAL, ERR_INVALID, "options of file.file need file.driver=raw, which needs file.file.filename");
	if (protocol && !nbd && !is_file_driver(protocol))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the driver '%s' of a file is not supported; use file, "
			"host_device or nbd", protocol);
	if (m->driver && (is_file_driver(m->driver) || !strcmp(m->driver, "nbd")))
		o->format = "raw";
	else if (m->driver) {
		r = img_format_parse(m->driver, &f, e);
		o->format = m->driver;
	}
	if (!r && o->ranged && (!m->driver || strcmp(m->driver, "raw")))
		r = err_set(e, -EINVAL, ERR_INVALID, "the options offset and size need driver=raw");
	if (!r && (o->backing || o->data_path || m->backing) && f != BLOCK_FORMAT_QCOW2)
		r = err_set(e, -EINVAL, ERR_INVALID, "only driver=qcow2 has the options backing and data-file");
	if (r < 0 || nbd)
		return r < 0 ? r : meaning_nbd(o, m, e);
	if (m->of_nbd)
		return err_set(e, -EINVAL, ERR_INVALID, "the option %s needs driver=nbd", m->of_nbd);
	if (o->path && !m->file)
		return 0; /* the caller knows the file */
	if (!m->file || !*m->file)
		r = err_set(e, -EINVAL, ERR_INVALID, "the options of an image need file.filename, the name of its file");
	o->path = m->file;
	return r;
}

/* Keep the options of the backing file, which are taken when it is opened. */
static int backing_keep(struct img_open *o, struct json_object *options, struct err *e)
{
	if (o->backing)
		return err_set(e, -EINVAL, ERR_INVALID, "the option backing and options of the backing file exclude each other");
	if (snprintf(o->backing_text, sizeof(o->backing_text), "json:%s", json_object_to_json_string_ext(options,
		JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)) >= (int)sizeof(o->backing_text))
		return err_set(e, -EINVAL, ERR_INVALID, "the options of the backing file have more than %d bytes", IMG_URL_BYTES - 1);
	o->backing = o->backing_text;
	o->take = img_backing_name;
	return 0;
}

static int options_mean(struct img_open *o, const struct options *from, struct err *e)
{
	struct meaning m = { 0 };
	int r = 0;

	for (unsigned i = 0; i < from->n && !r; i++)
		r = option_take(o, &m, from->list[i].key, from->list[i].value, e);
	if (!r)
		r = meaning_take(o, &m, e);
	if (!r && m.backing)
		r = backing_keep(o, m.backing, e);
	json_object_put(m.backing);
	return r;
}

/* ---- names ---- */

static int options_name(struct img_open *o, char *name, bool as_json, struct err *e)
{
	struct options *from;
	int r;

	if (o->format)
		return err_set(e, -EINVAL, ERR_INVALID, "-f and options of the image exclude each other; use driver");
	if (strlen(name) > OPTIONS_BYTES_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "the options of an image have more than %u bytes", OPTIONS_BYTES_MAX);
	from = calloc(1, sizeof(*from));
	if (!from)
		return err_set_errno(e, -ENOMEM, "options");
	r = as_json ? json_read(name + 5, from, e) : words_read(name, from, e);
	if (!r)
		r = options_mean(o, from, e);
	free(from);
	return r;
}

int img_name_take(struct img_open *o, char *name, bool image_opts, struct err *e)
{
	if (image_opts || !strncmp(name, "json:", 5))
		return options_name(o, name, !image_opts, e);
	if (!strncmp(name, "nbd", 3)) {
		int r = export_take(o, name, e);

		if (r <= 0)
			return r;
	}
	o->path = img_name_path(name);
	if (img_has_protocol(o->path) && o->path == name && access(name, F_OK) < 0)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the protocol of '%s' is not supported; give a file, or a block device "
			"that `nbd-client` or nbdkit serves", name);
	return 0;
}

int img_backing_name(struct img_open *o, char *name, struct err *e)
{
	const char *format = o->format;
	int r;

	o->format = NULL;
	r = img_name_take(o, name, false, e);
	if (format)
		o->format = format;
	return r;
}

int img_backing_take(struct img_open *o, const char *image, const char *name, char *path, struct err *e)
{
	o->allow[0] = "/";
	o->nallow = 1;
	if (!img_is_no_path(name)) {
		img_path_beside(image, name, path, 2 * PATH_MAX);
		o->path = path;
		return 0;
	}
	if (snprintf(path, 2 * PATH_MAX, "%s", name) >= 2 * PATH_MAX)
		return err_set_errno(e, -ENAMETOOLONG, "%s", name);
	return img_backing_name(o, path, e);
}

int img_common_name(struct img_common *x, struct img_open *o, char *name)
{
	struct err e;

	if (img_name_take(o, name, x->image_opts, &e) < 0)
		return img_fail(&e);
	img_sandbox_image(o);
	return 0;
}
