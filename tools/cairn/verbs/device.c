/* attach-device, detach-device and update-device: change the disk or the interface that a file describes. */
#include "api/definition/definition.h"
#include "api/schema/disk_tune.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/verbs/disk_limits.h"
#include "tools/cairn/verbs/plug.h"
#include "tools/cairn/xml.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct device {
	struct json_object *o; /* as definition_to_json() has it, but without an id or a MAC address that the file lacks */
	const char *list;      /* its key in a definition: "disks" or "interfaces" */
	bool is_disk;
	struct definition_file file;
};

/* ---- the file ---- */

static struct json_object *only_of(struct json_object *definition, const char *list)
{
	struct json_object *a = js_get_array(definition, list);

	return a && json_object_array_length(a) == 1 ? json_object_array_get_idx(a, 0) : NULL;
}

static size_t count_of(struct json_object *definition, const char *list)
{
	struct json_object *a = js_get_array(definition, list);

	return a ? json_object_array_length(a) : 0;
}

/* Check the device, and take it as a definition has it, with absolute paths. definition: the file's, or a copy with
 * more members. *ret: the caller owns it. */
static int device_take(const struct device *d, struct json_object *definition, struct json_object **ret, struct err *e)
{
	static const char *const names[] = { "id", "mac" };
	struct json_object *given = only_of(definition, d->list);
	CLEANUP_JS struct json_object *all = NULL;
	struct definition *parsed;
	int r = definition_parse(definition, d->file.folder, &parsed, e);

	if (r < 0)
		return definition_file_locate(&d->file, r, e);
	all = definition_to_json(parsed);
	definition_free(parsed);
	*ret = json_object_get(only_of(all, d->list));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!js_get(given, names[i]))
			json_object_object_del(*ret, names[i]);
	return 0;
}

/* Returns 0 or -errno. Call device_done() in either case. */
static int device_read(struct cli *c, struct device *d, struct err *e)
{
	const char *path = c->pos[1];
	size_t disks, interfaces;
	int r = device_file_read(path, &d->file, e);

	if (r < 0)
		return r;
	warnings_print(d->file.warnings);
	disks = count_of(d->file.definition, "disks");
	interfaces = count_of(d->file.definition, "interfaces");
	if (disks + interfaces != 1)
		return err_set(e, -EINVAL, ERR_INVALID, "%s has %zu disks and %zu interfaces; give each device, which must be a disk or an "
			"interface, a file of its own", path, disks, interfaces);
	d->is_disk = disks;
	d->list = disks ? "disks" : "interfaces";
	return device_take(d, d->file.definition, &d->o, e);
}

static void device_done(struct device *d)
{
	json_object_put(d->o);
	definition_file_done(&d->file);
}

/* Run a verb: read the device, and act on it. */
static int device_verb(struct cli *c, int (*act)(struct cli *c, struct device *d, struct err *e), const char *what, const char *done)
{
	struct device d = { 0 };
	struct err e;
	int r = device_read(c, &d, &e);
	char words[300];

	if (!r && d.is_disk && !js_get(d.o, "id"))
		r = err_set(&e, -EINVAL, ERR_INVALID, "the disk has no id; give it one, such as \"vdb\"");
	if (!r)
		r = act(c, &d, &e);
	device_done(&d);
	snprintf(words, sizeof(words), "%s device from %.200s", what, c->pos[1]);
	return r == CLI_USAGE ? r : change_print(r, &e, words, done);
}

/* ---- attach-device and detach-device ---- */

static int attach(struct cli *c, struct device *d, struct err *e)
{
	return d->is_disk ? plug_disk_attach(c, d->o, e) : plug_interface_attach(c, d->o, js_get(d->o, "id"), e);
}

int verb_attach_device(struct cli *c)
{
	return device_verb(c, attach, "attach", "Device attached");
}

static int detach(struct cli *c, struct device *d, struct err *e)
{
	return d->is_disk ? plug_disk_detach(c, js_get_str(d->o, "id"), js_get_str(d->o, "path"), e)
			  : plug_interface_detach(c, js_get_str(d->o, "type"), js_get_str(d->o, "mac"), e);
}

int verb_detach_device(struct cli *c)
{
	return device_verb(c, detach, "detach", "Device detached");
}

/* ---- update-device ---- */

static bool names_interface(struct json_object *of, struct json_object *o)
{
	const char *mac = js_get_str(of, "mac"), *id = js_get_str(of, "id"), *its = js_get_str(o, "mac");

	if (mac)
		return its && !strcasecmp(its, mac);
	return id ? !strcmp(js_get_str_or(o, "id", ""), id) : !strcmp(js_get_str_or(o, "type", ""), js_get_str_or(of, "type", "-"));
}

