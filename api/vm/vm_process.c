#include "api/vm/vm_process.h"
#include "api/definition/vm_config.h"
#include "api/vm/tap_counters.h"
#include "api/vm/vm_answer.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_request.h"
#include "api/vm/vm_sandbox.h"
#include "api/vm/vm_socket.h"
#include "api/vm/vm_spare.h"
#include "api/vm/vm_spawn.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define SECOND_NS 1000000000ULL
#define CONFIG_TIMEOUT_NS (30 * SECOND_NS)
#define CONFIG_WAIT_NS (3600 * SECOND_NS) /* vm_process_configure_limit() replaces it */
#define QUERY_TIMEOUT_NS (10 * SECOND_NS)
#define END_TIMEOUT_NS (5 * SECOND_NS)
/* Between two connections to one process: one that loses each at once must not keep the loop busy. */
#define CONNECT_INTERVAL_NS SECOND_NS
/* The first interval; each further one is twice as long, up to CONNECT_INTERVAL_NS. */
#define ADOPT_INTERVAL_NS (SECOND_NS / 100)
#define MESSAGES_PER_ROUND 32
/* A guest changes its VM's phase a few times by itself, and so does each request. Each change is stored, logged and
 * sent to clients, so a process that a guest has taken over must not report them without limit. */
#define PHASES_MAX 64
#define PHASES_PER_REQUEST 4

/* ---- requests ---- */

static void process_release(struct vm_process *p)
{
	vm_requests_free(p);
	vm_shown_free(p->shown);
	free(p->spawn_error);
	free(p->adopt_wait);
	free(p);
}

static void busy_end(struct vm_process *p)
{
	if (!--p->busy && p->freed)
		process_release(p);
}

static void unmanaged_set(const struct vm_process *p, struct err *e)
{
	err_set(e, -EPROTONOSUPPORT, ERR_UNSUPPORTED,
		"its process (pid %d) speaks version %u of the protocol, this cairnd versions %d to %d; the process keeps "
		"running unmanaged. Next: shut the guest down from within, or run the cairnd that started the VM",
		(int)p->pid, p->unknown_version, VM_MSG_VERSION_OLDEST, VM_MSG_VERSION);
}

static void send_error_set(const struct vm_process *p, int error, struct err *e)
{
	if (error == -ENOTSUP)
		vm_compat_refuse(p->name, e);
	else if (p->is_unmanaged)
		unmanaged_set(p, e);
	else
		err_set_errno(e, error, "cannot send to the VM's process");
}

static void requests_expire(void *opaque)
{
	struct vm_process *p = opaque;
	uint64_t now = loop_now_ns();
	struct err e;

	p->busy++;
	for (struct vm_request *r = p->first, *next; r && !p->freed; r = next) {
		next = r->next;
		if (r->deadline_ns > now)
			continue;
		if (r->send_error)
			send_error_set(p, r->send_error, &e);
		else
			err_set(&e, -ETIMEDOUT, ERR_TIMEOUT,
				"the VM's process (pid %d) did not answer in time%s", (int)p->pid,
				vm_request_may_repeat(r->type) ? "" : "; it may still do what was requested, so look before you repeat it");
		vm_request_finish(p, r, r->send_error ? r->send_error : -ETIMEDOUT, NULL, &e);
		next = p->freed ? NULL : p->first; /* begin again, because the callback may have changed the list */
	}
	if (!p->freed)
		vm_requests_timer(p);
	busy_end(p);
}

/* ---- messages ---- */

/* Handle a reply. Returns false if it breaks the protocol. */
static bool reply_take(struct vm_process *p, const struct channel_msg *m)
{
	struct vm_answer a = { 0 };
	struct vm_request *r = p->first;
	struct err e = { .cls = ERR_GENERIC };
	int res;

	while (r && r->seq != m->head.seq)
		r = r->next;
	if (!r)
		return true; /* the request has timed out */
	if (!vm_answer_take(m, r->type, &a, &res, &e))
		return false;
	vm_request_finish(p, r, res, &a, &e);
	return true;
}

static bool phase_permitted(struct vm_process *p)
{
	p->phases_left = (unsigned)MIN((uint64_t)PHASES_MAX, p->phases_left + PHASES_PER_REQUEST * (p->seq - p->phase_seq));
	p->phase_seq = p->seq;
	return p->phases_left && p->phases_left--;
}

