#include "api/jobs/pin_release.h"
#include "api/definition/definition.h"
#include "api/vm/observer.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "base/err.h"
#include "base/log.h"

/* Deleting a pin may take long on slow storage. */
#define DELETE_TIMEOUT_NS VM_PROCESS_NO_TIMEOUT

static void vm_release(struct vm *vm);

static void release_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	/* After a failure, vm_release() asks again when a job of the VM concludes, or the VM starts or changes its
	 * phase. */
	if (r < 0)
		log_debug("pins", "VM '%s': %s", vm->def->name, e->msg);
	pins_answered(vm->host, vm, r == 0);
	if (!r)
		vm_release(vm); /* pins that have become due meanwhile */
}

static void vm_release(struct vm *vm)
{
	const struct definition *def = vm_live(vm);
	struct vm_pins pins = { 0 };

	if (!pins_are_due(vm->host) || !vm->proc || !vm_state_is_active(vm->state) || vm_compat_is_old(vm))
		return;
	/* One request at a time: an answer is for all pins that this process was asked to delete. */
	if (pins_are_asked(vm->host, vm))
		return;
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (!def->disks[i].read_only && def->disks[i].layers[0].format == DEFINITION_FORMAT_QCOW2)
			pins.n += pins_ask(vm->host, def->disks[i].layers[0].path, vm, pins.ids + pins.n, VM_PINS_MAX - pins.n);
	if (pins.n)
		vm_process_request(vm->proc, VM_MSG_PINS_DELETE, &pins, sizeof(pins), -1, DELETE_TIMEOUT_NS,
			release_answered, vm);
}

void pin_release_due(struct vm_host *host)
{
	pins_store(host);
	for (size_t i = 0; i < host->nvms && pins_are_due(host); i++)
		vm_release(host->vms[i]);
}

/* Ask again after a job, because an earlier request may have failed, for example during a handover. */
static void job_vm_release(struct vm_host *host, const char *name)
{
	struct vm *vm = vm_find(host, name);

	if (vm)
		vm_release(vm);
}

const struct vm_observer pin_release_observer = { .started = vm_release, .phase_known = vm_release,
	.job_concluded = job_vm_release };
