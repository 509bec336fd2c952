#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "base/utf8.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void position_of(const char *text, size_t at, unsigned *line, unsigned *column)
{
	*line = 1;
	*column = 1;
	for (size_t i = 0; i < at; i++) {
		++*column;
		if (text[i] == '\n') {
			++*line;
			*column = 1;
		}
	}
}

static int parse_failed(const char *text, size_t at, const char *name, const char *why,
	struct err *e)
{
	unsigned line, column;

	position_of(text, at, &line, &column);
	return err_set(e, -EINVAL, ERR_INVALID, "%s: not JSON: %s at line %u, column %u", name, why,
		line, column);
}

static void tokener_free_p(struct json_tokener **t)
{
	if (*t)
		json_tokener_free(*t);
}

struct reading {
	struct json_object *o; /* owned */
	enum json_tokener_error why;
	size_t end;
};

/* Read the value at the beginning of the text. flags: of json-c's tokener. */
static int value_read(struct reading *ret, const char *text, size_t len, int flags)
{
	struct json_tokener *t CLEANUP(tokener_free_p) = json_tokener_new_ex(JS_DEPTH_MAX);

	if (!t)
		return -ENOMEM;
	json_tokener_set_flags(t, flags | JSON_TOKENER_ALLOW_TRAILING_CHARS);
	/* Include the NUL: json-c ends a number or a word only at the character after it. */
	ret->o = json_tokener_parse_ex(t, text, (int)len + 1);
	ret->why = json_tokener_get_error(t);
	ret->end = json_tokener_get_parse_end(t);
	return 0;
}

static bool is_ascii(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] >= 0x80)
			return false;
	return true;
}

/* Check the syntax of a text with characters beyond ASCII. JSON_TOKENER_STRICT of json-c 0.18 refuses these, so the
 * check replaces their bytes. */
static int syntax_check(struct reading *ret, const char *text, size_t len)
{
	CLEANUP_FREE char *ascii = malloc(len + 1);
	int r;

	if (!ascii)
		return -ENOMEM;
	for (size_t i = 0; i < len; i++)
		ascii[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
	ascii[len] = 0;
	r = value_read(ret, ascii, len, JSON_TOKENER_STRICT);
	if (!r)
		json_object_put(STEAL_PTR(ret->o));
	return r;
}

int js_parse(const char *text, size_t len, const char *name, struct json_object **ret_o,
	struct err *e)
{
	struct reading it = { 0 };
	int r;

	if (len >= INT_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: too large", name);
	if (is_ascii(text, len)) {
		r = value_read(&it, text, len, JSON_TOKENER_STRICT);
	} else {
		r = syntax_check(&it, text, len);
		if (!r && it.why == json_tokener_success)
			r = value_read(&it, text, len, JSON_TOKENER_VALIDATE_UTF8);
	}
	if (r < 0)
		return err_set_errno(e, r, "%s", name);
	if (it.why == json_tokener_continue || it.why == json_tokener_error_parse_eof)
		return parse_failed(text, len, name, "the text ends too early", e);
	if (it.why != json_tokener_success)
		return parse_failed(text, it.end, name, json_tokener_error_desc(it.why), e);
	for (; it.end < len; it.end++)
		if (!strchr(" \t\r\n", text[it.end]) || !text[it.end]) {
			json_object_put(it.o);
			return parse_failed(text, it.end, name, "more text after the end of the value", e);
		}
	*ret_o = it.o;
	return 0;
}

int js_read(const char *path, size_t max, struct json_object **ret_o, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	int r = file_read(path, max, &text, &len, e);

	return r < 0 ? r : js_parse(text, len, path, ret_o, e);
}

void js_put(struct json_object *o, const char *key, struct json_object *v)
{
	/* Without memory json-c would leave the member out, and a definition or state would be stored without it. */
	if (json_object_object_add(o, key, v) < 0)
		abort();
}

void js_put_str(struct json_object *o, const char *key, const char *v)
{
	if (v)
		js_put(o, key, must_alloc(json_object_new_string(v)));
}

void js_put_int(struct json_object *o, const char *key, int64_t v)
{
	js_put(o, key, must_alloc(json_object_new_int64(v)));
}

void js_put_uint(struct json_object *o, const char *key, uint64_t v)
{
	js_put(o, key, must_alloc(json_object_new_uint64(v)));
}

void js_put_bool(struct json_object *o, const char *key, bool v)
{
	js_put(o, key, must_alloc(json_object_new_boolean(v)));
}

void js_put_uuid(struct json_object *o, const char *key, const uint8_t uuid[UUID_BYTES])
{
	char text[UUID_TEXT];

	uuid_print(uuid, text);
	js_put_str(o, key, text);
}

struct json_object *js_error(const char *class_name, const char *desc)
{
	struct json_object *o = json_object_new_object(), *error = json_object_new_object();

	js_put_str(error, "class", class_name);
	js_put_str(error, "desc", desc);
	js_put(o, "error", error);
	return o;
}

struct json_object *js_get(struct json_object *o, const char *key)
{
	struct json_object *v = NULL;

	if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v))
		return NULL;
	return v;
}

