#include "tools/cairn/guest_session.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/unix_socket.h"
#include "base/util.h"
#include "tools/cairn/cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_NS (30 * 1000000000ULL) /* for the agent to start the program */
#define KILLED_NS (5 * 1000000000ULL)  /* for a killed program to end */
#define KILLED_VM_NS 1000000000ULL     /* the same, before its VM ends */
#define INPUT_BYTES 32768u	       /* of a frame of input */
#define LINE_BYTES 64		       /* of CONNECT and of its answer, at most */

/* Frames for the guest, and data from it. */
struct stream {
	struct guest_session *s;
	const struct guest_link *link;
	int sock;
	struct agent_order order;
	bool input_open, greets; /* greets: the answer to the line CONNECT has not come */
	unsigned interrupts;
	uint64_t wait_until_ns; /* for the start, or for a killed program's end; UINT64_MAX: no limit */
	size_t tx_at, tx_len, rx_len;
	uint8_t tx[2 * AGENT_FRAME_MAX];
	uint8_t rx[AGENT_FRAME_MAX];
};

/* Connect through the socket at the definition's vsock.path, which needs no daemon. */
static int socket_connect(const char *path, int *ret_sock, struct err *e)
{
	int sock = unix_connect(path, 0);

	if (sock == -ENAMETOOLONG)
		return err_set(e, sock, ERR_INVALID, "%s: the path of a socket has at most %d bytes", path, UNIX_PATH_MAX);
	if (sock < 0)
		return err_set_errno(e, sock, "%s", path);
	*ret_sock = sock;
	return 0;
}

int guest_link_open(struct cli *c, const char *vm, struct guest_link *ret, struct err *e)
{
	int r;

	ret->greets = strchr(vm, '/') != NULL;
	r = ret->greets ? socket_connect(vm, &ret->sock, e) : cli_execute(c, "agent-connect", cli_vm_args(vm), NULL, &ret->sock, e);
	return !r && ret->sock < 0 ? err_set(e, -EPROTO, ERR_GENERIC, "the daemon returned no socket") : r;
}

const struct err *guest_link_error(const struct err *cairn, struct err *qga)
{
	if (cairn && qga->cls == ERR_UNSUPPORTED)
		return cairn;
	if (cairn && cairn->cls != ERR_UNSUPPORTED && qga->cls == ERR_TIMEOUT)
		err_prefix(qga, "cairn-agent: %s; QEMU's agent", cairn->msg);
	return qga;
}

void guest_link_close(struct guest_link *link)
{
	if (link->sock >= 0)
		close(link->sock);
	link->sock = -1;
}

static int refused(struct err *e)
{
	return err_set(e, -ECONNREFUSED, ERR_GENERIC, "nothing in the guest listens on vsock port %d; start cairn-agent there, or the VM with cairn run --agent",
		AGENT_PORT);
}

static int malformed(struct err *e)
{
	return err_set(e, -EPROTO, ERR_GENERIC, "the program on vsock port %d of the guest is no cairn-agent, or sent a malformed answer; "
		"restart cairn-agent in the guest, or use --agent qga", AGENT_PORT);
}

static int renewal_failed(uint32_t error, struct err *e)
{
	return err_set(e, -EIO, ERR_GENERIC, "cairn-agent cannot give the guest random numbers and a time of its own: %s; run with --cold",
		strerror((int)(error & 4095)));
}

/* ---- to the guest ---- */

static uint8_t *frame_begin(struct stream *t)
{
	return t->tx + t->tx_len + AGENT_HEADER_BYTES;
}

static void frame_end(struct stream *t, enum agent_frame_type type, size_t len)
{
	agent_header_put(t->tx + t->tx_len, type, len);
	t->tx_len += AGENT_HEADER_BYTES + len;
}

static bool frame_fits(const struct stream *t, size_t len)
{
	return sizeof(t->tx) - t->tx_len >= AGENT_HEADER_BYTES + len;
}

