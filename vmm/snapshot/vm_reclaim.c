#include "vmm/snapshot/vm_reclaim.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/util.h"
#include "snapshot/fault_tracker.h"
#include "vmm/machine/ram_load.h"
#include "vmm/snapshot/map_store.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>

struct reclaim_job {
	struct vmsnap_job j;
};

static int no_snapshot(struct err *e)
{
	return err_set(e, -EPERM, ERR_WRONG_STATE, "no snapshot in the VM's image has its memory; take one, or revert to one, and "
		"reclaim then");
}

static int machine_check(struct machine *m, struct err *e)
{
	if (m->cfg.images_only)
		return err_set(e, -EPERM, ERR_WRONG_STATE, "the VM is off and has no memory");
	if (m->mem.huge_pages)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "memory in huge pages cannot be reclaimed; set \"hugepages\": false");
	if (!m->uffd.can_protect)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "reclaiming memory needs userfaultfd, which the VM's process does not have "
			"here; `cairn doctor` shows how to change that");
	if (memory_view(&m->mem))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VM is a live clone: what it has not written is its source's memory, "
			"shared by all clones, and costs nothing; revert it to a snapshot of its own first");
	if (!m->base_id[0] || !m->tracker || fault_tracker_is_arming(m->tracker))
		return no_snapshot(e);
	/* The log has the blocks that were written before the tracker saw all writes. */
	return dirty_log_is_on(&m->dirty_log) ? err_set(e, -EPERM, ERR_WRONG_STATE, "the VM's process has taken the VM over and "
		"no snapshot was taken since; take one and reclaim then") : 0;
}

static int base_open(struct machine *m, struct map_store **ret, struct vmstate_header *h, struct err *e)
{
	struct machine_disk *first;
	struct tree t;
	int r = vmsnap_open(m, &first, &t, e);

	if (r < 0)
		return r;
	if (!tree_find_id(&t, strtoull(m->base_id, NULL, 10)))
		r = no_snapshot(e);
	tree_done(&t);
	if (!r)
		r = map_store_new(first, m->base_id, ret, e);
	if (r < 0)
		return r;
	r = vmstate_read_header(&(*ret)->store, h, e);
	if (!r && h->layout.ram_bytes != m->mem.bytes)
		r = err_set(e, -EINVAL, ERR_CORRUPT, "snapshot %s: its memory has an unexpected size", m->base_id);
	return r;
}

static void begin_run(struct work *w)
{
	struct vmsnap_job *j = container_of(w, struct vmsnap_job, work);
	struct map_store *store = NULL;
	struct vmstate_header h;

	j->r = base_open(j->m, &store, &h, &j->e);
	if (!j->r)
		j->r = ram_reclaim_begin(j->m, &store->store, &h, &j->e);
	if (!j->r) {
		free(j->m->paged_from);
		j->m->paged_from = &STEAL_PTR(store)->store;
	}
	free(store);
}

static void drop_run(struct work *w)
{
	struct vmsnap_job *j = container_of(w, struct vmsnap_job, work);

	j->r = fault_tracker_reclaim(j->m->tracker, &j->result.ram_bytes_shared, &j->e);
}

static void reclaim_done(struct work *w)
{
	struct vmsnap_job *j = container_of(w, struct vmsnap_job, work);

	if (!j->r)
		log_info(NULL, "%llu KiB of memory that the image has were freed", (unsigned long long)j->result.ram_bytes_shared / 1024);
	vmsnap_job_finish(j);
	free(container_of(j, struct reclaim_job, j));
}

/* A request of a device may use memory and not have told so, since it began before the reclaim. The kernel has the
 * image locked meanwhile, from which the tracker would read that memory if it were freed. Let all such requests end. */
static void requests_end(struct work *w)
{
	struct vmsnap_job *j = container_of(w, struct vmsnap_job, work);

	if (j->r < 0) {
		reclaim_done(w);
		return;
	}
	vmsnap_job_stop_vm(j);
	vmsnap_job_resume_vm(j);
	vmsnap_job_stage(j, drop_run, reclaim_done);
}

int vm_reclaim(struct vm *vm, struct worker *w, vm_snapshot_done_fn *done, void *opaque, struct err *e)
{
	struct machine *m = vm_machine(vm);
	int r = machine_check(m, e);
	struct reclaim_job *x = r < 0 ? NULL : vmsnap_job_new(sizeof(*x), vm, w, "reclaim", e);

	if (!x)
		return r < 0 ? r : -EBUSY;
	vm_work_set_live(vm, false);
	x->j.done = done;
	x->j.opaque = opaque;
	vmsnap_job_stage(&x->j, begin_run, requests_end);
	return 0;
}
