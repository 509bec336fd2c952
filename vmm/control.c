#include "vmm/control_impl.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/agent/agent.h"
#include "vmm/first_messages.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_balloon.h"
#include "vmm/machine/machine_carry.h"
#include "vmm/machine/machine_consoles.h"
#include "vmm/machine/machine_page.h"
#include "vmm/machine/vm.h"
#include "vmm/machine/worker.h"
#include "vmm/send_queue.h"
#include "vmm/snapshot/clone_disk.h"
#include "vmm/snapshot/disk_pull.h"
#include "vmm/snapshot/vm_dump.h"
#include "vmm/snapshot/vm_fork.h"
#include "vmm/snapshot/vm_handover.h"
#include "vmm/snapshot/vm_pins.h"
#include "vmm/snapshot/vm_reclaim.h"
#include "vmm/snapshot/vm_save.h"
#include "vmm/snapshot/vm_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENT_WAIT_MS 10000

static void peer_drop(struct control *c)
{
	loop_unwatch(c->peer_watch);
	c->peer_watch = NULL;
	if (c->peer_fd >= 0)
		close(c->peer_fd);
	c->peer_fd = -1;
	send_queue_clear(&c->waiting);
	c->looks.n = 0;
	control_keys_abandon(c);
	control_changes_drop(c);
}

/* Resume the VM that a dump has left paused for a daemon which is gone: the next one does not know of the dump. */
static void resume_after_dump(struct control *c)
{
	if (c->awaits_cont)
		vm_cont(c->vm, VM_REASON_USER, NULL);
	c->awaits_cont = false;
}

/* Handle the loss of the peer. Nobody else uses a process for images, and the next daemon may want
 * to open them itself, so end such a process. */
static void peer_lost(struct control *c)
{
	/* The process that hands the VM over still owns the VM and its images, and may continue with them: exit
	 * without touching them. */
	if (c->awaits_go)
		_exit(VM_EXIT_FAILURE);
	peer_drop(c);
	resume_after_dump(c);
	if (c->vm)
		vm_pins_set_idle(c->vm, NULL, NULL); /* overlays may be added to the next daemon's list */
	if (c->for_daemon)
		vm_work_cancel(c->vm, NULL);
	if (c->vm && vm_machine(c->vm)->cfg.images_only)
		vm_end(c->vm, VM_REASON_USER, 0, NULL);
}

/* After sending: watch for room in the socket while messages wait, and read no request while too many answers do. */
static void peer_sent(struct control *c, int r)
{
	if (r < 0) {
		if (r != -EPIPE)
			log_warn(NULL, "control: %s; closing the connection", strerror(-r));
		peer_lost(c);
	} else if (c->peer_watch) {
		loop_watch_events(c->peer_watch,
			(send_queue_full(&c->waiting) ? 0 : POLLIN) | (send_queue_waits(&c->waiting) ? POLLOUT : 0));
	}
}

void control_send(struct control *c, enum vm_msg_type type, uint64_t seq, const void *body, size_t len)
{
	if (c->peer_fd < 0)
		return;
	/* Update the page first: a reader who looks at it after a message sees the changes from before the message. */
	if (c->vm)
		machine_page_update(vm_machine(c->vm));
	peer_sent(c, send_queue_send(&c->waiting, c->peer_fd, type, seq, body, len));
}

void control_reply(struct control *c, uint64_t seq, int r, const struct err *e)
{
	struct vm_reply body = { .error = r };

	if (r < 0 && e) {
		body.cls = e->cls;
		snprintf(body.msg, sizeof(body.msg), "%s", e->msg);
	}
	control_send(c, VM_MSG_REPLY, seq, &body, sizeof(body));
}

void control_answer_late(void *opaque, uint64_t seq, int r, const struct err *e)
{
	control_reply(opaque, seq, r, e);
}

void control_event(void *opaque, const struct vm_event *ev)
{
	struct control *c = opaque;

	/* The process that hands the VM over ignores events, and may have ended: its VM_MSG_GO may still be unread. A
	 * daemon that connects queries the VM. */
	if (!c->awaits_go)
		control_send(c, VM_MSG_EVENT, 0, ev, sizeof(*ev));
}

