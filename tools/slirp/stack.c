#include "tools/slirp/stack.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "tools/slirp/closing.h"
#include "tools/slirp/control.h"
#include "tools/slirp/frames.h"
#include "tools/slirp/loopback_filter.h"
#include "tools/slirp/options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CONFIG_VERSION 4
/* MTU of TCP segments with headers, in both directions. libslirp announces that its window of 64 KiB has opened only if
 * two more segments fit; two segments of the maximum size would never fit, and the guest would have to probe. */
#define SEGMENT_MTU 9000
/* Limit for all connections and datagram sockets; the rest of FDS_MAX is for other files. */
#define SOCKETS_MAX (FDS_MAX - 160)
/* Limit for those that the guest opens, so that the forwards' clients have some left. */
#define GUEST_SOCKETS_MAX (SOCKETS_MAX - 164)
/* After this time without connections, libslirp's own timers have expired, so its timeout is ignored: for its listening
 * sockets, libslirp would ask to be called twice a second. */
#define QUIET_NS (180 * 1000000000ULL)
#define NS_PER_MS 1000000ULL

struct stack_timer {
	SlirpTimerId id;
	void *opaque;
	uint64_t due_ns; /* time at which the timer fires; 0: not set */
};

struct stack {
	const struct options *options;
	struct frames *frames;
	struct control *control;
	Slirp *slirp;
	struct stack_timer timers[SLIRP_TIMER_NUM];
	struct closing closing;
	uint64_t active_ns; /* time of the last activity */
	unsigned nsockets;
	unsigned nguest; /* those of nsockets that the guest has opened */
	struct {
		bool open; /* this fd is a connection or a datagram socket */
		bool accepted; /* a forward's client, also if the forward was removed since */
		bool listens;
		uint8_t forward; /* index of the forward plus 1; 0: none */
	} fds[FDS_MAX];
};

/* ---- callbacks of libslirp ---- */

static ssize_t on_send(const void *frame, size_t len, void *opaque)
{
	struct stack *s = opaque;

	closing_sent(&s->closing, frame, len);
	frames_write(s->frames, frame, len);
	return (ssize_t)len;
}

static void on_guest_error(const char *text, void *opaque)
{
	(void)opaque;
	log_guest("guest", "%s", text);
}

static int64_t on_clock(void *opaque)
{
	(void)opaque;
	return (int64_t)loop_now_ns();
}

static void *on_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
	struct stack *s = opaque;

	s->timers[id] = (struct stack_timer){ .id = id, .opaque = cb_opaque };
	return &s->timers[id];
}

static void on_timer_free(void *timer, void *opaque)
{
	struct stack_timer *t = timer;

	(void)opaque;
	t->due_ns = 0;
}

static void on_timer_mod(void *timer, int64_t due_ms, void *opaque)
{
	struct stack_timer *t = timer;

	(void)opaque;
	t->due_ns = MAX(1, (uint64_t)due_ms * NS_PER_MS);
}

/* ---- sockets ---- */

/* The dynamic linker gives libslirp this function in place of libc's. libslirp ends a socket's input when it has read
 * all, and the output when it has written all. */
static uint8_t ended[FDS_MAX]; /* bits 1 << SHUT_RD and 1 << SHUT_WR of each socket */
static bool both_ended; /* since stack_input() has cleared it */

__attribute__((visibility("default"))) int shutdown(int fd, int how)
{
	if (fd >= 0 && fd < FDS_MAX && how >= SHUT_RD && how <= SHUT_RDWR) {
		ended[fd] |= how == SHUT_RDWR ? 1 << SHUT_RD | 1 << SHUT_WR : 1 << how;
		both_ended |= ended[fd] == (1 << SHUT_RD | 1 << SHUT_WR);
	}
	return (int)syscall(SYS_shutdown, fd, how);
}

/* The dynamic linker gives libslirp this function, too. libslirp itself has no limit. */
static const struct stack *asking; /* its slirp_input() handles a frame of the guest; NULL: none does */

__attribute__((visibility("default"))) int socket(int domain, int type, int protocol)
{
	if (asking && (asking->nguest >= GUEST_SOCKETS_MAX || asking->nsockets >= SOCKETS_MAX)) {
		errno = EMFILE;
		return -1;
	}
	return (int)syscall(SYS_socket, domain, type, protocol);
}

/* Find the forward of an accepted connection, which has the local address of the listening socket. Returns the
 * forward's index plus 1; 0: none. */
