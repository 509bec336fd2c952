#include "vmm/vm_fork.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "snapshot/pager.h"
#include "vmm/fork_disks.h"
#include "vmm/machine_state.h"
#include "vmm/vm_snapshot_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fork_job {
	struct vmsnap_job j;
	int state_fd;
	bool stopped; /* by us: to be let go on */
	uint64_t stopped_ns;
	struct state_writer sections;
	struct fork_disks disks;
};

/* ---- the source ---- */

static void fork_free(struct fork_job *x)
{
	state_writer_done(&x->sections);
	close(x->state_fd);
	fork_disks_done(&x->disks);
	free(x);
}

/* Memory that is still being read comes first; the guest runs meanwhile. */
static void wait_run(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	if (x->j.m->pager && !pager_wait(x->j.m->pager))
		x->j.r = err_set(&x->j.e, -EIO, ERR_IO,
			"part of the memory that this VM was restored from could not be read");
}

static int fork_step(void *opaque, uint64_t done, uint64_t total)
{
	struct fork_job *x = opaque;

	return vm_work_step(x->j.vm, done, total);
}

static int state_write(struct fork_job *x)
{
	struct machine *m = x->j.m;
	struct vmstate_source src = { .sections = x->sections.buf, .sections_bytes = x->sections.len,
		.ram = m->mem.host, .ram_bytes = m->mem.bytes, .ram_fd = m->mem.fd };
	struct vmstate_progress progress = { .step = fork_step, .opaque = x };
	struct vmstate_header h = { .realtime_ns = vmsnap_realtime_ns() };
	struct vmstate_result result = { 0 };
	struct vmstate_file f;
	int r;

	memcpy(h.uuid, m->cfg.uuid, sizeof(h.uuid));
	vmstate_file_init(&f, x->state_fd);
	r = vmstate_write(&f.store, &h, &src, &progress, &result, &x->j.e);
	/* What is absent at the end is part of the file: clones map it. */
	if (!r && ftruncate(x->state_fd, (off_t)h.layout.total_bytes) < 0)
		r = err_set_errno(&x->j.e, -errno, "cannot make room for the VM's memory");
	x->j.result.ram_bytes_written = result.ram_bytes_written;
	return r;
}

/* The machine stands still. */
static void write_run(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	x->j.r = fork_disks_copy(&x->disks, x->j.m, &x->j.e);
	if (!x->j.r)
		x->j.r = memory_own(&x->j.m->mem, &x->j.e);
	if (!x->j.r)
		x->j.r = state_write(x);
}

/* The guest runs. */
static void spread_run(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);

	x->j.r = fork_disks_spread(&x->disks, &x->j.e);
}

static void fork_done(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);
	struct vmsnap_job *j = &x->j;

	j->result.total_ns = loop_now_ns() - x->stopped_ns;
	if (!j->r)
		log_info(NULL, "state for clones taken: pause %llu us, %llu KiB of memory",
			(unsigned long long)j->result.pause_ns / 1000,
			(unsigned long long)j->result.ram_bytes_written / 1024);
	vmsnap_job_finish(j);
	fork_free(x);
}

static void write_done(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);
	struct vmsnap_job *j = &x->j;

	if (x->stopped && vm_phase(j->vm) == VM_PHASE_RUNNING)
		machine_resume(j->m);
	if (x->stopped)
		j->result.pause_ns = loop_now_ns() - x->stopped_ns;
	if (j->r < 0 || !x->disks.nfds) {
		fork_done(w);
		return;
	}
	vm_work_set_live(j->vm);
	j->work.run = spread_run;
	j->work.done = fork_done;
	worker_submit(j->worker, j->m->host.loop, &j->work);
}