/* Find the device in a definition. Returns its index, or -errno. */
static int device_find(struct json_object *definition, const struct device *d, struct err *e)
{
	struct json_object *list = js_get_array(definition, d->list);
	int found = -1, n = 0;

	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		if (d->is_disk ? strcmp(js_get_str(o, "id"), js_get_str(d->o, "id")) != 0 : !names_interface(d->o, o))
			continue;
		found = (int)i;
		n++;
	}
	if (n == 1)
		return found;
	if (n)
		return err_set(e, -EINVAL, ERR_INVALID, "the VM has %d interfaces that fit; give the MAC address of one", n);
	return d->is_disk ? err_set(e, -ENOENT, ERR_NOT_FOUND, "the VM has no disk '%s'; to list its disks: cairn domblklist", js_get_str(d->o, "id"))
			  : err_set(e, -ENOENT, ERR_NOT_FOUND, "the VM has no such interface; to list its interfaces: cairn domiflist");
}

static bool is_in(const char *key, const char *const *list)
{
	while (*list && strcmp(*list, key))
		list++;
	return *list;
}

#define LIMIT_KEY(key, libvirt, field, kind, about) key,
static const char *const of_limits[] = { DISK_TUNE_EACH(LIMIT_KEY) NULL }, *const of_medium[] = { "path", "format", "data_file", "backing", NULL },
	*const of_interface[] = { "link", "bandwidth", "egress", NULL };

static bool is_cdrom(const struct device *d)
{
	return d->is_disk && !strcmp(js_get_str_or(d->o, "device", ""), "cdrom");
}

/* Which key other than these differs? An id, a MAC address, a slot and backing files that the file lacks stay. */
static const char *other_difference(struct json_object *was, struct json_object *now, const char *const *but)
{
	static const char *const kept[] = { "id", "mac", "slot", "backing", "forwards", NULL };

	json_object_object_foreach(was, key, old)
		if (!is_in(key, but) && !json_object_equal(old, js_get(now, key)) && !(is_in(key, kept) && !js_get(now, key)))
			return key;
	json_object_object_foreach(now, name, value)
		if (!is_in(name, but) && !json_object_equal(value, js_get(was, name)))
			return name;
	return NULL;
}

static bool differs(struct json_object *was, struct json_object *now, const char *const *keys)
{
	for (; *keys; keys++)
		if (!json_object_equal(js_get(was, *keys), js_get(now, *keys)))
			return true;
	return false;
}

static int limits_live(struct cli *c, struct json_object *was, struct json_object *now, struct err *e)
{
	struct json_object *limits;

	if (!differs(was, now, of_limits))
		return 0;
	limits = json_object_new_object();
	for (unsigned i = 0; of_limits[i]; i++)
		if (!json_object_equal(js_get(was, of_limits[i]), js_get(now, of_limits[i])))
			js_put_int(limits, of_limits[i], js_get_int(now, of_limits[i], 0)); /* 0: no limit */
	return disk_limits_set(c, js_get_str(was, "id"), limits, e);
}

static int medium_live(struct cli *c, struct json_object *was, struct json_object *now, struct err *e)
{
	static const char *const source[] = { "path", "format", "data_file", NULL };
	struct json_object *medium = NULL;

	if (!differs(was, now, source)) /* the file may lack the backing files */
		return 0;
	if (js_get(now, "path")) {
		medium = json_object_new_object();
		for (unsigned i = 0; of_medium[i]; i++)
			if (js_get(now, of_medium[i]))
				js_put(medium, of_medium[i], json_object_get(js_get(now, of_medium[i])));
	}
	return plug_medium_change(c, js_get_str(was, "id"), medium, e);
}

/* egress has to be alone in its call. */
static int egress_live(struct cli *c, struct json_object *was, struct json_object *now, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args, *rules = js_get(now, "egress");

	if (json_object_equal(js_get(was, "egress"), rules))
		return 0;
	args = cli_vm_args(c->pos[0]);
	js_put_str(args, "interface", js_get_str(was, "id"));
	if (rules)
		js_put(args, "egress", json_object_get(rules));
	else
		js_put_bool(args, "no-egress", true);
	return cli_execute(c, "vm-set-interface", args, &answer, NULL, e);
}

