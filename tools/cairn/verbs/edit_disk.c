/* attach-disk, detach-disk and change-media: change the disks of a definition. domblklist: list them. */
#include "tools/cairn/backing.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/plug.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Set *ret_format to --subdriver, or else to raw as virsh does; without --subdriver, refuse a qcow2 image. Returns 0;
 * CLI_USAGE after an error message. */
static int format_choose(struct cli *c, const char *source, const char **ret_format)
{
	*ret_format = option_value(c, "subdriver");
	if (*ret_format)
		return 0;
	if (image_looks_like_qcow2(source))
		return cli_usage(c, "%s is a qcow2 image; add --subdriver qcow2, or --subdriver raw to show the "
				    "file itself to the guest", source);
	*ret_format = "raw";
	return 0;
}

/* ---- attach-disk ---- */

static int choice_check(struct cli *c, const char *option, const char *const *choices)
{
	const char *given = option_value(c, option);

	if (!given)
		return 0;
	for (; *choices; choices++)
		if (!strcmp(*choices, given))
			return 0;
	return cli_usage(c, "--%s %s is not supported", option, given);
}

static int attach_check(struct cli *c)
{
	static const char *const modes[] = { "readonly", NULL };
	static const char *const drivers[] = { "qemu", NULL };
	int r = choice_check(c, "mode", modes);

	if (!r)
		r = choice_check(c, "driver", drivers);
	if (!r && option_value(c, "io"))
		fprintf(stderr, "warning: --io has no effect\n");
	return r;
}

/* Returns --targetbus, or else the bus by the target's first letters, as libvirt does. A CD drive hda gets scsi,
 * because there is no bus ide. Another bus than virtio and scsi becomes one of them with a warning, as in libvirt's XML
 * (tools/xml/disk.c). NULL: the default of a definition. */
static const char *bus_of_options(struct cli *c, bool cdrom)
{
	const char *given = option_value(c, "targetbus"), *target = c->pos[2];
	bool scsi = !strncmp(target, "sd", 2) || (cdrom && !strncmp(target, "hd", 2));

	if (!given)
		return scsi ? "scsi" : NULL;
	if (!strcmp(given, "virtio") || !strcmp(given, "scsi"))
		return given;
	if (cdrom) {
		fprintf(stderr, "warning: --targetbus %s becomes scsi: the guest needs a driver for virtio-scsi\n", given);
		return "scsi";
	}
	fprintf(stderr, "warning: --targetbus %s becomes virtio: the guest has %s as /dev/vd..., not /dev/%s; it needs a virtio driver; use "
		"root=UUID=... or LABEL=...\n", given, target, target);
	return "virtio";
}

/* Returns --cache. NULL: the default of a definition, none; in place of virsh's other modes it comes with a warning. */
static const char *cache_of_options(const struct cli *c)
{
	const char *given = option_value(c, "cache");

	if (!given || !strcmp(given, "default"))
		return NULL;
	if (strcmp(given, "writethrough") && strcmp(given, "directsync"))
		return given;
	fprintf(stderr, "warning: --cache %s has no effect: Cairn has none, writeback and unsafe; the disk has none, which is as durable as the "
		"guest's flushes\n", given);
	return NULL;
}

/* Returns the new disk's JSON from the options, which the caller owns; NULL after an error message. */
static struct json_object *disk_of_options(struct cli *c)
{
	const char *source = c->pos[1], *serial = option_value(c, "serial"),
		   *type = option_value(c, "type"), *format;
	bool cdrom = type && !strcmp(type, "cdrom");
	struct json_object *disk;

	if (attach_check(c) || format_choose(c, source, &format))
		return NULL;
	disk = json_object_new_object();
	js_put_str(disk, "id", c->pos[2]);
	js_put_str(disk, "device", type ? type : "disk");
	js_put_str(disk, "bus", bus_of_options(c, cdrom));
	js_put_str(disk, "path", source);
	js_put_str(disk, "format", format);
	js_put_bool(disk, "readonly", option_value(c, "mode") || cdrom);
	js_put_str(disk, "serial", serial);
	js_put_str(disk, "cache", cache_of_options(c));
	return disk;
}

/* Add the backing files of a qcow2 image. */
static int layers_put(struct json_object *disk, struct err *e)
{
	const char *format = js_get_str(disk, "format");

	return format && !strcmp(format, "qcow2") ? backing_put(disk, e) : 0;
}

static int attach_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct json_object *disks = js_get_array(definition, "disks");
	const char *id = js_get_str(opaque, "id");

	(void)c;
	if (change_find(disks, "id", id) >= 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "target %s already exists", id);
	json_object_array_add(disks, json_object_get(opaque));
	return 0;
}

