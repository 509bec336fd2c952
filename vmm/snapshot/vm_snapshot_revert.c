/* Reverts to a snapshot. Stages: check_run() on the worker's thread reads and checks the snapshot; revert_run() on the
 * main thread pauses the VM and reverts disks, devices, memory and vCPUs. With userfaultfd, memory is loaded on
 * demand. */
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/ram_reader.h"
#include "vmm/machine/disk_apply.h"
#include "vmm/machine/machine_dirty_rate.h"
#include "vmm/machine/machine_disk.h"
#include "vmm/machine/machine_restore.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/ram_load.h"
#include "vmm/machine/ram_revert.h"
#include "vmm/snapshot/map_store.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct revert_job {
	struct vmsnap_job j;
	struct vm_snapshot_revert v;
	struct machine_disk *first;
	struct tree tree;
	struct tree_node *node;
	char id[VM_DISKS_MAX][BLOCK_SNAPSHOT_ID_MAX + 1]; /* id of the snapshot on each disk */
	struct machine_disk *prepared[VM_DISKS_MAX]; /* the disks whose content changes next; the first disk is the last */
	unsigned nprepared;
	bool with_ram;
	struct vmstate_header h;
	uint8_t *sections;
	struct map_store *store; /* owned; NULL once machine.paged_from has it */
	/* Memory is tracked since a snapshot that still exists: replace only blocks that differ. */
	bool rewinds;
	struct bitmap changed;	 /* blocks that differ between that snapshot and the one to revert to */
	bool by_log;		 /* the dirty log tracks memory */
	struct ram_revert ram;	 /* used with by_log */
	struct machine_absent absent; /* devices that were attached after the snapshot */
	uint64_t started_ns, paused_ns;
};

/* ---- reading and checking the snapshot: on the worker's thread; the VM is not changed ---- */

/* Mark the blocks of RAM that overlap the clusters [first, end). */
static void changed_set(struct revert_job *x, uint64_t first, uint64_t end)
{
	const struct vmstate_layout *l = &x->h.layout;
	uint64_t size = x->store->map.cluster_bytes;
	uint64_t from = MAX(first * size, l->ram_offset) - l->ram_offset;
	uint64_t to = MIN(end * size, l->ram_offset + l->ram_bytes) - l->ram_offset;

	for (uint64_t b = from / VMSTATE_BLOCK_BYTES; b < DIV_ROUND_UP(to, VMSTATE_BLOCK_BYTES); b++)
		bitmap_set(&x->changed, b);
}

/* Find the blocks whose checksums differ. A block that the guest has given back shares its parent's cluster,
 * although it is zeros: only its checksum says so. */
static int checksums_compare(struct revert_job *x, struct map_store *base)
{
	CLEANUP_FREE uint32_t *ours = NULL, *theirs = NULL;
	struct vmstate_header h;
	int r = vmstate_read_header(&base->store, &h, &x->j.e);

	if (!r && h.layout.blocks != x->h.layout.blocks)
		return err_set(&x->j.e, -EINVAL, ERR_CORRUPT, "snapshot %s: its memory has an unexpected size", x->j.m->base_id);
	if (!r)
		r = vmstate_read_crcs(&base->store, &h, &theirs, &x->j.e);
	if (!r)
		r = vmstate_read_crcs(&x->store->store, &x->h, &ours, &x->j.e);
	for (uint64_t b = 0; b < x->h.layout.blocks && !r; b++)
		if (ours[b] != theirs[b])
			bitmap_set(&x->changed, b);
	return r;
}

