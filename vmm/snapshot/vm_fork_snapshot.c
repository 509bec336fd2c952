/* Captures the state from which clones of a snapshot start. All work runs on the worker's thread:
 * it reads the state directly from the first disk's image, checks each block, and pins the snapshot of each disk, or
 * copies the disk as of the snapshot (block/qcow2/copy.c). A snapshot does not change, so the VM may run or stop
 * meanwhile. */
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/kvm/fork_host.h"
#include "vmm/machine/machine_restore.h"
#include "vmm/snapshot/fork_disks.h"
#include "vmm/snapshot/map_store.h"
#include "vmm/snapshot/vm_fork.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Blocks copied at a time. */
#define RUN_BLOCKS 16u

struct snapshot_fork {
	struct vmsnap_job j;
	char name[VM_SNAPSHOT_NAME_MAX + 1];
	int state_fd;
	struct fork_disks disks;
	struct fork_progress progress;
	struct map_store *store;
	struct vmstate_header h;
	uint32_t *crcs;
	uint64_t begun_ns;
};

static void fork_free(struct snapshot_fork *x)
{
	close(x->state_fd);
	fork_disks_done(&x->disks);
	free(x->store);
	free(x->crcs);
	free(x);
}

/* ---- finding the snapshot ---- */

static int ids_take(struct snapshot_fork *x, struct machine_disk *first, const struct tree_node *n)
{
	struct machine *m = x->j.m;
	char id[VM_DISKS_MAX][BLOCK_SNAPSHOT_ID_MAX + 1];
	int r = vmsnap_ids(m, first, n, "", NULL, id, &x->j.e);

	for (unsigned i = 0; i < x->disks.n && !r; i++)
		memcpy(x->disks.list[i].id, id[x->disks.list[i].disk - m->disks], sizeof(x->disks.list[i].id));
	return r;
}

static int state_open(struct snapshot_fork *x, struct machine_disk *first, const struct tree_node *n)
{
	struct err *e = &x->j.e;
	int r = map_store_new(first, n->info.id, &x->store, e);

	if (!r)
		r = vmstate_read_header(&x->store->store, &x->h, e);
	if (!r && !machine_has_uuid(x->j.m, x->h.uuid))
		r = err_set(e, -EINVAL, ERR_INVALID, "the snapshot's state belongs to another VM");
	if (!r && x->h.layout.total_bytes > x->store->map.n * x->store->map.cluster_bytes)
		r = err_set(e, -EINVAL, ERR_CORRUPT, "the snapshot's state is truncated");
	if (!r)
		r = vmstate_read_crcs(&x->store->store, &x->h, &x->crcs, e);
	return r < 0 ? (err_prefix(e, "snapshot '%s'", n->info.name), r) : 0;
}

static int snapshot_open(struct snapshot_fork *x)
{
	struct machine *m = x->j.m;
	struct machine_disk *first;
	struct tree_node *n;
	struct tree t;
	int r = vmsnap_recover(m, m->cfg.images_only, NULL, NULL, &x->j.e);

	if (!r)
		r = vmsnap_open(m, &first, &t, &x->j.e);
	if (r < 0)
		return r;
	r = vmsnap_find(&t, x->name, &n, &x->j.e);
	if (!r && !n->info.vm_state_bytes)
		r = err_set(&x->j.e, -EINVAL, ERR_WRONG_STATE,
			"snapshot '%s' holds disks only, and live clones need memory; choose a "
			"snapshot of the running VM", n->info.name);
	if (!r)
		r = ids_take(x, first, n);
	if (!r)
		r = state_open(x, first, n);
	tree_done(&t);
	return r;
}

/* ---- copying its state ---- */

static int run_move(struct snapshot_fork *x, struct vmstate_file *to, uint64_t first, uint64_t n, uint8_t *buf)
{
	const struct vmstate_layout *l = &x->h.layout;
	size_t len = (n - 1) * VMSTATE_BLOCK_BYTES + vmstate_block_len(l, first + n - 1);
	int r = vmstate_read_blocks(&x->store->store, &x->h, x->crcs, first, n, buf, &x->j.e);

	if (r < 0)
		return r;
	r = to->store.write(&to->store, l->ram_offset + first * VMSTATE_BLOCK_BYTES, buf, len);
	if (r < 0)
		return err_set_errno(&x->j.e, r, "cannot copy the snapshot's memory");
	x->j.result.ram_bytes_written += len;
	if (fork_progress_step(&x->progress, (first + n) * VMSTATE_BLOCK_BYTES, 0))
		return err_set(&x->j.e, -ECANCELED, ERR_CANCELLED, "the job was cancelled");
	return 0;
}

