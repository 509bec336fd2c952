/* Lists, renames and deletes snapshots. Has the helpers that all snapshot jobs share. */
#include "vmm/snapshot/vm_snapshot.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/short_slice.h"
#include "base/util.h"
#include "block/block.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/ram_reader.h"
#include "vmm/machine/machine_disk.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool vmsnap_disk_takes_part(const struct machine *m, unsigned i)
{
	return !m->cfg.disks[i].read_only;
}

struct machine_disk *vmsnap_first_disk(struct machine *m, struct err *e)
{
	struct machine_disk *d = machine_snapshot_disk(m);

	if (!d)
		err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"snapshots need a writable qcow2 disk, and this VM has none; convert one with "
			"`cairn-img convert -O qcow2`");
	return d;
}

int vmsnap_tree(struct machine_disk *d, struct tree *ret, struct err *e)
{
	CLEANUP_FREE struct block_snapshot_info *list = NULL;
	size_t n = 0;
	int r = disk_snapshot_list(d, &list, &n, e);

	if (r < 0)
		return r;
	r = tree_build(list, n, ret);
	return r < 0 ? err_set_errno(e, r, "snapshots") : 0;
}

int vmsnap_open(struct machine *m, struct machine_disk **ret_d, struct tree *ret_t, struct err *e)
{
	*ret_d = vmsnap_first_disk(m, e);
	return *ret_d ? vmsnap_tree(*ret_d, ret_t, e) : -ENOTSUP;
}

int vmsnap_find(const struct tree *t, const char *name, struct tree_node **ret, struct err *e)
{
	struct tree_node *n = *name ? tree_find(t, name) : tree_current(t);

	if (!n)
		return err_set(e, -ENOENT, ERR_NOT_FOUND,
			*name ? "there is no snapshot '%s'; see cairn snapshot-list" : "there is no current snapshot%s",
			name);
	*ret = n;
	return 0;
}

/* ---- helpers of snapshot jobs ---- */

/* Allocate a job whose work has begun; ends the work on failure. */
static void *job_alloc(size_t bytes, struct vm *vm, struct worker *w, const char *what, struct err *e)
{
	struct vmsnap_job *j = calloc(1, bytes);

	if (!j) {
		vm_work_end(vm);
		err_set_errno(e, -ENOMEM, "%s", what);
		return NULL;
	}
	j->vm = vm;
	j->m = vm_machine(vm);
	j->worker = w;
	return j;
}

void *vmsnap_job_new(size_t bytes, struct vm *vm, struct worker *w, const char *what, struct err *e)
{
	return vm_work_begin(vm, what, e) < 0 ? NULL : job_alloc(bytes, vm, w, what, e);
}

void *vmsnap_job_new_crashed(size_t bytes, struct vm *vm, struct worker *w, const char *what, struct err *e)
{
	return vm_work_begin_crashed(vm, what, e) < 0 ? NULL : job_alloc(bytes, vm, w, what, e);
}

void *vmsnap_job_new_on_copy(size_t bytes, struct vm *vm, struct worker *w, const char *what, struct err *e)
{
	return vm_work_begin_on_copy(vm, what, e) < 0 ? NULL : job_alloc(bytes, vm, w, what, e);
}

void vmsnap_job_stage(struct vmsnap_job *j, void (*run)(struct work *w), void (*done)(struct work *w))
{
	j->work.run = run;
	j->work.done = done;
	worker_submit(j->worker, j->m->host.loop, &j->work);
}

int vmsnap_job_hold_memory(struct vmsnap_job *j)
{
	struct fault_tracker *t = j->m->tracker;
	struct bitmap all;
	int r = bitmap_init(&all, (j->m->mem.bytes + VMSTATE_BLOCK_BYTES - 1) / VMSTATE_BLOCK_BYTES);

	if (r < 0)
		return err_set_errno(&j->e, r, "memory");
	bitmap_set_all(&all);
	r = fault_tracker_hold(t, &j->e);
	if (!r)
		fault_tracker_save_begin(t, &all);
	bitmap_done(&all);
	return r;
}

