#include "tools/net/reading.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HOST_NAME_MAX_BYTES 253 /* RFC 1035, section 2.3.4 */

static const char *dot(const struct reading *r)
{
	return r->path[0] ? "." : "";
}

static int wrong(const struct reading *r, const char *key, const char *what, struct err *e)
{
	return err_set(e, -EINVAL, ERR_INVALID, "%s%s%s: %s", r->path, dot(r), key, what);
}

int reading_keys(const struct reading *r, const char *const *keys, struct err *e)
{
	json_object_object_foreach(r->o, key, value)
	{
		size_t i = 0;

		(void)value;
		while (keys[i] && strcmp(keys[i], key) != 0)
			i++;
		if (!keys[i])
			return err_set(e, -EINVAL, ERR_INVALID, "%s%s%.40s: there is no such key", r->path, dot(r), key);
	}
	return 0;
}

/* Returns 1 if the member is there with its type, 0 if it is absent, -EINVAL. */
static int member(const struct reading *r, const char *key, bool needed, enum json_type type, struct json_object **ret,
	struct err *e)
{
	struct json_object *v = js_get(r->o, key);

	if (!v)
		return needed ? wrong(r, key, "this key is missing", e) : 0;
	if (json_object_get_type(v) != type)
		return err_set(e, -EINVAL, ERR_INVALID, "%s%s%s: %s, not %s", r->path, dot(r), key, json_type_to_name(type),
			js_type_words(v));
	*ret = v;
	return 1;
}

int reading_text(const struct reading *r, const char *key, bool needed, const char **ret, struct err *e)
{
	struct json_object *v;
	int found = member(r, key, needed, json_type_string, &v, e);
	const char *text = found > 0 ? js_plain_string(v) : NULL;

	if (found <= 0)
		return found;
	if (!text || !*text)
		return wrong(r, key, "an empty text, or one with a NUL", e);
	*ret = text;
	return 0;
}

int reading_bool(const struct reading *r, const char *key, bool *ret, struct err *e)
{
	struct json_object *v;
	int found = member(r, key, false, json_type_boolean, &v, e);

	if (found > 0)
		*ret = json_object_get_boolean(v);
	return found < 0 ? found : 0;
}

int reading_number(const struct reading *r, const char *key, bool needed, uint32_t min, uint32_t max, uint32_t *ret,
	struct err *e)
{
	struct json_object *v;
	int found = member(r, key, needed, json_type_int, &v, e);
	int64_t n;

	if (found <= 0)
		return found;
	n = json_object_get_int64(v);
	if (n < min || n > max)
		return err_set(e, -EINVAL, ERR_INVALID, "%s%s%s: a number from %u to %u", r->path, dot(r), key, min, max);
	*ret = (uint32_t)n;
	return 0;
}

int reading_address(const struct reading *r, const char *key, bool needed, int family, struct address *ret, struct err *e)
{
	const char *text = NULL;
	int error = reading_text(r, key, needed, &text, e);

	if (error < 0 || !text)
		return error;
	if (address_parse(text, family, ret) < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "%s%s%s: '%.46s' is no %s address", r->path, dot(r), key, text,
			family == AF_INET ? "IPv4" : family == AF_INET6 ? "IPv6" : "IP");
	return 0;
}

bool host_name_is_valid(const char *name)
{
	if (strlen(name) > HOST_NAME_MAX_BYTES || *name == '-' || *name == '.')
		return false;
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("-_.", *c))
			return false;
	return !strstr(name, "..");
}

int reading_host_name(const struct reading *r, const char *key, const char **ret, struct err *e)
{
	const char *text = NULL;
	int error = reading_text(r, key, false, &text, e);

	if (error < 0 || !text)
		return error;
	if (!host_name_is_valid(text))
		return wrong(r, key, "a name consists of letters, digits, '-', '_' and '.', and begins with none of '-' and '.'", e);
	*ret = text;
	return 0;
}

int reading_object(const struct reading *r, const char *key, struct reading *ret, struct err *e)
{
	struct json_object *v = NULL;
	int found = member(r, key, false, json_type_object, &v, e);

	ret->o = found > 0 ? v : NULL;
	snprintf(ret->path, sizeof(ret->path), "%.80s%s%s", r->path, dot(r), key);
	return found < 0 ? found : 0;
}

int reading_array(const struct reading *r, const char *key, size_t max, struct json_object **ret, struct err *e)
{
	struct json_object *v = NULL;
	int found = member(r, key, false, json_type_array, &v, e);

	*ret = found > 0 ? v : NULL;
	if (found > 0 && json_object_array_length(v) > max)
		return err_set(e, -EINVAL, ERR_INVALID, "%s%s%s: more than %zu", r->path, dot(r), key, max);
	return found < 0 ? found : 0;
}

int reading_member(const struct reading *r, const char *key, struct json_object *array, size_t at, struct reading *ret,
	struct err *e)
{
	ret->o = json_object_array_get_idx(array, at);
	snprintf(ret->path, sizeof(ret->path), "%.80s%s%s[%zu]", r->path, dot(r), key, at);
	if (!json_object_is_type(ret->o, json_type_object))
		return err_set(e, -EINVAL, ERR_INVALID, "%s: object, not %s", ret->path, js_type_words(ret->o));
	return 0;
}

int reading_text_at(const struct reading *r, const char *key, struct json_object *array, size_t at, const char **ret,
	struct err *e)
{
	struct json_object *v = json_object_array_get_idx(array, at);
	const char *text = json_object_is_type(v, json_type_string) ? js_plain_string(v) : NULL;

	if (!text || !*text)
		return err_set(e, -EINVAL, ERR_INVALID, "%s%s%s[%zu]: a text", r->path, dot(r), key, at);
	*ret = text;
	return 0;
}
