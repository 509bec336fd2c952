/* image_copy: a file that becomes what another is, holes included. Where the file system can share blocks between
 * files it costs nothing; else all that is no hole is copied. */
#ifndef CAIRN_VMM_IMAGE_COPY_H
#define CAIRN_VMM_IMAGE_COPY_H

#include <stdint.h>

struct err;

/* copy: empty, open for writing. step: after each piece, with bytes of the file; non-zero: stop.
 * Nothing is flushed. Returns 0; -ECANCELED; -errno with a sentence. */
int image_copy(int source, int copy, int (*step)(void *opaque, uint64_t done, uint64_t total), void *opaque,
	struct err *e);

#endif
