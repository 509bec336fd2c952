/* Chooses which disks of clones become overlays on pins, and adds these to the definitions and to the list of pins. */
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/jobs/fork_impl.h"
#include "api/vm/image_users.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Return why the clones get copies of the disk, as a static text; NULL: they get overlays. */
static const char *copy_reason(const struct vm *vm, const struct fork_opts *opts, const struct definition_disk *d)
{
	if (d->layers[0].format != DEFINITION_FORMAT_QCOW2)
		return "raw image";
	if (opts->isolated)
		return "isolated";
	if (d->nlayers >= VM_DISK_LAYERS_MAX)
		return "too many layers";
	if (strlen(d->layers[0].path) > VM_PIN_PATH_MAX)
		return "path too long";
	if (vm_compat_is_old(vm))
		return "process of an older Cairn";
	/* The offline process may not write to an image that linked clones have open. */
	return !vm_state_is_active(vm->state) && image_is_frozen(vm) ? "image of linked clones" : NULL;
}

/* Return whether the disk reads the image of another VM at a pin. */
static bool reads_foreign_pin(const struct vm_host *host, const struct definition_disk *d)
{
	for (unsigned k = 0; k + 1 < d->nlayers; k++)
		if (pins_has_overlay(host, d->layers[k].path))
			return true;
	return false;
}

/* Set `flat` for the disks that read the image of another VM at a pin: an isolated clone may not open that image, so
 * its disk becomes a copy of the content of all layers. Returns 0; -ENOTSUP: such a disk is read-only. */
static int isolate(struct fork *f, struct err *e)
{
	const struct vm *vm = f->source;

	for (uint32_t i = 0; i < vm->def->ndisks; i++) {
		f->flat[i] = reads_foreign_pin(f->host, &vm->def->disks[i]);
		if (f->flat[i] && vm->def->disks[i].read_only)
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
				"disk %s of VM '%s' is read-only and reads the image of another VM, so its clones cannot be isolated; "
				"shut the VM down and use cairn clone --full", vm->def->disks[i].id, vm->def->name);
	}
	return 0;
}

int fork_choose_pins(struct fork *f, const struct fork_opts *opts, struct err *e)
{
	const struct definition *d = f->source->def;
	int r = opts->isolated ? isolate(f, e) : 0;

	for (uint32_t i = 0; i < d->ndisks && !r; i++) {
		f->why_copied[i] = copy_reason(f->source, opts, &d->disks[i]);
		f->pinned[i] = !d->disks[i].read_only && !f->why_copied[i];
		if (getrandom(f->pins[i], sizeof(f->pins[i]), 0) != (ssize_t)sizeof(f->pins[i]))
			r = err_set_errno(e, -errno, "cannot name a disk's pin");
	}
	return r;
}

void fork_put_backing(const struct fork *f, struct json_object *o)
{
	struct json_object *disks = js_get_array(o, "disks");

	for (uint32_t i = 0; i < f->source->def->ndisks; i++) {
		struct json_object *disk = json_object_array_get_idx(disks, i), *all, *layer, *was;

		if (f->flat[i])
			json_object_object_del(disk, "backing");
		if (!f->pinned[i])
			continue;
		was = js_get_array(disk, "backing");
		all = json_object_new_array();
		layer = json_object_new_object();
		js_put_str(layer, "path", f->source->def->disks[i].layers[0].path);
		js_put_str(layer, "format", "qcow2");
		json_object_array_add(all, layer);
		for (size_t k = 0; was && k < json_object_array_length(was); k++)
			json_object_array_add(all, json_object_get(json_object_array_get_idx(was, k)));
		js_put(disk, "backing", all);
	}
}

static void layer_drop(struct definition_disk *d)
{
	free(d->layers[1].path);
	free(d->layers[1].data_file);
	d->nlayers--;
	memmove(&d->layers[1], &d->layers[2], (VM_DISK_LAYERS_MAX - 2) * sizeof(d->layers[0]));
	d->layers[VM_DISK_LAYERS_MAX - 1] = (struct definition_layer){ 0 };
}

/* Return whether the process that makes the disks can use an earlier pin. Without a process of the VM, it is an offline
 * process, which is never older than the daemon. */
static bool can_share(const struct fork *f)
{
	return !f->source->proc || vm_process_knows(f->source->proc, VM_KNOWS_PIN_SHARING);
}

int fork_note_pins(struct fork *f, struct err *e)
{
	struct vm_host *host = f->host;
	bool any = false;

	for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
		f->may_share[i] = f->pinned[i] && can_share(f) && pins_newest(host, f->images[i], f->earlier[i]);
		for (unsigned k = 0; k < f->n && f->images[i]; k++) {
			const struct definition *def = f->clones[k].vm->def;
			const char *path = def->disks[i].layers[0].path;

			if (f->may_share[i])
				pins_add_either(host, path, f->images[i], f->earlier[i], f->pins[i]);
			else if (f->pinned[i])
				pins_add(host, path, f->images[i], f->pins[i]);
			else if (!f->flat[i])
				pins_copy(host, f->images[i], path);
			pins_set_owner(host, path, rights_uid(author_of(def, path)));
			any = any || pins_has_overlay(host, path);
		}
	}
	return any ? pins_store(host, e) : 0;
}

void fork_put_pins(const struct fork *f, struct vm_fork *body)
{
	for (unsigned i = 0, w = 0; i < VM_DISKS_MAX; i++) {
		struct vm_fork_pin *p = &body->pins[w];

		body->flatten |= f->flat[i] ? 1u << w : 0;
		if (f->may_share[i])
			memcpy(body->shared[w], f->earlier[i], sizeof(body->shared[w]));
		w += f->images[i] != NULL;
		if (!f->pinned[i])
			continue;
		memcpy(p->id, f->pins[i], sizeof(p->id));
		snprintf(p->path, sizeof(p->path), "%s", f->images[i]);
	}
}

size_t fork_request_bytes(const struct fork *f)
{
	return can_share(f) ? sizeof(struct vm_fork) : offsetof(struct vm_fork, shared);
}

bool fork_is_overlay(const struct fork *f, unsigned i, uint8_t made)
{
	return made == VM_MADE_OVERLAY || (made == VM_MADE_SHARED && f->may_share[i]);
}

void fork_resolve_pins(struct fork *f)
{
	for (unsigned i = 0, w = 0; i < VM_DISKS_MAX; i++) {
		bool is_made = f->taken.disks_made[w] == VM_MADE_OVERLAY;

		if (f->may_share[i] && fork_is_overlay(f, i, f->taken.disks_made[w])) {
			pins_resolve(f->host, f->pins[i], is_made);
			f->pins_changed = f->pins_changed || is_made;
		}
		w += f->images[i] != NULL;
	}
}

void fork_set_copied(struct fork *f, unsigned i)
{
	f->pinned[i] = false;
	f->why_copied[i] = "refcounts of fewer than 8 bits";
	for (unsigned k = 0; k < f->n; k++) {
		struct definition_disk *d = &f->clones[k].vm->def->disks[i];

		layer_drop(d);
		if (f->clones[k].live)
			layer_drop(&f->clones[k].live->disks[i]);
		pins_remove(f->host, d->layers[0].path);
		pins_copy(f->host, f->images[i], d->layers[0].path);
	}
}
