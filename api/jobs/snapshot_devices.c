#include "api/jobs/snapshot_devices.h"
#include "api/access/authors.h"
#include "api/access/open_as.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_disk_free.h"
#include "api/vm/vm_medium.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_NAME "devices.json"
#define ENTRIES_MAX 64 /* the oldest ones go */

/* ---- the file ---- */

struct json_object *snapshot_devices_json(const struct vm *vm)
{
	struct json_object *o = definition_to_json(vm_live(vm));

	authors_put(o, vm_live(vm));
	return o;
}

/* Return the path of the image that has a VM's snapshots; "": there is none. The ids start again in another image,
 * which the VM may have after a blockcommit, or after a change of its definition. */
static const char *image_of(struct json_object *definition)
{
	struct json_object *disks = js_get_array(definition, "disks");

	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *d = json_object_array_get_idx(disks, i);

		if (!strcmp(js_get_str_or(d, "format", ""), "qcow2") && !strcmp(js_get_str_or(d, "device", "disk"), "disk") &&
			!js_get_bool(d, "readonly", false))
			return js_get_str_or(d, "path", "");
	}
	return "";
}

static bool is_of_image(struct json_object *entry, const char *image)
{
	return !strcmp(image_of(js_get(entry, "definition")), image);
}

static uint64_t first_id(struct json_object *entry)
{
	return (uint64_t)js_get_int(entry, "from", 0);
}

static bool devices_are_same(struct json_object *a, struct json_object *b)
{
	static const char *const keys[] = { "disks", "interfaces", "definer", "authors" };

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!json_object_equal(js_get(a, keys[i]), js_get(b, keys[i])))
			return false;
	return true;
}

void snapshot_devices_note(const struct vm *vm, const char *id, struct json_object *definition)
{
	CLEANUP_JS struct json_object *o = store_load_file(vm->host->store, vm->def->name, FILE_NAME);
	struct json_object *list, *last = NULL, *entry;
	const char *image = image_of(definition);
	uint64_t from = strtoull(id, NULL, 10);
	struct err e;

	if (!o)
		o = json_object_new_object();
	list = js_get_array(o, "devices");
	if (!list)
		js_put(o, "devices", list = json_object_new_array());
	/* Entries of deleted snapshots that had this id, or a higher one. */
	for (size_t i = json_object_array_length(list); i-- && !last;) {
		entry = json_object_array_get_idx(list, i);
		if (!is_of_image(entry, image))
			continue;
		if (first_id(entry) < from)
			last = entry;
		else
			json_object_array_del_idx(list, i, 1);
	}
	if (last && js_get_bool(last, "every", false) && devices_are_same(js_get(last, "definition"), definition))
		return;
	if (json_object_array_length(list) == ENTRIES_MAX)
		json_object_array_del_idx(list, 0, 1);
	entry = json_object_new_object();
	js_put_uint(entry, "from", from);
	js_put_bool(entry, "every", true);
	js_put(entry, "definition", json_object_get(definition));
	json_object_array_add(list, entry);
	if (store_put(vm->host->store, vm->def->name, FILE_NAME, o, STORE_SOON, NULL, &e) < 0)
		log_warn("snapshot", "VM '%s': the devices of snapshot %s are not noted, so a revert cannot attach them again: %s",
			vm->def->name, id, e.msg);
}

/* Load the definition that the VM ran with at a snapshot in the image.
 * disks_only: the snapshot may be one without memory. Older daemons noted nothing for these.
 * NULL: it is unknown. */
static struct definition *definition_then(const struct vm *vm, const char *id, const char *image, bool disks_only)
{
	CLEANUP_JS struct json_object *o = store_load_file(vm->host->store, vm->def->name, FILE_NAME);
	struct json_object *list = o ? js_get_array(o, "devices") : NULL, *found = NULL;
	uint64_t n = strtoull(id, NULL, 10);
	struct definition *d = NULL;
	struct err e;

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *entry = json_object_array_get_idx(list, i);

