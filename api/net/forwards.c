#include "api/net/forwards.h"
#include "api/access/open_as.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/net/forwards_check.h"
#include "api/net/network.h"
#include "api/net/publish.h"
#include "api/net/publish_restart.h"
#include "api/net/tap.h"
#include "api/net/usernet.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_log.h"
#include "api/wire/close_async.h"
#include "api/wire/json.h"
#include "base/backoff.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND_NS 1000000000ULL
/* Delay before the daemon tries again to listen, or to wake a VM whose start was refused. */
#define AGAIN_NS (5 * SECOND_NS)
/* Interval and greatest number of repetitions of a start for which a host's port is in use. */
#define TRY_NS (50 * 1000000ULL)
#define TRIES_MAX 40
/* After the VM's end, its cairn-slirp has this time to deliver the guest's last data. Then the daemon kills the
 * process: its user may have stopped it, or the guest may control it, and it occupies a port. */
#define END_NS (3 * SECOND_NS)
#define MESSAGE_MAX 128
/* Time for a cairn-slirp to change a forward. One of an earlier release does not know the message and never answers. */
#define ORDER_NS (5 * SECOND_NS)
#define MESSAGES_PER_ROUND 16
#define TAKE "{\"take\""

/* A listening socket that the daemon holds for a forward. */
struct held {
	struct forwards *of;
	struct definition_forward what;
	int fd;
	struct loop_watch *watch; /* watches fd for clients that are to wake the VM; NULL: not now */
};

struct forwards {
	struct vm *vm;
	struct held list[CHANNEL_FDS_MAX];
	unsigned n;
	struct open_as *opener; /* opens the sockets */
	struct loop_timer *timer; /* fires for the next try to listen or to wake the VM */
	bool waits; /* the timer is armed; the sockets are not watched until it fires */
	struct backoff wakes; /* failed tries to wake the VM */
	bool told; /* the failure to open the sockets was logged */
	struct loop_timer *start_timer; /* fires for the next try of a start whose port is in use */
	unsigned tries; /* number of these tries */
};

/* One cairn-slirp process, until it is reaped. */
struct usernet {
	struct usernet *next;
	struct vm_host *host;
	struct vm *vm; /* NULL: since that run, the VM was started again or removed */
	char id[16];   /* of the interface, which may have been detached */
	bool publishes; /* a cairn-publish */
	/* -1: an earlier daemon started the process, and its pid is unknown; end of file on `control` shows its end */
	int pidfd;
	int control;
	uint64_t denied[2]; /* packets and questions that the egress rules have denied */
	bool asked;    /* forwards_hold() asked the process, and it has not answered */
	bool holds;    /* forwards_hold() asked it, and forwards_release() has not yet */
	struct loop_watch *gone, *watch;
	struct loop_timer *end_timer; /* armed at the end of the VM's process; NULL: not armed yet, or pidfd is -1 */
	bool killed;
	/* The change of a forward that the process has not answered yet; done NULL: none. Until then it gets no other
	 * one: nobody knows which forwards it has. */
	struct {
		void (*done)(void *opaque, int r);
		void *opaque;
		struct loop_timer *timer; /* NULL: the timeout has passed, and done() has reported it */
		bool waits_for_other; /* another process sends the socket, so an answer may come after any other message */
	} order;
};

/* ---- the daemon's listening sockets ---- */

static void watches_end(struct forwards *f)
{
	for (unsigned i = 0; i < f->n; i++) {
		loop_unwatch(f->list[i].watch);
		f->list[i].watch = NULL;
	}
}

static void sockets_close(struct forwards *f)
{
	watches_end(f);
	while (f->n)
		close(f->list[--f->n].fd);
	open_as_free(f->opener);
	f->opener = NULL;
	if (f->timer)
		loop_timer_disarm(f->timer);
	f->told = f->waits = false;
}

