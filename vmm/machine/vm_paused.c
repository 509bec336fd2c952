/* Phases of a VM around a revert, a save and a handover to another process. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/ram_load.h"
#include "vmm/machine/vm_impl.h"

#include <errno.h>
#include <string.h>

void vm_revert_begin(struct vm *vm)
{
	vm_generation_next(vm);
	if (vm->phase == VM_PHASE_RUNNING) /* as in QEMU, clients see the VM stop and run again */
		vm_phase_set(vm, VM_PHASE_PAUSED, VM_REASON_FROM_SNAPSHOT, 0, NULL);
	vm->memory_lost = false;
	/* These requests belong to the discarded state. */
	vm->reset_pending = vm->reset_delayed = vm->off_asked = false;
	vm->released = 0;
	vm->renewed = true;
}

void vm_reverted(struct vm *vm, bool on)
{
	char note[VM_DETAIL_MAX];

	vm->time_passed = true;
	vm_processor_note(vm, note, sizeof(note));
	vm_phase_set(vm, on ? VM_PHASE_RUNNING : VM_PHASE_PAUSED, VM_REASON_FROM_SNAPSHOT, 0, note);
	if (on)
		vm_guest_run(vm);
}

static void phase_note(struct vm *vm)
{
	vm->before_save.phase = vm->phase;
	vm->before_save.reason = vm->reason;
	vm->before_save.value = vm->value;
	memcpy(vm->before_save.detail, vm->detail, sizeof(vm->detail));
}

void vm_saving_begin(struct vm *vm)
{
	phase_note(vm);
	vm_phase_set(vm, VM_PHASE_PAUSED, VM_REASON_SAVING, 0, NULL);
}

void vm_saving_failed(struct vm *vm)
{
	vm_phase_set(vm, VM_PHASE_PAUSED, vm->before_save.reason, vm->before_save.value,
		vm->before_save.detail);
}

int vm_handover_pause(struct vm *vm, struct vm_config *cfg, struct err *e)
{
	uint64_t stopped_ns = 0;

	if (vm->phase != VM_PHASE_RUNNING && vm->phase != VM_PHASE_PAUSED)
		return vm_wrong_phase(vm, "hand the VM over", e);
	if (vm->memory_lost)
		return err_set(e, -EIO, ERR_IO, "part of the VM's saved memory could not be read");
	phase_note(vm);
	if (vm->phase == VM_PHASE_RUNNING) {
		stopped_ns = loop_now_ns();
		machine_pause(vm->m);
	}
	vm_phase_set(vm, VM_PHASE_PAUSED, VM_REASON_HANDOVER, 0, NULL);
	*cfg = vm->m->cfg;
	cfg->taken_over = true;
	cfg->forked = cfg->state_later = cfg->hint_hostname = false;
	cfg->pins_readable = 0;
	cfg->start_paused = true;
	cfg->taken_memory = memory_view(&vm->m->mem) != NULL;
	cfg->copy_rounds = cfg->copy_throttle = cfg->copy_stopped = 0;
	cfg->taken = (struct vm_taken){ .phase = (uint8_t)vm->before_save.phase, .reason = (uint8_t)vm->before_save.reason,
		.off_asked = vm->off_asked, .has_base = vm->m->base_id[0] != 0, .value = vm->before_save.value, .vm_clock_ns = machine_clock_ns(vm->m),
		.started_realtime_ns = vm->started_ns, .stopped_ns = stopped_ns };
	memcpy(cfg->taken.detail, vm->before_save.detail, sizeof(cfg->taken.detail));
	return 0;
}

int vm_handover_check(struct vm *vm, struct err *e)
{
	LOCK_GUARD(&vm->lock);

	if (vm->phase == VM_PHASE_PAUSED && vm->reason == VM_REASON_HANDOVER && !vm->reset_pending && !vm->reset_delayed &&
		!vm->nqueued)
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "the guest was reset, or a device failed, while the VM was handed over; try again");
}

void vm_handover_failed(struct vm *vm)
{
	if (vm->phase != VM_PHASE_PAUSED || vm->reason != VM_REASON_HANDOVER)
		return; /* the VM has ended, or is paused for another reason */
	vm_phase_set(vm, vm->before_save.phase, vm->before_save.reason, vm->before_save.value, vm->before_save.detail);
	if (vm->phase == VM_PHASE_RUNNING && !vm->reset_delayed && !vm->reset_pending)
		vm_guest_run(vm);
}

void vm_handover_done(struct vm *vm)
{
	const struct vm_taken *t = &vm->m->cfg.taken;

	vm_phase_set(vm, (enum vm_phase)t->phase, (enum vm_reason)t->reason, t->value, t->detail);
	if (t->phase == VM_PHASE_RUNNING) {
		vm_guest_run(vm);
		vm->handover_pause_ns = t->stopped_ns ? loop_now_ns() - t->stopped_ns : 0;
	}
	memory_drop_copy(&vm->m->mem);
	if (vm->m->base_id[0])
		ram_watch_early(vm->m);
}
