/* disk_change: gives a running VM another disk (vm_plug.c), or one of its drives another medium (vm_medium.c). The
 * definition that the VM runs with (vm_live()) is stored with the disk before the VM's process gets it, and as it was
 * before if the process refuses it, so no image is in use without being known.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_DISK_CHANGE_H
#define CAIRN_API_VM_DISK_CHANGE_H

#include "api/vm/vm_process.h"

struct call;
struct err;
struct file_id;
struct json_object;
struct vm;

struct disk_change_kind {
	enum vm_msg_type type; /* the request to the process, with the disk as a struct vm_config */
	enum vm_known known;   /* what the process must know */
	/* Change `disks`, those of the running definition, as the call says.
	 * Returns the index of the disk that changed; -errno with an error. */
	int (*plan)(const struct call *c, const struct vm *vm, struct json_object *disks, struct err *e);
};

/* Change a disk of the VM, and answer the call. The call's arguments may have `folder`, for relative paths, and
 * `force`, for the process. kind: static. */
void disk_change_begin(struct call *c, const struct disk_change_kind *kind);
/* Replace a disk in the definition that the VM runs with, and note its image. Does nothing if that has no such disk.
 * disk: borrowed; NULL: remove the disk. image: borrowed; NULL: only with disk NULL. */
void disk_change_note(struct vm *vm, const char *id, struct json_object *disk, const struct file_id *image);

#endif
