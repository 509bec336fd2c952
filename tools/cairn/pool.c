#include "tools/cairn/pool.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *volume_size_text(uint64_t bytes, char buf[VOLUME_SIZE_TEXT])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = (double)bytes;
	unsigned u = 0;

	for (; v >= 1024 && u < ARRAY_SIZE(units) - 1; u++)
		v /= 1024;
	snprintf(buf, VOLUME_SIZE_TEXT, "%.2f %s", v, units[u]);
	return buf;
}

int pools_fetch(struct cli *c, struct json_object **ret, struct err *e)
{
	return cli_fetch_all(c, "query-pools", json_object_new_object(), "pools", "after", ret, NULL, e);
}

int pool_find_name(struct cli *c, const char *name, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *all = NULL;
	int r = pools_fetch(c, &all, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		if (!strcmp(js_get_str_or(o, "name", ""), name)) {
			*ret = json_object_get(o);
			return 0;
		}
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no pool '%.63s'. Next: cairn pool-list", name);
}

int volumes_fetch(struct cli *c, const char *pool, struct json_object **ret, struct err *e)
{
	struct json_object *args = json_object_new_object();

	js_put_str(args, "pool", pool);
	return cli_fetch_all(c, "query-volumes", args, "volumes", "after", ret, NULL, e);
}

void growth_print(struct json_object *o)
{
	int64_t growth = js_get_int(o, "growth", 0);
	char text[VOLUME_SIZE_TEXT];

	if (js_get(o, "growth"))
		label_print(stdout, "Growth:", "%s%s a day", growth < 0 ? "-" : "", volume_size_text((uint64_t)llabs(growth), text));
	if (js_get(o, "days-left"))
		label_print(stdout, "Full in:", "%lld days%s", (long long)js_get_int(o, "days-left", 0), js_get_bool(o, "low", false) ? " (low)" : "");
}
