/* ram_write: writes a VM's RAM to a saved state. The RAM must not change meanwhile.
 *
 * Threading: any thread. ram_write() starts a second thread if the store allows concurrent writes. */
#ifndef CAIRN_SNAPSHOT_RAM_WRITE_H
#define CAIRN_SNAPSHOT_RAM_WRITE_H

#include <stdint.h>

struct vmstate_layout;
struct vmstate_progress;
struct vmstate_source;
struct vmstate_store;

/* Write every nonzero block, in large writes. If the store allows concurrent writes, several
 * threads write; they end before the call returns.
 * crcs: room for one checksum per block; filled in.
 * p: may be NULL; step() runs on the caller's thread.
 * Returns 0; -ECANCELED if step() asked for it; -errno. */
int ram_write(struct vmstate_store *s, const struct vmstate_layout *l, const struct vmstate_source *src,
	uint32_t *crcs, const struct vmstate_progress *p, uint64_t *ret_written_bytes);

#endif
