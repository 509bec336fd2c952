#include "api/vm/vm_log.h"
#include "api/access/spawn.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_host.h"
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
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RESTART_NS 1000000000ULL /* least time between two starts of cairn-log */

/* A pipe that a process still writes into. The daemon keeps the reading end for a further cairn-log. */
struct log_pipe {
	struct log_pipe *next;
	struct vm_logs *all;
	struct loop_watch *watch;
	int fd;
	char name[VM_LOG_NAME_MAX + 1]; /* of the VM, which is not renamed while it has a process */
};

struct vm_logs {
	const struct vm_host *host;
	const char *program;
	int sock; /* -1: no process */
	pid_t pid;
	pid_t old; /* a process that has ended, and may have to be reaped; 0: none */
	struct loop_watch *watch; /* of sock */
	struct loop_timer *timer; /* starts the process again */
	uint64_t started_ns;
	struct log_pipe *pipes;
};

/* ---- the process ---- */

static void process_forget(struct vm_logs *l)
{
	if (l->sock < 0)
		return;
	loop_unwatch(l->watch);
	l->watch = NULL;
	close(l->sock);
	l->sock = -1;
	/* It ends by itself, and is the init's child when this daemon has ended. */
	l->old = waitpid(l->pid, NULL, WNOHANG) == 0 ? l->pid : 0;
}

static void process_ended(void *opaque, unsigned revents);

static int process_start(struct vm_logs *l)
{
	CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	char *argv[] = { (char *)"cairn-log", NULL };
	int pair[2], r;

	if (l->old && waitpid(l->old, NULL, WNOHANG))
		l->old = 0;
	l->started_ns = loop_now_ns();
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
	return loop_watch(l->host->loop, l->sock, POLLHUP, process_ended, l, &l->watch);
}

static int pipe_send(struct vm_logs *l, const char *name, int pipe, int folder)
{
	const int fds[] = { pipe, folder };

	return l->sock < 0 ? -EPIPE : channel_send(l->sock, VM_LOG_VERSION, VM_LOG_PIPE, 0, name, strlen(name), fds, 2);
}

/* Start the process again, and give it the pipes of the VMs that run. */
static int process_restart(struct vm_logs *l)
{
	int r;

	process_forget(l);
	r = process_start(l);
	for (struct log_pipe *p = l->pipes; p && !r; p = p->next) {
		struct err e;
		CLEANUP_CLOSE int folder = store_open_file(l->host->store, p->name, "", O_PATH | O_DIRECTORY, &e);

		if (folder < 0 || pipe_send(l, p->name, p->fd, folder) < 0)
			log_warn("log", "VM '%s' loses the further lines of its log until its next start", p->name);
	}
	return r;
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
	struct vm_logs *l = opaque;

	(void)revents;
	log_warn("log", "cairn-log has ended; starting it again");
	process_forget(l);
	if (loop_now_ns() - l->started_ns >= RESTART_NS)
		restart_due(l);
	else
		loop_timer_arm(l->timer, l->started_ns + RESTART_NS);
}

/* ---- the pipes ---- */

static void pipe_forget(struct log_pipe *p)
{
	struct log_pipe **at = &p->all->pipes;

	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	loop_unwatch(p->watch);
	close(p->fd);
	free(p);
}

/* No process writes any more. cairn-log reads what is left. */
static void pipe_ended(void *opaque, unsigned revents)
{
	(void)revents;
	pipe_forget(opaque);
}

/* Keep the reading end until the pipe ends. If that fails, the VM has a log all the same. */
static void pipe_keep(struct vm_logs *l, const char *name, int fd)
{
	struct log_pipe *p = must_alloc(calloc(1, sizeof(*p)));

	p->all = l;
	p->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	snprintf(p->name, sizeof(p->name), "%s", name);
	if (p->fd < 0 || loop_watch(l->host->loop, p->fd, POLLHUP, pipe_ended, p, &p->watch) < 0) {
		if (p->fd >= 0)
			close(p->fd);
		free(p);
		return;
	}
	p->next = l->pipes;
	l->pipes = p;
}

/* Send the pipe to the process, or to a new one if that has ended. */
static int pipe_hand_over(struct vm_logs *l, const char *name, int pipe, int folder)
{
	int r = pipe_send(l, name, pipe, folder);

	if (r == -EPIPE || r == -ECONNRESET) {
		r = process_restart(l);
		if (!r)
			r = pipe_send(l, name, pipe, folder);
	}
	if (!r)
		pipe_keep(l, name, pipe);
	return r;
}

struct vm_logs *vm_logs_new(const struct vm_host *host, const char *program)
{
	struct vm_logs *l = must_alloc(malloc(sizeof(*l)));
	int r;

	*l = (struct vm_logs){ .host = host, .program = program, .sock = -1 };
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
		pipe_forget(l->pipes);
	process_forget(l);
	loop_timer_free(l->timer);
	free(l);
}

int vm_log_open(const struct vm *vm, struct err *e)
{
	struct vm_logs *l = vm->host->logs;
	/* cairn-log does not make the file: the daemon may be removing the VM's folder. */
	CLEANUP_CLOSE int file = store_open_file(vm->host->store, vm->def->name, "log", O_WRONLY | O_APPEND | O_CREAT, e);
	CLEANUP_CLOSE int folder = file < 0 ? -1 : store_open_file(vm->host->store, vm->def->name, "", O_PATH | O_DIRECTORY, e);
	int ends[2], r;

	if (file < 0 || folder < 0)
		return file < 0 ? file : folder;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_set_errno(e, -errno, "the log of VM '%s'", vm->def->name);
	r = l ? pipe_hand_over(l, vm->def->name, ends[0], folder) : -ENOENT;
	close(ends[0]);
	if (!r)
		return ends[1];
	close(ends[1]);
	if (l)
		log_warn("log", "VM '%s' has no log: %s: %s", vm->def->name, l->program, strerror(-r));
	r = open("/dev/null", O_RDWR | O_CLOEXEC);
	return r < 0 ? err_set_errno(e, -errno, "/dev/null") : r;
}