/* Send as much as the guest accepts now. Returns 0; -errno. */
static int tx_flush(struct stream *t)
{
	ssize_t n = t->tx_at < t->tx_len ? send(t->sock, t->tx + t->tx_at, t->tx_len - t->tx_at, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	if (n < 0)
		/* The guest may have sent its last frame before it closed. */
		return errno == EINTR || errno == EAGAIN || errno == EPIPE || errno == ECONNRESET ? 0 : -errno;
	t->tx_at += (size_t)n;
	if (t->tx_at == t->tx_len)
		t->tx_at = t->tx_len = 0;
	return 0;
}

size_t guest_renewal_put(const struct guest_link *link, uint8_t frame[GUEST_RENEWAL_MAX])
{
	size_t len = link->name ? strnlen(link->name, AGENT_NAME_MAX) : 0;
	uint8_t *data = frame + AGENT_HEADER_BYTES;

	agent_header_put(frame, AGENT_FRAME_RENEW, AGENT_RENEW_BYTES + len);
	if (len)
		memcpy(data + AGENT_RENEW_BYTES, link->name, len);
	store_le64(data, clock_realtime_ns());
	if (getentropy(data + 8, AGENT_RANDOM_BYTES) < 0)
		must_alloc(NULL); /* every kernel that has KVM has it */
	return AGENT_HEADER_BYTES + AGENT_RENEW_BYTES + len;
}

/* The request follows the line CONNECT at once: to wait for the answer would cost two more wake-ups of the guest. */
static int start_put(struct stream *t, const struct guest_link *link, struct err *e)
{
	ssize_t n;

	if (t->greets)
		t->tx_len = (size_t)snprintf((char *)t->tx, LINE_BYTES, "CONNECT %d\n", AGENT_PORT);
	for (size_t i = 0; i < link->nmounts; i++)
		frame_end(t, AGENT_FRAME_MOUNT, agent_mount_put(link->mounts[i].tag, link->mounts[i].folder, frame_begin(t)));
	n = agent_start_put(t->s->start, frame_begin(t));
	if (n < 0)
		return err_set(e, -E2BIG, ERR_INVALID, "the command and its environment have more than %u bytes or %d words; "
			"pass the rest in a file, or on the standard input (xargs)", AGENT_DATA_MAX - 1024, AGENT_WORDS_MAX);
	frame_end(t, AGENT_FRAME_START, (size_t)n);
	return 0;
}

static void signal_put(struct stream *t, int sig)
{
	if (!frame_fits(t, 4))
		return;
	store_le32(frame_begin(t), (uint32_t)sig);
	frame_end(t, AGENT_FRAME_SIGNAL, 4);
}

static void size_put(struct stream *t)
{
	struct winsize size;

	if (!frame_fits(t, 4) || ioctl(0, TIOCGWINSZ, &size) < 0)
		return;
	store_le16(frame_begin(t), size.ws_row);
	store_le16(frame_begin(t) + 2, size.ws_col);
	frame_end(t, AGENT_FRAME_SIZE, 4);
}

static bool input_wanted(const struct stream *t)
{
	return t->input_open && !t->tx_len && t->order.in_flight + INPUT_BYTES <= AGENT_WINDOW_BYTES;
}

/* Send standard input on. Its end is Ctrl-D for a program with a terminal. Returns 0; -errno. */
static int input_read(struct stream *t)
{
	bool terminal = t->s->start->flags & AGENT_START_TERMINAL;
	ssize_t n = read(t->s->in, frame_begin(t), INPUT_BYTES);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n < 0)
		return -errno;
	if (!n) {
		t->input_open = false;
		if (terminal)
			frame_begin(t)[n++] = 4;
	}
	t->order.in_flight += (size_t)n;
	frame_end(t, AGENT_FRAME_STDIN, (size_t)n);
	return 0;
}

static void killed_wait(struct stream *t)
{
	signal_put(t, SIGKILL);
	t->wait_until_ns = clock_monotonic_ns() + (t->s->ends_vm ? KILLED_VM_NS : KILLED_NS);
}

/* Returns 0; -EINTR: the session has to end. A copy has nothing to say at its end, so it ends at once. */
static int signal_take(struct stream *t)
{
	bool copies = t->s->start->flags & (AGENT_START_RECEIVE | AGENT_START_SEND);
	struct signalfd_siginfo si;

	if (read(t->s->signals, &si, sizeof(si)) != (ssize_t)sizeof(si))
		return 0;
	if (si.ssi_signo == SIGWINCH) {
		size_put(t);
		return 0;
	}
	if (copies || (si.ssi_signo != SIGINT && si.ssi_signo != SIGTERM) || t->interrupts > !t->s->ends_vm) {
		t->s->ended_by = (int)si.ssi_signo;
		return -EINTR;
	}
	if (t->interrupts++)
		killed_wait(t);
	else
		signal_put(t, (int)si.ssi_signo);
	return 0;
}

/* ---- from the guest ---- */

/* Returns 0; 1: it was the last frame; -errno with a sentence. */
static int frame_take(struct stream *t, const struct agent_frame *f, struct err *e)
{
	struct guest_session *s = t->s;
	int r = agent_order_check(&t->order, f);

	if (r < 0)
		return malformed(e);
	switch (f->type) {
	case AGENT_FRAME_STARTED:
		t->wait_until_ns = UINT64_MAX;
		if (t->link->started)
			t->link->started(t->link->opaque);
		return 0;
	case AGENT_FRAME_RENEWED:
		return load_le32(f->data) ? renewal_failed(load_le32(f->data), e) : 0;
	case AGENT_FRAME_FAILED:
		s->failed = (int)(load_le32(f->data) & 4095);
		s->step = (int)load_le32(f->data + 4);
		return s->failed ? 1 : malformed(e);
	case AGENT_FRAME_STDOUT:
	case AGENT_FRAME_STDERR:
		return s->output(s->opaque, f->type == AGENT_FRAME_STDERR, (uint8_t *)(uintptr_t)f->data, f->len, e);
	case AGENT_FRAME_EXIT:
		s->status = (int)load_le32(f->data);
		s->signal = (int)load_le32(f->data + 4);
		return 1;
	default:
		return 0;
	}
}

