/* tracker: which blocks of RAM the guest (and its devices) write to, and what was in them
 * before: write protection by userfaultfd, in blocks of VMSTATE_BLOCK_BYTES. For a VM that runs
 * before its RAM has been read it also puts in place what the pager has: a block comes when it is
 * touched, and protected unless it was touched by a write.
 *
 *   arm      once, while the guest runs: what is there becomes protected. Slow for much memory
 *            (20 µs a MiB), so not in the pause. Needless when all memory comes from a pager.
 *   settle   shortly before a mark or a hold, while the guest runs: protects again what was written, which stays
 *            written. Protecting takes 20 to 40 µs a MiB, and with much written that is no pause.
 *   mark     in a pause, devices drained: blocks written since the last mark are protected
 *            again: its time follows what was dirtied (since it settled), not RAM's size.
 *   hold     as a mark, but what is dirty stays so.
 *   save     from a mark or a hold on: each wanted block's content as it was at the mark, once, while
 *            the guest runs. A block about to be written is copied aside first.
 *   rewind   in a pause, devices drained: what was written since the mark is dropped and comes
 *            from a pager when it is touched. Its time, too, follows what is dropped.
 *
 * A write costs a fault the first time after a mark and nothing after it. I/O that was
 * started before arming may write without a fault; that is why a mark comes with devices
 * drained. (What is started before it settles has made its blocks written by then, and that they stay.)
 *
 * Nothing else puts pages into the memory: what was never touched stays missing until it is, and is
 * zeros then. What reads RAM through the mapping faults like the guest, which only the tracker's own
 * thread and holders of its lock must not do.
 *
 * Threads: the tracker's own answers faults. arm, settle, save_next and save_end run on one worker;
 * mark, hold, save_begin, rewind and free on the main thread. */
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
	const struct uffd *uffd; /* borrowed; can_protect, or there is only a pager to be served */
	uint8_t *ram;		 /* with a pager: a fresh, untouched mapping */
	uint64_t ram_bytes;
	int ram_fd;	     /* what ram is a mapping of, at offset 0; borrowed */
	struct pager *pager; /* borrowed; NULL: what is not there is zeros */
	/* Bytes that may wait aside for save_next(). Above it, threads for which may_wait() is true
	 * (vCPUs) wait; others (disks, which save_next's reader may depend on) never do. */
	uint64_t aside_max_bytes;
	bool (*may_wait)(void *opaque, int tid);
	void *opaque;
};

/* Registers the memory. Nothing else may have it registered. */
int tracker_new(const struct tracker_config *c, struct tracker **ret_t, struct err *e);
/* The thread. From here on memory that comes from a pager may be touched. */
int tracker_start(struct tracker *t, struct err *e);
/* The thread ends, and who touches memory that is missing or protected waits until tracker_free(). For memory that is
 * unmapped in between: to lift its protection first would take as long as to free it. NULL allowed. */
void tracker_stop(struct tracker *t);
/* Unprotects and unregisters what is still mapped. No save is under way. What the pager had not brought yet is zeros from
 * now on: for the end, or before a reset. NULL allowed. */
void tracker_free(struct tracker *t);

int tracker_arm(struct tracker *t, struct err *e);
/* Until at most `leave` blocks are not protected, or the guest writes as fast as that goes. */
int tracker_preprotect(struct tracker *t, uint64_t leave, struct err *e);
/* *ret_dirty: a bit for each block written since the last mark. After the first: with a pager, since
 * the beginning; else since arming began, so take all blocks as dirty. Has room for all blocks;
 * overwritten. NULL: nobody asks. */
int tracker_reset_dirty(struct tracker *t, struct bitmap *ret_dirty, struct err *e);
/* As a mark, for a save that nothing will count from: what was written since the last mark is protected, and
 * stays written since then. */
int tracker_hold(struct tracker *t, struct err *e);
/* Memory becomes what p has: as it was at the last mark (with a pager: since then or ever), but for the blocks of
 * changed (NULL: none). p: borrowed, replaces the one before, which may be freed. Blocks that are in place
 * and neither written nor changed stay. */
int tracker_rewind(struct tracker *t, struct pager *p, const struct bitmap *changed, struct err *e);

/* Any thread: may it still read its state's file? */
bool tracker_loads(const struct tracker *t);

/* Right after a mark or a hold, still paused: what faults that were answered in between made writable is protected
 * again. wanted: blocks to be saved; copied. */
void tracker_save_begin(struct tracker *t, const struct bitmap *wanted);
/* The next block's content into buf (VMSTATE_BLOCK_BYTES). Those aside come first; what was never
 * touched, and so is zeros, is left out. Returns 1; 0: that was all; -errno: a block's content was
 * lost, the save is void. */
int tracker_save_next(struct tracker *t, uint64_t *ret_block, uint8_t *buf);
/* All taken, or given up. */
void tracker_save_end(struct tracker *t);

struct tracker_stats {
	uint64_t faults, copied_aside, waits;
	uint64_t dirty_blocks; /* since the last mark */
};
void tracker_stats(struct tracker *t, struct tracker_stats *ret);

#endif
