/* domblkinfo: the space that a VM's disks take: a live clone's disk has only what it holds beyond its source; pins are
 * what live clones keep in the source's image. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Return the path of the image that the disk reads; NULL: none. */
static const char *source_of(struct json_object *disk)
{
	struct json_object *all = js_get_array(disk, "backing");

	return all && json_object_array_length(all) ? js_get_str(json_object_array_get_idx(all, 0), "path") : NULL;
}

/* Add up the disk's pins. own-size is missing if the size of one is unknown. */
static void pins_put(struct json_object *o, struct json_object *pins)
{
	int64_t n = 0, clones = 0, own = 0;

	for (size_t i = 0; pins && i < json_object_array_length(pins); i++) {
		struct json_object *p = json_object_array_get_idx(pins, i);

		if (strcmp(js_get_str_or(p, "disk", ""), js_get_str_or(o, "id", "")))
			continue;
		n++;
		clones += js_get_int(p, "clones", 0);
		own = own < 0 || !js_get(p, "own-size") ? -1 : own + js_get_int(p, "own-size", 0);
	}
	js_put_int(o, "pins", n);
	js_put_int(o, "clones", clones);
	if (own >= 0)
		js_put_int(o, "pins-own-size", own);
}

static struct json_object *disks_of(struct json_object *disks, struct json_object *pins)
{
	struct json_object *all = json_object_new_array();

	for (size_t i = 0; i < json_object_array_length(disks); i++) {
		struct json_object *d = json_object_array_get_idx(disks, i), *o = json_object_new_object();
		const char *path = js_get_str(d, "path");
		struct stat st;

		js_put_str(o, "id", js_get_str_or(d, "id", "-"));
		js_put_str(o, "path", path);
		if (path && stat(path, &st) == 0)
			js_put_uint(o, "allocation", (uint64_t)st.st_blocks * 512);
		js_put_str(o, "source", source_of(d));
		pins_put(o, pins);
		json_object_array_add(all, o);
	}
	return all;
}

static const char *cell(struct json_object *o, const char *key, char buf[24])
{
	if (!js_get(o, key))
		return "-";
	bytes_print((uint64_t)js_get_int(o, key, 0), buf);
	return buf;
}

static void disks_print(struct json_object *all)
{
	static const char *const heads[] = { "Target", "Allocation", "Reads", "Clones", "Kept for clones" };
	char allocation[24], own[24], clones[24];
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		snprintf(clones, sizeof(clones), "%d", (int)js_get_int(o, "clones", 0));
		table_add(&t, (const char *const[]){ js_get_str_or(o, "id", "-"), cell(o, "allocation", allocation),
			js_get_str_or(o, "source", "-"), clones, cell(o, "pins-own-size", own) });
	}
	table_finish(&t, stdout);
}

int verb_domblkinfo(struct cli *c)
{
	CLEANUP_JS struct json_object *disks = NULL, *pins = NULL, *all = NULL;
	struct err e;

	if (change_read_list(c, c->pos[0], "disks", &disks, &e) < 0 ||
		cli_execute(c, "vm-pins", cli_vm_args(c->pos[0]), &pins, NULL, &e) < 0)
		return cli_fail(&e, "failed to get the disks of domain '%s'", c->pos[0]);
	all = disks_of(disks, js_get_array(pins, "pins"));
	if (c->format == CLI_TABLE)
		disks_print(all);
	else
		output_print(stdout, c->format, all);
	return CLI_OK;
}