void control_configured(struct control *c, int r, const struct err *e)
{
	struct vm_reply body = { 0 };

	if (r < 0) {
		control_reply(c, c->config_seq, r, e);
		return;
	}
	if (c->vm)
		vm_processor_note(c->vm, body.msg, sizeof(body.msg));
	control_send(c, VM_MSG_REPLY, c->config_seq, &body, sizeof(body));
}

/* ---- requests to the VM ---- */

static int cont_request(struct control *c, struct channel_msg *m, struct err *e)
{
	(void)m;
	c->awaits_cont = false;
	return vm_cont(c->vm, VM_REASON_USER, e);
}

static int stop_request(struct control *c, struct channel_msg *m, struct err *e)
{
	(void)m;
	return vm_stop(c->vm, VM_REASON_USER, e);
}

static int powerdown_request(struct control *c, struct channel_msg *m, struct err *e)
{
	(void)m;
	return vm_powerdown(c->vm, e);
}

static int reset_request(struct control *c, struct channel_msg *m, struct err *e)
{
	(void)m;
	return vm_reset(c->vm, e);
}

static int nmi_request(struct control *c, struct channel_msg *m, struct err *e)
{
	(void)m;
	return vm_nmi(c->vm, e);
}

static int cancel_request(struct control *c, struct channel_msg *m, struct err *e)
{
	(void)m;
	if (c->clones && clone_disks_cancel(c->clones))
		return 0;
	return !vm_works(c->vm) && control_work_cancel_held(c) ? 0 : vm_work_cancel(c->vm, e);
}

static int config_request(struct control *c, struct channel_msg *m, struct err *e)
{
	(void)c;
	(void)m;
	return err_set(e, -EINVAL, ERR_WRONG_STATE, "the VM is configured already");
}

static int console_request(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_console *want = m->body;
	int r;

	if (m->nfds != 1)
		return err_set(e, -EINVAL, ERR_INVALID, "a console request needs a socket");
	memset((char *)want + m->head.body_bytes, 0, sizeof(*want) - m->head.body_bytes);
	r = machine_console_attach(vm_machine(c->vm), want, m->fds[0], e);
	if (!r)
		m->nfds = 0; /* the console has taken the fd */
	return r;
}

static int console_end_request(struct control *c, struct channel_msg *m, struct err *e)
{
	return machine_consoles_end(vm_machine(c->vm), m->body, m->head.body_bytes, e);
}

static int vsock_request(struct control *c, struct channel_msg *m, struct err *e)
{
	int r = machine_vsock_connect(vm_machine(c->vm), m, control_answer_late, c, e);

	return r < 0 ? r : LATER;
}

static int work_request(struct control *c, struct channel_msg *m, struct err *e)
{
	if (!vm_works(c->vm) || !c->work_type)
		return err_set(e, -ENOENT, ERR_WRONG_STATE, "no work is under way");
	c->work_seq = m->head.seq;
	return LATER;
}

static int quit_request(struct control *c, struct channel_msg *m, struct err *e)
{
	(void)m;
	(void)e;
	vm_end(c->vm, VM_REASON_USER, 0, NULL);
	return 0;
}

static void pins_delete(struct control *c);

static void save_done(void *opaque, int r, const struct err *e)
{
	struct control *c = opaque;

	control_reply(c, c->work_seq, r, e);
	pins_delete(c);
}

static int save_request(struct control *c, struct channel_msg *m, struct err *e)
{
	/* An older daemon does not send them. */
	const struct vm_save_devices *devices = m->head.body_bytes >= offsetof(struct vm_save_devices, interfaces) ? m->body : NULL;
	bool disks_only = m->head.body_bytes < sizeof(*devices);
	unsigned n = m->nfds;

	m->nfds = 0; /* vm_save() takes the fds */
	return n ? vm_save(c->vm, c->worker, devices, disks_only, m->fds[0], n > 1 ? m->fds[1] : -1, save_done, c, e) :
		err_set(e, -EINVAL, ERR_INVALID, "a save needs a file");
}

