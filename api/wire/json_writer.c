#include "api/wire/json_writer.h"
#include "api/wire/json.h"
#include "base/util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES 1024

/* Make room for n further bytes and the NUL; return where they begin. */
static char *room(struct json_writer *w, size_t n)
{
	if (w->size - w->length <= n) {
		w->size = MAX(2 * w->size, w->length + n + FIRST_BYTES);
		w->text = must_alloc(realloc(w->text, w->size));
	}
	return w->text + w->length;
}

static void put(struct json_writer *w, const char *s, size_t n)
{
	memcpy(room(w, n), s, n);
	w->length += n;
	w->text[w->length] = 0;
}

static void put_char(struct json_writer *w, char c)
{
	put(w, &c, 1);
}

/* Begin a value: write the comma after the previous value, and the key. */
static void value_begin(struct json_writer *w, const char *key)
{
	if (w->length && !strchr("[{", w->text[w->length - 1]))
		put_char(w, ',');
	if (!key)
		return;
	put_char(w, '"');
	put(w, key, strlen(key));
	put(w, "\":", 2);
}

void jw_object(struct json_writer *w, const char *key)
{
	value_begin(w, key);
	put_char(w, '{');
}

void jw_object_end(struct json_writer *w)
{
	put_char(w, '}');
}

void jw_array(struct json_writer *w, const char *key)
{
	value_begin(w, key);
	put_char(w, '[');
}

void jw_array_end(struct json_writer *w)
{
	put_char(w, ']');
}

void jw_str(struct json_writer *w, const char *key, const char *v)
{
	if (!v)
		return;
	value_begin(w, key);
	put_char(w, '"');
	while (*v) {
		size_t plain = 0;
		char escape[8];

		while ((unsigned char)v[plain] >= ' ' && v[plain] != '"' && v[plain] != '\\')
			plain++;
		put(w, v, plain);
		v += plain;
		if (*v)
			put(w, escape, (size_t)snprintf(escape, sizeof(escape), "\\u%04x", (unsigned char)*v++));
	}
	put_char(w, '"');
}

static void put_number(struct json_writer *w, const char *key, uint64_t n, bool negative)
{
	char text[24], *p = text + sizeof(text);

	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	if (negative)
		*--p = '-';
	value_begin(w, key);
	put(w, p, (size_t)(text + sizeof(text) - p));
}

void jw_int(struct json_writer *w, const char *key, int64_t v)
{
	put_number(w, key, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, v < 0);
}

void jw_uint(struct json_writer *w, const char *key, uint64_t v)
{
	put_number(w, key, v, false);
}

void jw_bool(struct json_writer *w, const char *key, bool v)
{
	value_begin(w, key);
	put(w, v ? "true" : "false", v ? 4 : 5);
}

void jw_text(struct json_writer *w, const char *key, const char *text, size_t length)
{
	value_begin(w, key);
	put(w, text, length);
}

void jw_json(struct json_writer *w, const char *key, struct json_object *o)
{
	size_t length;
	const char *text;

	if (!o)
		return;
	text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &length);
	jw_text(w, key, text, length);
	json_object_put(o);
}

void jw_members(struct json_writer *w, struct json_object *o)
{
	json_object_object_foreach(o, key, v)
		jw_json(w, key, json_object_get(v));
	json_object_put(o);
}

struct json_object *jw_value(struct json_writer *w)
{
	struct json_object *o = js_text(w->text);

	free(w->text);
	*w = (struct json_writer){ 0 };
	return o;
}