/* Handle an event. Returns false if it breaks the protocol. */
static bool event_take(struct vm_process *p, struct vm_event *ev)
{
	if (ev->kind == VM_EVENT_PHASE && !phase_permitted(p))
		return false;
	vm_event_clean(ev);
	if (ev->kind == VM_EVENT_VCPUS) {
		p->vcpus_absent = (uint64_t)ev->value;
		return true;
	}
	if (ev->kind == VM_EVENT_PHASE && ev->phase == VM_PHASE_ENDED) {
		p->end.said = true;
		p->end.event = *ev;
		vm_process_kill_after(p, END_TIMEOUT_NS);
		return true; /* gone() reports the event later, because the process holds its disks until it has ended */
	}
	if (p->ops->event)
		p->ops->event(p->opaque, ev);
	return true;
}

static void pid_ready(void *opaque, unsigned revents);

/* Learn the pid of an adopted process from the credentials of its first message, and watch it. Returns false if no
 * message is there: one that comes now must not be received, because its sender would not be known. */
static bool adopt_sender(struct vm_process *p)
{
	pid_t pid;
	int r = p->pidfd >= 0 ? 0 : vm_socket_peek_pid(p->sock, &pid);

	if (p->pidfd >= 0 || r < 0)
		return r != -EAGAIN;
	p->pidfd = pidfd_open(pid, 0);
	if (p->pidfd < 0)
		return true;
	p->pid = pid;
	if (p->killed)
		pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
	if (loop_watch(p->loop, p->pidfd, POLLIN, pid_ready, p, &p->pid_watch) < 0)
		p->pid_watch = NULL; /* the end of the channel reports the process's end instead, somewhat later */
	return true;
}

static void channel_close(struct vm_process *p)
{
	loop_unwatch(p->sock_watch);
	p->sock_watch = NULL;
	if (p->sock >= 0)
		vm_socket_close(p->sock, p->closer);
	p->sock = -1;
}

static void connect_later(struct vm_process *p)
{
	loop_timer_arm(p->lost_timer, MAX(loop_now_ns(), p->connected_ns + CONNECT_INTERVAL_NS));
}

static bool process_ends(const struct vm_process *p)
{
	return p->pidfd < 0 || vm_process_is_ending(p);
}

static void adopt_again(struct vm_process *p);

/* Connect again to a process that continues without its connection. A process of an older version may drop it if its
 * guest causes many events while the daemon is stopped. */
static void lost_fire(void *opaque)
{
	struct vm_process *p = opaque;
	struct err e;
	int r;

	if (p->adopt_wait) {
		adopt_again(p);
		return;
	}
	if (process_ends(p) || !p->ops->lost)
		return;
	p->busy++;
	r = p->ops->lost(p->opaque, &e);
	if (r < 0)
		log_warn("process", "VM '%s': %s", p->name, e.msg);
	if (r == -ENOENT || r == -ECONNREFUSED)
		vm_process_kill_after(p, END_TIMEOUT_NS);
	else if (r < 0)
		connect_later(p); /* the daemon has no fd left, or the like */
	busy_end(p);
}

static void channel_lost(struct vm_process *p, bool protocol)
{
	channel_close(p);
	p->lost = true;
	if (protocol) {
		log_error("process", "VM '%s': its process (pid %d) violated the protocol; killing it",
			p->name, (int)p->pid);
		p->end.protocol = true;
		vm_process_kill(p);
	} else if (p->ops->lost && p->answered && !process_ends(p)) {
		connect_later(p);
	} else {
		vm_process_kill_after(p, END_TIMEOUT_NS);
	}
}

/* Look at the first message on a new connection. If another process sent it, the VM was handed over, and the process of
 * p ends: close the connection. Returns 1: the process of p sent it, or the connection has ended; 0: no message is
 * there, and none may be received before the next look; -1: closed. */
