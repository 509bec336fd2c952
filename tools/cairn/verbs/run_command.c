#include "tools/cairn/verbs/run_command.h"
#include "api/definition/vm_config.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/signals.h"
#include "base/util.h"
#include "tools/cairn/guest_session.h"
#include "tools/cairn/verbs/exec.h"
#include "tools/cairn/verbs/run_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* The kernel boots meanwhile: ask so often whether the agent listens. */
#define AGAIN_MS 10
/* After the time limit, a guest with files to write has so long to shut down. */
#define TIMED_OUT_MS 5000

/* Three processes: this one has the command's streams, and is the parent of the VM. The watcher outlives both. */
struct run_guest {
	struct run_folder folder; /* of the socket that leads to the guest */
	int lock;    /* on the folder; -1: none */
	int watcher; /* socket to the watcher, which sees there when this process ends */
	pid_t awaits; /* children whose ends a run waits for: -1: all; else the watcher only */
	pid_t vm;    /* 0: there is none */
	int vm_end;  /* pidfd; -1: there is none */
	int net;     /* the VM's network namespace; -1: not held */
	const struct config *config; /* of the VM; borrowed */
};

int run_command_unwanted(struct cli *c)
{
	static const char *const names[] = { "env", "workdir", "user", "interactive", "tty", "show-console", "volume" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (option_value(c, names[i]))
			return cli_usage(c, "--%s needs a command to run: cairn run FILE -- COMMAND", names[i]);
	return c->format == CLI_TABLE ? 0 : cli_usage(c, "--format needs a command to run: cairn run FILE -- COMMAND");
}

/* ---- the watcher ---- */

static void std_set(int in, int out)
{
	dup2(in, 0);
	dup2(out, 1);
}

/* Make the folder, keep it locked, and tell its name. When the first process has ended, remove the folder, and kill
 * the VM if it has sent its pid. Does not return. */
static void watch(int first)
{
	struct run_folder folder = { 0 };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), vm = -1, lock;
	pid_t pid;

	setsid();
	std_set(null, null);
	dup2(null, 2);
	dup2(first, 3);
	close_range(4, ~0u, 0);
	lock = run_folder_make(&folder);
	send(3, &folder, sizeof(folder), MSG_NOSIGNAL);
	run_folders_sweep();
	while (lock >= 0 && recv(3, &pid, sizeof(pid), 0) == (ssize_t)sizeof(pid)) {
		if (vm >= 0)
			close(vm); /* the first one, which has ended */
		vm = pidfd_open(pid, 0);
		send(3, &pid, sizeof(pid), MSG_NOSIGNAL);
	}
	if (vm >= 0)
		pidfd_send_signal(vm, SIGKILL, NULL, 0);
	run_folder_remove(&folder);
	_exit(0);
}

bool run_reaps(void)
{
	return waitid(P_ALL, 0, &(siginfo_t){ 0 }, WEXITED | WNOHANG | WNOWAIT) < 0 && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0;
}

int run_guest_new(struct run_guest **ret, struct err *e)
{
	struct run_guest *g;
	int pair[2], watcher;
	bool reaps;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "socket");
	reaps = run_reaps();
	pid = fork();
	if (!pid)
		watch(pair[1]);
	close(pair[1]);
	watcher = pair[0];
	g = must_alloc(calloc(1, sizeof(*g)));
	g->lock = pid < 0 || recv(watcher, &g->folder, sizeof(g->folder), 0) != (ssize_t)sizeof(g->folder) || !g->folder.socket[0] ? -1 :
		run_folder_lock(&g->folder);
	if (g->lock < 0) {
		int r = err_set(e, -EIO, ERR_HOST, g->folder.path[0] ? "cannot make a folder %s; set XDG_RUNTIME_DIR to a folder of yours" :
			"cannot start a process", g->folder.path);

		close(watcher);
		free(g);
		return r;
	}
	g->watcher = watcher;
	g->awaits = reaps ? -1 : pid;
	g->vm_end = g->net = -1;
	*ret = g;
	return 0;
}

