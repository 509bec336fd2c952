#include "vmm/snapshot/vm_save.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"
#include "snapshot/state.h"
#include "snapshot/vmstate.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/ram_load.h"
#include "vmm/machine/vm.h"
#include "vmm/machine/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct save {
	struct work work;
	struct vm *vm;
	struct machine *m;
	bool was_running, was_paused;
	int state_fd;
	char *definition;
	struct state_writer sections;
	struct vmstate_result result;
	int r;
	struct err e;
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

/* ---- saving the VM ---- */

static void save_free(struct save *s)
{
	state_writer_done(&s->sections);
	free(s->definition);
	close(s->state_fd);
	free(s);
}

static int save_step(void *opaque, uint64_t done, uint64_t total)
{
	struct save *s = opaque;

	return vm_work_step(s->vm, done, total);
}

/* Flush the disks before the VM ends, because unflushed guest writes are not in the state. A disk error must be
 * reported while the VM can still continue. */
static int disks_flush(struct machine *m, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && !r; i++)
		r = disk_flush(&m->disks[i], e);
	return r;
}

/* Runs on the worker's thread; the machine is paused. */
static void save_run(struct work *w)
{
	struct save *s = container_of(w, struct save, work);
	struct vmstate_source src = { .sections = s->sections.buf, .sections_bytes = s->sections.len,
		.definition = s->definition, .ram = s->m->mem.host, .ram_bytes = s->m->mem.bytes,
		.ram_fd = s->m->mem.fd, .view = memory_view(&s->m->mem), .unmap = true };
	struct vmstate_progress progress = { .step = save_step, .opaque = s };
	struct vmstate_header h = { .realtime_ns = clock_realtime_ns(), .paused = s->was_paused };
	struct vmstate_file f;

	s->r = ram_wait(s->m, &s->e);
	if (!s->r)
		s->r = disks_check_names(s->m, &s->e);
	if (!s->r)
		s->r = disks_flush(s->m, &s->e);
	if (s->r < 0)
		return;
	memcpy(h.uuid, s->m->cfg.uuid, sizeof(h.uuid));
	h.vm_clock_ns = machine_clock_ns(s->m); /* does not advance: the VM is paused */
	vmstate_file_init(&f, s->state_fd);
	vmstate_file_direct(&f, true);
	s->r = vmstate_write(&f.store, &h, &src, &progress, &s->result, &s->e);
	vmstate_file_direct(&f, false);
}

static void vm_undo_save(struct save *s)
{
	if (s->was_running)
		vm_cont(s->vm, VM_REASON_USER, NULL);
	else if (s->was_paused)
		vm_saving_failed(s->vm);
}

static void save_done(struct work *w)
{
	struct save *s = container_of(w, struct save, work);

	if (!s->r) {
		log_info(NULL, "state saved, %llu KiB of memory",
			(unsigned long long)s->result.ram_bytes_written / 1024);
		s->done(s->opaque, 0, NULL);
		vm_end(s->vm, VM_REASON_SAVED, 0, NULL);
		vm_work_end(s->vm); /* discards a reset that the guest asked for meanwhile */
	} else {
		vm_work_end(s->vm);
		log_warn(NULL, "cannot save the VM: %s", s->e.msg);
		vm_undo_save(s);
		s->done(s->opaque, s->r, &s->e);
	}
	save_free(s);
}

/* The state is resumed by a VM with the disks and interfaces of the definition. */
static int devices_check(const struct machine *m, const struct vm_save_devices *want, bool disks_only, struct err *e)
{
	bool disks = want->ndisks == m->ndisks, faces = disks_only || want->ninterfaces == m->nnics;

	for (unsigned i = 0; i < m->ndisks && disks; i++)
		disks = !strncmp(want->disks[i], m->disks[i].id, sizeof(want->disks[i]));
	for (unsigned i = 0; !disks_only && i < m->nnics && faces; i++)
		faces = !strncmp(want->interfaces[i], m->nics[i].cfg->id, sizeof(want->interfaces[i]));
	if (disks && faces)
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "%s was attached or detached while the save began; save the VM again",
		disks ? "an interface" : "a disk");
}

static int save_prepare(struct save *s, const struct vm_save_devices *devices, bool disks_only, int definition_fd, struct err *e)
{
	size_t len;
	int r = 0;

	if (definition_fd >= 0)
		r = file_read_fd(definition_fd, "definition", VMSTATE_DEFINITION_MAX_BYTES,
			&s->definition, &len, e);
	if (!r && s->m->cfg.images_only)
		r = err_set(e, -EBUSY, ERR_WRONG_STATE, "the VM is off: there is no state to save");
	if (!r && devices)
		r = devices_check(s->m, devices, disks_only, e);
	if (!r)
		r = vm_check_keepable(s->vm, e);
	if (!r)
		r = vm_work_begin(s->vm, "save", e);
	if (r < 0)
		return r;
	s->was_running = vm_phase(s->vm) == VM_PHASE_RUNNING;
	s->was_paused = vm_phase(s->vm) == VM_PHASE_PAUSED;
	if (s->was_paused)
		vm_saving_begin(s->vm);
	r = vm_stop(s->vm, VM_REASON_SAVING, e);
	if (!r)
		r = vm_check_keepable(s->vm, e);
	if (!r)
		r = machine_save(s->m, &s->sections, e);
	if (r < 0) {
		vm_work_end(s->vm);
		vm_undo_save(s);
	}
	return r;
}

int vm_save(struct vm *vm, struct worker *w, const struct vm_save_devices *devices, bool disks_only, int state_fd,
	int definition_fd, void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e)
{
	struct save *s = calloc(1, sizeof(*s));
	int r;

	if (!s) {
		close(state_fd);
		if (definition_fd >= 0)
			close(definition_fd);
		return err_set_errno(e, -ENOMEM, "save");
	}
	s->vm = vm;
	s->m = vm_machine(vm);
	s->state_fd = state_fd;
	s->done = done;
	s->opaque = opaque;
	s->work.run = save_run;
	s->work.done = save_done;
	r = save_prepare(s, devices, disks_only, definition_fd, e);
	if (definition_fd >= 0)
		close(definition_fd);
	if (r < 0) {
		save_free(s);
		return r;
	}
	worker_submit(w, s->m->host.loop, &s->work);
	return 0;
}
