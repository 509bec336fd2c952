/* ram_load: loads guest memory from a saved state, on demand or at once, and starts the tracking of
 * writes.
 *
 * Threading: main thread, unless a comment says otherwise. */
#ifndef CAIRN_VMM_MACHINE_RAM_LOAD_H
#define CAIRN_VMM_MACHINE_RAM_LOAD_H

#include "snapshot/vmstate.h"

#include <stdbool.h>
#include <sys/uio.h>

struct bitmap;
struct err;
struct machine;

/* Load memory from s into RAM that is untouched (fresh or cleared). With userfaultfd, m->ram_reader and
 * m->tracker load memory on demand until machine_memory_release(); without it, all memory is loaded
 * on return.
 * s: borrowed until machine_memory_release().
 * Returns 0 or -errno. */
int ram_load(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h, struct err *e);
/* Revert memory that is tracked to the saved state in s. Pages that are equal in both states and
 * were not written stay in place.
 * changed: blocks in which s differs from the state that the tracker counts from; NULL: no block differs.
 * s: replaces the store in use, which the caller may free on success.
 * Returns 0 or -errno. */
int ram_rewind(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h,
	const struct bitmap *changed, struct err *e);
/* Let the memory that was not written since the saved state in s come from there: fault_tracker_reclaim_begin(). The
 * tracker counts from that state. On the worker's thread, during work that excludes other work.
 * s: replaces the store in use, which the caller may free, on success. Returns 0 or -errno. */
int ram_reclaim_begin(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h, struct err *e);
/* Wait until all memory is loaded. On the worker's or the main thread. Returns 0; -EIO when part of the saved memory
 * could not be read. */
int ram_wait(struct machine *m, struct err *e);
/* Record which blocks were touched first since m->ram_reader began, for the next restore of the same
 * state. Call when no tracker uses the RAM reader any more; does nothing without a RAM reader. */
void ram_working_set_keep(struct machine *m);
/* Write all recorded working sets into m->working_sets_fd, and close it. For teardown. */
void ram_working_sets_done(struct machine *m);
/* Fault in the guest memory of an I/O request while the tracker still reads from a file, so that
 * the disk's thread does not fault later. On the disk's thread.
 * write: the request writes to the memory; false: it only reads. */
void ram_load_iov(struct machine *m, const struct iovec *iov, unsigned niov, bool write);
/* Prepare guest memory for a device that writes to it, as fault_tracker_make_room(). */
bool ram_make_room(struct machine *m, const struct iovec *iov, unsigned niov, int wake_fd);
/* Give pages that the guest does not use back to the host, as dev_host_ops.ram_give_back(). */
bool ram_give_back(struct machine *m, uint64_t off, uint64_t len, int wake_fd);
/* How memory is saved or loaded. */
enum ram_way {
	RAM_PAUSED, /* while the VM is paused */
	RAM_FAULTS, /* as of one instant, while the VM runs, by userfaultfd's write protection */
	RAM_LOG,    /* in rounds, while the VM runs, by KVM's dirty log (ram_save.h) */
};
/* Return how to save memory: RAM_FAULTS if userfaultfd can track writes to RAM, RAM_PAUSED if it cannot track this
 * memory only, else RAM_LOG. Logs why a clone's RAM cannot be tracked. Main thread. */
enum ram_way ram_way(struct machine *m);
/* Start write tracking, if it is not active (m->tracker, until machine_memory_release()), and
 * write-protect most memory now, so that the next pause is short (fault_tracker_preprotect()). Runs on the
 * worker; needs RAM_FAULTS.
 * Returns 0 or -errno. */
int ram_watch(struct machine *m, struct err *e);
/* Start write tracking in the background, in steps on the main thread, if userfaultfd can. Called once, while the guest
 * runs. */
void ram_watch_early(struct machine *m);

#endif
