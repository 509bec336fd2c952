#include "vmm/snapshot/vm_dump.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/holes.h"
#include "snapshot/ram_view.h"
#include "vmm/machine/ram_load.h"
#include "vmm/machine/ram_save.h"
#include "vmm/snapshot/elf_core.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MSR_KERNEL_GS_BASE 0xc0000102u
#define PAGE 4096

/* Stages: wait (worker; the guest runs), stop (main thread: save registers, protect memory, resume
 * the guest), write (worker). With the dirty log, `wait` writes memory in rounds (ram_save.h), and `write` only
 * the blocks that are left. Without tracking, the guest resumes after `write`. Last stage: sync (worker; the guest
 * runs). */
struct dump_job {
	struct vmsnap_job j;
	int fd;
	enum ram_way way;
	struct ram_save save; /* used with RAM_LOG */
	bool stay;    /* keep the VM paused afterwards */
	uint64_t bytes_done;
	uint8_t *head;
	size_t head_bytes;
};

static void dump_free(struct dump_job *x)
{
	close(x->fd);
	ram_save_done(&x->save);
	free(x->head);
	free(x);
}

/* ---- writing registers; vCPUs are parked ---- */

static int cpu_read(struct vcpu *v, struct elf_core_cpu *ret, struct err *e)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} gs = { .head.nmsrs = 1, .e[0].index = MSR_KERNEL_GS_BASE };
	int r = kvm_ioctl(v->fd, KVM_GET_REGS, &ret->regs);

	if (r >= 0)
		r = kvm_ioctl(v->fd, KVM_GET_SREGS, &ret->sregs);
	if (r >= 0)
		r = kvm_ioctl(v->fd, KVM_GET_MSRS, &gs);
	ret->kernel_gs_base = r == 1 ? gs.e[0].data : 0;
	return r < 0 ? err_set(e, r, ERR_HOST, "cannot read the registers of vCPU %u: %s", v->index,
		strerror(-r)) : 0;
}

static int head_make(struct dump_job *x, struct err *e)
{
	struct machine *m = x->j.m;
	const struct elf_core_ram ram[] = { { 0, m->mem.low_bytes }, { MEM_HIGH_BASE, m->mem.high_bytes } };
	CLEANUP_FREE struct elf_core_cpu *cpus = calloc(m->cfg.vcpus, sizeof(*cpus));
	int r = 0;

	if (!cpus)
		return err_set_errno(e, -ENOMEM, "dump");
	for (unsigned i = 0; i < m->cfg.vcpus && !r; i++)
		r = cpu_read(&m->vcpus.vcpu[i], &cpus[i], e);
	return r < 0 ? r : elf_core_head(cpus, m->cfg.vcpus, ram, m->mem.high_bytes ? 2 : 1, &x->head,
		&x->head_bytes, e);
}

/* ---- writing memory; on the worker's thread ---- */

/* Write up to one block of RAM without its zero pages, which are holes of the file. After a round the file may have
 * other content in their place, so write them, too. RAM is a multiple of a page. */
static int piece_write(struct dump_job *x, uint64_t off, const uint8_t *data, size_t len)
{
	bool holes = !x->save.rounds;
	size_t from = 0, to;
	int r = 0;

	while (from < len && !r) {
		if (holes && bytes_are_zero(data + from, PAGE)) {
			from += PAGE;
			continue;
		}
		for (to = from + PAGE; to < len && !(holes && bytes_are_zero(data + to, PAGE)); to += PAGE)
			;
		r = pwrite_full(x->fd, data + from, to - from, (off_t)(x->head_bytes + off + from));
		x->j.result.ram_bytes_written += r < 0 ? 0 : to - from;
		from = to;
	}
	return r;
}

static int dump_step(struct dump_job *x, uint64_t bytes)
{
	x->bytes_done += bytes;
	return vm_work_step(x->j.vm, MIN(x->bytes_done, x->j.m->mem.bytes), x->j.m->mem.bytes) ? -ECANCELED : 0;
}

