/* snapshot_devices: the disks and interfaces that a VM had at its snapshots, so that a revert can give it those
 * that were detached since, and the media that its CD drives had. The file devices.json in the VM's folder has an entry
 * for the first snapshot after each change of them; the entry holds for the snapshots up to the next one of the same
 * image. A new snapshot's id is above all others of its image.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_SNAPSHOT_DEVICES_H
#define CAIRN_API_JOBS_SNAPSHOT_DEVICES_H

#include <stdbool.h>

struct definition;
struct err;
struct json_object;
struct vm;

/* Return the definition that the VM runs with as the file has it. The caller owns the object. */
struct json_object *snapshot_devices_json(const struct vm *vm);
/* Record the definition that the VM had at a new snapshot. definition: borrowed. A failure is logged. */
void snapshot_devices_note(const struct vm *vm, const char *id, struct json_object *definition);
/* Load the definition that the VM had at a snapshot. The caller owns it.
 * disks_only: the snapshot may be one without memory.
 * Returns NULL: it is unknown. */
struct definition *snapshot_devices_load(const struct vm *vm, const char *id, bool disks_only);
/* Make the definition that a new process needs for the revert to a snapshot: that of vm_live(), with the devices that
 * it lacks, in the order that they had, and with the media that the CD drives had. Devices that the snapshot lacks are
 * in it, too: the process detaches them.
 * then: the definition that the VM had at the snapshot, with memory; NULL: it is unknown.
 * Returns 1: *ret is that definition; the caller owns it; 0: the VM has these devices and media, or nothing is known of
 * the snapshot; -errno. */
int snapshot_devices_plan(const struct vm *vm, const struct definition *then, struct definition **ret, struct err *e);
/* Return the ids of the disks of a snapshot that the VM lacks now; the caller owns the array. NULL: there are none, or
 * it is unknown which disks the snapshot has. */
struct json_object *snapshot_devices_lacking(const struct vm *vm, const char *id);
/* Check that a revert of images alone, which are those of the next start, reverts the disks that the snapshot has
 * and those that the VM runs with, and that it will not fail when the VM is stopped already, because a disk of the
 * next start has no such snapshot.
 * then: the definition that the VM had at the snapshot; NULL: it is unknown. name: the snapshot's. only: a disk's id:
 * revert this disk alone; "": all.
 * Returns 0; -EINVAL or -ENOENT with an error that names the disk. */
int snapshot_devices_check_images(const struct vm *vm, const struct definition *then, const char *name, const char *only, struct err *e);
/* Replace the reason of a failed revert if it is that a disk has another image than at the snapshot. then: NULL: it is
 * unknown. e: says which disk lacks the snapshot, or that the VM has no such snapshot. */
void snapshot_devices_explain(const struct vm *vm, const struct definition *then, const char *name, struct err *e);
/* Check that clones of a snapshot, whose devices are those of the VM's definition, have the devices of the snapshot.
 * then: as above. Returns 0; -EINVAL with an error that names a device. */
int snapshot_devices_check_clones(const struct vm *vm, const struct definition *then, const char *name, struct err *e);
/* Empty the CD drives whose medium is gone in the definition of a new process.
 * d: *d is that definition, or NULL for that of vm_live(); the caller owns *d. If a medium is gone, the call replaces
 * it.
 * warnings: gets a sentence for each such drive. Both are borrowed until done() is called.
 * done: called once, before the call returns or later. r: 0; -errno with e. */
void snapshot_devices_drop_media(struct vm *vm, struct definition **d, struct json_object *warnings,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque);
/* Check that the files of d can be opened, and that no other VM uses its disks. d: borrowed until done() is called.
 * done: called once, before the call returns or later. */
void snapshot_devices_check(struct vm *vm, const struct definition *d, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque);

#endif