		if (first_id(entry) <= n && is_of_image(entry, image))
			found = disks_only && !js_get_bool(entry, "every", false) ? NULL : js_get(entry, "definition");
	}
	if (found && authors_parse_stored(found, &d, &e) < 0) {
		log_warn("snapshot", "VM '%s': " FILE_NAME " is damaged: %s", vm->def->name, e.msg);
		return NULL;
	}
	return d;
}

struct definition *snapshot_devices_load(const struct vm *vm, const char *id, bool disks_only)
{
	CLEANUP_JS struct json_object *now = definition_to_json(vm_live(vm));

	return definition_then(vm, id, image_of(now), disks_only);
}

/* ---- the plan ---- */

static ssize_t device_find(struct json_object *list, const char *id)
{
	for (size_t i = 0; id && list && i < json_object_array_length(list); i++) {
		const char *its = js_get_str(json_object_array_get_idx(list, i), "id");

		if (its && !strcmp(its, id))
			return (ssize_t)i;
	}
	return -1;
}

/* Give a CD drive the medium that it had.
 * Returns whether it has another one now. */
static bool medium_give_back(struct json_object *is, struct json_object *was)
{
	if (strcmp(js_get_str_or(is, "device", "disk"), "cdrom") != 0 || vm_medium_is_same(is, was))
		return false;
	vm_medium_put(is, was);
	return true;
}

/* Give an interface the slot in which the snapshot's guest knows it. Returns whether it has another one now. */
static bool slot_give_back(struct json_object *is, struct json_object *was)
{
	struct json_object *then = js_get(was, "slot"), *now = js_get(is, "slot");

	if (!then || !now || json_object_equal(then, now))
		return false;
	js_put(is, "slot", json_object_get(then));
	return true;
}

/* Interfaces that were never there together may have one slot. The later ones get a free one. */
static void slots_make_unique(struct json_object *interfaces)
{
	uint64_t taken = 0;

	for (size_t i = 0; i < json_object_array_length(interfaces); i++) {
		struct json_object *o = json_object_array_get_idx(interfaces, i);
		uint64_t slot = 1ull << (js_get_int(o, "slot", 0) & 63);

		if (slot > 1 && taken & slot)
			json_object_object_del(o, "slot");
		taken |= slot;
	}
}

/* Put the devices of `then` first in the list of `now`, in their order. Devices in both lists keep their present
 * settings, but for media and slots.
 * Returns whether `now` lacked one, or had them in another order, or has another medium. */
static bool devices_merge(struct json_object *now, struct json_object *then, const char *key)
{
	struct json_object *is = js_get_array(now, key), *was = js_get_array(then, key), *all = json_object_new_array();
	ssize_t last = -1;
	bool differ = false;

	for (size_t i = 0; was && i < json_object_array_length(was); i++) {
		struct json_object *device = json_object_array_get_idx(was, i), *own;
		ssize_t at = device_find(is, js_get_str(device, "id"));

		own = at < 0 ? NULL : json_object_array_get_idx(is, (size_t)at);
		differ |= at < last;
		differ |= at < 0 || medium_give_back(own, device);
		differ |= at >= 0 && slot_give_back(own, device);
		last = MAX(last, at);
		json_object_array_add(all, json_object_get(own ? own : device));
	}
	for (size_t i = 0; is && i < json_object_array_length(is); i++) {
		struct json_object *device = json_object_array_get_idx(is, i);

		if (device_find(was, js_get_str(device, "id")) < 0)
			json_object_array_add(all, json_object_get(device));
	}
	slots_make_unique(all);
	js_put(now, key, all);
	return differ;
}

int snapshot_devices_plan(const struct vm *vm, const struct definition *then, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *now = definition_to_json(vm_live(vm)), *was = then ? definition_to_json(then) : NULL;
	bool disks, interfaces;
	int r;

	if (!then)
		return 0;
	disks = devices_merge(now, was, "disks");
	interfaces = devices_merge(now, was, "interfaces");
	if (!disks && !interfaces)
		return 0;
	r = definition_parse_stored(now, ret, e);
	if (r < 0)
		return err_prefix(e, "the devices of the snapshot"), r;
	authors_restore(*ret, vm_live(vm), then);
	return 1;
}

/* ---- disks that are missing ---- */

