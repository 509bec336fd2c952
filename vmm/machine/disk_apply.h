/* disk_apply: applies a snapshot to a disk in two calls, so that several disks change at one instant. The caller
 * continues when the disk has the snapshot's content: the clusters of its old content are freed while the guest runs.
 * Until they are, disk_call() waits.
 *
 * Threading: any thread except a disk's own; each disk has one apply at a time. */
#ifndef CAIRN_VMM_MACHINE_DISK_APPLY_H
#define CAIRN_VMM_MACHINE_DISK_APPLY_H

#include <stdbool.h>

struct block_snapshot_info;
struct disk_apply;
struct err;
struct machine_disk;

/* Returns NULL if there is no memory. */
struct disk_apply *disk_apply_new(void);
/* a: NULL is allowed. The disk is closed. */
void disk_apply_free(struct disk_apply *a);
/* Wait until the disk's earlier apply has freed its clusters, which disk_apply_begin() would wait for. */
void disk_apply_wait(struct machine_disk *d);
/* Write all but the image's header. After a success, disk_apply_end() has to be called exactly once: with go, it
 * changes the disk's content, which needs no space; else it undoes the first call. Both return 0 or -errno.
 * id: the snapshot's; info: NULL, or as for block_snapshot_apply_with(). Both are borrowed until disk_apply_end(). */
int disk_apply_begin(struct machine_disk *d, const char *id, const struct block_snapshot_info *info, struct err *e);
int disk_apply_end(struct machine_disk *d, bool go, struct err *e);

#endif
