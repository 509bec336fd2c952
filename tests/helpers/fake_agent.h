/* fake_agent: commands for the guest agent of fake_vm, which a program behind a Unix socket answers:
 * tests/e2e/agentlib.py, or a real qemu-ga. */
#ifndef CAIRN_TESTS_HELPERS_FAKE_AGENT_H
#define CAIRN_TESTS_HELPERS_FAKE_AGENT_H

#include "base/err.h"
#include "base/file.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static int fake_agent_connect(const char *path, unsigned timeout_ms)
{
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval limit = { .tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000 };
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", path);
	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(sock, (void *)&to, sizeof(to)) == 0)
		return sock;
	close(sock);
	return -errno;
}

/* Copy the answer's line to the file. Returns its length; -errno. */
static int64_t fake_agent_copy(int sock, int fd, char *first, size_t size)
{
	char buf[4096];
	int64_t n = 0;

	for (;;) {
		ssize_t got = recv(sock, buf, sizeof(buf), 0);
		char *end = got > 0 ? memchr(buf, '\n', (size_t)got) : NULL;
		size_t len = got > 0 ? (size_t)(end ? end - buf : got) : 0;

		if (got < 0 && errno == EINTR) /* with a time limit, SIGCONT ends it */
			continue;
		if (got <= 0 || pwrite_full(fd, buf, len, n) < 0)
			return got < 0 ? -errno : -EPROTO;
		if (!n)
			snprintf(first, size, "%.*s", (int)len, buf);
		n += (int64_t)len;
		if (end)
			return n;
	}
}

/* Carry a command out. Returns the answer's length; -errno with *e. path: of the agent's socket; "": nobody answers. */
static int64_t fake_agent_ask(const char *path, const struct channel_msg *m, struct err *e)
{
	const struct vm_agent_command *want = m->body;
	size_t len = m->head.body_bytes - offsetof(struct vm_agent_command, text);
	char first[512] = "", *desc, why[256];
	int sock = *path ? fake_agent_connect(path, want->timeout_ms) : -ENOENT;
	int64_t r = sock;

	if (sock >= 0) {
		bool sent = send(sock, want->text, len, MSG_NOSIGNAL) == (ssize_t)len && send(sock, "\n", 1, MSG_NOSIGNAL) == 1;

		r = sent ? fake_agent_copy(sock, m->fds[0], first, sizeof(first)) : -EPIPE;
		close(sock);
	}
	if (r == -EPROTO)
		return err_set(e, -EPROTO, ERR_GENERIC, "the guest agent sent a malformed answer");
	if (r < 0)
		return err_set(e, -ETIMEDOUT, ERR_TIMEOUT, "the guest agent did not answer");
	desc = strstr(first, "\"desc\": \"");
	if (strncmp(first, "{\"error\"", 8) || !desc)
		return r;
	snprintf(why, sizeof(why), "%.*s", (int)strcspn(desc + 9, "\""), desc + 9);
	return err_set(e, -EIO, ERR_GENERIC, "the guest agent refuses: %s", why);
}

/* Answer VM_MSG_AGENT_COMMAND. word: the rest of the command line behind "agent-socket="; NULL: there is none. */
static void fake_agent_serve(int sock, uint16_t version, const char *word, const struct channel_msg *m)
{
	struct vm_reply reply = { 0 };
	struct vm_agent_answer answer;
	char path[108] = "";
	struct err e = { 0 };
	int64_t r;

	if (word)
		sscanf(word, "%107s", path);
	r = fake_agent_ask(path, m, &e);
	answer.bytes = r < 0 ? 0 : (uint64_t)r;
	reply.error = (int32_t)r;
	reply.cls = e.cls;
	snprintf(reply.msg, sizeof(reply.msg), "%s", e.msg);
	if (r < 0)
		channel_send(sock, version, VM_MSG_REPLY, m->head.seq, &reply, sizeof(reply), NULL, 0);
	else
		channel_send(sock, version, VM_MSG_AGENT_ANSWER, m->head.seq, &answer, sizeof(answer), NULL, 0);
}

/* The agent reads /proc. In the pid namespace that root's daemon made for this VM, it needs one with that namespace's
 * numbers. */
static void fake_agent_mount_proc(void)
{
	if (getppid() == 1 && (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("proc", "/proc", "proc", 0, NULL) < 0))
		_exit(126);
}

/* Let a program, cairn-agent, serve a connection to the guest's vsock. path: in double
 * quotes; NULL: nothing listens. */
static void fake_cairn_agent(const char *path, const struct channel_msg *m, int sock, uint16_t version)
{
	struct vm_reply reply = { 0 };
	char program[256] = "";

	if (path)
		sscanf(path, "\"%255[^\"]", program);
	if (access(program, X_OK) < 0)
		*program = 0;
	if (*program && !fork()) {
		signal(SIGCHLD, SIG_DFL);
		fake_agent_mount_proc();
		/* A script's shell knows only fds of one digit, and that of the connection may have two. */
		if (m->fds[0] == 3 ? fcntl(3, F_SETFD, 0) < 0 : dup2(m->fds[0], 3) < 0)
			_exit(126);
		execl(program, program, "--fd", "3", NULL);
		_exit(127);
	}
	close(m->fds[0]);
	if (!*program) {
		reply.error = -ECONNREFUSED;
		reply.cls = ERR_GENERIC;
		snprintf(reply.msg, sizeof(reply.msg), "nothing in the guest listens on vsock port %u", ((const struct vm_vsock *)m->body)->port);
	}
	channel_send(sock, version, VM_MSG_REPLY, m->head.seq, &reply, sizeof(reply), NULL, 0);
}

#endif