/* Return whether snapshots cover the disk, and `in` does not have it. */
static bool is_missing(const struct definition_disk *d, const struct definition *in)
{
	return !d->read_only && d->layers[0].format == DEFINITION_FORMAT_QCOW2 && definition_disk_find(in, d->id) < 0;
}

/* Return a disk of `has` that is missing in `in`; NULL: there is none. only: a disk's id; "": any. */
static const struct definition_disk *disk_missing(const struct definition *has, const struct definition *in, const char *only)
{
	for (uint32_t i = 0; i < has->ndisks; i++)
		if ((!*only || !strcmp(only, has->disks[i].id)) && is_missing(&has->disks[i], in))
			return &has->disks[i];
	return NULL;
}

struct json_object *snapshot_devices_lacking(const struct vm *vm, const char *id)
{
	struct definition *then CLEANUP(definition_free_p) = snapshot_devices_load(vm, id, true);
	struct json_object *list = NULL;

	for (uint32_t i = 0; then && i < then->ndisks; i++) {
		if (!is_missing(&then->disks[i], vm_live(vm)))
			continue;
		if (!list)
			list = json_object_new_array();
		json_object_array_add(list, json_object_new_string(then->disks[i].id));
	}
	return list;
}

int snapshot_devices_check_images(const struct vm *vm, const struct definition *then, const char *name, const char *only, struct err *e)
{
	const struct definition_disk *stays = then ? disk_missing(then, vm->def, only) : NULL,
				     *fails = disk_missing(vm->def, vm_live(vm), only);

	if (!stays)
		stays = disk_missing(vm_live(vm), vm->def, only);
	if (stays)
		return err_set(e, -EINVAL, ERR_WRONG_STATE, "disk %s would stay as it is, because the next start of the VM has no such disk; add it "
			"first: cairn attach-disk %s PATH %s --config, or revert single disks with --disks-only --disk DISK",
			stays->id, shell_word(vm->def->name).s, stays->id);
	if (fails && (!then || definition_disk_find(then, fails->id) < 0))
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "disk %s of the VM's next start has no snapshot '%.200s'; revert single disks with "
			"--disks-only --disk DISK", fails->id, name);
	return 0;
}

/* ---- disks that have another image ---- */

static bool disk_reads(const struct definition_disk *d, const char *path)
{
	for (unsigned i = 0; i < d->nlayers; i++)
		if (!strcmp(d->layers[i].path, path))
			return true;
	return false;
}

/* Say that disk d has another image than `image`, and what to do. what: the start of the sentence. */
static void image_explain(const struct vm *vm, const struct definition_disk *d, enum err_class cls, const char *what, const char *image,
	struct err *e)
{
	if (disk_reads(d, image))
		err_set(e, -EINVAL, cls, "%s in the image %.250s, and disk %s now writes to its overlay %.250s; merge the overlay into the "
			"image first: cairn blockcommit %s %s --base %.250s --active --pivot", what, image, d->id, d->layers[0].path,
			shell_word(vm->def->name).s, d->id, shell_word(image).s);
	else
		err_set(e, -EINVAL, cls, "%s in the image %.250s, and disk %s has the image %.250s now; give the disk that image again while "
			"the VM is off (cairn edit %s)", what, image, d->id, d->layers[0].path, shell_word(vm->def->name).s);
}

/* Explain that disk d of the VM lacks the snapshot, which its image of that time may have. */
static bool disk_explain(const struct vm *vm, const struct definition_disk *d, const struct definition *then, const char *name, struct err *e)
{
	int was = definition_disk_find(then, d->id);
	char start[64], what[160];

	snprintf(start, sizeof(start), "disk %s has no snapshot", d->id);
	if (was < 0 || !d->nlayers || !then->disks[was].nlayers || strncmp(e->msg, start, strlen(start)) != 0 ||
		!strcmp(d->layers[0].path, then->disks[was].layers[0].path))
		return false;
	snprintf(what, sizeof(what), "disk %s was part of snapshot '%.80s'", d->id, name);
	image_explain(vm, d, ERR_WRONG_STATE, what, then->disks[was].layers[0].path, e);
	return true;
}

/* Return the last image with snapshots of the VM that is not the one of now; NULL: there is none. The caller frees
 * it. */
