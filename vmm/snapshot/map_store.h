/* map_store: reads a snapshot's VM state directly from the image file, by a map made in advance,
 * because the RAM reader must not wait for the disk's loop.
 *
 * Threading: map_store_new() on any thread except a disk's own, as it calls disk_call(); the store on any thread. */
#ifndef CAIRN_VMM_SNAPSHOT_MAP_STORE_H
#define CAIRN_VMM_SNAPSHOT_MAP_STORE_H

#include "block/block_snapshot.h"
#include "snapshot/vmstate.h"

struct err;
struct machine_disk;

struct map_store {
	struct vmstate_store store; /* first member, so that free() of its address frees the struct */
	struct block_vmstate_map map;
	struct block_vmstate_extent extents[]; /* map.extents points here */
};

/* Create a read-only store for the VM state of snapshot id.
 * *ret: owned by the caller (free()); valid until the snapshot is deleted.
 * Returns 0 or -errno. */
int map_store_new(struct machine_disk *d, const char *id, struct map_store **ret, struct err *e);

#endif