static int memory_move(struct snapshot_fork *x, struct vmstate_file *to)
{
	const struct vmstate_layout *l = &x->h.layout;
	uint8_t *buf = NULL;
	int r = 0;

	if (posix_memalign((void **)&buf, 4096, RUN_BLOCKS * VMSTATE_BLOCK_BYTES))
		return err_set_errno(&x->j.e, -ENOMEM, "cannot copy the snapshot's memory");
	for (uint64_t b = 0, n; b < l->blocks && !r; b += MAX(n, 1u)) {
		for (n = 0; n < RUN_BLOCKS && b + n < l->blocks && !vmstate_block_is_zero(l, x->crcs, b + n);)
			n++;
		if (n)
			r = run_move(x, to, b, n, buf);
	}
	free(buf);
	return r;
}

static int state_move(struct snapshot_fork *x)
{
	CLEANUP_FREE uint8_t *sections = NULL;
	struct vmstate_source src = { .ram_fd = -1 };
	struct vmstate_header h = x->h;
	struct vmstate_file to;
	int r;

	vmstate_file_init(&to, x->state_fd);
	fork_progress_next(&x->progress, h.layout.ram_bytes);
	r = vmstate_read_sections(&x->store->store, &x->h, &sections, &x->j.e);
	if (!r)
		r = memory_move(x, &to);
	src.sections = sections;
	src.sections_bytes = x->h.sections_bytes;
	if (!r)
		r = vmstate_write_rest(&to.store, &h, &src, x->crcs, &x->j.e);
	return r ? r : fork_host_write(&to, &x->j.m->kvm, h.layout.total_bytes, &x->j.e);
}

static void fork_run(struct work *w)
{
	struct snapshot_fork *x = container_of(w, struct snapshot_fork, j.work);

	x->begun_ns = loop_now_ns();
	x->j.r = snapshot_open(x);
	if (x->j.r < 0)
		return;
	x->progress.total = x->h.layout.ram_bytes;
	x->j.r = fork_disks_of_snapshot_prepare(&x->disks, &x->j.e);
	if (!x->j.r)
		x->j.r = state_move(x);
	if (!x->j.r)
		x->j.r = fork_disks_of_snapshot(&x->disks, &x->j.e);
	fork_disks_describe(&x->disks, x->j.result.disks_made);
}

static void fork_done(struct work *w)
{
	struct snapshot_fork *x = container_of(w, struct snapshot_fork, j.work);

	x->j.result.total_ns = loop_now_ns() - x->begun_ns;
	if (!x->j.r)
		log_info(NULL, "state of snapshot '%s' for clones copied: %llu KiB of memory", x->name,
			(unsigned long long)x->j.result.ram_bytes_written / 1024);
	vmsnap_job_finish(&x->j);
	fork_free(x);
}

int vm_fork_snapshot(struct vm *vm, struct worker *w, const struct vm_fork *f, const int *fds, unsigned nfds,
	vm_snapshot_done_fn *done, void *opaque, struct err *e)
{
	struct snapshot_fork *x = vmsnap_job_new(sizeof(*x), vm, w, "fork", e);
	int r;

	if (!x)
		return -EBUSY;
	x->disks.copies = f->copies;
	memcpy(x->disks.pins, f->pins, sizeof(x->disks.pins));
	memcpy(x->disks.earlier, f->shared, sizeof(x->disks.earlier));
	x->disks.flatten = f->flatten;
	x->disks.nfds = nfds - 1;
	memcpy(x->disks.fds, fds + 1, (nfds - 1) * sizeof(*fds));
	r = fork_disks_check(&x->disks, x->j.m, e);
	if (r < 0) {
		vm_work_end(vm);
		free(x);
		return r;
	}
	vm_work_set_live(vm, false);
	x->state_fd = fds[0];
	x->disks.progress = &x->progress;
	x->progress.vm = vm;
	x->j.done = done;
	x->j.opaque = opaque;
	memcpy(x->name, f->snapshot, sizeof(x->name));
	vmsnap_job_stage(&x->j, fork_run, fork_done);
	return 0;
}