void run_guest_free(struct run_guest *g)
{
	char byte;

	if (!g)
		return;
	shutdown(g->watcher, SHUT_WR);
	while (recv(g->watcher, &byte, 1, 0) > 0)
		;
	/* The watcher has killed the VM if that still ran. The VM's helper programs end with it. */
	while (waitpid(g->awaits, NULL, 0) > 0 || errno == EINTR)
		;
	close(g->watcher);
	close(g->lock);
	if (g->vm_end >= 0)
		close(g->vm_end);
	if (g->net >= 0)
		close(g->net);
	free(g);
}

const char *run_guest_socket(const struct run_guest *g)
{
	return g->folder.socket;
}

int run_guest_fork(struct run_guest *g, const struct config *config, enum run_streams streams, struct err *e)
{
	pid_t parent = getpid(), own;
	int null;

	g->config = config;
	g->vm = fork();
	if (g->vm < 0)
		return err_set_errno(e, -errno, "cannot start a process for the VM");
	if (g->vm) {
		g->vm_end = pidfd_open(g->vm, 0);
		return g->vm_end < 0 ? err_set_errno(e, -errno, "pidfd") : 1;
	}
	/* Until the watcher knows this process, it ends with its parent. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	own = getpid();
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (streams != RUN_STREAMS_OURS) {
		setsid(); /* Ctrl-C is for the command in the guest */
		std_set(null, streams == RUN_STREAMS_ERROR ? 2 : null);
	}
	if (getppid() != parent || send(g->watcher, &own, sizeof(own), MSG_NOSIGNAL) < 0 || recv(g->watcher, &own, sizeof(own), 0) <= 0)
		_exit(EXEC_CAIRN);
	return 0;
}

/* ---- the agent ---- */

/* Read the answer to the line CONNECT. Returns 1: the agent is there; 0: not yet; -errno. */
static int answer_read(const struct run_guest *g, int sock, int wait_ms)
{
	struct pollfd p[2] = { { .fd = sock, .events = POLLIN }, { .fd = g->vm_end, .events = POLLIN } };
	char line[32], *end = NULL;
	ssize_t n = 0;

	/* Frames of the agent may follow the line. The VM's process writes the line in one piece. */
	for (ssize_t had = 0; !end && n < (ssize_t)sizeof(line); had = n) {
		int r = poll(p, 2, wait_ms);

		if (r <= 0)
			return r ? -errno : -ETIMEDOUT;
		if (p[1].revents)
			return -ESRCH;
		n = recv(sock, line, sizeof(line), MSG_PEEK);
		if (n <= had) /* the end, or a piece of a line that no other follows */
			return 0;
		end = memchr(line, '\n', (size_t)n);
	}
	return end && recv(sock, line, (size_t)(end - line) + 1, 0) > 3 && !memcmp(line, "OK ", 3);
}

/* Ask once whether the agent listens. Returns 1 and *link; 0: not yet; -errno: -ESRCH: the VM has ended. */
static int agent_ask(struct cli *c, const struct run_guest *g, int wait_ms, struct guest_link *link)
{
	uint8_t first[32 + GUEST_RENEWAL_MAX];
	int len = snprintf((char *)first, 32, "CONNECT %d\n", AGENT_PORT), r;
	struct err e;

	if (link->renews)
		len += (int)guest_renewal_put(link, first + len);
	r = guest_link_open(c, g->folder.socket, link, &e);
	if (r < 0)
		return r == -ECONNREFUSED ? 0 : r; /* the VM's process ends */
	if (send(link->sock, first, (size_t)len, MSG_NOSIGNAL) == len)
		r = answer_read(g, link->sock, wait_ms);
	link->greets = false;
	if (r != 1)
		guest_link_close(link);
	return r;
}

