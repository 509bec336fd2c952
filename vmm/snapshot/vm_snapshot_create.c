/* Creates a snapshot. Stages: prepare (worker: protect memory while the guest runs), quiesce (guest agent, if
 * requested), freeze (main thread: the pause), write (worker: memory as of the pause, then the commit). Without
 * userfaultfd, `prepare` writes memory in rounds (ram_save.h), and `write` writes only the remaining blocks. */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/ram_reader.h"
#include "vmm/agent/agent.h"
#include "vmm/kvm/cpu_probe.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine_restore.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/ram_load.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* Adjacent blocks are written together, at most this many. */
#define RUN_BLOCKS 16u
/* Only whole clusters can be shared; RAM starts at a multiple of the largest cluster size. */
#define CLUSTER_MAX_BYTES (2 * MIB)
#define RATE_LOOK_NS 50000000ULL

/* Blocks for one write. */
struct ram_run {
	uint64_t first;
	unsigned n;
	uint8_t *buf; /* RUN_BLOCKS blocks, page-aligned */
	struct vmstate_call call;
	bool is_written; /* the write is in progress */
};

struct create_job {
	struct vmsnap_job j;
	struct vm_snapshot_create c;
	struct machine_disk *first;
	struct block_snapshot *on_disk[VM_DISKS_MAX]; /* begun, and neither committed nor aborted */
	bool with_ram, was_running, incremental;
	enum ram_way way;
	bool stays_paused; /* the VM stays paused until its memory is written */
	struct vmsnap_hold hold; /* of a group */
	struct ram_save save; /* used with RAM_LOG */
	struct state_writer sections;
	struct bitmap wanted; /* blocks of RAM that are written */
	struct vmstate_header h;
	struct bitmap holes;  /* incremental, RAM_FAULTS: wanted blocks that the tracker has not returned */
	uint32_t *crcs;			      /* one per block: new for a written block, else the base's */
	char base_id[VM_SNAPSHOT_ID_MAX + 1]; /* incremental: snapshot whose memory is shared */
	uint64_t started_ns, bytes_done, bytes_total;
	struct ram_run run[2]; /* one is written while the other is filled */
	unsigned filling;
};

/* ---- checks before the snapshot ---- */

static int disks_check(struct machine *m, struct err *e)
{
	for (unsigned i = 0; i < m->ndisks; i++) {
		const struct vm_disk *d = &m->cfg.disks[i];

		if (!vmsnap_disk_takes_part(m, i))
			continue;
		if (d->format[0] != BLOCK_FORMAT_QCOW2)
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
				"disk %s is %s; internal snapshots need qcow2: shut the VM down and convert it with "
				"`cairn-img convert -O qcow2`, or take an external snapshot (--disk-only --external)",
				d->id, block_format_name(d->format[0]));
		if (d->data_fd[0] != VM_NO_FD)
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
				"disk %s has an external data file, which cannot hold snapshots; convert it with "
				"`cairn-img convert -O qcow2` into an image without one", d->id);
	}
	return vmsnap_first_disk(m, e) ? 0 : -ENOTSUP;
}

static int name_check(struct create_job *x, struct err *e)
{
	struct tree t;
	int r = tree_name_check(x->c.name, e);

	if (!r)
		r = vmsnap_tree(x->first, &t, e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < t.n && !r; i++)
		if (!strcmp(t.nodes[i].info.name, x->c.name))
			r = err_set(e, -EEXIST, ERR_EXISTS,
				"there is a snapshot '%s' already; choose another name or delete it", x->c.name);
	if (!tree_find_id(&t, strtoull(x->j.m->base_id, NULL, 10)))
		x->j.m->base_id[0] = 0; /* the base was deleted meanwhile */
	tree_done(&t);
	return r;
}

/* Delete a leftover snapshot on a disk other than the first. It has the new snapshot's name, and the
 * first disk has no snapshot of that name, for example because another program deleted the first disk's part. Commands
 * of the VM find snapshots by the first disk, so none can delete the leftover. Refuse if it belongs to another VM or
 * program.
 * d: the disk; n: the leftover. */