static uint8_t forward_of(const struct stack *s, int fd)
{
	struct sockaddr_in ours, theirs;
	socklen_t size = sizeof(ours);

	if (getsockname(fd, (struct sockaddr *)&ours, &size) < 0 || ours.sin_family != AF_INET)
		return 0;
	for (int i = 0; i < FDS_MAX; i++) {
		size = sizeof(theirs);
		if (!s->fds[i].listens || getsockname(i, (struct sockaddr *)&theirs, &size) < 0)
			continue;
		if (theirs.sin_port == ours.sin_port &&
			(theirs.sin_addr.s_addr == INADDR_ANY || theirs.sin_addr.s_addr == ours.sin_addr.s_addr))
			return s->fds[i].forward;
	}
	return 0;
}

static void on_unregister(int fd, void *opaque)
{
	struct stack *s = opaque;

	if (fd < 0 || fd >= FDS_MAX)
		return;
	s->nsockets -= s->fds[fd].open;
	s->nguest -= s->fds[fd].open && !s->fds[fd].accepted;
	s->fds[fd].open = false;
	s->fds[fd].forward = 0;
}

static void on_register(int fd, void *opaque)
{
	struct stack *s = opaque;
	int on = 1;

	if (fd < 0 || fd >= FDS_MAX)
		return;
	on_unregister(fd, s);
	s->nsockets++;
	s->fds[fd].open = true;
	ended[fd] = 0;
	s->fds[fd].forward = forward_of(s, fd);
	s->fds[fd].accepted = s->fds[fd].forward;
	s->nguest += !s->fds[fd].accepted;
	/* End a client whose host has vanished after the kernel's two hours, as sshd does: a laptop may sleep. */
	if (s->fds[fd].accepted)
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

static void on_notify(void *opaque)
{
	(void)opaque; /* nothing to do: the only thread polls all sockets soon anyway */
}

static const SlirpCb callbacks = {
	.send_packet = on_send,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_new_opaque = on_timer_new,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_register,
	.unregister_poll_fd = on_unregister,
	.notify = on_notify,
};

/* ---- forwards ---- */

/* libslirp accepts connections only on sockets that it has created. So let it create a useless one, and replace its fd
 * by ours. A relay would copy all data once more and hide the client's address from the guest.
 *
 * libslirp binds that socket and listens on it, which the sandbox forbids. So the dynamic linker gives libslirp these
 * two functions, which only note the socket, in place of libc's. */
static bool placing; /* stack_add_forward() waits for listen() */
static int placed;   /* the socket that libslirp has created; -1: none yet */

__attribute__((visibility("default"))) int bind(int fd, const struct sockaddr *address, socklen_t size)
{
	return placing ? 0 : (int)syscall(SYS_bind, fd, address, size);
}

__attribute__((visibility("default"))) int listen(int fd, int backlog)
{
	if (!placing)
		return (int)syscall(SYS_listen, fd, backlog);
	placed = fd;
	return 0;
}

int stack_add_forward(struct stack *s, unsigned at, struct err *e)
{
	const struct forward *f = &s->options->forwards[at];
	const struct sockaddr_in nowhere = { .sin_family = AF_INET };
	const struct sockaddr_in guest = { .sin_family = AF_INET, .sin_port = htons(f->port), .sin_addr = f->guest };
	int r;

	placing = true;
	placed = -1;
	r = slirp_add_hostxfwd(s->slirp, (const struct sockaddr *)&nowhere, sizeof(nowhere),
		(const struct sockaddr *)&guest, sizeof(guest), 0);
	placing = false;
	if (r < 0)
		return err_set_errno(e, -errno, "forward %u", at);
	if (placed < 0 || placed >= FDS_MAX)
		return err_set(e, -ENFILE, ERR_HOST, "forward %u: libslirp does not listen", at);
	/* The client may have disconnected before accept(), which must not block then. */
	if (fcntl(f->fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0 || dup3(f->fd, placed, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "forward %u", at);
	close(f->fd);
	s->fds[placed].listens = true;
	s->fds[placed].forward = (uint8_t)(at + 1);
	return 0;
}

static void listener_remove(struct stack *s, int fd)
{
	struct sockaddr_in ours;
	socklen_t size = sizeof(ours);

	s->fds[fd].listens = false;
	if (getsockname(fd, (struct sockaddr *)&ours, &size) == 0)
		slirp_remove_hostxfwd(s->slirp, (const struct sockaddr *)&ours, size, 0);
}

int stack_listener(const struct stack *s, unsigned at)
{
	for (int fd = 0; fd < FDS_MAX; fd++)
		if (s->fds[fd].listens && s->fds[fd].forward == at + 1)
			return fd;
	return -1;
}

void stack_remove_forward(struct stack *s, unsigned at)
{
	for (int fd = 0; fd < FDS_MAX; fd++) {
		if (s->fds[fd].listens && s->fds[fd].forward == at + 1)
			listener_remove(s, fd);
		if (s->fds[fd].forward == at + 1)
			s->fds[fd].forward = 0;
		else if (s->fds[fd].forward > at + 1)
			s->fds[fd].forward--;
	}
}

/* ---- rules that change ---- */

static const uint8_t gateway6[16] = { 0xfe, 0xc0, [15] = 2 };

static bool peer_read(const struct stack *s, int fd, uint8_t ret[16], uint16_t *ret_port)
{
	struct sockaddr_storage peer = { 0 };
	const struct sockaddr_in *v4 = (const void *)&peer;
	const struct sockaddr_in6 *v6 = (const void *)&peer;
	socklen_t size = sizeof(peer);

	if (getpeername(fd, (struct sockaddr *)&peer, &size) < 0)
		return false;
	/* libslirp leads the gateway's addresses to the host's loopback. */
	if (peer.ss_family == AF_INET6) {
		memcpy(ret, IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) ? gateway6 : v6->sin6_addr.s6_addr, 16);
		*ret_port = ntohs(v6->sin6_port);
		return true;
	}
	memset(ret, 0, 16);
	ret[10] = ret[11] = 0xff;
	memcpy(ret + 12, v4->sin_addr.s_addr == htonl(INADDR_LOOPBACK) ? &s->options->gateway : &v4->sin_addr, 4);
	*ret_port = ntohs(v4->sin_port);
	return true;
}

static int option_get(int fd, int option)
{
	socklen_t size = sizeof(int);
	int value = -1;

	return getsockopt(fd, SOL_SOCKET, option, &value, &size) < 0 ? -1 : value;
}

/* Put a socket without a port in the place of this one. */
static void datagrams_end(int fd)
{
	CLEANUP_CLOSE int fresh = socket(option_get(fd, SO_DOMAIN), SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fresh < 0 || dup3(fresh, fd, O_CLOEXEC) < 0)
		shutdown(fd, SHUT_RDWR);
}

void stack_end_connections(struct stack *s, bool (*may_go_on)(void *opaque, const uint8_t to[16], uint16_t port), void *opaque)
{
	const struct linger reset = { .l_onoff = 1 };
	uint8_t to[16];
	uint16_t port;

	for (int fd = 0; fd < FDS_MAX; fd++) {
		int protocol = s->fds[fd].open && !s->fds[fd].listens && !s->fds[fd].accepted ? option_get(fd, SO_PROTOCOL) : -1;

		if (protocol == IPPROTO_UDP) {
			datagrams_end(fd);
		} else if (protocol == IPPROTO_TCP && (!peer_read(s, fd, to, &port) || !may_go_on(opaque, to, port))) {
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
			shutdown(fd, SHUT_RDWR);
		}
	}
}

/* ---- creation and release ---- */

int stack_new(const struct options *o, struct frames *f, struct control *c, struct stack **ret_s,
	struct err *e)
{
	struct stack *s = calloc(1, sizeof(*s));
	SlirpConfig config = { .version = CONFIG_VERSION, .restricted = o->restricted, .in_enabled = true,
		.vnetwork = o->network, .vnetmask = o->mask, .vhost = o->gateway, .vdhcp_start = o->first,
		.vnameserver = o->resolver, .in6_enabled = true, .vprefix_len = 64,
		.vhostname = o->hostname[0] ? o->hostname : NULL, .if_mtu = o->mtu, .if_mru = MIN(o->mtu, SEGMENT_MTU),
		.disable_host_loopback = !o->host_loopback };
	int r = 0;

	if (!s)
		return err_set_errno(e, -ENOMEM, "libslirp");
	s->options = o;
	s->frames = f;
	s->control = c;
	/* QEMU's user network has the same addresses. */
	inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &config.vhost6);
	inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);
	s->slirp = slirp_new(&config, &callbacks, s);
	if (!s->slirp)
		r = err_set(e, -EINVAL, ERR_HOST, "libslirp refuses this network");
	for (unsigned i = 0; i < o->nforwards && !r; i++)
		if (!o->forwards[i].udp)
			r = stack_add_forward(s, i, e);
	if (r < 0) {
		stack_free(s);
		return r;
	}
	*ret_s = s;
	return 0;
}

