/* machine_layers: gives a disk another chain of layers with the same content while the guest uses it, such as a new
 * overlay on top (block/restack.h). Several disks change together: all are held before the first one changes.
 *
 * Threading: functions that may wait for a file system run on the worker's thread, as work of the VM. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_LAYERS_H
#define CAIRN_VMM_MACHINE_MACHINE_LAYERS_H

#include "block/restack.h"

#include <stdbool.h>
#include <sys/stat.h>

struct block_mirror;
struct err;
struct machine;
struct machine_disk;

/* A change of one disk. The caller fills in `disk` and `o`. */
struct machine_layers {
	struct machine_disk *disk;
	struct block_restack o;
	/* Grow the writable backing layer to this size; 0: it has it already. */
	uint64_t grow_bytes;
	bool mirror; /* also begin a mirror of the disk to that layer */
	/* Private: */
	struct block *next, *gone;
	struct block_mirror *to_layer;
	struct stat st; /* of the new image */
};

/* Any thread. Return whether both fds are of the same file. */
bool machine_layers_are_one_file(int a, int b);
/* Main thread. Find a disk that may change so. Returns 0; -ENOENT; -ENOTSUP; -EFBIG with a sentence. */
int machine_layers_find(struct machine *m, const char *id, struct machine_disk **ret, struct err *e);
/* Worker. Refuse a disk whose image has internal snapshots or pins. why: why they would be lost. Returns 0; -ENOTSUP
 * with a sentence. */
int machine_layers_check(struct machine_disk *d, const char *why, struct err *e);
/* Worker. Hold all disks back, and open the new chains. machine_held_release() (machine_hold.h) then switches to them.
 * list: borrowed until then. Returns 0; -errno with a sentence: the disks continue with their layers, and the new
 * layers are closed. */
int machine_layers_begin(struct machine *m, struct machine_layers *list, unsigned n, struct err *e);
/* Worker. Write no more to a layer of the disk, of which others may be readers then. Returns 0; -errno: it may lack
 * changes. */
int machine_layers_read_only(struct machine_disk *d, struct block *layer);
/* Worker, after the switch: close the layers that the disks do not use any more. */
void machine_layers_close(struct machine_layers *list, unsigned n);

#endif
