/* Long-running work: one at a time, on the worker's thread. */
#include "base/err.h"
#include "base/util.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_copy.h"
#include "vmm/machine/vm_impl.h"

#include <errno.h>
#include <stdatomic.h>

/* Minimum interval between two progress events. */
#define PROGRESS_NS 100000000ULL

int vm_work_begin(struct vm *vm, const char *what, struct err *e)
{
	return vm->phase == VM_PHASE_CRASHED ? vm_wrong_phase(vm, what, e) : vm_work_begin_crashed(vm, what, e);
}

int vm_work_begin_crashed(struct vm *vm, const char *what, struct err *e)
{
	if (!vm->work && machine_copy_check(vm->m, e) < 0)
		return -EBUSY;
	return vm_work_begin_on_copy(vm, what, e);
}

int vm_work_begin_on_copy(struct vm *vm, const char *what, struct err *e)
{
	if (vm->work)
		return err_set(e, -EBUSY, ERR_BUSY, "a %s of this VM is under way", vm->work);
	if (vm->phase != VM_PHASE_RUNNING && vm->phase != VM_PHASE_PAUSED && vm->phase != VM_PHASE_CRASHED)
		return vm_wrong_phase(vm, what, e);
	vm->work = what;
	machine_hold_vhost(vm->m, true);
	vm->work_live = 0;
	atomic_store(&vm->work_cancelled, false);
	atomic_store(&vm->work_outpaced, false);
	atomic_store(&vm->work_told_ns, loop_now_ns());
	return 0;
}

bool vm_works(const struct vm *vm)
{
	return vm->work;
}

bool vm_work_step(struct vm *vm, uint64_t done, uint64_t total)
{
	uint64_t now = loop_now_ns();

	atomic_store(&vm->work_bytes, done);
	atomic_store(&vm->work_total, total);
	if (now - atomic_load(&vm->work_told_ns) >= PROGRESS_NS && !atomic_exchange(&vm->work_posted, true)) {
		atomic_store(&vm->work_told_ns, now);
		loop_post(vm->loop, &vm->work_task);
	}
	return atomic_load(&vm->work_cancelled);
}

void vm_work_outpaced(struct vm *vm)
{
	atomic_store(&vm->work_outpaced, true);
	if (!atomic_exchange(&vm->work_posted, true))
		loop_post(vm->loop, &vm->work_task);
}

bool vm_work_cancelled(struct vm *vm)
{
	return atomic_load(&vm->work_cancelled);
}

void vm_work_progress(struct loop_task *t)
{
	struct vm *vm = container_of(t, struct vm, work_task);
	struct vm_event ev = vm_event_new(vm, VM_EVENT_PROGRESS);

	atomic_store(&vm->work_posted, false);
	ev.value = (int64_t)atomic_load(&vm->work_bytes);
	ev.total = (int64_t)atomic_load(&vm->work_total);
	if (!vm->work)
		return;
	vm_event_send(vm, &ev);
	ev = vm_event_new(vm, VM_EVENT_COPY_OUTPACED);
	if (atomic_exchange(&vm->work_outpaced, false))
		vm_event_send(vm, &ev);
}

int vm_work_cancel(struct vm *vm, struct err *e)
{
	if (!vm->work)
		return err_set(e, -ENOENT, ERR_WRONG_STATE, "nothing to cancel: no work is under way");
	atomic_store(&vm->work_cancelled, true);
	return 0;
}

void vm_work_set_live(struct vm *vm, bool on_disks)
{
	vm->work_live = on_disks ? 2 : 1;
}

void vm_work_set_alone(struct vm *vm)
{
	vm->work_live = 0;
}
