/* ram_revert: reverts the memory of a VM process without userfaultfd. The dirty log (vmm/kvm/dirty_log.h) may have
 * the writes since a known state. Then only the blocks that were written since, or that differ between that state and
 * the wanted one, are read and replaced; else all blocks. Unless the caller forgoes the check, each block is read and
 * checked before memory is changed, most of them while the guest runs.
 *
 * Threading: ram_revert_prepare() on the worker's thread, with some more of its own; all others on the main thread. */
#ifndef CAIRN_VMM_MACHINE_RAM_REVERT_H
#define CAIRN_VMM_MACHINE_RAM_REVERT_H

#include "base/bitmap.h"
#include "snapshot/vmstate.h"

struct err;
struct machine;

struct ram_revert {
	struct machine *m;
	struct vmstate_store *store;	/* borrowed; several threads read it at a time */
	const struct vmstate_header *h; /* borrowed */
	uint32_t *crcs;
	bool all;
	struct bitmap wanted;  /* blocks to replace */
	struct bitmap checked; /* blocks that were read and are sound */
	/* Checked blocks whose content is kept, so that they need not be read again. */
	uint64_t *kept, nkept;
	uint8_t *data;
};

/* Read and check the blocks to replace, as far as they are known. The guest may run. Turns the dirty log on, except
 * with huge pages.
 * changed: blocks in which the state in `store` differs from the state that the log counts from; NULL: there is no such
 * state, so replace all blocks.
 * check: false: check no block now, because nothing would be lost if a block turned out to be damaged later.
 * v: zeroed; ended by ram_revert_done(), also after an error. Returns 0; -EIO with a sentence; -errno. */
int ram_revert_prepare(struct ram_revert *v, struct machine *m, struct vmstate_store *store,
	const struct vmstate_header *h, const struct bitmap *changed, bool check, struct err *e);
/* Read and check the blocks that the guest has written since ram_revert_prepare(). The VM is paused, with drained
 * devices. Returns as ram_revert_prepare(). */
int ram_revert_update(struct ram_revert *v, struct err *e);
/* Replace the blocks. If these are all blocks, clear all of memory first. The log then counts from this state. Returns
 * 0; -errno: memory is inconsistent. */
int ram_revert_apply(struct ram_revert *v, struct err *e);
void ram_revert_done(struct ram_revert *v);

#endif
