#include "api/vm/image_users.h"
#include "api/definition/definition.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "base/err.h"
#include "base/shell_word.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NAMES_MAX 5 /* names in an error; further VMs are only counted */

static bool is_same(const char *a, const char *b)
{
	return a && b && !strcmp(a, b);
}

static bool disk_uses(const struct definition_disk *d, const char *path)
{
	for (unsigned k = 0; k < d->nlayers; k++)
		if (is_same(d->layers[k].path, path) || is_same(d->layers[k].data_file, path))
			return true;
	return false;
}

static bool definition_uses(const struct definition *def, const char *path)
{
	for (uint32_t i = 0; def && i < def->ndisks; i++)
		if (disk_uses(&def->disks[i], path))
			return true;
	return false;
}

static bool vm_uses(const struct vm *vm, const char *path)
{
	return definition_uses(vm->def, path) || definition_uses(vm->live, path);
}

const struct vm *image_user(const struct vm *vm, const char *path)
{
	struct vm_host *host = vm->host;

	for (size_t i = 0; i < host->nvms; i++)
		if (host->vms[i] != vm && vm_uses(host->vms[i], path))
			return host->vms[i];
	return NULL;
}

int image_check_new(const struct vm *source, const char *path, struct err *e)
{
	const struct vm *user = image_user(source, path);

	if (!user)
		return 0;
	if (!permissions_seen_together(&source->host->permissions, source->def->uuid, user->def->uuid))
		return err_set(e, -EEXIST, ERR_EXISTS, "%s: belongs to another VM, so it cannot become the disk of a "
			"clone", path);
	return err_set(e, -EEXIST, ERR_EXISTS, "%s: belongs to VM '%s', so it cannot become the disk of a clone", path,
		user->def->name);
}

/* Whether a layer of the disk, or a layer's data file, from layer number `first` on, is the file of that path. A
 * backing file that is read at a pin does not count, because that file may be written. */
static bool disk_reads(const struct vm_host *host, const struct definition_disk *d, unsigned first, const char *path)
{
	for (unsigned k = first; k < d->nlayers; k++)
		if ((is_same(d->layers[k].path, path) || is_same(d->layers[k].data_file, path)) &&
			(!k || !pins_has_overlay(host, d->layers[k - 1].path)))
			return true;
	return false;
}

static bool definition_has_backing(const struct vm_host *host, const struct definition *def, const char *path)
{
	for (uint32_t i = 0; def && i < def->ndisks; i++)
		if (disk_reads(host, &def->disks[i], 1, path))
			return true;
	return false;
}

static bool is_clone_of(const struct vm *vm, const struct vm *source)
{
	for (uint32_t i = 0; i < source->def->ndisks; i++) {
		const struct definition_disk *d = &source->def->disks[i];

		if (!d->read_only && (definition_has_backing(vm->host, vm->def, d->layers[0].path) ||
					     definition_has_backing(vm->host, vm->live, d->layers[0].path)))
			return true;
	}
	return false;
}

unsigned image_clones(const struct vm *vm, char *names, size_t cap)
{
	struct vm_host *host = vm->host;
	unsigned n = 0, named = 0;
	size_t at = 0;

	names[0] = 0;
	for (size_t i = 0; i < host->nvms; i++) {
		struct vm *other = host->vms[i];

		if (other == vm || !is_clone_of(other, vm))
			continue;
		n++;
		/* A user who may not see the other VM learns that it exists, but not its name. */
		if (named == NAMES_MAX || at >= cap ||
			!permissions_seen_together(&host->permissions, vm->def->uuid, other->def->uuid))
			continue;
		at += (size_t)snprintf(names + at, cap - at, "%s%.60s", named++ ? ", " : "", other->def->name);
	}
	if (n > named && at < cap)
		snprintf(names + at, cap - at, named ? " and %u more" : "%u that you may not see", n - named);
	return n;
}

int template_check(const struct vm *vm, const char *what, struct err *e)
{
	return !vm_has(vm, VM_FACT_TEMPLATE) ? 0 : err_set(e, -EPERM, ERR_WRONG_STATE,
		"VM '%.255s' is a template: cannot %s. Next: cairn clone --linked %s NAME, or cairn template "
		"--disable %s", vm->def->name, what, shell_word(vm->def->name).s, shell_word(vm->def->name).s);
}

/* Return a template other than `vm` that uses the image; NULL: none. */
static const struct vm *template_with(const struct vm *vm, const char *path)
{
	struct vm_host *host = vm->host;

	for (size_t i = 0; i < host->nvms; i++)
		if (host->vms[i] != vm && vm_has(host->vms[i], VM_FACT_TEMPLATE) && vm_uses(host->vms[i], path))
			return host->vms[i];
	return NULL;
}

