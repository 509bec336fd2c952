#include "api/vm/vm_log.h"
#include "api/access/spawn.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_host.h"
#include "base/backoff.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENDED_MAX 64

/* A pipe that a process still writes to, or whose last lines cairn-log has not received. The daemon keeps the reading
 * end for a further cairn-log. */
struct log_pipe {
	struct log_pipe *next, **at; /* at: the pointer to it */
	struct vm_logs *all;
	struct loop_watch *watch;
	int fd;
	int folder; /* of the VM, which may have been removed; -1: a process still writes, so the VM has the name */
	bool sent; /* to the present cairn-log */
	char name[VM_LOG_NAME_MAX + 1]; /* of the VM */
};

struct vm_logs {
	const struct vm_host *host;
	const char *program;
	int sock; /* -1: no process */
	pid_t pid;
	int pidfd;
	struct loop_watch *watch; /* of pidfd */
	struct loop_watch *room; /* of sock, which is full; NULL: it is not */
	struct loop_timer *timer; /* starts the process again */
	struct backoff tries;
	struct log_pipe *pipes;
	unsigned nended; /* with a folder; at most ENDED_MAX */
	unsigned nunsent; /* pipes */
};

/* ---- the pipes ---- */

static int pipe_send(const struct vm_logs *l, const char *name, int pipe, int folder)
{
	const int fds[] = { pipe, folder };

	return channel_send(l->sock, VM_LOG_VERSION, VM_LOG_PIPE, 0, name, strlen(name), fds, 2);
}

static int folder_open(const struct vm_logs *l, const char *name)
{
	struct err e;

	return store_open_file(l->host->store, name, "", O_PATH | O_DIRECTORY, &e);
}

static void pipe_free(struct log_pipe *p)
{
	*p->at = p->next;
	if (p->next)
		p->next->at = p->at;
	p->all->nunsent -= !p->sent;
	loop_unwatch(p->watch);
	close(p->fd);
	if (p->folder >= 0) {
		close(p->folder);
		p->all->nended--;
	}
	free(p);
}

/* No process writes any more. cairn-log reads the remaining data. */
static void pipe_ended(void *opaque, unsigned revents)
{
	struct log_pipe *p = opaque;

	(void)revents;
	if (p->sent || p->all->nended == ENDED_MAX || (p->folder = folder_open(p->all, p->name)) < 0) {
		pipe_free(p);
		return;
	}
	p->all->nended++;
	loop_unwatch(STEAL_PTR(p->watch));
}

static int pipe_pass(const struct vm_logs *l, const char *name, int pipe)
{
	CLEANUP_CLOSE int folder = folder_open(l, name);

	return folder < 0 ? folder : pipe_send(l, name, pipe, folder);
}

static void pipes_send(void *opaque, unsigned revents);

/* Send the process all pipes that it does not have yet. Its socket takes some 250 at once; the rest follows when there
 * is room. */
static void pipes_send_all(struct vm_logs *l)
{
	int r = 0;

	loop_unwatch(STEAL_PTR(l->room));
	for (struct log_pipe *p = l->pipes, *next; p && l->nunsent; p = next) {
		next = p->next;
		if (p->sent)
			continue;
		r = p->folder >= 0 ? pipe_send(l, p->name, p->fd, p->folder) : pipe_pass(l, p->name, p->fd);
		if (r == -EAGAIN || r == -EPIPE || r == -ECONNRESET)
			break; /* without a reader, process_ended() follows */
		if (r < 0)
			log_warn("log", "VM '%s' loses the further lines of its log until its next start: %s", p->name, strerror(-r));
		p->sent = true;
		l->nunsent--;
		if (p->folder >= 0)
			pipe_free(p);
	}
	if (r == -EAGAIN && loop_watch(l->host->loop, l->sock, POLLOUT, pipes_send, l, &l->room) < 0)
		log_warn("log", "VMs lose lines of their logs until the next start of a VM");
}

static void pipes_send(void *opaque, unsigned revents)
{
	(void)revents;
	pipes_send_all(opaque);
}

/* Keep the reading end until the pipe ends. Returns 0; -errno. */
static int pipe_keep(struct vm_logs *l, const char *name, int fd)
{
	struct log_pipe *p = must_alloc(calloc(1, sizeof(*p)));
	int r;

	p->all = l;
	p->folder = -1;
	p->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	snprintf(p->name, sizeof(p->name), "%s", name);
	r = p->fd < 0 ? -errno : loop_watch(l->host->loop, p->fd, POLLHUP, pipe_ended, p, &p->watch);
	if (r < 0) {
		if (p->fd >= 0)
			close(p->fd);
		free(p);
		return r;
	}
	p->next = l->pipes;
	p->at = &l->pipes;
	if (p->next)
		p->next->at = &p->next;
	l->pipes = p;
	l->nunsent++;
	return 0;
}

/* ---- the process ---- */

