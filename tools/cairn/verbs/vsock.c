/* vsock: connect standard input and output to a vsock port of the guest, as netcat does. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WAY_BYTES 65536

/* One direction. */
struct way {
	int from, to; /* from -1: its end was reached, and handed on */
	bool to_socket;
	size_t start, len;
	char buf[WAY_BYTES];
};

/* Hand the end on once everything before it has left. */
static void end_pass(struct way *w)
{
	w->from = -1;
	if (w->len)
		return;
	if (w->to_socket)
		shutdown(w->to, SHUT_WR);
	w->to = -1;
}

/* Returns 0; -errno: reading failed. */
static int way_read(struct way *w)
{
	ssize_t n = read(w->from, w->buf, sizeof(w->buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n < 0 && errno != ECONNRESET)
		return -errno;
	w->start = 0;
	w->len = (size_t)MAX(n, 0);
	if (n <= 0)
		end_pass(w);
	return 0;
}

/* Returns 0; -errno. A reader that is gone ends the direction. */
static int way_write(struct way *w)
{
	ssize_t n = w->to_socket ? send(w->to, w->buf + w->start, w->len, MSG_DONTWAIT | MSG_NOSIGNAL) :
		write(w->to, w->buf + w->start, w->len);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n < 0 && w->to_socket) { /* the guest's side takes no more */
		w->len = 0;
		w->from = w->to = -1;
		return 0;
	}
	if (n < 0)
		return -errno;
	w->start += (size_t)n;
	w->len -= (size_t)n;
	if (!w->len && w->from < 0)
		end_pass(w);
	return 0;
}

/* Move data until the guest's side has ended. Returns 0; -errno. */
static int ways_move(struct way *in, struct way *out)
{
	int r = 0;

	while (!r && out->to >= 0) {
		struct pollfd p[4] = { { .fd = in->len ? -1 : in->from, .events = POLLIN },
			{ .fd = in->len ? in->to : -1, .events = POLLOUT }, { .fd = out->len ? -1 : out->from, .events = POLLIN },
			{ .fd = out->len ? out->to : -1, .events = POLLOUT } };

		if (poll(p, 4, -1) < 0)
			r = errno == EINTR ? 0 : -errno;
		else if (p[0].revents)
			r = way_read(in);
		else if (p[1].revents)
			r = way_write(in);
		if (!r && p[2].revents)
			r = way_read(out);
		else if (!r && p[3].revents)
			r = way_write(out);
	}
	return r;
}

static int streams_join(int sock)
{
	struct way *ways = must_alloc(malloc(2 * sizeof(*ways)));
	int r;

	ways[0] = (struct way){ .from = STDIN_FILENO, .to = sock, .to_socket = true };
	ways[1] = (struct way){ .from = sock, .to = STDOUT_FILENO };
	signal(SIGPIPE, SIG_IGN);
	r = ways_move(&ways[0], &ways[1]);
	free(ways);
	return r;
}

static int port_parse(const char *text, int64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoll(text, &end, 10);
	return *text < '0' || *text > '9' || *end || errno || *ret >= UINT32_MAX ? -EINVAL : 0;
}

/* Connect to the port. Returns 0 and an owned *ret_fd; the exit status after an error message. */
static int port_open(struct cli *c, const char *vm, int64_t port, int *ret_fd)
{
	struct json_object *args = cli_vm_args(vm);
	struct err e;
	int r;

	js_put_int(args, "port", port);
	r = cli_execute(c, "vsock-connect", args, NULL, ret_fd, &e);
	if (!r && *ret_fd < 0)
		r = err_set(&e, -EPROTO, ERR_GENERIC, "the daemon returned no socket");
	return r < 0 ? cli_fail(&e, "Failed to connect to vsock port %lld of domain '%s'", (long long)port, vm) : 0;
}

int verb_vsock(struct cli *c)
{
	CLEANUP_CLOSE int sock = -1;
	struct err e;
	int64_t port;
	int r;

	if (port_parse(c->pos[1], &port) < 0)
		return cli_usage(c, "'%s' is no vsock port; give a number from 0 to %u", c->pos[1], UINT32_MAX - 1);
	r = port_open(c, c->pos[0], port, &sock);
	if (r)
		return r;
	r = streams_join(sock);
	if (!r)
		return CLI_OK;
	err_set_errno(&e, r, "vsock");
	return cli_fail(&e, "Lost the connection to domain '%s'", c->pos[0]);
}
