/* From JSON to struct definition: one table of keys per object; the engine below walks an
 * object beside its table and names the key in every sentence. */
#include "api/definition.h"
#include "api/js.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct parse {
	struct definition *d;
	const char *folder;
	struct err *e;
	char path[128]; /* "disks[0].backing[1].format" */
	unsigned seen;	/* disks parsed so far */
};

enum key_kind {
	KEY_BOOL,    /* bool */
	KEY_NUMBER,  /* uint32_t in [min, max] */
	KEY_NUMBER16,
	KEY_CHOICE,  /* uint8_t, one of names */
	KEY_TEXT,    /* char *, one line of at most max bytes */
	KEY_PATH,    /* char *, made absolute */
	KEY_CUSTOM,
};

struct choice {
	const char *name;
	uint8_t value;
};

struct key {
	const char *name;
	enum key_kind kind;
	size_t offset;
	uint32_t min, max;
	const struct choice *choices;
	int (*parse)(struct parse *p, struct json_object *v, void *into);
};

static const struct choice formats[] = { { "raw", DEFINITION_FORMAT_RAW },
	{ "qcow2", DEFINITION_FORMAT_QCOW2 }, { NULL, 0 } };
static const struct choice error_policies[] = { { "report", VM_ERRORS_REPORT },
	{ "stop", VM_ERRORS_STOP }, { "ignore", VM_ERRORS_IGNORE }, { NULL, 0 } };
static const struct choice assists[] = { { "auto", VM_ASSIST_AUTO }, { "on", VM_ASSIST_ON },
	{ "off", VM_ASSIST_OFF }, { NULL, 0 } };
static const struct choice actions[] = { { "destroy", VM_ACTION_DESTROY },
	{ "restart", VM_ACTION_RESTART }, { "preserve", VM_ACTION_PRESERVE }, { NULL, 0 } };

/* ---- sentences ---- */

static int key_error(struct parse *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int key_error(struct parse *p, const char *fmt, ...)
{
	char why[ERR_SENTENCE_MAX - sizeof(p->path) - 2];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return err_set(p->e, -EINVAL, ERR_INVALID, "%s%s%s", p->path, p->path[0] ? ": " : "", why);
}

static size_t path_push(struct parse *p, const char *key)
{
	size_t had = strlen(p->path);

	snprintf(p->path + had, sizeof(p->path) - had, "%s%.40s", had ? "." : "", key);
	return had;
}

static size_t path_push_index(struct parse *p, size_t i)
{
	size_t had = strlen(p->path);

	snprintf(p->path + had, sizeof(p->path) - had, "[%zu]", i);
	return had;
}

static int unknown_key(struct parse *p, const char *name, const struct key *keys, size_t nkeys)
{
	char known[256];
	size_t n = 0;

	known[0] = 0;
	for (size_t i = 0; i < nkeys && n < sizeof(known); i++)
		n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "",
			keys[i].name);
	return key_error(p, "\"%.40s\" is not a key%s; known here: %s", name,
		p->path[0] ? "" : " of a definition", known);
}