static int namesake_delete(struct create_job *x, struct machine_disk *d, const struct tree_node *n)
{
	if (!n->ours || (tree_has_set(n) && !machine_has_uuid(x->j.m, n->data.set.vm)))
		return err_set(&x->j.e, -EEXIST, ERR_EXISTS,
			"disk %s has a snapshot '%s' of another VM or program; choose another name, "
			"or shut the VM off and delete it with `cairn-img snapshot -d`", d->id, x->c.name);
	if (n->data.set.mark == TREE_MAKING && x->first->snapshot_unknown)
		return err_set(&x->j.e, -EBUSY, ERR_WRONG_STATE,
			"after an error it is unknown whether snapshot '%s' was taken; choose another "
			"name or restart the VM",
			x->c.name);
	log_warn(d->id, "deleting snapshot '%s': the first disk has no such snapshot", x->c.name);
	return disk_snapshot_delete(d, n->info.id, &x->j.e);
}

static int namesakes_delete(struct create_job *x)
{
	struct machine *m = x->j.m;
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && !r; i++) {
		struct tree t;

		if (&m->disks[i] == x->first || !vmsnap_disk_takes_part(m, i))
			continue;
		r = vmsnap_tree(&m->disks[i], &t, &x->j.e);
		if (r < 0)
			return r;
		for (size_t k = 0; k < t.n && !r; k++)
			if (!strcmp(t.nodes[k].info.name, x->c.name))
				r = namesake_delete(x, &m->disks[i], &t.nodes[k]);
		tree_done(&t);
	}
	return r;
}

/* ---- prepare: on the worker's thread; the guest runs ---- */

static int memory_refuse(struct create_job *x)
{
	return err_set(&x->j.e, -EIO, ERR_IO,
		"part of the memory that this VM was restored from could not be read");
}

/* Check that memory is readable. With a base, memory that is not loaded yet is shared with the
 * base, so there is no need to wait for it. */
static int ram_reader_check(struct create_job *x)
{
	struct machine *m = x->j.m;
	struct ram_reader_stats s;

	if (!m->ram_reader)
		return 0;
	if (!x->incremental)
		return ram_wait(m, &x->j.e) < 0 ? memory_refuse(x) : 0;
	ram_reader_stats(m->ram_reader, &s);
	return s.failed ? memory_refuse(x) : 0;
}

static int base_crcs_read(struct create_job *x)
{
	struct vmstate_header h;
	struct disk_store st;
	int r;

	disk_store_init(&st, x->first, NULL, x->j.m->base_id);
	r = vmstate_read_header(&st.store, &h, &x->j.e);
	if (!r && h.layout.ram_bytes != x->h.layout.ram_bytes)
		r = err_set(&x->j.e, -EINVAL, ERR_CORRUPT, "its size is unexpected");
	if (!r)
		r = vmstate_read_crcs(&st.store, &h, &x->crcs, &x->j.e);
	if (r < 0)
		err_prefix(&x->j.e, "disk %s: memory of snapshot %s", x->first->id, x->j.m->base_id);
	return r;
}

/* Set all checksums to those of zero blocks: the tracker does not return untouched blocks. */
static int zero_crcs(struct create_job *x)
{
	const struct vmstate_layout *l = &x->h.layout;

	x->crcs = calloc(l->blocks, sizeof(*x->crcs));
	if (!x->crcs)
		return err_set_errno(&x->j.e, -ENOMEM, "snapshot");
	for (uint64_t b = 0; b + 1 < l->blocks; b++)
		x->crcs[b] = l->zero_crc;
	x->crcs[l->blocks - 1] = l->zero_crc_last;
	return 0;
}

static int share_parent(struct create_job *x)
{
	const struct vmstate_layout *l = &x->h.layout;

	if (!x->incremental)
		return 0;
	return disk_vmstate_share(x->first, x->on_disk[x->first - x->j.m->disks], x->base_id,
		l->ram_offset, ROUND_UP(l->ram_bytes, CLUSTER_MAX_BYTES), &x->j.e);
}

static int blocks_write(struct create_job *x, struct disk_store *st, uint64_t blocks);

static int ram_write_failed(struct create_job *x, int r)
{
	if (r == -ECANCELED)
		return err_set(&x->j.e, r, ERR_CANCELLED, "the snapshot was cancelled");
	return r < 0 ? err_set_errno(&x->j.e, r, "cannot write the VM's memory into %s", x->first->id) : 0;
}

/* Write rounds of memory until little is left. */
static int rounds_write(struct create_job *x)
{
	struct disk_store st;
	int r;

	disk_store_init(&st, x->first, x->on_disk[x->first - x->j.m->disks], NULL);
	do {
		r = ram_write_failed(x, blocks_write(x, &st, x->save.round_blocks));
		if (!r)
			r = ram_save_round_end(&x->save, &x->j.e);
		if (r >= 0)
			bitmap_or(&x->wanted, &x->save.todo);
	} while (r > 0);
	return r;
}

