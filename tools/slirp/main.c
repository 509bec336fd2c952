/* cairn-slirp: user-mode networking. cairnd, or `cairn run`, starts one for each interface of type `user`, with the
 * rights of the user who defined the VM; the guest's connections become sockets of this process (docs/slirp.md).
 *
 *   cairn-slirp --frames FD [--network 10.0.2.0/24] [--hostname NAME] [--mtu N] [--restrict]
 *           [--host-loopback] [--egress RULES] [--forward tcp|udp:FD:ADDRESS|-:PORT]... [--control FD]
 *
 * Exit status: 0 when the VM has closed its end of --frames; 1 with a line on stderr after an error. */
#include "base/busy_poll.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/program.h"
#include "base/util.h"
#include "base/wait_fds.h"
#include "tools/slirp/control.h"
#include "tools/slirp/dns_proxy.h"
#include "tools/slirp/egress_filter.h"
#include "tools/slirp/frames.h"
#include "tools/slirp/options.h"
#include "tools/slirp/sandbox.h"
#include "tools/slirp/stack.h"
#include "tools/slirp/udp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FRAMES_BATCH 64 /* frames of the guest in one round, so that other sockets get their turn */
#define LOG_BYTES MIB  /* bytes that one process may add to a log file */
#define NS_PER_MS 1000000ULL
#define RULES_MAX (EGRESS_RULES_MAX * (EGRESS_RULE_TEXT + 1) + 16)

struct network {
	struct options options;
	struct frames *frames;
	struct control control;
	struct udp *udp;
	struct stack *stack;
	struct egress_filter *filter; /* NULL: no egress rules */
	struct dns_proxy *dns;
	struct poll_set set;
	struct busy_poll busy;
};

/* Decide about a frame by the egress rules. Refuse a denied TCP connection with a reset, so that the guest's program
 * does not wait. Returns true if libslirp shall get the frame. */
static bool frame_passes(struct network *n, const uint8_t *frame, size_t len, uint64_t now_ns)
{
	uint8_t reset[GUEST_ANSWER_HEADERS];
	char to[INET6_ADDRSTRLEN];
	struct guest_packet p;

	if (!n->filter)
		return true;
	switch (egress_filter_verdict(n->filter, frame, len, now_ns, &p)) {
	case EGRESS_PASS:
		return true;
	case EGRESS_QUESTION:
		dns_proxy_ask(n->dns, &p, now_ns);
		return false;
	case EGRESS_DROP:
		return false;
	case EGRESS_DENY:
		break;
	}
	if (!p.data) {
		log_guest("egress", "denied a frame of type 0x%04x that is no whole packet", load_be16(frame + FRAME_TYPE_AT));
		return false;
	}
	inet_ntop(p.ipv6 ? AF_INET6 : AF_INET, p.to + (p.ipv6 ? 0 : 12), to, sizeof(to));
	log_guest("egress", "denied protocol %u to %s port %u", p.protocol, to, p.to_port);
	if (p.protocol == IPPROTO_TCP && !(p.flags & TCP_RST) && p.from_port)
		frames_write(n->frames, reset, guest_packet_reset(&p, reset));
	return false;
}

static void guest_read(struct network *n, uint64_t now_ns)
{
	const uint8_t *frame;
	size_t len;

	for (unsigned i = 0; i < FRAMES_BATCH && (frame = frames_read(n->frames, &len)); i++) {
		control_awake(&n->control);
		if (!udp_answer(n->udp, frame, len) && frame_passes(n, frame, len, now_ns))
			stack_input(n->stack, frame, len);
	}
	stack_input_done(n->stack);
	if (n->filter) {
		const struct egress_counts *denied = egress_filter_counts(n->filter);

		control_denied(&n->control, denied->packets, denied->questions, now_ns);
	}
}

static void datagrams_read(struct network *n, const struct pollfd *fds, uint64_t now_ns)
{
	for (unsigned i = 0; i < n->options.nforwards; i++) {
		if (!n->options.forwards[i].udp || !(fds++)->revents)
			continue;
		control_report(&n->control, i, now_ns);
		udp_receive(n->udp, i, now_ns);
	}
}

static bool forward_add(struct network *n, struct control_order *order)
{
	unsigned at = n->options.nforwards;
	struct err e;
	int r = options_add_forward(&n->options, order->text, order->fd, &e);

	if (!r && n->options.forwards[at].udp)
		r = udp_add_forward(n->udp, at);
	else if (!r)
		r = stack_add_forward(n->stack, at, &e);
	if (!r)
		return true;
	if (n->options.nforwards > at)
		options_remove_forward(&n->options, at);
	close(order->fd);
	return false;
}

