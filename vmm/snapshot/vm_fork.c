#include "vmm/snapshot/vm_fork.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "snapshot/fault_tracker.h"
#include "vmm/kvm/cpu_probe.h"
#include "vmm/kvm/fork_host.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/ram_load.h"
#include "vmm/snapshot/fork_disks.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_BYTES 4096u

/* Stages: wait (worker; the guest runs), stop (main thread: pause the VM, save the machine's state), stand (worker:
 * work that needs the pause), freeze (main thread: protect memory, resume the guest), write (worker: memory as of the
 * pause, copies of disks), tell (main thread: the clones may start), sync (worker: flush the disks), tell (main thread:
 * all is on stable storage), finish (worker: the pins' commits clear up). With the dirty log, `wait` writes memory in
 * rounds (ram_save.h), and `write` only the blocks that are left. Without tracking, `stand` writes all memory. The fork
 * of a group also waits for the daemon before `stop`, and in `freeze` before the guest resumes
 * (vmm/vm_snapshot_msg.h). */
struct fork_job {
	struct vmsnap_job j;
	int state_fd;
	enum ram_way way;
	struct ram_save save; /* used with RAM_LOG */
	bool held;    /* the tracker holds memory as of the pause */
	bool told;    /* the daemon knows that the clones may start */
	bool stages;  /* the daemon knows all of enum vm_fork_stage */
	bool group;
	struct vmsnap_hold hold; /* of a group */
	struct state_writer sections;
	struct fork_disks disks;
	struct fork_progress progress;
	struct vmstate_file file;
	struct vmstate_header h;
	uint32_t *crcs;
	uint64_t bytes_done;
};

/* ---- saving the running VM's state ---- */

static void fork_free(struct fork_job *x)
{
	state_writer_done(&x->sections);
	close(x->state_fd);
	fork_disks_done(&x->disks);
	ram_save_done(&x->save);
	free(x->crcs);
	free(x);
}

static int blocks_write(struct fork_job *x);

static int ram_write_failed(struct fork_job *x, int r)
{
	if (r == -ECANCELED)
		return err_set(&x->j.e, r, ERR_CANCELLED, "the job was cancelled");
	return r < 0 ? err_set_errno(&x->j.e, r, "cannot copy the VM's memory") : 0;
}

/* Write memory in rounds until few dirty blocks are left. */
static int rounds_write(struct fork_job *x)
{
	int r;

	do {
		r = ram_write_failed(x, blocks_write(x));
		if (!r)
			r = ram_save_round_end(&x->save, &x->j.e);
	} while (r > 0);
	return r;
}

/* The file has a hole, so zeros, for each block that is not written. */
static int rounds_begin(struct fork_job *x)
{
	int r = ram_save_begin(&x->save, x->j.m, true, &x->j.e);

	fork_progress_next(&x->progress, x->h.layout.ram_bytes);
	return r < 0 ? r : rounds_write(x);
}

static int crcs_init(struct fork_job *x)
{
	const struct vmstate_layout *l = &x->h.layout;

	x->crcs = calloc(l->blocks, sizeof(*x->crcs));
	if (!x->crcs)
		return err_set_errno(&x->j.e, -ENOMEM, "fork");
	for (uint64_t b = 0; b < l->blocks; b++)
		x->crcs[b] = vmstate_zero_crc(l, b);
	return 0;
}

/* Wait until all memory is loaded. Then prepare the disks, and protect memory or write it in rounds. */
static void wait_run(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);
	struct vmsnap_job *j = &x->j;

	cpu_probe_begin(&j->m->kvm);
	j->r = ram_wait(j->m, &j->e);
	x->progress.total = x->h.layout.ram_bytes;
	if (!j->r)
		j->r = fork_disks_prepare(&x->disks, &j->e);
	if (!j->r && x->way != RAM_PAUSED)
		j->r = crcs_init(x);
	if (!j->r && x->way == RAM_FAULTS)
		j->r = ram_watch(j->m, &j->e);
	else if (!j->r && x->way == RAM_LOG)
		j->r = rounds_begin(x);
	cpu_probe_result(&j->m->kvm); /* before the pause, because it may take a millisecond */
	if (!j->r)
		j->r = fork_host_write(&x->file, &j->m->kvm, x->h.layout.total_bytes, &j->e);
}