static int sender_prove(struct vm_process *p)
{
	pid_t pid;
	int r = p->unproven ? vm_socket_peek_pid(p->sock, &pid) : 0;

	if (!p->unproven || r < 0)
		return r != -EAGAIN;
	if (pid == p->pid) {
		p->unproven = false;
		vm_requests_resume(p);
		return 1;
	}
	log_info("process", "VM '%s': process %d answers in place of process %d", p->name, (int)pid, (int)p->pid);
	channel_close(p);
	p->lost = p->replaced = true;
	vm_process_kill_after(p, END_TIMEOUT_NS);
	return -1;
}

/* Handle the first message of an adopted process in an unknown version: close the channel and fail the requests, but
 * leave the process running. Afterwards the daemon only sees the process's end, and refuses requests. */
static void channel_not_ours(struct vm_process *p, unsigned version)
{
	struct err e;

	p->is_unmanaged = true;
	p->unknown_version = version;
	unmanaged_set(p, &e);
	channel_close(p);
	while (p->first && !p->freed)
		vm_request_finish(p, p->first, -EPROTONOSUPPORT, NULL, &e);
}

static void info_note(struct vm_process *p, const struct vm_info *info)
{
	const bool knows[VM_KNOWN_COUNT] = {
		[VM_KNOWS_CONSOLE_END] = info->ends_consoles,
		[VM_KNOWS_INTERFACE_SET] = info->sets_interfaces,
		[VM_KNOWS_DISK_SET] = info->sets_disks,
		[VM_KNOWS_DISK_TUNE] = info->sets_disks >= VM_SETS_DISK_TUNE,
		[VM_KNOWS_AGENT_COMMAND] = info->agent_commands,
		[VM_KNOWS_VSOCK] = info->vsock,
		[VM_KNOWS_AGENT_END] = info->ends_agents,
		[VM_KNOWS_DUMP_THEN] = info->dumps_then,
		[VM_KNOWS_PLUG] = info->plugs,
		[VM_KNOWS_BALLOON_SET] = info->sets_balloon,
		[VM_KNOWS_RECLAIM] = info->reclaims,
		[VM_KNOWS_SCREENSHOT] = info->screens,
		[VM_KNOWS_SEND_KEYS] = info->screens >= VM_SCREENS_KEYS,
		[VM_KNOWS_INPUT] = info->screens >= VM_SCREENS_INPUT,
		[VM_KNOWS_MEDIUM_SET] = info->sets_medium,
		[VM_KNOWS_DISK_COPY] = info->copies_disks >= VM_COPIES_DISKS,
		[VM_KNOWS_DISK_LAYERS] = info->copies_disks >= VM_LAYERS_DISKS,
		[VM_KNOWS_DISK_RESIZE] = info->copies_disks >= VM_RESIZES_DISKS,
		[VM_KNOWS_COMMIT_ABOVE] = info->copies_disks >= VM_CHECKS_ABOVE,
		[VM_KNOWS_SAVE_DISKS] = info->checks_saves,
		[VM_KNOWS_SAVE_INTERFACES] = info->checks_saves > 1,
		[VM_KNOWS_PAGE] = info->shows_figures,
		[VM_KNOWS_VCPUS] = info->plugs_vcpus,
		[VM_KNOWS_PCI] = info->plugs_vcpus >= VM_SHOWS_PCI,
		[VM_KNOWS_DIRTY_RATE] = info->samples_pages,
		[VM_KNOWS_PINS_READABLE] = info->pins_readable,
		[VM_KNOWS_PIN_SHARING] = info->pins_readable >= VM_SHARES_PINS,
		[VM_KNOWS_IDLE_PINS] = info->pins_readable >= VM_IDLE_PINS,
		[VM_KNOWS_GROUPS] = info->groups,
		[VM_KNOWS_GROUP_FORKS] = info->groups >= VM_GROUPS_FORK,
	};

	memcpy(p->knows, knows, sizeof(knows));
	p->vcpus_absent = info->vcpus_absent;
	p->build = info->build;
	p->tells_build = true;
}

