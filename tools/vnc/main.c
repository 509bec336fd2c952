/* cairn-vnc: shows a VM's screen to VNC clients. It is started with the VM, and ends with the VM's process. It has no
 * right but to serve its open sockets (sandbox.h), and cairn-vm has none of its code. */
#include "base/err.h"
#include "base/log.h"
#include "base/program.h"
#include "tools/vnc/link.h"
#include "tools/vnc/sandbox.h"
#include "tools/vnc/server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINK_FD 3
#define LISTEN_FD 4
#define PASSWORD_FD 5
#define LINK 0
#define LISTENER 1
#define OWN_FDS 2

/* Read the password, the file's first line. Returns 0; -EINVAL; -errno. */
static int password_read(char password[SERVER_PASSWORD_MAX + 1], struct err *e)
{
	char text[SERVER_PASSWORD_MAX + 3];
	ssize_t n = read(PASSWORD_FD, text, sizeof(text) - 1);
	size_t len;

	if (n < 0)
		return err_set_errno(e, -errno, "password file");
	close(PASSWORD_FD);
	text[n] = 0;
	len = strcspn(text, "\r\n");
	if (!len || len > SERVER_PASSWORD_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "the password file's first line has to have 1 to %d bytes, since VNC's passwords "
			"have no more", SERVER_PASSWORD_MAX);
	snprintf(password, SERVER_PASSWORD_MAX + 1, "%.*s", (int)len, text);
	explicit_bzero(text, sizeof(text));
	return 0;
}

static void client_accept(struct server *s)
{
	int fd = accept4(LISTEN_FD, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		server_accept(s, fd);
}

/* Serve until the VM's process ends. Returns 0 or -errno. */
static int serve(struct link *l, struct server *s)
{
	struct pollfd fds[OWN_FDS + SERVER_CLIENTS_MAX];
	int wait = -1, r;

	for (;;) {
		fds[LINK] = (struct pollfd){ .fd = LINK_FD, .events = POLLIN };
		fds[LISTENER] = (struct pollfd){ .fd = LISTEN_FD, .events = POLLIN };
		if (poll(fds, OWN_FDS + server_poll_add(s, fds + OWN_FDS), wait) < 0 && errno != EINTR)
			return -errno;
		if (fds[LINK].revents && (r = link_receive(l)) <= 0)
			return r;
		if (fds[LISTENER].revents)
			client_accept(s);
		wait = server_run(s);
	}
}

int main(int argc, char **argv)
{
	static char password[SERVER_PASSWORD_MAX + 1];
	struct link l = { .fd = LINK_FD };
	bool secret = argc == 3 && !strcmp(argv[2], "password");
	struct server *s;
	struct err e;
	int r = program_begin(&e);

	if (argc != 2 + secret) {
		fputs("cairn-vnc is started with a VM whose definition has \"vnc\"\nusage: cairn-vnc NAME [password]\n", stderr);
		return 2;
	}
	clearenv();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN); /* this process ends with the VM */
	signal(SIGINT, SIG_IGN);
	log_set_owner(argv[1]);
	if (!r && secret)
		r = password_read(password, &e);
	if (!r)
		r = server_new(argv[1], secret ? password : NULL, &l, &s, &e);
	if (!r)
		r = vnc_sandbox(&e);
	if (r < 0) {
		log_error("vnc", "%s", e.msg);
		return 1;
	}
	r = serve(&l, s);
	if (r < 0)
		log_error("vnc", "the connection to the VM's process is lost: %s", strerror(-r));
	return r < 0;
}