static struct forwards *forwards_get(struct vm *vm)
{
	if (!vm->forwards) {
		vm->forwards = must_alloc(calloc(1, sizeof(*vm->forwards)));
		vm->forwards->vm = vm;
	}
	return vm->forwards;
}

/* Duplicate and hold the listening sockets of the definition's forwards. fds: one for each forward; borrowed. */
static void sockets_hold(struct vm *vm, const int *fds, unsigned nfds)
{
	const struct definition_forward *all[CHANNEL_FDS_MAX];
	unsigned n = forwards_of(vm_live(vm), all);
	struct forwards *f = forwards_get(vm);

	for (f->n = 0; f->n < MIN(n, nfds); f->n++) {
		struct held *h = &f->list[f->n];

		*h = (struct held){ .of = f, .what = *all[f->n], .fd = fcntl(fds[f->n], F_DUPFD_CLOEXEC, 3) };
		if (h->fd < 0)
			break;
	}
	if (f->n < n)
		sockets_close(f);
}

/* Return whether the open sockets match the definition's forwards. After a redefinition they may differ. */
static bool socket_fits(const struct forwards *f, const struct definition *d)
{
	const struct definition_forward *all[CHANNEL_FDS_MAX];
	unsigned n = forwards_of(d, all);

	for (unsigned i = 0; i < n && n == f->n; i++)
		if (strcmp(f->list[i].what.address, all[i]->address) || f->list[i].what.port != all[i]->port ||
			f->list[i].what.protocol != all[i]->protocol)
			return false;
	return n == f->n;
}

static bool forwards_are_held(const struct vm *vm)
{
	return vm->forwards && vm->forwards->n && socket_fits(vm->forwards, vm_live(vm));
}

/* ---- waking a VM ---- */

static void listen_retry_later(struct forwards *f, uint64_t wait_ns);

/* Return the delay before the next try to wake the VM. r: the result of the failed try. The VM's back-off for automatic
 * restarts applies. After too many failures the next try is in the next window, because the client still waits. A start
 * that was refused, such as for lack of memory, does not count as a failure. */
static uint64_t wake_wait_ns(const struct vm *vm, int r)
{
	const struct backoff_rule *rule = &vm->def->restart;
	struct backoff *b = &vm->forwards->wakes;
	uint64_t now = loop_now_ns(), wait;

	if (r != -EREMOTEIO)
		return AGAIN_NS;
	if (!backoff_again(rule, b, now, &wait)) {
		wait = b->window_ns + rule->window_s * SECOND_NS + 1 - now;
		log_error("idle", "VM '%s': waking failed %u times within %u s; its forwards retry in %" PRIu64
			" s. Next: cairn start %s",
			vm->def->name, b->n, rule->window_s, (uint64_t)(wait / SECOND_NS), shell_word(vm->def->name).s);
	}
	return MAX(wait, SECOND_NS);
}

static void vm_woken(void *opaque, int r, const struct err *e)
{
	struct vm *vm = opaque;

	if (r < 0) {
		log_warn("idle", "VM '%s' could not be woken: %s", vm->def->name, e->msg);
	}
	/* The client still waits, so try again later. */
	if (r < 0 && vm->forwards && forwards_sleeps_saved(vm)) {
		watches_end(vm->forwards);
		listen_retry_later(vm->forwards, wake_wait_ns(vm, r));
	}
}

static void vm_wake(struct vm *vm, const struct definition_forward *what)
{
	char text[DEFINITION_FORWARD_TEXT];

	definition_forward_print(what, text);
	vm_notify(vm, client_waits, text, vm_woken, vm);
}

static void client_connects(void *opaque, unsigned revents)
{
	struct held *h = opaque;
	struct forwards *f = h->of;

	(void)revents;
	watches_end(f);
	vm_wake(f->vm, &h->what);
}

static void watch_all(struct forwards *f)
{
	struct loop *l = f->vm->host->loop;

	for (unsigned i = 0; i < f->n; i++) {
		struct held *h = &f->list[i];

		if (!h->watch && loop_watch(l, h->fd, POLLIN, client_connects, h, &h->watch) < 0)
			log_warn("idle", "VM '%s': cannot watch port %u, so its clients do not wake the VM: %s",
				f->vm->def->name, h->what.port, strerror(ENOMEM));
	}
}

