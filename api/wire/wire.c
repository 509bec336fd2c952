#include "api/wire/wire.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NODE_BYTES 400 /* bytes that json-c takes for a node, at most: measured with a list of empty objects */

static const struct wire_limits no_limits = { WIRE_TEXT_MAX, SIZE_MAX };

void wire_init(struct wire *w, const struct wire_limits *limits)
{
	*w = (struct wire){ .limits = limits ? limits : &no_limits };
}

void wire_done(struct wire *w)
{
	free(w->buf);
	memset(w, 0, sizeof(*w));
}

/* Return to the state between two texts. Drops a partly read text. */
static void wire_reset(struct wire *w)
{
	if (w->cap > WIRE_KEEP_BYTES) {
		free(w->buf);
		w->buf = NULL;
		w->cap = 0;
	}
	w->len = w->skipped = w->nodes = w->members = 0;
	w->depth = 0;
	w->quote = 0;
	w->escaped = w->discarding = w->garbage = false;
}

static int wire_keep(struct wire *w, char c)
{
	if (w->discarding)
		return 0;
	if (w->len == w->cap) {
		size_t cap = w->cap ? 2 * w->cap : 512;
		char *buf = realloc(w->buf, cap);

		if (!buf)
			return -ENOMEM;
		w->buf = buf;
		w->cap = cap;
	}
	w->buf[w->len++] = c;
	return 0;
}

/* Process one byte inside a text; braces inside strings do not count. Returns whether the byte ends the text. */
static bool text_byte(struct wire *w, char c)
{
	if (w->quote) {
		if (w->escaped)
			w->escaped = false;
		else if (c == '\\')
			w->escaped = true;
		else if (c == w->quote)
			w->quote = 0;
		return false;
	}
	w->members += c == ':';
	w->nodes += c == '{' || c == '[' || c == ',' || c == ':';
	if (c == '"' || c == '\'')
		w->quote = c;
	else if (c == '{' || c == '[')
		w->depth++;
	else if (c == '}' || c == ']')
		w->depth--;
	return !w->depth;
}

/* Return the number of members of all objects in o. */
static size_t members_count(struct json_object *o)
{
	size_t n = 0;

	if (json_object_is_type(o, json_type_array))
		for (size_t i = 0; i < json_object_array_length(o); i++)
			n += members_count(json_object_array_get_idx(o, i));
	if (!json_object_is_type(o, json_type_object))
		return n;
	json_object_object_foreach(o, key, v)
	{
		(void)key;
		n += 1 + members_count(v);
	}
	return n;
}

/* Refuse what json-c takes or changes silently: a duplicate key, and a wrong number.
 * o: the text, parsed. */
static int text_check(const struct wire *w, struct json_object *o, struct err *e)
{
	int r = js_numbers_check(w->buf, w->len, "JSON parse error", e);

	if (!r && members_count(o) != w->members) {
		r = js_keys_check(w->buf, w->len, "JSON parse error", e);
		if (!r) /* the two are written differently, with escapes */
			r = err_set(e, -EINVAL, ERR_GENERIC, "JSON parse error: duplicate key in one object");
	}
	return r;
}

static enum wire_result text_finish(struct wire *w, struct json_object **ret_o, struct err *e)
{
	int r = 0;
	struct json_tokener *t = json_tokener_new_ex(JS_DEPTH_MAX);
	struct json_object *o = NULL;
	enum json_tokener_error why = json_tokener_error_size;

	if (t) {
		/* The parser is not strict, because QEMU accepts single quotes and QMP clients use them. */
		json_tokener_set_flags(t, JSON_TOKENER_VALIDATE_UTF8);
		o = json_tokener_parse_ex(t, w->buf, (int)w->len);
		why = json_tokener_get_error(t);
		if (why == json_tokener_success && json_tokener_get_parse_end(t) != w->len)
			why = json_tokener_error_parse_unexpected;
		json_tokener_free(t);
	}
	w->cost = w->len + w->nodes * NODE_BYTES;
	if (why == json_tokener_success)
		r = text_check(w, o, e);
	wire_reset(w);
	if (why == json_tokener_success) {
		*ret_o = o;
		return r ? WIRE_ERROR : WIRE_TEXT;
	}
	json_object_put(o);
	err_set(e, -EINVAL, ERR_GENERIC, "JSON parse error, %s", json_tokener_error_desc(why));
	return WIRE_ERROR;
}

static enum wire_result wire_fail(struct err *e, const char *what, size_t max)
{
	err_set(e, -EMSGSIZE, ERR_GENERIC, "JSON parse error, %s of more than %zu bytes", what, max);
	return WIRE_FATAL;
}

/* Refuse a text before it is parsed. Returns whether the text is refused, with the error. */
static bool text_refuse(struct wire *w, char c, struct err *e)
{
	if (w->depth > JS_DEPTH_MAX)
		err_set(e, -EINVAL, ERR_GENERIC, "JSON parse error, nested deeper than %d", JS_DEPTH_MAX);
	else if (w->nodes > w->limits->nodes)
		err_set(e, -E2BIG, ERR_GENERIC, "JSON parse error, more than %zu braces, brackets, commas and colons",
			w->limits->nodes);
	else if (c == '/' && !w->quote)
		/* json-c skips comments, in which quotes would make this scanner take values for a string. */
		err_set(e, -EINVAL, ERR_GENERIC, "JSON parse error, '/' outside a string");
	else
		return false;
	w->discarding = true;
	return true;
}

static enum wire_result inside_text(struct wire *w, char c, struct json_object **ret_o,
	struct err *e)
{
	bool closed;

	if (wire_keep(w, c) < 0)
		return wire_fail(e, "no memory for a JSON text", w->len);
	closed = text_byte(w, c);
	if (w->discarding && ++w->skipped > WIRE_TEXT_MAX)
		return wire_fail(e, "refused text", WIRE_TEXT_MAX);
	if (w->len > w->limits->text_bytes)
		return wire_fail(e, "text", w->limits->text_bytes);
	if (w->discarding && closed)
		wire_reset(w);
	else if (closed)
		return text_finish(w, ret_o, e);
	return !w->discarding && text_refuse(w, c, e) ? WIRE_ERROR : WIRE_MORE;
}

static enum wire_result between_texts(struct wire *w, char c, struct json_object **ret_o,
	struct err *e)
{
	if (c == '{' || c == '[') {
		w->garbage = false;
		w->skipped = 0;
		return inside_text(w, c, ret_o, e);
	}
	if (strchr(" \t\r\n", c) && c) {
		if (c == '\n')
			w->garbage = false;
		return WIRE_MORE;
	}
	if (++w->skipped > WIRE_TEXT_MAX)
		return wire_fail(e, "garbage", WIRE_TEXT_MAX);
	if (w->garbage)
		return WIRE_MORE;
	w->garbage = true;
	err_set(e, -EINVAL, ERR_GENERIC, "JSON parse error, a command is an object in braces");
	return WIRE_ERROR;
}

enum wire_result wire_feed(struct wire *w, const char *data, size_t len, size_t *ret_used,
	struct json_object **ret_o, struct err *e)
{
	for (size_t i = 0; i < len; i++) {
		enum wire_result r;

		if ((unsigned char)data[i] == 0xff) {
			wire_reset(w);
			continue;
		}
		r = w->depth ? inside_text(w, data[i], ret_o, e) :
			       between_texts(w, data[i], ret_o, e);
		if (r != WIRE_MORE) {
			*ret_used = i + 1;
			return r;
		}
	}
	*ret_used = len;
	return WIRE_MORE;
}
