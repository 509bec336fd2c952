/* vm: the life of one VM inside its process: phases, what the guest and the user do to
 * them, and the events that say so. The daemon's table of states (api/schema/vm_state.c) stands on
 * these phases.
 *
 * Main thread only. What happens on other threads comes in through a queue. */
#ifndef CAIRN_VMM_MACHINE_VM_H
#define CAIRN_VMM_MACHINE_VM_H

#include "vmm/vm_msg.h"

#include <stdbool.h>

struct err;
struct loop;
struct machine;
struct vm;

/* Told of every event, in order. */
struct vm_sink {
	void (*event)(void *opaque, const struct vm_event *ev);
	void *opaque;
};

/* Build machine and queue; phase PAUSED, nothing runs. fds as machine_new(). Opens all that
 * needs privileges. */
int vm_new(const struct vm_config *cfg, int *fds, unsigned nfds, struct loop *l,
	const struct vm_sink *sink, struct vm **ret_vm, struct err *e);
/* Boot, or begin with the saved state. Without privileges, before the threads are made. */
int vm_load(struct vm *vm, struct err *e);
void vm_free(struct vm *vm);
struct machine *vm_machine(struct vm *vm);

/* The requests of vm_msg.h. Returns 0; -EBUSY (ERR_WRONG_STATE) with the phase it is in. */
int vm_cont(struct vm *vm, enum vm_reason reason, struct err *e);
int vm_stop(struct vm *vm, enum vm_reason reason, struct err *e);
int vm_powerdown(struct vm *vm, struct err *e);
/* It is the agent that is asked to shut the guest down; or it did not. */
void vm_set_off_asked(struct vm *vm, bool asked);
int vm_reset(struct vm *vm, struct err *e);
int vm_nmi(struct vm *vm, struct err *e);
/* What the watchdog does from now on, whether there is one or not. */
void vm_set_watchdog(struct vm *vm, enum vm_watchdog_action action);
/* Ends the life: phase ENDED, loop_stop(). */
void vm_end(struct vm *vm, enum vm_reason reason, int64_t value, const char *detail);

/* ---- long work on the paused VM, one at a time (vmm/snapshot/vm_save.c) ---- */

/* A VM that stood still already is "paused (saving)" all the same while its state is written: a
 * daemon that finds it so knows what is under way. When that fails it is what it was. */
void vm_saving_begin(struct vm *vm);
void vm_saving_failed(struct vm *vm);

/* Could another go on from the state that it is in? Returns 0 or -EBUSY. */
int vm_check_keepable(const struct vm *vm, struct err *e);
/* From here on the VM refuses what would make it move. -EBUSY (ERR_BUSY) names what is under way. */
int vm_work_begin(struct vm *vm, const char *what, struct err *e);
/* The same, and a crashed VM that was kept will do. */
int vm_work_begin_crashed(struct vm *vm, const char *what, struct err *e);
/* On the worker's thread, after each piece: progress. True: it has been cancelled. */
bool vm_work_step(struct vm *vm, uint64_t done, uint64_t total);
/* Any thread. */
bool vm_work_cancelled(struct vm *vm);
int vm_work_cancel(struct vm *vm, struct err *e);
void vm_work_end(struct vm *vm);
/* The work goes on beside the running guest: suspend, resume and the power button are allowed
 * again; a reset waits for its end. */
void vm_work_set_live(struct vm *vm);
/* The machine is paused, for it is about to get another state: what it has said until now is void, what is
 * said from here on counts. Then, when it has it: the phase, and on if `on`. */
void vm_revert_begin(struct vm *vm);
void vm_reverted(struct vm *vm, bool on);

/* VM_EVENT_SNAPSHOT_RECOVERED. */
void vm_recovered(struct vm *vm, enum vm_recovery what, const char *disk, const char *snapshot);

enum vm_phase vm_phase(const struct vm *vm);
void vm_info(struct vm *vm, struct vm_info *ret);
/* What the process exits with, once ended. */
int vm_exit_status(const struct vm *vm);

#endif