static void freeze(struct work *w)
{
	struct fork_job *x = container_of(w, struct fork_job, j.work);
	struct vmsnap_job *j = &x->j;

	if (!j->r && vm_phase(j->vm) != VM_PHASE_RUNNING && vm_phase(j->vm) != VM_PHASE_PAUSED)
		j->r = err_set(&j->e, -ECANCELED, ERR_CANCELLED, "the VM ended meanwhile");
	x->stopped_ns = loop_now_ns();
	if (!j->r && vm_phase(j->vm) == VM_PHASE_RUNNING) {
		machine_pause(j->m);
		x->stopped = true;
	}
	if (!j->r)
		j->r = machine_save(j->m, &x->sections, &j->e);
	if (j->r < 0) {
		write_done(w);
		return;
	}
	j->work.run = write_run;
	j->work.done = write_done;
	worker_submit(j->worker, j->m->host.loop, &j->work);
}

static int fork_check(const struct machine *m, const struct fork_disks *d, struct err *e)
{
	if (m->cfg.images_only)
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "the VM is off; start it first");
	if (m->cfg.huge_pages)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"memory in huge pages cannot be shared with clones; set \"hugepages\": false and "
			"start the VM anew");
	return fork_disks_check(d, m, e);
}

int vm_fork(struct vm *vm, struct worker *w, const struct vm_fork *f, const int *fds, unsigned nfds,
	vm_snapshot_done_fn *done, void *opaque, struct err *e)
{
	struct machine *m = vm_machine(vm);
	struct fork_disks disks = { .nfds = nfds - 1, .copies = f->copies, .step = fork_step };
	struct fork_job *x = NULL;
	int r;

	memcpy(disks.fds, fds + 1, (nfds - 1) * sizeof(*fds));
	r = fork_check(m, &disks, e);
	if (!r)
		x = vmsnap_job_new(sizeof(*x), vm, w, "fork", e);
	if (!x) {
		fork_disks_done(&disks);
		close(fds[0]);
		return r < 0 ? r : -EBUSY;
	}
	x->state_fd = fds[0];
	x->disks = disks;
	x->disks.opaque = x;
	x->j.done = done;
	x->j.opaque = opaque;
	x->j.work.run = wait_run;
	x->j.work.done = freeze;
	worker_submit(w, m->host.loop, &x->j.work);
	return 0;
}

/* ---- a clone ---- */

/* What it shares must never change under it. */
static int seals_check(int fd, struct err *e)
{
	int want = F_SEAL_WRITE | F_SEAL_SHRINK, seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & want) != want)
		return err_set(e, -EINVAL, ERR_INVALID,
			"a clone's memory has to come in a file that is sealed against writing");
	return 0;
}

static int fork_load(struct machine *m, int *fd, struct err *e)
{
	CLEANUP_FREE uint8_t *sections = NULL;
	struct vmstate_header h;
	struct vmstate_file f;
	int r;

	vmstate_file_init(&f, *fd);
	r = vmstate_read_header(&f.store, &h, e);
	if (!r)
		r = vmstate_read_sections(&f.store, &h, &sections, e);
	if (!r)
		r = machine_state_check(m, sections, h.sections_bytes, e);
	if (!r)
		r = memory_view(&m->mem, *fd, h.layout.ram_offset, e);
	if (r < 0)
		return r;
	*fd = -1;
	machine_hold(m);
	return machine_load(m, sections, h.sections_bytes, e);
}

int machine_load_fork(struct machine *m, int fd, struct err *e)
{
	CLEANUP_CLOSE int owned = fd;
	int r = seals_check(owned, e);

	return r < 0 ? r : fork_load(m, &owned, e);
}

int vm_own_memory(struct vm *vm, struct err *e)
{
	struct machine *m = vm_machine(vm);
	bool runs = vm_phase(vm) == VM_PHASE_RUNNING;
	int r;

	if (m->cfg.images_only || !memory_is_view(&m->mem))
		return 0;
	if (runs)
		machine_pause(m);
	r = memory_own(&m->mem, e);
	if (runs)
		machine_resume(m);
	return r;
}
