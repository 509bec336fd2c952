#include "tools/cairn/difference.h"
#include "api/wire/json.h"

#include <string.h>

struct difference {
	FILE *f;
	char path[256];
};

static const char *json_compact(struct json_object *o)
{
	return json_object_to_json_string_ext(o, JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE);
}

static void values_compare(struct difference *d, struct json_object *was, struct json_object *now);

/* Print the differences below one key. was, now: NULL if the value is missing on that side. */
static void compare_at(struct difference *d, const char *before, const char *key, const char *after,
	struct json_object *was, struct json_object *now)
{
	size_t had = strlen(d->path);

	snprintf(d->path + had, sizeof(d->path) - had, "%s%s%s", had || *before != '.' ? before : "", key,
		after);
	if (was && now)
		values_compare(d, was, now);
	else
		fprintf(d->f, "  %s: %s %s\n", d->path, now ? "added" : "removed", json_compact(now ? now : was));
	d->path[had] = 0;
}

static void objects_compare(struct difference *d, struct json_object *was, struct json_object *now)
{
	json_object_object_foreach(was, name, v)
		compare_at(d, ".", name, "", v, js_get(now, name));
	json_object_object_foreach(now, added, w)
		if (!js_get(was, added))
			compare_at(d, ".", added, "", NULL, w);
}

static const char *id_at(struct json_object *list, size_t i)
{
	const char *id = js_get_str(json_object_array_get_idx(list, i), "id");

	return id ? id : "";
}

static bool all_have_ids(struct json_object *list)
{
	for (size_t i = 0; i < json_object_array_length(list); i++)
		if (!*id_at(list, i))
			return false;
	return true;
}

static struct json_object *of_id(struct json_object *list, const char *id)
{
	for (size_t i = 0; i < json_object_array_length(list); i++)
		if (!strcmp(id_at(list, i), id))
			return json_object_array_get_idx(list, i);
	return NULL;
}

static bool same_order(struct json_object *was, struct json_object *now)
{
	size_t n = json_object_array_length(was);

	if (n != json_object_array_length(now))
		return true; /* the lines about added and removed elements are enough */
	for (size_t i = 0; i < n; i++)
		if (strcmp(id_at(was, i), id_at(now, i)) && of_id(now, id_at(was, i)))
			return false;
	return true;
}

static void by_id_compare(struct difference *d, struct json_object *was, struct json_object *now)
{
	for (size_t i = 0; i < json_object_array_length(was); i++)
		compare_at(d, "[", id_at(was, i), "]", json_object_array_get_idx(was, i),
			of_id(now, id_at(was, i)));
	for (size_t i = 0; i < json_object_array_length(now); i++)
		if (!of_id(was, id_at(now, i)))
			compare_at(d, "[", id_at(now, i), "]", NULL, json_object_array_get_idx(now, i));
	if (!same_order(was, now))
		fprintf(d->f, "  %s: in another order\n", d->path);
}

static void values_compare(struct difference *d, struct json_object *was, struct json_object *now)
{
	if (json_object_equal(was, now))
		return;
	if (json_object_is_type(was, json_type_object) && json_object_is_type(now, json_type_object)) {
		objects_compare(d, was, now);
	} else if (json_object_is_type(was, json_type_array) &&
		json_object_is_type(now, json_type_array) && all_have_ids(was) && all_have_ids(now)) {
		by_id_compare(d, was, now);
	} else {
		fprintf(d->f, "  %s: %s -> ", d->path, json_compact(was));
		fprintf(d->f, "%s\n", json_compact(now));
	}
}

void difference_print(FILE *f, struct json_object *was, struct json_object *now)
{
	struct difference d = { .f = f };

	values_compare(&d, was, now);
}
