/* domblkinfo: print the space that a VM's disks take. A live clone's disk has only the data that differs from its
 * source; pins are the data that live clones keep in the source's image. Of one disk, it prints virsh's three sizes. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/img_run.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

		js_put_str(o, "id", js_get_str_or(d, "id", "-"));
		js_put_str(o, "path", js_get_str(d, "path"));
		js_put_str(o, "source", source_of(d));
		pins_put(o, pins);
		json_object_array_add(all, o);
	}
	return all;
}

/* ---- sizes ---- */

/* Return the size that the guest sees, as the VM's process says; 0: the VM is off. */
static uint64_t guest_size(struct json_object *info, const char *id)
{
	struct json_object *disks = js_get_array(info, "disks");
	int i = disks ? change_find(disks, "id", id) : -1;

	return i < 0 ? 0 : (uint64_t)js_get_int(json_object_array_get_idx(disks, (size_t)i), "size", 0);
}

/* Return the size of a block device. Returns 0; -errno. */
static int device_size(const char *path, uint64_t *ret, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);

	if (end < 0)
		return err_set_errno(e, -errno, "%s", path);
	*ret = (uint64_t)end;
	return 0;
}

/* Have cairn-img read the size that a guest sees. -U: another program may have the image open. */
static int image_size(const char *path, const char *format, uint64_t *ret, struct err *e)
{
	const char *const args[] = { "info", "-U", "-f", format, "--output", "json", "--", path, NULL };
	CLEANUP_JS struct json_object *info = NULL;
	int r = img_run(args, &info, e);

	*ret = (uint64_t)js_get_int(info, "virtual-size", 0);
	return r;
}

/* Add the sizes of a disk's image to `o`.
 * info: the VM's. */
static int sizes_put(const struct cli *c, struct json_object *info, struct json_object *disk, struct json_object *o, struct err *e)
{
	const char *path = js_get_str(disk, "path"), *id = js_get_str_or(disk, "id", ""), *format = js_get_str_or(disk, "format", "raw");
	uint64_t capacity = guest_size(info, id), physical, allocation;
	struct stat st;
	int r = 0;

	if (!path)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "drive %s is empty. Next: cairn change-media %s %s IMAGE --insert", id, shell_word(c->pos[0]).s, id);
	if (capacity)
		js_put_uint(o, "capacity", capacity);
	if (stat(path, &st) < 0)
		return err_set_errno(e, -errno, "%s", path);
	physical = (uint64_t)st.st_size;
	allocation = (uint64_t)st.st_blocks * 512;
	if (S_ISBLK(st.st_mode)) {
		r = device_size(path, &physical, e);
		allocation = physical;
	}
	if (r < 0)
		return r;
	js_put_uint(o, "allocation", allocation);
	js_put_uint(o, "physical", physical);
	if (!capacity && strcmp(format, "raw"))
		r = image_size(path, format, &capacity, e);
	else if (!capacity)
		capacity = physical;
	if (!r)
		js_put_uint(o, "capacity", capacity);
	return r;
}

/* ---- all disks ---- */

#define CELL_BYTES 24

/* Write a size: with --all in bytes, as virsh does, or else with its unit. */
static const char *cell(const struct cli *c, struct json_object *o, const char *key, char buf[CELL_BYTES])
{
	uint64_t bytes = (uint64_t)js_get_int(o, key, 0);

	if (!js_get(o, key))
		return "-";
	if (option_flag(c, "all") && !option_flag(c, "human"))
		snprintf(buf, CELL_BYTES, "%llu", (unsigned long long)bytes);
	else
		bytes_print(bytes, buf);
	return buf;
}

static void disks_print(const struct cli *c, struct json_object *all)
{
	static const char *const heads[] = { "Target", "Capacity", "Allocation", "Physical", "Reads", "Clones", "Kept for clones" };
	char capacity[CELL_BYTES], allocation[CELL_BYTES], physical[CELL_BYTES], own[CELL_BYTES], clones[CELL_BYTES];
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		snprintf(clones, sizeof(clones), "%d", (int)js_get_int(o, "clones", 0));
		table_add(&t, (const char *const[]){ js_get_str_or(o, "id", "-"), cell(c, o, "capacity", capacity), cell(c, o, "allocation", allocation),
			cell(c, o, "physical", physical), js_get_str_or(o, "source", "-"), clones, cell(c, o, "pins-own-size", own) });
	}
	table_finish(&t, stdout);
}

/* ---- one disk ---- */

static int disk_print(struct cli *c, struct json_object *info, struct json_object *disks, struct json_object *all)
{
	static const char *const rows[][2] = { { "Capacity:", "capacity" }, { "Allocation:", "allocation" }, { "Physical:", "physical" } };
	struct json_object *o;
	struct err e;
	int i = change_find_disk(disks, c->pos[1], &e), r = i;

	if (i < 0)
		err_set(&e, i, ERR_NOT_FOUND, "VM '%s' has no disk '%s'. Next: cairn domblklist %s", c->pos[0], c->pos[1], shell_word(c->pos[0]).s);
	o = i < 0 ? NULL : json_object_array_get_idx(all, (size_t)i);
	if (o)
		r = sizes_put(c, info, json_object_array_get_idx(disks, (size_t)i), o, &e);
	if (r < 0)
		return cli_fail(&e, "failed to get the sizes of disk '%s' of domain '%s'", c->pos[1], c->pos[0]);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	for (size_t k = 0; k < ARRAY_SIZE(rows); k++) {
		uint64_t bytes = (uint64_t)js_get_int(o, rows[k][1], 0);
		char text[VOLUME_SIZE_TEXT];

		if (option_flag(c, "human"))
			printf("%-15s %s\n", rows[k][0], volume_size_text(bytes, text));
		else
			printf("%-15s %llu\n", rows[k][0], (unsigned long long)bytes);
	}
	return CLI_OK;
}

int verb_domblkinfo(struct cli *c)
{
	CLEANUP_JS struct json_object *disks = NULL, *pins = NULL, *all = NULL, *info = NULL;
	struct err e, why;

	if (option_flag(c, "human") && c->npos < 2 && !option_flag(c, "all"))
		return cli_usage(c, "--human is for one disk or --all; this table has units");
	if (option_flag(c, "all") && c->npos > 1)
		return cli_usage(c, "DISK and --all exclude each other");
	if (change_read_list(c, c->pos[0], "disks", &disks, &e) < 0 || cli_vm_info(c, c->pos[0], &info, &e) < 0 ||
		cli_execute(c, "vm-pins", cli_vm_args(c->pos[0]), &pins, NULL, &e) < 0)
		return cli_fail(&e, "failed to get the disks of domain '%s'", c->pos[0]);
	all = disks_of(disks, js_get_array(pins, "pins"));
	if (c->npos > 1)
		return disk_print(c, info, disks, all);
	for (size_t i = 0; i < json_object_array_length(all); i++) /* an image that cannot be read lacks sizes */
		sizes_put(c, info, json_object_array_get_idx(disks, i), json_object_array_get_idx(all, i), &why);
	if (c->format == CLI_TABLE) {
		disks_print(c, all);
		growth_print(info);
	} else {
		output_print(stdout, c->format, all);
	}
	return CLI_OK;
}
