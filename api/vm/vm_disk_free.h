/* vm_disk_free: whether other VMs use an image. */
#ifndef CAIRN_API_VM_VM_DISK_FREE_H
#define CAIRN_API_VM_VM_DISK_FREE_H

struct definition;
struct definition_disk;
struct err;
struct file_id;
struct vm;

/* Check that no other active VM of the daemon's own user uses the image, unless both only read it: two writers would
 * destroy it. The image's lock would refuse it as well, but cannot name the other VM: so it does if an earlier daemon
 * started that VM, with another path to the file.
 * vm: wants the disk `ours`, whose image is `image`, and which the error names as `key`. with: the definition that it
 * runs with, whose disks are compared, too; NULL: it is being started.
 * Returns 0; -EBUSY. */
int vm_disk_check_free(const struct vm *vm, const struct definition *with, const struct definition_disk *ours,
	const struct file_id *image, const char *key, struct err *e);

#endif