static int write_standing(struct dump_job *x)
{
	struct memory *mem = &x->j.m->mem;
	struct holes holes = { .fd = mem->fd, .bytes = mem->bytes };
	int r = 0;

	for (uint64_t off = 0; off < mem->bytes && !r; off += VMSTATE_BLOCK_BYTES) {
		size_t len = MIN(mem->bytes - off, (uint64_t)VMSTATE_BLOCK_BYTES);

		if (!hole_at(&holes, off, len))
			r = piece_write(x, off, mem->host + off, len);
		if (!r)
			r = dump_step(x, len);
	}
	return r;
}

/* Write the memory of a paused clone, which is a private view of its base file. */
static int view_write_standing(struct dump_job *x, const struct ram_view *view)
{
	CLEANUP_FREE uint8_t *data = malloc(VMSTATE_BLOCK_BYTES);
	struct holes holes;
	int r = data ? 0 : -ENOMEM;

	ram_view_walk(view, &holes);
	for (uint64_t off = 0; off < view->bytes && !r; off += VMSTATE_BLOCK_BYTES) {
		size_t len = MIN(view->bytes - off, (uint64_t)VMSTATE_BLOCK_BYTES);
		bool hole = ram_view_is_hole(view, &holes, off, len);

		r = hole ? 0 : ram_view_read(view, off, data, len);
		if (!hole && !r)
			r = piece_write(x, off, data, len);
		if (!r)
			r = dump_step(x, len);
	}
	return r;
}

/* Write all blocks with content; in later rounds and after the pause, the blocks that were written since. */
static int write_live(struct dump_job *x)
{
	CLEANUP_FREE uint8_t *data = malloc(VMSTATE_BLOCK_BYTES);
	uint64_t block;
	int r = data ? 0 : -ENOMEM;

	while (!r && (r = vmsnap_job_block_next(&x->j, x->way, &x->save, &block, data)) > 0) {
		uint64_t off = block * VMSTATE_BLOCK_BYTES;
		size_t len = MIN(x->j.m->mem.bytes - off, (uint64_t)VMSTATE_BLOCK_BYTES);

		r = piece_write(x, off, data, len);
		if (!r)
			r = dump_step(x, len);
	}
	return r;
}

static int write_failed(struct dump_job *x, int r)
{
	if (r == -ECANCELED)
		return err_set(&x->j.e, r, ERR_CANCELLED, "the dump was cancelled");
	return r < 0 ? err_set_errno(&x->j.e, r, "cannot write the dump") : 0;
}

/* Write memory in rounds until few dirty blocks are left. */
static int rounds_write(struct dump_job *x)
{
	struct machine *m = x->j.m;
	int r = ram_save_begin(&x->save, m, true, &x->j.e);

	x->head_bytes = elf_core_head_bytes(m->cfg.vcpus, m->mem.high_bytes ? 2 : 1);
	while (r >= 0) {
		r = write_failed(x, write_live(x));
		if (!r)
			r = ram_save_round_end(&x->save, &x->j.e);
		if (!r)
			break;
	}
	return r;
}

static void write_run(struct work *w)
{
	struct dump_job *x = container_of(w, struct dump_job, j.work);
	struct memory *mem = &x->j.m->mem;
	const struct ram_view *view = memory_view(mem);
	int r = 0;

	if (ftruncate(x->fd, (off_t)(x->head_bytes + mem->bytes)) < 0)
		r = -errno;
	if (!r)
		r = pwrite_full(x->fd, x->head, x->head_bytes, 0);
	if (!r)
		r = x->way != RAM_PAUSED ? write_live(x) : view ? view_write_standing(x, view) : write_standing(x);
	if (x->way == RAM_FAULTS)
		fault_tracker_save_end(x->j.m->tracker); /* in every case, so that blocked writers continue */
	x->j.r = write_failed(x, r);
}

/* Sync before the dump is reported: a client that learns of it may remove an older one. */
static void sync_run(struct work *w)
{
	struct dump_job *x = container_of(w, struct dump_job, j.work);

	x->j.r = write_failed(x, fdatasync(x->fd) < 0 ? -errno : 0);
}

/* ---- stages of the dump ---- */

