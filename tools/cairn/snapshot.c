#include "tools/cairn/snapshot.h"
#include "api/wire/json.h"
#include "base/shell_word.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static int by_name(const void *a, const void *b)
{
	const char *x = js_get_str_or(*(struct json_object *const *)a, "name", ""),
		   *y = js_get_str_or(*(struct json_object *const *)b, "name", "");
	int r = strcasecmp(x, y);

	return r ? r : strcmp(x, y);
}

int snapshots_fetch_all(struct cli *c, const char *vm, struct json_object **ret_all, struct err *e)
{
	int r = cli_fetch_all(c, "snapshot-list", cli_vm_args(vm), "snapshots", "from", ret_all, NULL, e);

	if (!r)
		json_object_array_sort(*ret_all, by_name);
	return r;
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
			      name, shell_word(vm).s) :
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

const char *snapshot_name_arg(const struct cli *c)
{
	const char *name = option_value(c, "snapshotname");

	return name ? name : c->npos > 1 ? c->pos[1] : NULL;
}