static char *image_before(const struct vm *vm, const char *now)
{
	CLEANUP_JS struct json_object *o = store_load_file(vm->host->store, vm->def->name, FILE_NAME);
	struct json_object *list = o ? js_get_array(o, "devices") : NULL;
	size_t n = list ? json_object_array_length(list) : 0;
	const char *last = n ? image_of(js_get(json_object_array_get_idx(list, n - 1), "definition")) : now;

	return *last && strcmp(last, now) != 0 ? must_alloc(strdup(last)) : NULL;
}

void snapshot_devices_explain(const struct vm *vm, const struct definition *then, const char *name, struct err *e)
{
	const struct definition *live = vm_live(vm);
	CLEANUP_JS struct json_object *o = definition_to_json(live);
	CLEANUP_FREE char *before = NULL;
	char what[160];

	if (e->cls != ERR_NOT_FOUND)
		return;
	for (uint32_t i = 0; then && i < live->ndisks; i++)
		if (disk_explain(vm, &live->disks[i], then, name, e))
			return;
	if (then || !(before = image_before(vm, image_of(o))))
		return;
	snprintf(what, sizeof(what), "there is no snapshot '%.80s': earlier snapshots are", name);
	for (uint32_t i = 0; i < live->ndisks; i++)
		if (live->disks[i].nlayers && !strcmp(live->disks[i].layers[0].path, image_of(o))) {
			image_explain(vm, &live->disks[i], ERR_NOT_FOUND, what, before, e);
			return;
		}
}

/* ---- clones of a snapshot ---- */

static const char *disk_id(const struct definition *d, uint32_t i)
{
	return i < d->ndisks ? d->disks[i].id : NULL;
}

static const char *interface_id(const struct definition *d, uint32_t i)
{
	return i < d->ninterfaces ? d->interfaces[i].id : NULL;
}

/* Return the id of a device that only `has` has; NULL: there is none. */
static const char *only_in(const struct definition *has, const struct definition *other,
	const char *(*id_of)(const struct definition *d, uint32_t i))
{
	const char *id, *its;

	for (uint32_t i = 0; (id = id_of(has, i)); i++) {
		for (uint32_t k = 0; (its = id_of(other, k)) && strcmp(id, its) != 0; k++)
			;
		if (!its)
			return id;
	}
	return NULL;
}

int snapshot_devices_check_clones(const struct vm *vm, const struct definition *then, const char *name, struct err *e)
{
	static const struct {
		const char *noun;
		const char *(*id_of)(const struct definition *d, uint32_t i);
	} kinds[] = { { "disk", disk_id }, { "interface", interface_id } };

	for (size_t i = 0; then && i < ARRAY_SIZE(kinds); i++) {
		const char *lost = only_in(then, vm->def, kinds[i].id_of), *more = only_in(vm->def, then, kinds[i].id_of);

		if (lost)
			return err_set(e, -EINVAL, ERR_WRONG_STATE, "the guest of snapshot '%.200s' has the %s %s, and clones would lack it, because the "
				"definition of VM '%.200s' does; add it first (cairn attach-%s --config)", name, kinds[i].noun, lost, vm->def->name,
				kinds[i].noun);
		if (more)
			return err_set(e, -EINVAL, ERR_WRONG_STATE, "the guest of snapshot '%.200s' lacks the %s %s, and clones would have it, because the "
				"definition of VM '%.200s' does; remove it first (cairn detach-%s --config)", name, kinds[i].noun, more, vm->def->name,
				kinds[i].noun);
	}
	return 0;
}

/* ---- the check ---- */

struct check {
	struct vm *vm;
	const struct definition *definition;
	struct open_as *opener;
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

static int disks_check(const struct check *x, const struct config *c, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < c->vm.ndisks && !r; i++) {
		struct file_id image;
		char key[32];

		snprintf(key, sizeof(key), "disks[%u].path", i);
		r = config_identify(c, c->vm.disks[i].fd[0], &image);
		r = r < 0 ? err_set_errno(e, r, "%s", key) :
			vm_disk_check_free(x->vm, NULL, &x->definition->disks[i], &image, key, e);
	}
	return r;
}