static int interface_live(struct cli *c, struct json_object *was, struct json_object *now, struct err *e)
{
	static const char *const directions[] = { "inbound", "outbound" }, *const plain[] = { "link", "bandwidth", NULL };
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args, *limit;
	int r = egress_live(c, was, now, e);

	if (r < 0 || !differs(was, now, plain))
		return r;
	args = cli_vm_args(c->pos[0]);
	js_put_str(args, "interface", js_get_str(was, "id"));
	js_put_str(args, "link", js_get_str_or(now, "link", "up"));
	for (size_t i = 0; i < ARRAY_SIZE(directions); i++) {
		limit = js_get(js_get(now, "bandwidth"), directions[i]);
		js_put(args, directions[i], limit ? json_object_get(limit) : json_object_new_object());
	}
	return cli_execute(c, "vm-set-interface", args, &answer, NULL, e);
}

/* Add the members that an object lacks. */
static void members_add(struct json_object *o, struct json_object *more)
{
	json_object_object_foreach(more, key, value) {
		struct json_object *has = js_get(o, key);

		if (!has)
			js_put(o, key, json_object_get(value));
		else if (json_object_is_type(has, json_type_object) && json_object_is_type(value, json_type_object))
			members_add(has, value);
	}
}

static bool is_same(struct json_object *a, struct json_object *b, const char *key)
{
	return json_object_equal(js_get(a, key), js_get(b, key));
}

/* Find what libvirt's elements cannot express of a device. *ret: as a definition has it; the caller owns it; NULL:
 * nothing. */
static int inexpressible(const struct device *d, struct json_object *was, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *alone = NULL, *extra = NULL;
	int r;

	if (json_object_deep_copy(d->file.definition, &alone, NULL) < 0)
		return err_set_errno(e, -ENOMEM, "the device");
	json_object_array_put_idx(js_get_array(alone, d->list), 0, json_object_get(was));
	r = xml_extra(alone, &extra, e);
	if (!r)
		*ret = json_object_get(js_get(js_get(extra, d->list), js_get_str_or(was, "id", "")));
	return r;
}

/* Make the device with the settings of `was` that a file in XML cannot take away, because no element expresses them. A
 * device of another type gets none of them. *ret: the caller owns it. */
static int device_complete(const struct device *d, struct json_object *was, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *more = NULL, *all = NULL;
	int r = d->file.origins && is_same(was, d->o, "type") ? inexpressible(d, was, &more, e) : 0;

	if (r < 0)
		return r;
	if (json_object_deep_copy(more ? d->file.definition : d->o, more ? &all : ret, NULL) < 0)
		return err_set_errno(e, -ENOMEM, "the device");
	if (!more)
		return 0;
	if (!is_same(was, d->o, "path")) { /* of the image */
		json_object_object_del(more, "data_file");
		json_object_object_del(more, "backing");
	}
	members_add(only_of(all, d->list), more);
	return device_take(d, all, ret, e);
}

static int update_live(struct cli *c, void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *running = NULL, *now = NULL;
	struct device *d = opaque;
	const char *const *may = !d->is_disk ? of_interface : is_cdrom(d) ? of_medium : of_limits;
	int r = change_read_running(c, c->pos[0], &running, e), at = r ? r : device_find(running, d, e);
	struct json_object *was;
	const char *other;

	if (at < 0)
		return at;
	was = json_object_array_get_idx(js_get_array(running, d->list), (size_t)at);
	r = device_complete(d, was, &now, e);
	if (r < 0)
		return r;
	other = other_difference(was, now, may);
	if (other)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s of %s cannot change while the VM runs; use --config, or detach the device and "
			"attach it anew", other, js_get_str(was, "id"));
	if (!d->is_disk)
		return interface_live(c, was, now, e);
	return is_cdrom(d) ? medium_live(c, was, now, e) : limits_live(c, was, now, e);
}

/* The device keeps its id, its MAC address, its slot, and its backing files as long as it has its image. */
static int update_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	static const char *const kept[] = { "id", "mac", "slot", NULL };
	struct device *d = opaque;
	int at = device_find(definition, d, e);
	struct json_object *was, *now = NULL;
	bool has_path;
	int r;

	(void)c;
	if (at < 0)
		return at;
	was = json_object_array_get_idx(js_get_array(definition, d->list), (size_t)at);
	r = device_complete(d, was, &now, e);
	if (r < 0)
		return r;
	has_path = is_same(was, now, "path");
	json_object_object_foreach(was, key, value)
		if (!js_get(now, key) && (is_in(key, kept) || (has_path && !strcmp(key, "backing"))))
			js_put(now, key, json_object_get(value));
	json_object_array_put_idx(js_get_array(definition, d->list), (size_t)at, now);
	return 0;
}

static int update(struct cli *c, struct device *d, struct err *e)
{
	return change_plug(c, update_live, update_edit, d, e);
}

int verb_update_device(struct cli *c)
{
	return device_verb(c, update, "update", "Device updated");
}