static int ms_until(uint64_t deadline_ns)
{
	uint64_t now = clock_monotonic_ns();

	return deadline_ns == UINT64_MAX ? -1 : deadline_ns <= now ? 0 : (int)MIN((deadline_ns - now) / 1000000 + 1, 1000000ULL);
}

int run_guest_connect(struct cli *c, const struct run_guest *g, uint64_t deadline_ns, struct guest_link *link)
{
	struct pollfd p = { .fd = g->vm_end, .events = POLLIN };

	for (;;) {
		int r = agent_ask(c, g, ms_until(deadline_ns), link);

		if (r == 1)
			return 0;
		if (r < 0 && r != -EINTR)
			return r;
		if (!ms_until(deadline_ns))
			return -ETIMEDOUT;
		if (poll(&p, 1, AGAIN_MS) > 0)
			return -ESRCH;
	}
}

static int no_agent(struct cli *c, struct run_guest *g, int r, struct exec_outcome *o)
{
	int status = 0;

	o->reason = r == -ETIMEDOUT ? "timeout" : r == -ESRCH ? "vm-ended" : "failed";
	if (r == -ETIMEDOUT) {
		err_set(&o->err, r, ERR_TIMEOUT, "the VM was killed, because its time limit passed before cairn-agent answered in the guest"
			"; to see its console: --show-console");
		fprintf(stderr, "error: %s\n", o->err.msg);
		return EXEC_TIMEOUT;
	}
	if (r == -ESRCH)
		waitpid(g->vm, &status, 0);
	if (r == -ESRCH && WIFEXITED(status) && WEXITSTATUS(status) == VM_EXIT_BUSY && !g->config->vm.debug_exit) {
		o->reason = "busy";
		err_set(&o->err, r, ERR_BUSY, "another process uses a disk or socket of the VM, so the VM did not start; stop that process, or try "
			"again later; to see which: --show-console");
	} else if (r == -ESRCH && WIFEXITED(status) && WEXITSTATUS(status) == VM_EXIT_HOST && !g->config->vm.debug_exit) {
		o->reason = "host";
		err_set(&o->err, r, ERR_HOST, "the host lacks something that the VM needs, so the VM did not start; the message above names it");
	} else if (r != -ESRCH)
		err_set_errno(&o->err, r, "cannot connect to cairn-agent in the guest");
	else if (WIFEXITED(status))
		err_set(&o->err, r, ERR_GENERIC, "the VM ended before cairn-agent answered in the guest (exit status %d); to see its console: --show-console",
			WEXITSTATUS(status));
	else
		err_set(&o->err, r, ERR_GENERIC, "the VM's process was killed by signal %d", WTERMSIG(status));
	cli_fail(&o->err, "Failed to run a program in %s", c->pos[0]);
	return EXEC_CAIRN;
}

/* ---- the end ---- */

/* Let signals end this process from now on, and the watcher the VM. */
static void signals_restore(void)
{
	sigset_t none;

	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Let the helper programs of the VM see the end of their sockets. The kernel closes the VM's copies some milliseconds
 * after its end, if io_uring polls them. */
static void helpers_end(const struct run_guest *g)
{
	for (unsigned i = 0; i < g->config->nfds; i++)
		shutdown(g->config->fds[i], SHUT_RDWR); /* other files refuse it */
}

/* Keep the VM's network namespace until this process ends. If it ended with the VM, KVM would wait for the namespace's
 * grace periods, too (rcu_barrier()): 20 instead of 9 ms for the end of a VM, counted in the emulated host. */
static void net_hold(struct run_guest *g)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/ns/net", g->vm);
	g->net = open(path, O_RDONLY | O_CLOEXEC);
}

static void vm_reap(const struct run_guest *g)
{
	while (waitpid(g->vm, NULL, 0) < 0 && errno == EINTR)
		;
}

/* End the VM and wait for its end, so that its writes are in its files.
 * wait_ms: so long the guest may take to shut down; -1: until the definition's deadline; 0: it need not. */