static void check_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct check *x = opaque;
	struct err own;

	if (!r) {
		r = disks_check(x, c, &own);
		e = &own;
		config_done(c);
	}
	x->done(x->opaque, r, e);
	free(x);
}

void snapshot_devices_check(struct vm *vm, const struct definition *d, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque)
{
	struct check *x = must_alloc(calloc(1, sizeof(*x)));
	struct open_as *o = NULL;

	*x = (struct check){ .vm = vm, .definition = d, .done = done, .opaque = opaque };
	open_as_open(vm->host->helpers, d, OPEN_AS_ALL, check_opened, x, &o);
}

/* ---- media that are gone ---- */

struct media {
	struct vm *vm;
	struct definition **d;
	struct json_object *warnings;
	uint32_t at; /* the disk that is looked at */
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

static void media_next(struct media *x);

static const struct definition *media_of(const struct media *x)
{
	return *x->d ? *x->d : vm_live(x->vm);
}

/* Make a definition with other disks. disks: taken. */
static int disks_replace(const struct definition *d, struct json_object *disks, bool only, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(d);
	int r;

	js_put(o, "disks", disks);
	if (only)
		json_object_object_del(o, "interfaces");
	r = definition_parse_stored(o, ret, e);
	if (!r)
		authors_copy(d, *ret);
	return r;
}

/* Return the disks of a definition, of which the caller owns the array. */
static struct json_object *disks_take(const struct definition *d)
{
	CLEANUP_JS struct json_object *o = definition_to_json(d);

	return json_object_get(js_get_array(o, "disks"));
}

static int drive_empty(struct media *x, struct err *e)
{
	const struct definition_disk *d = &media_of(x)->disks[x->at];
	struct json_object *disks = disks_take(media_of(x));
	struct definition *next = NULL;
	char text[512];
	int r;

	snprintf(text, sizeof(text), "the CD drive %s is empty, because the file of its medium is gone: %.400s", d->id, d->layers[0].path);
	vm_medium_put(json_object_array_get_idx(disks, x->at), NULL);
	r = disks_replace(media_of(x), disks, false, &next, e);
	if (r < 0)
		return r;
	json_object_array_add(x->warnings, json_object_new_string(text));
	definition_free(*x->d);
	*x->d = next;
	return 0;
}

static void media_end(struct media *x, int r, const struct err *e)
{
	x->done(x->opaque, r, e);
	free(x);
}

static void medium_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct media *x = opaque;
	struct err own;

	if (!r) {
		config_done(c);
	} else if (r == -ENOENT) {
		r = drive_empty(x, &own);
		e = &own;
	}
	x->at++;
	if (r < 0)
		media_end(x, r, e);
	else
		media_next(x);
}

/* Let medium_opened() continue, perhaps before this returns: x may be gone then. Otherwise returns -errno. */
static int medium_open(struct media *x, struct err *e)
{
	CLEANUP_JS struct json_object *all = disks_take(media_of(x));
	struct json_object *one = json_object_new_array();
	struct definition *only = NULL;
	struct open_as *o = NULL;
	int r;

	json_object_array_add(one, json_object_get(json_object_array_get_idx(all, x->at)));
	r = disks_replace(media_of(x), one, true, &only, e);
	if (r < 0)
		return r;
	open_as_open(x->vm->host->helpers, only, OPEN_AS_IMAGES_READ, medium_opened, x, &o);
	definition_free(only);
	return 0;
}

static void media_next(struct media *x)
{
	const struct definition *d = media_of(x);
	struct err e = { 0 };
	int r = 0;

	while (x->at < d->ndisks && (d->disks[x->at].device != DEFINITION_CDROM || !d->disks[x->at].nlayers))
		x->at++;
	if (x->at < d->ndisks) {
		r = medium_open(x, &e);
		if (!r)
			return;
	}
	media_end(x, r, &e);
}

void snapshot_devices_drop_media(struct vm *vm, struct definition **d, struct json_object *warnings,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	struct media *x = must_alloc(calloc(1, sizeof(*x)));

	*x = (struct media){ .vm = vm, .d = d, .warnings = warnings, .done = done, .opaque = opaque };
	media_next(x);
}