static int memory_write_standing(struct fork_job *x)
{
	struct machine *m = x->j.m;
	struct vmstate_source src = { .sections = x->sections.buf, .sections_bytes = x->sections.len,
		.ram = m->mem.host, .ram_bytes = m->mem.bytes, .ram_fd = m->mem.fd, .view = memory_view(&m->mem) };
	struct vmstate_progress progress = { .step = fork_progress_step, .opaque = &x->progress };
	struct vmstate_result result = { 0 };
	int r;

	fork_progress_next(&x->progress, x->h.layout.ram_bytes);
	r = vmstate_write(&x->file.store, &x->h, &src, &progress, &result, &x->j.e);
	x->j.result.ram_bytes_written = result.ram_bytes_written;
	return r;
}

static void stand_run(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	x->j.r = fork_disks_freeze(&x->disks, &x->j.e);
	if (!x->j.r && x->way == RAM_PAUSED)
		x->j.r = memory_write_standing(x);
}

/* Write the pages of a block that are not zero, to a hole of the file. Each page that is written takes memory and a
 * copy, and in a young guest most blocks have one page with content. */
static int pages_write(struct fork_job *x, uint64_t off, const uint8_t *data, size_t len)
{
	struct vmstate_store *s = &x->file.store;
	size_t from = 0;
	int r = 0;

	for (size_t at = 0; at <= len && !r; at += PAGE_BYTES) {
		if (at < len && !bytes_are_zero(data + at, PAGE_BYTES))
			continue;
		if (at > from)
			r = s->write(s, off + from, data + from, at - from);
		from = at + PAGE_BYTES;
	}
	return r;
}

static int block_write(struct fork_job *x, uint64_t block, const uint8_t *data)
{
	const struct vmstate_layout *l = &x->h.layout;
	bool was_zero = vmstate_block_is_zero(l, x->crcs, block);
	size_t len = vmstate_block_len(l, block);
	uint64_t off = l->ram_offset + block * VMSTATE_BLOCK_BYTES;
	int r;

	x->crcs[block] = vmstate_block_crc(l, block, data);
	if (was_zero && vmstate_block_is_zero(l, x->crcs, block))
		return 0;
	r = was_zero ? pages_write(x, off, data, len) : x->file.store.write(&x->file.store, off, data, len);
	x->j.result.ram_bytes_written += r < 0 ? 0 : len;
	x->bytes_done += len;
	return !r && fork_progress_step(&x->progress, x->bytes_done, l->ram_bytes) ? -ECANCELED : r;
}

/* Write all blocks with content; in later rounds and after the pause, the blocks that were written since. */
static int blocks_write(struct fork_job *x)
{
	CLEANUP_FREE uint8_t *data = malloc(VMSTATE_BLOCK_BYTES);
	uint64_t block;
	int r = data ? 0 : -ENOMEM;

	while (!r && (r = vmsnap_job_block_next(&x->j, x->way, &x->save, &block, data)) > 0)
		r = block_write(x, block, data);
	return r;
}

static int memory_write_live(struct fork_job *x)
{
	struct vmstate_source src = { .sections = x->sections.buf, .sections_bytes = x->sections.len,
		.ram_fd = -1 };
	int r;

	if (x->way == RAM_FAULTS)
		fork_progress_next(&x->progress, x->h.layout.ram_bytes);
	r = ram_write_failed(x, blocks_write(x));
	return r < 0 ? r : vmstate_write_rest(&x->file.store, &x->h, &src, x->crcs, &x->j.e);
}

/* Seal the state, which this thread has written: the pages that are on the list of this CPU would make another thread
 * wait. The daemon looks at the seals, and seals the file if this fails. */
