#include "vmm/snapshot/disk_layers.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/util.h"
#include "block/block.h"
#include "vmm/machine/machine_hold.h"
#include "vmm/machine/machine_layers.h"
#include "vmm/snapshot/vm_pins.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* The files of a disk's layers. */
struct files {
	int fd[VM_DISK_LAYERS_MAX], data_fd[VM_DISK_LAYERS_MAX]; /* owned; -1: none */
	struct vm_disk to;
};

struct layers_job {
	struct vmsnap_job j;
	bool check_only;
	unsigned n;
	struct files files[VM_DISKS_MAX];
	struct machine_layers list[VM_DISKS_MAX];
};

static void files_take(struct files *f, const struct vm_disk *to, int *fds)
{
	f->to = *to;
	for (unsigned i = 0; i < VM_DISK_LAYERS_MAX; i++) {
		f->fd[i] = i < to->nlayers ? steal_fd(&fds[to->fd[i]]) : -1;
		f->data_fd[i] = i < to->nlayers && to->data_fd[i] != VM_NO_FD ? steal_fd(&fds[to->data_fd[i]]) : -1;
	}
}

static void files_close(struct files *f)
{
	for (unsigned i = 0; i < VM_DISK_LAYERS_MAX; i++) {
		if (f->fd[i] >= 0)
			close(steal_fd(&f->fd[i]));
		if (f->data_fd[i] >= 0)
			close(steal_fd(&f->data_fd[i]));
	}
}

/* ---- on the worker's thread ---- */

/* The present layers continue below the new overlay. */
static int layers_match(const struct machine_disk *d, const struct files *f, struct err *e)
{
	struct block_layer now[BLOCK_LAYERS_MAX];
	unsigned n = block_layers(d->block, now);
	bool same = f->to.nlayers == n + 1;

	for (unsigned i = 0; i < n && same; i++)
		same = now[i].format == f->to.format[i + 1] && machine_layers_are_one_file(now[i].fd, f->fd[i + 1]);
	if (!same)
		return err_set(e, -EINVAL, ERR_INVALID, "the backing files of the new image are not the present layers of disk %s", d->id);
	if (f->to.format[0] != BLOCK_FORMAT_QCOW2)
		return err_set(e, -EINVAL, ERR_INVALID, "the new image of disk %s must be qcow2", d->id);
	for (unsigned i = 0; i < n; i++)
		if (machine_layers_are_one_file(now[i].fd, f->fd[0]))
			return err_set(e, -EINVAL, ERR_INVALID, "disk %s has the new image already", d->id);
	return 0;
}

static int disk_prepare(struct machine_layers *x, struct files *f, struct err *e)
{
	int r = layers_match(x->disk, f, e);

	if (!r)
		r = machine_layers_check(x->disk, "a new overlay would hide them", e);
	if (r < 0)
		return r;
	x->o.nlayers = f->to.nlayers;
	for (unsigned i = 1; i < f->to.nlayers; i++)
		x->o.kept[i] = i - 1;
	x->o.kept[0] = BLOCK_NEW_LAYER;
	x->o.layers[0] = (struct block_layer){ .fd = f->fd[0], .format = f->to.format[0], .data_fd = MAX(f->data_fd[0], 0) };
	return 0;
}

static void begin_run(struct work *w)
{
	struct layers_job *p = container_of(w, struct layers_job, j.work);

	vm_pins_delete_idle(p->j.m);
	for (unsigned i = 0; i < p->n && !p->j.r; i++)
		p->j.r = disk_prepare(&p->list[i], &p->files[i], &p->j.e);
	if (!p->j.r && !p->check_only) {
		for (unsigned i = 0; i < p->n; i++)
			p->files[i].fd[0] = p->files[i].data_fd[0] = -1; /* machine_layers_begin() takes them */
		p->j.r = machine_layers_begin(p->j.m, p->list, p->n, &p->j.e);
	}
	for (unsigned i = 0; i < p->n; i++)
		files_close(&p->files[i]);
}

static void close_run(struct work *w)
{
	struct layers_job *p = container_of(w, struct layers_job, j.work);

	machine_layers_close(p->list, p->n);
}

/* ---- on the main thread ---- */

static void job_end(struct work *w)
{
	struct layers_job *p = container_of(w, struct layers_job, j.work);

	vmsnap_job_finish(&p->j);
	free(p);
}

static void begin_done(struct work *w)
{
	struct layers_job *p = container_of(w, struct layers_job, j.work);

	if (p->j.r < 0 || p->check_only) {
		job_end(w);
		return;
	}
	machine_held_release(p->j.m);
	for (unsigned i = 0; i < p->n; i++)
		log_info(NULL, "disk %s has a new overlay", p->list[i].disk->id);
	vmsnap_job_stage(&p->j, close_run, job_end);
}

int vm_disk_layers(struct vm *vm, struct worker *w, const struct vm_config *c, int *fds, vm_snapshot_done_fn *done, void *opaque,
	struct err *e)
{
	struct layers_job *p = vmsnap_job_new(sizeof(*p), vm, w, "disk snapshot", e);
	struct machine *m = vm_machine(vm);
	int r = p ? 0 : -EBUSY;

	for (unsigned i = 0; i < c->ndisks && !r; i++)
		r = machine_layers_find(m, c->disks[i].id, &p->list[i].disk, e);
	if (r < 0) {
		if (p)
			vm_work_end(vm);
		free(p);
		return r;
	}
	p->n = c->ndisks;
	p->check_only = c->disk_more[0].check_only;
	for (unsigned i = 0; i < p->n; i++)
		files_take(&p->files[i], &c->disks[i], fds);
	vm_work_set_live(vm, true);
	p->j.done = done;
	p->j.opaque = opaque;
	vmsnap_job_stage(&p->j, begin_run, begin_done);
	return 0;
}