/* ---- forwards of a sleeping VM ---- */

static void forward_listens(void *opaque, int r, struct config *c, const struct err *e)
{
	struct forwards *f = opaque;

	f->opener = NULL;
	if (r < 0) {
		if (!f->told)
			log_warn("idle", "VM '%s' is idle, and its forwards cannot wake it for now: %s",
				f->vm->def->name,
				e->msg);
		f->told = true;
		listen_retry_later(f, AGAIN_NS);
		return;
	}
	f->told = false;
	sockets_hold(f->vm, c->fds, c->nfds);
	config_done(c);
	watch_all(f);
}

static void listen_retry(void *opaque)
{
	struct vm *vm = opaque;

	vm->forwards->waits = false;
	forwards_on_state_change(vm);
}

static void listen_retry_later(struct forwards *f, uint64_t wait_ns)
{
	struct loop *l = f->vm->host->loop;

	if (!f->timer && loop_timer_new(l, listen_retry, f->vm, &f->timer) < 0)
		abort();
	loop_timer_arm(f->timer, loop_now_ns() + wait_ns);
	f->waits = true;
}

static void listen_asleep(struct vm *vm)
{
	const struct definition_forward *all[CHANNEL_FDS_MAX];
	struct forwards *f = vm->forwards;

	if (f && f->n && !socket_fits(f, vm->def))
		sockets_close(f);
	if (!forwards_of(vm->def, all))
		return;
	f = forwards_get(vm);
	if (f->waits)
		return;
	if (f->n)
		watch_all(f);
	else if (!f->opener)
		open_as_open(vm->host->helpers, vm->def, OPEN_AS_FORWARDS, forward_listens, f, &f->opener);
}

/* Reset the back-off, because the VM runs. */
static void wakes_reset(struct forwards *f)
{
	f->wakes.n = 0;
	f->waits = false;
	if (f->timer)
		loop_timer_disarm(f->timer);
}

void forwards_on_state_change(struct vm *vm)
{
	if (vm_has(vm, VM_FACT_FALLS_ASLEEP) && vm_state_is_active(vm->state) &&
		vm_live(vm)->idle_action == DEFINITION_SAVE && forwards_are_held(vm)) {
		watch_all(vm->forwards);
	} else if (vm_is_starting(vm) || vm_state_is_active(vm->state) || vm_has(vm, VM_FACT_FALLS_ASLEEP)) {
		if (vm->forwards)
			watches_end(vm->forwards);
		if (vm->forwards && vm_state_is_active(vm->state))
			wakes_reset(vm->forwards);
	} else if (forwards_sleeps_saved(vm)) {
		listen_asleep(vm);
	} else if (vm->forwards) {
		sockets_close(vm->forwards);
	}
}

static void forwards_redefined(struct vm *vm)
{
	if (vm->forwards && forwards_sleeps_saved(vm))
		sockets_close(vm->forwards);
	forwards_on_state_change(vm);
}

/* ---- starting a VM with forwards ---- */

static void start_resume(void *opaque)
{
	vm_start_resume(opaque);
}

/* Return whether a cairn-slirp of a VM that has ended still runs and is not killed yet: its end may free a port. */
static bool process_ends_soon(const struct vm_host *host)
{
	for (const struct usernet *u = host->usernets; u; u = u->next)
		if (u->end_timer && !u->killed)
			return true;
	return false;
}

int forwards_check_ports(const struct vm *vm, struct err *e)
{
	const struct definition *d = vm_live(vm);
	char key[64];
	int r = 0;

	if (vm_ask(vm, has_forwards) || process_ends_soon(vm->host))
		return 0;
	for (unsigned i = 0; i < d->ninterfaces; i++)
		for (unsigned k = 0; forwards_may_lead_to(&d->interfaces[i]) && k < d->interfaces[i].user.nforwards && !r; k++) {
			snprintf(key, sizeof(key), "interfaces[%u].forwards[%u]", i, k);
			r = config_check_forward(&d->interfaces[i].user.forwards[k], key, e);
		}
	return r;
}

