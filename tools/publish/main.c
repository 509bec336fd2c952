/* cairn-publish: lets clients of the host's ports reach a VM on a network of Cairn's. cairnd starts one for each
 * interface of type `network` with forwards, with the rights of the user who defined the interface. It accepts clients
 * and connects to the guest's address (docs/networks.md, "Published ports").
 *
 *   cairn-publish --control FD [--forward tcp|udp:FD:ADDRESS|-:PORT]...
 *
 * The address for "-" and the VM's tap come from the daemon by {"lead": "10.0.0.5 vnet0"}; until then, clients wait.
 * The other messages of --control are cairn-slirp's (tools/slirp/control.h).
 * Exit status: 0 when the tap is gone, or when the daemon ends before it has named one; 1 after an error. */
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/program.h"
#include "base/util.h"
#include "tools/publish/datagrams.h"
#include "tools/publish/relay.h"
#include "tools/publish/sandbox.h"
#include "tools/publish/tap_watch.h"
#include "tools/slirp/control.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_MS 1000000ULL
#define PUBLISHED_MAX 16 /* DEFINITION_FORWARDS_MAX */
#define POLL_MAX (1 + CONTROL_FDS + PUBLISHED_MAX + 2 * RELAYS_MAX + DATAGRAM_CLIENTS_MAX)

struct published {
	int fd; /* bound; listens if TCP; owned */
	bool udp;
	struct sockaddr_in6 own; /* its address on the host; the bytes of a sockaddr_in if it is one of IPv4 */
	struct in_addr guest;	/* 0.0.0.0: the address that the daemon tells */
	in_port_t to;
};

struct publisher {
	struct control control;
	bool met; /* a daemon has connected */
	struct tap_watch tap;
	struct in_addr address; /* the guest's; 0.0.0.0: not received yet */
	struct published list[PUBLISHED_MAX];
	unsigned n;
	struct relays relays;
	struct datagrams datagrams;
	struct pollfd fds[POLL_MAX];
};

/* ---- forwards ---- */

/* text: "tcp|udp:ADDRESS|-:PORT". fd: taken on success. Returns 0; -EINVAL. */
static int published_add(struct publisher *p, const char *text, int fd)
{
	char protocol[4], address[INET_ADDRSTRLEN], end;
	struct published *k = &p->list[p->n];
	socklen_t size = sizeof(k->own);
	unsigned to;

	if (p->n == PUBLISHED_MAX || sscanf(text, "%3[a-z]:%15[0-9.-]:%5u%c", protocol, address, &to, &end) != 3 || !to || to > UINT16_MAX ||
		(strcmp(protocol, "tcp") != 0 && strcmp(protocol, "udp") != 0))
		return -EINVAL;
	*k = (struct published){ .fd = fd, .udp = protocol[0] == 'u', .to = htons((uint16_t)to) };
	if (strcmp(address, "-") != 0 && inet_pton(AF_INET, address, &k->guest) != 1)
		return -EINVAL;
	if (getsockname(fd, (struct sockaddr *)&k->own, &size) < 0 || (k->own.sin6_family != AF_INET && k->own.sin6_family != AF_INET6) || fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ||
		(k->udp && datagrams_prepare(fd, k->own.sin6_family) < 0))
		return -EINVAL;
	p->n++;
	return 0;
}

static bool published_is(const struct published *k, const char *text)
{
	const void *own = k->own.sin6_family == AF_INET6 ? (const void *)&k->own.sin6_addr : &((const struct sockaddr_in *)&k->own)->sin_addr;
	char its[CONTROL_FORWARD_TEXT], address[INET6_ADDRSTRLEN];

	inet_ntop(k->own.sin6_family, own, address, sizeof(address));
	snprintf(its, sizeof(its), "%s:%s:%u", k->udp ? "udp" : "tcp", address, ntohs(k->own.sin6_port));
	return !strcmp(its, text);
}