/* Handle up to `most` waiting messages. Returns false when the channel is closed. */
static bool messages_take(struct vm_process *p, unsigned most)
{
	char body[CHANNEL_BODY_MAX] __attribute__((aligned(16)));
	struct channel_msg m;

	while (most-- && !p->freed && p->sock >= 0) {
		int r = adopt_sender(p) ? sender_prove(p) : 0;

		if (r <= 0)
			return !r;
		if (p->freed)
			return true;
		r = channel_recv_no_fds(p->sock, p->version, vm_msg_from_vm, VM_MSG_TYPE_COUNT, body, &m);
		if (r == -EAGAIN)
			return true;
		if (r == -EPROTONOSUPPORT && !p->child && !p->heard) {
			channel_not_ours(p, m.head.version);
			return false;
		}
		if (r <= 0) {
			channel_lost(p, r == -EPROTO || r == -EPROTONOSUPPORT || r == -EPERM);
			return false;
		}
		p->heard = true;
		/* An older process sends a shorter struct: clear the rest. */
		if (m.head.body_bytes < vm_msg_struct_bytes(m.head.type))
			memset(body + m.head.body_bytes, 0, vm_msg_struct_bytes(m.head.type) - m.head.body_bytes);
		p->answered |= m.head.type != VM_MSG_EVENT;
		if (m.head.type == VM_MSG_INFO) {
			info_note(p, m.body);
			tap_counters_take(m.body);
			vm_shown_raise(p->shown, m.body);
		}
		if (m.head.type == VM_MSG_EVENT ? !event_take(p, m.body) : !reply_take(p, &m)) {
			channel_lost(p, true);
			return false;
		}
	}
	return true;
}

static void process_end(struct vm_process *p);
static void spawn_await(struct vm_process *p);

static void sock_ready(void *opaque, unsigned revents)
{
	struct vm_process *p = opaque;

	(void)revents;
	p->busy++;
	spawn_await(p); /* its first message may be handled before spawn_ready() */
	if (!p->spawn_error)
		messages_take(p, MESSAGES_PER_ROUND);
	/* Without a watch on the pid, the end of the channel is the only sign of the process's end. */
	if (!p->freed && (p->spawn_error || (p->sock < 0 && !p->pid_watch)))
		process_end(p);
	busy_end(p);
}

/* ---- the end of the process ---- */

static void end_read(struct vm_process *p)
{
	siginfo_t si = { 0 };

	p->end.unanswered = !p->child && !p->answered;
	if (!p->end.said && p->end_fd >= 0)
		p->end.said = vm_end_read(p->end_fd, &p->end.event);
	if (!p->child || waitid(P_PIDFD, (id_t)p->pidfd, &si, WEXITED | WNOHANG) < 0 || !si.si_pid)
		return;
	p->end.status_known = true;
	p->end.signaled = si.si_code != CLD_EXITED;
	p->end.status = si.si_status;
	/* The init of a pid namespace exits when a signal ends it (vmm/sandbox.c). A guest's debug exit, which the
	 * process has reported, may have such a status, too. */
	if (!p->end.signaled && !p->end.said && si.si_status > VM_EXIT_SIGNAL && si.si_status < VM_EXIT_SIGNAL + NSIG) {
		p->end.signaled = true;
		p->end.status -= VM_EXIT_SIGNAL;
	}
}

static void process_end(struct vm_process *p)
{
	struct err e;
	bool moved;

	loop_unwatch(p->pid_watch);
	p->pid_watch = NULL;
	while (!p->freed && p->sock >= 0 && messages_take(p, 1024))
		if (poll(&(struct pollfd){ .fd = p->sock, .events = POLLIN }, 1, 0) <= 0)
			break;
	if (p->freed)
		return;
	end_read(p);
	/* A process ends by itself once another has the VM. After a signal, a connection that nobody has answered may
	 * lead to its own listening socket, which the kernel closes late if a ring of io_uring still has it. */
	p->end.replaced = p->replaced || (p->unproven && !p->end.signaled);
	moved = p->ops->moved && p->ops->moved(p->opaque, &p->end);
	err_set(&e, -ESRCH, ERR_GENERIC, "the VM's process ended (%s %d) before it answered; see cairn log %s",
		p->end.signaled ? "signal" : "exit status", p->end.status, shell_word(p->name).s);
	if (moved && !p->end.signaled)
		err_set(&e, -ESRCH, ERR_GENERIC, "the VM was handed over to a new process before the request was answered; it "
			"may have been carried out: look, and repeat it if it was not");
	if (p->end.said)
		err_set(&e, -ESRCH, ERR_GENERIC, "the VM %s before it answered; see cairn log %s",
			p->end.event.reason == VM_REASON_USER ? "was destroyed" : p->end.event.reason == VM_REASON_GUEST_PANICKED ? "ended, because its guest "
			"panicked," : "ended", shell_word(p->name).s);
	if (p->end.said && p->end.event.detail[0] && p->end.event.reason != VM_REASON_GUEST_PANICKED)
		err_set(&e, -ESRCH, ERR_GENERIC, "%s", p->end.event.detail);
	if (p->spawn_error)
		e = *p->spawn_error;
	while (p->first && !p->freed)
		vm_request_finish(p, p->first, -ESRCH, NULL, &e);
	if (moved)
		vm_process_free(p);
	else if (!p->freed)
		p->ops->gone(p->opaque, &p->end);
}

