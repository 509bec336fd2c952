/* Connections of virtio_vsock, and their sockets on the host's side. */
#include "base/cleanup.h"
#include "base/log.h"
#include "base/util.h"
#include "base/vsock_dial.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_vsock_internal.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* The guest must accept or refuse within this time; else the client gets an error. */
#define ANSWER_NS (10 * 1000000000ULL)
/* A driver that does not confirm the end of a connection gets an RST, as from Linux's vhost. */
/* The ports of the host's side of connections to the guest, as in Firecracker. */
#define HOST_PORT_FIRST (1u << 30)
#define HOST_PORT_MASK (HOST_PORT_FIRST - 1)
#define PORT_ANY UINT32_MAX

/* ---- the list of connections ---- */

static bool has_guest_part(const struct vsock_conn *c)
{
	return c->state == CONN_DIALING || c->state == CONN_ASKING || c->state == CONN_OPEN;
}

struct vsock_conn *conn_find(struct virtio_vsock *s, uint32_t host_port, uint32_t guest_port)
{
	for (struct vsock_conn *c = s->conns; c; c = c->next)
		if (c->host_port == host_port && c->guest_port == guest_port && has_guest_part(c))
			return c;
	return NULL;
}

static void vsock_task_post(struct virtio_vsock *s)
{
	if (s->task_posted)
		return;
	s->task_posted = true;
	loop_post(s->v.loop, &s->task);
}

static void conn_answer(struct vsock_conn *c, int r, enum err_class cls, const char *text)
{
	if (!c->done || c->answers)
		return;
	c->answers = true;
	c->answer = r;
	c->answer_class = cls;
	c->answer_text = text;
	vsock_task_post(c->s);
}

void conn_free_later(struct vsock_conn *c, int r, enum err_class cls, const char *text)
{
	struct virtio_vsock *s = c->s;

	if (c->state == CONN_CLOSED)
		return;
	for (struct vsock_conn **p = &s->conns; *p; p = &(*p)->next) {
		if (*p == c) {
			*p = c->next;
			break;
		}
	}
	s->nconns--;
	c->state = CONN_CLOSED;
	conn_answer(c, r, cls, text);
	c->next = s->to_free;
	s->to_free = c;
	vsock_task_post(s);
}

static void conn_end(struct vsock_conn *c)
{
	conn_free_later(c, -ECONNRESET, ERR_GENERIC, "the connection was closed");
}

void conn_free_all_later(struct virtio_vsock *s)
{
	struct vsock_conn *next;

	for (struct vsock_conn *c = s->conns; c; c = next) {
		next = c->next;
		if (has_guest_part(c))
			conn_free_later(c, -ECONNRESET, ERR_GENERIC, "the guest's vsock device was reset meanwhile; try again");
	}
}

static void conn_free(struct vsock_conn *c)
{
	loop_unwatch(c->watch);
	if (c->fd >= 0)
		close(c->fd);
	free(c->buffer);
	free(c);
}

static void list_free(struct vsock_conn *c)
{
	for (struct vsock_conn *next; c; c = next) {
		next = c->next;
		conn_free(c);
	}
}

void conns_free(struct virtio_vsock *s)
{
	list_free(s->conns);
	list_free(s->to_free);
	s->conns = s->to_free = NULL;
}

static struct vsock_conn *answer_find(struct vsock_conn *c)
{
	while (c && !c->answers)
		c = c->next;
	return c;
}

/* Call done() of one connection, without the lock. Returns false: there is none. */
static bool answer_one(struct virtio_vsock *s)
{
	void (*done)(void *opaque, int r, const struct err *e);
	struct err e = { 0 };
	struct vsock_conn *c;
	void *opaque;
	int r;

	pthread_mutex_lock(&s->v.lock);
	c = answer_find(s->conns);
	c = c ? c : answer_find(s->to_free);
	if (!c) {
		pthread_mutex_unlock(&s->v.lock);
		return false;
	}
	r = c->answer;
	if (r < 0 && r == -ECONNREFUSED)
		err_set(&e, r, c->answer_class, "nothing in the guest listens on vsock port %u", c->guest_port);
	else if (r < 0)
		err_set(&e, r, c->answer_class, "%s", c->answer_text);
	done = c->done;
	opaque = c->opaque;
	c->done = NULL;
	c->answers = false;
	pthread_mutex_unlock(&s->v.lock);
	done(opaque, r, &e);
	return true;
}