/* Open the snapshot on the first disk and write memory in rounds. The disk's content is not frozen yet and may change
 * meanwhile. */
static int rounds_begin(struct create_job *x)
{
	int r = ram_save_begin(&x->save, x->j.m, !x->incremental, &x->j.e);

	x->started_ns = loop_now_ns();
	if (r < 0)
		return r;
	bitmap_copy(&x->wanted, &x->save.todo);
	r = disk_snapshot_open(x->first, &x->on_disk[x->first - x->j.m->disks], &x->j.e);
	if (!r)
		r = share_parent(x);
	return r < 0 ? r : rounds_write(x);
}

static int ram_prepare(struct create_job *x)
{
	struct machine *m = x->j.m;
	int r;

	cpu_probe_begin(&m->kvm);
	vmstate_layout_of(m->mem.bytes, &x->h.layout);
	for (unsigned i = 0; i < ARRAY_SIZE(x->run); i++)
		if (posix_memalign((void **)&x->run[i].buf, 4096, RUN_BLOCKS * VMSTATE_BLOCK_BYTES))
			return err_set_errno(&x->j.e, -ENOMEM, "snapshot");
	if (bitmap_init(&x->wanted, x->h.layout.blocks) < 0)
		return err_set_errno(&x->j.e, -ENOMEM, "snapshot");
	x->incremental = x->way != RAM_PAUSED && m->base_id[0];
	memcpy(x->base_id, m->base_id, sizeof(x->base_id));
	if (!x->incremental)
		bitmap_set_all(&x->wanted);
	r = x->incremental ? base_crcs_read(x) : zero_crcs(x);
	if (!r)
		r = ram_reader_check(x);
	if (!r && x->way == RAM_FAULTS)
		r = ram_watch(m, &x->j.e);
	else if (!r && x->way == RAM_LOG)
		r = rounds_begin(x);
	/* Read most of the log now, so that the pause is short. */
	if (!r && x->way == RAM_FAULTS && dirty_log_is_on(&m->dirty_log))
		r = dirty_log_collect(&m->dirty_log, NULL, &x->j.e);
	cpu_probe_result(&m->kvm); /* before the pause, because it may take a millisecond */
	return r;
}

static void vm_hold(struct work *w);
static void vm_freeze(struct work *w);
static void freeze_end(struct create_job *x);
static void write_run(struct work *w);
static void write_done(struct work *w);

static void prepare_run(struct work *w)
{
	struct create_job *x = container_of(w, struct create_job, j.work);

	if (!x->j.r)
		x->j.r = disks_check_names(x->j.m, &x->j.e);
	if (!x->j.r)
		x->j.r = vmsnap_recover(x->j.m, x->j.m->cfg.images_only, NULL, NULL, &x->j.e);
	if (!x->j.r)
		x->j.r = name_check(x, &x->j.e);
	if (!x->j.r)
		x->j.r = namesakes_delete(x);
	if (!x->j.r && x->with_ram)
		x->j.r = ram_prepare(x);
}

/* ---- quiesce: the guest agent freezes file systems, late so that they are frozen briefly ---- */

static int quiesce_check(struct vm *vm, const struct vm_snapshot_create *c, struct err *e)
{
	int r = c->quiesce ? vm_check_agent(vm, e) : 0;

	if (r < 0 || !c->quiesce)
		return r;
	if (vm_phase(vm) != VM_PHASE_RUNNING)
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"cannot freeze the guest's file systems: the VM does not run; resume it first");
	return 0;
}

/* The guest has dirtied memory again, so protect or copy it again. */
static void prepare_again(struct work *w)
{
	struct create_job *x = container_of(w, struct create_job, j.work);

	x->j.r = x->way == RAM_LOG ? rounds_write(x) : ram_watch(x->j.m, &x->j.e);
}

/* Prepare again, or skip that if no memory is tracked. */
static void protect_again(struct create_job *x)
{
	if (x->with_ram && x->way != RAM_PAUSED)
		vmsnap_job_stage(&x->j, prepare_again, vm_hold);
	else
		vm_hold(&x->j.work);
}

static void quiesce_done(void *opaque, int r, const struct err *e)
{
	struct create_job *x = opaque;

	if (r < 0)
		x->j.e = *e;
	x->j.r = r;
	if (r < 0)
		vm_freeze(&x->j.work);
	else
		protect_again(x);
}