static void pid_ready(void *opaque, unsigned revents)
{
	struct vm_process *p = opaque;

	(void)revents;
	p->busy++;
	process_end(p);
	busy_end(p);
}

/* ---- the process that is being spawned ---- */

/* Learn the pid of the child and watch it. The child that cannot be watched is killed. */
static int child_found(struct vm_process *p, struct err *e)
{
	int r;

	p->pidfd = pidfd_open(p->pid, 0);
	r = p->pidfd < 0 ? -errno : loop_watch(p->loop, p->pidfd, POLLIN, pid_ready, p, &p->pid_watch);
	if (!r) {
		if (p->killed)
			pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
		return 0;
	}
	kill(p->pid, SIGKILL);
	waitpid(p->pid, NULL, 0);
	return err_set_errno(e, r, "cannot watch the VM process");
}

/* Wait until the process is spawned, if it is not. Sets spawn_error if there is no process. */
static void spawn_await(struct vm_process *p)
{
	struct err e;
	int r;

	if (!p->spawn)
		return;
	loop_unwatch(p->spawn_watch);
	p->spawn_watch = NULL;
	r = vm_spawn_end(STEAL_PTR(p->spawn), &p->pid, &e);
	if (!r)
		r = child_found(p, &e);
	if (!r)
		return;
	p->spawn_error = must_alloc(malloc(sizeof(e)));
	*p->spawn_error = e;
}

static void spawn_ready(void *opaque, unsigned revents)
{
	struct vm_process *p = opaque;

	(void)revents;
	p->busy++;
	spawn_await(p);
	if (p->ops->spawned)
		p->ops->spawned(p->opaque, p->spawn_error ? -ECHILD : 0, p->spawn_error);
	if (p->spawn_error && !p->freed)
		process_end(p);
	busy_end(p);
}

static void kill_fire(void *opaque)
{
	struct vm_process *p = opaque;

	if (p->killed) {
		log_error("process", "VM '%s': its process (pid %d) was killed, but has not ended", p->name, (int)p->pid);
		if (p->ops->stuck)
			p->ops->stuck(p->opaque);
		return;
	}
	log_warn("process", "VM '%s': its process (pid %d) did not end in time; killing it", p->name,
		(int)p->pid);
	vm_process_kill(p);
}

void vm_process_kill(struct vm_process *p)
{
	if (p->pidfd >= 0)
		pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
	p->killed = true;
	vm_process_kill_after(p, END_TIMEOUT_NS);
}

void vm_process_kill_after(struct vm_process *p, uint64_t ns)
{
	loop_timer_arm(p->kill_timer, loop_now_ns() + ns);
}

pid_t vm_process_pid(const struct vm_process *p)
{
	return p->pidfd >= 0 ? p->pid : -1;
}

bool vm_process_has_ended(const struct vm_process *p)
{
	return poll(&(struct pollfd){ .fd = p->pidfd, .events = POLLIN }, 1, 0) != 0;
}

bool vm_process_is_ending(const struct vm_process *p)
{
	return p->killed || p->end.said || vm_process_has_ended(p);
}

unsigned vm_process_version(const struct vm_process *p)
{
	return p->version;
}

bool vm_process_is_other_build(const struct vm_process *p, uint64_t build)
{
	return p->tells_build && p->build != build;
}

uint64_t vm_process_vcpus_absent(const struct vm_process *p)
{
	return p->vcpus_absent;
}

