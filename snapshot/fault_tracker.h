/* fault_tracker: answers faults on guest memory. It tracks which blocks of RAM the guest and its devices write, and
 * preserves the old content, by userfaultfd write protection in blocks of VMSTATE_BLOCK_BYTES. If a VM runs before
 * its RAM has been read, the tracker also puts the RAM reader's blocks in place: on the first access,
 * and write-protected unless that access is a write.
 *
 *  arm           once, while the guest runs: protects present memory. It takes 20 us per MiB, too long
 *                for a pause. Not needed if all memory comes from a RAM reader.
 *  preprotect    shortly before reset_dirty or hold, while the guest runs: protects dirty blocks again;
 *                they stay dirty. Protecting takes 20 to 40 us per MiB, too long for the pause.
 *  reset_dirty   in a pause, with drained devices: protects the blocks written since the last reset and
 *                clears their dirty bits. Its time depends on what became dirty since preprotect,
 *                not on the size of RAM.
 *  hold          like reset_dirty, but dirty blocks stay dirty.
 *  dirty         in a pause, with drained devices: returns the dirty bits, and changes nothing.
 *  save          after reset_dirty or hold: returns each wanted block once, with its content at that moment,
 *                while the guest runs. A block that is about to be written is copied aside first.
 *  rewind        in a pause, with drained devices: drops the pages written since the last reset; a RAM reader
 *                supplies their old content on access. Its time depends on the number of dropped pages.
 *
 *  give_back     while the guest runs: frees pages whose content the guest does not need any more.
 *  reclaim       while the guest runs: frees the blocks that were not written since the last reset; a RAM reader
 *                supplies them again on access, and only then.
 *
 * A write causes a fault the first time after its block was protected, and none afterwards. I/O that began before
 * arming may write without a fault; therefore devices are drained for a reset. (I/O that begins
 * before preprotect has made its blocks dirty already, and they stay dirty.)
 *
 * Nobody else puts pages into the memory: an untouched page stays missing until the first access,
 * and is then zeros. A read of RAM through the mapping faults like the guest, so the tracker's own
 * thread and holders of its lock must not read it.
 *
 * The RAM of a clone is a private view of a base file (ram_view.h). The kernel answers its missing pages from that
 * file, so only writes fault, and the tracker may read the clone's own pages. Arming protects all of a view, also
 * pages that the clone never touched; it copies nothing. A view has no RAM reader and no rewind.
 *
 * Threads: the tracker's own thread answers faults. arm, preprotect, save_next and save_end run on
 * one worker thread; reset_dirty, hold, save_begin, rewind and stop on the main thread; free on the main thread, or
 * on the worker thread if arm or the first preprotect failed. */
#ifndef CAIRN_SNAPSHOT_FAULT_TRACKER_H
#define CAIRN_SNAPSHOT_FAULT_TRACKER_H

#include "snapshot/vmstate.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct bitmap;
struct err;
struct fault_tracker;
struct ram_reader;
struct ram_view;
struct uffd;

struct fault_tracker_config {
	const struct uffd *uffd; /* borrowed; without can_protect, the tracker only serves a RAM reader */
	uint8_t *ram;		 /* with a RAM reader: a fresh, untouched mapping */
	uint64_t ram_bytes;
	int ram_fd;	     /* the file that ram maps from offset 0; borrowed; not used with a view */
	bool huge_pages;     /* ram may be in transparent huge pages */
	const struct ram_view *view; /* ram is this private view; borrowed; NULL: ram is a shared mapping of ram_fd */
	struct ram_reader *ram_reader; /* borrowed; NULL: missing memory is zeros */
	/* Offset in ram that the owner always writes to once the RAM reader supplies memory. The block there is put in
	 * place as written, so that the write does not fault. 0: none. */
	uint64_t written_at;
	/* Limit for the old content that waits for save_next(). Above it, threads for which may_wait() is true (vCPUs)
	 * wait. Other threads do not wait: the caller of save_next() may wait for a disk's thread, and the main thread
	 * serves both. A disk's thread makes room for a request with fault_tracker_make_room() instead. The other
	 * threads write little: their devices use up the buffers that vCPUs gave them before they waited. If that
	 * exceeds aside_hard_bytes (0: no limit) all the same, the save fails and frees everything. */
	uint64_t aside_max_bytes, aside_hard_bytes;
	bool (*may_wait)(void *opaque, int tid);
	void (*begin)(void *opaque); /* the tracker's thread calls it first */
	void *opaque;
};