/* text: the address of its socket. Returns p->n: none. */
static unsigned published_find(const struct publisher *p, const char *text)
{
	unsigned at = 0;

	while (at < p->n && !published_is(&p->list[at], text))
		at++;
	return at;
}

static void published_remove(struct publisher *p, const char *text)
{
	unsigned at = published_find(p, text);

	if (at == p->n)
		return; /* a daemon that was killed has removed it */
	close(p->list[at].fd);
	memmove(&p->list[at], &p->list[at + 1], (p->n - at - 1) * sizeof(p->list[0]));
	p->n--;
	relays_remove_forward(&p->relays, at);
	datagrams_remove_forward(&p->datagrams, at);
	control_remove_forward(&p->control, at);
}

/* Send the port's socket to another process, which continues with its clients. */
static bool published_give(struct publisher *p, const struct control_order *order)
{
	unsigned at = published_find(p, order->text);

	if (at == p->n || !control_give(order->fd, p->list[at].fd))
		return false;
	published_remove(p, order->text);
	return true;
}

static struct sockaddr_in guest_of(const struct publisher *p, unsigned at)
{
	const struct published *k = &p->list[at];

	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = k->to, .sin_addr = k->guest.s_addr ? k->guest : p->address };
}

/* Return whether the forward has an address to lead to, and room for a client. room: of TCP. */
static bool published_serves(const struct publisher *p, unsigned at, bool room)
{
	return !p->control.holds && p->tap.name[0] && guest_of(p, at).sin_addr.s_addr && (p->list[at].udp || room);
}