static void guest_quiesce(struct work *w)
{
	struct create_job *x = container_of(w, struct create_job, j.work);
	struct vmsnap_job *j = &x->j;

	if (!j->r && x->c.quiesce)
		j->r = agent_freeze(j->m->agent, quiesce_done, x, &j->e);
	if (j->r < 0 || !x->c.quiesce)
		vm_hold(w);
}

/* ---- hold: the snapshot of a group waits until those of the other VMs are as far; on the main thread ---- */

static void hold_over(struct vmsnap_hold *h, enum vm_snapshot_step step, int r, const struct err *e)
{
	struct create_job *x = container_of(h, struct create_job, hold);

	if (step == VM_STEP_SETTLE) {
		protect_again(x);
		return;
	}
	x->j.r = r;
	if (r < 0)
		x->j.e = *e;
	if (h->stage == VM_GROUP_HELD) {
		x->j.stand_until_ns = h->stand_until_ns;
		vm_freeze(&x->j.work);
	} else {
		vm_work_set_live(x->j.vm, false);
		freeze_end(x);
	}
}

static void vm_hold(struct work *w)
{
	struct create_job *x = container_of(w, struct create_job, j.work);

	if (x->c.group && !x->j.r)
		x->j.r = vmsnap_hold_begin(&x->hold, x->j.vm, VM_GROUP_HELD, &x->j.e);
	if (!x->c.group || x->j.r < 0)
		vm_freeze(w);
}

/* ---- freeze: on the main thread, in the pause ---- */

static int disks_begin(struct create_job *x)
{
	struct machine *m = x->j.m;
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && !r; i++)
		if (x->on_disk[i])
			r = disk_snapshot_freeze(&m->disks[i], x->on_disk[i], &x->j.e);
		else if (vmsnap_disk_takes_part(m, i))
			r = disk_snapshot_begin(&m->disks[i], &x->on_disk[i], &x->j.e);
	return r;
}

/* After a handover, add the blocks that were written before the tracker was armed (machine_carry.h). */
static int logged_add(struct create_job *x)
{
	struct dirty_log *l = &x->j.m->dirty_log;
	int r = dirty_log_is_on(l) ? dirty_log_collect(l, NULL, &x->j.e) : 0;

	if (!r && dirty_log_is_on(l))
		bitmap_or(&x->wanted, &l->written);
	return r;
}

static int tracked_freeze(struct create_job *x)
{
	struct machine *m = x->j.m;
	int r = fault_tracker_reset_dirty(m->tracker, x->incremental ? &x->wanted : NULL, &x->j.e);

	if (!r && x->incremental)
		r = logged_add(x);
	if (!r)
		fault_tracker_save_begin(m->tracker, &x->wanted);
	return r;
}

static int logged_freeze(struct create_job *x)
{
	int r = ram_save_freeze(&x->save, &x->j.e);

	bitmap_or(&x->wanted, &x->save.todo);
	vmsnap_job_tell_rounds(&x->j, &x->save);
	dirty_log_reset(&x->j.m->dirty_log);
	x->stays_paused = x->save.stays_paused;
	return r;
}

static int ram_freeze(struct create_job *x)
{
	struct machine *m = x->j.m;
	int r = machine_save(m, &x->sections, &x->j.e);

	if (!r)
		r = ram_reader_check(x);
	x->stays_paused = x->way == RAM_PAUSED;
	if (r < 0 || x->stays_paused)
		return r;
	/* From here on the base is the new snapshot or, if that fails, none. */
	m->base_id[0] = 0;
	return x->way == RAM_LOG ? logged_freeze(x) : tracked_freeze(x);
}

/* End the job before the pause. If the first disk has an open snapshot, the worker aborts it. */
static void freeze_give_up(struct create_job *x)
{
	struct work *w = &x->j.work;

	w->run = write_run;
	w->done = write_done;
	if (x->on_disk[x->first - x->j.m->disks])
		worker_submit(x->j.worker, x->j.m->host.loop, w);
	else
		write_done(w);
}

static void freeze_end(struct create_job *x)
{
	struct vmsnap_job *j = &x->j;

	x->stays_paused = x->stays_paused && !j->r;
	if (x->stays_paused)
		vm_work_set_alone(j->vm); /* a resume would change the memory that the worker reads */
	else
		vmsnap_job_resume_vm(j);
	agent_thaw(j->m->agent);
	if (!x->started_ns)
		x->started_ns = j->stopped_ns;
	vmsnap_job_stage(j, write_run, write_done);
}

