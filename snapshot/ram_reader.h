/* ram_reader: supplies the blocks of a saved state to a VM that runs before its RAM has been read. It
 * reads each block once and checks it against its checksum before the guest sees it. It reads the
 * checksums on demand, too, so the time before the guest runs does not grow with its memory.
 *
 * Threading: the fault tracker's thread answers the faults, requests blocks here and puts them in place.
 * The same thread reads all other blocks in the background. */
#ifndef CAIRN_SNAPSHOT_RAM_READER_H
#define CAIRN_SNAPSHOT_RAM_READER_H

#include "snapshot/vmstate.h"

#include <stdbool.h>
#include <stdint.h>

struct bitmap;
struct err;
struct ram_reader;
struct working_set;

struct ram_reader_config {
	struct vmstate_store *store; /* borrowed until ram_reader_free() */
	struct vmstate_header header;
	const struct working_set *first; /* blocks to read first in the background; copied; NULL: none known */
	/* Called once, on the tracker's thread, when a block cannot be read or put in place. It must
	 * stop all vCPUs and prevent their resume, because the block is then filled with zeros. */
	void (*failed)(void *opaque, const struct err *e);
	/* Called at most once, on the tracker's thread, when every block is in place or the tracker ends; the
	 * store is not read again. Not called if fault_tracker_rewind() replaces the RAM reader before. NULL: not
	 * wanted. */
	void (*complete)(void *opaque);
	void *opaque;
};

struct ram_reader_stats {
	uint64_t blocks_faulted, blocks_prefetched;
	bool complete, failed;
};

/* Create a RAM reader. The caller frees it with ram_reader_free(). Returns 0 or -ENOMEM with a sentence. */
int ram_reader_new(const struct ram_reader_config *c, struct ram_reader **ret_rd, struct err *e);
/* Free the RAM reader after the tracker is gone or has another RAM reader. NULL allowed. */
void ram_reader_free(struct ram_reader *rd);
/* Mark the blocks that are in place already, from the previous state. Call it before the tracker
 * gets the RAM reader.
 * from: the previous RAM reader, whose requested blocks are in place; NULL: all blocks are in place.
 * dropped: a bit for each block that is not in place nevertheless; NULL: none. */
void ram_reader_inherit(struct ram_reader *rd, const struct ram_reader *from, const struct bitmap *dropped);

/* Get the blocks of config.first and then the faulting ones, in order, when no tracker uses the
 * RAM reader any more.
 * ret_key: the state's key.
 * Returns a list that is valid until ram_reader_free(). */
const uint32_t *ram_reader_working_set(const struct ram_reader *rd, uint64_t *ret_key, uint32_t *ret_n);

/* Wait until every block is in place, or the tracker has ended. Any thread. Returns false if a block failed. */
bool ram_reader_wait(struct ram_reader *rd);
void ram_reader_stats(struct ram_reader *rd, struct ram_reader_stats *ret);

/* ---- for the tracker's thread ---- */

/* Returns true if the block was requested already. */
bool ram_reader_has(const struct ram_reader *rd, uint64_t block);
/* Read a block that was not requested yet, and *ret_n - 1 following ones that are likely to be
 * needed soon. Ascending faults increase that number.
 * Returns the content, valid until the next call. If the block cannot be read, the content is zeros
 * and failed() was called. */
const uint8_t *ram_reader_read(struct ram_reader *rd, uint64_t block, uint64_t *ret_n);
/* Read the next blocks for the background.
 * ret_n: their number; 0 if the call only read checksums.
 * Returns the content; NULL when every nonzero block was requested. */
const uint8_t *ram_reader_next(struct ram_reader *rd, uint64_t *ret_block, uint64_t *ret_n);
/* Note that the block is not needed from the saved state, or (drop) that it is needed again. */
void ram_reader_skip(struct ram_reader *rd, uint64_t block);
void ram_reader_drop(struct ram_reader *rd, uint64_t block);
/* Report that a block could not be put in place. */
void ram_reader_fail(struct ram_reader *rd, const struct err *e);
/* Report that every block is in place, or will never be. */
void ram_reader_complete(struct ram_reader *rd);

#endif