static bool forwards_start_waits(struct vm *vm)
{
	struct forwards *f = forwards_get(vm);

	if (!process_ends_soon(vm->host) && f->tries++ == TRIES_MAX) {
		f->tries = 0;
		return false;
	}
	if (!f->start_timer && loop_timer_new(vm->host->loop, start_resume, vm, &f->start_timer) < 0)
		abort();
	loop_timer_arm(f->start_timer, loop_now_ns() + TRY_NS);
	return true;
}

/* ---- cairn-slirp processes ---- */

static void order_end(struct usernet *u, int r)
{
	void (*done)(void *opaque, int r) = u->order.done;

	u->order.done = NULL;
	loop_timer_free(u->order.timer);
	u->order.timer = NULL;
	if (done)
		done(u->order.opaque, r);
}

static bool control_write(const struct usernet *u, const char *text)
{
	return u->watch && send(u->control, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

/* Ask for an answer that comes after that of the overdue order. If it comes first, the process has lost the order. */
static void order_expired(void *opaque)
{
	struct usernet *u = opaque;

	loop_timer_free(u->order.timer);
	u->order.timer = NULL;
	if (!u->order.waits_for_other)
		control_write(u, "{\"hold\": true}");
	u->order.done(u->order.opaque, -ETIMEDOUT);
}

/* The process has answered a {"hold": true}. */
static void order_overdue_end(struct usernet *u)
{
	if (!u->order.done || u->order.timer || u->order.waits_for_other)
		return;
	log_warn("usernet", "a cairn-slirp has left a change of interface %s unanswered", u->id);
	order_end(u, -EREMOTEIO);
}

static void usernet_free(struct usernet *u)
{
	struct usernet **at = &u->host->usernets;

	while (*at != u)
		at = &(*at)->next;
	*at = u->next;
	order_end(u, -EPIPE);
	loop_unwatch(u->gone);
	loop_unwatch(u->watch);
	loop_timer_free(u->end_timer);
	if (u->control >= 0)
		closer_drop(u->host->closer, u->control);
	if (u->pidfd >= 0)
		close(u->pidfd);
	free(u);
}

/* Return the index of the process's interface; at least the number of interfaces: the VM has none. */
static unsigned interface_index(const struct usernet *u)
{
	const struct definition *d = u->vm ? vm_live(u->vm) : NULL;
	unsigned at = 0;

	while (d && at < d->ninterfaces && strcmp(d->interfaces[at].id, u->id))
		at++;
	return at;
}

/* Handle the end of a cairn-slirp process. The VM's process reports the lost link by itself (VM_EVENT_LINK_LOST). */
static void slirp_ended(void *opaque, unsigned revents)
{
	struct usernet *u = opaque;
	struct vm *vm = u->killed ? NULL : u->vm;
	siginfo_t si = { 0 };
	unsigned at;

	(void)revents;
	if (u->pidfd >= 0 && waitid(P_PIDFD, (id_t)u->pidfd, &si, WEXITED | WNOHANG) == 0 && vm && !u->publishes &&
		(si.si_code != CLD_EXITED || si.si_status))
		log_error("usernet", "VM '%s': interface %s: its cairn-slirp ended with %s %d", vm->def->name, u->id,
			si.si_code == CLD_EXITED ? "exit status" : "signal", si.si_status);
	/* Close the daemon's sockets, too, because no process serves their clients any more. */
	if (u->vm && u->vm->forwards && vm_state_is_active(u->vm->state) && !vm_has(u->vm, VM_FACT_FALLS_ASLEEP))
		sockets_close(u->vm->forwards);
	if (u->vm)
		usernet_remove_socket(u->host->run_dir_fd, u->vm->def->name, u->id);
	at = interface_index(u);
	usernet_free(u);
	if (vm)
		publish_restart_begin(vm, at, &si);
}

static void control_connected(struct usernet *u, int64_t n)
{
	const struct definition *d = u->vm ? vm_live(u->vm) : NULL;
	unsigned at = interface_index(u);

	if (d && at < d->ninterfaces && n >= 0 && n < d->interfaces[at].user.nforwards)
		vm_wake(u->vm, &d->interfaces[at].user.forwards[n]);
}

static bool hold_answered(const struct vm *vm)
{
	for (const struct usernet *u = vm->host->usernets; u; u = u->next)
		if (u->vm == vm && u->asked)
			return false;
	return true;
}

static void sockets_held(struct usernet *u)
{
	bool asked = u->asked;

	u->asked = false;
	if (!u->holds)
		control_write(u, "{\"hold\": false}");
	order_overdue_end(u);
	if (asked && u->vm && hold_answered(u->vm))
		vm_notify(u->vm, forwards_held);
}

static void denied_note(struct usernet *u, struct json_object *list)
{
	for (size_t i = 0; i < ARRAY_SIZE(u->denied) && list && i < json_object_array_length(list); i++)
		u->denied[i] = json_object_get_uint64(json_object_array_get_idx(list, i));
}

static struct usernet *usernet_of(const struct vm *vm, unsigned at)
{
	const char *id = vm_live(vm)->interfaces[at].id; /* at: below its number of interfaces */
	struct usernet *u = vm->host->usernets;

	while (u && (u->vm != vm || strcmp(u->id, id)))
		u = u->next;
	return u;
}

bool forwards_denied(const struct vm *vm, unsigned at, uint64_t ret_denied[2])
{
	const struct usernet *u = usernet_of(vm, at);

	if (!u || u->end_timer)
		return false;
	memcpy(ret_denied, u->denied, sizeof(u->denied));
	return true;
}

/* Handle a message from a cairn-slirp. The message is untrusted, because cairn-slirp parses the guest's packets. */
static void message_take(struct usernet *u, struct json_object *o)
{
	if (js_get_bool(o, "held", false))
		sockets_held(u);
	else if (js_get(o, "denied"))
		denied_note(u, js_get_array(o, "denied"));
	else if (js_get(o, "done"))
		/* The VM may run again, with another process. */
		order_end(u, !u->vm ? -EPIPE : js_get_bool(o, "done", false) ? 0 : -EREMOTEIO);
	else
		control_connected(u, js_get_int(o, "forward", -1));
}

static void control_ready(void *opaque, unsigned revents)
{
	struct usernet *u = opaque;
	char text[MESSAGE_MAX + 1];
	ssize_t got = 0;

	(void)revents;
	for (unsigned i = 0; i < MESSAGES_PER_ROUND; i++) {
		CLEANUP_JS struct json_object *o = NULL;

		got = close_async_recv(u->control, text, MESSAGE_MAX);
		if (got <= 0)
			break;
		text[got] = 0;
		if (!js_parse(text, (size_t)got, "cairn-slirp", &o, NULL) && json_object_is_type(o, json_type_object))
			message_take(u, o);
	}
	if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR)))
		return;
	loop_unwatch(u->watch);
	u->watch = NULL;
	if (u->pidfd < 0)
		slirp_ended(u, 0);
}