void vsock_task_run(struct loop_task *t)
{
	struct virtio_vsock *s = container_of(t, struct virtio_vsock, task);
	struct vsock_conn *to_free;

	pthread_mutex_lock(&s->v.lock);
	s->task_posted = false;
	pthread_mutex_unlock(&s->v.lock);
	while (answer_one(s))
		;
	/* A connection that was marked for closing since then may have an answer to send: the task is posted again,
	 * and frees it. */
	pthread_mutex_lock(&s->v.lock);
	to_free = answer_find(s->to_free) ? NULL : s->to_free;
	if (to_free)
		s->to_free = NULL;
	pthread_mutex_unlock(&s->v.lock);
	list_free(to_free);
}

/* ---- deadlines ---- */

void vsock_timer_arm(struct virtio_vsock *s, uint64_t at_ns)
{
	uint64_t first = at_ns;

	for (const struct vsock_conn *c = s->conns; c; c = c->next)
		if (c->deadline_ns)
			first = MIN(first, c->deadline_ns);
	if (s->hold_until_ns)
		first = MIN(first, s->hold_until_ns);
	if (first != UINT64_MAX)
		loop_timer_arm(s->timer, first);
}

void conn_deadline(struct vsock_conn *c, uint64_t after_ns)
{
	c->deadline_ns = after_ns ? loop_now_ns() + after_ns : 0;
	if (after_ns)
		vsock_timer_arm(c->s, c->deadline_ns);
}

uint64_t conns_expire(struct virtio_vsock *s, uint64_t now_ns)
{
	uint64_t first = UINT64_MAX;
	struct vsock_conn *next;

	for (struct vsock_conn *c = s->conns; c; c = next) {
		next = c->next;
		if (!c->deadline_ns)
			continue;
		if (c->deadline_ns > now_ns) {
			first = MIN(first, c->deadline_ns);
			continue;
		}
		c->deadline_ns = 0;
		conn_answer(c, -ETIMEDOUT, ERR_TIMEOUT, "the guest did not answer; it may hang, or be paused");
		conn_abort(c);
	}
	return first;
}

/* ---- the socket's events ---- */

bool conn_wants_input(const struct vsock_conn *c)
{
	return c->state == CONN_OPEN && !c->eof && !(c->guest_shut & VSOCK_SHUTDOWN_RECEIVE) &&
		vsock_credit_room(&c->credit);
}

/* POLLPRI never happens on a Unix socket: the loop then reports only that the other end was closed. */
static unsigned events_wanted(const struct vsock_conn *c)
{
	unsigned events = c->len ? POLLOUT : 0;

	if (c->state == CONN_GREETING)
		return POLLIN;
	if (c->state == CONN_OPEN && conn_wants_input(c) && !c->s->starved)
		events |= POLLIN;
	return events || c->hung || c->state == CONN_CLOSED ? events : POLLPRI;
}

void conn_watch(struct vsock_conn *c)
{
	unsigned events = events_wanted(c);

	if (!c->watch || c->events == events)
		return;
	c->events = events;
	loop_watch_events(c->watch, events);
}

/* The host's side sends no more, and if it is closed, takes no more. */
void conn_eof(struct vsock_conn *c)
{
	uint32_t shut = c->host_shut | VSOCK_SHUTDOWN_SEND | (c->hung ? VSOCK_SHUTDOWN_RECEIVE : 0);

	c->eof = true;
	if (shut != c->host_shut)
		c->owes |= OWES_SHUTDOWN;
	c->host_shut = shut;
}

/* The host's side is closed for reading: drop the data that the guest still sends. */
static void sink_lost(struct vsock_conn *c)
{
	vsock_credit_forward(&c->credit, c->len);
	c->len = 0;
	if (!(c->host_shut & VSOCK_SHUTDOWN_RECEIVE))
		c->owes |= OWES_SHUTDOWN;
	c->host_shut |= VSOCK_SHUTDOWN_RECEIVE;
}

static void sink_emptied(struct vsock_conn *c)
{
	if (c->state == CONN_DRAINING)
		conn_end(c);
	else if (c->guest_shut & VSOCK_SHUTDOWN_SEND)
		shutdown(c->fd, SHUT_WR);
}