/* ---- handover ---- */

/* Refuse requests during a handover: the disks' threads may be stopped, and the other process would not know of a
 * change. */
static int handover_refuse(const struct control *c, unsigned type, struct err *e)
{
	if (c->awaits_go && type != VM_MSG_GO)
		return err_set(e, -EBUSY, ERR_BUSY, "another process still has the VM");
	/* VM_MSG_GO has the clients that are still attached. */
	if (c->handing_over && type != VM_MSG_QUERY && type != VM_MSG_QUIT && type != VM_MSG_CANCEL && type != VM_MSG_CONSOLE_END)
		return err_set(e, -EBUSY, ERR_BUSY, "the VM is being handed over to a new process; try again in a moment");
	return 0;
}

/* Refuse the requests that are still unread, and take no more. The kernel tells the daemon that it cannot send, so it
 * keeps its next requests for the other process, and does not wonder whether this one has carried them out. */
static void handover_leave(void *opaque)
{
	struct control *c = opaque;
	struct channel_msg m;
	struct err e;

	c->left = shutdown(c->peer_fd, SHUT_RD) == 0;
	while (c->left && channel_recv(c->peer_fd, VM_MSG_VERSION, vm_msg_to_vm, VM_MSG_TYPE_COUNT, c->buf, &m) == 1) {
		if (handover_refuse(c, m.head.type, &e) < 0)
			control_reply(c, m.head.seq, -EBUSY, &e);
		channel_msg_close_fds(&m);
	}
}

static void handover_failed(void *opaque, int r, const struct err *e)
{
	struct control *c = opaque;

	c->handing_over = false;
	save_done(c, r, e);
	if (c->left && c->peer_fd >= 0)
		peer_lost(c); /* the daemon connects again */
	c->left = false;
}

static int handover_request(struct control *c, struct channel_msg *m, struct err *e)
{
	unsigned n = m->nfds;
	int r;

	if (n != 2)
		return err_set(e, -EINVAL, ERR_INVALID, "a handover needs a socket and a file");
	/* This process ends in the handover, and its end would wait for the file. */
	if (c->screenshot)
		return err_set(e, -EBUSY, ERR_BUSY, "a screenshot of the VM is being written; try again afterwards");
	m->nfds = 0; /* taken */
	r = vm_handover(c->vm, c->worker, m->fds[0], m->fds[1], c->listen_fd, handover_leave, handover_failed, c, e);
	c->handing_over = !r;
	if (!r)
		control_changes_run(c, UINT64_MAX); /* refuses them: the other process would not get them */
	return r;
}

static int listen_begin(struct control *c);

static int go_request(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_go clients = { 0 };

	if (!c->awaits_go)
		return err_set(e, -EINVAL, ERR_WRONG_STATE, "no VM is being handed over to this process");
	c->awaits_go = false;
	memcpy(&clients, m->body, m->head.body_bytes);
	machine_carry_attach(vm_machine(c->vm), &clients, m->fds, m->nfds);
	m->nfds = 0; /* taken */
	vm_handover_done(c->vm);
	/* Without the watch, the VM would run unmanaged. */
	if (listen_begin(c) < 0)
		vm_end(c->vm, VM_REASON_HOST_ERROR, 0, "control socket");
	return LATER; /* no answer: the other process ends after VM_MSG_GO */
}

/* ---- snapshots ---- */

static void create_done(void *opaque, const struct vm_snapshot_done *d)
{
	struct control *c = opaque;

	c->for_daemon = false;
	control_send(c, VM_MSG_SNAPSHOT_DONE, c->work_seq, d, sizeof(*d));
	pins_delete(c);
}

void control_work_done(void *opaque, const struct vm_snapshot_done *d)
{
	struct control *c = opaque;
	struct err e = { .cls = d->cls };

	c->for_daemon = false;
	snprintf(e.msg, sizeof(e.msg), "%s", d->msg);
	save_done(opaque, d->error, &e);
}