/* Find the blocks that differ. Clusters that both snapshots share have the same content, but for the blocks above. */
static void changed_find(struct revert_job *x, const struct block_vmstate_map *base)
{
	const struct vmstate_layout *l = &x->h.layout;
	const struct block_vmstate_map *map = &x->store->map;
	uint64_t c = l->ram_offset / map->cluster_bytes, n;
	uint64_t end = DIV_ROUND_UP(l->ram_offset + l->ram_bytes, (uint64_t)map->cluster_bytes);
	uint64_t both = MIN(end, MIN(map->n, base->n));

	for (; c < both; c += n) {
		uint64_t more, host = block_vmstate_map_host(map, c, &n);
		bool same = host == block_vmstate_map_host(base, c, &more);

		n = MIN(MIN(n, more), both - c);
		if (!same)
			changed_set(x, c, c + n);
	}
	if (c < end)
		changed_set(x, c, end);
}

static int base_compare(struct revert_job *x)
{
	struct map_store *base = NULL;
	int r = bitmap_init(&x->changed, x->h.layout.blocks);

	if (r < 0)
		return err_set_errno(&x->j.e, r, "snapshot");
	if (!strcmp(x->j.m->base_id, x->node->info.id))
		return 0;
	r = map_store_new(x->first, x->j.m->base_id, &base, &x->j.e);
	if (!r)
		r = checksums_compare(x, base);
	if (!r)
		changed_find(x, &base->map);
	free(base);
	return r;
}

/* Return whether memory can be rewound. A clone's private view cannot: the kernel would fill dropped pages from the
 * base file. */
static bool memory_can_rewind(struct machine *m)
{
	struct ram_reader_stats s = { 0 };

	if (m->ram_reader)
		ram_reader_stats(m->ram_reader, &s);
	return m->tracker && !s.failed && !memory_view(&m->mem);
}

/* Check whether memory is tracked since a snapshot that still exists. */
static int base_find(struct revert_job *x)
{
	x->rewinds = tree_find_id(&x->tree, strtoull(x->j.m->base_id, NULL, 10));
	return x->rewinds ? base_compare(x) : 0;
}

static int verify_ram(struct revert_job *x)
{
	struct vmstate_store *s = &x->store->store;
	CLEANUP_FREE uint32_t *crcs = NULL;
	uint8_t *buf = NULL;
	int r = posix_memalign((void **)&buf, 4096, VMSTATE_BLOCK_BYTES) ? -ENOMEM : 0;

	if (!r)
		r = vmstate_read_crcs(s, &x->h, &crcs, &x->j.e);
	for (uint64_t b = 0; b < x->h.layout.blocks && !r; b++)
		if (!vmstate_block_is_zero(&x->h.layout, crcs, b))
			r = vmstate_read_blocks(s, &x->h, crcs, b, 1, buf, &x->j.e);
	free(buf);
	return r;
}

static int state_check(struct revert_job *x)
{
	struct machine *m = x->j.m;
	struct vmstate_store *s = NULL;
	struct err *e = &x->j.e;
	int r = map_store_new(x->first, x->node->info.id, &x->store, e);

	if (!r) {
		s = &x->store->store;
		r = vmstate_read_header(s, &x->h, e);
	}
	if (!r && !machine_has_uuid(m, x->h.uuid))
		r = err_set(e, -EINVAL, ERR_INVALID, "the snapshot's state belongs to another VM; revert with --disks-only");
	if (!r && x->h.layout.ram_bytes != m->mem.bytes)
		r = err_set(e, -EINVAL, ERR_INVALID,
			"the snapshot was taken with %llu MiB of memory; this VM has %llu MiB; change that while the VM is off, with cairn setmaxmem, "
			"or revert with --disks-only",
			(unsigned long long)(x->h.layout.ram_bytes / MIB),
			(unsigned long long)(m->mem.bytes / MIB));
	if (!r && x->h.layout.total_bytes > x->store->map.n * x->store->map.cluster_bytes)
		r = err_set(e, -EINVAL, ERR_CORRUPT, "the snapshot's state is truncated");
	if (!r)
		r = vmstate_read_sections(s, &x->h, &x->sections, e);
	if (!r)
		r = machine_state_check_lacking(m, x->sections, x->h.sections_bytes, &x->absent, e);
	if (!r && x->v.verify)
		r = verify_ram(x);
	if (!r)
		r = base_find(x);
	/* If the guest has never run, skip the check: a damaged state then costs only the start. */
	if (!r && x->by_log && !x->v.look_only)
		r = ram_revert_prepare(&x->ram, m, s, &x->h, x->rewinds ? &x->changed : NULL,
			x->rewinds || machine_clock_ns(m) > 0, e);
	return r < 0 ? (err_prefix(e, "snapshot '%s'", x->node->info.name), r) : 0;
}

