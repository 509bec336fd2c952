#include "tools/cairn/verbs/snapshot_external.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/backing.h"
#include "tools/cairn/change.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/guest_agent.h"
#include "tools/cairn/img_run.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DISKS_MAX 24
#define FREEZE_TIMEOUT_S 30

struct overlay {
	char disk[16], base[PATH_MAX], path[PATH_MAX];
	const char *format; /* of the base */
	bool made;
};

struct external {
	struct overlay list[DISKS_MAX];
	size_t n;
	bool live, reuse;
	struct json_object *kept; /* an array of disks of a next start that has images of its own; owned; NULL: none */
	bool outdated; /* a disk of the definition has another image than at the begin */
	struct json_object *was; /* the disks of the definition before it named the overlays; owned */
};

bool snapshot_is_external(const struct cli *c)
{
	return option_flag(c, "external") || option_value(c, "diskspec") || (option_flag(c, "disk-only") && option_flag(c, "no-metadata"));
}

/* ---- options ---- */

/* A --diskspec: DISK[,snapshot=external|no][,driver=qcow2][,file=PATH]. */
struct spec {
	char disk[PATH_MAX], file[PATH_MAX];
	bool left_out;
};

static int spec_key(const struct cli *c, struct spec *s, const char *key, const char *value)
{
	if (!strcmp(key, "snapshot") && !strcmp(value, "no"))
		s->left_out = true;
	else if (!strcmp(key, "file"))
		snprintf(s->file, sizeof(s->file), "%s", value);
	else if ((strcmp(key, "snapshot") || strcmp(value, "external")) && (strcmp(key, "driver") || strcmp(value, "qcow2")))
		return cli_usage(c, "--diskspec: %s=%s is not supported; use snapshot=external or no, driver=qcow2, file=PATH", key, value);
	return 0;
}

/* As in virsh, two commas stand for one in a value. */
static int spec_parse(const struct cli *c, const char *text, struct spec *s)
{
	char part[PATH_MAX];
	bool first = true;
	int r = 0;

	*s = (struct spec){ 0 };
	while (!r && *text) {
		size_t n = 0;
		char *eq;

		while (*text && (*text != ',' || text[1] == ',') && n < sizeof(part) - 1) {
			text += *text == ',';
			part[n++] = *text++;
		}
		part[n] = 0;
		text += *text == ',';
		eq = strchr(part, '=');
		if (first)
			snprintf(s->disk, sizeof(s->disk), "%s", part);
		else if (!eq)
			return cli_usage(c, "--diskspec: \"%s\" has no value", part);
		else {
			*eq = 0;
			r = spec_key(c, s, part, eq + 1);
		}
		first = false;
	}
	return r;
}

static bool path_is_taken(const struct external *x, const char *path)
{
	for (size_t i = 0; i < x->n; i++)
		if (!strcmp(x->list[i].path, path))
			return true;
	return false;
}

/* The overlay lies beside the image; as in libvirt, the snapshot's name replaces the suffix. If that is the overlay of
 * an earlier disk, as with data.raw and data.qcow2, the disk's id stands before it. */
static int path_default(const struct external *x, struct overlay *o, const char *name, struct err *e)
{
	const char *file = strrchr(o->base, '/') + 1, *dot = strrchr(file, '.');
	int stem = dot && dot > file ? (int)(dot - o->base) : (int)strlen(o->base), n;
	char path[PATH_MAX];

	n = snprintf(path, sizeof(path), "%.*s.%s", stem, o->base, name);
	if (n < PATH_MAX && path_is_taken(x, path))
		n = snprintf(path, sizeof(path), "%.*s-%s.%s", stem, o->base, o->disk, name);
	if (n >= PATH_MAX)
		return err_set(e, -ENAMETOOLONG, ERR_INVALID, "the path of the overlay of %.200s is too long", o->base);
	memcpy(o->path, path, (size_t)n + 1);
	return 0;
}