/* Send kept data to the host's side. */
static void conn_flush(struct vsock_conn *c)
{
	while (c->len) {
		uint32_t first = MIN(c->len, VSOCK_BUFFER_BYTES - c->start);
		struct iovec iov[2] = { { c->buffer + c->start, first }, { c->buffer, c->len - first } };
		struct msghdr m = { .msg_iov = iov, .msg_iovlen = c->len > first ? 2 : 1 };
		ssize_t n = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			sink_lost(c);
			break;
		}
		vsock_credit_forward(&c->credit, (uint32_t)n);
		c->start = (c->start + (uint32_t)n) % VSOCK_BUFFER_BYTES;
		c->len -= (uint32_t)n;
	}
	if (vsock_credit_is_due(&c->credit, VSOCK_BUFFER_BYTES))
		c->owes |= OWES_CREDIT_UPDATE;
	if (!c->len)
		sink_emptied(c);
}

static void open_ready(struct vsock_conn *c, unsigned revents)
{
	if (revents & (POLLHUP | POLLERR))
		c->hung = true;
	if (c->len)
		conn_flush(c);
	if (c->state == CONN_OPEN && conn_wants_input(c) && !c->s->starved)
		vsock_pump(c);
	/* After the host's side has closed, the device still reads its remaining data as the guest gives room. */
	if (c->state == CONN_OPEN && c->hung && (c->eof || (c->guest_shut & VSOCK_SHUTDOWN_RECEIVE)))
		conn_eof(c);
}

static void greet(struct vsock_conn *c);

static void conn_ready(void *opaque, unsigned revents)
{
	struct vsock_conn *c = opaque;

	LOCK_GUARD(&c->s->v.lock);
	if (c->state == CONN_GREETING) {
		greet(c);
	} else if (c->state == CONN_DRAINING) {
		conn_flush(c);
	} else if (c->state == CONN_ASKING && (revents & (POLLHUP | POLLERR))) {
		c->hung = true;
		conn_abort(c);
	} else if (c->state == CONN_OPEN) {
		open_ready(c, revents);
	}
	if (has_guest_part(c) && c->owes && !vsock_send_pending(c))
		return;
	conn_watch(c);
}

struct vsock_conn *conn_new(struct virtio_vsock *s, enum conn_state state, int fd)
{
	struct vsock_conn *c = s->nconns < VSOCK_CONNS_MAX ? calloc(1, sizeof(*c)) : NULL;

	if (!c)
		return NULL;
	c->s = s;
	c->state = state;
	c->fd = fd;
	c->events = state == CONN_GREETING ? POLLIN : POLLPRI;
	if (fd >= 0 && loop_watch(s->v.loop, fd, c->events, conn_ready, c, &c->watch) < 0) {
		free(c);
		return NULL;
	}
	c->next = s->conns;
	s->conns = c;
	s->nconns++;
	return c;
}

/* ---- connections to the guest ---- */

static uint32_t port_choose(struct virtio_vsock *s, uint32_t guest_port)
{
	uint32_t port;

	do {
		port = HOST_PORT_FIRST | (s->next_port++ & HOST_PORT_MASK);
	} while (conn_find(s, port, guest_port));
	return port;
}

void conn_ask(struct vsock_conn *c, uint32_t port)
{
	c->guest_port = port;
	c->host_port = port_choose(c->s, port);
	c->state = CONN_ASKING;
	c->owes = OWES_REQUEST;
	conn_deadline(c, ANSWER_NS);
	if (vsock_send_pending(c))
		conn_watch(c);
}

#define BLANKS " \t\n\v\f\r"

/* Parse the line "CONNECT PORT\n" as Firecracker does (src/vmm/src/devices/virtio/vsock/unix/muxer.rs,
 * read_local_stream_port()): any case, any white space around the words, further words ignored.
 * Returns the port; PORT_ANY: none. */
static uint32_t line_parse(const char *line)
{
	static const char connect[] = "connect";
	const char *word = line + strspn(line, BLANKS);
	unsigned long port;
	char *end;

	if (!strchr(line, '\n') || strncasecmp(word, connect, sizeof(connect) - 1) != 0)
		return PORT_ANY;
	word += sizeof(connect) - 1;
	if (!strspn(word, BLANKS))
		return PORT_ANY;
	word += strspn(word, BLANKS);
	word += *word == '+';
	if (*word < '0' || *word > '9')
		return PORT_ANY;
	port = strtoul(word, &end, 10);
	return strspn(end, BLANKS) && port < PORT_ANY ? (uint32_t)port : PORT_ANY;
}