/* Add a process to the host's list. control: taken. */
static struct usernet *usernet_new(struct vm *vm, const struct definition_interface *face, int control)
{
	struct usernet *u = must_alloc(calloc(1, sizeof(*u)));

	*u = (struct usernet){ .next = vm->host->usernets, .host = vm->host, .vm = vm, .pidfd = -1,
		.control = control, .publishes = face->type == DEFINITION_NETWORK };
	snprintf(u->id, sizeof(u->id), "%s", face->id);
	vm->host->usernets = u;
	return u;
}

static int usernet_watch(struct usernet *u)
{
	struct loop *l = u->host->loop;
	int r = u->pidfd < 0 ? 0 : loop_watch(l, u->pidfd, POLLIN, slirp_ended, u, &u->gone);

	if (!r)
		r = loop_watch(l, u->control, POLLIN, control_ready, u, &u->watch);
	if (r < 0)
		usernet_free(u);
	return r;
}

/* d: the definition that the process was started for. */
static int usernet_keep(struct vm *vm, const struct definition *d, struct usernet_process *p)
{
	struct usernet *u = usernet_new(vm, &d->interfaces[p->at], steal_fd(&p->control));

	u->pidfd = pidfd_open(p->pid, 0);
	if (u->pidfd >= 0)
		return usernet_watch(u);
	usernet_free(u);
	return -ESRCH;
}

