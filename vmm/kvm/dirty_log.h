/* dirty_log: records which blocks of RAM are written. VM processes without userfaultfd use it. So do processes that
 * took a VM over, from the handover to the first snapshot (vmm/machine/machine_carry.h), and processes that hand a
 * live clone over, while they copy its memory (vmm/machine/ram_carry.h). KVM's dirty log has the guest's writes. It
 * lacks the writes of this process, and those that the kernel makes for this process (data read from a disk), so
 * devices mark these.
 *
 * A device marks a block after its write is visible in RAM. So if a caller collects the log and then copies the
 * collected blocks, each write is in that copy, or a later collection has its block again.
 *
 * Turning the log on takes 7 to 11 ms for each memory slot if KVM waits for an RCU grace period. So callers turn it
 * on while the guest runs, and leave it on. With huge pages it is turned off after each copy, because KVM maps memory
 * in pages of 4 KiB while it is on.
 *
 * Threading: dirty_log_mark() on any thread. All other functions on the main or the worker's thread, one at a time. */
#ifndef CAIRN_VMM_KVM_DIRTY_LOG_H
#define CAIRN_VMM_KVM_DIRTY_LOG_H

#include "base/bitmap.h"

#include <stdatomic.h>

struct err;
struct kvm;
struct memory;

struct dirty_log {
	struct kvm *kvm;       /* borrowed */
	struct memory *mem;    /* borrowed */
	uint64_t blocks;       /* number of blocks of VMSTATE_BLOCK_BYTES; 0: not initialised */
	atomic_bool on;
	bool clears;	       /* KVM_CLEAR_DIRTY_LOG protects pages again; otherwise KVM_GET_DIRTY_LOG does */
	uint64_t *marks;       /* a bit for each block, set atomically by dirty_log_mark() */
	uint64_t *pages;       /* KVM's bitmap of one slot */
	struct bitmap written; /* blocks written since the last dirty_log_reset() */
};

/* Prepare the log, turned off. mem: initialised. Returns 0 or -errno. */
int dirty_log_init(struct dirty_log *l, struct kvm *k, struct memory *mem, struct err *e);
void dirty_log_done(struct dirty_log *l);
/* Note that this process wrote to [off, off + len) of RAM, after the write. Does nothing while the log is off. */
void dirty_log_mark(struct dirty_log *l, uint64_t off, uint64_t len);
/* Turn the log on; then all blocks count as written. Does nothing if the log is on. Returns 0 or -errno. */
int dirty_log_start(struct dirty_log *l, struct err *e);
/* Turn the log off. Returns 0 or -errno. */
int dirty_log_stop(struct dirty_log *l, struct err *e);
/* Return whether the log is on. */
bool dirty_log_is_on(const struct dirty_log *l);
/* Return whether the log is available and stays on, so that it counts writes from one snapshot to the next. */
bool dirty_log_stays(const struct dirty_log *l);
/* Add the blocks written since the last call to l->written. more: gets a bit for each of these blocks as well; NULL
 * allowed.
 * Returns 0; -errno: all blocks count as written. */
int dirty_log_collect(struct dirty_log *l, struct bitmap *more, struct err *e);
/* Clear the record of written blocks. */
void dirty_log_reset(struct dirty_log *l);

#endif