/* Returns the number of the forward whose socket has that address, "tcp:127.0.0.1:8022"; nforwards: none. */
static unsigned forward_find(const struct network *n, const char *text)
{
	unsigned i;

	for (i = 0; i < n->options.nforwards; i++) {
		const struct forward *f = &n->options.forwards[i];
		char its[CONTROL_FORWARD_TEXT], address[INET_ADDRSTRLEN];

		inet_ntop(AF_INET, &f->own.sin_addr, address, sizeof(address));
		snprintf(its, sizeof(its), "%s:%s:%u", f->udp ? "udp" : "tcp", address, ntohs(f->own.sin_port));
		if (!strcmp(its, text))
			break;
	}
	return i;
}

static bool forward_remove(struct network *n, const struct control_order *order)
{
	unsigned at = order->text[0] ? forward_find(n, order->text) : order->at;

	if (order->text[0] && at == n->options.nforwards)
		return true; /* a daemon that was killed has removed it */
	if (at >= n->options.nforwards)
		return false;
	if (n->options.forwards[at].udp)
		close(n->options.forwards[at].fd);
	else
		stack_remove_forward(n->stack, at);
	udp_remove_forward(n->udp, at);
	control_remove_forward(&n->control, at);
	options_remove_forward(&n->options, at);
	return true;
}

/* Send the forward's socket to another process, which continues with its clients. */
static bool forward_give(struct network *n, const struct control_order *order)
{
	unsigned at = forward_find(n, order->text);
	int fd;

	if (at == n->options.nforwards)
		return false;
	fd = n->options.forwards[at].udp ? n->options.forwards[at].fd : stack_listener(n->stack, at);
	return fd >= 0 && control_give(order->fd, fd) && forward_remove(n, order);
}

static bool connection_is_allowed(void *opaque, const uint8_t to[16], uint16_t port)
{
	struct network *n = opaque;

	return egress_filter_allows(n->filter, IPPROTO_TCP, to, port, loop_now_ns());
}

/* Read the text of rules from a file. Returns its length; 0: none; -EINVAL. */
static ssize_t rules_read(int fd, char text[RULES_MAX])
{
	size_t len = 0;
	ssize_t got = 0;

	while (len < RULES_MAX - 1 && (got = read(fd, text + len, RULES_MAX - 1 - len)) > 0)
		len += (size_t)got;
	text[len] = 0;
	return got < 0 || len == RULES_MAX - 1 ? -EINVAL : (ssize_t)len;
}

static void filter_free(struct network *n)
{
	dns_proxy_free(n->dns);
	egress_filter_free(n->filter);
	n->dns = NULL;
	n->filter = NULL;
}

static bool filter_make(struct network *n)
{
	struct err e;

	if (!egress_filter_new(&n->options, &n->filter, &e) && !dns_proxy_new(n->filter, n->frames, &n->dns, &e))
		return true;
	log_error("network", "%s", e.msg);
	filter_free(n);
	return false;
}

/* Replace the egress rules, or remove them. Connections that the new rules deny end. */
static bool rules_change(struct network *n, int fd)
{
	static char text[RULES_MAX];
	static struct egress rules, old;
	ssize_t len = rules_read(fd, text);

	if (len < 0 || (len && !egress_parse(text, &rules)) || (len && !n->filter && !filter_make(n)))
		return false;
	old = n->options.egress;
	n->options.egress = len ? rules : (struct egress){ 0 };
	n->options.filtered = len;
	if (!len) {
		filter_free(n);
		return true;
	}
	egress_filter_change(n->filter, &old);
	stack_end_connections(n->stack, connection_is_allowed, n);
	return true;
}

static void order_execute(struct network *n)
{
	struct control_order order = control_order(&n->control);

	if (order.kind == CONTROL_ADD)
		control_answer(&n->control, forward_add(n, &order));
	else if (order.kind == CONTROL_REMOVE)
		control_answer(&n->control, forward_remove(n, &order));
	else if (order.kind == CONTROL_GIVE) {
		control_answer(&n->control, forward_give(n, &order));
		close(order.fd);
	} else if (order.kind == CONTROL_EGRESS) {
		control_answer(&n->control, rules_change(n, order.fd));
		close(order.fd);
	}
}

