/* image_copy: copies a file, holes included. Where the file system can share blocks between files,
 * the copy costs nothing; otherwise all data is copied, with direct I/O where possible. */
#ifndef CAIRN_VMM_SNAPSHOT_IMAGE_COPY_H
#define CAIRN_VMM_SNAPSHOT_IMAGE_COPY_H

#include <stdint.h>

struct err;

/* Copy source into copy. May create a second thread for the time of the copy. Does not flush.
 * source: a file or block device that nobody writes to meanwhile; -EIO when the file gets shorter.
 * copy: open for writing; its previous content is dropped.
 * step: called on the caller's thread before the first piece and after its pieces; non-zero cancels.
 * Returns 0; -ECANCELED; -errno. */
int image_copy(int source, int copy, int (*step)(void *opaque, uint64_t done, uint64_t total), void *opaque,
	struct err *e);

#endif