/* Return whether the kernel can write-protect pages of a private view that are not mapped, by a probe with one page.
 * If it cannot, the view cannot be tracked. */
bool fault_tracker_can_watch(const struct uffd *u, const struct ram_view *v);

/* Create a tracker and register the memory with userfaultfd. Nobody else may have it registered.
 * Returns 0 or -errno with a sentence. */
int fault_tracker_new(const struct fault_tracker_config *c, struct fault_tracker **ret_t, struct err *e);
/* Start the thread. From here on, memory from a RAM reader may be accessed. Returns 0 or -errno with a
 * sentence. */
int fault_tracker_start(struct fault_tracker *t, struct err *e);
/* End the thread. A thread that touches missing or protected memory then waits until
 * fault_tracker_free(). Use this if the memory is unmapped in between: lifting its protection first would
 * take as long as freeing it. NULL allowed. */
void fault_tracker_stop(struct fault_tracker *t);
/* Unprotect and unregister the memory that is still mapped, and free the tracker. No save may be
 * running. Memory that the RAM reader has not supplied is zeros from now on; so call this at the end, or before
 * all memory is cleared. NULL allowed. */
void fault_tracker_free(struct fault_tracker *t);

int fault_tracker_arm(struct fault_tracker *t, struct err *e);
/* Arm in steps of about a millisecond, on the main thread. fault_tracker_arm() may complete the work meanwhile. Not
 * for a view. fault_tracker_arm_step() returns 1: call it again; 0: all memory is protected; -errno with a sentence. */
void fault_tracker_arm_begin(struct fault_tracker *t);
int fault_tracker_arm_step(struct fault_tracker *t, struct err *e);
/* Return whether steps are left. Any thread. */
bool fault_tracker_is_arming(const struct fault_tracker *t);
/* Protect dirty blocks until at most `leave` of them are unprotected, in at most 4 rounds, because the
 * guest may write as fast as this call protects. Returns 0 or -errno with a sentence. */
int fault_tracker_preprotect(struct fault_tracker *t, uint64_t leave, struct err *e);
/* Clear the dirty bits and protect their blocks.
 * ret_dirty: gets a bit for each block written since the last reset; overwritten; room for all
 * blocks. With a RAM reader, the first call covers all writes so far. Without one, it covers only those
 * since arming, so treat all blocks as dirty. NULL: not wanted.
 * Returns 0 or -errno with a sentence. */
int fault_tracker_reset_dirty(struct fault_tracker *t, struct bitmap *ret_dirty, struct err *e);
/* Set in `to` the bit of each block written since the last reset. In a pause, with drained devices. */
void fault_tracker_dirty(struct fault_tracker *t, struct bitmap *to);
/* Like fault_tracker_reset_dirty(), for a save on which no incremental save will be based: blocks are
 * protected but stay dirty.
 * Returns 0 or -errno with a sentence. */
int fault_tracker_hold(struct fault_tracker *t, struct err *e);
/* Drop the blocks written since the last reset and those in `changed`; rd supplies them again on access. All other
 * blocks stay as they are.
 * rd: has the content that memory had at the last reset (without a reset: the previous RAM reader's), except in
 * `changed`. Borrowed; replaces the previous RAM reader, which may then be freed.
 * changed: the blocks in which rd has other content; NULL: none.
 * Returns 0 or -errno with a sentence. -EBUSY: a part of a huge page stays, with zeros; clear all memory, and load
 * it. */
