/* Messages about disks and interfaces that come and go while the VM runs, and about copies of disks. */
#include "vmm/control_impl.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/vm.h"
#include "vmm/snapshot/clone_disk.h"
#include "vmm/snapshot/disk_commit.h"
#include "vmm/snapshot/disk_copy.h"
#include "vmm/snapshot/disk_layers.h"
#include "vmm/snapshot/disk_resize.h"
#include "vmm/snapshot/vm_pins.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long a change of a device waits for other jobs. The daemon waits 30 s for the answer. */
#define CHANGE_WAIT_NS 25000000000ULL

/* Check the part of a configuration that a message has. */
static int part_check(struct channel_msg *m, struct err *e)
{
	struct vm_config *what = m->body;
	int r;

	memset((char *)what + m->head.body_bytes, 0, sizeof(*what) - m->head.body_bytes);
	/* In a longer message, only the limits of disks count besides: clear the rest. */
	memset((char *)what + VM_PLUG_BYTES, 0, offsetof(struct vm_config, disk_tune) - VM_PLUG_BYTES);
	r = vm_config_take_held(what, m, e);
	return r ? r : vm_config_check(what, m->nfds, e);
}

/* ---- requests that wait for short jobs on the disks ---- */

struct change {
	struct change *next;
	struct channel_msg m;
	bool is_work; /* begins work; false: adds or removes a device */
	uint64_t end_ns;
	_Alignas(16) uint8_t body[]; /* of m */
};

static bool is_disk(const struct machine *m, const char *id)
{
	unsigned i = 0;

	while (i < m->ndisks && strcmp(m->disks[i].id, id) != 0)
		i++;
	return i < m->ndisks;
}

static int change_check(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_unplug *unplug = m->body;
	const struct vm_config *what = m->body;
	int r;

	if (m->head.type == VM_MSG_UNPLUG) {
		TERMINATE(unplug->id);
		/* An idle pin would stay in the image of the disk, because only this process deletes it. */
		if (!vm_works(c->vm) && is_disk(vm_machine(c->vm), unplug->id))
			vm_pins_begin_delete_idle(c->vm, c->worker);
		return 0;
	}
	r = part_check(m, e);
	if (!r && m->head.type == VM_MSG_MEDIUM_SET && what->ndisks != 1)
		r = err_set(e, -EINVAL, ERR_INVALID, "a medium belongs to one drive");
	return r;
}

/* fds that the VM takes become -1. */
static int change_apply(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_unplug *unplug = m->body;

	if (m->head.type == VM_MSG_PLUG)
		return vm_plug(c->vm, m->body, m->fds, e);
	if (m->head.type == VM_MSG_MEDIUM_SET)
		return vm_set_medium(c->vm, m->body, m->fds, e);
	return vm_unplug(c->vm, unplug->id, unplug->force, e);
}

static struct change *change_take(struct control *c)
{
	struct change *x = c->changes;

	c->changes = x->next;
	return x;
}

static void change_free(struct change *x)
{
	channel_msg_close_fds(&x->m);
	free(x);
}

/* Carry out the requests that have waited long enough: their errors say what they waited for. */
static void changes_late(void *opaque)
{
	control_changes_run(opaque, loop_now_ns());
}

/* Let a request wait. is_work: its body is as the daemon sent it; false: part_check() has filled up the body. */
static int change_hold(struct control *c, struct channel_msg *m, bool is_work, struct err *e)
{
	size_t len = is_work || m->head.type == VM_MSG_UNPLUG ? m->head.body_bytes : sizeof(struct vm_config);
	struct change *x = c->changes_timer || !loop_timer_new(c->loop, changes_late, c, &c->changes_timer) ?
		calloc(1, sizeof(*x) + sizeof(struct vm_config)) : NULL; /* handlers clear what a shorter body lacks */
	struct change **last = &c->changes;

	if (!x)
		return err_set_errno(e, -ENOMEM, "request");
	*x = (struct change){ .m = *m, .is_work = is_work, .end_ns = loop_now_ns() + CHANGE_WAIT_NS };
	x->m.body = memcpy(x->body, m->body, len);
	m->nfds = 0; /* taken */
	while (*last)
		last = &(*last)->next;
	*last = x;
	/* With others before it, the timer is armed, and perhaps due: see control_disks_free(). */
	if (c->changes == x)
		loop_timer_arm(c->changes_timer, x->end_ns);
	return LATER;
}

