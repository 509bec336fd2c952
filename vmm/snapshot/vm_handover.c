#include "vmm/snapshot/vm_handover.h"
#include "base/channel.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "snapshot/state.h"
#include "vmm/kvm/memory.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_carry.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/ram_carry.h"
#include "vmm/machine/ram_load.h"
#include "vmm/machine/vm.h"
#include "vmm/machine/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The vCPUs are stopped until the successor answers. Only a successor that hangs takes this long. */
#define ANSWER_TIMEOUT_NS (20 * 1000000000ULL)

_Static_assert(BLOCK_LAYERS_MAX == VM_DISK_LAYERS_MAX, "a configuration holds all layers of a disk");

struct handover {
	struct work work;
	struct vm *vm;
	struct machine *m;
	struct worker *worker;
	struct loop *loop;
	int pair, state_fd, listen_fd; /* the first two owned */
	bool paused, memory_sent;
	struct loop_watch *watch; /* NULL: no answer is due */
	struct loop_timer *timer;
	struct vm_config cfg; /* for the successor */
	int fds[CHANNEL_FDS_MAX]; /* files for the successor; borrowed */
	unsigned nfds;
	struct state_writer sections;
	struct ram_carry carry; /* zeroed: the VM's memory is not a private view */
	int r;
	struct err e;
	void (*leave)(void *opaque);
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
	_Alignas(16) uint8_t buf[CHANNEL_BODY_MAX];
};

static void handover_free(struct handover *h)
{
	loop_unwatch(h->watch);
	loop_timer_free(h->timer);
	state_writer_done(&h->sections);
	if (h->pair >= 0)
		close(h->pair);
	close(h->state_fd);
	free(h);
}

/* Continue the VM in this process, and report h->r and h->e. Closing the socket pair makes the successor end. */
static void handover_fail(struct handover *h)
{
	struct err e;

	/* Waking the disks runs the loop, which would report the successor's end or its delay once more. */
	loop_timer_disarm(h->timer);
	loop_unwatch(h->watch);
	h->watch = NULL;
	log_warn(NULL, "a handover is not possible: %s", h->e.msg);
	close(h->pair);
	h->pair = -1;
	machine_carry_release(h->m);
	ram_carry_done(&h->carry); /* before vm_work_end(), which may reset the VM */
	if (h->paused && machine_wake_disks(h->m, &e) < 0) {
		vm_work_end(h->vm);
		vm_end(h->vm, VM_REASON_HOST_ERROR, 0, e.msg);
	} else {
		vm_work_end(h->vm);
		if (h->paused)
			vm_handover_failed(h->vm);
	}
	h->done(h->opaque, h->r, &h->e);
	handover_free(h);
}

/* ---- the successor's files ---- */

static uint16_t fd_add(struct handover *h, int fd)
{
	if (fd < 0)
		return VM_NO_FD;
	if (h->nfds < CHANNEL_FDS_MAX)
		h->fds[h->nfds] = fd;
	return (uint16_t)h->nfds++;
}

static void disk_add(struct handover *h, struct vm_disk *d, const struct block *b)
{
	struct block_layer layers[BLOCK_LAYERS_MAX];

	d->nlayers = (uint16_t)block_layers(b, layers);
	for (unsigned i = 0; i < d->nlayers; i++) {
		d->fd[i] = fd_add(h, layers[i].fd);
		d->data_fd[i] = fd_add(h, layers[i].data_fd ? layers[i].data_fd : -1);
		d->format[i] = (uint8_t)layers[i].format;
	}
}

/* Fill in the fds of h->cfg. Returns 0; -ENOTSUP: too many for one message. */
static int files_add(struct handover *h, struct err *e)
{
	struct vm_config *c = &h->cfg;
	struct machine *m = h->m;

	h->nfds = 0;
	c->kernel_fd = fd_add(h, m->kernel_fd);
	c->initrd_fd = fd_add(h, m->initrd_fd);
	c->network_rom_fd = fd_add(h, m->network_rom_fd);
	c->screen_rom_fd = fd_add(h, m->screen_rom_fd);
	c->nvram_fd = fd_add(h, m->nvram_fd);
	c->nvram_template_fd = fd_add(h, m->nvram_template_fd);
	c->working_sets_fd = fd_add(h, m->working_sets_fd);
	c->log_fd = c->end_fd = VM_NO_FD; /* the daemon started the successor with both */
	c->restore_fd = fd_add(h, h->state_fd);
	c->taken.ram_fd = memory_view(&m->mem) ? VM_NO_FD : fd_add(h, m->mem.fd);
	c->taken.listen_fd = fd_add(h, h->listen_fd);
	for (unsigned i = 0; i < m->ndisks; i++)
		disk_add(h, &c->disks[i], m->disks[i].block);
	for (unsigned i = 0; i < m->nnics; i++) {
		c->vhost[i] = m->nics[i].is_uncounted ? VM_VHOST_BEFORE : VM_VHOST_NO;
		c->interfaces[i].tap_fd = fd_add(h, m->nics[i].tap_fd);
		for (unsigned k = 1; k < m->nics[i].pairs; k++)
			c->pair_fds[i][k - 1] = fd_add(h, m->nics[i].more_fds[k - 1]);
	}
	c->vsock_listen_fd = fd_add(h, m->vsock_listen_fd);
	c->vsock_dial_fd = fd_add(h, m->vsock_dial_fd);
	for (unsigned i = 0; i < m->nshares; i++)
		c->shares[i].fd = fd_add(h, m->share_fds[i]);
	c->display = 0;
	return h->nfds <= CHANNEL_FDS_MAX ? 0 :
		err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VM has more open files than one message can carry (%u of %d)",
			h->nfds, CHANNEL_FDS_MAX);
}

