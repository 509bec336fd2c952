#include "api/vm/vm_disk_free.h"
#include "api/access/authors.h"
#include "api/vm/vm.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <string.h>

static int in_use(const struct vm *vm, const char *key, const char *path, const struct vm *by, struct err *e)
{
	/* The error stays in the VM's state. So name the other VM only if every user who sees this state also sees the
	 * other VM. */
	if (!permissions_seen_together(&vm->host->permissions, vm->def->uuid, by->def->uuid))
		return err_set(e, -EBUSY, ERR_BUSY, "%s: %s is in use by another VM", key, path);
	return err_set(e, -EBUSY, ERR_BUSY, "%s: %s is in use by VM '%s'; shut that VM down first", key, path, by->def->name);
}

/* Whether the VM's process has the image as its disk k. That is known from the start of the process, because a look at
 * the file could wait for its file system. */
static bool disk_is(const struct vm *vm, unsigned k, const char *path, const struct file_id *image)
{
	const char *its = vm_live(vm)->disks[k].layers[0].path;

	return its && path && (!strcmp(its, path) || (vm->ndisk_ids == vm_live(vm)->ndisks &&
		vm->disk_ids[k].ino == image->ino && vm->disk_ids[k].dev == image->dev));
}

int vm_disk_check_free(const struct vm *vm, const struct definition *with, const struct definition_disk *ours,
	const struct file_id *image, const char *key, struct err *e)
{
	struct vm_host *host = vm->host;

	for (size_t v = 0; v < host->nvms; v++) {
		struct vm *other = host->vms[v];

		if ((other == vm && vm_live(vm) != with) || (!vm_state_is_active(other->state) && other->start.kind != VM_OP_START))
			continue;
		for (unsigned k = 0; k < vm_live(other)->ndisks; k++) {
			const struct definition_disk *disk = &vm_live(other)->disks[k];

			/* The image's lock covers the files of other users. */
			if (!disk->nlayers || author_of(vm_live(other), disk->layers[0].path) ||
				(disk->read_only && ours->read_only) || !disk_is(other, k, ours->layers[0].path, image))
				continue;
			return in_use(vm, key, ours->layers[0].path, other, e);
		}
	}
	return 0;
}
