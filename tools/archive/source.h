/* source: input of an export: a file, or the disk of a snapshot presented as a qcow2 image that is generated while it
 * is read. */
#ifndef CAIRN_TOOLS_ARCHIVE_SOURCE_H
#define CAIRN_TOOLS_ARCHIVE_SOURCE_H

#include "block/block.h"

#include <stddef.h>
#include <stdint.h>

struct err;
struct loop;

struct source_extent {
	uint64_t off, len;
};

struct source {
	uint64_t size_bytes;
	struct source_extent *extents; /* data extents, in order; owned */
	size_t nextents;
	/* Read all of [off, off + len). Returns 0; -errno with a sentence. */
	int (*read)(struct source *s, void *buf, uint64_t off, size_t len, struct err *e);
	void (*free)(struct source *s);
};

/* Open a file as a source. fd: taken on success; locked against writers. name: for errors; copied. Returns 0; -errno
 * with a sentence. */
int source_of_file(int fd, const char *name, struct source **ret, struct err *e);
/* Open a snapshot, with its backing files merged into one image.
 * l: outlives the source; the thread that calls read() runs it. layers: their fds are taken on success, and may be
 * closed on an error too. The snapshot must not be deleted meanwhile; a VM may write to the disk.
 * Returns 0; -errno with a sentence. */
int source_of_snapshot(struct loop *l, const struct block_layer *layers, unsigned nlayers, const char *snapshot,
	const char *name, struct source **ret, struct err *e);

static inline void source_free(struct source *s)
{
	if (s)
		s->free(s);
}

/* Add a data extent; for implementations of a source. Calls come in ascending order. Returns 0 or -ENOMEM. */
int source_add_extent(struct source *s, uint64_t off, uint64_t len);

#endif