/* Return a template other than `vm` that uses an image to which `vm` writes; NULL: none. *ret_disk: the id of vm's
 * disk. */
static const struct vm *template_written(const struct vm *vm, const char **ret_disk)
{
	const struct vm *t = NULL;

	for (uint32_t i = 0; i < vm->def->ndisks && !t; i++) {
		*ret_disk = vm->def->disks[i].id;
		if (!vm->def->disks[i].read_only)
			t = template_with(vm, vm->def->disks[i].layers[0].path);
	}
	return t;
}

bool image_is_frozen(const struct vm *vm)
{
	const char *disk;
	char names[360];

	return vm_has(vm, VM_FACT_TEMPLATE) || image_clones(vm, names, sizeof(names)) || template_written(vm, &disk);
}

static int written_check(const struct vm *vm, const char *what, struct err *e)
{
	const char *disk;
	const struct vm *t = template_written(vm, &disk);

	if (!t)
		return 0;
	if (!permissions_seen_together(&vm->host->permissions, vm->def->uuid, t->def->uuid))
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"VM '%.255s': cannot %s: a template also uses its disk %s; give the VM a disk of its own",
			vm->def->name,
			what, disk);
	return err_set(e, -EPERM, ERR_WRONG_STATE,
		"VM '%.120s': cannot %s: its disk %s is also a disk of the template '%s'. Next: cairn clone "
		"--linked %s NAME", vm->def->name, what, disk, t->def->name, shell_word(t->def->name).s);
}

int image_check_writable(const struct vm *vm, const char *what, struct err *e)
{
	char names[360];
	int r = template_check(vm, what, e);

	if (r < 0)
		return r;
	if (image_clones(vm, names, sizeof(names)))
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"VM '%.120s': cannot %s: linked clones have its disks as backing files (%s); undefine the "
			"clones first",
			vm->def->name, what, names);
	return written_check(vm, what, e);
}

/* Return a disk of the definition other than the one with the id `but` (NULL: any) that reads the file; NULL: none. */
static const struct definition_disk *reader_find(const struct vm_host *host, const struct definition *def, const char *but,
	const char *path)
{
	for (uint32_t i = 0; def && i < def->ndisks; i++)
		if ((!but || strcmp(def->disks[i].id, but)) && disk_reads(host, &def->disks[i], 0, path))
			return &def->disks[i];
	return NULL;
}

int image_check_base(const struct vm *vm, const char *disk, const char *path, struct err *e)
{
	struct vm_host *host = vm->host;

	for (size_t i = 0; i < host->nvms; i++) {
		const struct vm *other = host->vms[i];
		const char *but = other == vm ? disk : NULL;
		const struct definition_disk *d = reader_find(host, other->def, but, path) ?: reader_find(host, other->live, but, path);

		if (!d)
			continue;
		if (!permissions_seen_together(&host->permissions, vm->def->uuid, other->def->uuid))
			return err_set(e, -EPERM, ERR_WRONG_STATE, "disk %s: another VM also has %.300s as an image, so it must not "
				"change. Next: cairn blockpull %s %s", disk, path, shell_word(vm->def->name).s, disk);
		return err_set(e, -EPERM, ERR_WRONG_STATE, "disk %s: disk %s of VM '%s' also has %.300s as an image, so it must "
			"not change. Next: cairn blockpull %s %s", disk, d->id, other->def->name, path, shell_word(vm->def->name).s, disk);
	}
	return 0;
}

static bool is_read_only_for_all(const struct vm *vm, const char *path)
{
	return (vm_has(vm, VM_FACT_TEMPLATE) && vm_uses(vm, path)) || definition_has_backing(vm->host, vm->def, path) ||
		definition_has_backing(vm->host, vm->live, path);
}

int image_check_added(const struct vm *vm, const char *disk, const char *path, struct err *e)
{
	struct vm_host *host = vm->host;

	for (size_t i = 0; i < host->nvms; i++) {
		const struct vm *other = host->vms[i];
		bool seen = permissions_seen_together(&host->permissions, vm->def->uuid, other->def->uuid);

		if (other != vm && is_read_only_for_all(other, path))
			return err_set(e, -EPERM, ERR_WRONG_STATE, "disk %s: %s%.200s%s reads %.300s, so that must not change; attach an overlay of it, "
				"or attach it read-only", disk, seen ? "VM '" : "another VM", seen ? other->def->name : "", seen ? "'" : "", path);
	}
	return 0;
}
