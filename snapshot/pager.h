/* pager: the blocks of a saved state, for a VM that runs before its RAM has been read. Each is read
 * once and checked against its checksum before the guest sees it; the checksums, too, are read when they are
 * wanted: what happens before the guest runs does not grow with its memory.
 *
 * The tracker's thread, which answers the faults, asks for blocks and puts them in place; it reads
 * the rest in the background. */
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
	const struct working_set *first; /* what the background begins with; copied. NULL: nothing is known */
	/* On the tracker's thread. failed(): a block could not be had; every vCPU has to be on its
	 * way out of the guest when it returns, for the block is given as zeros then. Once. */
	void (*failed)(void *opaque, const struct err *e);
	/* The same: all is there, or nobody asks any more; the store is not read again. Once. NULL: nobody cares. */
	void (*complete)(void *opaque);
	void *opaque;
};

struct pager_stats {
	uint64_t blocks_faulted, blocks_prefetched;
	bool complete, failed;
};

/* Returns 0 or -ENOMEM with a sentence. */
int pager_new(const struct pager_config *c, struct pager **ret_p, struct err *e);
/* The tracker is gone, or has another. NULL allowed. */
void pager_free(struct pager *p);
/* Before the tracker has it: what is in place already, of the state before. from: NULL when all is; dropped: a
 * bit for each block that is not, even so. */
void pager_inherit(struct pager *p, const struct pager *from, const struct bitmap *dropped);

/* No tracker has it any more: what it was told of in first and what faults brought, in that order; *ret_key:
 * the state's. Valid until pager_free(). */
const uint32_t *pager_working_set(const struct pager *p, uint64_t *ret_key, uint32_t *ret_n);

/* Any thread: until everything is there. False when something could not be read. */
bool pager_wait(struct pager *p);
void pager_stats(struct pager *p, struct pager_stats *ret);

/* ---- the tracker's thread ---- */

/* Was it asked for already? */
bool pager_has(const struct pager *p, uint64_t block);
/* A block that was not asked for yet, and *ret_n - 1 that follow it and will be wanted soon: they are read
 * at once, and more of them the longer faults go upwards. The content is valid until the next call; zeros when
 * it cannot be had: failed() has been called by then. */
const uint8_t *pager_fault(struct pager *p, uint64_t block, uint64_t *ret_n);
/* The next blocks for the background, 0 when it has only read checksums; NULL: all that are no zeros were asked for. */
const uint8_t *pager_next(struct pager *p, uint64_t *ret_block, uint64_t *ret_n);
/* What was asked for could not be put in place. */
void pager_fail(struct pager *p, const struct err *e);
/* Everything is in place, or will never be. */
void pager_complete(struct pager *p);

#endif
