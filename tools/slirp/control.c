#include "tools/slirp/control.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOLD "{\"hold\": true}"
#define HELD "{\"held\": true}"
#define ADD "{\"add\": \""
#define GIVE "{\"give\": \""
#define TAKE "{\"take\": \""
#define LEAD "{\"lead\": \""
#define REMOVE "{\"remove\": "
#define SOCKET ", \"socket\": \""
#define EGRESS "{\"egress\": true}"
#define MESSAGE_MAX 160
#define BACKLOG 4

int control_init(struct control *c, int listening)
{
	*c = (struct control){ .listening = listening, .fd = -1, .order.fd = -1, .take.fd = -1 };
	if (listening < 0)
		return 0;
	/* The daemon already listens on the socket. Calling listen() again makes the kernel report this process as the
	 * peer to clients that connect from now on. */
	if (listen(listening, BACKLOG) < 0)
		return -errno;
	/* A client may have disconnected before accept(), which must not block then. */
	return fcntl(listening, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ? -errno : 0;
}

static void order_drop(struct control *c)
{
	if (c->order.fd >= 0)
		close(c->order.fd);
	c->order = (struct control_order){ .fd = -1 };
}

static void take_drop(struct control *c)
{
	if (c->take.fd >= 0)
		close(c->take.fd);
	c->take.fd = -1;
}

static void daemon_drop(struct control *c)
{
	if (c->fd >= 0)
		close(c->fd);
	order_drop(c);
	c->fd = -1;
	c->holds = c->owes = false;
	c->answers = c->nanswers = 0;
}

void control_done(struct control *c)
{
	daemon_drop(c);
	take_drop(c);
}

/* Send a message. Returns false if the daemon does not read now or is gone; the caller then keeps the message for the
 * next try. */
static bool message_send(struct control *c, const char *text)
{
	if (send(c->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return true;
	if (errno != EAGAIN && errno != EINTR)
		daemon_drop(c);
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

void control_report(struct control *c, unsigned forward, uint64_t now_ns)
{
	c->forwards[forward].pending = c->listening >= 0;
	control_run(c, now_ns);
}

static void answers_send(struct control *c)
{
	while (c->nanswers && c->fd >= 0 && message_send(c, c->answers & 1 ? "{\"done\": true}" : "{\"done\": false}")) {
		c->answers >>= 1;
		c->nanswers--;
	}
}

/* Send {"held": true} only after all pending messages. */
static void held_send(struct control *c)
{
	if (c->nanswers)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(c->forwards); i++)
		if (c->forwards[i].pending)
			return;
	c->owes = !message_send(c, HELD) && c->fd >= 0;
}

void control_denied(struct control *c, uint64_t packets, uint64_t questions, uint64_t now_ns)
{
	if (packets == c->denied[0] && questions == c->denied[1])
		return;
	c->denied[0] = packets;
	c->denied[1] = questions;
	c->denied_pending = c->listening >= 0;
	control_run(c, now_ns);
}

static void denied_send(struct control *c, uint64_t now_ns)
{
	char text[MESSAGE_MAX];

	if (c->denied_next_ns > now_ns)
		return;
	snprintf(text, sizeof(text), "{\"denied\": [%" PRIu64 ", %" PRIu64 "]}", c->denied[0], c->denied[1]);
	c->denied_pending = !message_send(c, text);
	c->denied_next_ns = now_ns + CONTROL_INTERVAL_NS;
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
	if (c->fd >= 0 && c->denied_pending)
		denied_send(c, now_ns);
	if (c->denied_pending)
		next_ns = MIN(next_ns, c->denied_next_ns);
	if (c->fd >= 0)
		answers_send(c);
	if (c->fd >= 0 && c->owes)
		held_send(c);
	if (c->owes || c->nanswers)
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
	if (c->take.fd >= 0)
		fds[n++] = (struct pollfd){ .fd = c->take.fd, .events = POLLIN };
	return n;
}

/* Receive a message of the daemon and the fd that came with it; the kernel closes further ones. *ret_fd: owned, or -1.
 * *ret_lost: this process had no number free for the fd.
 * Returns the length of the text, which ends with 0; 0: end of file; -errno. */
static ssize_t message_receive(int sock, char text[MESSAGE_MAX], int *ret_fd, bool *ret_lost)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} room;
	struct iovec iov = { text, MESSAGE_MAX - 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &room,
		.msg_controllen = CMSG_LEN(sizeof(int)) }; /* CMSG_SPACE() would have room for two */
	ssize_t got = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *with = got < 0 ? NULL : CMSG_FIRSTHDR(&m);

	*ret_fd = -1;
	*ret_lost = false;
	if (got < 0)
		return -errno;
	if (with && with->cmsg_level == SOL_SOCKET && with->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(with), sizeof(*ret_fd));
	*ret_lost = m.msg_flags & MSG_CTRUNC && *ret_fd < 0;
	text[got] = 0;
	return got;
}

/* Copy the text up to the quotation mark. Returns false if it is too long. */
static bool text_take(const char *text, char ret[CONTROL_FORWARD_TEXT])
{
	size_t len = strcspn(text, "\"");

	if (len >= CONTROL_FORWARD_TEXT)
		return false;
	memcpy(ret, text, len);
	ret[len] = 0;
	return true;
}

/* Note that a socket is to come by fd, which is taken on success. */
static bool take_note(struct control *c, const char *text, int fd)
{
	const char *from = strstr(text, SOCKET);

	if (!from || !text_take(text, c->take.text) || !text_take(from + strlen(SOCKET), c->take.from))
		return false;
	take_drop(c);
	c->take.fd = fd;
	return true;
}

/* Note a change that the daemon wants. Returns false if the message is something else. */
static bool order_note(struct control *c, const char *text, int fd)
{
	unsigned long at;
	char *rest;
	size_t len;

	order_drop(c);
	if (!strncmp(text, REMOVE, strlen(REMOVE)) && fd < 0) {
		at = strtoul(text + strlen(REMOVE), &rest, 10);
		c->order = (struct control_order){ .kind = CONTROL_REMOVE, .fd = -1, .at = (unsigned)MIN(at, FORWARDS_MAX) };
		rest = strncmp(rest, SOCKET, strlen(SOCKET)) ? NULL : rest + strlen(SOCKET);
		len = rest ? strcspn(rest, "\"") : 0;
		if (len < sizeof(c->order.text) && rest)
			memcpy(c->order.text, rest, len);
		return true;
	}
	if (fd >= 0 && !strcmp(text, EGRESS)) {
		c->order = (struct control_order){ .kind = CONTROL_EGRESS, .fd = fd };
		return true;
	}
	if (fd >= 0 && !strncmp(text, TAKE, strlen(TAKE)))
		return take_note(c, text + strlen(TAKE), fd);
	if (fd >= 0 && !strncmp(text, GIVE, strlen(GIVE))) {
		c->order = (struct control_order){ .kind = CONTROL_GIVE, .fd = fd };
		if (text_take(text + strlen(GIVE), c->order.text))
			return true;
		c->order = (struct control_order){ .fd = -1 };
		return false;
	}
	if (!strncmp(text, fd < 0 ? LEAD : ADD, strlen(fd < 0 ? LEAD : ADD)))
		text += strlen(fd < 0 ? LEAD : ADD);
	else
		return false;
	len = strcspn(text, "\"");
	if (len >= sizeof(c->order.text))
		return false;
	c->order = (struct control_order){ .kind = fd < 0 ? CONTROL_LEAD : CONTROL_ADD, .fd = fd };
	memcpy(c->order.text, text, len);
	return true;
}

static void daemon_receive(struct control *c)
{
	char text[MESSAGE_MAX];
	bool lost;
	int fd;
	ssize_t got = message_receive(c->fd, text, &fd, &lost);

	if (got == 0 || (got < 0 && got != -EAGAIN && got != -EINTR)) {
		daemon_drop(c);
	} else if (lost) {
		control_answer(c, false);
	} else if (got > 0 && !order_note(c, text, fd)) {
		c->holds = c->owes = !strcmp(text, HOLD);
		if (fd >= 0)
			close(fd);
	}
}

/* Return whether fd is a bound socket of this address, "tcp:127.0.0.1:8022". */
static bool socket_is(int fd, const char *text)
{
	struct sockaddr_in6 own = { 0 }; /* an IPv4 one has its port at the same place */
	const void *address = &own.sin6_addr;
	char its[CONTROL_FORWARD_TEXT], host[INET6_ADDRSTRLEN];
	socklen_t size = sizeof(own), type_size = sizeof(int);
	int type = 0;

	if (getsockname(fd, (struct sockaddr *)&own, &size) < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) < 0)
		return false;
	if (own.sin6_family == AF_INET)
		address = &((const struct sockaddr_in *)(const void *)&own)->sin_addr;
	if (!inet_ntop(own.sin6_family, address, host, sizeof(host)))
		return false;
	snprintf(its, sizeof(its), "%s:%s:%u", type == SOCK_DGRAM ? "udp" : "tcp", host, ntohs(own.sin6_port));
	return !strcmp(its, text);
}

