/* map_store: a snapshot's state straight out of the image's file, by a map made beforehand: the pager must not wait
 * for the disk's loop. */
#ifndef CAIRN_VMM_SNAPSHOT_MAP_STORE_H
#define CAIRN_VMM_SNAPSHOT_MAP_STORE_H

#include "block/block_snapshot.h"
#include "snapshot/vmstate.h"

struct err;
struct machine_disk;

struct map_store {
	struct vmstate_store store; /* the first member: free() of it frees all */
	struct block_vmstate_map map;
	struct block_vmstate_extent extents[]; /* map.extents, moved here so that one free() takes all */
};

/* *ret: owned (free()); valid until the snapshot is deleted. Returns 0 or -errno with a sentence. */
int map_store_new(struct machine_disk *d, const char *id, struct map_store **ret, struct err *e);

#endif