/* Take the answer to the line CONNECT, "OK PORT". *at: gets its length once it is complete. Returns 0; -errno. */
static int answer_take(struct stream *t, size_t *at, struct err *e)
{
	const uint8_t *end = memchr(t->rx, '\n', MIN(t->rx_len, LINE_BYTES));

	if (memcmp(t->rx, "OK ", MIN(t->rx_len, 3)) || (!end && t->rx_len >= LINE_BYTES))
		return refused(e);
	if (end) {
		*at = (size_t)(end - t->rx) + 1;
		t->greets = false;
	}
	return 0;
}

static int rx_read(struct stream *t, struct err *e)
{
	ssize_t n = recv(t->sock, t->rx + t->rx_len, sizeof(t->rx) - t->rx_len, MSG_DONTWAIT), used;
	size_t at = 0;
	struct agent_frame f;
	int r = 0;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n <= 0 && t->greets)
		return refused(e);
	if (n <= 0)
		return err_set(e, -ECONNRESET, ERR_GENERIC, "the connection to the guest ended before the program: the guest was shut down, "
			"reset or reverted, cairn-agent ended, or your role was revoked");
	t->rx_len += (size_t)n;
	if (t->greets)
		r = answer_take(t, &at, e);
	while (!r && !t->greets && (used = agent_frame_parse(t->rx + at, t->rx_len - at, true, &f)) != 0) {
		if (used < 0)
			return malformed(e);
		r = frame_take(t, &f, e);
		at += (size_t)used;
	}
	memmove(t->rx, t->rx + at, t->rx_len - at);
	t->rx_len -= at;
	return r;
}

/* ---- time ---- */

/* Returns 0; -ETIMEDOUT with a sentence, or 1 after a program that does not end though it was killed. */
static int time_check(struct stream *t, struct err *e)
{
	uint64_t now = clock_monotonic_ns();

	if (now >= t->s->deadline_ns && !t->s->timed_out) {
		t->s->timed_out = true;
		if (t->order.step < 2)
			return 1; /* nothing runs that could end */
		killed_wait(t);
	}
	if (now < t->wait_until_ns)
		return 0;
	if (t->s->timed_out)
		return 1;
	return err_set(e, -ETIMEDOUT, ERR_TIMEOUT, t->interrupts ? "the program did not end within 5 s after it was killed" :
		"cairn-agent in the guest did not answer within 30 s");
}

static int wait_ms(const struct stream *t)
{
	uint64_t until = t->s->timed_out ? t->wait_until_ns : MIN(t->wait_until_ns, t->s->deadline_ns), now = clock_monotonic_ns();

	return until == UINT64_MAX ? -1 : until <= now ? 0 : (int)MIN((until - now) / 1000000 + 1, 1000000ULL);
}

/* ---- the loop ---- */

static int step_do(struct stream *t, const struct pollfd *p, struct err *e)
{
	int r = 0;

	if (p[2].revents)
		r = signal_take(t);
	if (!r && p[1].revents)
		r = input_read(t);
	if (!r)
		r = tx_flush(t);
	if (r == -EINTR)
		return err_set(e, r, ERR_CANCELLED, "a signal ended cairn; cairn-agent kills the program in the guest");
	if (r < 0)
		return err_set_errno(e, r, "cannot pass the standard input on");
	if (p[0].revents & ~POLLOUT)
		r = rx_read(t, e);
	return r ? r : time_check(t, e);
}

static int loop_run(struct stream *t, struct err *e)
{
	int r = tx_flush(t);

	if (r < 0)
		return err_set_errno(e, r, "vsock");
	while (!r) {
		struct pollfd p[3] = { { .fd = t->sock, .events = t->tx_len ? POLLIN | POLLOUT : POLLIN },
			{ .fd = input_wanted(t) ? t->s->in : -1, .events = POLLIN }, { .fd = t->s->signals, .events = POLLIN } };

		if (poll(p, 3, wait_ms(t)) < 0 && errno != EINTR)
			return err_set_errno(e, -errno, "poll");
		r = step_do(t, p, e);
	}
	return r < 0 ? r : 0;
}

int guest_session_run(struct guest_session *s, const struct guest_link *link, struct err *e)
{
	struct stream *t = must_alloc(calloc(1, sizeof(*t)));
	int r;

	t->s = s;
	t->link = link;
	t->sock = link->sock;
	t->greets = link->greets;
	t->order.renews = link->renews;
	t->order.terminal = s->start->flags & AGENT_START_TERMINAL;
	t->input_open = s->start->flags & AGENT_START_INPUT;
	t->wait_until_ns = clock_monotonic_ns() + ANSWER_NS;
	r = start_put(t, link, e);
	if (!r)
		r = loop_run(t, e);
	free(t);
	return r;
}
