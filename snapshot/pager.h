/* pager: a VM that runs before its RAM has been read. RAM is registered with userfaultfd; a
 * thread answers faults out of a saved state, whole blocks at a time, and reads the rest in
 * the background. Each block is checked against its checksum before the guest sees it.
 *
 * Nothing but the pager puts pages into the memory while it is at work, and each block is
 * put once. What reads RAM through the mapping just faults like the guest; what looks for
 * holes in the memfd waits for pager_wait() first. */
#ifndef CAIRN_SNAPSHOT_PAGER_H
#define CAIRN_SNAPSHOT_PAGER_H

#include "snapshot/vmstate.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct pager;
struct uffd;

struct pager_config {
	struct vmstate_store *store; /* borrowed until pager_free() */
	struct vmstate_header header;
	uint32_t *crcs; /* taken on success */
	uint8_t *ram;	/* a fresh, untouched mapping of header.layout.ram_bytes */
	/* On the pager's thread. failed(): a block could not be had; every vCPU has to be on its
	 * way out of the guest when it returns, for the block is given as zeros then. Once. */
	void (*failed)(void *opaque, const struct err *e);
	void *opaque;
};

struct pager_stats {
	uint64_t blocks_total; /* that are no zeros */
	uint64_t blocks_faulted, blocks_prefetched;
	bool complete, failed;
};

/* Register the memory. uffd: borrowed until pager_free(). Returns 0 or -errno with a sentence. */
int pager_new(const struct pager_config *c, const struct uffd *uffd, struct pager **ret_p,
	struct err *e);
/* The thread. From here on the memory may be touched. */
int pager_start(struct pager *p, struct err *e);
/* Any thread: until everything is there. False when something could not be read. */
bool pager_wait(struct pager *p);
void pager_stats(struct pager *p, struct pager_stats *ret);
/* Stops, and unregisters the memory. What was not read yet is zeros from now on: for the end, or before a reset.
 * NULL allowed. */
void pager_free(struct pager *p);

#endif
