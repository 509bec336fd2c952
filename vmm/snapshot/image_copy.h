/* image_copy: a file that becomes what another is, holes included. Where the file system can share blocks between
 * files it costs nothing; else all that is no hole is copied, past the page cache where that is possible. */
#ifndef CAIRN_VMM_SNAPSHOT_IMAGE_COPY_H
#define CAIRN_VMM_SNAPSHOT_IMAGE_COPY_H

#include <stdint.h>

struct err;

/* source: a file or a block device that nobody writes to meanwhile; one that is cut short is -EIO.
 * copy: open for writing; what it had goes. step: after each piece, in the caller's thread, with bytes of the
 * file; non-zero: stop.
 * Makes a thread. Nothing is flushed. Returns 0; -ECANCELED; -errno with a sentence. */
int image_copy(int source, int copy, int (*step)(void *opaque, uint64_t done, uint64_t total), void *opaque,
	struct err *e);

#endif