static int snapshot_list_request(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_snapshot_list *want = m->body;
	CLEANUP_FREE struct vm_snapshots *page = malloc(sizeof(*page));
	int r = page ? vm_snapshot_list(c->vm, want->from, page, e) : -ENOMEM;

	if (r < 0)
		return r;
	control_send(c, VM_MSG_SNAPSHOTS, m->head.seq, page,
		offsetof(struct vm_snapshots, list) + page->n * sizeof(page->list[0]));
	return LATER;
}

struct later_answer {
	struct control *control;
	uint64_t seq;
};

static struct later_answer *later_answer_new(struct control *c, const struct channel_msg *m)
{
	struct later_answer *l = malloc(sizeof(*l));

	if (l)
		*l = (struct later_answer){ c, m->head.seq };
	return l;
}

static void snapshot_changed(void *opaque, int r, const struct err *e)
{
	struct later_answer l = *(struct later_answer *)opaque;

	free(opaque);
	vm_plug_remove_released(l.control->vm);
	control_reply(l.control, l.seq, r, e);
}

static int snapshot_set_request(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_snapshot_set *s = m->body;
	struct later_answer *l;
	int r = worker_start(c->worker, e);

	if (r < 0)
		return r;
	l = later_answer_new(c, m);
	if (!l)
		return -ENOMEM;
	TERMINATE(s->name);
	TERMINATE(s->new_name);
	TERMINATE(s->description);
	TERMINATE(s->tags);
	r = vm_snapshot_set(c->vm, c->worker, s, snapshot_changed, l, e);
	if (r < 0)
		free(l);
	return r < 0 ? r : LATER;
}

static void snapshot_sized(void *opaque, int r, const struct vm_snapshot_info *info,
	const struct err *e)
{
	struct later_answer s = *(struct later_answer *)opaque;
	struct vm_snapshots *page = r < 0 ? NULL : calloc(1, sizeof(*page));

	vm_plug_remove_released(s.control->vm);
	free(opaque);
	if (page) {
		page->total = page->n = 1;
		page->list[0] = *info;
		control_send(s.control, VM_MSG_SNAPSHOTS, s.seq, page,
			offsetof(struct vm_snapshots, list) + sizeof(page->list[0]));
	} else {
		control_reply(s.control, s.seq, r < 0 ? r : -ENOMEM, e);
	}
	free(page);
}

static int snapshot_size_request(struct control *c, struct channel_msg *m, struct err *e)
{
	struct later_answer *s = later_answer_new(c, m);
	struct vm_snapshot_name *name = m->body;
	int r;

	if (!s)
		return -ENOMEM;
	TERMINATE(name->name);
	r = vm_snapshot_size(c->vm, name->name, snapshot_sized, s, e);
	if (r < 0)
		free(s);
	return r < 0 ? r : LATER;
}

static int snapshot_create_request(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_snapshot_create *what = m->body;
	int r = vm_snapshot_create(c->vm, c->worker, what, create_done, c, e);

	/* A group's snapshots are made all or none. Only a daemon can ensure that, so the work ends with the daemon. */
	c->for_daemon = c->for_daemon || (!r && what->group);
	return r;
}

static int snapshot_go_request(struct control *c, struct channel_msg *m, struct err *e)
{
	return vm_snapshot_go(c->vm, m->body, e);
}

static int snapshot_revert_request(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_snapshot_revert *v = m->body;
	int r = vm_snapshot_revert(c->vm, c->worker, v, v->wants_done ? create_done : control_work_done, c, e);

	if (!r && v->look_only)
		c->work_type = 0; /* changes nothing */
	return r;
}

static int snapshot_delete_request(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_snapshot_name *name = m->body;

	TERMINATE(name->name);
	return vm_snapshot_delete(c->vm, c->worker, name->name, control_work_done, c, e);
}

