/* Declarations shared by the files that implement vm_snapshot.h. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_SNAPSHOT_IMPL_H
#define CAIRN_VMM_SNAPSHOT_VM_SNAPSHOT_IMPL_H

#include "base/err.h"
#include "snapshot/state.h"
#include "snapshot/tree.h"
#include "snapshot/vmstate.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/ram_load.h"
#include "vmm/machine/ram_save.h"
#include "vmm/machine/vm.h"
#include "vmm/machine/worker.h"
#include "vmm/snapshot/vm_snapshot.h"

struct vmsnap_job {
	struct work work;
	struct vm *vm;
	struct machine *m;
	struct worker *worker;
	vm_snapshot_done_fn *done;
	void *opaque;
	int r;
	struct err e;
	struct vm_snapshot_done result;
	bool stopped; /* vmsnap_job_stop_vm() paused the VM, and the job has to resume it */
	uint64_t stopped_ns;
	uint64_t stand_until_ns; /* vmsnap_job_stop_vm() waits so long after the stop of the vCPUs; 0: not at all */
};

/* Return the disk that holds VM state and tree: the first writable qcow2 disk; NULL with an
 * error. */
struct machine_disk *vmsnap_first_disk(struct machine *m, struct err *e);
bool vmsnap_disk_takes_part(const struct machine *m, unsigned i);
/* Return whether the disk takes part in snapshots and its format supports them. */
bool vmsnap_disk_has_parts(const struct machine *m, unsigned i);
int vmsnap_tree(struct machine_disk *d, struct tree *ret, struct err *e);
/* Open the first disk and its tree. Returns 0 or -errno. */
int vmsnap_open(struct machine *m, struct machine_disk **ret_d, struct tree *ret_t, struct err *e);
/* Find a visible node of a tree. name: its name or id; "": the current snapshot. Returns 0 or -ENOENT. */
int vmsnap_find(const struct tree *t, const char *name, struct tree_node **ret, struct err *e);
/* Fill in the information for clients; own_bytes is unknown. */
void vmsnap_info(const struct tree_node *n, bool current, struct vm_snapshot_info *i);

/* Begin a long-running job (vm_work_begin()).
 * bytes: size of the struct, zeroed, that begins with its vmsnap_job; the caller sets done and
 * opaque.
 * Returns NULL with an error if vm_work_begin() refuses or memory is short. */
void *vmsnap_job_new(size_t bytes, struct vm *vm, struct worker *w, const char *what, struct err *e);
/* Begin a job that is also possible on a crashed VM that is preserved. */
void *vmsnap_job_new_crashed(size_t bytes, struct vm *vm, struct worker *w, const char *what, struct err *e);
/* Begin a job that ends the copy of a disk. */
void *vmsnap_job_new_on_copy(size_t bytes, struct vm *vm, struct worker *w, const char *what, struct err *e);
/* Let run() work on the worker's thread, and then done() on the main thread. */
void vmsnap_job_stage(struct vmsnap_job *j, void (*run)(struct work *w), void (*done)(struct work *w));
/* Note in the result how memory is copied or loaded and, unless that is RAM_FAULTS, why. */
void vmsnap_job_tell_tracking(struct vmsnap_job *j, enum ram_way way);
/* Have the tracker save all of memory, including blocks that an earlier snapshot has saved. In the pause, on the main
 * thread. Returns 0, and the caller has to call fault_tracker_save_end(); -errno with an error. */
int vmsnap_job_hold_memory(struct vmsnap_job *j);
/* Get the next block to write: from the tracker, or from s with RAM_LOG. Returns as ram_save_next(). */
int vmsnap_job_block_next(struct vmsnap_job *j, enum ram_way way, struct ram_save *s, uint64_t *ret_block, uint8_t *buf);
/* Note in the result how a copy in rounds went. */
void vmsnap_job_tell_rounds(struct vmsnap_job *j, const struct ram_save *s);
/* Pause the VM if it runs and the job has not failed; note the time in stopped_ns, and in the result when the vCPUs
 * stood still. On the main thread. */
void vmsnap_job_stop_vm(struct vmsnap_job *j);
/* Resume the VM if vmsnap_job_stop_vm() paused it; note the pause in the result. On the main thread. */
void vmsnap_job_resume_vm(struct vmsnap_job *j);
/* Fill in the result from r and e, end the work and call done(). The caller then frees the job. */
void vmsnap_job_finish(struct vmsnap_job *j);