static void check_run(struct work *w)
{
	struct revert_job *x = container_of(w, struct revert_job, j.work);
	struct vmsnap_job *j = &x->j;
	struct err e;

	x->started_ns = loop_now_ns();
	j->r = vmsnap_recover(j->m, j->m->cfg.images_only, NULL, NULL, &j->e);
	if (!j->r)
		j->r = vmsnap_tree(x->first, &x->tree, &j->e);
	if (!j->r)
		j->r = vmsnap_find(&x->tree, x->v.name, &x->node, &j->e);
	if (j->r < 0)
		return;
	x->with_ram = x->node->info.vm_state_bytes && !x->v.disks_only && !j->m->cfg.images_only;
	/* The revert detaches the disks that were attached after the snapshot; only the state tells which they are. If
	 * the state cannot be used, look for a part of the snapshot on every disk: its lack is the better error. */
	if (x->with_ram)
		j->r = state_check(x);
	e = j->e;
	if (vmsnap_ids(j->m, x->first, x->node, x->v.disk, j->r ? NULL : x->absent.disks, x->id, &j->e) < 0)
		j->r = -ENOENT;
	else if (j->r < 0)
		j->e = e;
	/* An earlier revert may still free clusters. Wait for that here, and not while the guest stands still. */
	for (unsigned i = 0; i < j->m->ndisks && !j->r; i++)
		if (x->id[i][0])
			disk_apply_wait(&j->m->disks[i]);
}

/* ---- loading the snapshot: on the main thread ---- */

/* Revert only one disk; the other disks keep their content. */
static int disk_apply(struct revert_job *x)
{
	struct machine *m = x->j.m;

	for (unsigned i = 0; i < m->ndisks; i++)
		if (x->id[i][0])
			return disk_snapshot_apply(&m->disks[i], x->id[i], &x->j.e);
	return 0;
}

/* Returns whether every disk is as before disks_apply(). */
static bool disks_are_unchanged(const struct machine *m)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		if (m->disks[i].changed)
			return false;
	return true;
}

static int disk_prepare(struct revert_job *x, struct machine_disk *d, const char *id,
	const struct block_snapshot_info *info)
{
	int r = disk_apply_begin(d, id, info, &x->j.e);

	if (!r)
		x->prepared[x->nprepared++] = d;
	return r;
}

static int other_disks_prepare(struct revert_job *x)
{
	struct machine *m = x->j.m;
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && !r; i++)
		if (x->id[i][0] && &m->disks[i] != x->first)
			r = disk_prepare(x, &m->disks[i], x->id[i], NULL);
	return r;
}

/* Change the content of all prepared disks; r < 0, or after an error: undo the preparation of those that are left. */
static int disks_switch(struct revert_job *x, int r)
{
	for (unsigned k = 0; k < x->nprepared; k++)
		if (r < 0)
			(void)disk_apply_end(x->prepared[k], false, NULL);
		else
			r = disk_apply_end(x->prepared[k], true, &x->j.e);
	x->nprepared = 0;
	return r;
}

