#include "tools/delegate/pass.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>

#define FLOW_BYTES 32768

struct flow {
	int from, to;
	size_t at, len; /* of the bytes that `to` has not received yet */
	bool ended;	/* `from` has */
	char buf[FLOW_BYTES];
};

/* Receive, or send the received bytes. Returns false when nothing can come any more, or nobody takes it. */
static bool flow_run(struct flow *f)
{
	ssize_t n;

	if (!f->len && !f->ended) {
		n = recv(f->from, f->buf, sizeof(f->buf), MSG_DONTWAIT);
		f->ended = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
		f->len = (size_t)MAX(n, 0);
		f->at = 0;
	}
	if (f->len) {
		n = send(f->to, f->buf + f->at, f->len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return false;
		f->at += (size_t)MAX(n, 0);
		f->len -= (size_t)MAX(n, 0);
	}
	return f->len || !f->ended;
}

static struct pollfd interest(int fd, const struct flow *in, const struct flow *out)
{
	short events = (short)((!in->len && !in->ended ? POLLIN : 0) | (out->len ? POLLOUT : 0));

	return (struct pollfd){ .fd = events ? fd : -1, .events = events };
}

void bytes_pass(int a, int b)
{
	struct flow there = { .from = a, .to = b }, back = { .from = b, .to = a };
	struct pollfd p[2];

	do {
		p[0] = interest(a, &there, &back);
		p[1] = interest(b, &back, &there);
		if (poll(p, ARRAY_SIZE(p), -1) < 0 && errno != EINTR)
			return;
	} while (flow_run(&there) && flow_run(&back));
}
