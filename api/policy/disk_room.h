/* disk_room: reads, before a VM's start, the free space of the file systems with its disks outside of pools. A thread
 * asks, or a process with the rights of the disks' author (api/access/fork_as.h), since a file system may hang.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_DISK_ROOM_H
#define CAIRN_API_POLICY_DISK_ROOM_H

#include "api/store/pool_history.h"

struct vm;

/* A disk whose file system is short of space. */
struct disk_room {
	const char *disk;   /* its id */
	const char *folder; /* of its image; no folder of a pool */
	struct pool_point space;
};

/* Find the first disk, in the definition's order, whose image the VM writes in a folder that is no pool, and whose file
 * system is as full as a pool with low space (pool_history_is_low()). An image whose file system cannot be read
 * counts as having enough space: the start itself reports the fault.
 * done: called once, perhaps inside the call. low: borrowed for the call of done(); NULL: there is no such disk. */
void disk_room_find(const struct vm *vm, void (*done)(void *opaque, const struct disk_room *low), void *opaque);
/* Return whether the path lies in the folder or in one below it. */
bool disk_room_lies_in(const char *path, const char *folder);

#endif