void stack_free(struct stack *s)
{
	if (s && s->slirp)
		slirp_cleanup(s->slirp);
	free(s);
}

void stack_input(struct stack *s, const uint8_t *frame, size_t len)
{
	const uint8_t *reset;
	size_t bytes;

	if (!loopback_filter_passes(frame, len))
		return;
	s->active_ns = loop_now_ns();
	closing_received(&s->closing, frame, len);
	both_ended = false;
	asking = s;
	slirp_input(s->slirp, frame, (int)len);
	asking = NULL;
	reset = closing_reset(&s->closing, &bytes);
	if (reset && both_ended)
		slirp_input(s->slirp, reset, (int)bytes);
}

/* Send the packets for which libslirp did not know the guest's address, in case the guest has just announced it:
 * libslirp drops such packets after one second, which may be before the next round. Polls no socket. */
void stack_input_done(struct stack *s)
{
	slirp_pollfds_poll(s->slirp, 1, NULL, NULL);
}

/* ---- polling sockets ---- */

/* Map libslirp's events to those of poll(). */
static const struct {
	int slirp;
	short poll;
} events[] = { { SLIRP_POLL_IN, POLLIN }, { SLIRP_POLL_OUT, POLLOUT }, { SLIRP_POLL_PRI, POLLPRI },
	{ SLIRP_POLL_ERR, POLLERR }, { SLIRP_POLL_HUP, POLLHUP } };