bool vm_process_knows(const struct vm_process *p, enum vm_known what)
{
	return p->knows[what];
}

/* ---- starting and adopting a process ---- */

static int process_new(struct loop *l, const struct vm_process_paths *paths,
	const struct vm_process_ops *ops, void *opaque, struct vm_process **ret_p)
{
	struct vm_process *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->loop = l;
	/* The process may still answer a request of an earlier daemon, so do not reuse that daemon's sequence
	 * numbers. */
	p->seq = p->phase_seq = loop_now_ns();
	p->phases_left = PHASES_MAX;
	p->version = VM_MSG_VERSION;
	p->closer = paths->closer;
	p->ops = ops;
	p->opaque = opaque;
	p->pid = p->pidfd = p->sock = -1;
	p->end_fd = paths->end_fd >= 0 ? fcntl(paths->end_fd, F_DUPFD_CLOEXEC, 3) : -1;
	p->last = &p->first;
	snprintf(p->name, sizeof(p->name), "%s", paths->name);
	if (loop_timer_new(l, requests_expire, p, &p->timer) < 0 ||
		loop_timer_new(l, kill_fire, p, &p->kill_timer) < 0 || loop_timer_new(l, lost_fire, p, &p->lost_timer) < 0) {
		vm_process_free(p);
		return -ENOMEM;
	}
	*ret_p = p;
	return 0;
}

void vm_process_free(struct vm_process *p)
{
	if (!p || p->freed)
		return;
	spawn_await(p);
	loop_unwatch(p->pid_watch);
	loop_timer_free(p->timer);
	loop_timer_free(p->kill_timer);
	loop_timer_free(p->lost_timer);
	channel_close(p);
	if (p->pidfd >= 0)
		close(p->pidfd);
	if (p->end_fd >= 0)
		close(p->end_fd);
	p->freed = true;
	if (!p->busy)
		process_release(p);
}

static void process_free_p(struct vm_process **p)
{
	vm_process_free(*p);
}

/* End the child and reap it, after an error. */
static void child_kill(struct vm_process *p)
{
	spawn_await(p);
	if (p->spawn_error)
		return;
	kill(p->pid, SIGKILL);
	waitpid(p->pid, NULL, 0);
}

static int process_watch(struct vm_process *p)
{
	int r = p->sock < 0 ? 0 : loop_watch(p->loop, p->sock, POLLIN, sock_ready, p, &p->sock_watch);

	if (!r && p->pidfd >= 0 && !p->pid_watch)
		r = loop_watch(p->loop, p->pidfd, POLLIN, pid_ready, p, &p->pid_watch);
	return r;
}

static void child_knows_all(struct vm_process *p)
{
	p->child = true;
	for (int i = 0; i < VM_KNOWN_COUNT; i++)
		p->knows[i] = true;
}

/* Begin to spawn the process, and watch its fds. sock: taken. */
static int child_begin(struct vm_process *p, const struct vm_process_paths *paths, const char *option, int sock, struct err *e)
{
	int r = paths->sandbox ? vm_sandbox_check(paths->sandbox, e) : 0;

	if (r < 0)
		close(sock);
	else
		r = vm_spawn_begin(paths, option, sock, &p->spawn, e);
	if (r < 0)
		return r;
	child_knows_all(p);
	r = loop_watch(p->loop, vm_spawn_fd(p->spawn), POLLIN, spawn_ready, p, &p->spawn_watch);
	if (!r)
		r = process_watch(p);
	if (!r)
		return 0;
	child_kill(p);
	return err_set_errno(e, r, "cannot watch the VM process");
}

/* Make the VM's socket, and connect to it. *ret_listening: owned. */
static int socket_make(struct vm_process *p, const struct vm_process_paths *paths, int *ret_listening, struct err *e)
{
	CLEANUP_CLOSE int listening = -1;
	int r = vm_socket_listen(paths->run_dir, paths->name, &listening, e);

	if (r < 0)
		return r;
	r = vm_socket_connect(paths->run_dir, paths->name, paths->owns_hash, &p->sock);
	if (r < 0)
		return err_set_errno(e, r, "cannot connect to the VM process's socket");
	*ret_listening = steal_fd(&listening);
	return 0;
}

