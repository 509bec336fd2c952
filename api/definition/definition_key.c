/* Walks a JSON object along its table of keys. Every error names the path to the key. */
#include "api/definition/definition_key.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/size.h"
#include "base/suggest.h"
#include "base/utf8.h"
#include "base/util.h"
#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- paths and errors ---- */

int key_error(struct parse *p, const char *fmt, ...)
{
	char why[ERR_SENTENCE_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return err_set(p->e, -EINVAL, ERR_INVALID, "%s%s%s", p->path, p->path[0] ? ": " : "", why);
}

/* Append a key to p->path. Returns as key_push_index(). */
static size_t key_push(struct parse *p, const char *key)
{
	size_t had = strlen(p->path);

	snprintf(p->path + had, sizeof(p->path) - had, "%s%.40s", had ? "." : "", key);
	return had;
}

size_t key_push_index(struct parse *p, size_t i)
{
	size_t had = strlen(p->path);

	snprintf(p->path + had, sizeof(p->path) - had, "[%zu]", i);
	return had;
}

static const char *key_name_at(const void *opaque, size_t i)
{
	const struct keys *keys = opaque;

	return i < keys->n ? keys->list[i].name : NULL;
}

int key_newer_error(const struct parse *p, int r)
{
	if (p->stored && p->e)
		p->e->cls = ERR_UNSUPPORTED;
	return r;
}

#define KNOWN_KEYS_MAX 320 /* bytes: behind a longer list nobody sees what is wrong */

static int unknown_key(struct parse *p, const char *name, const struct keys *keys)
{
	const char *meant = suggest_word(name, key_name_at, keys);
	char known[KNOWN_KEYS_MAX], hint[80] = "";
	size_t n = 0, i;

	for (i = 0; i < keys->n && n + strlen(keys->list[i].name) + sizeof(", , ...") <= sizeof(known); i++)
		n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", keys->list[i].name);
	snprintf(known + n, sizeof(known) - n, "%s", i < keys->n ? ", ..." : "");
	if (meant)
		snprintf(hint, sizeof(hint), " (did you mean \"%.40s\"?)", meant);
	return key_newer_error(p, key_error(p, "\"%.40s\" is not a key%s%s; known here: %s", name, p->path[0] ? "" : " of a definition", hint, known));
}

void key_quote(const char *s, char out[48])
{
	size_t n = 0;

	for (; *s && n < 40; s++)
		out[n++] = *s;
	snprintf(out + n, 48 - n, "%s", *s ? "..." : "");
	utf8_clean(out);
}

/* ---- parsing values ---- */

const char *key_text(struct parse *p, struct json_object *v, size_t max)
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

/* Check that a text has no control character, since terminals would obey it. A stored text may have some: older daemons
 * accepted them. Returns 0; -EINVAL: the error is set. */
static int key_check_clean(struct parse *p, const char *s)
{
	if (p->stored || utf8_is_clean(s))
		return 0;
	return key_error(p, "must be one line without control characters");
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
	const char *s = key_text(p, v, k->max);

	if (!s)
		return -EINVAL;
	return key_check_clean(p, s) < 0 ? -EINVAL : value_keep(p, s, into);
}

static int parse_path(struct parse *p, struct json_object *v, char **into)
{
	const char *s = key_text(p, v, PATH_MAX - 1);
	char full[PATH_MAX];
	int n;

	if (!s)
		return -EINVAL;
	if (!*s)
		return key_error(p, "is empty; give the path of a file");
	if (key_check_clean(p, s) < 0)
		return -EINVAL;
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
	const char *s = key_text(p, v, 255);
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
	key_quote(s, given);
	return key_newer_error(p, key_error(p, "\"%s\" is not %s; use %s", given, k->noun ? k->noun : "one of the choices", names));
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

int key_parse_id(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 255);

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

int key_parse_uuid(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 255);
	char given[48];

	if (!s)
		return -EINVAL;
	key_quote(s, given);
	if (uuid_parse(s, into) < 0)
		return key_error(p, "\"%s\" is not a UUID such as 2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11", given);
	if (!uuid_is_set(into))
		return key_error(p, "must not be all zeros; omit it to have one generated");
	return 0;
}

int key_parse_memory(struct parse *p, struct json_object *v, void *into)
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
	} else if (size_parse(text, MIB, &bytes) == -EINVAL) {
		key_quote(text, given);
		return key_error(p, "\"%s\" is not a size; use \"512M\", \"2G\" or a number of MiB",
			given);
	}
	key_quote(json_object_get_string(v), given);
	if (bytes < VM_RAM_MIN_BYTES)
		return key_error(p, "%s is too little; give at least 1 MiB", given);
	if (bytes > VM_RAM_MAX_BYTES)
		return key_error(p, "%s is too much; at most 1 TiB", given);
	if (bytes % 4096)
		return key_error(p, "%s is not a multiple of 4 KiB", given);
	*(uint64_t *)into = bytes;
	return 0;
}

void key_put_memory(struct json_object *o, const char *key, uint64_t bytes)
{
	char text[24];

	if (bytes % MIB)
		snprintf(text, sizeof(text), "%lluK", (unsigned long long)(bytes / KIB));
	else
		snprintf(text, sizeof(text), "%lluM", (unsigned long long)(bytes / MIB));
	js_put_str(o, key, text);
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
	case KEY_OBJECT:
		r = k->parse ? k->parse(p, v, into) : 0;
		return r < 0 ? r : keys_parse(p, v, k->of, into);
	case KEY_OBJECT_OWNED:
	case KEY_ARRAY:
	case KEY_LIST:
	case KEY_CUSTOM:
		return k->parse(p, v, into);
	}
	return -EINVAL;
}

static const struct key *key_find(const struct keys *keys, const char *name)
{
	for (size_t i = 0; i < keys->n; i++)
		if (!strcmp(keys->list[i].name, name))
			return &keys->list[i];
	return NULL;
}

int keys_parse(struct parse *p, struct json_object *o, const struct keys *keys, void *base)
{
	if (!json_object_is_type(o, json_type_object))
		return key_error(p, "%s an object in braces, not %s",
			p->path[0] ? "must be" : "a definition is", js_type_words(o));
	json_object_object_foreach(o, name, v)
	{
		const struct key *k = key_find(keys, name);
		size_t had;
		int r;

		if (!k)
			return unknown_key(p, name, keys);
		had = key_push(p, name);
		r = parse_value(p, v, k, base);
		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	return 0;
}