/* ---- messages to the successor ---- */

static void pair_ready(void *opaque, unsigned revents);

static int successor_ended(struct handover *h)
{
	return err_set(&h->e, -EPIPE, ERR_GENERIC, "the new process ended before it took the VM over; its log has the reason");
}

/* Send a message with h->fds, which the successor answers. Until then no work of the handover runs on the worker. */
static int successor_ask(struct handover *h, enum vm_msg_type type, const void *body, size_t len)
{
	int r = loop_watch(h->loop, h->pair, POLLIN, pair_ready, h, &h->watch);

	if (!r)
		r = channel_send(h->pair, VM_MSG_VERSION, (uint16_t)type, 1, body, len, h->fds, h->nfds);
	if (r == -EPIPE)
		return successor_ended(h);
	if (r < 0)
		return err_set_errno(&h->e, r, "cannot send the VM's state to the new process");
	loop_timer_arm(h->timer, loop_now_ns() + ANSWER_TIMEOUT_NS);
	return 0;
}

/* ---- steps 5 and 6 ---- */

static void go(struct handover *h)
{
	struct vm_go clients;

	h->leave(h->opaque);
	machine_carry_clients(h->m, &clients, h->fds);
	log_info(NULL, "the VM continues in another process");
	h->r = channel_send(h->pair, VM_MSG_VERSION, VM_MSG_GO, 0, &clients,
		offsetof(struct vm_go, clients) + clients.n * sizeof(clients.clients[0]), h->fds, clients.n);
	/* From here on the images, the memory and the sockets are the successor's. */
	if (!h->r)
		_exit(0);
	successor_ended(h);
	handover_fail(h);
}

static void answered(struct handover *h, struct vm_reply *reply)
{
	reply->msg[sizeof(reply->msg) - 1] = 0;
	if (reply->error)
		h->r = err_set(&h->e, -EREMOTEIO, reply->cls < ERR_CLASS_COUNT ? (enum err_class)reply->cls : ERR_GENERIC,
			"the new process cannot take the VM over: %s", reply->msg);
	else if (h->paused)
		h->r = vm_handover_check(h->vm, &h->e);
	if (!h->r && vm_work_cancelled(h->vm))
		h->r = err_set(&h->e, -ECANCELED, ERR_CANCELLED, "the restart was cancelled");
	loop_timer_disarm(h->timer);
	loop_unwatch(h->watch);
	h->watch = NULL;
	if (h->r < 0)
		handover_fail(h);
	else if (h->paused)
		go(h);
	else
		worker_submit(h->worker, h->loop, &h->work); /* the next piece of a clone's memory */
}

static void pair_ready(void *opaque, unsigned revents)
{
	struct handover *h = opaque;
	struct channel_msg m;
	int r = channel_recv(h->pair, VM_MSG_VERSION, vm_msg_from_vm, VM_MSG_TYPE_COUNT, h->buf, &m);

	(void)revents;
	if (r == -EAGAIN || (r > 0 && m.head.type != VM_MSG_REPLY))
		return; /* ignore the successor's events, which are for a daemon */
	if (r > 0) {
		answered(h, m.body);
		return;
	}
	h->r = successor_ended(h);
	handover_fail(h);
}

static void answer_late(void *opaque)
{
	struct handover *h = opaque;

	h->r = err_set(&h->e, -ETIMEDOUT, ERR_TIMEOUT, "the new process did not take the VM over within %llu s",
		ANSWER_TIMEOUT_NS / 1000000000);
	handover_fail(h);
}

/* ---- steps 1 to 4 ---- */

/* Sets h->r to 1 if a piece of a clone's memory is ready for the successor. */
static void prepare_run(struct work *w)
{
	struct handover *h = container_of(w, struct handover, work);

	h->r = ram_wait(h->m, &h->e);
	if (!h->r && memory_view(&h->m->mem))
		h->r = ram_carry_next(&h->carry, h->vm, &h->e);
	for (unsigned i = 0; i < h->m->ndisks && !h->r; i++)
		h->r = disk_flush(&h->m->disks[i], &h->e);
}

