/* vm: the life of one VM inside its process: its phases, the actions of guest and user that change
 * them, and the events that report the changes. The daemon's table of states
 * (api/schema/vm_state.c) builds on these phases.
 *
 * Threading: main thread only, unless a comment says otherwise. Events of other threads come in
 * through a queue. */
#ifndef CAIRN_VMM_MACHINE_VM_H
#define CAIRN_VMM_MACHINE_VM_H

#include "vmm/vm_msg.h"

#include <stdbool.h>

struct err;
struct host_files;
struct loop;
struct machine;
struct machine_absent;
struct memory;
struct vm;

/* Receives every event, in order. */
struct vm_sink {
	void (*event)(void *opaque, const struct vm_event *ev);
	void (*disks_free)(void *opaque); /* a job that used the disks has ended: see vm_plug_is_free(); NULL allowed */
	void *opaque;
};

/* Create a VM: its machine, and the queue of events from other threads. The phase is PAUSED and nothing runs.
 * fds, taken, host: as for machine_new().
 * Returns 0 or -errno. */
int vm_new(const struct vm_config *cfg, int *fds, unsigned nfds, struct memory *taken, struct host_files *host,
	struct loop *l, const struct vm_sink *sink, struct vm **ret_vm, struct err *e);
/* Boot, or load the saved state. Call before the threads are
 * created. Returns 0 or -errno. */
int vm_load(struct vm *vm, struct err *e);
void vm_free(struct vm *vm);
struct machine *vm_machine(struct vm *vm);
/* Returns 0; -ENOTSUP: the VM has no port for a guest agent. */
int vm_check_agent(struct vm *vm, struct err *e);

/* Carry out the requests of vm_msg.h. Return 0; -EBUSY (ERR_WRONG_STATE) with the current phase in e. All but
 * vm_stop() also return -EBUSY (ERR_BUSY) while work in progress excludes the request. vm_cont() also returns -EIO if
 * an image is corrupt or saved memory could not be read; vm_reset() also -errno if the reset failed, which ends the
 * VM. */
int vm_cont(struct vm *vm, enum vm_reason reason, struct err *e);
int vm_stop(struct vm *vm, enum vm_reason reason, struct err *e);
/* Let the vCPUs go on after a stop in which the phase did not change, unless the guest waits for its reset. */
void vm_vcpus_resume(struct vm *vm);
int vm_powerdown(struct vm *vm, struct err *e);
/* Record that the guest's agent got a request to shut down or to reboot. */
void vm_shutdown_begun(struct vm *vm);
/* Record that the agent was asked to shut the guest down (true), or that the agent failed to do so
 * (false). */
void vm_set_off_asked(struct vm *vm, bool asked);
int vm_reset(struct vm *vm, struct err *e);
int vm_nmi(struct vm *vm, struct err *e);
/* Set the watchdog's action, also when the VM has no watchdog. */
void vm_set_watchdog(struct vm *vm, enum vm_watchdog_action action);
/* Attach the disks and interfaces of c while the VM runs or is paused (vm_plug.c).
 * fds: of c; those that are taken become -1. Returns 0; -EBUSY; -errno. */
int vm_plug(struct vm *vm, const struct vm_config *c, int *fds, struct err *e);
/* Give a CD drive the medium in c, which has this disk alone, as vm_plug(). Returns 0; -EBUSY: the guest keeps the tray
 * locked; -ENOENT; -ENOTSUP: it is no CD drive with bus scsi; -errno. */
int vm_set_medium(struct vm *vm, const struct vm_config *c, int *fds, struct err *e);
/* Ask the guest to release a disk or an interface; force: remove it at once. VM_EVENT_UNPLUGGED reports the removal.
 * Returns 0; -ENOENT; -EBUSY; -ENOTSUP. */
int vm_unplug(struct vm *vm, const char *id, bool force, struct err *e);
/* Remove the disks and interfaces that a snapshot lacks, to which the VM is being reverted. The VM is paused. */
void vm_unplug_absent(struct vm *vm, const struct machine_absent *absent);
/* Return whether short jobs, such as the deletion of a pin, make vm_plug(), vm_unplug() and vm_set_medium() fail. */
bool vm_plug_must_wait(const struct vm *vm);
/* Return whether neither work nor short jobs make these functions fail. */
bool vm_plug_is_free(const struct vm *vm);
/* Return whether sizes of snapshots are being computed, so that no disk may get another size or another image. */
bool vm_disks_are_read(const struct vm *vm);
/* Set the error that short jobs still use the disks. Returns -EBUSY. */
int vm_disks_busy(struct err *e);
/* A job that used the disks has ended: remove the devices that the guest released meanwhile, and call disks_free(). */
void vm_plug_remove_released(struct vm *vm);
/* End the VM: phase ENDED, loop_stop(). */
void vm_end(struct vm *vm, enum vm_reason reason, int64_t value, const char *detail);

