/* pager: supplies the blocks of a saved state to a VM that runs before its RAM has been read. It
 * reads each block once and checks it against its checksum before the guest sees it. It reads the
 * checksums on demand, too, so the time before the guest runs does not grow with its memory.
 *
 * Threading: the tracker's thread answers the faults, requests blocks here and puts them in place.
 * It reads the rest in the background. */
#ifndef CAIRN_SNAPSHOT_PAGER_H
#define CAIRN_SNAPSHOT_PAGER_H

#include "snapshot/vmstate.h"

#include <stdbool.h>
#include <stdint.h>

struct bitmap;
struct err;
struct pager;
struct working_set;

struct pager_config {
	struct vmstate_store *store; /* borrowed until pager_free() */
	struct vmstate_header header;
	const struct working_set *first; /* blocks to read first in the background; copied; NULL: none known */
	/* Called once, on the tracker's thread, when a block cannot be read. On return, every vCPU
	 * must be on its way out of the guest, because the block is then filled with zeros. */
	void (*failed)(void *opaque, const struct err *e);
	/* Called once, on the tracker's thread, when every block is in place or nobody needs the
	 * rest; the store is not read again. NULL: not wanted. */
	void (*complete)(void *opaque);
	void *opaque;
};

struct pager_stats {
	uint64_t blocks_faulted, blocks_prefetched;
	bool complete, failed;
};

/* Create a pager. The caller frees it with pager_free(). Returns 0 or -ENOMEM with a sentence. */
int pager_new(const struct pager_config *c, struct pager **ret_p, struct err *e);
/* Free the pager after the tracker is gone or has another pager. NULL allowed. */
void pager_free(struct pager *p);
/* Mark the blocks that are in place already, from the previous state. Call it before the tracker
 * gets the pager.
 * from: the previous pager; NULL: all its blocks are in place.
 * dropped: a bit for each block that is not in place nevertheless. */
void pager_inherit(struct pager *p, const struct pager *from, const struct bitmap *dropped);

/* Get the blocks of config.first and then the faulting ones, in order, when no tracker uses the
 * pager any more.
 * ret_key: the state's key.
 * Returns a list that is valid until pager_free(). */
const uint32_t *pager_working_set(const struct pager *p, uint64_t *ret_key, uint32_t *ret_n);

/* Wait until every block is in place. Any thread. Returns false if a block could not be read. */
bool pager_wait(struct pager *p);
void pager_stats(struct pager *p, struct pager_stats *ret);

/* ---- for the tracker's thread ---- */

/* Returns true if the block was requested already. */
bool pager_has(const struct pager *p, uint64_t block);
/* Read a block that was not requested yet, and *ret_n - 1 following ones that are likely to be
 * needed soon. Ascending faults increase that number.
 * Returns the content, valid until the next call. If the block cannot be read, the content is zeros
 * and failed() was called. */
const uint8_t *pager_fault(struct pager *p, uint64_t block, uint64_t *ret_n);
/* Read the next blocks for the background.
 * ret_n: their number; 0 if the call only read checksums.
 * Returns the content; NULL when every nonzero block was requested. */
const uint8_t *pager_next(struct pager *p, uint64_t *ret_block, uint64_t *ret_n);
/* Report that a block could not be put in place. */
void pager_fail(struct pager *p, const struct err *e);
/* Report that every block is in place, or will never be. */
void pager_complete(struct pager *p);

#endif