int vm_process_start(struct loop *l, const struct vm_process_paths *paths, const struct vm_process_ops *ops, void *opaque,
	struct vm_process **ret_p, struct err *e)
{
	struct vm_process *p CLEANUP(process_free_p) = NULL;
	int listening = -1, r = process_new(l, paths, ops, opaque, &p);

	if (r < 0)
		return err_set_errno(e, r, "cannot start a VM process");
	r = socket_make(p, paths, &listening, e);
	if (!r)
		r = child_begin(p, paths, VM_PROCESS_LISTEN, listening, e);
	if (!r)
		*ret_p = STEAL_PTR(p);
	return r;
}

int vm_process_start_spare(struct loop *l, const struct vm_process_paths *paths, const struct vm_spare_process *spare,
	const struct vm_process_ops *ops, void *opaque, struct vm_process **ret_p, struct err *e)
{
	struct vm_process *p CLEANUP(process_free_p) = NULL;
	CLEANUP_CLOSE int listening = -1;
	int fds[3], r = process_new(l, paths, ops, opaque, &p);

	if (r < 0)
		return err_set_errno(e, r, "cannot start a VM process");
	r = socket_make(p, paths, &listening, e);
	if (r < 0)
		return r;
	fds[0] = listening;
	fds[1] = paths->log_fd;
	fds[2] = paths->end_fd;
	r = channel_send(spare->sock, VM_MSG_VERSION, VM_MSG_SPARE, 0, NULL, 0, fds, ARRAY_SIZE(fds));
	if (r < 0)
		return err_set_errno(e, r, "the process made ahead");
	child_knows_all(p);
	p->pid = spare->pid;
	p->pidfd = spare->pidfd;
	r = process_watch(p);
	if (r < 0) {
		p->pidfd = -1;
		return err_set_errno(e, r, "cannot watch the VM process");
	}
	*ret_p = STEAL_PTR(p);
	return 0;
}

void vm_process_configure(struct vm_process *p, const struct config *c, bool waits,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque)
{
	/* The configuration waits in the socket until the process reads it. */
	vm_process_request_fds(p, VM_MSG_CONFIG, &c->vm, sizeof(c->vm), c->fds, c->nfds,
		waits ? CONFIG_WAIT_NS : CONFIG_TIMEOUT_NS, done, opaque);
}

void vm_process_configure_limit(struct vm_process *p)
{
	for (struct vm_request *r = p->first; r; r = r->next)
		if (r->type == VM_MSG_CONFIG && r->deadline_ns > loop_now_ns() + CONFIG_TIMEOUT_NS)
			r->deadline_ns = loop_now_ns() + CONFIG_TIMEOUT_NS;
	vm_requests_timer(p);
}

static void adopt_later(struct vm_process *p)
{
	struct vm_adopt_wait *w = p->adopt_wait;

	loop_timer_arm(p->lost_timer, loop_now_ns() + w->interval_ns);
	w->interval_ns = MIN(2 * w->interval_ns, CONNECT_INTERVAL_NS);
}

/* Connect to an adopted process. Returns 0; -ENOENT: there is none (a stale socket is removed); -EAGAIN: its socket has
 * no place; -errno. */
static int adopt_connect(struct vm_process *p, int run_dir, const char *name, bool owns_hash)
{
	int r = vm_socket_connect(run_dir, name, owns_hash, &p->sock);

	if (r == -ECONNREFUSED) {
		vm_socket_remove(run_dir, name);
		r = -ENOENT;
	}
	if (!r)
		r = process_watch(p);
	if (r < 0)
		channel_close(p);
	return r;
}

/* Try again to connect to an adopted process whose socket had no place. The process may have ended meanwhile. */
static void adopt_again(struct vm_process *p)
{
	const struct vm_adopt_wait *w = p->adopt_wait;
	int r = adopt_connect(p, w->run_dir, w->name, w->owns_hash);

	if (r < 0 && r != -ENOENT) {
		adopt_later(p); /* still no place, or the daemon has no fd left */
		return;
	}
	p->busy++;
	if (r < 0) {
		process_end(p);
	} else {
		log_info("process", "VM '%s': connected to its process", p->name);
		free(STEAL_PTR(p->adopt_wait));
		if (!p->first) /* all have expired; only an answer tells the pid */
			vm_process_request(p, VM_MSG_QUERY, NULL, 0, -1, QUERY_TIMEOUT_NS, NULL, NULL);
		vm_requests_send_waiting(p);
	}
	busy_end(p);
}

