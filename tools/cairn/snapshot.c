#include "tools/cairn/snapshot.h"
#include "api/wire/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

static int by_name(const void *a, const void *b)
{
	const char *x = js_get_str(*(struct json_object *const *)a, "name"),
		   *y = js_get_str(*(struct json_object *const *)b, "name");
	int r = strcasecmp(x ? x : "", y ? y : "");

	return r ? r : strcmp(x ? x : "", y ? y : "");
}

int snapshots_fetch_all(struct cli *c, const char *vm, struct json_object **ret_all, struct err *e)
{
	CLEANUP_JS struct json_object *all = json_object_new_array();
	int64_t from = 0;

	while (from >= 0) {
		CLEANUP_JS struct json_object *page = NULL;
		struct json_object *args = cli_vm_args(vm), *list;
		int64_t next;
		int r;

		js_put_int(args, "from", from);
		r = cli_execute(c, "snapshot-list", args, &page, NULL, e);
		if (r < 0)
			return r;
		list = js_get_array(page, "snapshots");
		for (size_t i = 0; list && i < json_object_array_length(list); i++)
			json_object_array_add(all, json_object_get(json_object_array_get_idx(list, i)));
		next = js_get_int(page, "next", -1);
		from = next > from ? next : -1;
	}
	json_object_array_sort(all, by_name);
	*ret_all = json_object_get(all);
	return 0;
}

static struct json_object *find_by(struct json_object *all, const char *key, const char *value)
{
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		const char *s = js_get_str(o, key);

		if (s && !strcmp(s, value))
			return o;
	}
	return NULL;
}

struct json_object *snapshot_find(struct json_object *all, const char *name)
{
	struct json_object *o = find_by(all, "name", name);

	return o ? o : find_by(all, "id", name);
}

int snapshot_missing(const char *vm, const char *name, struct err *e)
{
	return name ? err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%s' has no snapshot '%s'. Next: cairn snapshot-list %s", vm,
			      name, vm) :
		      err_set(e, -ENOENT, ERR_NOT_FOUND, "domain '%s' has no current snapshot", vm);
}

struct json_object *snapshot_current(struct json_object *all)
{
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		if (js_get_bool(o, "current", false))
			return o;
	}
	return NULL;
}

unsigned snapshot_below(struct json_object *all, struct json_object *o, struct json_object *above)
{
	/* Limit the depth: a damaged image may contain a cycle. */
	for (unsigned depth = 1; depth <= json_object_array_length(all); depth++) {
		const char *parent = js_get_str(o, "parent");

		o = parent ? find_by(all, "id", parent) : NULL;
		if (!o)
			return 0;
		if (o == above)
			return depth;
	}
	return 0;
}

void snapshot_time_print(struct json_object *o, char buf[40])
{
	time_t s = (time_t)(js_get_int(o, "time", 0) / 1000000000);
	struct tm tm;

	localtime_r(&s, &tm);
	strftime(buf, 40, "%Y-%m-%d %H:%M:%S %z", &tm);
}

const char *snapshot_name_arg(const struct cli *c)
{
	const char *name = option_value(c, "snapshotname");

	return name ? name : c->npos > 1 ? c->pos[1] : NULL;
}