struct polling {
	struct stack *s;
	struct poll_set *set;
};

static bool filter_lets_in(const struct stack *s)
{
	return s->nsockets < SOCKETS_MAX && !s->control->holds;
}

/* Add one of libslirp's sockets to the poll set. Listening sockets are left out while no more sockets are free or the
 * VM is being saved; their clients wait in the kernel's queue. */
static int poll_add(int fd, int want, void *opaque)
{
	struct polling *p = opaque;
	struct pollfd *at = &p->set->fds[p->set->n];

	if (p->set->n == ARRAY_SIZE(p->set->fds) || fd < 0 || fd >= FDS_MAX ||
		(p->s->fds[fd].listens && !filter_lets_in(p->s)))
		return -1;
	*at = (struct pollfd){ .fd = fd };
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		at->events |= want & events[i].slirp ? events[i].poll : 0;
	return (int)p->set->n++;
}

static int poll_get(int at, void *opaque)
{
	const struct polling *p = opaque;
	int got = 0;

	if (at < 0 || (unsigned)at >= p->set->n)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		got |= p->set->fds[at].revents & events[i].poll ? events[i].slirp : 0;
	return got;
}

int stack_poll_add(struct stack *s, struct poll_set *set, uint64_t now_ns)
{
	struct polling p = { s, set };
	uint32_t timeout = UINT32_MAX;

	slirp_pollfds_fill(s->slirp, &timeout, poll_add, &p);
	if (!s->nsockets && now_ns - s->active_ns > QUIET_NS)
		timeout = UINT32_MAX;
	for (size_t i = 0; i < ARRAY_SIZE(s->timers); i++) {
		uint64_t due_ns = s->timers[i].due_ns;

		if (due_ns)
			timeout = (uint32_t)MIN(timeout, due_ns > now_ns ? (due_ns - now_ns) / NS_PER_MS + 1 : 0);
	}
	return timeout > INT32_MAX ? -1 : (int)timeout;
}

static void timers_run(struct stack *s, uint64_t now_ns)
{
	for (size_t i = 0; i < ARRAY_SIZE(s->timers); i++) {
		struct stack_timer *t = &s->timers[i];

		if (!t->due_ns || t->due_ns > now_ns)
			continue;
		t->due_ns = 0;
		slirp_handle_timer(s->slirp, t->id, t->opaque);
	}
}

void stack_poll_done(struct stack *s, struct poll_set *set, int polled, uint64_t now_ns)
{
	struct polling p = { s, set };

	for (unsigned i = 0; polled > 0 && i < set->n; i++) {
		int fd = set->fds[i].fd;
		unsigned forward = fd < 0 ? 0 : s->fds[fd].forward;

		if (!(set->fds[i].revents & POLLIN) || !forward)
			continue;
		s->active_ns = now_ns;
		control_report(s->control, forward - 1, now_ns);
	}
	/* libslirp looks at all its sockets unless it hears of an error. */
	slirp_pollfds_poll(s->slirp, polled <= 0, poll_get, &p);
	timers_run(s, now_ns);
}