int control_change(struct control *c, struct channel_msg *m, struct err *e)
{
	int r = change_check(c, m, e);

	if (r < 0)
		return r;
	return c->changes || vm_plug_must_wait(c->vm) ? change_hold(c, m, false, e) : change_apply(c, m, e);
}

int control_work_hold(struct control *c, struct channel_msg *m, struct err *e)
{
	return change_hold(c, m, true, e);
}

bool control_work_cancel_held(struct control *c)
{
	struct change **x = &c->changes, *gone;
	struct err e;

	while (*x && !(*x)->is_work)
		x = &(*x)->next;
	gone = *x;
	if (!gone)
		return false;
	*x = gone->next;
	control_reply(c, gone->m.head.seq, err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled"), &e);
	change_free(gone);
	return true;
}

static bool may_go(const struct control *c, const struct change *x)
{
	return x->is_work ? !vm_disks_are_read(c->vm) : vm_plug_is_free(c->vm);
}

static void change_go(struct control *c, struct change *x)
{
	struct err e = { 0 };

	if (x->is_work)
		control_request_begin(c, &x->m, true);
	else
		control_reply(c, x->m.head.seq, change_apply(c, &x->m, &e), &e);
}

void control_changes_run(void *opaque, uint64_t expired_ns)
{
	struct control *c = opaque;

	while (c->changes && (c->changes->end_ns <= expired_ns || may_go(c, c->changes))) {
		struct change *x = change_take(c);

		change_go(c, x);
		change_free(x);
	}
	if (c->changes)
		loop_timer_arm(c->changes_timer, c->changes->end_ns);
}

void control_disks_free(void *opaque)
{
	struct control *c = opaque;

	/* Not at once: a work's end is reported first, by the number of its request, which the next work replaces. */
	if (c->changes)
		loop_timer_arm(c->changes_timer, loop_now_ns());
}

void control_changes_drop(struct control *c)
{
	while (c->changes)
		change_free(change_take(c));
}

/* ---- settings ---- */

int control_interface_set(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_interface_set *want = m->body;

	TERMINATE(want->id);
	if (want->link_down > 1)
		return err_set(e, -EINVAL, ERR_INVALID, "unknown state of a link");
	return machine_set_interface(vm_machine(c->vm), want, e);
}

int control_disk_set(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_disk_set want = { 0 };

	memcpy(&want, m->body, MIN(m->head.body_bytes, sizeof(want)));
	TERMINATE(want.id);
	return machine_set_disk(vm_machine(c->vm), &want, e);
}

/* ---- copies of disks, and their layers ---- */

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

/* ---- disks of clones ---- */

static void clone_disk_progress(void *opaque, uint32_t key, uint64_t done, uint64_t total)
{
	struct vm_event ev = { .kind = VM_EVENT_PROGRESS, .value = (int64_t)done, .total = (int64_t)total };

	snprintf(ev.device, sizeof(ev.device), "%u", key);
	control_event(opaque, &ev);
}

int control_clone_disk(struct control *c, struct channel_msg *m, struct err *e)
{
	int r;

	if (!c->clones)
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "the VM runs, so its "
			"disks cannot be copied; shut it down first");
	r = clone_disk_begin(c->clones, m->body, m->fds, m->nfds, m->head.seq, e);
	m->nfds = 0; /* clone_disk_begin() takes the fds */
	return r < 0 ? r : LATER;
}

int control_prepare_clones(struct control *c, unsigned copiers, struct err *e)
{
	static const struct clone_disks_ops ops = { control_answer_late, clone_disk_progress };

	return clone_disks_new(c->loop, &vm_machine(c->vm)->kvm, copiers, &ops, c, &c->clones, e);
}