static int path_absolute(const char *path, char *ret, struct err *e)
{
	char folder[PATH_MAX];

	if (*path != '/' && !getcwd(folder, sizeof(folder)))
		return err_set_errno(e, -errno, "the working directory");
	if (snprintf(ret, PATH_MAX, "%s%s%s", *path == '/' ? "" : folder, *path == '/' ? "" : "/", path) >= PATH_MAX)
		return err_set(e, -ENAMETOOLONG, ERR_INVALID, "%.200s: the path is too long", path);
	return 0;
}

static int overlay_add(struct external *x, struct json_object *disk, const char *name, const struct spec *s, struct err *e)
{
	struct overlay *o = &x->list[x->n];
	int r;

	if (s && s->left_out)
		return 0;
	snprintf(o->disk, sizeof(o->disk), "%s", js_get_str_or(disk, "id", ""));
	snprintf(o->base, sizeof(o->base), "%s", js_get_str_or(disk, "path", ""));
	o->format = js_get_str_or(disk, "format", "raw");
	r = s && *s->file ? path_absolute(s->file, o->path, e) : path_default(x, o, name, e);
	x->n++;
	return r;
}

static bool is_left_out(struct json_object *disk)
{
	return js_get_bool(disk, "readonly", false) || !js_get_str(disk, "path") || !strcmp(js_get_str_or(disk, "device", "disk"), "cdrom");
}

/* Returns 0; CLI_USAGE after a message; -errno. */
static int plan(struct cli *c, struct json_object *disks, const char *name, struct external *x, struct err *e)
{
	const char *values[DISKS_MAX];
	size_t n = option_values(c, "diskspec", values, DISKS_MAX), used = 0;
	int r = 0;

	for (size_t i = 0; disks && i < json_object_array_length(disks) && !r; i++) {
		struct json_object *disk = json_object_array_get_idx(disks, i);
		struct spec s, *found = NULL;

		for (size_t k = 0; k < n && !found; k++) {
			r = spec_parse(c, values[k], &s);
			if (r)
				return r;
			if (!strcmp(s.disk, js_get_str_or(disk, "id", "")) || !strcmp(s.disk, js_get_str_or(disk, "path", "")))
				found = &s;
		}
		used += found != NULL;
		if (found && !found->left_out && is_left_out(disk))
			r = err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s is read-only, so it needs no snapshot", s.disk);
		else if (!is_left_out(disk) && x->n < DISKS_MAX)
			r = overlay_add(x, disk, name, found, e);
	}
	if (!r && used < n)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "a --diskspec names a disk that domain '%s' does not have", c->pos[0]);
	if (!r && !x->n)
		return err_set(e, -EINVAL, ERR_INVALID, "no disk is left for the snapshot");
	return r;
}

/* ---- the overlays ---- */

/* Read the header of the base. shares: a VM's process has it open. */
static int base_look(const struct overlay *o, bool shares, struct json_object **ret, struct err *e)
{
	const char *const alone[] = { "info", "-f", o->format, "--output", "json", "--", o->base, NULL };
	const char *const shared[] = { "info", "-U", "-f", o->format, "--output", "json", "--", o->base, NULL };

	return img_run(shares ? shared : alone, ret, e);
}

/* Check the base of a VM that is off, as the process of a running VM does. about: of base_look(). */
static int base_check(const struct overlay *o, struct json_object *about, struct err *e)
{
	struct json_object *snapshots = js_get_array(about, "snapshots");
	size_t n = snapshots ? json_object_array_length(snapshots) : 0;

	return !n ? 0 : err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the image of disk %s has internal snapshots (%zu), or live clones read it: the overlay would "
		"hide them; delete the snapshots first", o->disk, n);
}

static int overlay_make(struct overlay *o, struct json_object *about, struct err *e)
{
	char size[24];
	const char *const make[] = { "create", "-q", "-u", "-f", "qcow2", "-b", o->base, "-F", o->format, "--", o->path, size, NULL };
	CLEANUP_CLOSE int fd = -1;

	snprintf(size, sizeof(size), "%" PRId64, js_get_int(about, "virtual-size", 0));
	fd = open(o->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && errno == EEXIST)
		return err_set(e, -EEXIST, ERR_EXISTS, "disk %s: %s exists already; choose another name, or give --diskspec %s,file=PATH", o->disk, o->path,
			o->disk);
	if (fd < 0)
		return err_set_errno(e, -errno, "%s", o->path);
	o->made = true;
	return img_run(make, NULL, e);
}

