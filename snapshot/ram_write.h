/* ram_write: memory that stands still, into a saved state. */
#ifndef CAIRN_SNAPSHOT_RAM_WRITE_H
#define CAIRN_SNAPSHOT_RAM_WRITE_H

#include <stdint.h>

struct vmstate_layout;
struct vmstate_progress;
struct vmstate_source;
struct vmstate_store;

/* Every block that is no zeros, in large writes; where the store allows it several at a time, by threads that
 * end before this returns.
 * crcs: room for one for each block; filled in. p: NULL allowed; step() is called on the caller's thread.
 * Returns 0, -ECANCELED when step() said so, -errno. */
int ram_write(struct vmstate_store *s, const struct vmstate_layout *l, const struct vmstate_source *src,
	uint32_t *crcs, const struct vmstate_progress *p, uint64_t *ret_written_bytes);

#endif