static int disk_pull_request(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_disk_pull *what = m->body;
	int r;

	TERMINATE(what->disk);
	r = vm_disk_pull(c->vm, c->worker, what, control_work_done, c, e);
	/* If the daemon ends, peer_lost() cancels the pull: the next daemon begins it again, because only a daemon can
	 * change the definition afterwards. */
	c->for_daemon = c->for_daemon || !r;
	return r;
}

/* ---- forks, pins and dumps ---- */

static int fork_request(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_fork *what = m->body;
	int r;

	/* An older daemon sends a shorter struct. */
	memset((char *)what + m->head.body_bytes, 0, sizeof(*what) - m->head.body_bytes);
	TERMINATE(what->snapshot);
	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		TERMINATE(what->pins[i].path);
	/* The daemon has sent this before, unless the message was lost because the socket had no room. */
	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		vm_pins_unset_idle(vm_machine(c->vm), what->shared[i]);
	r = m->nfds ? vm_fork(c->vm, c->worker, what, m->fds, m->nfds, create_done, c, e) :
		err_set(e, -EINVAL, ERR_INVALID, "a fork needs a file");
	if (!r) {
		m->nfds = 0; /* vm_fork() has taken the fds */
		c->for_daemon = true;
	}
	return r;
}

static void pins_deleted(void *opaque, int r, const struct err *e)
{
	struct control *c = opaque;

	c->pins.under_way = false;
	vm_plug_remove_released(c->vm);
	control_reply(c, c->pins.seq, r, e);
	pins_delete(c);
}

/* Delete the pins of the next request if no work is in progress; otherwise the end of the work calls this function
 * again. */
static void pins_delete(struct control *c)
{
	struct err e;
	int r;

	if (!c->pins.waits || c->pins.under_way || vm_works(c->vm) || vm_phase(c->vm) == VM_PHASE_ENDED)
		return;
	c->pins.waits = false;
	c->pins.under_way = true;
	c->pins.seq = c->pins.next_seq;
	r = vm_pins_delete(c->vm, c->worker, &c->pins_next, pins_deleted, c, &e);
	if (r < 0)
		pins_deleted(c, r, &e);
}

static int pins_delete_request(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_pins *pins = m->body;
	int r = worker_start(c->worker, e);

	if (r < 0)
		return r;
	if (pins->n > VM_PINS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "more than %d pins", VM_PINS_MAX);
	/* A newer request replaces one that still waits; the replaced one gets no answer. */
	c->pins_next = *pins;
	c->pins.next_seq = m->head.seq;
	c->pins.waits = true;
	pins_delete(c);
	return LATER;
}

static int pins_idle_request(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_pins *pins = m->body;

	if (pins->n > VM_PINS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "more than %d pins", VM_PINS_MAX);
	return vm_pins_set_idle(c->vm, pins, e);
}

static int watchdog_request(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_watchdog *want = m->body;

	if (want->action >= VM_WATCHDOG_ACTION_COUNT)
		return err_set(e, -EINVAL, ERR_INVALID, "unknown watchdog action %u", want->action);
	vm_set_watchdog(c->vm, (enum vm_watchdog_action)want->action);
	return 0;
}

static int reclaim_request(struct control *c, struct channel_msg *m, struct err *e)
{
	(void)m;
	return vm_reclaim(c->vm, c->worker, create_done, c, e);
}

static int balloon_set_request(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_balloon_set *want = m->body;
	int r = want->set_period && want->period_s > VM_BALLOON_PERIOD_MAX_S ?
		err_set(e, -EINVAL, ERR_INVALID, "the period of the statistics is at most %d s", VM_BALLOON_PERIOD_MAX_S) :
		machine_balloon_set(vm_machine(c->vm), want, m->head.seq, control_answer_late, c, e);

	return r < 0 ? r : LATER;
}

static int vcpus_request(struct control *c, struct channel_msg *m, struct err *e)
{
	return vm_vcpus(c->vm, m->body, e);
}

static void dump_done(void *opaque, const struct vm_snapshot_done *d)
{
	struct control *c = opaque;

	c->awaits_cont = c->dump_stays && !d->error;
	create_done(c, d);
	if (c->peer_fd < 0)
		resume_after_dump(c);
}