static int overlays_make(struct external *x, struct err *e)
{
	int r = 0;

	if (x->live && x->reuse)
		return 0;
	for (size_t i = 0; i < x->n && !r; i++) {
		CLEANUP_JS struct json_object *about = NULL;

		r = base_look(&x->list[i], x->live, &about, e);
		if (!r && !x->live)
			r = base_check(&x->list[i], about, e);
		if (!r && !x->reuse)
			r = overlay_make(&x->list[i], about, e);
	}
	return r;
}

static void overlays_remove(struct external *x)
{
	for (size_t i = 0; i < x->n; i++)
		if (x->list[i].made)
			unlink(x->list[i].path);
}

/* ---- the definition ---- */

static struct json_object *disk_of_id(struct json_object *disks, const char *id)
{
	int at = change_find(disks, "id", id);

	return at < 0 ? NULL : json_object_array_get_idx(disks, (size_t)at);
}

/* Let a disk that has the image `base` have the overlay. Returns whether there is such a disk. */
static bool disk_edit(struct json_object *disks, const struct overlay *o)
{
	struct json_object *disk = disk_of_id(disks, o->disk), *layers, *layer, *below;

	if (!disk || !image_is_same(js_get_str_or(disk, "path", ""), o->base))
		return false;
	layers = json_object_new_array();
	layer = json_object_new_object();
	js_put_str(layer, "path", o->base);
	js_put_str(layer, "format", o->format);
	if (js_get(disk, "data_file"))
		js_put(layer, "data_file", json_object_get(js_get(disk, "data_file")));
	json_object_array_add(layers, layer);
	below = js_get_array(disk, "backing");
	for (size_t i = 0; below && i < json_object_array_length(below); i++)
		json_object_array_add(layers, json_object_get(json_object_array_get_idx(below, i)));
	json_object_object_del(disk, "data_file");
	js_put(disk, "backing", layers);
	js_put_str(disk, "path", o->path);
	js_put_str(disk, "format", "qcow2");
	return true;
}

/* Note the disk of the next start if it has an image of its own. */
static void kept_note(struct external *x, struct json_object *disks, const struct overlay *o)
{
	struct json_object *disk = disk_of_id(disks, o->disk);

	if (!disk || image_is_same(js_get_str_or(disk, "path", ""), o->path))
		return;
	if (!x->kept)
		x->kept = json_object_new_array();
	json_object_array_add(x->kept, json_object_get(disk));
}

static int definition_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct external *x = opaque;
	struct json_object *disks = js_get_array(definition, "disks");

	json_object_put(STEAL_PTR(x->was));
	json_object_put(STEAL_PTR(x->kept));
	json_object_deep_copy(disks, &x->was, NULL);
	for (size_t i = 0; disks && i < x->n; i++) {
		if (disk_edit(disks, &x->list[i]))
			continue;
		if (x->live) {
			kept_note(x, disks, &x->list[i]);
			continue;
		}
		x->outdated = true;
		return err_set(e, -EPERM, ERR_WRONG_STATE, "disk %s of VM '%s' has got another image meanwhile; try again", x->list[i].disk,
			c->pos[0]);
	}
	return 0;
}

/* Undo definition_edit(). */
static int definition_edit_back(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct external *x = opaque;
	struct json_object *disks = js_get_array(definition, "disks");

	(void)c;
	(void)e;
	for (size_t i = 0; disks && i < x->n; i++) {
		int at = change_find(disks, "path", x->list[i].path), was = change_find(x->was, "id", x->list[i].disk);

		if (at >= 0 && was >= 0)
			json_object_array_put_idx(disks, (size_t)at, json_object_get(json_object_array_get_idx(x->was, (size_t)was)));
	}
	return 0;
}

/* ---- the steps ---- */

static int disks_ask(struct cli *c, const struct external *x, bool check_only, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]), *disks = json_object_new_array();

	for (size_t i = 0; i < x->n; i++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "disk", x->list[i].disk);
		js_put_str(o, "path", x->list[i].path);
		json_object_array_add(disks, o);
	}
	js_put(args, "disks", disks);
	if (check_only)
		js_put_bool(args, "check-only", true);
	return cli_execute(c, "vm-disk-snapshot", args, &answer, NULL, e);
}