/* A quoted sample of what was given, safe to print. */
static void quote(const char *s, char out[48])
{
	size_t n = 0;

	for (; *s && n < 40; s++)
		out[n++] = (unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s;
	snprintf(out + n, 48 - n, "%s", *s ? "..." : "");
}

/* ---- values ---- */

static const char *text_value(struct parse *p, struct json_object *v, size_t max)
{
	const char *s = js_plain_string(v);

	if (!json_object_is_type(v, json_type_string)) {
		key_error(p, "must be a string, not %s", js_type_words(v));
		return NULL;
	}
	if (!s) {
		key_error(p, "must not have a NUL inside");
		return NULL;
	}
	if (strlen(s) > max) {
		key_error(p, "is %zu bytes long; at most %zu", strlen(s), max);
		return NULL;
	}
	return s;
}

static int value_keep(struct parse *p, const char *s, char **into)
{
	char *copy = strdup(s);

	if (!copy)
		return err_set_errno(p->e, -ENOMEM, "definition");
	free(*into);
	*into = copy;
	return 0;
}

static int parse_text(struct parse *p, struct json_object *v, const struct key *k, char **into)
{
	const char *s = text_value(p, v, k->max);

	if (!s)
		return -EINVAL;
	for (const char *c = s; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			return key_error(p, "must be one line without control characters");
	return value_keep(p, s, into);
}

static int parse_path(struct parse *p, struct json_object *v, char **into)
{
	const char *s = text_value(p, v, PATH_MAX - 1);
	char full[PATH_MAX];
	int n;

	if (!s)
		return -EINVAL;
	if (!*s)
		return key_error(p, "is empty; give the path of a file");
	if (*s == '/')
		return value_keep(p, s, into);
	if (!p->folder)
		return key_error(p, "must be an absolute path");
	n = snprintf(full, sizeof(full), "%s%s%s", p->folder,
		p->folder[strlen(p->folder) - 1] == '/' ? "" : "/", s);
	if (n >= (int)sizeof(full))
		return key_error(p, "is too long a path");
	return value_keep(p, full, into);
}

static int parse_choice(struct parse *p, struct json_object *v, const struct key *k, uint8_t *into)
{
	const char *s = text_value(p, v, 255);
	char names[128], given[48];
	size_t n = 0;

	if (!s)
		return -EINVAL;
	names[0] = 0;
	for (const struct choice *c = k->choices; c->name; c++) {
		if (!strcmp(c->name, s)) {
			*into = c->value;
			return 0;
		}
		n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s",
			!n ? "" : c[1].name ? ", " : " or ", c->name);
	}
	quote(s, given);
	return key_error(p, "\"%s\" is not %s; use %s", given,
		k->choices == formats ? "a disk format" : "one of the choices", names);
}

static int parse_number(struct parse *p, struct json_object *v, const struct key *k,
	uint32_t *ret_n)
{
	int64_t n;

	if (!json_object_is_type(v, json_type_int))
		return key_error(p, "must be a whole number from %u to %u, not %s", k->min, k->max,
			js_type_words(v));
	n = json_object_get_int64(v);
	if (n < (int64_t)k->min || n > (int64_t)k->max)
		return key_error(p, "%lld is out of range; give %u to %u", (long long)n, k->min,
			k->max);
	*ret_n = (uint32_t)n;
	return 0;
}

static int parse_value(struct parse *p, struct json_object *v, const struct key *k, void *base)
{
	void *into = (char *)base + k->offset;
	uint32_t n = 0;
	int r;

	switch (k->kind) {
	case KEY_BOOL:
		if (!json_object_is_type(v, json_type_boolean))
			return key_error(p, "must be true or false, not %s", js_type_words(v));
		*(bool *)into = json_object_get_boolean(v);
		return 0;
	case KEY_NUMBER:
		return parse_number(p, v, k, into);
	case KEY_NUMBER16:
		r = parse_number(p, v, k, &n);
		if (!r)
			*(uint16_t *)into = (uint16_t)n;
		return r;
	case KEY_CHOICE:
		return parse_choice(p, v, k, into);
	case KEY_TEXT:
		return parse_text(p, v, k, into);
	case KEY_PATH:
		return parse_path(p, v, into);
	case KEY_CUSTOM:
		return k->parse(p, v, into);
	}
	return -EINVAL;
}

static const struct key *key_find(const struct key *keys, size_t nkeys, const char *name)
{
	for (size_t i = 0; i < nkeys; i++)
		if (!strcmp(keys[i].name, name))
			return &keys[i];
	return NULL;
}

static int parse_object(struct parse *p, struct json_object *o, const struct key *keys,
	size_t nkeys, void *base)
{
	if (!json_object_is_type(o, json_type_object))
		return key_error(p, "%s an object in braces, not %s",
			p->path[0] ? "must be" : "a definition is", js_type_words(o));
	json_object_object_foreach(o, name, v)
	{
		const struct key *k = key_find(keys, nkeys, name);
		size_t had;
		int r;

		if (!k)
			return unknown_key(p, name, keys, nkeys);
		had = path_push(p, name);
		r = parse_value(p, v, k, base);
		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	return 0;
}

/* ---- single keys ---- */

static int parse_version(struct parse *p, struct json_object *v, void *into)
{
	(void)into;
	if (!json_object_is_type(v, json_type_int))
		return key_error(p, "must be the number %d, not %s", DEFINITION_VERSION,
			js_type_words(v));
	if (json_object_get_int64(v) != DEFINITION_VERSION)
		return key_error(p, "%lld is not known; this Cairn writes and reads %d",
			(long long)json_object_get_int64(v), DEFINITION_VERSION);
	return 0;
}

int definition_check_name(const char *name, struct err *e)
{
	size_t len = strlen(name);

	if (!len)
		return err_set(e, -EINVAL, ERR_INVALID, "is empty; give 1 to %d bytes", VM_NAME_MAX);
	if (len > VM_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "is %zu bytes long; at most %d", len,
			VM_NAME_MAX);
	if (strchr(name, '/'))
		return err_set(e, -EINVAL, ERR_INVALID, "must not have a \"/\"");
	if (name[0] == '.' || name[0] == '-')
		return err_set(e, -EINVAL, ERR_INVALID, "must not begin with \"%c\"", name[0]);
	for (; *name; name++)
		if ((unsigned char)*name < 0x20 || *name == 0x7f)
			return err_set(e, -EINVAL, ERR_INVALID, "must not have control characters");
	return 0;
}

static int parse_name(struct parse *p, struct json_object *v, void *into)
{
	const char *s = text_value(p, v, 64 * 1024);
	struct err why;

	if (!s)
		return -EINVAL;
	if (definition_check_name(s, &why) < 0)
		return key_error(p, "%s", why.msg);
	snprintf(into, VM_NAME_MAX + 1, "%s", s);
	return 0;
}

static int parse_uuid(struct parse *p, struct json_object *v, void *into)
{
	const char *s = text_value(p, v, 255);
	char given[48];

	if (!s)
		return -EINVAL;
	quote(s, given);
	if (uuid_parse(s, into) < 0)
		return key_error(p,
			"\"%s\" is not a UUID such as 2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11", given);
	if (!definition_has_uuid(p->d))
		return key_error(p, "must not be all zeros; leave it out and one is made");
	return 0;
}

/* "128M", "2GiB", or a number of MiB. Saturates instead of wrapping. */
static int size_from_text(const char *s, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	uint64_t n = 0;
	const char *u;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	for (; isdigit((unsigned char)*s); s++)
		n = n > UINT64_MAX / 100 ? n : n * 10 + (uint64_t)(*s - '0');
	u = *s ? strchr(units, toupper((unsigned char)*s)) : &units[1];
	if (!u)
		return -EINVAL;
	if (*s && strcmp(s + 1, "") && strcmp(s + 1, "iB") && strcmp(s + 1, "B"))
		return -EINVAL;
	for (long i = 0; i <= u - units; i++)
		n = n > UINT64_MAX / 1024 ? UINT64_MAX : n * 1024;
	*ret_bytes = n;
	return 0;
}

static int parse_memory(struct parse *p, struct json_object *v, void *into)
{
	uint64_t bytes;
	const char *text = js_plain_string(v);
	char given[48];

	if (json_object_is_type(v, json_type_int)) {
		int64_t n = json_object_get_int64(v);

		if (n < 0)
			return key_error(p, "must not be negative");
		text = NULL;
		bytes = n > (int64_t)(UINT64_MAX / (2 * MIB)) ? UINT64_MAX : (uint64_t)n * MIB;
	} else if (!text) {
		return key_error(p, "must be a size such as \"512M\" or a number of MiB, not %s",
			js_type_words(v));
	} else if (size_from_text(text, &bytes) < 0) {
		quote(text, given);
		return key_error(p, "\"%s\" is not a size; use \"512M\", \"2G\" or a number of MiB",
			given);
	}
	quote(json_object_get_string(v), given);
	if (bytes < VM_RAM_MIN_BYTES)
		return key_error(p, "%s is too little; give at least 1 MiB", given);
	if (bytes > VM_RAM_MAX_BYTES)
		return key_error(p, "%s is too much; at most 1 TiB", given);
	if (bytes % 4096)
		return key_error(p, "%s is not a multiple of 4 KiB", given);
	*(uint64_t *)into = bytes;
	return 0;
}

static int parse_topology(struct parse *p, struct json_object *v, void *into)
{
	static const struct key keys[] = {
		{ "sockets", KEY_NUMBER, offsetof(struct definition, sockets), 1, VM_VCPUS_MAX, NULL,
			NULL },
		{ "cores", KEY_NUMBER, offsetof(struct definition, cores), 1, VM_VCPUS_MAX, NULL,
			NULL },
		{ "threads", KEY_NUMBER, offsetof(struct definition, threads), 1, 2, NULL, NULL },
	};

	p->d->sockets = p->d->cores = p->d->threads = 1;
	return parse_object(p, v, keys, ARRAY_SIZE(keys), into);
}

static int parse_boot(struct parse *p, struct json_object *v, void *into)
{
	static const struct key keys[] = {
		{ "kernel", KEY_PATH, offsetof(struct definition, kernel), 0, 0, NULL, NULL },
		{ "initrd", KEY_PATH, offsetof(struct definition, initrd), 0, 0, NULL, NULL },
		{ "cmdline", KEY_TEXT, offsetof(struct definition, cmdline), 0, VM_CMDLINE_MAX, NULL,
			NULL },
	};

	return parse_object(p, v, keys, ARRAY_SIZE(keys), into);
}

static int parse_console(struct parse *p, struct json_object *v, void *into)
{
	static const struct key keys[] = { { "virtio", KEY_BOOL,
		offsetof(struct definition, virtio_console), 0, 0, NULL, NULL } };

	return parse_object(p, v, keys, ARRAY_SIZE(keys), into);
}

/* ---- disks ---- */

static int parse_disk_id(struct parse *p, struct json_object *v, void *into)
{
	const char *s = text_value(p, v, 255);

	if (!s)
		return -EINVAL;
	if (!*s || strlen(s) > 15)
		return key_error(p, "must have 1 to 15 characters");
	for (const char *c = s; *c; c++)
		if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_')
			return key_error(p, "may have letters, digits, \"-\" and \"_\" only");
	snprintf(into, 16, "%s", s);
	return 0;
}

static int parse_serial(struct parse *p, struct json_object *v, void *into)
{
	const char *s = text_value(p, v, 255);

	if (!s)
		return -EINVAL;
	if (strlen(s) > 20)
		return key_error(p, "is %zu characters long; at most 20 reach the guest", strlen(s));
	for (const char *c = s; *c; c++)
		if (*c < 0x20 || *c > 0x7e)
			return key_error(p, "must be printable ASCII");
	snprintf(into, 24, "%s", s);
	return 0;
}

static int parse_layer(struct parse *p, struct json_object *v, struct definition_layer *l)
{
	static const struct key keys[] = {
		{ "path", KEY_PATH, offsetof(struct definition_layer, path), 0, 0, NULL, NULL },
		{ "format", KEY_CHOICE, offsetof(struct definition_layer, format), 0, 0, formats,
			NULL },
		{ "data_file", KEY_PATH, offsetof(struct definition_layer, data_file), 0, 0, NULL,
			NULL },
	};
	int r = parse_object(p, v, keys, ARRAY_SIZE(keys), l);

	if (r < 0)
		return r;
	if (!l->path)
		return key_error(p, "path is missing; give the path of the image");
	if (!l->format)
		return key_error(p, "format is missing; it is stated, never guessed: raw or qcow2");
	return 0;
}

static int parse_backing(struct parse *p, struct json_object *v, void *into)
{
	struct definition_disk *disk = into;
	size_t n;

	if (!json_object_is_type(v, json_type_array))
		return key_error(p, "must be an array of {path, format}, the nearest layer first");
	n = json_object_array_length(v);
	if (n > VM_DISK_LAYERS_MAX - 1)
		return key_error(p, "has %zu layers; at most %d", n, VM_DISK_LAYERS_MAX - 1);
	for (size_t i = 0; i < n; i++) {
		size_t had = path_push_index(p, i);
		int r = parse_layer(p, json_object_array_get_idx(v, i), &disk->layers[i + 1]);

		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	disk->nlayers = (uint16_t)(n + 1);
	return 0;
}

#define DISK(field) offsetof(struct definition_disk, field)
static const struct key disk_keys[] = {
	{ "id", KEY_CUSTOM, DISK(id), 0, 0, NULL, parse_disk_id },
	{ "path", KEY_PATH, DISK(layers[0].path), 0, 0, NULL, NULL },
	{ "format", KEY_CHOICE, DISK(layers[0].format), 0, 0, formats, NULL },
	{ "data_file", KEY_PATH, DISK(layers[0].data_file), 0, 0, NULL, NULL },
	{ "readonly", KEY_BOOL, DISK(read_only), 0, 0, NULL, NULL },
	{ "serial", KEY_CUSTOM, DISK(serial), 0, 0, NULL, parse_serial },
	{ "queues", KEY_NUMBER16, DISK(queues), 0, 8, NULL, NULL },
	{ "queue_size", KEY_NUMBER16, DISK(queue_size), 0, 1024, NULL, NULL },
	{ "errors", KEY_CHOICE, DISK(error_policy), 0, 0, error_policies, NULL },
	{ "backing", KEY_CUSTOM, 0, 0, 0, NULL, parse_backing },
};

static int check_disk(struct parse *p, size_t i)
{
	struct definition_disk *d = &p->d->disks[i];

	if (!d->layers[0].path)
		return key_error(p, "path is missing; give the path of the image");
	if (!d->layers[0].format)
		return key_error(p, "format is missing; it is stated, never guessed: raw or qcow2");
	if (d->queue_size && (d->queue_size < 2 || !is_power_of_two(d->queue_size)))
		return key_error(p, "queue_size: %u is not a power of two from 2 to 1024",
			d->queue_size);
	for (unsigned k = 0; k + 1 < d->nlayers; k++)
		if (d->layers[k].format == DEFINITION_FORMAT_RAW)
			return key_error(p, "backing: a raw image has no backing layer; "
					    "format would have to be qcow2");
	for (unsigned k = 0; k < d->nlayers; k++)
		if (d->layers[k].data_file && d->layers[k].format == DEFINITION_FORMAT_RAW)
			return key_error(p, "data_file: a raw image is its own data; format would have "
					    "to be qcow2");
	if (!d->id[0])
		snprintf(d->id, sizeof(d->id), "vd%c", (char)('a' + i));
	return 0;
}

/* Ids are given out by position, so they are compared once all are known. */
static int check_disks(struct parse *p)
{
	const struct definition_disk *d = p->d->disks;

	for (unsigned i = 0; i < p->d->ndisks; i++)
		for (unsigned k = 0; k < i; k++) {
			if (!strcmp(d[i].id, d[k].id))
				return key_error(p, "disks[%u].id: \"%s\" is the id of disks[%u] too",
					i, d[i].id, k);
			if (!strcmp(d[i].layers[0].path, d[k].layers[0].path) &&
				!(d[i].read_only && d[k].read_only))
				return key_error(p,
					"disks[%u].path: is the image of disks[%u] too; two disks "
					"can share one only when both are readonly", i, k);
		}
	return 0;
}

static int parse_disks(struct parse *p, struct json_object *v, void *into)
{
	size_t n;

	(void)into;
	if (!json_object_is_type(v, json_type_array))
		return key_error(p, "must be an array of disks, not %s", js_type_words(v));
	n = json_object_array_length(v);
	if (n > VM_DISKS_MAX)
		return key_error(p, "has %zu disks; at most %d", n, VM_DISKS_MAX);
	p->d->disks = calloc(n + 1, sizeof(*p->d->disks));
	if (!p->d->disks)
		return err_set_errno(p->e, -ENOMEM, "definition");
	p->d->ndisks = (uint32_t)n;
	for (size_t i = 0; i < n; i++) {
		size_t had = path_push_index(p, i);
		int r;

		p->d->disks[i].nlayers = 1;
		/* A guest that is told of a full disk loses what it meant to write. */
		p->d->disks[i].error_policy = VM_ERRORS_STOP;
		r = parse_object(p, json_object_array_get_idx(v, i), disk_keys,
			ARRAY_SIZE(disk_keys), &p->d->disks[i]);
		if (!r)
			r = check_disk(p, i);
		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	return 0;
}

/* ---- the whole ---- */

#define DEF(field) offsetof(struct definition, field)
static const struct key top_keys[] = {
	{ "version", KEY_CUSTOM, 0, 0, 0, NULL, parse_version },
	{ "name", KEY_CUSTOM, DEF(name), 0, 0, NULL, parse_name },
	{ "uuid", KEY_CUSTOM, DEF(uuid), 0, 0, NULL, parse_uuid },
	{ "title", KEY_TEXT, DEF(title), 0, 255, NULL, NULL },
	{ "description", KEY_TEXT, DEF(description), 0, 4096, NULL, NULL },
	{ "memory", KEY_CUSTOM, DEF(ram_bytes), 0, 0, NULL, parse_memory },
	{ "hugepages", KEY_BOOL, DEF(huge_pages), 0, 0, NULL, NULL },
	{ "vcpus", KEY_NUMBER, DEF(vcpus), 1, VM_VCPUS_MAX, NULL, NULL },
	{ "topology", KEY_CUSTOM, 0, 0, 0, NULL, parse_topology },
	{ "boot", KEY_CUSTOM, 0, 0, 0, NULL, parse_boot },
	{ "disks", KEY_CUSTOM, 0, 0, 0, NULL, parse_disks },
	{ "console", KEY_CUSTOM, 0, 0, 0, NULL, parse_console },
	{ "guest_agent", KEY_BOOL, DEF(guest_agent), 0, 0, NULL, NULL },
	{ "rng", KEY_BOOL, DEF(rng), 0, 0, NULL, NULL },
	{ "debug_exit", KEY_BOOL, DEF(debug_exit), 0, 0, NULL, NULL },
	{ "assist", KEY_CHOICE, DEF(assist), 0, 0, assists, NULL },
	{ "on_poweroff", KEY_CHOICE, DEF(on_poweroff), 0, 0, actions, NULL },
	{ "on_reboot", KEY_CHOICE, DEF(on_reboot), 0, 0, actions, NULL },
	{ "on_crash", KEY_CHOICE, DEF(on_crash), 0, 0, actions, NULL },
	{ "shutdown_deadline", KEY_NUMBER, DEF(shutdown_deadline_s), 1, 86400, NULL, NULL },
};

static int check_whole(struct parse *p)
{
	const struct definition *d = p->d;

	if (!d->name[0])
		return key_error(p, "name: is missing; give the VM a name");
	if (!d->ram_bytes)
		return key_error(p, "memory: is missing; give a size such as \"512M\"");
	if (!d->kernel)
		return key_error(p, "boot: nothing to start; give boot.kernel");
	if (d->sockets && d->sockets * d->cores * d->threads != d->vcpus)
		return key_error(p, "topology: %u sockets of %u cores of %u threads are %u, vcpus is %u",
			d->sockets, d->cores, d->threads, d->sockets * d->cores * d->threads,
			d->vcpus);
	return check_disks(p);
}

static void definition_free_p(struct definition **d)
{
	definition_free(*d);
}

int definition_parse(struct json_object *o, const char *folder, struct definition **ret_d,
	struct err *e)
{
	struct definition *d CLEANUP(definition_free_p) = calloc(1, sizeof(*d));
	struct parse p = { .d = d, .folder = folder && folder[0] == '/' ? folder : NULL, .e = e };
	int r;

	if (!d)
		return err_set_errno(e, -ENOMEM, "definition");
	d->vcpus = 1;
	d->on_reboot = VM_ACTION_RESTART;
	d->shutdown_deadline_s = 30;
	r = parse_object(&p, o, top_keys, ARRAY_SIZE(top_keys), d);
	if (r < 0)
		return r;
	p.path[0] = 0;
	r = check_whole(&p);
	if (r < 0)
		return r;
	*ret_d = STEAL_PTR(d);
	return 0;
}

void definition_free(struct definition *d)
{
	if (!d)
		return;
	for (unsigned i = 0; i < d->ndisks; i++)
		for (unsigned k = 0; k < VM_DISK_LAYERS_MAX; k++) {
			free(d->disks[i].layers[k].path);
			free(d->disks[i].layers[k].data_file);
		}
	free(d->disks);
	free(d->title);
	free(d->description);
	free(d->kernel);
	free(d->initrd);
	free(d->cmdline);
	free(d->rights);
	free(d);
}
