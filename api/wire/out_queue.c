#include "api/wire/out_queue.h"
#include "api/wire/close_async.h"
#include "base/fd_send.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

struct chunk {
	struct chunk *next;
	char *data;
	size_t len, sent;
	int fd; /* sent with the first byte; owned. -1: none, or sent */
};

void out_queue_init(struct out_queue *q, struct closer *closer)
{
	*q = (struct out_queue){ .last = &q->first, .closer = closer };
}

static void first_free(struct out_queue *q)
{
	struct chunk *k = q->first;

	q->first = k->next;
	if (!q->first)
		q->last = &q->first;
	if (k->fd >= 0)
		closer_close(q->closer, k->fd);
	free(k->data);
	free(k);
}

void out_queue_done(struct out_queue *q)
{
	while (q->first)
		first_free(q);
}

void out_queue_add(struct out_queue *q, char *data, size_t len, int fd)
{
	struct chunk *k = must_alloc(malloc(sizeof(*k)));

	*k = (struct chunk){ .data = data, .len = len, .fd = fd };
	*q->last = k;
	q->last = &k->next;
	q->bytes += len;
	q->fds += fd >= 0;
}

void out_queue_append(struct out_queue *q, struct out_queue *from)
{
	if (!from->first)
		return;
	*q->last = from->first;
	q->last = from->last;
	q->bytes += from->bytes;
	q->fds += from->fds;
	out_queue_init(from, from->closer);
}

int out_queue_flush(struct out_queue *q, int sock)
{
	while (q->first) {
		struct chunk *k = q->first;
		ssize_t n = fd_send(sock, k->data + k->sent, k->len - k->sent, k->fd, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		if (k->fd >= 0) {
			closer_close(q->closer, k->fd);
			q->fds--;
		}
		k->fd = -1;
		k->sent += (size_t)n;
		q->bytes -= (size_t)n;
		if (k->sent == k->len)
			first_free(q);
	}
	return 0;
}
