#include "tools/xml/extra.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "tools/xml/reading.h"
#include "tools/xml/writer.h"

#include <errno.h>
#include <libxml/tree.h>
#include <stdio.h>
#include <string.h>

#define PATH_LENGTH_MAX 120

/* ---- adding keys from <metadata> ---- */

/* Find an object by id. An interface without an id in the elements has the id of its position. */
static struct json_object *by_id(struct json_object *array, const char *id)
{
	char by_place[24];

	for (size_t i = 0; i < json_object_array_length(array); i++) {
		struct json_object *o = json_object_array_get_idx(array, i);
		const char *its = js_get_str(o, "id");

		snprintf(by_place, sizeof(by_place), "net%zu", i);
		if (!strcmp(its ? its : by_place, id))
			return o;
	}
	return NULL;
}

static void extra_fill(struct reading *r, struct _xmlNode *n, struct json_object *into,
	struct json_object *from, const char *path);

static void fill_one(struct reading *r, struct _xmlNode *n, struct json_object *into,
	const char *key, struct json_object *v, const char *path)
{
	struct json_object *have = js_get(into, key);
	char at[PATH_LENGTH_MAX];

	snprintf(at, sizeof(at), "%s%s%s", path, *path ? "." : "", key);
	if (!have) {
		js_put(into, key, json_object_get(v));
	} else if (json_object_is_type(v, json_type_object) &&
		   json_object_is_type(have, json_type_object)) {
		extra_fill(r, n, have, v, at);
	} else if (json_object_is_type(v, json_type_object) &&
		   json_object_is_type(have, json_type_array)) {
		json_object_object_foreach(v, id, one)
		{
			struct json_object *o = by_id(have, id);

			/* Ignore properties of an object that no longer exists. */
			if (o && json_object_is_type(one, json_type_object))
				extra_fill(r, n, o, one, at);
		}
	} else if (!json_object_equal(have, v)) {
		reading_warn(r, n, NULL, "its %s has no effect: an element already sets it", at);
	}
}

static void extra_fill(struct reading *r, struct _xmlNode *n, struct json_object *into,
	struct json_object *from, const char *path)
{
	json_object_object_foreach(from, key, v)
	{
		fill_one(r, n, into, key, v, path);
	}
}

int extra_read(struct reading *r, struct _xmlNode *domain)
{
	struct _xmlNode *n = node_child(domain, "metadata");
	CLEANUP_FREE char *text = NULL;
	CLEANUP_JS struct json_object *o = NULL;
	struct err why;

	for (n = n ? n->children : NULL; n; n = n->next)
		if (n->type == XML_ELEMENT_NODE && n->ns &&
			!strcmp((const char *)n->ns->href, XML_NAMESPACE))
			break;
	if (!n)
		return 0;
	text = node_text(n);
	if (!text)
		return err_set_errno(r->e, -ENOMEM, "domain XML");
	if (js_parse(text, strlen(text), "it", &o, &why) < 0)
		return reading_error(r, n, NULL, ERR_INVALID, "%s", why.msg);
	if (!json_object_is_type(o, json_type_object))
		return reading_error(r, n, NULL, ERR_INVALID, "must be a JSON object, not %s",
			js_type_words(o));
	extra_fill(r, n, r->definition, o, "");
	return 0;
}

/* ---- finding keys for <metadata> ---- */

static struct json_object *extra_of_arrays(struct json_object *want, struct json_object *got)
{
	struct json_object *out = NULL;

	for (size_t i = 0; i < json_object_array_length(want); i++) {
		struct json_object *w = json_object_array_get_idx(want, i), *more;
		const char *id = js_get_str(w, "id");
		struct json_object *g = id ? by_id(got, id) : NULL;

		more = g ? extra_make(w, g) : NULL;
		if (!more)
			continue;
		if (!out)
			out = json_object_new_object();
		js_put(out, id, more);
	}
	return out;
}

static struct json_object *extra_of(struct json_object *want, struct json_object *got)
{
	if (json_object_equal(want, got))
		return NULL;
	if (json_object_is_type(want, json_type_object) && json_object_is_type(got, json_type_object))
		return extra_make(want, got);
	/* If the elements give an empty array, take the whole array. */
	if (json_object_is_type(want, json_type_array) && json_object_is_type(got, json_type_array) &&
		json_object_array_length(got))
		return extra_of_arrays(want, got);
	return json_object_get(want);
}

struct json_object *extra_make(struct json_object *want, struct json_object *got)
{
	struct json_object *out = NULL;

	json_object_object_foreach(want, key, v)
	{
		struct json_object *more = extra_of(v, js_get(got, key));

		if (!more)
			continue;
		if (!out)
			out = json_object_new_object();
		js_put(out, key, more);
	}
	return out;
}

void extra_print(struct writer *w, struct json_object *extra)
{
	if (!extra)
		return;
	writer_open(w, "metadata", NULL);
	writer_text(w, "cairn:definition",
		json_object_to_json_string_ext(extra,
			JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE),
		"xmlns:cairn", XML_NAMESPACE, NULL);
	writer_close(w, "metadata");
}
