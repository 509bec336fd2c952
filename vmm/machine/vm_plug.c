/* Disks and interfaces that come and go while the VM runs. */
#include "base/err.h"
#include "base/log.h"
#include "devices/device.h"
#include "devices/pci/pci.h"
#include "devices/pci/pci_hotplug.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_copy.h"
#include "vmm/machine/machine_plug.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/vm_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* How long a device that the guest has released waits for the end of the load of memory, before another look. */
#define LOADS_NS 100000000ULL

bool vm_disks_are_read(const struct vm *vm)
{
	return vm->m->disk_readers;
}

/* Short jobs hold pointers to disks, too. */
static bool has_readers(const struct vm *vm)
{
	return vm_disks_are_read(vm) || vm->m->worker_readers;
}

bool vm_plug_must_wait(const struct vm *vm)
{
	return !vm->work && has_readers(vm);
}

bool vm_plug_is_free(const struct vm *vm)
{
	return !vm->work && !has_readers(vm);
}

int vm_disks_busy(struct err *e)
{
	return err_set(e, -EBUSY, ERR_BUSY, "the VM's process still works on snapshots of its disks in the background, for instance "
		"deletes one; try again later, or look for a slow file system below the disks");
}

/* Work holds pointers to disks, and a saved state has to fit the machine. */
static int busy_check(const struct vm *vm, const char *what, struct err *e)
{
	if (vm->m->cfg.images_only)
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "this process only works on the VM's images; the VM is off");
	if (vm->phase != VM_PHASE_RUNNING && vm->phase != VM_PHASE_PAUSED)
		return vm_wrong_phase(vm, what, e);
	if (vm->work)
		return err_set(e, -EBUSY, ERR_BUSY, "a %s of this VM is under way; try again after it", vm->work);
	if (machine_copy_check(vm->m, e) < 0)
		return -EBUSY;
	return has_readers(vm) ? vm_disks_busy(e) : 0;
}

int vm_plug(struct vm *vm, const struct vm_config *c, int *fds, struct err *e)
{
	int r = busy_check(vm, "attach a device", e);

	if (r < 0)
		return r;
	r = machine_plug(vm->m, c, fds, vm->phase == VM_PHASE_RUNNING, e);
	for (unsigned i = 0; i < c->ndisks && !r; i++)
		log_info(NULL, "disk %s is attached", c->disks[i].id);
	for (unsigned i = 0; i < c->ninterfaces && !r; i++)
		log_info(NULL, "interface %s is attached", c->interfaces[i].id);
	return r;
}

int vm_set_medium(struct vm *vm, const struct vm_config *c, int *fds, struct err *e)
{
	int r = busy_check(vm, "change a medium", e);

	if (!r)
		r = machine_set_medium(vm->m, c, fds, e);
	if (!r)
		log_info(NULL, "drive %s has another medium", c->disks[0].id);
	return r;
}

static void remove_and_report(struct vm *vm, const char *name)
{
	struct vm_event ev = vm_event_new(vm, VM_EVENT_UNPLUGGED);
	struct err e = { 0 };

	snprintf(ev.device, sizeof(ev.device), "%s", name); /* the list has the name's memory */
	if (machine_unplug(vm->m, ev.device, vm->phase == VM_PHASE_RUNNING, &e) < 0) {
		log_error(NULL, "%s", e.msg);
		snprintf(ev.detail, sizeof(ev.detail), "%.*s", (int)sizeof(ev.detail) - 1, e.msg);
	}
	log_info(NULL, "%s is detached", ev.device);
	vm_event_send(vm, &ev);
}

int vm_unplug(struct vm *vm, const char *id, bool force, struct err *e)
{
	int r = busy_check(vm, "detach a device", e);

	if (!r)
		r = machine_check_loaded(vm->m, id, e);
	if (!r && !force && !machine_goes_at_once(vm->m, id))
		return machine_ask_release(vm->m, id, e);
	if (!r && !force)
		r = machine_hold_target(vm->m, id, e);
	if (!r && !machine_has(vm->m, id))
		r = err_set(e, -ENOENT, ERR_NOT_FOUND, "the running VM has no device '%s'", id);
	if (!r)
		remove_and_report(vm, id);
	return r;
}

void vm_unplug_absent(struct vm *vm, const struct machine_absent *absent)
{
	const struct machine *m = vm->m;
	char names[VM_DISKS_MAX + VM_INTERFACES_MAX][16];
	unsigned n = 0;

	for (unsigned i = 0; i < m->ndisks; i++)
		if (absent->disks[i])
			snprintf(names[n++], sizeof(names[0]), "%s", m->disks[i].id);
	for (unsigned i = 0; i < m->nnics; i++)
		if (absent->interfaces[i])
			snprintf(names[n++], sizeof(names[0]), "%s", m->cfg.interfaces[i].id);
	while (n--)
		remove_and_report(vm, names[n]);
}

static bool slot_is_loaded_from(struct vm *vm, unsigned slot)
{
	for (unsigned i = 0; i < vm->m->ndisks; i++)
		if (machine_slot(vm->m, vm->m->disks[i].dev) == slot && machine_loads_from(vm->m, vm->m->disks[i].id))
			return true;
	return false;
}

void vm_plug_remove_released(struct vm *vm)
{
	uint32_t left = 0;
	struct err e;

	for (unsigned slot = 1; slot < PCI_SLOTS && vm->released && !busy_check(vm, "detach a device", &e); slot++) {
		const char *id = vm->released >> slot & 1 ? machine_in_slot(vm->m, slot) : NULL;

		vm->released &= ~(1u << slot);
		if (id && slot_is_loaded_from(vm, slot)) {
			left |= 1u << slot;
			continue;
		}
		for (; id; id = machine_in_slot(vm->m, slot)) /* all disks of a SCSI controller */
			remove_and_report(vm, id);
	}
	vm->released |= left;
	if (left)
		loop_timer_arm(vm->released_timer, loop_now_ns() + LOADS_NS);
	if (vm->sink.disks_free)
		vm->sink.disks_free(vm->sink.opaque);
}

void vm_plug_remove_released_later(void *opaque)
{
	vm_plug_remove_released(opaque);
}

static void guest_released(void *opaque, uint32_t slots)
{
	struct vm *vm = opaque;

	vm->released |= slots;
	vm_plug_remove_released(vm);
}

static void guest_refused(void *opaque, uint32_t slots)
{
	struct vm *vm = opaque;

	for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
		struct vm_event ev = vm_event_new(vm, VM_EVENT_UNPLUG_REFUSED);
		const char *id = slots >> slot & 1 ? machine_in_slot(vm->m, slot) : NULL;

		if (!id)
			continue;
		snprintf(ev.device, sizeof(ev.device), "%s", id);
		log_warn(NULL, "the guest does not release %s", id);
		vm_event_send(vm, &ev);
	}
}

void vm_plug_listen(struct vm *vm)
{
	struct pci_hotplug_listener l = { .released = guest_released, .refused = guest_refused, .opaque = vm };

	if (vm->m->pci_hotplug)
		pci_hotplug_listen(vm->m->pci_hotplug, &l);
}
