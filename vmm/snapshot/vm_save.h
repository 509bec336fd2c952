/* vm_save: saves a VM's state into a file. Format: snapshot/vmstate.h. Restore: vmm/machine/machine_restore.h.
 *
 * Threading: main thread; done() runs on it, unless the function fails. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_SAVE_H
#define CAIRN_VMM_SNAPSHOT_VM_SAVE_H

#include <stdbool.h>

struct err;
struct vm;
struct vm_save_devices;
struct worker;

/* Pause the VM, write its state on the worker's thread, end the VM. When this fails, the VM
 * continues in its previous phase.
 * devices: the disks and interfaces that the VM must have; NULL: any. disks_only: compare disks only.
 * state_fd, definition_fd (-1: none): taken.
 * done: called on the loop, unless vm_save() itself fails.
 * Returns 0; -EBUSY (ERR_WRONG_STATE or ERR_BUSY); -errno. */
int vm_save(struct vm *vm, struct worker *w, const struct vm_save_devices *devices, bool disks_only, int state_fd,
	int definition_fd, void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e);

#endif
