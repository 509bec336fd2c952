/* Requests that ask for the VM's figures and facts. */
#include "vmm/control_impl.h"
#include "base/channel.h"
#include "base/err.h"
#include "base/util.h"
#include "block/block.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_dirty_rate.h"
#include "vmm/machine/machine_page.h"
#include "vmm/machine/machine_pci.h"
#include "vmm/machine/vm.h"
#include "vmm/machine/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int control_query(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_info info;

	(void)e;
	vm_info(c->vm, &info);
	info.work = vm_works(c->vm) ? c->work_type : 0;
	info.work_then = info.work == VM_MSG_DUMP ? c->work_then : 0;
	control_send(c, VM_MSG_INFO, m->head.seq, &info, sizeof(info));
	return LATER;
}

struct space_request {
	struct work work;
	struct control *control;
	uint64_t seq;
	int fds[VM_DISKS_MAX]; /* owned; -1: none */
	bool read_only[VM_DISKS_MAX];
	struct vm_spaces spaces;
};

/* Runs on the worker's thread, since a file system may block. */
static void space_run(struct work *w)
{
	struct space_request *s = container_of(w, struct space_request, work);

	for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
		struct block_space space;

		if (s->fds[i] < 0)
			continue;
		block_space(s->fds[i], &space);
		close(s->fds[i]);
		s->spaces.images[i].allocation_bytes = space.allocation_bytes;
		s->spaces.images[i].physical_bytes = space.physical_bytes;
		if (s->read_only[i])
			continue;
		s->spaces.disks[i].free_bytes = space.free_bytes;
		s->spaces.disks[i].total_bytes = space.total_bytes;
		s->spaces.devs[i] = space.dev;
	}
}

static void space_done(struct work *w)
{
	struct space_request *s = container_of(w, struct space_request, work);

	control_send(s->control, VM_MSG_SPACES, s->seq, &s->spaces, sizeof(s->spaces));
	free(s);
}

/* Note a disk with a duplicate of its image's fd, so that the disk may change or go meanwhile. */
static void space_note(struct space_request *s, const struct machine *m, unsigned i)
{
	const struct machine_disk *d = &m->disks[i];
	struct block_layer layers[BLOCK_LAYERS_MAX];
	struct block_info info;

	snprintf(s->spaces.images[i].id, sizeof(s->spaces.images[i].id), "%s", d->id);
	if (!d->block)
		return;
	block_info(d->block, &info);
	s->spaces.images[i].capacity_bytes = info.size_bytes;
	s->read_only[i] = m->cfg.disks[i].read_only;
	block_layers(d->block, layers);
	s->fds[i] = fcntl(layers[0].fd, F_DUPFD_CLOEXEC, 3);
}

int control_space(struct control *c, struct channel_msg *m, struct err *e)
{
	int r = worker_start(c->worker, e);
	struct space_request *s = r ? NULL : calloc(1, sizeof(*s));
	const struct machine *machine = vm_machine(c->vm);

	if (!s)
		return r ? r : -ENOMEM;
	s->control = c;
	s->seq = m->head.seq;
	s->work.run = space_run;
	s->work.done = space_done;
	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		s->fds[i] = -1;
	for (unsigned i = 0; i < machine->ndisks; i++)
		space_note(s, machine, i);
	worker_submit(c->worker, c->loop, &s->work);
	return LATER;
}

int control_pci(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_pci all;

	if (!vm_machine(c->vm)->pci)
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "this process only works on the VM's images; the VM is off");
	machine_pci_list(vm_machine(c->vm), &all);
	control_send(c, VM_MSG_PCI_LIST, m->head.seq, &all, sizeof(all));
	return LATER;
}

int control_page(struct control *c, struct channel_msg *m, struct err *e)
{
	return m->nfds == 1 ? machine_page_take(vm_machine(c->vm), m->fds[0], e) :
		err_set(e, -EINVAL, ERR_INVALID, "the request needs a file for the page");
}

int control_first_pages(struct control *c, struct channel_msg *m, struct err *e)
{
	return m->nfds == 1 ? prefault_make(&vm_machine(c->vm)->prefault, m->fds[0], e) :
		err_set(e, -EINVAL, ERR_INVALID, "the request needs a file for the list");
}

int control_dirty_rate(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_dirty_rate_ask *ask = m->body;

	if (vm_machine(c->vm)->cfg.images_only)
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "this process only works on the VM's images; the VM is off");
	if (!ask->seconds || ask->seconds > VM_DIRTY_RATE_SECONDS_MAX || ask->pages_per_gib < VM_DIRTY_RATE_PAGES_MIN ||
		ask->pages_per_gib > VM_DIRTY_RATE_PAGES_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "a measurement takes 1 to %d seconds and samples %d to %d pages of each GiB",
			VM_DIRTY_RATE_SECONDS_MAX, VM_DIRTY_RATE_PAGES_MIN, VM_DIRTY_RATE_PAGES_MAX);
	return machine_dirty_rate_begin(vm_machine(c->vm), ask, e);
}
