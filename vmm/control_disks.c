/* Messages about disks and interfaces that come and go while the VM runs, and about copies of disks. */
#include "vmm/control_impl.h"
#include "base/err.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/vm.h"
#include "vmm/machine/worker.h"
#include "vmm/snapshot/disk_commit.h"
#include "vmm/snapshot/disk_copy.h"
#include "vmm/snapshot/disk_layers.h"
#include "vmm/snapshot/disk_resize.h"
#include "vmm/snapshot/vm_pins.h"

#include <errno.h>
#include <string.h>

#define DISKS_WAIT_NS 1000000000ULL

/* Check the part of a configuration that a message has. */
static int part_check(struct channel_msg *m, struct err *e)
{
	struct vm_config *what = m->body;
	int r;

	memset((char *)what + m->head.body_bytes, 0, sizeof(*what) - m->head.body_bytes);
	/* Of a longer part, only the limits of disks count besides. */
	memset((char *)what + VM_PLUG_BYTES, 0, offsetof(struct vm_config, disk_tune) - VM_PLUG_BYTES);
	r = vm_config_take_held(what, m, e);
	return r ? r : vm_config_check(what, m->nfds, e);
}

/* Let jobs end that use the disks. Long jobs are work of the VM, which refuses the request. So does a job whose file
 * system does not answer, because the main thread must not wait for it. */
static void disks_drain(struct control *c)
{
	if (!vm_works(c->vm))
		worker_drain(c->worker, DISKS_WAIT_NS);
}

int control_plug(struct control *c, struct channel_msg *m, struct err *e)
{
	int r = part_check(m, e);

	if (r < 0)
		return r;
	disks_drain(c);
	return vm_plug(c->vm, m->body, m->fds, e); /* fds that it takes become -1 */
}

int control_medium_set(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_config *what = m->body;
	int r = part_check(m, e);

	if (!r && what->ndisks != 1)
		r = err_set(e, -EINVAL, ERR_INVALID, "a medium belongs to one drive");
	if (r < 0)
		return r;
	disks_drain(c);
	return vm_set_medium(c->vm, what, m->fds, e); /* fds that it takes become -1 */
}

int control_disk_copy(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_disk_copy *what = m->body;
	int r, fd;

	TERMINATE(what->disk);
	if (m->nfds != 1)
		return err_set(e, -EINVAL, ERR_INVALID, "a copy needs its file");
	fd = m->fds[0];
	m->fds[0] = -1;
	r = vm_disk_copy(c->vm, c->worker, what, fd, control_work_done, c, e);
	c->for_daemon = c->for_daemon || !r;
	return r;
}

int control_disk_pivot(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_config *what = m->body;
	const struct vm_disk *d = &what->disks[0];
	int r = part_check(m, e), fd;

	if (!r && (what->ndisks != 1 || !d->nlayers || d->read_only))
		r = err_set(e, -EINVAL, ERR_INVALID, "a copy is one writable disk");
	if (r < 0)
		return r;
	fd = m->fds[d->fd[0]];
	m->fds[d->fd[0]] = -1;
	return vm_disk_copy_end(c->vm, c->worker, d->id, d, fd, what->disk_more[0].check_only, control_work_done, c, e);
}

int control_disk_layers(struct control *c, struct channel_msg *m, struct err *e)
{
	int r = part_check(m, e);

	return r ? r : vm_disk_layers(c->vm, c->worker, m->body, m->fds, control_work_done, c, e);
}

/* The body has the part of a configuration, and then the members of the commit. */
int control_disk_commit(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_disk_commit what = *(const struct vm_disk_commit *)m->body;
	int r;

	TERMINATE(what.backing_name);
	m->head.body_bytes = VM_PLUG_BYTES;
	r = part_check(m, e);
	if (!r)
		r = vm_disk_commit(c->vm, c->worker, &what, m->body, m->fds, control_work_done, c, e);
	c->for_daemon = c->for_daemon || !r;
	return r;
}

int control_disk_copy_end(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_disk_copy *what = m->body;

	TERMINATE(what->disk);
	return vm_disk_copy_end(c->vm, c->worker, what->disk, NULL, -1, false, control_work_done, c, e);
}

int control_disk_resize(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_disk_resize *what = m->body;

	TERMINATE(what->id);
	return vm_disk_resize(c->vm, c->worker, what, control_work_done, c, e);
}

static bool is_disk(const struct machine *m, const char *id)
{
	unsigned i = 0;

	while (i < m->ndisks && strcmp(m->disks[i].id, id) != 0)
		i++;
	return i < m->ndisks;
}

int control_unplug(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_unplug *what = m->body;

	TERMINATE(what->id);
	/* An idle pin would stay in the image of the disk, because only this process deletes it. */
	if (!vm_works(c->vm) && is_disk(vm_machine(c->vm), what->id))
		vm_pins_begin_delete_idle(c->vm, c->worker);
	disks_drain(c);
	return vm_unplug(c->vm, what->id, what->force, e);
}