/* End the pause, in a group when all VMs are frozen. */
static void freeze_hold(struct create_job *x)
{
	if (x->c.group && !x->j.r)
		x->j.r = vmsnap_hold_begin(&x->hold, x->j.vm, VM_GROUP_FROZEN, &x->j.e);
	if (x->c.group && !x->j.r)
		vm_work_set_alone(x->j.vm);
	else
		freeze_end(x);
}

static void vm_freeze(struct work *w)
{
	struct create_job *x = container_of(w, struct create_job, j.work);
	struct vmsnap_job *j = &x->j;

	if (vm_phase(j->vm) != VM_PHASE_RUNNING && vm_phase(j->vm) != VM_PHASE_PAUSED && !j->r)
		j->r = err_set(&j->e, -ECANCELED, ERR_CANCELLED, "the VM ended meanwhile");
	if (!j->r && vm_work_cancelled(j->vm))
		j->r = err_set(&j->e, -ECANCELED, ERR_CANCELLED, "the snapshot was cancelled");
	if (!j->r && x->c.quiesce && !agent_is_frozen(j->m->agent))
		j->r = err_set(&j->e, -ETIMEDOUT, ERR_TIMEOUT,
			"the guest's file systems did not stay frozen for as long as the snapshot needed");
	if (j->r < 0) {
		freeze_give_up(x);
		return;
	}
	vmsnap_job_stop_vm(j);
	x->was_running = j->stopped;
	if (!j->stopped)
		j->result.instant_ns = j->stopped_ns;
	x->h.vm_clock_ns = machine_clock_ns(j->m);
	x->h.realtime_ns = clock_realtime_ns();
	if (x->with_ram)
		j->r = vm_check_keepable(j->vm, &j->e);
	if (x->with_ram && !j->r)
		j->r = ram_freeze(x);
	for (unsigned i = 0; i < j->m->nnics && x->with_ram && !j->r; i++)
		nic_mark(&j->m->nics[i], x->h.realtime_ns);
	if (!j->r)
		j->r = disks_begin(x);
	freeze_hold(x);
}

/* ---- write: on the worker's thread; the guest runs unless x->stays_paused is set ---- */

/* Sleep as the rate limit requires, in short steps, to notice a cancellation. */
static void rate_wait(const struct create_job *x)
{
	uint64_t due, now;

	if (!x->c.rate_bytes_per_s)
		return;
	due = x->started_ns + (uint64_t)((double)x->j.result.ram_bytes_written /
					 (double)x->c.rate_bytes_per_s * 1e9);
	while ((now = loop_now_ns()) < due && !vm_work_step(x->j.vm, x->bytes_done, x->bytes_total)) {
		struct timespec ts = { .tv_nsec = (long)MIN(due - now, RATE_LOOK_NS) };

		clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
	}
}

static int run_wait(struct create_job *x, struct ram_run *run)
{
	int r;

	if (!run->is_written)
		return 0;
	run->is_written = false;
	r = disk_store_write_wait(&run->call);
	if (!r)
		x->j.result.ram_bytes_written += run->call.req.len;
	return r;
}

/* Start to write the current run and switch to the other one. */
static int run_flush(struct create_job *x, struct disk_store *st)
{
	struct ram_run *run = &x->run[x->filling];
	uint64_t off = run->first * VMSTATE_BLOCK_BYTES;
	uint64_t len = MIN(run->n * (uint64_t)VMSTATE_BLOCK_BYTES, x->h.layout.ram_bytes - off);
	int r;

	if (!run->n)
		return 0;
	disk_store_write_start(st, &run->call, x->h.layout.ram_offset + off, run->buf, len);
	run->is_written = true;
	run->n = 0;
	x->filling ^= 1;
	r = run_wait(x, &x->run[x->filling]);
	rate_wait(x);
	return r;
}

static int runs_wait(struct create_job *x)
{
	int r = run_wait(x, &x->run[0]), r2 = run_wait(x, &x->run[1]);

	return r < 0 ? r : r2;
}

/* Return whether to skip the block: it is zero, and neither the shared snapshot nor an earlier round has data in its
 * place. */
static bool block_is_left_out(struct create_job *x, uint64_t block, uint32_t crc)
{
	const struct vmstate_layout *l = &x->h.layout;

	return vmstate_block_is_zero(l, x->crcs, block) && crc == vmstate_zero_crc(l, block);
}

