/* tracker: tracks which blocks of RAM the guest and its devices write, and preserves the old
 * content, by userfaultfd write protection in blocks of VMSTATE_BLOCK_BYTES. If a VM runs before
 * its RAM has been read, the tracker also puts the pager's blocks in place: on the first access,
 * and write-protected unless that access is a write.
 *
 *  arm           once, while the guest runs: protects present memory. It takes 20 us per MiB, so it does not
 *                belong in the pause. Not needed if all memory comes from a pager.
 *  preprotect    shortly before reset_dirty or hold, while the guest runs: protects dirty blocks again;
 *                they stay dirty. Protecting takes 20 to 40 us per MiB, too long for the pause.
 *  reset_dirty   in a pause, with drained devices: protects the blocks written since the last reset and
 *                clears their dirty bits. Its time depends on what became dirty since preprotect,
 *                not on the size of RAM.
 *  hold          like reset_dirty, but dirty blocks stay dirty.
 *  save          after reset_dirty or hold: returns each wanted block once, with its content at that moment,
 *                while the guest runs. A block that is about to be written is copied aside first.
 *  rewind        in a pause, with drained devices: drops what was written since the last reset; a pager
 *                supplies it again on access. Its time depends on what is dropped.
 *
 * A write causes a fault the first time after a reset, and none afterwards. I/O that began before
 * arming may write without a fault; therefore devices are drained for a reset. (I/O that begins
 * before preprotect has made its blocks dirty already, and they stay dirty.)
 *
 * Nobody else puts pages into the memory: an untouched page stays missing until the first access,
 * and is then zeros. A read of RAM through the mapping faults like the guest, so the tracker's own
 * thread and holders of its lock must not read it.
 *
 * Threads: the tracker's own thread answers faults. arm, preprotect, save_next and save_end run on
 * one worker thread; reset_dirty, hold, save_begin, rewind and free on the main thread. */
#ifndef CAIRN_SNAPSHOT_TRACKER_H
#define CAIRN_SNAPSHOT_TRACKER_H

#include "snapshot/vmstate.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bitmap;
struct err;
struct pager;
struct tracker;
struct uffd;

struct tracker_config {
	const struct uffd *uffd; /* borrowed; without can_protect, the tracker only serves a pager */
	uint8_t *ram;		 /* with a pager: a fresh, untouched mapping */
	uint64_t ram_bytes;
	int ram_fd;	     /* the file that ram maps from offset 0; borrowed */
	struct pager *pager; /* borrowed; NULL: missing memory is zeros */
	/* Limit of bytes aside that wait for save_next(). Above it, threads for which may_wait() is
	 * true (vCPUs) wait. Other threads never wait: disks, because the reader behind save_next()
	 * may depend on them. */
	uint64_t aside_max_bytes;
	bool (*may_wait)(void *opaque, int tid);
	void *opaque;
};

/* Create a tracker and register the memory with userfaultfd. Nobody else may have it registered.
 * Returns 0 or -errno with a sentence. */
int tracker_new(const struct tracker_config *c, struct tracker **ret_t, struct err *e);
/* Start the thread. From here on, memory from a pager may be accessed. Returns 0 or -errno with a
 * sentence. */
int tracker_start(struct tracker *t, struct err *e);
/* End the thread. A thread that touches missing or protected memory then waits until
 * tracker_free(). Use this if the memory is unmapped in between: lifting its protection first would
 * take as long as freeing it. NULL allowed. */
void tracker_stop(struct tracker *t);
/* Unprotect and unregister the memory that is still mapped, and free the tracker. No save may be
 * running. Memory that the pager has not supplied is zeros from now on; so call this at the end or
 * before a reset. NULL allowed. */
void tracker_free(struct tracker *t);

int tracker_arm(struct tracker *t, struct err *e);
/* Protect dirty blocks until at most `leave` of them are unprotected, or the guest writes as fast
 * as this call protects. Returns 0 or -errno with a sentence. */
int tracker_preprotect(struct tracker *t, uint64_t leave, struct err *e);
/* Clear the dirty bits and protect their blocks.
 * ret_dirty: gets a bit for each block written since the last reset; overwritten; room for all
 * blocks. The first time it covers the time since the beginning with a pager; otherwise only since
 * arming, so treat all blocks as dirty. NULL: not wanted.
 * Returns 0 or -errno with a sentence. */
int tracker_reset_dirty(struct tracker *t, struct bitmap *ret_dirty, struct err *e);
/* Like tracker_reset_dirty(), for a save that is no base: blocks are protected but stay dirty.
 * Returns 0 or -errno with a sentence. */
int tracker_hold(struct tracker *t, struct err *e);
/* Reset memory to the content of p: the content at the last reset (or, with a pager, the original
 * one), except for the blocks in `changed`. Blocks that are in place, not written and not changed
 * stay.
 * p: borrowed; replaces the previous pager, which may then be freed.
 * changed: NULL: none.
 * Returns 0 or -errno with a sentence. */
int tracker_rewind(struct tracker *t, struct pager *p, const struct bitmap *changed, struct err *e);

/* Returns true if the tracker may still read its state's file. Any thread. */
bool tracker_loads(const struct tracker *t);

/* Start a save right after tracker_reset_dirty() or tracker_hold(), in the same pause. It first
 * protects again what late answers to faults have made writable.
 * wanted: the blocks to save; copied. */
void tracker_save_begin(struct tracker *t, const struct bitmap *wanted);
/* Get the next block. Blocks aside come first. Untouched blocks, which are zeros, are skipped.
 * buf: VMSTATE_BLOCK_BYTES for its content.
 * Returns 1; 0 at the end; -errno if a block's old content is lost and the save is void. */
int tracker_save_next(struct tracker *t, uint64_t *ret_block, uint8_t *buf);
/* End the save, complete or abandoned. */
void tracker_save_end(struct tracker *t);

struct tracker_stats {
	uint64_t faults, copied_aside, waits;
	uint64_t dirty_blocks; /* since the last reset */
};
void tracker_stats(struct tracker *t, struct tracker_stats *ret);

#endif