/* Run one round. The poll set holds this program's own sockets first, then libslirp's. */
static int round_run(struct network *n)
{
	struct poll_set *set = &n->set;
	uint64_t now_ns = loop_now_ns(), control_ns = control_run(&n->control, now_ns);
	uint64_t dns_ns = dns_proxy_expire(n->dns, now_ns), due_ns = MIN(control_ns, dns_ns);
	unsigned ncontrol, datagrams, questions, nquestions;
	int timeout, r;

	set->n = 0;
	set->fds[set->n++] = (struct pollfd){ .fd = n->options.frames_fd, .events = frames_events(n->frames) };
	ncontrol = control_poll_add(&n->control, set->fds + set->n);
	datagrams = set->n += ncontrol;
	for (unsigned i = 0; i < n->options.nforwards; i++)
		if (n->options.forwards[i].udp)
			set->fds[set->n++] = (struct pollfd){ .fd = n->control.holds ? -1 : n->options.forwards[i].fd,
				.events = POLLIN };
	questions = set->n;
	set->n += nquestions = dns_proxy_poll_add(n->dns, set->fds + set->n);
	timeout = stack_poll_add(n->stack, set, now_ns);
	if (due_ns != UINT64_MAX) {
		int due = (int)((due_ns - now_ns) / NS_PER_MS + 1);

		timeout = timeout < 0 ? due : MIN(timeout, due);
	}
	r = wait_fds(&n->busy, set->fds, set->n, timeout);
	if (r < 0 && r != -EINTR)
		return r;
	now_ns = loop_now_ns();
	/* An answer of the guest alone is no event of libslirp's sockets. */
	stack_poll_done(n->stack, set, r - (r > 0 && set->fds[0].revents), now_ns);
	if (r > 0 && set->fds[0].revents & POLLOUT)
		frames_flush(n->frames);
	if (r > 0)
		datagrams_read(n, set->fds + datagrams, now_ns);
	if (r > 0)
		dns_proxy_poll_done(n->dns, set->fds + questions, nquestions, now_ns);
	if (r > 0 && set->fds[0].revents & ~POLLOUT)
		guest_read(n, now_ns);
	frames_push(n->frames);
	/* Last, because {"held": true} must follow the reports of all accepted connections. */
	if (r > 0)
		control_poll_done(&n->control, set->fds + 1, ncontrol, now_ns);
	order_execute(n);
	return 0;
}

static int network_make(struct network *n, struct err *e)
{
	int r = frames_new(n->options.frames_fd, n->options.mtu, &n->frames, e);

	if (r < 0)
		return r;
	r = control_init(&n->control, n->options.control_fd);
	if (r < 0)
		return err_set_errno(e, r, "--control");
	if (n->options.filtered)
		r = egress_filter_new(&n->options, &n->filter, e);
	if (!r && n->options.filtered)
		r = dns_proxy_new(n->filter, n->frames, &n->dns, e);
	if (r < 0)
		return r;
	r = udp_new(&n->options, n->frames, &n->udp, e);
	if (!r)
		r = stack_new(&n->options, n->frames, &n->control, &n->stack, e);
	return r ? r : slirp_sandbox(e);
}

/* The process writes no file but the log, whose growth is limited. cairnd's log is a pipe (api/vm/vm_log.h). */
static int log_limit(int fd, struct err *e)
{
	struct lockdown_limit limit = { .what = RLIMIT_FSIZE };
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "stderr");
	limit.most = S_ISREG(st.st_mode) ? (rlim_t)st.st_size + LOG_BYTES : 0;
	return lockdown_limits(&limit, 1, e);
}

/* Discard output of libraries to stderr: a guest could cause any number of lines. */
static int stderr_keep(struct err *e)
{
	int own = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (own < 0 || null < 0 || dup2(null, STDERR_FILENO) < 0)
		return err_set_errno(e, -errno, "stderr");
	close(null);
	log_set_fd(own);
	return log_limit(own, e);
}

int main(int argc, char **argv)
{
	static struct network n;
	struct err e;
	int r;

	if (program_begin(&e) < 0) {
		log_error("network", "%s", e.msg);
		return 1;
	}
	clearenv(); /* libraries read variables such as SLIRP_DEBUG and G_MESSAGES_DEBUG */
	signal(SIGPIPE, SIG_IGN);
	log_set_owner("slirp");
	r = options_parse(argc, argv, &n.options, &e);
	if (!r)
		r = stderr_keep(&e);
	if (!r && n.options.hostname[0])
		log_set_owner(n.options.hostname);
	if (!r)
		r = network_make(&n, &e);
	if (r < 0) {
		log_error("network", "%s", e.msg);
		return 1;
	}
	while (!r && !frames_at_end(n.frames))
		r = round_run(&n);
	if (r < 0)
		log_error("network", "poll: %s", strerror(-r));
	stack_free(n.stack);
	udp_free(n.udp);
	filter_free(&n);
	control_done(&n.control);
	frames_free(n.frames);
	return r < 0;
}
