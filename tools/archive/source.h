/* source: input of an export: a file, or the disk of a snapshot presented as a qcow2 image that is generated while it
 * is read. */
#ifndef CAIRN_TOOLS_ARCHIVE_SOURCE_H
#define CAIRN_TOOLS_ARCHIVE_SOURCE_H

#include "block/block.h"
#include "snapshot/tree.h"

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
	struct source_extent *extents; /* data extents, in order; owned */
	size_t nextents;
	bool is_increment; /* an overlay with the differences from an earlier snapshot */
	struct block *disk; /* the disk of which this is a snapshot; NULL: none */
	/* Read all of [off, off + len). Returns 0; -errno with a sentence. */
	int (*read)(struct source *s, void *buf, uint64_t off, size_t len, struct err *e);
	void (*free)(struct source *s);
};

/* The snapshot that an export takes, and an earlier one if the archive shall be an increment. Opening the sources of
 * the disks fills in the rest. */
#define SOURCE_IDENTITY 64
struct source_since {
	const char *snapshot, *since; /* name or id; borrowed. since: NULL: the whole content */
	/* Words that no other snapshot has; empty: not known yet. Import compares them. */
	char snapshot_id[SOURCE_IDENTITY], since_id[SOURCE_IDENTITY];
	char since_name[BLOCK_SNAPSHOT_NAME_MAX + 1];
	struct tree_node at; /* `snapshot` on the first disk; valid if found */
	bool found;
	struct tree_node part; /* `since` on the first disk that has both */
};
/* Find both snapshots on a disk.
 * ret_id: the id of `snapshot` on this disk; empty: the disk does not have it. ret_since: that of `since`; empty: the
 * disk is exported as a whole, because none was asked for, or the disk does not have it: it was attached later.
 * Returns 0; -EINVAL: the snapshot does not descend from `since`; -errno with a sentence. */
int source_since_find(struct source_since *s, struct block *b, char ret_id[BLOCK_SNAPSHOT_ID_MAX + 1],
	char ret_since[BLOCK_SNAPSHOT_ID_MAX + 1], struct err *e);
/* Check, once all disks are open, that one has `since`. Returns 0 or -ENOENT. */
int source_since_check(const struct source_since *s, struct err *e);

/* Open a file as a source. fd: taken on success; locked against writers. name: for errors; copied. Returns 0; -errno
 * with a sentence. */
int source_of_file(int fd, const char *name, struct source **ret, struct err *e);
/* Open a snapshot, with its backing files merged into one image, or an increment (struct source_since).
 * since: NULL: the disk itself, locked against writers, which must have no snapshots.
 * l: outlives the source; the thread that calls read() runs it. layers: their fds are taken on success, and may be
 * closed on an error too. The snapshot must not be deleted meanwhile; a VM may write to a disk of which a snapshot is
 * opened.
 * Returns 0; -errno with a sentence. */
int source_of_snapshot(struct loop *l, const struct block_layer *layers, unsigned nlayers, struct source_since *since,
	const char *name, struct source **ret, struct err *e);

/* The variables of a VM's UEFI as a file that is a template for another VM. */
struct source_variables {
	int fd, template_fd; /* the VM's file, -1: it has none yet; its template. Borrowed */
	const char *snapshot; /* name or id; "": the variables of now */
	struct source **sources; /* the disks' sources, one of which may have the snapshot's VM state; borrowed */
	unsigned nsources;
};
/* Open them: from the snapshot's VM state, or the VM's file. If there is neither, they are the template's.
 * l: runs until all is read. Returns 0; -errno with a sentence. */
int source_of_variables(struct loop *l, const struct source_variables *v, const char *name, struct source **ret, struct err *e);

static inline void source_free(struct source *s)
{
	if (s)
		s->free(s);
}

/* Add a data extent; for implementations of a source. Calls come in ascending order. Returns 0 or -ENOMEM. */
int source_add_extent(struct source *s, uint64_t off, uint64_t len);

#endif
