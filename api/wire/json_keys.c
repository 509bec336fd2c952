/* Finds a duplicate key in a JSON text. */
#include "api/wire/json.h"
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *js_space_skip(const char *p, const char *end)
{
	while (p < end && *p && strchr(" \t\r\n", *p))
		p++;
	return p;
}

/* Find the end of a string. p: the opening quote. Returns the place of the closing quote. */
static const char *string_end(const char *p, const char *end)
{
	char quote = *p++;

	while (p < end && *p != quote)
		p += *p == '\\' ? 2 : 1;
	return p < end ? p : end;
}

static int key_add(struct json_object *seen, const char *key, int len, const char *text, const char *name, struct err *e)
{
	char copy[256];
	unsigned line = 1;

	snprintf(copy, sizeof(copy), "%.*s", len, key);
	if (!json_object_object_get_ex(seen, copy, NULL)) {
		js_put_bool(seen, copy, true);
		return 0;
	}
	for (; text < key; text++)
		line += *text == '\n';
	return err_set(e, -EINVAL, ERR_INVALID, "%s: line %u: duplicate key \"%s\" in one object", name, line,
		copy);
}

int js_keys_check(const char *text, size_t len, const char *name, struct err *e)
{
	struct json_object *seen[JS_DEPTH_MAX + 1] = { NULL };
	const char *end = text + len, *close;
	size_t depth = 0;
	int r = 0;

	for (const char *p = text; !r && p < end; p++) {
		if ((*p == '{' || *p == '[') && depth < JS_DEPTH_MAX)
			seen[++depth] = *p == '{' ? json_object_new_object() : NULL;
		else if ((*p == '}' || *p == ']') && depth)
			json_object_put(seen[depth--]);
		else if (*p == '"' || *p == '\'') {
			close = string_end(p, end);
			if (seen[depth] && *js_space_skip(close + 1, end) == ':')
				r = key_add(seen[depth], p + 1, (int)(close - p - 1), text, name, e);
			p = close;
		}
	}
	while (depth)
		json_object_put(seen[depth--]);
	return r;
}