static void flush_run(struct work *w)
{
	struct handover *h = container_of(w, struct handover, work);

	h->r = machine_flush_disks(h->m, &h->e);
	if (!h->r && h->carry.m)
		h->r = ram_carry_finish(&h->carry, &h->e);
	if (h->r < 0)
		return;
	h->r = pwrite_full(h->state_fd, h->sections.buf, h->sections.len, 0);
	if (h->r < 0)
		err_set_errno(&h->e, h->r, "cannot write the VM's state");
}

static int memory_send(struct handover *h)
{
	const struct memory *mem = &h->m->mem;
	struct vm_memory body = { mem->bytes, mem->view.base_offset };

	h->nfds = 0;
	if (!h->memory_sent) {
		fd_add(h, mem->view.base_fd);
		fd_add(h, mem->fd);
	}
	h->memory_sent = true;
	return successor_ask(h, VM_MSG_MEMORY, &body, sizeof(body));
}

static int successor_configure(struct handover *h)
{
	int r = files_add(h, &h->e); /* again: a pull may have ended, and dropped layers */

	return r < 0 ? r : successor_ask(h, VM_MSG_CONFIG, &h->cfg, sizeof(h->cfg));
}

static void flushed(struct work *w)
{
	struct handover *h = container_of(w, struct handover, work);

	if (!h->r)
		h->r = successor_configure(h);
	if (h->r < 0)
		handover_fail(h);
}

static int carry_freeze(struct handover *h)
{
	int r = ram_carry_freeze(&h->carry, &h->e);

	h->cfg.copy_rounds = (uint8_t)h->carry.save.rounds;
	h->cfg.copy_throttle = (uint8_t)h->carry.save.throttle;
	h->cfg.copy_stopped = h->carry.save.stays_paused;
	return r;
}

static void prepared(struct work *w)
{
	struct handover *h = container_of(w, struct handover, work);

	if (h->r > 0) {
		h->r = memory_send(h);
		if (h->r < 0)
			handover_fail(h);
		return;
	}
	if (!h->r && vm_work_cancelled(h->vm))
		h->r = err_set(&h->e, -ECANCELED, ERR_CANCELLED, "the restart was cancelled");
	if (!h->r) {
		h->r = vm_handover_pause(h->vm, &h->cfg, &h->e);
		h->paused = !h->r;
	}
	if (!h->r)
		h->r = machine_save(h->m, &h->sections, &h->e);
	if (!h->r && h->carry.m)
		h->r = carry_freeze(h);
	if (!h->r) {
		machine_carry_save(h->m, &h->sections);
		if (h->sections.failed)
			h->r = err_set_errno(&h->e, -ENOMEM, "VM state");
	}
	if (h->r < 0) {
		handover_fail(h);
		return;
	}
	h->work.run = flush_run;
	h->work.done = flushed;
	worker_submit(h->worker, h->loop, &h->work);
}

static int handover_check(struct handover *h, struct err *e)
{
	if (h->m->cfg.images_only)
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "the VM is off, so a handover is not possible");
	if (h->listen_fd < 0)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VM's process has no listening socket");
	return vm_check_keepable(h->vm, e);
}

static int handover_begin(struct handover *h, struct err *e)
{
	int flags = fcntl(h->pair, F_GETFL);
	int r = handover_check(h, e);

	if (!r)
		r = files_add(h, e);
	if (r < 0)
		return r;
	if (flags < 0 || fcntl(h->pair, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_set_errno(e, -errno, "the socket to the new process");
	r = loop_timer_new(h->loop, answer_late, h, &h->timer);
	if (r < 0)
		return err_set_errno(e, r, "timer");
	return vm_work_begin(h->vm, "handover", e);
}

int vm_handover(struct vm *vm, struct worker *w, int pair, int state_fd, int listen_fd,
	void (*leave)(void *opaque), void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e)
{
	struct handover *h = calloc(1, sizeof(*h));
	int r;

	if (!h) {
		close(pair);
		close(state_fd);
		return err_set_errno(e, -ENOMEM, "handover");
	}
	*h = (struct handover){ .work = { .run = prepare_run, .done = prepared }, .vm = vm, .m = vm_machine(vm), .worker = w,
		.loop = vm_machine(vm)->host.loop, .pair = pair, .state_fd = state_fd, .listen_fd = listen_fd, .leave = leave,
		.done = done, .opaque = opaque };
	r = handover_begin(h, e);
	if (r < 0) {
		handover_free(h);
		return r;
	}
	worker_submit(w, h->loop, &h->work);
	return 0;
}
