/* Adopts the VM processes that an earlier daemon started. */
#include "api/store/store.h"
#include "api/vm/consoles.h"
#include "api/vm/disk_change.h"
#include "api/vm/disk_doubt.h"
#include "api/vm/observer.h"
#include "api/vm/offline_process.h"
#include "api/vm/vm.h"
#include "api/vm/vm_answer.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_interface.h"
#include "api/vm/vm_life.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* Return whether the end file records a later start than state.json. Then vm->run becomes the number of that start. */
static bool run_missed(struct vm *vm, int end_fd)
{
	uint64_t run;

	if (end_fd < 0 || pread_full(end_fd, &run, sizeof(run), VM_END_RUN) < 0 ||
		run <= vm->run)
		return false;
	vm->run = run;
	return true;
}

/* state.json is written in the background. If it is older than the last start, and has the state of a VM that runs,
 * set the state that the VM had before the last start. */
static void earlier_run_ended(struct vm *vm, int end_fd)
{
	static const enum vm_state states[] = { [VM_BEFORE_SHUT_OFF] = VM_SHUT_OFF, [VM_BEFORE_CRASHED] = VM_CRASHED,
		[VM_BEFORE_SAVED] = VM_SAVED };
	enum vm_end_before before = vm_has(vm, VM_FACT_RUN_MISSED) && vm_state_is_active(vm->state) ? vm_end_before(end_fd) :
		VM_BEFORE_UNKNOWN;

	if (before == VM_BEFORE_UNKNOWN)
		return;
	vm->state = states[before];
	vm->id = -1;
	vm->reason = VM_REASON_NONE;
	vm->detail[0] = 0;
}

static void taken_back(struct vm *vm, const struct vm_info *info)
{
	enum vm_reason reason = info->reason;

	if (info->phase == VM_PHASE_PAUSED && info->reason == VM_REASON_USER && vm_has(vm, VM_FACT_FALLS_ASLEEP))
		reason = VM_REASON_IDLE;
	vm_set(vm, VM_FACT_HANDS_OVER, info->phase == VM_PHASE_PAUSED && info->reason == VM_REASON_HANDOVER);
	consoles_adopted(vm, info);
	disk_change_compare(vm, info);
	vm_interfaces_compare(vm, info);
	vm_notify(vm, adopted, info);
	if (vm->state == VM_IN_SHUTDOWN && info->renewed)
		vm_notify(vm, renewed);
	/* If the state agrees with the process's phase, keep it, because it may be more precise. If an earlier daemon
	 * ended before it knew that its reset or revert was done, no shutdown is under way any more. */
	if (info->phase == VM_PHASE_RUNNING && vm->state != VM_RUNNING &&
		(vm->state != VM_IN_SHUTDOWN || info->renewed))
		vm_move(vm, VM_SAW_TAKEN_BACK_RUNNING, reason, NULL, 0);
	else if (info->phase == VM_PHASE_PAUSED && vm->state != VM_PAUSED)
		vm_move(vm, VM_SAW_TAKEN_BACK_PAUSED, reason, info->detail, info->value);
	else if (info->phase == VM_PHASE_CRASHED && vm->state != VM_PRESERVED) {
		vm_move(vm, VM_SAW_TAKEN_BACK_RUNNING, VM_REASON_KEEP, NULL, 0);
		vm_move(vm, VM_SAW_PRESERVED, reason, info->detail, info->value);
	}
	if (vm->id < 0)
		vm->id = ++vm->host->next_id;
	vm->agent.now = vm->agent.told = info->agent <= VM_AGENT_ANSWERS ? info->agent : VM_AGENT_NONE;
	vm_notify(vm, phase_known);
	log_info("state", "VM '%s' adopted: pid %d, %s", vm->def->name,
		(int)vm_process_pid(vm->proc), vm_state_name(vm->state));
}

/* Move to "running" if state.json does not know of the start, so that the end of this run is reported as the end of a
 * running VM. */
static void start_made_known(struct vm *vm)
{
	if (vm_has(vm, VM_FACT_RUN_MISSED) && !vm_state_is_active(vm->state))
		vm_move(vm, VM_SAW_TAKEN_BACK_RUNNING, VM_REASON_NONE, NULL, 0);
}

/* An earlier daemon ended between the start of the VM and its revert: end the VM, which was off. */
static void revert_lost(struct vm *vm, const struct vm_info *info)
{
	if (!info->for_revert)
		return;
	log_info("state", "VM '%s': an earlier daemon ended before it reverted the VM; ending the process", vm->def->name);
	vm_destroy(vm, NULL);
}

/* The start in which an earlier daemon ended has failed: the VM keeps the state that it had before, as after any failed
 * start. The caller of vm_take_back() emits the event, because only the event log has the state that was told last. */