/* Read the line byte by byte: the bytes after it are for the guest. */
static void greet(struct vsock_conn *c)
{
	uint32_t port;
	ssize_t n;

	do {
		n = recv(c->fd, c->line + c->line_len, 1, MSG_DONTWAIT);
	} while (n > 0 && c->line[c->line_len++] != '\n' && c->line_len < VSOCK_LINE_BYTES);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	c->line[c->line_len] = 0;
	port = n > 0 ? line_parse(c->line) : PORT_ANY;
	if (port == PORT_ANY || !(c->s->v.status & VIRTIO_STATUS_DRIVER_OK)) {
		conn_end(c);
		return;
	}
	c->says_ok = true;
	conn_ask(c, port);
}

bool greeter_evict(struct virtio_vsock *s)
{
	struct vsock_conn *oldest = NULL;

	for (struct vsock_conn *c = s->conns; c; c = c->next)
		if (c->state == CONN_GREETING || c->state == CONN_DRAINING)
			oldest = c;
	if (oldest)
		conn_end(oldest);
	return oldest;
}

void vsock_listen_ready(void *opaque, unsigned revents)
{
	struct virtio_vsock *s = opaque;
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)revents;
	if (fd < 0)
		return;
	LOCK_GUARD(&s->v.lock);
	if (s->nconns == VSOCK_CONNS_MAX)
		greeter_evict(s);
	if (!conn_new(s, CONN_GREETING, fd))
		close(fd);
}