static void clients_take(struct publisher *p, unsigned at, uint64_t now_ns)
{
	struct sockaddr_in guest = guest_of(p, at);
	struct sockaddr_storage from;

	control_report(&p->control, at, now_ns);
	if (p->list[at].udp) {
		datagrams_receive(&p->datagrams, p->list[at].fd, at, &guest, now_ns);
		return;
	}
	while (relays_room_ns(&p->relays) <= now_ns) {
		socklen_t size = sizeof(from);
		int fd = accept4(p->list[at].fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return;
		relay_add(&p->relays, fd, &from, &guest, at);
	}
}

/* ---- the daemon's messages ---- */

static bool lead(struct publisher *p, const char *text)
{
	char address[INET_ADDRSTRLEN], tap[IFNAMSIZ];

	return sscanf(text, "%15s %15s", address, tap) == 2 && inet_pton(AF_INET, address, &p->address) == 1 && tap_watch_begin(&p->tap, tap);
}

/* Returns whether the process continues. */
static bool order_execute(struct publisher *p)
{
	struct control_order order = control_order(&p->control);
	bool done = true;

	switch (order.kind) {
	case CONTROL_NONE:
		return true;
	case CONTROL_ADD:
		done = published_add(p, order.text, order.fd) == 0;
		if (!done)
			close(order.fd);
		break;
	case CONTROL_REMOVE:
		published_remove(p, order.text);
		break;
	case CONTROL_GIVE:
		done = published_give(p, &order);
		close(order.fd);
		break;
	case CONTROL_LEAD:
		return lead(p, order.text);
	case CONTROL_EGRESS: /* cairn-slirp's */
		close(order.fd);
		done = false;
		break;
	}
	control_answer(&p->control, done);
	return true;
}

/* ---- rounds ---- */

static void data_came(void *opaque, bool client, unsigned at)
{
	struct publisher *p = opaque;

	if (client)
		control_report(&p->control, at, loop_now_ns());
	else
		control_awake(&p->control);
}

static int port_of(const void *opaque, unsigned at)
{
	return ((const struct publisher *)opaque)->list[at].fd;
}

/* Returns 1: continue; 0: the VM has ended; -errno. */
static int round_run(struct publisher *p)
{
	uint64_t now_ns = loop_now_ns(), control_ns = control_run(&p->control, now_ns), room_ns = relays_room_ns(&p->relays), next_ns;
	unsigned n = 1, ncontrol, ports, nports = p->n, relays, nrelays, clients, nclients;
	int r;

	p->fds[0] = (struct pollfd){ .fd = p->tap.fd, .events = POLLIN };
	n += ncontrol = control_poll_add(&p->control, p->fds + n);
	ports = n;
	for (unsigned i = 0; i < nports; i++)
		p->fds[n++] = (struct pollfd){ .fd = published_serves(p, i, room_ns <= now_ns) ? p->list[i].fd : -1, .events = POLLIN };
	relays = n;
	n += nrelays = relays_poll_add(&p->relays, p->fds + n);
	clients = n;
	n += nclients = datagrams_poll_add(&p->datagrams, p->fds + n);
	next_ns = room_ns > now_ns ? MIN(control_ns, room_ns) : control_ns;
	r = poll(p->fds, n, next_ns == UINT64_MAX ? -1 : (int)((next_ns - MIN(now_ns, next_ns)) / NS_PER_MS + 1));
	if (r < 0 && errno != EINTR)
		return -errno;
	if (r < 0)
		return 1;
	if (p->fds[0].revents && tap_is_gone(&p->tap))
		return 0;
	now_ns = loop_now_ns();
	relays_poll_done(&p->relays, p->fds + relays, nrelays, data_came, p);
	if (datagrams_poll_done(&p->datagrams, p->fds + clients, nclients, port_of, p))
		control_awake(&p->control);
	for (unsigned i = 0; i < nports; i++)
		if (p->fds[ports + i].revents)
			clients_take(p, i, now_ns);
	/* Last, because {"held": true} must follow the reports of all accepted connections. */
	control_poll_done(&p->control, p->fds + 1, ncontrol, now_ns);
	if (!order_execute(p))
		return 0;
	p->met |= p->control.fd >= 0;
	return p->tap.name[0] || p->control.fd >= 0 || !p->met;
}

static int invalid(const char *text, struct err *e)
{
	return err_set(e, -EINVAL, ERR_INVALID, "usage: cairn-publish --control FD [--forward tcp|udp:FD:ADDRESS|-:PORT]...; not '%.100s'", text);
}

static int forward_parse(struct publisher *p, const char *text, struct err *e)
{
	char rest[CONTROL_FORWARD_TEXT], part[64];
	int fd;

	if (sscanf(text, "%3[a-z]:%d:%27s", rest, &fd, part) != 3)
		return invalid(text, e);
	snprintf(rest + 3, sizeof(rest) - 3, ":%.27s", part);
	return published_add(p, rest, fd) < 0 ? invalid(text, e) : 0;
}

static int publisher_make(struct publisher *p, int argc, char **argv, struct err *e)
{
	static const struct option options[] = { { "control", required_argument, NULL, 'c' }, { "forward", required_argument, NULL, 'F' }, { 0 } };
	int control = -1, c, r = 0;

	while (!r && (c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (c == 'c')
			control = atoi(optarg);
		else
			r = c == 'F' ? forward_parse(p, optarg, e) : invalid(argv[optind - 1], e);
	}
	if (!r && (control < 3 || optind < argc))
		r = invalid("", e);
	if (!r && control_init(&p->control, control) < 0)
		r = err_set_errno(e, -errno, "--control");
	if (!r && (c = tap_watch_init(&p->tap)) < 0)
		r = err_set_errno(e, c, "rtnetlink");
	return r ? r : publish_sandbox(e);
}

int main(int argc, char **argv)
{
	static struct publisher p;
	struct err e;
	int r;

	if (program_begin(&e) < 0) {
		log_error("publish", "%s", e.msg);
		return 1;
	}
	clearenv();
	signal(SIGPIPE, SIG_IGN);
	opterr = 0;
	log_set_owner("publish");
	r = publisher_make(&p, argc, argv, &e);
	if (r < 0) {
		log_error("publish", "%s", e.msg);
		return 1;
	}
	do
		r = round_run(&p);
	while (r > 0);
	if (r < 0)
		log_error("publish", "poll: %s", strerror(-r));
	return r < 0;
}