static int guest_freeze(struct cli *c, bool freeze, struct err *e)
{
	CLEANUP_JS struct json_object *v = NULL;

	return guest_agent_call(c, c->pos[0], freeze ? "guest-fsfreeze-freeze" : "guest-fsfreeze-thaw", NULL, false, FREEZE_TIMEOUT_S, &v, e);
}

/* Return whether the daemon or the VM's process has refused the change, so that the disks are as before. */
static bool is_refusal(int r, const struct err *e)
{
	return r == -EREMOTEIO && (e->cls == ERR_INVALID || e->cls == ERR_BUSY || e->cls == ERR_NOT_FOUND || e->cls == ERR_UNSUPPORTED ||
		e->cls == ERR_CORRUPT || e->cls == ERR_WRONG_STATE);
}

static int disks_switch(struct cli *c, const struct external *x, struct err *e)
{
	bool quiesce = option_flag(c, "quiesce");
	struct err own;
	int r = quiesce ? guest_freeze(c, true, e) : 0;

	if (r < 0)
		return r;
	r = disks_ask(c, x, false, e);
	if (quiesce && guest_freeze(c, false, &own) < 0)
		fprintf(stderr, "warning: the file systems of domain '%s' stay frozen: %s; try cairn domfsthaw\n", c->pos[0], own.msg);
	return r;
}

/* The definition names the overlays first: a start after a crash then reads the same, and never writes to the old
 * images. */
static int external_run(struct cli *c, struct external *x, struct err *e)
{
	bool defined;
	struct err own;
	int r = overlays_make(x, e);

	if (!r && x->live)
		r = disks_ask(c, x, true, e);
	if (r < 0) {
		overlays_remove(x);
		return r;
	}
	r = change_make_config(c, c->pos[0], true, definition_edit, x, e);
	defined = r >= 0;
	if (defined && x->live)
		r = disks_switch(c, x, e);
	for (size_t i = 0; r >= 0 && x->kept && i < json_object_array_length(x->kept); i++)
		note_kept_image(c->pos[0], json_object_array_get_idx(x->kept, i));
	if (r >= 0)
		return 0;
	/* After another error than an answer of the daemon, the definition may name the overlays. */
	if (defined ? !is_refusal(r, e) : r != -EREMOTEIO && !x->outdated)
		fprintf(stderr, "warning: domain '%s' may use the overlays, so they stay; complete the snapshot with --reuse-external\n", c->pos[0]);
	else if (!defined)
		overlays_remove(x);
	else if (change_make_config(c, c->pos[0], true, definition_edit_back, x, &own) < 0)
		fprintf(stderr, "warning: the next start of domain '%s' has the overlays: %s\n", c->pos[0], own.msg);
	else
		overlays_remove(x);
	return r;
}

static int external_print(struct cli *c, const struct external *x, const char *name)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *disks = json_object_new_array();

	js_put_str(o, "name", name);
	js_put(o, "disks", disks);
	for (size_t i = 0; i < x->n; i++) {
		struct json_object *d = json_object_new_object();

		js_put_str(d, "disk", x->list[i].disk);
		js_put_str(d, "overlay", x->list[i].path);
		js_put_str(d, "snapshot", x->list[i].base);
		json_object_array_add(disks, d);
	}
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	say("Domain snapshot %s created\n", name);
	for (size_t i = 0; i < x->n; i++)
		printf("disk %s: %s, over %s\n", x->list[i].disk, x->list[i].path, x->list[i].base);
	return CLI_OK;
}

static int options_check(struct cli *c, const char *name)
{
	static const char *const other[] = { "halt", "all" };

	if (!option_flag(c, "disk-only"))
		return cli_usage(c, "an external snapshot has no memory: give --disk-only, too");
	for (size_t i = 0; i < ARRAY_SIZE(other); i++)
		if (option_flag(c, other[i]))
			return cli_usage(c, "--%s and --external exclude each other", other[i]);
	if (!name || !*name || strchr(name, '/'))
		return cli_usage(c, "an external snapshot needs a NAME without \"/\"");
	return 0;
}