static void folder_put(struct json_object *args)
{
	char folder[PATH_MAX];

	if (getcwd(folder, sizeof(folder)))
		js_put_str(args, "folder", folder);
}

static int attach_live(struct cli *c, void *disk, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);

	js_put(args, "disk", json_object_get(disk));
	folder_put(args);
	return cli_execute(c, "vm-attach-disk", args, &answer, NULL, e);
}

int plug_disk_attach(struct cli *c, struct json_object *disk, struct err *e)
{
	int r = js_get(disk, "backing") ? 0 : layers_put(disk, e);

	return r ? r : change_plug(c, attach_live, attach_edit, disk, e);
}

int verb_attach_disk(struct cli *c)
{
	CLEANUP_JS struct json_object *disk = disk_of_options(c);
	struct err e;
	int r = disk ? plug_disk_attach(c, disk, &e) : CLI_USAGE;

	return r == CLI_USAGE ? r : change_print(r, &e, "attach disk", "Disk attached");
}

/* ---- detach-disk ---- */

struct detach {
	const char *which;
	const char *image; /* NULL: whatever image it has */
};

/* Is the file the disk's image, or a backing file of it? The medium of a CD drive changes, so the drive has any. */
static bool has_image(struct json_object *disk, const char *path)
{
	struct json_object *backing = js_get_array(disk, "backing");
	bool found = !strcmp(js_get_str_or(disk, "device", ""), "cdrom") || image_is_same(js_get_str_or(disk, "path", ""), path);

	for (size_t i = 0; !found && backing && i < json_object_array_length(backing); i++)
		found = image_is_same(js_get_str_or(json_object_array_get_idx(backing, i), "path", ""), path);
	return found;
}

/* Returns the index of the disk to detach; -ENOENT; -EINVAL if it has another image. */
static int detach_find(const struct detach *w, struct json_object *disks, struct err *e)
{
	int i = change_find_disk(disks, w->which, e);
	struct json_object *disk = i < 0 ? NULL : json_object_array_get_idx(disks, (size_t)i);

	if (!w->image || !disk || has_image(disk, w->image))
		return i;
	return err_set(e, -EINVAL, ERR_INVALID, "disk %s has the image %s, not %s; cairn domblklist shows which disk has which image", w->which,
		js_get_str(disk, "path"), w->image);
}

static int detach_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct json_object *disks = js_get_array(definition, "disks");
	int i = detach_find(opaque, disks, e);

	(void)c;
	if (i < 0)
		return i;
	json_object_array_del_idx(disks, (size_t)i, 1);
	return 0;
}

static int detach_live(struct cli *c, void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL, *running = NULL;
	const char *timeout = option_value(c, "timeout");
	const struct detach *w = opaque;
	struct json_object *args;
	int r = w->image ? change_read_running(c, c->pos[0], &running, e) : 0;

	if (running)
		r = detach_find(w, js_get_array(running, "disks"), e);
	if (r < 0)
		return r;
	args = cli_vm_args(c->pos[0]);
	js_put_str(args, "device", w->which);
	if (timeout)
		js_put_int(args, "timeout", strtol(timeout, NULL, 10));
	return cli_execute(c, "vm-detach-device", args, &answer, NULL, e);
}

int plug_disk_detach(struct cli *c, const char *which, const char *image, struct err *e)
{
	struct detach w = { which, image };

	return change_plug(c, detach_live, detach_edit, &w, e);
}

int verb_detach_disk(struct cli *c)
{
	struct err e;
	int r = plug_disk_detach(c, c->pos[1], NULL, &e);

	return r == CLI_USAGE ? r : change_print(r, &e, "detach disk", "Disk detached");
}

/* ---- change-media ---- */

enum media { MEDIA_UPDATE, MEDIA_INSERT, MEDIA_EJECT };

struct media_edit {
	enum media what;
	const char *source, *format; /* NULL: eject */
};

static int media_check(const struct media_edit *m, struct json_object *disk, const char *name,
	struct err *e)
{
	const char *device = js_get_str(disk, "device"), *source = js_get_str(disk, "path");

	if (!device || strcmp(device, "cdrom"))
		return err_set(e, -EINVAL, ERR_INVALID, "The disk device '%s' is not removable", name);
	if (m->what == MEDIA_EJECT && !source)
		return err_set(e, -EINVAL, ERR_INVALID, "The disk device '%s' doesn't have media", name);
	if (m->what == MEDIA_INSERT && source)
		return err_set(e, -EINVAL, ERR_INVALID, "The disk device '%s' already has media", name);
	return 0;
}

