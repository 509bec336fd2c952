#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/wire/close_async.h"
#include "api/wire/peer.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/relay.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_NS (10 * 1000000000ULL)
#define CLOSE_RETRY_NS 1000000000ULL
/* Most fds in one message: the kernel's SCM_MAX_FD. */
#define RECEIVED_MAX 253

struct client_file {
	struct fork_as *process;
	int relay;
	bool there;
	struct fork_as_file facts;
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e);
	void (*sent)(void *opaque, int r); /* NULL: no message is being sent */
	void *opaque;
	struct loop *loop;
	struct closer *closer;
	struct loop_watch *watch; /* of the relay, while a message is being sent */
	struct loop_timer *timer;
	int send_error; /* for sent(); 0: none yet */
	bool freed; /* only the relay is not closed yet */
};

static void timer_fired(void *opaque);

static void process_answered(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct client_file *f = opaque;

	if (f->freed)
		return;
	f->there = !r && res->nheld;
	if (f->there)
		f->facts = res->files[0];
	f->done(f->opaque, r, res, e);
}

int client_file_new(struct helpers *h, const struct client_file_spec *s, struct client_file **ret, struct err *e)
{
	struct fork_as_spec spec = { .rights = s->rights, .of_client = !s->of_author, .run = s->run, .arg = s->arg,
		.copy = s->copy, .drop = s->drop, .who = s->who || s->of_author ? s->who : "who sent the command",
		.what = s->what, .timeout_ns = TIMEOUT_NS, .input = s->input, .keep = true, .done = process_answered };
	CLEANUP_CLOSE int theirs = -1;
	struct client_file *f;
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "%s", s->what);
	theirs = pair[1];
	f = must_alloc(calloc(1, sizeof(*f)));
	*f = (struct client_file){ .relay = pair[0], .done = s->done, .opaque = s->opaque, .loop = helpers_loop(h),
		.closer = helpers_closer(h) };
	spec.opaque = f;
	spec.relay = theirs;
	if (loop_timer_new(f->loop, timer_fired, f, &f->timer) < 0)
		abort(); /* otherwise nothing would end a process that does not answer */
	/* The daemon waits for no process of a user. */
	r = fcntl(f->relay, F_SETFL, O_NONBLOCK) < 0 ? err_set_errno(e, -errno, "%s", s->what) :
		fork_as_begin(h, &spec, &f->process, e);
	if (r < 0)
		client_file_free(f);
	else
		*ret = f;
	return r;
}

/* The file may be queued in the relay, if the process that asked for it ended before it took the file. Until the relay
 * is closed, the user's limit counts the process that held the file (fork_as.h). */
static void relay_close(struct client_file *f)
{
	if (closer_take(f->closer, f->relay) < 0) {
		loop_timer_arm(f->timer, loop_now_ns() + CLOSE_RETRY_NS);
		return;
	}
	fork_as_free(f->process);
	loop_timer_free(f->timer);
	free(f);
}

void client_file_free(struct client_file *f)
{
	if (!f)
		return;
	f->freed = true;
	loop_unwatch(STEAL_PTR(f->watch));
	fork_as_kill(f->process);
	shutdown(f->relay, SHUT_RDWR); /* nothing can be queued from here on */
	relay_close(f);
}

/* ---- receiving ---- */

/* Keep the last fd of the message. The others stay open until the process ends, because a close may hang. */
static void file_keep(struct msghdr *m, struct fork_as_result *out)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS || !n)
			continue;
		memcpy(out->held, CMSG_DATA(h) + (n - 1) * sizeof(int), sizeof(int));
		out->held_at[0] = 0;
		out->nheld = 1;
	}
}

/* Runs in the forked process. */
static int input_receive(const void *arg, struct fork_as_result *out, struct err *e)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(RECEIVED_MAX * sizeof(int))];
	} control;
	static char buf[FORK_AS_DATA_MAX];
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n;

	(void)arg;
	do {
		n = recvmsg(out->input, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_set_errno(e, -errno, "receiving a file");
	file_keep(&m, out);
	out->data = buf;
	out->ndata = (size_t)n;
	close(out->input);
	out->input = -1;
	return 0;
}

int client_file_receive(struct helpers *h, int sock, const struct peer *who,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct client_file **ret, struct err *e)
{
	struct client_file_spec s = { .run = input_receive, .input = sock, .what = "receiving the file", .done = done,
		.opaque = opaque };
	CLEANUP_FREE struct rights *rights = NULL;
	int r = rights_of_peer(who, &rights, e);

	/* A daemon that is not root holds the file with its own rights. */
	if (r < 0 && r != -EPERM)
		return r;
	s.rights = rights;
	return client_file_new(h, &s, ret, e);
}

/* ---- handing the file over ---- */

const struct fork_as_file *client_file_facts(const struct client_file *f)
{
	return &f->facts;
}

int client_file_relay(const struct client_file *f)
{
	return f->relay;
}

/* Let the message not be sent later. A thread in place of the process cannot be killed, but sees the end of the
 * relay. */
static void send_stop(struct client_file *f)
{
	fork_as_kill(f->process);
	shutdown(f->relay, SHUT_WR);
}

static void send_end(struct client_file *f, int r)
{
	void (*sent)(void *opaque, int r) = f->sent;

	f->sent = NULL;
	loop_unwatch(STEAL_PTR(f->watch));
	loop_timer_disarm(f->timer);
	if (r < 0)
		send_stop(f);
	sent(f->opaque, r);
}

static void send_answered(void *opaque, unsigned revents)
{
	struct client_file *f = opaque;
	int r = relay_send_end(f->relay);

	(void)revents;
	if (r != -EAGAIN)
		send_end(f, (r == -EIO || r == -ECANCELED) && f->send_error ? f->send_error : r);
}

static void timer_fired(void *opaque)
{
	struct client_file *f = opaque;

	if (f->freed) {
		relay_close(f);
		return;
	}
	if (f->send_error) {
		send_end(f, f->send_error);
		return;
	}
	/* The end of the relay says that the process will not send the message any more; so does a thread's answer. */
	f->send_error = -ETIMEDOUT;
	send_stop(f);
	loop_timer_arm(f->timer, loop_now_ns() + TIMEOUT_NS);
}

void client_file_send(struct client_file *f, const struct relay_message *x, void (*done)(void *opaque, int r), void *opaque)
{
	int r = loop_watch(f->loop, f->relay, POLLIN, send_answered, f, &f->watch);

	f->sent = done;
	f->opaque = opaque;
	if (!r)
		r = relay_send_begin(f->relay, x);
	/* -EPIPE is for the socket that the message is for. */
	f->send_error = r == -EPIPE || r == -ECONNRESET ? -EIO : r;
	loop_timer_arm(f->timer, r ? 0 : loop_now_ns() + TIMEOUT_NS);
}