static int dump_request(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_dump *how = m->body;
	bool stays = how->stay && vm_phase(c->vm) == VM_PHASE_RUNNING;
	unsigned n = m->nfds;
	int r;

	m->nfds = 0; /* vm_dump() takes the fd */
	r = n ? vm_dump(c->vm, c->worker, how, m->fds[0], dump_done, c, e) :
		err_set(e, -EINVAL, ERR_INVALID, "a dump needs a file");
	if (r < 0)
		return r;
	c->dump_stays = stays;
	c->work_then = m->head.body_bytes > offsetof(struct vm_dump, then) ? how->then : 0; /* an older daemon sends none */
	return r;
}

/* ---- the table of requests, and the socket ---- */

/* Handlers by message type; vm_msg_to_vm has the body size and the number of fds of each.
 * is_work: the message starts long-running work (one at a time), which answers with work_seq when
 * it ends. waits: the work waits until no sizes of snapshots are computed. */
static const struct {
	int (*handle)(struct control *c, struct channel_msg *m, struct err *e);
	bool is_work, waits;
} requests[VM_MSG_TYPE_COUNT] = {
	[VM_MSG_CONFIG] = { config_request, false },
	[VM_MSG_CONT] = { cont_request, false },
	[VM_MSG_STOP] = { stop_request, false },
	[VM_MSG_POWERDOWN] = { powerdown_request, false },
	[VM_MSG_RESET] = { reset_request, false },
	[VM_MSG_QUIT] = { quit_request, false },
	[VM_MSG_QUERY] = { control_query, false },
	[VM_MSG_WORK] = { work_request, false },
	[VM_MSG_CONSOLE] = { console_request, false },
	[VM_MSG_CONSOLE_END] = { console_end_request, false },
	[VM_MSG_VSOCK] = { vsock_request, false },
	[VM_MSG_NMI] = { nmi_request, false },
	[VM_MSG_AGENT] = { control_agent, false },
	[VM_MSG_SAVE] = { save_request, true },
	[VM_MSG_CANCEL] = { cancel_request, false },
	[VM_MSG_SNAPSHOT_CREATE] = { snapshot_create_request, true },
	[VM_MSG_SNAPSHOT_GO] = { snapshot_go_request, false },
	[VM_MSG_SNAPSHOT_LIST] = { snapshot_list_request, false },
	[VM_MSG_SNAPSHOT_REVERT] = { snapshot_revert_request, true },
	[VM_MSG_SNAPSHOT_DELETE] = { snapshot_delete_request, true },
	[VM_MSG_SNAPSHOT_SET] = { snapshot_set_request, false },
	[VM_MSG_SNAPSHOT_SIZE] = { snapshot_size_request, false },
	[VM_MSG_DUMP] = { dump_request, true },
	[VM_MSG_SPACE] = { control_space, false },
	[VM_MSG_ADDRESSES] = { control_addresses, false },
	[VM_MSG_AGENT_COMMAND] = { control_agent_command, false },
	[VM_MSG_WATCHDOG] = { watchdog_request, false },
	[VM_MSG_INTERFACE_SET] = { control_interface_set, false },
	[VM_MSG_DISK_SET] = { control_disk_set, false },
	[VM_MSG_PLUG] = { control_change, false },
	[VM_MSG_UNPLUG] = { control_change, false },
	[VM_MSG_MEDIUM_SET] = { control_change, false },
	[VM_MSG_RECLAIM] = { reclaim_request, true },
	[VM_MSG_BALLOON_SET] = { balloon_set_request, false },
	[VM_MSG_PCI] = { control_pci, false },
	[VM_MSG_DIRTY_RATE] = { control_dirty_rate, false },
	[VM_MSG_VCPUS] = { vcpus_request, false },
	[VM_MSG_CLONE_DISK] = { control_clone_disk, false },
	[VM_MSG_DISK_PULL] = { disk_pull_request, true },
	[VM_MSG_DISK_COPY] = { control_disk_copy, true },
	[VM_MSG_DISK_COPY_END] = { control_disk_copy_end, true, true },
	[VM_MSG_DISK_PIVOT] = { control_disk_pivot, true, true },
	[VM_MSG_DISK_LAYERS] = { control_disk_layers, true, true },
	[VM_MSG_DISK_COMMIT] = { control_disk_commit, true, true },
	[VM_MSG_SCREENSHOT] = { control_screenshot, false },
	[VM_MSG_SEND_KEYS] = { control_send_keys, false },
	[VM_MSG_INPUT] = { control_input, false },
	[VM_MSG_PAGE] = { control_page, false },
	[VM_MSG_FIRST_PAGES] = { control_first_pages, false },
	[VM_MSG_DISK_RESIZE] = { control_disk_resize, true, true },
	[VM_MSG_FORK] = { fork_request, true },
	[VM_MSG_PINS_DELETE] = { pins_delete_request, false },
	[VM_MSG_PINS_IDLE] = { pins_idle_request, false },
	[VM_MSG_HANDOVER] = { handover_request, true },
	[VM_MSG_GO] = { go_request, false },
	[VM_MSG_MEMORY] = { config_request, false },
	[VM_MSG_SPARE] = { config_request, false },
};

