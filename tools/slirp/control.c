#include "tools/slirp/control.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOLD "{\"hold\": true}"
#define HELD "{\"held\": true}"
#define MESSAGE_MAX 64
#define BACKLOG 4

int control_init(struct control *c, int listening)
{
	*c = (struct control){ .listening = listening, .fd = -1 };
	if (listening < 0)
		return 0;
	/* The daemon already listens on the socket. Calling listen() again makes the kernel report this process as the
	 * peer to clients that connect from now on. */
	if (listen(listening, BACKLOG) < 0)
		return -errno;
	/* A client may have disconnected before accept(), which must not block then. */
	return fcntl(listening, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ? -errno : 0;
}

static void daemon_forget(struct control *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->holds = c->owes = false;
}

void control_done(struct control *c)
{
	daemon_forget(c);
}

/* Send a message. Returns false if the daemon does not read now or is gone; the caller then keeps the message for the
 * next try. */
static bool message_send(struct control *c, const char *text)
{
	if (send(c->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return true;
	if (errno != EAGAIN && errno != EINTR)
		daemon_forget(c);
	return false;
}

static bool forward_send(struct control *c, unsigned forward)
{
	char text[MESSAGE_MAX];

	snprintf(text, sizeof(text), "{\"forward\": %u}", forward);
	if (!message_send(c, text))
		return false;
	c->forwards[forward].told = c->told = true;
	return true;
}

void control_awake(struct control *c)
{
	if (!c->told)
		return;
	c->told = false;
	for (unsigned i = 0; i < ARRAY_SIZE(c->forwards); i++)
		c->forwards[i].told = false;
}

void control_tell(struct control *c, unsigned forward, uint64_t now_ns)
{
	c->forwards[forward].pending = c->listening >= 0;
	control_run(c, now_ns);
}

/* Send {"held": true} only after all pending messages. */
static void held_send(struct control *c)
{
	for (unsigned i = 0; i < ARRAY_SIZE(c->forwards); i++)
		if (c->forwards[i].pending)
			return;
	c->owes = !message_send(c, HELD) && c->fd >= 0;
}

uint64_t control_run(struct control *c, uint64_t now_ns)
{
	uint64_t next_ns = UINT64_MAX;

	for (unsigned i = 0; i < ARRAY_SIZE(c->forwards) && c->fd >= 0; i++) {
		if (!c->forwards[i].pending)
			continue;
		if (c->owes || c->forwards[i].next_ns <= now_ns) {
			c->forwards[i].pending = !forward_send(c, i);
			c->forwards[i].next_ns = now_ns + CONTROL_INTERVAL_NS;
		}
		if (c->forwards[i].pending)
			next_ns = MIN(next_ns, c->forwards[i].next_ns);
	}
	if (c->fd >= 0 && c->owes)
		held_send(c);
	if (c->owes)
		next_ns = MIN(next_ns, now_ns + CONTROL_INTERVAL_NS);
	return c->fd < 0 ? UINT64_MAX : next_ns;
}

unsigned control_poll_add(const struct control *c, struct pollfd *fds)
{
	unsigned n = 0;

	if (c->listening >= 0)
		fds[n++] = (struct pollfd){ .fd = c->listening, .events = POLLIN };
	if (c->fd >= 0)
		fds[n++] = (struct pollfd){ .fd = c->fd, .events = POLLIN };
	return n;
}

static void daemon_hear(struct control *c)
{
	char text[MESSAGE_MAX];
	ssize_t got = recv(c->fd, text, sizeof(text), MSG_DONTWAIT);

	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
		daemon_forget(c);
	else if (got > 0)
		c->holds = c->owes = (size_t)got == strlen(HOLD) && !memcmp(text, HOLD, (size_t)got);
}

static void daemon_take(struct control *c)
{
	int fd = accept4(c->listening, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	daemon_forget(c);
	c->fd = fd;
	for (unsigned i = 0; i < ARRAY_SIZE(c->forwards); i++)
		c->forwards[i].pending |= c->forwards[i].told;
}

void control_poll_done(struct control *c, const struct pollfd *fds, unsigned n, uint64_t now_ns)
{
	for (unsigned i = 0; i < n; i++) {
		if (!fds[i].revents)
			continue;
		if (fds[i].fd == c->listening)
			daemon_take(c);
		else if (fds[i].fd == c->fd)
			daemon_hear(c);
	}
	control_run(c, now_ns);
}