bool forwards_has_process(const struct vm *vm, unsigned at)
{
	return usernet_of(vm, at);
}

int forwards_publish(struct vm *vm, unsigned at, const int *fds, unsigned n, struct err *e)
{
	struct usernet_process made;
	CLEANUP_CLOSE int log_fd = -1;
	int r;

	if (usernet_of(vm, at))
		return 0;
	log_fd = vm_log_open(vm, e);
	if (log_fd < 0)
		return log_fd;
	r = usernet_publish(vm_live(vm), at, vm->host->paths->publish_program, fds, n, log_fd, vm->host->run_dir_fd, &made, e);
	if (!r && (r = usernet_keep(vm, vm_live(vm), &made)) < 0)
		err_set_errno(e, r, "interfaces[%u]: cannot watch its cairn-publish", at);
	return r;
}

void forwards_adopted(struct vm *vm)
{
	const struct definition *d = vm_live(vm);
	int control;

	for (unsigned at = 0; at < d->ninterfaces; at++) {
		struct usernet *u;

		if (usernet_of(vm, at) || usernet_connect(vm->host->run_dir_fd, vm->def->name, d->interfaces[at].id, at, &control) < 0)
			continue;
		u = usernet_new(vm, &d->interfaces[at], control);
		u->pidfd = usernet_pidfd(control);
		if (usernet_watch(u) < 0)
			log_warn("usernet", "VM '%s': interface %s: cannot watch its cairn-slirp, so its forwards "
				"do not wake the VM", vm->def->name, d->interfaces[at].id);
	}
}

/* ---- changing forwards of a running VM ---- */