/* All that needs space is written before the first disk changes, so that a full file system changes nothing. */
static int disks_apply(struct revert_job *x)
{
	struct machine *m = x->j.m;
	struct tree_data old = x->node->data;
	bool marked = false;
	int r;

	for (unsigned i = 0; i < m->ndisks; i++)
		m->disks[i].changed = false;
	if (x->v.disk[0])
		return disk_apply(x);
	r = other_disks_prepare(x);
	if (!r && x->nprepared && x->node->ours) {
		r = vmsnap_revert_mark(x->first, &x->tree, x->node, &x->j.e);
		marked = !r;
		if (marked)
			x->first->changed = false; /* the mark changes no content; vmsnap_revert_unmark() removes it */
	}
	if (!r)
		r = disk_prepare(x, x->first, x->node->info.id, vmsnap_revert_info(&x->tree, x->node));
	r = disks_switch(x, r);
	if (r < 0 && marked && disks_are_unchanged(m))
		x->first->changed = vmsnap_revert_unmark(x->first, x->node, &old) < 0;
	if (r < 0 && marked && !disks_are_unchanged(m))
		err_prefix(&x->j.e, "the revert is incomplete, and the VM's next start completes it");
	return r;
}

static int memory_rewind(struct revert_job *x)
{
	struct machine *m = x->j.m;
	struct vmstate_store *old = m->paged_from;
	int r = 0;

	/* In a process that took the VM over, the tracker lacks the blocks that were written before it was armed. */
	if (dirty_log_is_on(&m->dirty_log)) {
		r = dirty_log_collect(&m->dirty_log, NULL, &x->j.e);
		bitmap_or(&x->changed, &m->dirty_log.written);
	}
	if (r < 0)
		return r;
	m->paged_from = &x->store->store;
	r = ram_rewind(m, m->paged_from, &x->h, &x->changed, &x->j.e);
	if (r < 0) {
		m->paged_from = old;
		return r;
	}
	x->store = NULL;
	free(old);
	if (dirty_log_is_on(&m->dirty_log))
		dirty_log_reset(&m->dirty_log);
	return 0;
}

static int memory_replace(struct revert_job *x)
{
	struct machine *m = x->j.m;

	if (memory_view(&m->mem)) { /* Unmap a view before its tracker unprotects it page by page. */
		fault_tracker_stop(m->tracker);
		memory_clear(&m->mem);
	}
	machine_memory_release(m);
	memory_clear(&m->mem);
	machine_disks_close_warm(m);
	m->paged_from = &STEAL_PTR(x->store)->store;
	return ram_load(m, m->paged_from, &x->h, &x->j.e);
}

static int memory_revert_logged(struct revert_job *x)
{
	if (!x->rewinds)
		machine_memory_release(x->j.m);
	return ram_revert_apply(&x->ram, &x->j.e);
}

static int memory_revert(struct revert_job *x)
{
	int r;

	if (x->by_log)
		return memory_revert_logged(x);
	r = x->rewinds && memory_can_rewind(x->j.m) ? memory_rewind(x) : -EBUSY;
	return r == -EBUSY ? memory_replace(x) : r;
}

static int machine_revert(struct revert_job *x)
{
	struct machine *m = x->j.m;
	int r;

	machine_reset_devices(m);
	machine_dirty_rate_drop(m);
	r = vcpus_drain_async_pf(&m->vcpus, &x->j.e);
	if (!r)
		r = memory_revert(x);
	if (!r)
		r = memory_zap_shadow_pages(&m->mem, &m->kvm, &x->j.e);
	vmsnap_job_tell_tracking(&x->j, x->by_log ? RAM_LOG : m->uffd.fd >= 0 ? RAM_FAULTS : RAM_PAUSED);
	m->base_id[0] = 0;
	if (!r && (x->by_log ? dirty_log_stays(&m->dirty_log) : m->uffd.can_protect))
		memcpy(m->base_id, x->node->info.id, sizeof(m->base_id));
	if (!r && x->v.eager)
		r = ram_wait(m, &x->j.e);
	m->run_ns = x->h.vm_clock_ns;
	vm_unplug_absent(x->j.vm, &x->absent);
	x->first = vmsnap_first_disk(m, &x->j.e);
	if (!r)
		r = machine_load(m, x->sections, x->h.sections_bytes, &x->j.e);
	for (unsigned i = 0; i < m->nnics && !r; i++)
		nic_revert(&m->nics[i], x->h.realtime_ns);
	return r;
}