int vmsnap_job_block_next(struct vmsnap_job *j, enum ram_way way, struct ram_save *s, uint64_t *ret_block, uint8_t *buf)
{
	return way == RAM_LOG ? ram_save_next(s, ret_block, buf)
		: fault_tracker_save_next(j->m->tracker, ret_block, buf);
}

void vmsnap_job_tell_rounds(struct vmsnap_job *j, const struct ram_save *s)
{
	j->result.memory_rounds = (uint8_t)s->rounds;
	j->result.memory_throttle = (uint8_t)s->throttle;
	j->result.memory_stopped = s->stays_paused;
}

void vmsnap_job_tell_tracking(struct vmsnap_job *j, enum ram_way way)
{
	struct vm_snapshot_done *d = &j->result;
	char reason[UFFD_REASON_MAX] = "";

	d->memory_tracking = way == RAM_FAULTS ? VM_TRACKING_USERFAULTFD : VM_TRACKING_NONE;
	if (j->m->cfg.huge_pages) {
		d->memory_tracking = VM_TRACKING_HUGE_PAGES;
		snprintf(reason, sizeof(reason), "memory in huge pages can be tracked only by KVM's dirty log");
	} else if (way == RAM_PAUSED && j->m->uffd.can_protect) {
		snprintf(reason, sizeof(reason), "this kernel cannot write-protect memory that a clone shares");
	} else if (way != RAM_FAULTS) {
		d->memory_tracking = way == RAM_LOG ? VM_TRACKING_DIRTY_LOG : VM_TRACKING_UNAVAILABLE;
		uffd_reason(&j->m->uffd, reason);
	}
	snprintf(d->memory_tracking_reason, sizeof(d->memory_tracking_reason), "%s", reason);
}

void vmsnap_job_stop_vm(struct vmsnap_job *j)
{
	j->stopped_ns = loop_now_ns();
	j->stopped = !j->r && vm_phase(j->vm) == VM_PHASE_RUNNING;
	if (!j->stopped)
		return;
	short_slice_set(true); /* the guest waits for this thread until the VM is resumed */
	vcpus_stop(&j->m->vcpus);
	j->result.instant_ns = loop_now_ns();
	vmsnap_sleep_until(j->stand_until_ns);
	machine_hold(j->m);
}

void vmsnap_job_resume_vm(struct vmsnap_job *j)
{
	if (!j->stopped)
		return;
	j->stopped = false;
	if (vm_phase(j->vm) == VM_PHASE_RUNNING)
		vm_vcpus_resume(j->vm);
	j->result.pause_ns = loop_now_ns() - j->stopped_ns;
	short_slice_set(false);
}

void vmsnap_job_finish(struct vmsnap_job *j)
{
	j->result.error = j->r;
	if (j->r < 0) {
		j->result.cls = j->e.cls;
		snprintf(j->result.msg, sizeof(j->result.msg), "%s", j->e.msg);
	}
	vm_work_end(j->vm);
	j->done(j->opaque, &j->result);
}

/* ---- listing snapshots ---- */

void vmsnap_info(const struct tree_node *n, bool current, struct vm_snapshot_info *i)
{
	memset(i, 0, sizeof(*i));
	memcpy(i->id, n->info.id, sizeof(i->id));
	if (n->data.parent)
		snprintf(i->parent, sizeof(i->parent), "%llu", (unsigned long long)n->data.parent);
	memcpy(i->name, n->info.name, sizeof(i->name));
	memcpy(i->description, n->data.description, sizeof(i->description));
	memcpy(i->tags, n->data.tags, sizeof(i->tags));
	i->realtime_ns = n->info.sec * 1000000000ULL + n->info.nsec;
	i->vm_clock_ns = n->info.vm_clock_ns;
	i->vm_state_bytes = n->info.vm_state_bytes;
	i->disk_bytes = n->info.disk_bytes;
	i->own_bytes = UINT64_MAX;
	i->state = n->data.state;
	i->disks_only = n->data.disks_only;
	i->current = current;
}