/* Send a text, and fd unless it is -1, to the process. */
static int order_send(const struct usernet *u, const char *text, int fd)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} room = { .head = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	struct iovec iov = { (char *)text, strlen(text) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		memcpy(CMSG_DATA(&room.head), &fd, sizeof(fd));
		m.msg_control = &room;
		m.msg_controllen = CMSG_SPACE(sizeof(int));
	}
	return sendmsg(u->control, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

void forwards_lead(struct vm *vm, unsigned at, const char *address, const char *tap)
{
	struct usernet *u = usernet_of(vm, at);
	char text[MESSAGE_MAX];

	snprintf(text, sizeof(text), "{\"lead\": \"%.15s %.15s\"}", address, tap);
	if (u && u->publishes && order_send(u, text, -1) < 0)
		log_error("usernet", "VM '%s': interfaces[%u]: its cairn-publish takes no message", vm->def->name, at);
}

int forwards_order(struct vm *vm, unsigned at, const char *text, int fd, void (*done)(void *opaque, int r), void *opaque)
{
	struct usernet *u = usernet_of(vm, at);
	int r;

	if (!u || !u->watch)
		return -ENOENT;
	if (u->order.done)
		return u->order.timer ? -EBUSY : -ETIMEDOUT;
	r = order_send(u, text, fd);
	if (r < 0)
		return r;
	if (loop_timer_new(vm->host->loop, order_expired, u, &u->order.timer) < 0)
		abort();
	loop_timer_arm(u->order.timer, loop_now_ns() + ORDER_NS);
	u->order.done = done;
	u->order.opaque = opaque;
	u->order.waits_for_other = !strncmp(text, TAKE, strlen(TAKE));
	return 0;
}

void forwards_unhold(struct vm *vm, const struct definition_forward *what)
{
	struct forwards *f = vm->forwards;

	for (unsigned i = 0; f && i < f->n; i++)
		if (!what || definition_forwards_meet(&f->list[i].what, what)) {
			sockets_close(f);
			return;
		}
}

/* ---- clients of a VM that is saved; the observer's hooks ---- */

bool forwards_hold(struct vm *vm)
{
	if (!forwards_are_held(vm))
		return false;
	for (struct usernet *u = vm->host->usernets; u; u = u->next)
		if (u->vm == vm)
			u->holds = u->asked = control_write(u, "{\"hold\": true}");
	return !hold_answered(vm);
}

void forwards_release(struct vm *vm)
{
	for (struct usernet *u = vm->host->usernets; u; u = u->next) {
		if (u->vm != vm)
			continue;
		u->holds = u->asked = false;
		control_write(u, "{\"hold\": false}");
	}
}

static void process_kill(void *opaque)
{
	struct usernet *u = opaque;

	if (!u->publishes)
		log_warn("usernet", "a cairn-slirp did not end after its VM; killing it");
	u->killed = true;
	if (pidfd_send_signal(u->pidfd, SIGKILL, NULL, 0) < 0)
		log_warn("usernet", "cannot kill a cairn-slirp: %s", strerror(errno));
}

/* A cairn-publish has nothing to deliver any more, and occupies ports. */
static void process_end(struct usernet *u)
{
	if (u->end_timer || u->pidfd < 0)
		return;
	if (loop_timer_new(u->host->loop, process_kill, u, &u->end_timer) < 0)
		abort();
	loop_timer_arm(u->end_timer, loop_now_ns() + END_NS);
	if (u->publishes)
		process_kill(u);
}

static void forwards_processes_end(const struct vm *vm)
{
	for (struct usernet *u = vm->host->usernets; u; u = u->next)
		if (u->vm == vm)
			process_end(u);
}

/* The interface was detached from the running VM. */
static void forwards_interface_gone(struct vm *vm, unsigned at)
{
	struct usernet *u = usernet_of(vm, at);

	/* Before the adoption, the daemon does not know the process that an earlier daemon started. */
	usernet_remove_socket(vm->host->run_dir_fd, vm->def->name, vm_live(vm)->interfaces[at].id);
	if (!u)
		return;
	u->vm = NULL;
	process_end(u);
}

/* Connect to the VM's cairn-slirp processes that this daemon does not know yet, and give all of the VM's processes
 * END_NS to end. A process keeps its socket in the run folder until then, so that the next daemon finds the process if
 * this daemon ends first. */
static void forwards_ended(struct vm *vm)
{
	const struct definition *d = vm_live(vm);

	publish_restarts_end(vm);
	forwards_adopted(vm);
	forwards_processes_end(vm);
	for (unsigned at = 0; at < d->ninterfaces; at++) {
		if (!usernet_of(vm, at))
			usernet_remove_socket(vm->host->run_dir_fd, vm->def->name, d->interfaces[at].id);
		usernet_remove_old_socket(vm->host->run_dir_fd, vm->def->name, at);
	}
}

/* Give the processes of the VM's last run END_NS to end, and detach them from the VM. */
static void processes_detach(const struct vm *vm)
{
	forwards_processes_end(vm);
	for (struct usernet *u = vm->host->usernets; u; u = u->next)
		if (u->vm == vm)
			u->vm = NULL;
}

void forwards_processes_free(struct vm_host *host)
{
	while (host->usernets)
		usernet_free(host->usernets);
}

static int held_add(const struct forwards *f, struct config *c, struct err *e)
{
	for (unsigned i = 0; i < f->n; i++) {
		int fd = fcntl(f->list[i].fd, F_DUPFD_CLOEXEC, 3);

		if (fd < 0 || config_add_fd(c, fd) == VM_NO_FD)
			return err_set_errno(e, fd < 0 ? -errno : -E2BIG, "forwards");
		c->nforwards++;
	}
	return 0;
}

static bool saved_when_idle(const struct definition *d)
{
	return d->idle_after_s && d->idle_action == DEFINITION_SAVE;
}

static bool has_process(const struct definition *d)
{
	for (unsigned i = 0; i < d->ninterfaces; i++)
		if (forwards_may_lead_to(&d->interfaces[i]) && (d->interfaces[i].type == DEFINITION_USER || d->interfaces[i].user.nforwards))
			return true;
	return false;
}

/* Start the processes of a definition's interfaces. */
static int processes_start(struct vm *vm, const struct definition *d, struct config *c, struct err *e)
{
	CLEANUP_CLOSE int log_fd = -1;
	struct usernets made = { 0 };
	int r = 0;

	/* Only these processes write to it. Making a log takes a start of a VM without one 0.1 ms. */
	if (has_process(d)) {
		log_fd = vm_log_open(vm, e);
		r = MIN(log_fd, 0);
	}
	if (!r)
		r = usernets_start(c, d, vm->host->paths->slirp_program, vm->host->paths->publish_program, log_fd, vm->host->run_dir_fd, &made, e);
	for (unsigned i = 0; i < made.n; i++)
		if (usernet_keep(vm, d, &made.list[i]) < 0)
			log_warn("usernet", "VM '%s': cannot watch its cairn-slirp", vm->def->name);
	return r;
}

int forwards_plug(struct vm *vm, const struct definition *only, struct config *c, struct err *e)
{
	const struct tap_rules rules = { vm->host->paths->bridges_for_all, network_bridge_for, vm->host };
	int r = processes_start(vm, only, c, e);

	return r ? r : taps_add(c, only, &rules, e);
}

static int forwards_start(struct vm *vm, struct config *c, struct err *e)
{
	int r = 0;

	if (forwards_are_held(vm) && !c->nforwards)
		r = held_add(vm->forwards, c, e);
	else if (!r && vm->forwards)
		sockets_close(vm->forwards);
	if (!r && !forwards_are_held(vm) && saved_when_idle(vm_live(vm)) && c->nforwards)
		sockets_hold(vm, c->fds + c->nfds - c->nforwards, c->nforwards);
	processes_detach(vm);
	if (vm->forwards)
		vm->forwards->tries = 0;
	if (!r)
		r = publish_record_ports(vm, c, e);
	return r ? r : processes_start(vm, vm_live(vm), c, e);
}

static void forwards_free(struct vm *vm)
{
	publish_restarts_end(vm);
	processes_detach(vm);
	if (!vm->forwards)
		return;
	sockets_close(vm->forwards);
	loop_timer_free(vm->forwards->timer);
	loop_timer_free(vm->forwards->start_timer);
	free(vm->forwards);
	vm->forwards = NULL;
}

static int networks_add(struct vm *vm, struct config *c, struct err *e)
{
	/* First: the sockets of the forwards are the last files of c, until forwards_start() takes them out. */
	const struct tap_rules rules = { vm->host->paths->bridges_for_all, network_bridge_for, vm->host };
	int r = forwards_start(vm, c, e);

	return r ? r : taps_add(c, vm_live(vm), &rules, e);
}

static void forwards_on_start_failed(struct vm *vm)
{
	if (!vm->proc)
		forwards_processes_end(vm);
	forwards_on_state_change(vm);
}

const struct vm_observer forwards_observer = { .removed = forwards_free, .redefined = forwards_redefined,
	.state_saved = forwards_on_state_change, .start_check = forwards_check_free, .has_forwards = forwards_are_held,
	.start_retries = forwards_start_waits, .start_add = networks_add, .start_failed = forwards_on_start_failed,
	.interface_gone = forwards_interface_gone, .process_gone = forwards_ended };