static int media_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	static const char *const of_medium[] = { "path", "format", "data_file", "backing" };
	struct json_object *disks = js_get_array(definition, "disks"), *disk;
	const struct media_edit *m = opaque;
	int i = change_find_disk(disks, c->pos[1], e), r;

	if (i < 0)
		return i;
	disk = json_object_array_get_idx(disks, (size_t)i);
	r = media_check(m, disk, c->pos[1], e);
	if (r < 0)
		return r;
	for (size_t k = 0; k < ARRAY_SIZE(of_medium); k++)
		json_object_object_del(disk, of_medium[k]);
	if (m->source) {
		js_put_str(disk, "path", m->source);
		js_put_str(disk, "format", m->format);
	}
	return layers_put(disk, e);
}

int plug_medium_change(struct cli *c, const char *id, struct json_object *medium, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);

	js_put_str(args, "disk", id);
	if (option_flag(c, "force"))
		js_put_bool(args, "force", true);
	if (medium) {
		js_put(args, "medium", medium);
		folder_put(args);
	}
	return cli_execute(c, "vm-change-medium", args, &answer, NULL, e);
}

static int media_live(struct cli *c, void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *definition = NULL;
	const struct media_edit *m = opaque;
	struct json_object *disk, *medium = NULL;
	int r = change_read_running(c, c->pos[0], &definition, e), i;

	if (r < 0)
		return r;
	i = change_find_disk(js_get_array(definition, "disks"), c->pos[1], e);
	if (i < 0)
		return i;
	disk = json_object_array_get_idx(js_get_array(definition, "disks"), (size_t)i);
	r = media_check(m, disk, c->pos[1], e);
	if (r < 0)
		return r;
	if (m->source) {
		medium = json_object_new_object();
		js_put_str(medium, "path", m->source);
		js_put_str(medium, "format", m->format);
		r = layers_put(medium, e);
	}
	if (r < 0) {
		json_object_put(medium);
		return r;
	}
	return plug_medium_change(c, js_get_str(disk, "id"), medium, e);
}

static int media_parse(struct cli *c, struct media_edit *m)
{
	bool eject = option_flag(c, "eject"), insert = option_flag(c, "insert"),
	     update = option_flag(c, "update");

	if (eject + insert + update > 1)
		return cli_usage(c, "--eject, --insert and --update exclude each other");
	m->what = eject ? MEDIA_EJECT : insert ? MEDIA_INSERT : MEDIA_UPDATE;
	m->source = c->npos > 2 ? c->pos[2] : NULL;
	if (m->what == MEDIA_EJECT)
		m->source = NULL;
	else if (!m->source)
		return cli_usage(c, "No source specified for %s media", insert ? "inserting" : "updating");
	return m->source ? format_choose(c, m->source, &m->format) : 0;
}

int verb_change_media(struct cli *c)
{
	static const char *const done[] = { "updated", "inserted", "ejected" };
	static const char *const wanted[] = { "update", "insert", "eject" };
	struct media_edit m = { 0 };
	struct err e;
	int r = media_parse(c, &m);

	if (r)
		return r;
	r = change_plug(c, media_live, media_edit, &m, &e);
	if (r == CLI_USAGE)
		return r;
	if (r < 0)
		return cli_fail(&e, "Failed to %s media", wanted[m.what]);
	if (!r)
		say("Successfully %s media.\n", done[m.what]);
	return CLI_OK;
}

/* ---- domblklist ---- */

static const char *type_of(const char *path)
{
	struct stat st;

	return path && stat(path, &st) == 0 && S_ISBLK(st.st_mode) ? "block" : "file";
}

static void disks_print(struct json_object *disks, bool details)
{
	static const char *const heads[] = { "Type", "Device", "Target", "Source", "Cache" };
	size_t from = details ? 0 : 2;
	struct table t;

	table_init(&t, heads + from, details ? 5 : 2);
	for (size_t i = 0; i < json_object_array_length(disks); i++) {
		struct json_object *d = json_object_array_get_idx(disks, i);
		const char *cells[] = { type_of(js_get_str(d, "path")), js_get_str_or(d, "device", "-"),
			js_get_str_or(d, "id", "-"), js_get_str_or(d, "path", "-"), js_get_str_or(d, "cache", "none") };

		table_add(&t, cells + from);
	}
	table_finish(&t, stdout);
}

int verb_domblklist(struct cli *c)
{
	CLEANUP_JS struct json_object *disks = NULL;
	struct err e;

	if (change_read_list(c, c->pos[0], "disks", &disks, &e) < 0)
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	if (c->format == CLI_TABLE)
		disks_print(disks, option_flag(c, "details"));
	else
		output_print(stdout, c->format, disks);
	return CLI_OK;
}