/* Return vm_info.work for a request. */
static uint8_t type_to_adopt(unsigned request)
{
	return request == VM_MSG_SNAPSHOT_CREATE || request == VM_MSG_SNAPSHOT_DELETE || request == VM_MSG_SNAPSHOT_REVERT ||
		request == VM_MSG_DUMP ? (uint8_t)request : 0;
}

/* channel_recv() passes only types that vm_msg_to_vm knows, and each of those has a row. If work
 * cannot begin, the work in progress keeps its own work_seq. */
void control_request_begin(struct control *c, struct channel_msg *m, bool waited)
{
	bool waits = requests[m->head.type].waits && !vm_works(c->vm) && vm_disks_are_read(c->vm);
	bool is_work = requests[m->head.type].is_work && !waits;
	uint64_t before = c->work_seq;
	uint8_t type_before = c->work_type;
	struct err e = { 0 };
	int r = handover_refuse(c, m->head.type, &e);

	if (!r && waits)
		r = waited ? vm_disks_busy(&e) : control_work_hold(c, m, &e);
	if (!r && is_work)
		r = worker_start(c->worker, &e);
	if (is_work && !r) {
		c->work_seq = m->head.seq;
		c->work_type = type_to_adopt(m->head.type);
	}
	if (!r)
		r = requests[m->head.type].handle(c, m, &e);
	if (is_work && r < 0) {
		c->work_seq = before;
		c->work_type = type_before;
	}
	if (r < 0 || (r != LATER && !is_work))
		control_reply(c, m->head.seq, r, &e);
}

static void peer_ready(void *opaque, unsigned revents)
{
	struct control *c = opaque;
	struct channel_msg m;
	struct err e;
	int r;

	(void)revents;
	if (send_queue_waits(&c->waiting))
		peer_sent(c, send_queue_flush(&c->waiting, c->peer_fd));
	if (c->peer_fd < 0 || send_queue_full(&c->waiting))
		return;
	r = channel_recv(c->peer_fd, VM_MSG_VERSION, vm_msg_to_vm, VM_MSG_TYPE_COUNT, c->buf, &m);
	if (r == -EAGAIN)
		return;
	/* Reply in this process's version, so that the daemon sees which one it is. */
	if (r == -EPROTONOSUPPORT) {
		err_set(&e, r, ERR_UNSUPPORTED, "this process speaks version %d of the protocol", VM_MSG_VERSION);
		control_reply(c, m.head.seq, r, &e);
	}
	if (r <= 0) {
		if (r < 0)
			log_warn(NULL, "control: %s; closing the connection", strerror(-r));
		peer_lost(c);
		return;
	}
	control_request_begin(c, &m, false);
	channel_msg_close_fds(&m);
}