struct page {
	const struct tree_node *nodes[VM_SNAPSHOTS_PER_MESSAGE];
	unsigned parts[VM_SNAPSHOTS_PER_MESSAGE];
};

static int parts_count(struct machine *m, const struct machine_disk *first, struct page *p, unsigned n,
	struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && n && !r; i++) {
		struct tree t;

		if (&m->disks[i] == first || !vmsnap_disk_has_parts(m, i))
			continue;
		r = vmsnap_tree(&m->disks[i], &t, e);
		if (r < 0)
			return r;
		for (unsigned k = 0; k < n; k++)
			p->parts[k] += tree_find_part(&t, p->nodes[k]) != NULL;
		tree_done(&t);
	}
	return r;
}

static void missing_count(const struct machine *m, const struct page *p, struct vm_snapshots *ret)
{
	unsigned now = 0;

	for (unsigned i = 0; i < m->ndisks; i++)
		now += vmsnap_disk_takes_part(m, i);
	for (unsigned k = 0; k < ret->n; k++) {
		/* A snapshot of another program does not say how many disks it has. */
		unsigned then = p->nodes[k]->data.set.disks, want = then ? then : now, have = p->parts[k] + 1;

		ret->list[k].disks_missing = (uint8_t)(want - MIN(want, have));
		ret->list[k].disks_added = (uint8_t)(now - MIN(now, want));
	}
}

int vm_snapshot_list(struct vm *vm, uint32_t from, struct vm_snapshots *ret, struct err *e)
{
	struct machine_disk *d;
	struct page page = { 0 };
	struct tree t;
	int r;

	memset(ret, 0, sizeof(*ret));
	ret->from = from;
	if (!machine_snapshot_disk(vm_machine(vm)))
		return 0; /* so there is none */
	r = vmsnap_open(vm_machine(vm), &d, &t, e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < t.n; i++) {
		if (tree_is_hidden(&t.nodes[i]))
			continue;
		if (ret->total++ < from || ret->n == VM_SNAPSHOTS_PER_MESSAGE)
			continue;
		page.nodes[ret->n] = &t.nodes[i];
		vmsnap_info(&t.nodes[i], &t.nodes[i] == tree_current(&t), &ret->list[ret->n++]);
	}
	r = parts_count(vm_machine(vm), d, &page, ret->n, e);
	if (!r)
		missing_count(vm_machine(vm), &page, ret);
	tree_done(&t);
	return r;
}

/* ---- changing name, description and tags ---- */

static int set_apply(const struct tree *t, struct tree_node *n, const struct vm_snapshot_set *s,
	struct err *e)
{
	struct tree_node *other = s->new_name[0] ? tree_find(t, s->new_name) : NULL;

	if (s->new_name[0]) {
		int r = tree_name_check(s->new_name, e);

		if (r < 0)
			return r;
		if (other && other != n)
			return err_set(e, -EEXIST, ERR_EXISTS, "there is a snapshot '%s' already", s->new_name);
		memcpy(n->info.name, s->new_name, sizeof(n->info.name));
	}
	if (s->set_description)
		memcpy(n->data.description, s->description, sizeof(n->data.description));
	if (s->set_tags)
		memcpy(n->data.tags, s->tags, sizeof(n->data.tags));
	tree_encode(&n->data, &n->info);
	return 0;
}

/* Write the changes of a snapshot to the disks. Of these changes, the other disks' parts get only the name. Update the
 * first disk last: until then the old name is valid, also for recovery of the parts after a crash. */
static int set_on_disks(struct machine *m, struct machine_disk *first, const struct tree_node *old,
	struct tree_node *n, struct err *e)
{
	int r = strcmp(old->info.name, n->info.name) ?
		vmsnap_parts(m, first, old, vmsnap_part_complete, n, e) : 0;