/* A socket has come, or the process that was to send it has none. Another VM's process sends it, so look at it. */
static void take_end(struct control *c)
{
	char text[MESSAGE_MAX];
	bool lost;
	int fd;
	ssize_t got = message_receive(c->take.fd, text, &fd, &lost);

	if (got == -EAGAIN || got == -EINTR)
		return;
	take_drop(c);
	if (fd >= 0 && socket_is(fd, c->take.from)) {
		order_drop(c);
		c->order = (struct control_order){ .kind = CONTROL_ADD, .fd = fd };
		memcpy(c->order.text, c->take.text, sizeof(c->order.text));
		return;
	}
	if (fd >= 0)
		close(fd);
	control_answer(c, false);
}

bool control_give(int to, int socket)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} room = { .head = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	char text[] = "socket";
	struct iovec iov = { text, strlen(text) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &room, .msg_controllen = sizeof(room) };

	memcpy(CMSG_DATA(&room.head), &socket, sizeof(socket));
	return sendmsg(to, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

struct control_order control_order(struct control *c)
{
	struct control_order order = c->order;

	c->order = (struct control_order){ .fd = -1 };
	return order;
}

void control_answer(struct control *c, bool done)
{
	if (c->fd < 0 || c->nanswers == CONTROL_ANSWERS_MAX)
		return;
	c->answers |= (unsigned)done << c->nanswers++;
	answers_send(c);
}

void control_remove_forward(struct control *c, unsigned at)
{
	memmove(&c->forwards[at], &c->forwards[at + 1], (ARRAY_SIZE(c->forwards) - at - 1) * sizeof(c->forwards[0]));
	memset(&c->forwards[ARRAY_SIZE(c->forwards) - 1], 0, sizeof(c->forwards[0]));
}

static void daemon_take(struct control *c)
{
	int fd = accept4(c->listening, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	daemon_drop(c);
	c->fd = fd;
	c->denied_pending = c->denied[0] || c->denied[1];
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
			daemon_receive(c);
		else if (fds[i].fd == c->take.fd)
			take_end(c);
	}
	control_run(c, now_ns);
}