int fault_tracker_rewind(struct fault_tracker *t, struct ram_reader *rd, const struct bitmap *changed, struct err *e);

/* Free [off, off + len) of RAM, whole pages that the guest does not use: they read as zeros, in a view as the base
 * file. Pages that a RAM reader has not supplied yet stay as they are, unless they make up a whole block. All of it
 * counts as written. wake_fd: as for fault_tracker_make_room().
 * Returns 1; 0: there is no room to keep the old content for a running save, so try again later; -errno. Any thread
 * but the tracker's; not while a save begins. */
int fault_tracker_give_back(struct fault_tracker *t, uint64_t off, uint64_t len, int wake_fd);
/* Begin to free the blocks that were not written since the last reset, except holes: rd supplies them again, but only
 * on access (fault_tracker_load_all() makes it supply the rest). Before fault_tracker_reclaim(), let all requests of
 * devices end: those that begin from now on tell what they use. RAM is no view and is armed, and all devices were
 * drained at the last reset. On the worker thread.
 * rd: has the content that memory had at the last reset. Borrowed; replaces the previous RAM reader, which may then be
 * freed; not after an error.
 * Returns 0 or -errno with a sentence. */
int fault_tracker_reclaim_begin(struct fault_tracker *t, struct ram_reader *rd, struct err *e);
/* Free them, but no block that a device uses: the kernel would wait for it with the image locked from which rd reads
 * it. With huge_pages, only 2 MiB without a written block are freed. On the worker thread.
 * ret_bytes: how much was freed. Returns 0 or -errno with a sentence. */
int fault_tracker_reclaim(struct fault_tracker *t, uint64_t *ret_bytes, struct err *e);
/* Tell that a device is about to use this memory, before it is touched. Any thread. */
void fault_tracker_use(struct fault_tracker *t, const struct iovec *iov, unsigned niov);
/* Read in the background the blocks that a RAM reader has not supplied yet. Any thread. */
void fault_tracker_load_all(struct fault_tracker *t);
/* Returns true if the tracker may still read blocks from its RAM reader. Any thread. */
bool fault_tracker_loads(const struct fault_tracker *t);

/* Start a save right after fault_tracker_reset_dirty() or fault_tracker_hold(), in the same pause. Also protects
 * again pages that late answers to faults have made writable.
 * wanted: the blocks to save; copied. */
void fault_tracker_save_begin(struct fault_tracker *t, const struct bitmap *wanted);
/* Get the next block. Blocks whose old content was copied aside come first. Untouched blocks, which are zeros, are
 * skipped (not in a view).
 * buf: VMSTATE_BLOCK_BYTES for its content.
 * Returns 1; 0 at the end; -errno if a block's old content is lost and the save is void. */
int fault_tracker_save_next(struct fault_tracker *t, uint64_t *ret_block, uint8_t *buf);
/* End the save, complete or abandoned. */
void fault_tracker_save_end(struct fault_tracker *t);

/* Returns true between save_begin and save_end. Any thread. */
bool fault_tracker_saves(const struct fault_tracker *t);
/* Before a device writes to guest memory: copy the old content of the blocks that a running save still needs, so that
 * the write causes no copy.
 * wake_fd: an eventfd, signalled when it is worth trying again; borrowed until the save ends.
 * Returns true if the device may write now; false if there is no room for all copies. Never waits for room: the worker
 * that makes room writes through the disk's thread. Any thread; not while devices are drained. */
bool fault_tracker_make_room(struct fault_tracker *t, const struct iovec *iov, unsigned niov, int wake_fd);

struct fault_tracker_stats {
	uint64_t faults, copied_aside, waits;
};
void fault_tracker_stats(struct fault_tracker *t, struct fault_tracker_stats *ret);

#endif
