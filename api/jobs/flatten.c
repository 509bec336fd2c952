#include "api/jobs/flatten.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/jobs/pull.h"
#include "api/vm/observer.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "base/err.h"
#include "base/log.h"

#include <string.h>

static bool disk_is_due(const struct vm_host *host, const struct definition_disk *d)
{
	return !d->read_only && d->nlayers > FLATTEN_LAYERS && pins_has_overlay(host, d->layers[0].path) &&
		!pins_has_image(host, d->layers[0].path);
}

/* Return a disk of the VM that can be pulled now and should be; NULL: none. */
static const struct definition_disk *disk_due(const struct vm *vm)
{
	const struct definition *def = vm_live(vm);

	if (!vm->proc || (vm->state != VM_RUNNING && vm->state != VM_PAUSED) || vm_compat_is_old(vm) ||
		vm_has(vm, VM_FACT_INCOMPLETE | VM_FACT_DUMP_DUE | VM_FACT_FLATTEN_TRIED))
		return NULL;
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (disk_is_due(vm->host, &def->disks[i]))
			return &def->disks[i];
	return NULL;
}

static bool any_pull_runs(const struct vm_host *host)
{
	const struct job *j = host->jobs;

	while (j && (j->lost || j->status == JOB_CONCLUDED || strcmp(j->type, "blockpull")))
		j = j->next;
	return j;
}

static void flatten_next(struct vm_host *host);

static void flatten_concluded(struct job *j, void *opaque)
{
	struct vm_host *host = opaque;
	struct vm *vm = vm_find(host, j->vm_name);

	if (vm && !j->failed)
		vm_set(vm, VM_FACT_FLATTEN_TRIED, false);
	flatten_next(host);
}

static void flatten_next(struct vm_host *host)
{
	if (!pins_has_any(host))
		return; /* without a look at each VM, because each start comes here */
	for (size_t i = 0; i < host->nvms && !any_pull_runs(host); i++) {
		struct vm *vm = host->vms[i];
		const struct definition_disk *d = disk_due(vm);
		struct job *j;
		struct err e;

		/* If another operation owns the VM, try again when a job concludes, or a VM starts or changes its
		 * phase. */
		if (!d || disk_pull(vm, d->id, 0, NULL, &j, &e) < 0)
			continue;
		log_info("flatten", "VM '%s': disk %s has %u layers; %s makes it independent of its backing files",
			vm->def->name, d->id, d->nlayers, j->id);
		vm_set(vm, VM_FACT_FLATTEN_TRIED, true);
		j->concluded = flatten_concluded;
		j->concluded_opaque = host;
	}
}

static void vm_started(struct vm *vm)
{
	vm_set(vm, VM_FACT_FLATTEN_TRIED, false);
	flatten_next(vm->host);
}

static void phase_known(struct vm *vm)
{
	flatten_next(vm->host);
}

static void job_concluded(struct vm_host *host, const char *name)
{
	(void)name;
	flatten_next(host);
}

const struct vm_observer flatten_observer = { .started = vm_started, .phase_known = phase_known,
	.job_concluded = job_concluded };
