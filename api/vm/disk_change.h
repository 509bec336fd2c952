/* disk_change: gives a running VM another disk (vm_plug.c), one of its drives another medium (vm_medium.c), or disks
 * other images with the same content (vm_copy.c, vm_layers.c). The definition that the VM runs with (vm_live()) is
 * stored with the disk before the VM's process gets it, so no image is in use without being known. Until the process
 * answers, the disk is in doubt (vm.disk_change). If the process refuses it, the definition becomes as before. Several
 * disks change together or not at all. If the answer gets lost with the connection or with the daemon, the disks that
 * the process reports decide.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_DISK_CHANGE_H
#define CAIRN_API_VM_DISK_CHANGE_H

#include "api/vm/vm_process.h"

struct call;
struct err;
struct json_object;
struct vm;
struct vm_info;

struct disk_change_kind {
	enum vm_msg_type type; /* the request to the process, with the disk as a struct vm_config */
	enum vm_known known;   /* the feature that the VM's process must have */
	/* Change `disks`, those of the running definition, as the call says. ret_at: the indices of those that changed.
	 * Returns their number; -errno with an error. */
	int (*plan)(const struct call *c, const struct vm *vm, struct json_object *disks, unsigned ret_at[VM_DISKS_MAX], struct err *e);
};

/* Change disks of the VM, and answer the call. The call's arguments may have `folder`, for relative paths, and
 * `force`, for the process; with `check-only`, the process is asked whether it would refuse the change, and nothing
 * changes. kind: static.
 * answer: takes the call instead; its vm is NULL if the VM is gone. Called once, perhaps inside. NULL: call_done(). */
void disk_change_begin(struct call *c, const struct disk_change_kind *kind, void (*answer)(void *call, int r, const struct err *e));
/* Remove a disk from the definition that the VM runs with. Does nothing if that has no such disk. */
void disk_change_remove(struct vm *vm, const char *id);
/* A process that was connected to reports its disks: resolve the doubt about a disk, unless an answer about the
 * disk is to come, and remove the disks that the process does not have. While the process works, which may change the
 * disk, this waits. */
void disk_change_compare(struct vm *vm, const struct vm_info *info);

#endif