static void state_seal(struct fork_job *x)
{
	(void)fcntl(x->state_fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
}

static void write_run(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	if (!x->j.r)
		fork_disks_commit(&x->disks);
	if (!x->j.r && x->way != RAM_PAUSED)
		x->j.r = memory_write_live(x);
	if (x->held && x->j.m->tracker)
		fault_tracker_save_end(x->j.m->tracker); /* in every case, let blocked writers continue */
	if (!x->j.r)
		x->j.r = fork_disks_make(&x->disks, x->j.m, &x->j.e);
	if (!x->j.r && fork_disks_are_as_asked(&x->disks))
		state_seal(x);
}

static void sync_run(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	if (!x->j.r)
		x->j.r = fork_disks_sync(&x->disks, &x->j.e);
}

static void finish_run(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	x->j.r = fork_disks_finish(&x->disks, x->told, x->j.r, &x->j.e);
	fork_disks_describe(&x->disks, x->j.result.disks_made);
}

static void fork_done(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);
	struct vmsnap_job *j = &x->j;

	vmsnap_job_resume_vm(&x->j);
	j->result.total_ns = loop_now_ns() - j->stopped_ns;
	if (!j->r)
		log_info(NULL, "state for clones taken: pause %llu us, %llu KiB of memory",
			(unsigned long long)j->result.pause_ns / 1000,
			(unsigned long long)j->result.ram_bytes_written / 1024);
	vmsnap_job_finish(j);
	fork_free(x);
}

/* Resume the VM. Its memory is in the state's file by now, or the tracker keeps the old content of overwritten pages.
 */
static void guest_resume(struct fork_job *x)
{
	vmsnap_job_resume_vm(&x->j);
	vm_work_set_live(x->j.vm, false);
}

static void durable_report(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	if (!x->j.r && x->told && x->stages)
		vm_fork_event_send(x->j.vm, VM_FORK_DURABLE);
	if (x->j.r || !fork_disks_are_finished(&x->disks)) {
		vmsnap_job_stage(&x->j, finish_run, fork_done);
		return;
	}
	finish_run(w);
	fork_done(w);
}

static void clones_report(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	guest_resume(x);
	/* Otherwise the daemon has to change the clones' definitions before they start. */
	x->told = !x->j.r && fork_disks_are_as_asked(&x->disks);
	if (x->told)
		vm_fork_event_send(x->j.vm, VM_FORK_READY);
	if (x->j.r || x->disks.n)
		vmsnap_job_stage(&x->j, sync_run, durable_report);
	else
		durable_report(w);
}

/* End the pause. */
static void freeze_end(struct fork_job *x)
{
	if (x->j.r < 0 || !x->save.stays_paused)
		guest_resume(x);
	/* Begin the first clone only now: during the pause, its process would compete with this one for the CPUs. */
	if (!x->j.r && x->stages && fork_disks_are_as_asked(&x->disks))
		vm_fork_event_send(x->j.vm, VM_FORK_BEGUN);
	if (x->j.r < 0 && !x->disks.n && !x->held) {
		fork_done(&x->j.work);
		return;
	}
	vmsnap_job_stage(&x->j, write_run, clones_report);
}

static void vm_freeze(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	if (!x->j.r && x->way == RAM_FAULTS) {
		x->j.r = vmsnap_job_hold_memory(&x->j);
		x->held = !x->j.r;
	}
	if (!x->j.r && x->way == RAM_LOG) {
		x->bytes_done = 0; /* the current part of the progress is a disk */
		x->j.r = ram_save_freeze(&x->save, &x->j.e);
		vmsnap_job_tell_rounds(&x->j, &x->save);
	}
	if (x->group && !x->j.r)
		x->j.r = vmsnap_hold_begin(&x->hold, x->j.vm, VM_GROUP_FROZEN, &x->j.e);
	if (!x->group || x->j.r < 0)
		freeze_end(x);
}

static void vm_stop_for_fork(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);
	struct vmsnap_job *j = &x->j;

	if (!j->r && vm_phase(j->vm) != VM_PHASE_RUNNING && vm_phase(j->vm) != VM_PHASE_PAUSED)
		j->r = err_set(&j->e, -ECANCELED, ERR_CANCELLED, "the VM ended meanwhile");
	vmsnap_job_stop_vm(j);
	if (!j->stopped)
		j->result.instant_ns = j->stopped_ns;
	x->h.vm_clock_ns = machine_clock_ns(j->m);
	if (!j->r)
		j->r = vm_check_keepable(j->vm, &j->e);
	if (!j->r)
		j->r = machine_save(j->m, &x->sections, &j->e);
	/* Without slow work to do, freeze at once instead of waiting for the worker's thread. */
	if (j->r < 0 || (x->way != RAM_PAUSED && !x->disks.n))
		vm_freeze(w);
	else
		vmsnap_job_stage(&x->j, stand_run, vm_freeze);
}