struct json_object *js_get_array(struct json_object *o, const char *key)
{
	struct json_object *v = js_get(o, key);

	return json_object_is_type(v, json_type_array) ? v : NULL;
}

const char *js_plain_string(struct json_object *o)
{
	const char *s;

	if (!json_object_is_type(o, json_type_string))
		return NULL;
	s = json_object_get_string(o);
	return strlen(s) == (size_t)json_object_get_string_len(o) ? s : NULL;
}

const char *js_get_str(struct json_object *o, const char *key)
{
	return js_plain_string(js_get(o, key));
}

const char *js_get_str_or(struct json_object *o, const char *key, const char *fallback)
{
	const char *s = js_get_str(o, key);

	return s ? s : fallback;
}

int64_t js_get_int(struct json_object *o, const char *key, int64_t fallback)
{
	struct json_object *v = js_get(o, key);

	return json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : fallback;
}

int64_t js_get_time_s(struct json_object *o, const char *key)
{
	int64_t s = js_get_int(o, key, 0);

	return s > 0 && s <= INT64_MAX / (int64_t)CLOCK_NS_PER_S ? s : 0;
}

bool js_get_bool(struct json_object *o, const char *key, bool fallback)
{
	struct json_object *v = js_get(o, key);

	return json_object_is_type(v, json_type_boolean) ? json_object_get_boolean(v) : fallback;
}

const char *js_type_words(struct json_object *o)
{
	switch (json_object_get_type(o)) {
	case json_type_boolean:
		return "true or false";
	case json_type_double:
		return "a number with a fraction";
	case json_type_int:
		return "a number";
	case json_type_object:
		return "an object";
	case json_type_array:
		return "an array";
	case json_type_string:
		return "a string";
	default:
		return "null";
	}
}

struct json_object *js_text(const char *text)
{
	/* json-c prints a value of any type by its own function. This type is the smallest. */
	struct json_object *o = must_alloc(json_object_new_boolean(false));

	json_object_set_serializer(o, json_object_userdata_to_json_string, must_alloc(strdup(text)),
		json_object_free_userdata);
	return o;
}

static char *put_escape(char *p, uint32_t c)
{
	if (c < 0x10000)
		return p + sprintf(p, "\\u%04x", c);
	c -= 0x10000;
	return p + sprintf(p, "\\u%04x\\u%04x", 0xd800 + (c >> 10), 0xdc00 + (c & 0x3ff));
}

size_t js_escaped_bytes(const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t bytes = 0;

	for (size_t i = 0, n; i < len; i += n) {
		n = 1;
		bytes += s[i] < 0x7f ? 1 : s[i] == 0x7f || utf8_next(s + i, len - i, &n) < 0x10000 ? 6 : 12;
	}
	return bytes;
}

char *js_line(struct json_object *o, size_t *ret_len)
{
	size_t len, wide = 0;
	const unsigned char *s = (const unsigned char *)json_object_to_json_string_length(o,
		JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
	char *line, *p;

	for (size_t i = 0; s && i < len; i++)
		wide += s[i] >= 0x7f;
	/* A non-ASCII byte becomes at most six characters. */
	line = s ? malloc(len + 5 * wide + 3) : NULL;
	if (!line)
		return NULL;
	p = line;
	if (!wide)
		p = mempcpy(p, s, len);
	for (size_t i = 0, n; wide && i < len; i += n) {
		n = 1;
		if (s[i] < 0x7f)
			*p++ = (char)s[i];
		else if (s[i] == 0x7f)
			p = put_escape(p, 0x7f);
		else
			p = put_escape(p, utf8_next(s + i, len - i, &n));
	}
	memcpy(p, "\r\n", 3);
	*ret_len = (size_t)(p - line) + 2;
	return line;
}

size_t js_line_bytes(struct json_object *o)
{
	size_t len;
	const char *text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);

	return text ? js_escaped_bytes(text, len) + 2 : 0;
}
