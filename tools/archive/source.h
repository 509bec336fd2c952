/* source: what an export reads a file of the archive from: a file as it is, or the disk of a
 * snapshot as a qcow2 image that stands nowhere, made up as it is read. */
#ifndef CAIRN_TOOLS_ARCHIVE_SOURCE_H
#define CAIRN_TOOLS_ARCHIVE_SOURCE_H

#include "block/block.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct loop;

struct source_extent {
	uint64_t off, len;
};

struct source {
	uint64_t size_bytes;
	struct source_extent *extents; /* what is not a hole, in order; owned */
	size_t nextents;
	/* All of [off, off + len). Returns 0 or -errno with a sentence. */
	int (*read)(struct source *s, void *buf, uint64_t off, size_t len, struct err *e);
	void (*free)(struct source *s);
};

/* fd: taken, locked against writers. name: for sentences, copied. */
int source_of_file(int fd, const char *name, struct source **ret, struct err *e);
/* l: outlives it; whoever reads runs it. layers: their fds are taken. The snapshot's content over its backing
 * layers, as one image without any. Nobody may delete the snapshot meanwhile; the disk may be written. */
int source_of_snapshot(struct loop *l, const struct block_layer *layers, unsigned nlayers, const char *snapshot,
	const char *name, struct source **ret, struct err *e);

static inline void source_free(struct source *s)
{
	if (s)
		s->free(s);
}

/* For those who make one. Returns 0 or -ENOMEM. */
int source_add_extent(struct source *s, uint64_t off, uint64_t len);

#endif