static void process_close(struct vm_logs *l)
{
	if (l->sock < 0)
		return;
	loop_unwatch(STEAL_PTR(l->watch));
	loop_unwatch(STEAL_PTR(l->room));
	if (l->pidfd >= 0)
		close(l->pidfd);
	close(l->sock);
	l->sock = l->pidfd = -1;
	/* If it has not ended, it ends by itself, and is the init's child when this daemon has ended. */
	waitpid(l->pid, NULL, WNOHANG);
}

static void process_ended(void *opaque, unsigned revents);

static int process_start(struct vm_logs *l)
{
	CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	char *argv[] = { (char *)"cairn-log", NULL };
	int pair[2], r;

	if (null < 0 || access(l->program, X_OK) < 0 ||
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	r = spawn_program(&(struct spawn_spec){ .path = l->program, .argv = argv, .fds = (int[]){ null, null, null, pair[1] },
		.nfds = VM_LOG_FD + 1 }, &l->pid);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return r;
	}
	l->sock = pair[0];
	l->pidfd = pidfd_open(l->pid, 0);
	r = l->pidfd < 0 ? -errno : loop_watch(l->host->loop, l->pidfd, POLLIN, process_ended, l, &l->watch);
	if (r < 0)
		process_close(l);
	return r;
}

/* Start the process, and give it the pipes of the VMs that run. */
static int process_restart(struct vm_logs *l)
{
	int r = process_start(l);

	if (r < 0)
		return r;
	l->nunsent = 0;
	for (struct log_pipe *p = l->pipes; p; p = p->next, l->nunsent++)
		p->sent = false;
	pipes_send_all(l);
	return 0;
}

static void restart_due(void *opaque)
{
	struct vm_logs *l = opaque;
	int r = l->sock < 0 ? process_restart(l) : 0;

	if (r < 0)
		log_warn("log", "VMs have no logs: cannot start %s: %s; the next start of a VM tries again", l->program, strerror(-r));
}

/* The lines that the VMs write meanwhile wait in their pipes. */
static void process_ended(void *opaque, unsigned revents)
{
	static const struct backoff_rule rule = { .delay_s = 1, .max_delay_s = 60, .tries = 1, .window_s = 600 };
	struct vm_logs *l = opaque;
	uint64_t now = loop_now_ns(), wait = backoff_slow(&rule, &l->tries, now);

	(void)revents;
	log_warn("log", "cairn-log has ended; starting it again%s", wait ? " soon, or with the next VM" : "");
	process_close(l);
	if (wait)
		loop_timer_arm(l->timer, now + wait);
	else
		restart_due(l);
}

/* Give the pipe to the process, which is started if there is none. */
static int pipe_hand_over(struct vm_logs *l, const char *name, int pipe)
{
	int r = l->sock < 0 ? process_restart(l) : 0;

	if (r < 0)
		return r;
	if (pipe_keep(l, name, pipe) < 0)
		return pipe_pass(l, name, pipe); /* the VM has a log all the same */
	if (!l->room)
		pipes_send_all(l);
	return 0;
}

struct vm_logs *vm_logs_new(const struct vm_host *host, const char *program)
{
	struct vm_logs *l = must_alloc(malloc(sizeof(*l)));
	int r;

	*l = (struct vm_logs){ .host = host, .program = program, .sock = -1, .pidfd = -1 };
	if (loop_timer_new(host->loop, restart_due, l, &l->timer) < 0)
		abort(); /* as without memory */
	r = process_start(l);
	if (r < 0)
		log_warn("log", "VMs have no logs: cannot start %s: %s", program, strerror(-r));
	return l;
}

void vm_logs_free(struct vm_logs *l)
{
	if (!l)
		return;
	while (l->pipes)
		pipe_free(l->pipes);
	process_close(l);
	loop_timer_free(l->timer);
	free(l);
}

void vm_log_rename(struct vm_logs *l, const char *from, const char *to)
{
	for (struct log_pipe *p = l ? l->pipes : NULL; p; p = p->next)
		if (p->folder < 0 && !strcmp(p->name, from))
			snprintf(p->name, sizeof(p->name), "%s", to);
}

int vm_log_open(const struct vm *vm, struct err *e)
{
	struct vm_logs *l = vm->host->logs;
	/* cairn-log does not make the file: the daemon may be removing the VM's folder. */
	CLEANUP_CLOSE int file = store_open_file(vm->host->store, vm->def->name, "log", O_WRONLY | O_APPEND | O_CREAT, e);
	int ends[2], r;

	if (file < 0)
		return file;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_set_errno(e, -errno, "the log of VM '%s'", vm->def->name);
	r = l ? pipe_hand_over(l, vm->def->name, ends[0]) : -ENOENT;
	close(ends[0]);
	if (!r)
		return ends[1];
	close(ends[1]);
	if (l)
		log_warn("log", "VM '%s' has no log: %s: %s", vm->def->name, l->program, strerror(-r));
	r = open("/dev/null", O_RDWR | O_CLOEXEC);
	return r < 0 ? err_set_errno(e, -errno, "/dev/null") : r;
}
