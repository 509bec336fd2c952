/* vCPU hot-plug: checks the VM's phase, and reports changes to the daemon. */
#include "base/err.h"
#include "base/log.h"
#include "devices/cpu_hotplug.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_vcpus.h"
#include "vmm/machine/vm_impl.h"

#include <errno.h>
#include <stdio.h>

/* A saved state has to fit the machine. */
static int busy_check(const struct vm *vm, struct err *e)
{
	if (vm->m->cfg.images_only)
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "this process only works on the VM's images; the VM is off");
	if (vm->phase != VM_PHASE_RUNNING && vm->phase != VM_PHASE_PAUSED)
		return vm_wrong_phase(vm, "change the number of vCPUs", e);
	if (vm->work)
		return err_set(e, -EBUSY, ERR_BUSY, "a %s of this VM is under way; try again after it", vm->work);
	return 0;
}

void vm_vcpus_report(struct vm *vm)
{
	uint64_t absent = machine_vcpus_absent(vm->m);
	struct vm_event ev = vm_event_new(vm, VM_EVENT_VCPUS);

	if (absent == vm->told_absent)
		return;
	vm->told_absent = absent;
	ev.value = (int64_t)absent;
	vm_event_send(vm, &ev);
}

int vm_vcpus(struct vm *vm, const struct vm_vcpus *want, struct err *e)
{
	uint64_t before = machine_vcpus_absent(vm->m);
	int r = busy_check(vm, e);

	if (r < 0)
		return r;
	if (want->op == VM_VCPUS_COUNT)
		r = machine_vcpus_set(vm->m, want->n, e);
	else if (want->op == VM_VCPU_ADD)
		r = machine_vcpu_add(vm->m, want->n, e);
	else if (want->op == VM_VCPU_REMOVE)
		r = machine_vcpu_ask_release(vm->m, want->n, e);
	else
		r = err_set(e, -EINVAL, ERR_INVALID, "unknown change of vCPUs");
	vm_vcpus_report(vm);
	for (uint64_t came = before & ~machine_vcpus_absent(vm->m); came; came &= came - 1)
		log_info(NULL, "vCPU %d is added", __builtin_ctzll(came));
	return r;
}

static void vcpu_event_send(struct vm *vm, enum vm_event_kind kind, unsigned vcpu)
{
	struct vm_event ev = vm_event_new(vm, kind);

	snprintf(ev.device, sizeof(ev.device), "vcpu%u", vcpu);
	ev.value = 1 + (int64_t)vcpu;
	vm_event_send(vm, &ev);
}

void vm_vcpus_remove_released(struct vm *vm)
{
	struct err e;

	if (busy_check(vm, &e) < 0)
		return;
	for (; vm->released_vcpus; vm->released_vcpus &= vm->released_vcpus - 1) {
		unsigned vcpu = (unsigned)__builtin_ctzll(vm->released_vcpus);

		/* A revert may have brought it back, or taken it away. */
		if (!cpu_hotplug_is_released(vm->m->cpu_hotplug, vcpu))
			continue;
		machine_vcpu_remove(vm->m, vcpu);
		log_info(NULL, "vCPU %u is removed", vcpu);
		vm_vcpus_report(vm);
		vcpu_event_send(vm, VM_EVENT_UNPLUGGED, vcpu);
	}
}

static void guest_released(void *opaque, uint64_t vcpus)
{
	struct vm *vm = opaque;

	vm->released_vcpus |= vcpus;
	vm_vcpus_remove_released(vm);
}

static void guest_refused(void *opaque, uint64_t vcpus)
{
	for (; vcpus; vcpus &= vcpus - 1) {
		log_warn(NULL, "the guest does not release vCPU %d", __builtin_ctzll(vcpus));
		vcpu_event_send(opaque, VM_EVENT_UNPLUG_REFUSED, (unsigned)__builtin_ctzll(vcpus));
	}
}

void vm_vcpus_listen(struct vm *vm)
{
	struct cpu_hotplug_listener l = { .released = guest_released, .refused = guest_refused, .opaque = vm };

	if (vm->m->cpu_hotplug)
		cpu_hotplug_listen(vm->m->cpu_hotplug, &l);
}
