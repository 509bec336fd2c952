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
#include <stdlib.h>

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
	struct vm_spaces spaces;
};

/* Runs on the worker's thread, since a file system may block. */
static void space_run(struct work *w)
{
	struct space_request *s = container_of(w, struct space_request, work);
	struct machine *m = vm_machine(s->control->vm);

	for (unsigned i = 0; i < m->ndisks; i++)
		if (!m->cfg.disks[i].read_only)
			block_space(m->disks[i].block, &s->spaces.disks[i].free_bytes,
				&s->spaces.disks[i].total_bytes);
	m->disk_readers--;
}

static void space_done(struct work *w)
{
	struct space_request *s = container_of(w, struct space_request, work);

	control_send(s->control, VM_MSG_SPACES, s->seq, &s->spaces, sizeof(s->spaces));
	vm_plug_settle(s->control->vm);
	free(s);
}

int control_space(struct control *c, struct channel_msg *m, struct err *e)
{
	int r = worker_start(c->worker, e);
	struct space_request *s = r ? NULL : calloc(1, sizeof(*s));

	if (!s)
		return r ? r : -ENOMEM;
	s->control = c;
	s->seq = m->head.seq;
	s->work.run = space_run;
	s->work.done = space_done;
	vm_machine(c->vm)->disk_readers++;
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