/* ---- the fork of a group waits until those of the other VMs are as far; on the main thread ---- */

static void vm_hold(struct work *w);

/* The guest has dirtied memory again, so protect or copy it again. */
static void prepare_again(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	if (x->way != RAM_PAUSED)
		x->j.r = x->way == RAM_LOG ? rounds_write(x) : ram_watch(x->j.m, &x->j.e);
}

static void hold_over(struct vmsnap_hold *h, enum vm_snapshot_step step, int r, const struct err *e)
{
	struct fork_job *x = container_of(h, struct fork_job, hold);

	if (step == VM_STEP_SETTLE) {
		vmsnap_job_stage(&x->j, prepare_again, vm_hold);
		return;
	}
	x->j.r = r;
	if (r < 0)
		x->j.e = *e;
	if (h->stage == VM_GROUP_FROZEN) {
		freeze_end(x);
		return;
	}
	x->j.stand_until_ns = h->stand_until_ns;
	vm_stop_for_fork(&x->j.work);
}

static void vm_hold(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	if (x->group && !x->j.r)
		x->j.r = vmsnap_hold_begin(&x->hold, x->j.vm, VM_GROUP_HELD, &x->j.e);
	if (!x->group || x->j.r < 0)
		vm_stop_for_fork(w);
}

/* ---- beginning a fork ---- */

static int fork_check(struct machine *m, struct fork_disks *d, struct err *e)
{
	if (m->cfg.images_only)
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "the VM is off; start it first, or name a snapshot");
	if (m->cfg.huge_pages)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"memory in huge pages cannot be shared with clones; set \"hugepages\": false "
			"and restart the VM");
	return fork_disks_check(d, m, e);
}

static struct fork_job *fork_new(struct vm *vm, struct worker *w, const struct vm_fork *f, const int *fds,
	unsigned nfds, struct err *e)
{
	struct fork_job *x = vm_check_keepable(vm, e) < 0 ? NULL : vmsnap_job_new(sizeof(*x), vm, w, "fork", e);

	if (!x)
		return NULL;
	x->state_fd = fds[0];
	x->disks.copies = f->copies;
	x->disks.state_fd = x->state_fd;
	memcpy(x->disks.pins, f->pins, sizeof(x->disks.pins));
	memcpy(x->disks.earlier, f->shared, sizeof(x->disks.earlier));
	x->disks.flatten = f->flatten;
	x->stages = f->flatten & VM_FORK_STAGES;
	x->group = f->flatten & VM_FORK_GROUP;
	x->hold.over = hold_over;
	x->disks.nfds = nfds - 1;
	memcpy(x->disks.fds, fds + 1, (nfds - 1) * sizeof(*fds));
	x->disks.progress = &x->progress;
	x->progress.vm = vm;
	return x;
}

int vm_fork(struct vm *vm, struct worker *w, const struct vm_fork *f, const int *fds, unsigned nfds,
	vm_snapshot_done_fn *done, void *opaque, struct err *e)
{
	struct machine *m = vm_machine(vm);
	struct fork_job *x;
	int r;

	if (f->snapshot[0])
		return vm_fork_snapshot(vm, w, f, fds, nfds, done, opaque, e);
	x = fork_new(vm, w, f, fds, nfds, e);
	if (!x)
		return -EBUSY;
	r = fork_check(m, &x->disks, e);
	if (r < 0) {
		vm_work_end(vm);
		free(x);
		return r;
	}
	x->j.done = done;
	x->j.opaque = opaque;
	x->way = ram_way(m);
	vmsnap_job_tell_tracking(&x->j, x->way);
	x->h.realtime_ns = clock_realtime_ns();
	memcpy(x->h.uuid, m->cfg.uuid, sizeof(x->h.uuid));
	vmstate_file_init(&x->file, x->state_fd);
	vmstate_layout_of(m->mem.bytes, &x->h.layout);
	vmsnap_job_stage(&x->j, wait_run, vm_hold);
	return 0;
}
