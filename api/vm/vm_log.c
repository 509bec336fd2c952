#include "api/vm/vm_log.h"
#include "api/access/spawn.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_host.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct vm_logs {
	const char *program;
	int sock; /* -1: no process */
	pid_t pid;
};

static void process_forget(struct vm_logs *l)
{
	if (l->sock < 0)
		return;
	close(l->sock);
	l->sock = -1;
	/* It ends by itself, and is the init's child when this daemon has ended. */
	waitpid(l->pid, NULL, WNOHANG);
}

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
	if (r < 0)
		close(pair[0]);
	else
		l->sock = pair[0];
	return r;
}

struct vm_logs *vm_logs_new(const char *program)
{
	struct vm_logs *l = must_alloc(malloc(sizeof(*l)));
	int r;

	*l = (struct vm_logs){ program, -1, 0 };
	r = process_start(l);
	if (r < 0)
		log_warn("log", "VMs have no logs: cannot start %s: %s", program, strerror(-r));
	return l;
}

void vm_logs_free(struct vm_logs *l)
{
	if (l)
		process_forget(l);
	free(l);
}

static int pipe_send(struct vm_logs *l, const char *name, int pipe, int folder)
{
	const int fds[] = { pipe, folder };

	return l->sock < 0 ? -EPIPE : channel_send(l->sock, VM_LOG_VERSION, VM_LOG_PIPE, 0, name, strlen(name), fds, 2);
}

/* Send the pipe to the process, or to a new one if that has ended. */
static int pipe_hand_over(struct vm_logs *l, const char *name, int pipe, int folder)
{
	int r = pipe_send(l, name, pipe, folder);

	if (r != -EPIPE && r != -ECONNRESET)
		return r;
	if (l->sock >= 0)
		log_warn("log", "cairn-log has ended; the VMs that run lose the further lines of their logs");
	process_forget(l);
	r = process_start(l);
	return r < 0 ? r : pipe_send(l, name, pipe, folder);
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