/* ---- vm_snapshot_hold.c: the snapshot of a group waits for the daemon; on the main thread ---- */

struct vmsnap_hold {
	struct vm *vm; /* NULL: nothing waits */
	struct loop_timer *timer; /* owned */
	enum vm_fork_stage stage;
	uint64_t at_ns;    /* of VM_STEP_FREEZE; 0: not known yet */
	uint64_t until_ns; /* abort at this time; 0: never */
	uint64_t stand_until_ns; /* of VM_STEP_FREEZE, for vmsnap_job_stop_vm() */
	/* The wait is over. r: 0: continue with the step; -errno: abort, with e. */
	void (*over)(struct vmsnap_hold *h, enum vm_snapshot_step step, int r, const struct err *e);
};

/* Sleep until that time of CLOCK_MONOTONIC. */
void vmsnap_sleep_until(uint64_t ns);
/* Report the stage to the daemon, and wait until the daemon sends the next step, the work is cancelled, or for
 * VM_GROUP_FROZEN the time is up. The caller has set over. Returns 0; -ENOMEM. */
int vmsnap_hold_begin(struct vmsnap_hold *h, struct vm *vm, enum vm_fork_stage stage, struct err *e);

/* ---- vm_snapshot_parts.c: blocking calls, on the main thread or the worker's ---- */

typedef int vmsnap_part_fn(struct machine_disk *d, struct tree_node *part, const struct tree_node *arg,
	struct err *e);
/* Call fn for each part of a snapshot on the disks other than the first.
 * of: the snapshot's node in the first disk's tree. Returns 0 or fn's first error. */
int vmsnap_parts(struct machine *m, const struct machine_disk *first, const struct tree_node *of,
	vmsnap_part_fn *fn, const struct tree_node *arg, struct err *e);
/* Set ret[i] to the id of a snapshot on disk i, for each disk that takes part.
 * of: the snapshot's node in the first disk's tree. disk: id of the only disk to look at; "": all. absent: the disks
 * that need no part; NULL: none.
 * Returns 0; -ENOENT when a disk has no part of the snapshot. */
int vmsnap_ids(struct machine *m, const struct machine_disk *first, const struct tree_node *of, const char *disk, const bool *absent,
	char ret[][BLOCK_SNAPSHOT_ID_MAX + 1], struct err *e);
/* Rename a part to the name of n and mark it as complete. */
int vmsnap_part_complete(struct machine_disk *d, struct tree_node *part, const struct tree_node *n,
	struct err *e);
/* Delete snapshot n of the first disk's tree t from all disks. As soon as n is marked, the snapshot
 * is hidden from users; after a later failure, the next vmsnap_recover() completes the deletion. */
int vmsnap_delete(struct machine *m, struct machine_disk *first, struct tree *t, struct tree_node *n,
	struct err *e);
/* Mark n as being reverted to on several disks, so that vmsnap_recover() completes the revert after a crash. A VM with
 * one disk needs no mark. */
int vmsnap_revert_mark(struct machine_disk *first, const struct tree *t, struct tree_node *n,
	struct err *e);
/* Remove the mark while no disk's content has changed. old: n's data before vmsnap_revert_mark(). Returns 0 or -errno,
 * logged. */
int vmsnap_revert_unmark(struct machine_disk *first, struct tree_node *n, const struct tree_data *old);
/* Return the entry that the first disk gets in the write that reverts it, after all other disks: it makes n current and
 * clears the mark. NULL: QEMU made the snapshot, and its entry stays. */
const struct block_snapshot_info *vmsnap_revert_info(const struct tree *t, struct tree_node *n);
/* Complete or undo interrupted operations, and log each.
 * may_revert: an interrupted revert may be completed, because no guest has run on the disks' content; false: -EBUSY.
 * tell: called for each recovery; may be NULL. */
typedef void vmsnap_recovered_fn(void *opaque, enum vm_recovery what, const char *disk, const char *name);
int vmsnap_recover(struct machine *m, bool may_revert, vmsnap_recovered_fn *tell, void *opaque,
	struct err *e);

#endif