/* Wait until all memory is loaded. Then protect it, or write it in rounds. */
static void wait_run(struct work *w)
{
	struct dump_job *x = container_of(w, struct dump_job, j.work);
	struct vmsnap_job *j = &x->j;

	j->r = ram_wait(j->m, &j->e);
	if (!j->r && x->way == RAM_FAULTS)
		j->r = ram_watch(j->m, &j->e);
	else if (!j->r && x->way == RAM_LOG)
		j->r = rounds_write(x);
}

static void dump_done(struct work *w)
{
	struct dump_job *x = container_of(w, struct dump_job, j.work);
	struct vmsnap_job *j = &x->j;

	vmsnap_job_resume_vm(j);
	j->result.total_ns = loop_now_ns() - j->stopped_ns;
	if (!j->r)
		log_info(NULL, "memory dumped: pause %llu us, %llu KiB written",
			(unsigned long long)j->result.pause_ns / 1000,
			(unsigned long long)j->result.ram_bytes_written / 1024);
	vm_work_set_live(j->vm, false); /* so that vm_cont() is allowed again */
	if (j->r < 0 && x->stay)
		vm_cont(j->vm, VM_REASON_USER, NULL);
	vmsnap_job_finish(j);
	dump_free(x);
}

static void dump_written(struct work *w)
{
	struct dump_job *x = container_of(w, struct dump_job, j.work);

	vmsnap_job_resume_vm(&x->j);
	if (x->j.r < 0)
		dump_done(w);
	else
		vmsnap_job_stage(&x->j, sync_run, dump_done);
}

static void vm_stop_for_dump(struct work *w)
{
	struct dump_job *x = container_of(w, struct dump_job, j.work);
	struct vmsnap_job *j = &x->j;

	if (!j->r && vm_phase(j->vm) == VM_PHASE_ENDED)
		j->r = err_set(&j->e, -ECANCELED, ERR_CANCELLED, "the VM ended meanwhile");
	vmsnap_job_stop_vm(j);
	if (!j->r)
		j->r = head_make(x, &j->e);
	if (!j->r && x->way == RAM_FAULTS)
		j->r = vmsnap_job_hold_memory(j);
	if (!j->r && x->way == RAM_LOG) {
		j->r = ram_save_freeze(&x->save, &j->e);
		vmsnap_job_tell_rounds(j, &x->save);
	}
	if (j->r < 0) {
		dump_done(w);
		return;
	}
	if (x->way != RAM_PAUSED && !x->save.stays_paused) {
		vmsnap_job_resume_vm(j);
		vm_work_set_live(j->vm, false);
	}
	vmsnap_job_stage(&x->j, write_run, dump_written);
}

static int file_check(int fd, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "the file");
	if (!S_ISREG(st.st_mode) || st.st_size)
		return err_set(e, -EINVAL, ERR_INVALID, "a dump needs an empty regular file");
	return 0;
}

static struct dump_job *dump_new(struct vm *vm, struct worker *w, int fd, struct err *e)
{
	struct dump_job *x = NULL;

	if (vm_machine(vm)->cfg.images_only)
		err_set(e, -EBUSY, ERR_WRONG_STATE, "the VM is off: it has no memory to dump");
	else if (file_check(fd, e) == 0)
		x = vmsnap_job_new_crashed(sizeof(*x), vm, w, "dump", e);
	if (!x)
		close(fd);
	return x;
}

int vm_dump(struct vm *vm, struct worker *w, const struct vm_dump *how, int fd, vm_snapshot_done_fn *done,
	void *opaque, struct err *e)
{
	struct dump_job *x = dump_new(vm, w, fd, e);

	if (!x)
		return -EBUSY;
	x->fd = fd;
	x->j.done = done;
	x->j.opaque = opaque;
	x->stay = how->stay && vm_phase(vm) == VM_PHASE_RUNNING;
	if (x->stay)
		vm_stop(vm, VM_REASON_USER, NULL);
	if (vm_phase(vm) == VM_PHASE_RUNNING) {
		x->way = ram_way(x->j.m);
		vmsnap_job_tell_tracking(&x->j, x->way);
	}
	vmsnap_job_stage(&x->j, wait_run, vm_stop_for_dump);
	return 0;
}