static bool runs_afterwards(const struct revert_job *x)
{
	return x->v.then ? x->v.then == 1 : x->node->data.state == TREE_RUNNING;
}

static void revert_free(struct revert_job *x)
{
	tree_done(&x->tree);
	free(x->sections);
	free(x->store);
	ram_revert_done(&x->ram);
	bitmap_done(&x->changed);
	free(x);
}

static int revert_run(struct revert_job *x)
{
	struct vmsnap_job *j = &x->j;
	bool was_running = vm_phase(j->vm) == VM_PHASE_RUNNING, ran = j->m->resumed_ns != 0;
	bool unchanged;
	int r;

	if (!x->with_ram && !x->v.disks_only && !j->m->cfg.images_only)
		return err_set(&j->e, -EINVAL, ERR_WRONG_STATE,
			"snapshot '%s' holds disks only; shut the VM off first, or revert with --disks-only, "
			"which stops the VM", x->node->info.name);
	x->paused_ns = loop_now_ns();
	if (was_running)
		machine_pause(j->m);
	r = x->with_ram && x->by_log ? ram_revert_update(&x->ram, &j->e) : 0;
	unchanged = r < 0;
	if (unchanged) {
		err_prefix(&j->e, "snapshot '%s'", x->node->info.name);
	} else {
		r = disks_apply(x);
		unchanged = r < 0 && disks_are_unchanged(j->m);
	}
	if (unchanged) {
		if (ran)
			vm_vcpus_resume(j->vm);
		return r;
	}
	vm_revert_begin(j->vm);
	if (!r && x->with_ram)
		r = machine_revert(x);
	else if (!r && !j->m->cfg.images_only)
		r = machine_reset(j->m, &j->e);
	if (r < 0) {
		/* Disks and machine may be inconsistent now, so the VM must not run. */
		vm_end(j->vm, VM_REASON_HOST_ERROR, 0, j->e.msg);
		return r;
	}
	j->result.pause_ns = loop_now_ns() - x->paused_ns;
	if (!j->m->cfg.images_only)
		vm_reverted(j->vm, x->with_ram ? runs_afterwards(x) : was_running);
	return 0;
}

static void check_done(struct work *w)
{
	struct revert_job *x = container_of(w, struct revert_job, j.work);
	struct vmsnap_job *j = &x->j;

	if (!j->r && !x->v.look_only && vm_phase(j->vm) == VM_PHASE_ENDED)
		j->r = err_set(&j->e, -ECANCELED, ERR_CANCELLED, "the VM ended meanwhile");
	if (!j->r && !x->v.look_only)
		j->r = revert_run(x);
	if (!j->r && !x->v.look_only) {
		memcpy(j->result.id, x->node->info.id, sizeof(j->result.id));
		j->result.total_ns = loop_now_ns() - x->started_ns;
		log_info(NULL, "reverted to snapshot '%s' in %llu us", x->node->info.name,
			(unsigned long long)j->result.total_ns / 1000);
	}
	vmsnap_job_finish(j);
	revert_free(x);
}

int vm_snapshot_revert(struct vm *vm, struct worker *w, const struct vm_snapshot_revert *v,
	vm_snapshot_done_fn *done, void *opaque, struct err *e)
{
	struct machine_disk *first = vmsnap_first_disk(vm_machine(vm), e);
	struct revert_job *x = first ? vmsnap_job_new(sizeof(*x), vm, w, "snapshot-revert", e) : NULL;

	if (!x)
		return first ? -EBUSY : -ENOTSUP;
	x->j.done = done;
	x->j.opaque = opaque;
	x->v = *v;
	x->v.name[VM_SNAPSHOT_NAME_MAX] = x->v.disk[sizeof(x->v.disk) - 1] = 0;
	x->first = first;
	x->by_log = x->j.m->uffd.fd < 0 && x->j.m->dirty_log.blocks;
	vmsnap_job_stage(&x->j, check_run, check_done);
	return 0;
}