static uint8_t *run_end(struct create_job *x)
{
	return x->run[x->filling].buf + x->run[x->filling].n * (size_t)VMSTATE_BLOCK_BYTES;
}

/* Add the block whose content is at run_end() to the run, or skip it. Start to write the run if the block is not
 * adjacent to it, or if the run is full. */
static int block_add(struct create_job *x, struct disk_store *st, uint64_t block)
{
	const uint8_t *data = run_end(x);
	uint32_t crc = vmstate_block_crc(&x->h.layout, block, data);
	struct ram_run *run = &x->run[x->filling];
	bool out = block_is_left_out(x, block, crc);
	int r = 0;

	x->crcs[block] = crc;
	if (out)
		return 0;
	if (run->n && block != run->first + run->n) {
		r = run_flush(x, st);
		run = &x->run[x->filling];
		memcpy(run->buf, data, VMSTATE_BLOCK_BYTES);
	}
	if (!run->n)
		run->first = block;
	return ++run->n < RUN_BLOCKS || r < 0 ? r : run_flush(x, st);
}

static int block_step(struct create_job *x)
{
	x->bytes_done = MIN(x->bytes_done + VMSTATE_BLOCK_BYTES, x->bytes_total);
	return vm_work_step(x->j.vm, x->bytes_done, x->bytes_total) ? -ECANCELED : 0;
}

/* Write the blocks that vmsnap_job_block_next() returns. blocks: their number, at most; for the progress. */
static int blocks_write(struct create_job *x, struct disk_store *st, uint64_t blocks)
{
	uint64_t block;
	int r, r2;

	x->bytes_total = x->bytes_done + blocks * VMSTATE_BLOCK_BYTES;
	while ((r = vmsnap_job_block_next(&x->j, x->way, &x->save, &block, run_end(x))) > 0) {
		if (x->holes.nbits)
			bitmap_clear(&x->holes, block);
		r = block_add(x, st, block);
		if (!r)
			r = block_step(x);
		if (r < 0)
			break;
	}
	if (!r)
		r = run_flush(x, st);
	r2 = runs_wait(x);
	return r < 0 ? r : r2;
}

static int standing_step(void *opaque, uint64_t done, uint64_t total)
{
	struct create_job *x = opaque;

	return vm_work_step(x->j.vm, done, total);
}

static int state_write_standing(struct create_job *x, struct vmstate_store *s,
	struct vmstate_source *src)
{
	struct vmstate_progress p = { .step = standing_step, .opaque = x };
	struct vmstate_result result = { 0 };
	int r;

	src->ram = x->j.m->mem.host;
	src->ram_bytes = x->j.m->mem.bytes;
	src->ram_fd = x->j.m->mem.fd;
	src->view = memory_view(&x->j.m->mem);
	r = vmstate_write(s, &x->h, src, &p, &result, &x->j.e);
	x->j.result.ram_bytes_written = result.ram_bytes_written;
	return r;
}

/* Prefix the error with the disk into which the state could not be written. Returns r. */
static int state_write_failed(struct create_job *x, int r)
{
	if (r < 0 && r != -ECANCELED)
		err_prefix(&x->j.e, "%s", x->first->id);
	return r;
}

/* The tracker leaves out blocks that the guest has given back since the base: they are zeros now. The checksum says so;
 * nothing reads the base's data in their place. */
static void holes_note(struct create_job *x)
{
	const struct vmstate_layout *l = &x->h.layout;

	for (uint64_t b = bitmap_next_set(&x->holes, 0); b < x->holes.nbits; b = bitmap_next_set(&x->holes, b + 1))
		x->crcs[b] = vmstate_zero_crc(l, b);
}

static int state_write(struct create_job *x)
{
	struct vmstate_source src = { .sections = x->sections.buf, .sections_bytes = x->sections.len,
		.ram_fd = -1 };
	struct disk_store st;
	int r;

	disk_store_init(&st, x->first, x->on_disk[x->first - x->j.m->disks], NULL);
	memcpy(x->h.uuid, x->j.m->cfg.uuid, sizeof(x->h.uuid));
	if (x->way == RAM_PAUSED)
		return state_write_failed(x, state_write_standing(x, &st.store, &src));
	r = x->way == RAM_FAULTS ? share_parent(x) : 0;
	if (r < 0)
		return r;
	if (x->incremental)
		x->j.result.ram_bytes_shared = (x->h.layout.blocks - bitmap_count(&x->wanted)) * VMSTATE_BLOCK_BYTES;
	if (x->incremental && x->way == RAM_FAULTS && bitmap_init(&x->holes, x->h.layout.blocks) < 0)
		return err_set_errno(&x->j.e, -ENOMEM, "snapshot");
	if (x->holes.nbits)
		bitmap_copy(&x->holes, &x->wanted);
	r = ram_write_failed(x, blocks_write(x, &st, bitmap_count(x->way == RAM_LOG ? &x->save.todo : &x->wanted)));
	if (!r)
		holes_note(x);
	return r < 0 ? r : state_write_failed(x, vmstate_write_rest(&st.store, &x->h, &src, x->crcs, &x->j.e));
}