void conn_accepted(struct vsock_conn *c)
{
	char ok[32];
	int n = snprintf(ok, sizeof(ok), "OK %u\n", c->host_port);

	if (c->state != CONN_ASKING || (c->owes & (OWES_REQUEST | OWES_RST))) {
		conn_abort(c);
		return;
	}
	conn_deadline(c, 0);
	c->state = CONN_OPEN;
	conn_answer(c, 0, ERR_GENERIC, "");
	/* The socket's buffer is empty: either the line fits, or the client has closed its end. */
	if (c->says_ok && send(c->fd, ok, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n)
		c->hung = true;
}

/* ---- connections from the guest ---- */

bool conn_dial(struct virtio_vsock *s, const struct vsock_header *h)
{
	struct vsock_dial_request ask = { .id = s->next_dial++, .port = h->dst_port };
	struct vsock_conn *c;

	if (s->dial_fd < 0 || (s->nconns == VSOCK_CONNS_MAX && !greeter_evict(s)))
		return false;
	c = conn_new(s, CONN_DIALING, -1);
	if (!c)
		return false;
	c->dial_id = ask.id;
	c->host_port = h->dst_port;
	c->guest_port = h->src_port;
	c->credit.peer_alloc = h->buf_alloc;
	c->credit.peer_forwarded = h->fwd_cnt;
	if (send(s->dial_fd, &ask, sizeof(ask), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(ask))
		return true;
	conn_end(c);
	return false;
}

static struct vsock_conn *dialing_find(struct virtio_vsock *s, uint32_t id)
{
	for (struct vsock_conn *c = s->conns; c; c = c->next)
		if (c->state == CONN_DIALING && c->dial_id == id)
			return c;
	return NULL;
}

/* fd: taken; -1: refused. */
static void dialed(struct vsock_conn *c, int fd)
{
	if (fd >= 0 && loop_watch(c->s->v.loop, fd, POLLPRI, conn_ready, c, &c->watch) < 0) {
		close(fd);
		fd = -1;
	}
	if (fd < 0) {
		conn_abort(c);
	} else {
		c->fd = fd;
		c->events = POLLPRI;
		c->state = CONN_OPEN;
		c->owes |= OWES_RESPONSE;
	}
	if (vsock_send_pending(c))
		conn_watch(c);
}

/* cairn-dial has ended: refuse the guest's connections that wait for it, and later ones. */
static void dialer_lost(struct virtio_vsock *s)
{
	struct vsock_conn *next;

	log_warn(s->v.dev.name, "cairn-dial has ended: the guest cannot connect to the host until the VM restarts");
	loop_unwatch(s->dial_watch);
	s->dial_watch = NULL;
	s->dial_fd = -1;
	for (struct vsock_conn *c = s->conns; c; c = next) {
		next = c->next;
		if (c->state == CONN_DIALING)
			dialed(c, -1);
	}
}

/* Receive an answer. *ret_fd: its fd, owned; -1: none. Returns its length; 0 or -1 as recvmsg(). */
static ssize_t dial_receive(int sock, struct vsock_dial_answer *ret, int *ret_fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { ret, sizeof(*ret) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf) };
	ssize_t n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *cm = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;

	*ret_fd = -1;
	if (cm && cm->cmsg_level == SOL_SOCKET && cm->cmsg_type == SCM_RIGHTS && cm->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(ret_fd, CMSG_DATA(cm), sizeof(int));
	return n;
}

void vsock_dial_ready(void *opaque, unsigned revents)
{
	struct virtio_vsock *s = opaque;
	struct vsock_dial_answer a;
	struct vsock_conn *c;
	int fd;
	ssize_t n = dial_receive(s->dial_fd, &a, &fd);

	(void)revents;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	LOCK_GUARD(&s->v.lock);
	c = n == (ssize_t)sizeof(a) ? dialing_find(s, a.id) : NULL;
	if (n <= 0)
		dialer_lost(s);
	else if (c)
		dialed(c, a.error ? -1 : steal_fd(&fd));
	if (fd >= 0)
		close(fd);
}

/* ---- data and ends ---- */

static bool buffer_put(struct vsock_conn *c, const struct iovec *iov, unsigned niov, uint32_t len)
{
	uint32_t at = (c->start + c->len) % VSOCK_BUFFER_BYTES, first = MIN(len, VSOCK_BUFFER_BYTES - at);

	if (!c->buffer)
		c->buffer = malloc(VSOCK_BUFFER_BYTES);
	if (!c->buffer)
		return false;
	iov_read(iov, niov, 0, c->buffer + at, first);
	iov_read(iov, niov, first, c->buffer, len - first);
	c->len += len;
	return true;
}

static ssize_t data_send(struct vsock_conn *c, struct iovec *iov, unsigned niov)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = niov };
	ssize_t n;

	do {
		n = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 && errno == EAGAIN ? 0 : n;
}

void conn_receive(struct vsock_conn *c, struct iovec *iov, unsigned niov, uint32_t len)
{
	ssize_t n = 0;

	if (c->state != CONN_OPEN || (c->owes & (OWES_RESPONSE | OWES_RST)) || (c->guest_shut & VSOCK_SHUTDOWN_SEND) ||
		!vsock_credit_receive(&c->credit, len, VSOCK_BUFFER_BYTES)) {
		conn_abort(c);
		return;
	}
	if (!len)
		return;
	if (c->host_shut & VSOCK_SHUTDOWN_RECEIVE)
		n = len;
	else if (!c->len)
		n = data_send(c, iov, niov);
	if (n < 0) {
		sink_lost(c);
		n = len;
	}
	vsock_credit_forward(&c->credit, (uint32_t)n);
	iov_drop_front(&iov, &niov, (size_t)n);
	if (n < len && !buffer_put(c, iov, niov, len - (uint32_t)n))
		conn_abort(c);
	if (vsock_credit_is_due(&c->credit, VSOCK_BUFFER_BYTES))
		c->owes |= OWES_CREDIT_UPDATE;
}

void conn_shut(struct vsock_conn *c, uint32_t flags)
{
	if (c->state != CONN_OPEN) {
		conn_abort(c);
		return;
	}
	flags &= VSOCK_SHUTDOWN_BOTH;
	if ((flags & ~c->guest_shut & VSOCK_SHUTDOWN_SEND) && !c->len)
		shutdown(c->fd, SHUT_WR);
	c->guest_shut |= flags;
	if (c->guest_shut == VSOCK_SHUTDOWN_BOTH)
		c->owes |= OWES_RST; /* confirms the end; kept data still goes to the host's side */
}

void conn_leave_guest(struct vsock_conn *c)
{
	c->owes = 0;
	conn_deadline(c, 0);
	if (c->len && c->fd >= 0 && !(c->host_shut & VSOCK_SHUTDOWN_RECEIVE)) {
		c->state = CONN_DRAINING;
		conn_watch(c);
	} else {
		conn_end(c);
	}
}

void conn_reset_by_guest(struct vsock_conn *c)
{
	if (c->state == CONN_ASKING)
		conn_free_later(c, -ECONNREFUSED, ERR_NOT_FOUND, NULL);
	else
		conn_leave_guest(c);
}

void conn_abort(struct vsock_conn *c)
{
	if (!has_guest_part(c)) {
		conn_end(c);
		return;
	}
	/* The guest does not know of a connection that it was not asked for yet. */
	if (c->owes & OWES_REQUEST) {
		conn_end(c);
		return;
	}
	vsock_credit_forward(&c->credit, c->len);
	c->len = 0;
	c->owes = OWES_RST;
	/* The host's side learns the end now, however long the driver has no buffer for the RST. */
	if (c->fd >= 0)
		shutdown(c->fd, SHUT_RDWR);
}