	return r < 0 ? r : disk_snapshot_update(first, &n->info, e);
}

struct set_job {
	struct work work;
	struct machine *m;
	struct vm_snapshot_set set;
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
	int r;
	struct err e;
};

static int snapshot_set(struct machine *m, const struct vm_snapshot_set *s, struct err *e)
{
	struct machine_disk *d;
	struct tree_node *n, old;
	struct tree t;
	int r = vmsnap_open(m, &d, &t, e);

	if (r < 0)
		return r;
	r = vmsnap_find(&t, s->name, &n, e);
	if (!r) {
		old = *n;
		r = set_apply(&t, n, s, e);
	}
	if (!r)
		r = set_on_disks(m, d, &old, n, e);
	tree_done(&t);
	return r;
}

static void set_run(struct work *w)
{
	struct set_job *x = container_of(w, struct set_job, work);

	x->r = snapshot_set(x->m, &x->set, &x->e);
	x->m->worker_readers--;
}

static void set_done(struct work *w)
{
	struct set_job *x = container_of(w, struct set_job, work);

	x->done(x->opaque, x->r, &x->e);
	free(x);
}

int vm_snapshot_set(struct vm *vm, struct worker *w, const struct vm_snapshot_set *s,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e)
{
	struct set_job *x = calloc(1, sizeof(*x));

	if (!x)
		return err_set_errno(e, -ENOMEM, "snapshot");
	*x = (struct set_job){ .work = { .run = set_run, .done = set_done }, .m = vm_machine(vm), .set = *s, .done = done,
		.opaque = opaque };
	x->m->worker_readers++;
	worker_submit(w, x->m->host.loop, &x->work);
	return 0;
}

/* ---- deleting a snapshot ---- */

struct delete_job {
	struct vmsnap_job j;
	char name[VM_SNAPSHOT_NAME_MAX + 1];
};

static int delete_everywhere(struct delete_job *x, struct machine_disk *first, struct err *e)
{
	struct machine *m = x->j.m;
	struct tree_node *n;
	struct tree t;
	int r = vmsnap_recover(m, false, NULL, NULL, e);

	if (!r)
		r = vmsnap_tree(first, &t, e);
	if (r < 0)
		return r;
	r = vmsnap_find(&t, x->name, &n, e);
	if (!r && tree_has_tag(&n->data, "keep"))
		r = err_set(e, -EPERM, ERR_WRONG_STATE,
			"snapshot '%s' is tagged 'keep'; remove the tag first with cairn snapshot-tag", n->info.name);
	if (!r)
		r = vmsnap_delete(m, first, &t, n, e);
	tree_done(&t);
	return r;
}

static void delete_run(struct work *w)
{
	struct delete_job *x = container_of(w, struct delete_job, j.work);
	struct vmsnap_job *j = &x->j;
	struct machine_disk *first = vmsnap_first_disk(j->m, &j->e);

	/* Wait for the RAM reader, which may still read memory from the snapshot to be deleted. */
	(void)ram_wait(j->m, &j->e);
	j->r = first ? delete_everywhere(x, first, &j->e) : -ENOTSUP;
}

static void delete_done(struct work *w)
{
	struct delete_job *x = container_of(w, struct delete_job, j.work);

	vmsnap_job_finish(&x->j);
	free(x);
}

int vm_snapshot_delete(struct vm *vm, struct worker *w, const char *name, vm_snapshot_done_fn *done,
	void *opaque, struct err *e)
{
	struct delete_job *x = vmsnap_job_new(sizeof(*x), vm, w, "snapshot-delete", e);

	if (!x)
		return -EBUSY;
	vm_work_set_live(vm, false);
	x->j.done = done;
	x->j.opaque = opaque;
	snprintf(x->name, sizeof(x->name), "%s", name);
	vmsnap_job_stage(&x->j, delete_run, delete_done);
	return 0;
}