static void disks_abort(struct create_job *x)
{
	struct err e = { 0 };

	for (unsigned i = 0; i < x->j.m->ndisks; i++)
		if (x->on_disk[i] &&
			disk_snapshot_abort(&x->j.m->disks[i], STEAL_PTR(x->on_disk[i]), &e) < 0)
			log_warn(x->j.m->disks[i].id, "cannot abort a snapshot: %s", e.msg);
}

static int set_new(struct create_job *x, struct tree_set *set)
{
	const struct machine *m = x->j.m;

	memcpy(set->vm, m->cfg.uuid, sizeof(set->vm));
	for (unsigned i = 0; i < m->ndisks; i++)
		set->disks += x->on_disk[i] != NULL;
	if (getrandom(set->id, sizeof(set->id), 0) == sizeof(set->id))
		return 0;
	return err_set_errno(&x->j.e, -errno, "getrandom");
}

static int info_fill(struct create_job *x, struct tree_data *d, struct block_snapshot_info *info)
{
	uint64_t now = clock_realtime_ns();
	struct tree t;
	int r = vmsnap_tree(x->first, &t, &x->j.e);

	if (r < 0)
		return r;
	d->state = !x->with_ram ? TREE_SHUTOFF : x->was_running ? TREE_RUNNING : TREE_PAUSED;
	d->disks_only = !x->with_ram && !x->j.m->cfg.images_only;
	d->parent = tree_current(&t) ? tree_id(tree_current(&t)) : 0;
	d->serial = tree_next_serial(&t);
	tree_done(&t);
	memcpy(d->description, x->c.description, sizeof(d->description));
	memcpy(d->tags, x->c.tags, sizeof(d->tags));
	memcpy(info->name, x->c.name, sizeof(info->name));
	info->sec = (uint32_t)(now / 1000000000ULL);
	info->nsec = (uint32_t)(now % 1000000000ULL);
	info->vm_clock_ns = x->h.vm_clock_ns;
	return set_new(x, &d->set);
}

static int parts_commit(struct create_job *x, const struct block_snapshot_info *info)
{
	struct machine *m = x->j.m;
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && !r; i++)
		if (x->on_disk[i] && &m->disks[i] != x->first)
			r = disk_snapshot_commit(&m->disks[i], STEAL_PTR(x->on_disk[i]), info, NULL, &x->j.e);
	return r;
}

/* Commit the first disk last: its entry makes the snapshot exist. Until then the entries on other
 * disks are marked as unfinished, and recovery rolls them back after a crash or an error. */
static int disks_commit(struct create_job *x)
{
	struct block_snapshot_info info = { 0 };
	unsigned first = (unsigned)(x->first - x->j.m->disks);
	struct tree_node n = { .ours = true };
	struct err e = { 0 };
	int r = info_fill(x, &n.data, &info);

	if (r < 0)
		return r;
	n.data.set.mark = TREE_MAKING;
	tree_encode(&n.data, &info);
	r = parts_commit(x, &info);
	n.data.set.mark = TREE_WHOLE;
	tree_encode(&n.data, &info);
	info.vm_state_bytes = x->with_ram ? x->h.layout.total_bytes : 0;
	if (!r)
		r = disk_snapshot_commit(x->first, STEAL_PTR(x->on_disk[first]), &info, x->j.result.id,
			&x->j.e);
	if (r < 0) {
		disks_abort(x);
		if (vmsnap_recover(x->j.m, false, NULL, NULL, &e) < 0)
			log_warn(NULL, "cannot roll back snapshot '%s': %s; the next start does so", x->c.name, e.msg);
		return r;
	}
	n.info = info;
	if (vmsnap_parts(x->j.m, x->first, &n, vmsnap_part_complete, &n, &e) < 0)
		log_warn(NULL, "snapshot '%s' is complete, but could not be marked as such: %s", x->c.name, e.msg);
	return 0;
}

