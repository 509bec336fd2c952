/* cairn-agent: runs programs in a guest for `cairn exec`, and copies files for `cairn cp` (docs/agent.md).
 *
 * One process, one thread. It listens on a vsock port, accepts the host's connections only, and serves each one as a
 * session. It allocates nothing after its start. */
#include "base/util.h"
#include "tools/agent/root.h"
#include "tools/agent/session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define SESSIONS_MAX 32
/* Limits of open files that systemd's first process sets, too. The kernel's hard one is 4096. */
#define FILES_SOFT 1024
#define FILES_HARD 524288
#define REFUSED_MAX 4 /* further connections, which get the error "busy" */

static struct session sessions[SESSIONS_MAX + REFUSED_MAX];
static volatile sig_atomic_t child_ended;

static void on_child(int sig)
{
	(void)sig;
	child_ended = 1;
}

/* Print a line on standard error. Returns 1. */
static int complain(const char *what, const char *why)
{
	char line[256] = "cairn-agent: ";

	strncat(line, what, 100);
	strncat(line, why, 100);
	strcat(line, "\n");
	if (write(2, line, strlen(line)) < 0)
		return 2;
	return 1;
}

static int vsock_listen(uint32_t port)
{
	struct sockaddr_vm here = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port };
	int s = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (s >= 0 && bind(s, (struct sockaddr *)&here, sizeof(here)) == 0 && listen(s, 16) == 0)
		return s;
	return -errno;
}

/* ---- serving ---- */

static void session_accept(int listener)
{
	struct sockaddr_vm from = { 0 };
	socklen_t len = sizeof(from);
	int sock = accept4(listener, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
	unsigned i = 0;

	if (sock < 0)
		return;
	while (i < ARRAY_SIZE(sessions) && !session_is_over(&sessions[i]))
		i++;
	/* Programs of the guest itself connect, too, where the kernel has a loopback for vsock. */
	if (from.svm_family != AF_VSOCK || from.svm_cid != VMADDR_CID_HOST || i == ARRAY_SIZE(sessions)) {
		close(sock);
		return;
	}
	session_begin(&sessions[i], sock);
	if (i >= SESSIONS_MAX)
		session_fail(&sessions[i], AGENT_ERROR_BUSY, AGENT_STEP_AGENT);
	/* The host's START may have arrived already. */
	session_serve(&sessions[i], (struct pollfd[SESSION_FDS]){ { .fd = sock, .revents = POLLIN }, { .fd = -1 } });
}

static void children_reap(void)
{
	if (!child_ended)
		return;
	child_ended = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(sessions); i++)
		session_child(&sessions[i]);
}

/* Serve until the only session is over, or for ever with a listener. SIGCHLD comes during ppoll() only. Only the fds of
 * sessions with a connection are polled: all 145 took 1,200 instructions of the kernel each time, which is 0.4 ms where
 * the kernel is emulated. */
static void serve(int listener, const sigset_t *open)
{
	static struct pollfd p[1 + ARRAY_SIZE(sessions) * SESSION_FDS];
	struct session *served[ARRAY_SIZE(sessions)];

	while (listener >= 0 || !session_is_over(&sessions[0])) {
		unsigned n = 0;

		p[0] = (struct pollfd){ .fd = listener, .events = POLLIN };
		for (unsigned i = 0; i < ARRAY_SIZE(sessions); i++) {
			if (sessions[i].sock < 0)
				continue;
			session_watch(&sessions[i], p + 1 + n * SESSION_FDS);
			served[n++] = &sessions[i];
		}
		if (ppoll(p, 1 + n * SESSION_FDS, NULL, open) < 0)
			for (size_t i = 0; i < 1 + n * SESSION_FDS; i++)
				p[i].revents = 0;
		children_reap();
		for (unsigned i = 0; i < n; i++)
			session_serve(served[i], p + 1 + i * SESSION_FDS);
		if (p[0].revents)
			session_accept(listener);
	}
}

/* ---- as the first program of an initramfs ---- */

/* The kernel has started the agent in place of the initramfs's /init: become that, and leave the agent as its child.
 * Returns in the child. */
static void init_continue(char **argv)
{
	const char *init = getenv("CAIRN_INIT");
	pid_t pid = fork();

	if (!pid)
		return;
	argv[0] = (char *)(uintptr_t)(init ? init : "/init");
	unsetenv("CAIRN_INIT");
	execv(argv[0], argv);
	_exit(complain(argv[0], ": cannot be run")); /* the kernel panics */
}

/* The kernel has started the agent, and the first disk has the root. Returns in the agent. */
static void init_be(void)
{
	const char *what;
	int r = root_enter(&what);

	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ FILES_SOFT, FILES_HARD });
	session_makes_folders = !strcmp(getenv("CAIRN_ROOT"), "1");
	unsetenv("CAIRN_ROOT");
	unsetenv("CAIRN_NET");
	unsetenv("CAIRN_NAME");
	unsetenv("CAIRN_KEEP");
	if (r < 0) { /* the kernel panics */
		complain("cannot mount the image: ", what);
		_exit(complain("mount: ", strerror(-r)));
	}
	root_fork();
}

/* The driver may be a module that init loads. */
static int vsock_await(uint32_t port)
{
	int listener;

	while ((listener = vsock_listen(port)) < 0)
		sleep(1);
	return listener;
}

static long number_parse(const char *text)
{
	char *end;
	long v = strtol(text, &end, 10);

	return *text < '0' || *text > '9' || *end ? -1 : v;
}

int main(int argc, char **argv)
{
	bool is_first = getpid() == 1, has_root = is_first && getenv("CAIRN_ROOT");
	long port = argc == 3 && !strcmp(argv[1], "--port") ? number_parse(argv[2]) : argc == 1 || is_first ? AGENT_PORT : -1;
	long fd = argc == 3 && !strcmp(argv[1], "--fd") ? number_parse(argv[2]) : -1;
	struct sigaction act = { .sa_handler = on_child };
	sigset_t blocked, open;
	int listener = -1;

	if ((port < 0 || port >= UINT32_MAX) && (fd < 0 || fd > 1023))
		return complain("usage: cairn-agent [--port PORT | --fd FD]", "");
	if (has_root)
		init_be();
	else if (is_first)
		init_continue(argv);
	session_signals_reset();
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_BLOCK, &blocked, &open);
	sigdelset(&open, SIGCHLD);
	sigaction(SIGCHLD, &act, NULL);
	signal(SIGPIPE, SIG_IGN);
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 0);
	for (unsigned i = 0; i < ARRAY_SIZE(sessions); i++)
		sessions[i].sock = sessions[i].in = sessions[i].out[0] = sessions[i].out[1] = -1;
	session_root_follows = is_first && !has_root;
	if (fd >= 0) {
		fcntl((int)fd, F_SETFD, FD_CLOEXEC);
		session_begin(&sessions[0], (int)fd);
	} else {
		listener = is_first ? vsock_await((uint32_t)port) : vsock_listen((uint32_t)port);
		if (listener < 0)
			return complain("cannot listen on vsock: ", strerror(-listener));
	}
	serve(listener, &open);
	return 0;
}