static void vm_end(struct run_guest *g, int wait_ms)
{
	struct pollfd p = { .fd = g->vm_end, .events = POLLIN };

	if (wait_ms) {
		kill(g->vm, SIGTERM); /* presses the power button; at the definition's deadline, the VM ends */
		if (wait_ms > 0 && poll(&p, 1, wait_ms) <= 0)
			kill(g->vm, SIGKILL);
		vm_reap(g);
		helpers_end(g);
	} else {
		net_hold(g);
		kill(g->vm, SIGKILL);
		helpers_end(g);
		vm_reap(g);
	}
}

void run_guest_stop(struct run_guest *g)
{
	kill(g->vm, SIGKILL);
	vm_reap(g);
	close(g->vm_end);
	g->vm = 0;
	g->vm_end = -1;
}

int run_guest_end_fd(const struct run_guest *g)
{
	return g->vm_end;
}

/* ---- without a command ---- */

/* Pass signals on until the VM has ended. Returns 0; -ETIMEDOUT. */
static int vm_await(const struct run_guest *g, int signals, uint64_t deadline_ns)
{
	struct pollfd p[2] = { { .fd = g->vm_end, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
	struct signalfd_siginfo si;

	while (!p[0].revents) {
		int ms = ms_until(deadline_ns);

		if (!ms)
			return -ETIMEDOUT;
		if (poll(p, 2, ms) <= 0 || !p[1].revents || read(signals, &si, sizeof(si)) != (ssize_t)sizeof(si))
			continue;
		if (si.ssi_code != SI_KERNEL) /* signals of a terminal reach the VM by themselves */
			kill(g->vm, (int)si.ssi_signo);
	}
	return 0;
}

int run_vm_wait(struct run_guest *g, uint64_t limit_ns, struct exec_outcome *ret)
{
	static const int passed[] = { SIGINT, SIGQUIT, SIGTERM, SIGHUP, 0 };
	struct termios saved;
	bool terminal = tcgetattr(0, &saved) == 0;
	int signals, status = 0, r;

	signals = signals_open(passed, NULL);
	r = vm_await(g, signals, limit_ns ? clock_monotonic_ns() + limit_ns : UINT64_MAX);
	if (r < 0)
		kill(g->vm, SIGKILL);
	while (waitpid(g->vm, &status, 0) < 0 && errno == EINTR)
		;
	close(signals);
	if (r < 0) {
		if (terminal) /* the VM could not restore it */
			tcsetattr(0, TCSANOW, &saved);
		ret->reason = "timeout";
		err_set(&ret->err, r, ERR_TIMEOUT, "the VM was killed, because its time limit passed");
		fprintf(stderr, "error: %s\n", ret->err.msg);
		return EXEC_TIMEOUT;
	}
	ret->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	return ret->signal ? EXEC_SIGNAL + ret->signal : WEXITSTATUS(status);
}

int run_command(struct cli *c, struct run_guest *g, const struct run_root *root, bool writes, struct guest_link *link, uint64_t deadline_ns,
	struct exec_outcome *ret)
{
	int r = link->sock >= 0 ? 0 : run_guest_connect(c, g, deadline_ns, link), wait_ms = writes ? -1 : 0;
	uint64_t now;

	if (r == -ESRCH)
		return no_agent(c, g, r, ret);
	if (r < 0) {
		r = no_agent(c, g, r, ret);
		wait_ms = 0;
	} else {
		now = clock_monotonic_ns();
		r = exec_by_agent(c, link, root, deadline_ns != UINT64_MAX ? MAX(deadline_ns, now + 1) - now : 0, ret);
		if (ret->reason && !strcmp(ret->reason, "interrupted"))
			wait_ms = 0;
		else if (writes && ret->reason && !strcmp(ret->reason, "timeout"))
			wait_ms = TIMED_OUT_MS;
		signals_restore();
	}
	vm_end(g, wait_ms);
	return r;
}