int snapshot_external(struct cli *c, const char *name)
{
	CLEANUP_JS struct json_object *definition = NULL, *info = NULL;
	struct external *x = calloc(1, sizeof(*x));
	struct err e;
	int r = options_check(c, name);

	if (r) {
		free(x);
		return r;
	}
	r = x ? change_read_running(c, c->pos[0], &definition, &e) : err_set_errno(&e, -ENOMEM, "the disks");
	if (!r)
		r = cli_vm_info(c, c->pos[0], &info, &e);
	if (!r)
		r = plan(c, js_get_array(definition, "disks"), name, x, &e);
	if (r == CLI_USAGE) {
		free(x);
		return r;
	}
	if (!r) {
		x->live = js_get_int(info, "id", -1) >= 0;
		x->reuse = option_flag(c, "reuse-external");
		r = external_run(c, x, &e);
	}
	r = r < 0 ? cli_fail(&e, "Failed to create a snapshot of domain '%s'", c->pos[0]) : external_print(c, x, name);
	if (x) {
		json_object_put(x->was);
		json_object_put(x->kept);
	}
	free(x);
	return r;
}

/* ---- reverting and deleting ---- */

/* Return whether the overlay of `base` gets this path in a snapshot of that name without file=. */
static bool is_default_path(const char *path, const char *base, const char *disk, const char *name)
{
	struct external *x = must_alloc(calloc(1, sizeof(*x)));
	struct overlay *o = &x->list[1];
	struct err e;
	bool is;

	snprintf(o->base, sizeof(o->base), "%s", base);
	snprintf(o->disk, sizeof(o->disk), "%s", disk);
	is = path_default(x, o, name, &e) == 0 && !strcmp(o->path, path);
	x->list[x->n++] = *o; /* an earlier disk may have had that path */
	is = is || (path_default(x, o, name, &e) == 0 && !strcmp(o->path, path));
	free(x);
	return is;
}

/* Return the backing file of the disk that keeps the content of the external snapshot; NULL: none is known. */
static const char *content_find(struct json_object *disk, const char *name)
{
	struct json_object *backing = js_get_array(disk, "backing");
	const char *path = js_get_str_or(disk, "path", "");

	for (size_t i = 0; backing && i < json_object_array_length(backing); i++) {
		const char *below = js_get_str_or(json_object_array_get_idx(backing, i), "path", "");

		if (*below == '/' && is_default_path(path, below, js_get_str_or(disk, "id", ""), name))
			return below;
		path = below;
	}
	return NULL;
}

void snapshot_external_explain(struct cli *c, const char *name, const char *verb, struct err *e)
{
	CLEANUP_JS struct json_object *definition = NULL;
	bool deletes = !strcmp(verb, "delete");
	const char *layered = NULL; /* a disk with backing files */
	struct json_object *disks;
	struct err own;

	if (!name || e->cls != ERR_NOT_FOUND || change_read_running(c, c->pos[0], &definition, &own) < 0)
		return;
	disks = js_get_array(definition, "disks");
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *disk = json_object_array_get_idx(disks, i);
		const char *id = js_get_str_or(disk, "id", ""), *below = content_find(disk, name);

		if (below && deletes)
			err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "'%s' is an external snapshot: %.150s keeps the content of disk %s. Next: "
				"cairn blockcommit %s %s --pivot --delete", name, below, id, shell_word(c->pos[0]).s, id);
		else if (below)
			err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "'%s' is an external snapshot, to which cairn does not revert: %.150s keeps "
				"the content of disk %s. Shut the domain down and give the disk a new overlay on it: cairn-img create "
				"-b, cairn edit", name, below, id);
		if (below)
			return;
		if (!layered && js_get_array(disk, "backing"))
			layered = id;
	}
	if (layered)
		err_set(e, -ENOENT, ERR_NOT_FOUND, "%.220s. If it is external, a backing file of disk %s keeps the content (cairn domblklist --format json), "
			"and %s", strdupa(e->msg), layered, deletes ? "cairn blockcommit ends it" :
			"cairn-img create -b and cairn edit give the disk a new overlay on that file");
}