static int peer_watch_begin(struct control *c)
{
	int flags = fcntl(c->peer_fd, F_GETFL);

	if (flags < 0 || fcntl(c->peer_fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return loop_watch(c->loop, c->peer_fd, POLLIN, peer_ready, c, &c->peer_watch);
}

static void listen_ready(void *opaque, unsigned revents)
{
	struct control *c = opaque;
	int fd;

	(void)revents;
	fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	/* The end of the earlier connection may be unread yet. */
	if (c->peer_fd >= 0)
		peer_lost(c);
	c->peer_fd = fd;
	if (peer_watch_begin(c) < 0)
		peer_drop(c);
}

/* ---- creating and freeing ---- */

struct memory *control_memory(struct control *c)
{
	return c->memory;
}

int control_peer_fd(const struct control *c)
{
	return c->peer_fd;
}

static int config_receive(struct control *c, int *pagemap_fd, const struct vm_config **ret_cfg, int *fds, unsigned *nfds,
	struct err *e)
{
	struct first_messages first = { .fd = c->peer_fd, .takes_over = c->awaits_go, .buf = c->buf,
		.pagemap_fd = pagemap_fd };
	int r = first_messages_receive(&first, ret_cfg, fds, nfds, e);

	c->config_seq = first.seq;
	c->memory = first.memory;
	if (r < 0 || !c->awaits_go)
		return r;
	c->listen_fd = steal_fd(&fds[(*ret_cfg)->taken.listen_fd]);
	return 0;
}

int control_new(int listen_fd, int channel_fd, bool takes_over, int *pagemap_fd, struct control **ret_c,
	const struct vm_config **ret_cfg, int *fds, unsigned *nfds, struct err *e)
{
	struct control *c = malloc(sizeof(*c));
	int r = 0;

	if (!c)
		return err_set_errno(e, -ENOMEM, "control");
	memset(c, 0, offsetof(struct control, pins_next));
	c->listen_fd = listen_fd;
	c->peer_fd = channel_fd;
	c->awaits_go = takes_over;
	if (channel_fd < 0)
		r = c->peer_fd = first_messages_accept(listen_fd, CLIENT_WAIT_MS, e);
	if (r >= 0)
		r = config_receive(c, pagemap_fd, ret_cfg, fds, nfds, e);
	if (r < 0) {
		control_configured(c, r, e);
		control_free(c);
		return r;
	}
	*ret_c = c;
	return 0;
}

static int listen_begin(struct control *c)
{
	return loop_watch(c->loop, c->listen_fd, POLLIN, listen_ready, c, &c->listen_watch);
}

/* Give back the memory of the configuration, of which the machine has a copy. Most requests are shorter. */
static void config_release(struct control *c)
{
	uintptr_t from = ROUND_UP((uintptr_t)c->buf, 4096), end = ROUND_DOWN((uintptr_t)c->buf + sizeof(struct vm_config), 4096);

	(void)madvise((void *)from, end - from, MADV_DONTNEED);
}

int control_serve(struct control *c, struct loop *l, struct vm *vm, struct err *e)
{
	int r = 0;

	config_release(c);
	c->loop = l;
	c->vm = vm;
	if (c->listen_fd >= 0 && !c->awaits_go)
		r = listen_begin(c);
	if (!r && c->peer_fd >= 0)
		r = peer_watch_begin(c);
	return r < 0 ? err_set_errno(e, r, "control socket") : 0;
}

void control_set_worker(struct control *c, struct worker *w)
{
	c->worker = w;
}

void control_free(struct control *c)
{
	if (!c)
		return;
	clone_disks_free(c->clones);
	control_keys_free(c);
	loop_timer_free(c->changes_timer);
	send_queue_finish(&c->waiting, c->peer_fd);
	peer_drop(c);
	loop_unwatch(c->listen_watch);
	if (c->listen_fd >= 0)
		close(c->listen_fd);
	if (c->memory)
		memory_done(c->memory);
	free(c->memory);
	free(c);
}