static void lost_start_failed(struct vm *vm)
{
	vm_set(vm, VM_FACT_RUN_MISSED, false);
	vm_note_failed_start(vm, VM_REASON_FAILED, "the daemon ended during the start, and the guest has not run");
	vm_set(vm, VM_FACT_START_LOST, true);
}

/* Returns true if state.json does not know of the start, and its guest never ran. After a boot of the host, the page of
 * the end file that the process wrote may be lost. */
static bool start_was_lost(const struct vm *vm, int end_fd)
{
	return vm_has(vm, VM_FACT_RUN_MISSED) && !vm_state_is_active(vm->state) && !vm->host->new_boot && end_fd >= 0 &&
		vm_end_never_ran(end_fd);
}

/* The adopted process has ended before it answered; life_ended() follows. */
static void adopted_ended(struct vm *vm)
{
	struct err e;
	CLEANUP_CLOSE int end_fd = store_open_file(vm->host->store, vm->def->name, "end", O_RDONLY, &e);

	if (start_was_lost(vm, end_fd)) {
		lost_start_failed(vm);
		vm_notify(vm, start_lost);
	} else {
		start_made_known(vm);
	}
}

static void adopted_answered(struct vm *vm, const struct vm_info *info)
{
	struct vm_info copy = *info;

	if (info->phase == VM_PHASE_NONE) {
		log_info("state", "VM '%s': an earlier daemon ended before it configured the VM's process; killing "
			"the process",
			vm->def->name);
		if (!vm_state_is_active(vm->state))
			lost_start_failed(vm);
		vm_notify(vm, start_lost);
		vm_process_kill(vm->proc);
		return;
	}
	copy.detail[sizeof(copy.detail) - 1] = 0;
	utf8_clean(copy.detail);
	taken_back(vm, &copy);
	revert_lost(vm, &copy);
}

/* The answer of a process that did not answer in time. */
static void adopt_late(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)e;
	if (r == 0 && !vm_is_stopping(vm))
		adopted_answered(vm, a->info);
}

static void adopt_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	vm->host->adopting--;
	vm_compat_look(vm->host);
	if (r == 0) {
		adopted_answered(vm, a->info);
		return;
	}
	if (r == -ESRCH) {
		adopted_ended(vm);
		return;
	}
	log_warn("state", "VM '%s' runs, but its process does not answer: %s", vm->def->name, e ? e->msg : "");
	if (!vm_state_is_active(vm->state))
		vm_move(vm, VM_SAW_TAKEN_BACK_RUNNING, VM_REASON_NONE, NULL, 0);
	if (r == -ETIMEDOUT)
		vm_process_request(vm->proc, VM_MSG_QUERY, NULL, 0, -1, VM_PROCESS_NO_TIMEOUT, adopt_late, vm);
}

/* Set the state of a VM whose process ended while no daemon ran, from the process's end file if there is one. */
static void ended_unseen(struct vm *vm, int end_fd)
{
	struct vm_process_end end = { 0 };

	end.said = end_fd >= 0 && vm_end_read(end_fd, &end.event);
	vm_ended(vm, &end);
	if (!end.said)
		snprintf(vm->detail, sizeof(vm->detail), "%s", vm->host->new_boot ?
			"the host went down while the VM ran" : "its process ended while no daemon ran");
	vm_save(vm);
	vm_set(vm, VM_FACT_ENDED_UNSEEN, true);
}

void vm_take_back(struct vm *vm)
{
	struct vm_host *host = vm->host;
	CLEANUP_CLOSE int end_fd = -1;
	struct vm_process_paths p = { .closer = host->closer, .run_dir = host->run_dir_fd, .name = vm->def->name, .log_fd = -1,
		.owns_hash = vm_has(vm, VM_FACT_OWNS_HASH) };
	struct err e;
	int r;

	offline_end_old(vm);
	end_fd = store_open_file(host->store, vm->def->name, "end", O_RDONLY, &e);
	p.end_fd = end_fd;
	vm_set(vm, VM_FACT_RUN_MISSED, run_missed(vm, end_fd));
	earlier_run_ended(vm, end_fd);
	r = vm_process_adopt(host->loop, &p, &vm_life_ops, vm, adopt_done, vm, &vm->proc, &e);
	if (r == 0) {
		host->adopting++;
		return;
	}
	if (r != -ENOENT)
		log_warn("state", "VM '%s': %s", vm->def->name, e.msg);
	vm_live_drop(vm);
	disk_doubt_clear(&vm->disk_change);
	if (r == -ENOENT && start_was_lost(vm, end_fd))
		lost_start_failed(vm);
	else
		start_made_known(vm);
	if (vm_state_is_active(vm->state))
		ended_unseen(vm, end_fd);
	if (r == -ENOENT)
		vm_notify(vm, process_gone);
	vm_notify(vm, found_off);
}