/* The tracker has all writes since the snapshot, so the log that began with a handover is not needed any more. */
static void dirty_log_end(struct machine *m)
{
	struct err e;

	if (dirty_log_stop(&m->dirty_log, &e) < 0)
		log_warn(NULL, "cannot turn KVM's dirty log off: %s", e.msg);
}

static void write_run(struct work *w)
{
	struct create_job *x = container_of(w, struct create_job, j.work);
	struct vmsnap_job *j = &x->j;

	if (!j->r && x->with_ram)
		j->r = state_write(x);
	if (!j->r)
		j->r = disks_commit(x);
	if (x->way == RAM_FAULTS && j->m->tracker)
		fault_tracker_save_end(j->m->tracker); /* in every case, so that blocked writers continue */
	if (x->way == RAM_FAULTS && !j->m->base_id[0])
		dirty_log_end(j->m); /* until ram_freeze() gives the base up, the log belongs to it */
	if (j->r < 0)
		disks_abort(x);
	j->result.total_ns = loop_now_ns() - x->started_ns;
}

/* ---- completion: on the main thread ---- */

static void write_done(struct work *w)
{
	struct create_job *x = container_of(w, struct create_job, j.work);
	struct vmsnap_job *j = &x->j;

	vmsnap_job_resume_vm(j); /* does nothing unless the VM is still paused */
	if (!j->r) {
		if (x->with_ram && (x->way == RAM_FAULTS || (x->way == RAM_LOG && dirty_log_stays(&j->m->dirty_log))))
			memcpy(j->m->base_id, j->result.id, sizeof(j->m->base_id));
		log_info(NULL, "snapshot '%s' taken: pause %llu us, %llu KiB of memory written, %llu KiB shared",
			x->c.name, (unsigned long long)j->result.pause_ns / 1000,
			(unsigned long long)j->result.ram_bytes_written / 1024,
			(unsigned long long)j->result.ram_bytes_shared / 1024);
	}
	agent_thaw(j->m->agent); /* does nothing unless an earlier stage failed */
	if (!j->r && x->c.halt)
		vm_end(j->vm, VM_REASON_USER, 0, NULL);
	vmsnap_job_finish(j);
	state_writer_done(&x->sections);
	ram_save_done(&x->save);
	bitmap_done(&x->wanted);
	bitmap_done(&x->holes);
	free(x->crcs);
	for (unsigned i = 0; i < ARRAY_SIZE(x->run); i++)
		free(x->run[i].buf);
	free(x);
}

static void left_out_list(struct create_job *x)
{
	char *p = x->j.result.left_out;
	size_t cap = sizeof(x->j.result.left_out), at = 0;

	for (unsigned i = 0; i < x->j.m->ndisks; i++)
		if (!vmsnap_disk_takes_part(x->j.m, i) && at < cap)
			at += (size_t)snprintf(p + at, cap - at, "%s%s", at ? "," : "", x->j.m->cfg.disks[i].id);
}

int vm_snapshot_create(struct vm *vm, struct worker *w, const struct vm_snapshot_create *c,
	vm_snapshot_done_fn *done, void *opaque, struct err *e)
{
	struct machine *m = vm_machine(vm);
	int r = disks_check(m, e);
	struct create_job *x;

	if (!r)
		r = quiesce_check(vm, c, e);
	if (!r)
		r = vm_check_keepable(vm, e);
	x = r < 0 ? NULL : vmsnap_job_new(sizeof(*x), vm, w, "snapshot", e);
	if (!x)
		return r < 0 ? r : -EBUSY;
	x->j.done = done;
	x->j.opaque = opaque;
	x->c = *c;
	x->hold.over = hold_over;
	x->c.name[VM_SNAPSHOT_NAME_MAX] = x->c.description[VM_SNAPSHOT_TEXT_MAX] =
		x->c.tags[VM_SNAPSHOT_TAGS_MAX] = 0;
	x->first = vmsnap_first_disk(m, NULL);
	x->with_ram = !c->disks_only && !m->cfg.images_only;
	if (x->with_ram) {
		x->way = ram_way(m);
		vmsnap_job_tell_tracking(&x->j, x->way);
	}
	left_out_list(x);
	vm_work_set_live(vm, false); /* the guest runs while memory is write-protected or copied in rounds */
	vmsnap_job_stage(&x->j, prepare_run, guest_quiesce);
	return 0;
}