/* Return whether an error of adopt_connect() says nothing about the process. */
static bool adopt_may_wait(int r)
{
	return r == -EAGAIN || r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

static void adopt_wait_begin(struct vm_process *p, const struct vm_process_paths *paths, int r)
{
	size_t bytes = strlen(paths->name) + 1;
	struct vm_adopt_wait *w = must_alloc(calloc(1, sizeof(*w) + bytes));

	w->run_dir = paths->run_dir;
	w->owns_hash = paths->owns_hash;
	w->interval_ns = ADOPT_INTERVAL_NS;
	memcpy(w->name, paths->name, bytes);
	p->adopt_wait = w;
	log_warn("process", "VM '%s': cannot connect to its process: %s; trying again", p->name,
		r == -EAGAIN ? "it accepts no connection" : strerror(-r));
	adopt_later(p);
}

int vm_process_adopt(struct loop *l, const struct vm_process_paths *paths,
	const struct vm_process_ops *ops, void *opaque,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *done_opaque, struct vm_process **ret_p, struct err *e)
{
	struct vm_process *p CLEANUP(process_free_p) = NULL;
	int r = process_new(l, paths, ops, opaque, &p);

	if (r < 0)
		return err_set_errno(e, r, "VM process");
	/* With an unknown version, channel_not_ours() reports it when the process answers the query in that version. */
	if (p->end_fd >= 0 && vm_end_version(p->end_fd))
		p->version = (uint16_t)vm_end_version(p->end_fd);
	r = adopt_connect(p, paths->run_dir, paths->name, paths->owns_hash);
	if (r < 0 && !adopt_may_wait(r))
		return err_set_errno(e, r, "cannot reach the VM's process");
	if (r < 0)
		adopt_wait_begin(p, paths, r);
	vm_process_request(p, VM_MSG_QUERY, NULL, 0, -1, QUERY_TIMEOUT_NS, done, done_opaque);
	*ret_p = STEAL_PTR(p);
	return 0;
}

int vm_process_start_successor(struct loop *l, const struct vm_process_paths *paths, const struct vm_process_ops *ops, void *opaque,
	struct vm_process **ret_p, int *ret_pair, struct err *e)
{
	struct vm_process *p CLEANUP(process_free_p) = NULL;
	CLEANUP_CLOSE int ours = -1;
	int pair[2], r = process_new(l, paths, ops, opaque, &p);

	if (r < 0)
		return err_set_errno(e, r, "cannot start a VM process");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "cannot start a VM process");
	ours = pair[0];
	r = child_begin(p, paths, VM_PROCESS_TAKE_OVER, pair[1], e);
	if (r < 0)
		return r;
	*ret_pair = steal_fd(&ours);
	*ret_p = STEAL_PTR(p);
	return 0;
}

void vm_process_set_ops(struct vm_process *p, const struct vm_process_ops *ops, void *opaque)
{
	p->ops = ops;
	p->opaque = opaque;
}

int vm_process_connect(struct vm_process *p, const struct vm_process_paths *paths,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *done_opaque, struct err *e)
{
	int r = vm_socket_connect(paths->run_dir, paths->name, paths->owns_hash, &p->sock);

	if (!r)
		r = process_watch(p);
	p->connected_ns = loop_now_ns();
	if (r < 0) {
		channel_close(p);
		return err_set_errno(e, r, "cannot reach the VM's process");
	}
	p->lost = false;
	p->unproven = true;
	p->lost_seq = p->seq;
	vm_process_request(p, VM_MSG_QUERY, NULL, 0, -1, QUERY_TIMEOUT_NS, done, done_opaque);
	return 0;
}

static void disowned_gone(void *opaque, const struct vm_process_end *end)
{
	(void)end;
	vm_process_free(opaque);
}

void vm_process_detach(struct vm_process *p)
{
	static const struct vm_process_ops ops = { .gone = disowned_gone };

	vm_process_set_ops(p, &ops, p);
}
