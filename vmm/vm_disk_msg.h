/* vm_disk_msg: the bodies of VM_MSG_DISK_COMMIT, _RESIZE and _SET, and a member of vm_info. */
#ifndef CAIRN_VMM_VM_DISK_MSG_H
#define CAIRN_VMM_VM_DISK_MSG_H

#include "base/util.h"
#include "vmm/vm_msg.h"

/* For vm_info: whether changes of a disk go to a copy, or to its base, too. */
enum vm_mirrored { VM_NOT_MIRRORED = 1, VM_MIRRORED = 2 };

/* Of a disk with the layers 0 (the image) to n. */
struct vm_disk_commit {
	/* The part of struct vm_config as in VM_MSG_PLUG. Disk 0 has the id of the disk and its layers from `base` on,
	 * of which the first one is open for writing. Disk 1, if `top` is not 0: its first layer is layer top - 1 of
	 * the disk, open for writing; an older daemon sends it only if `top` is above 1. */
	uint8_t config[ROUND_UP(VM_PLUG_BYTES, 8)];
	uint64_t rate_bytes_per_s; /* limit for copying; 0: none */
	uint8_t top, base;	   /* copy the layers top to base - 1; top 0: all that are above base */
	uint8_t reserved[6];
	char backing_name[1024]; /* with `top`: the name of layer `base` in the header of layer top - 1 */
};

struct vm_disk_resize {
	char id[16];	     /* of the disk */
	uint64_t size_bytes; /* 0: the size of the host's block device that is the image */
};

struct vm_disk_set {
	char id[16]; /* of the disk */
	struct vm_disk_limits limits;
	struct vm_disk_tune tune; /* only to processes whose vm_info.sets_disks is 2 or more; left out: all 0 */
};

#endif
