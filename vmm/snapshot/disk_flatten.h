/* disk_flatten: writes a snapshot's content of a disk, as the guest would read it through all backing files, to a new
 * qcow2 image without a backing file. The guest may run: the disk's thread reads through a second struct block, and the
 * caller's thread writes.
 *
 * Threading: the worker's thread. */
#ifndef CAIRN_VMM_SNAPSHOT_DISK_FLATTEN_H
#define CAIRN_VMM_SNAPSHOT_DISK_FLATTEN_H

#include <stdint.h>

struct err;
struct machine_disk;

struct disk_flatten {
	struct machine_disk *disk;
	int image; /* the disk's image, opened separately for reading; borrowed */
	const char *snapshot; /* its id in the image */
	int to; /* a file; its content is replaced; borrowed */
	/* Called with the finished and the total bytes. Non-zero: stop with -ECANCELED. */
	int (*step)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};

/* Write the image. It is on stable storage on success. Returns 0; -ECANCELED; -errno with a sentence. */
int disk_flatten(const struct disk_flatten *f, struct err *e);

#endif
