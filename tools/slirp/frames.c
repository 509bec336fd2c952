#include "tools/slirp/frames.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define QUEUE_FRAMES 1000 /* a tap's (its txqueuelen) */
#define QUEUE_BYTES (4 * MIB)
#define SOCKET_BYTES (1 * MIB)
#define VLAN_BYTES 4
/* Other bytes of a header mean something only along with these (virtio 1.2, section 5.1.6). */
enum { HEADER_FLAGS = 0, HEADER_SEGMENTS = 1 };

struct waiting {
	size_t len;
	uint8_t *frame; /* owned */
};

struct frames {
	int fd;
	bool end;
	size_t room; /* of `packet` */
	struct waiting queue[QUEUE_FRAMES];
	unsigned first, nqueue;
	size_t queue_bytes;
	uint8_t packet[];
};

int frames_new(int fd, unsigned mtu, struct frames **ret_f, struct err *e)
{
	size_t room = NET_HEADER + ETHERNET_BYTES + VLAN_BYTES + mtu;
	struct frames *f = calloc(1, sizeof(*f) + room);
	int bytes = SOCKET_BYTES, has = 0;
	socklen_t size = sizeof(has);

	if (!f)
		return err_set_errno(e, -ENOMEM, "frames");
	f->fd = fd;
	f->room = room;
	/* The kernel gives less where its bound is lower: more waits in the queue then. Root's daemon may
	 * have given more. */
	if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &has, &size) < 0 || has < bytes)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	*ret_f = f;
	return 0;
}

void frames_free(struct frames *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < f->nqueue; i++)
		free(f->queue[(f->first + i) % QUEUE_FRAMES].frame);
	free(f);
}

short frames_events(const struct frames *f)
{
	return (short)(POLLIN | POLLRDHUP | (f->nqueue ? POLLOUT : 0));
}

bool frames_at_end(const struct frames *f)
{
	return f->end;
}

/* A packet of no bytes and the end of all packets look the same to who reads. */
static bool is_hung_up(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

const uint8_t *frames_read(struct frames *f, size_t *ret_len)
{
	ssize_t got;

	for (;;) {
		got = recv(f->fd, f->packet, f->room, MSG_DONTWAIT | MSG_TRUNC);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || (!got && is_hung_up(f->fd))) {
			f->end = f->end || got == 0 || errno != EAGAIN;
			return NULL;
		}
		if ((size_t)got <= f->room && got >= NET_HEADER + ETHERNET_BYTES &&
			!f->packet[HEADER_FLAGS] && !f->packet[HEADER_SEGMENTS])
			break;
		log_guest("frames", "a packet of %zd bytes is no frame that this network takes: dropped", got);
	}
	*ret_len = (size_t)got - NET_HEADER;
	return f->packet + NET_HEADER;
}

/* Returns 0; -EAGAIN when there is no room. Whatever else is wrong with a frame, it is dropped. */
static int packet_send(struct frames *f, const void *frame, size_t len)
{
	static uint8_t header[NET_HEADER];
	struct iovec iov[] = { { header, sizeof(header) }, { (void *)frame, len } };
	const struct msghdr m = { .msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov) };
	ssize_t done;

	do {
		done = sendmsg(f->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (done < 0 && errno == EINTR);
	if (done < 0 && (errno == EPIPE || errno == ECONNRESET))
		f->end = true;
	return done < 0 && errno == EAGAIN ? -EAGAIN : 0;
}

void frames_write(struct frames *f, const void *frame, size_t len)
{
	struct waiting *w = &f->queue[(f->first + f->nqueue) % QUEUE_FRAMES];

	if (!f->nqueue && packet_send(f, frame, len) == 0)
		return;
	if (f->nqueue == QUEUE_FRAMES || f->queue_bytes + len > QUEUE_BYTES)
		return;
	w->frame = malloc(len);
	if (!w->frame)
		return;
	memcpy(w->frame, frame, len);
	w->len = len;
	f->nqueue++;
	f->queue_bytes += len;
}

void frames_flush(struct frames *f)
{
	while (f->nqueue) {
		struct waiting *w = &f->queue[f->first];

		if (packet_send(f, w->frame, w->len) < 0)
			return;
		f->queue_bytes -= w->len;
		free(w->frame);
		f->first = (f->first + 1) % QUEUE_FRAMES;
		f->nqueue--;
	}
}