/* ---- long-running work, one at a time (vmm/snapshot/vm_save.c) ---- */

/* Set the phase "paused (saving)" while the state is written, also for a VM that was paused before,
 * so that a restarted daemon sees what is in progress. vm_saving_failed() restores the previous
 * reason. */
void vm_saving_begin(struct vm *vm);
void vm_saving_failed(struct vm *vm);

/* ---- handing the VM over to another process (vmm/snapshot/vm_handover.h) ----
 *
 * vm_handover_pause(): pause the VM; on return, *cfg is its configuration with `taken` filled in, except for fds.
 * vm_handover_check(): check that no event since vm_handover_pause() has changed the VM, because the other process
 * would not know of the change. Returns 0 or -EBUSY.
 * vm_handover_failed(): continue as before, after vm_work_end().
 * vm_handover_done(): in the other process: report the phase that the VM had, and run it if it ran. */
int vm_handover_pause(struct vm *vm, struct vm_config *ret_cfg, struct err *e);
int vm_handover_check(struct vm *vm, struct err *e);
void vm_handover_failed(struct vm *vm);
void vm_handover_done(struct vm *vm);

/* Check whether a state that is saved now can be continued later. Returns 0; -EBUSY while a reset or the guest's end is
 * pending, of which a state has no trace. Running vCPUs can cause that at any time. */
int vm_check_keepable(struct vm *vm, struct err *e);
/* Begin work: until vm_work_end() or vm_work_set_live(), vm_cont(), vm_reset(), vm_powerdown() and vm_nmi() are
 * refused.
 * what: name of the work for error messages; borrowed until vm_work_end().
 * Returns 0; -EBUSY: ERR_BUSY names the work in progress, ERR_WRONG_STATE the phase. */
int vm_work_begin(struct vm *vm, const char *what, struct err *e);
/* Begin work that is also possible on a crashed VM that is preserved (on_crash "preserve"). Otherwise as
 * vm_work_begin(). */
int vm_work_begin_crashed(struct vm *vm, const char *what, struct err *e);
/* The same for work that ends the copy of a disk; all other work is refused while there is a copy (machine_copy.h). */
int vm_work_begin_on_copy(struct vm *vm, const char *what, struct err *e);
/* Report progress in bytes. Called on the worker's thread after each step. Returns true when the work was
 * cancelled. */
bool vm_work_step(struct vm *vm, uint64_t done, uint64_t total);
/* Report that the guest writes faster than the work copies. Called on the worker's thread. */
void vm_work_outpaced(struct vm *vm);
/* Return whether work is in progress. */
bool vm_works(const struct vm *vm);
/* Return whether the work was cancelled. Any thread. */
bool vm_work_cancelled(struct vm *vm);
int vm_work_cancel(struct vm *vm, struct err *e);
void vm_work_end(struct vm *vm);
/* Continue the work while the guest runs: resume, the power button and NMIs are allowed again. A reset is allowed if
 * the work concerns only the disks' images (on_disks); else a user's reset is refused, and the guest's own reset
 * waits for the work's end. */
void vm_work_set_live(struct vm *vm, bool on_disks);
/* End vm_work_set_live(): from now on the VM has to stay paused. */
void vm_work_set_alone(struct vm *vm);
/* vm_revert_begin(): the machine, which is paused, is about to get another state: discard its queued events.
 * vm_reverted(): the machine has the new state: set the phase and, if `on`, run the VM. */
void vm_revert_begin(struct vm *vm);
void vm_reverted(struct vm *vm, bool on);
/* Write into note a sentence with the processor features that the guest sees since the last load and did not see
 * before; empty if there are none. */
void vm_processor_note(const struct vm *vm, char *note, size_t size);

/* Send VM_EVENT_FORK_READY. */
void vm_fork_event_send(struct vm *vm, enum vm_fork_stage stage);
/* Send VM_EVENT_SNAPSHOT_RECOVERED. */
void vm_recovered(struct vm *vm, enum vm_recovery what, const char *disk, const char *snapshot);

/* Change which vCPUs the guest has (vm_vcpus.c). Returns 0; -EBUSY; -errno of machine_vcpus.h. */
int vm_vcpus(struct vm *vm, const struct vm_vcpus *want, struct err *e);
/* Remove the vCPUs that the guest released while work was in progress. */
void vm_vcpus_remove_released(struct vm *vm);

enum vm_phase vm_phase(const struct vm *vm);
/* Tell vm_info() the version of landlock that confines the process; 0: none. */
void vm_set_landlock(struct vm *vm, int version);
void vm_info(struct vm *vm, struct vm_info *ret);
/* Return the exit status of the process, once the VM has ended. */
int vm_exit_status(const struct vm *vm);

#endif
