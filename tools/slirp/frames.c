#include "tools/slirp/frames.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/inet_sum.h"
#include "base/log.h"
#include "base/util.h"
#include "tools/slirp/segments.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define QUEUE_FRAMES 1000 /* as many as the txqueuelen of a tap */
#define QUEUE_BYTES (4 * MIB)
#define SOCKET_BYTES (1 * MIB)
#define VLAN_BYTES 4
#define SUM_BYTES 2
#define IPV4_PROTOCOL (ETHERNET_BYTES + 9)

struct waiting {
	size_t len;
	uint8_t *packet; /* owned */
};

struct frames {
	int fd;
	bool end;
	size_t room; /* size limit of a frame from the guest that does not combine several segments */
	unsigned offloads; /* TUN_F_* flags that the guest accepts */
	struct waiting queue[QUEUE_FRAMES];
	unsigned first, nqueue;
	size_t queue_bytes;
	struct segments segments; /* segments not sent yet; they are newer than the frames in the queue */
	uint8_t packet[PACKET_BYTES_MAX];
};

int frames_new(int fd, unsigned mtu, struct frames **ret_f, struct err *e)
{
	struct frames *f = calloc(1, sizeof(*f));
	int bytes = SOCKET_BYTES, has = 0;
	socklen_t size = sizeof(has);

	if (!f)
		return err_set_errno(e, -ENOMEM, "frames");
	f->fd = fd;
	f->room = MIN(ETHERNET_BYTES + VLAN_BYTES + mtu, PACKET_BYTES_MAX - NET_HEADER);
	/* The kernel may grant a smaller buffer; then more frames wait in the queue. Keep a larger buffer, which a
	 * daemon that runs as root has set. */
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
		free(f->queue[(f->first + i) % QUEUE_FRAMES].packet);
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

/* Tell an empty packet from the end of the stream: both read as 0 bytes. */
static bool peer_has_closed(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* ---- frames from the guest ---- */

/* Compute the checksum of a TCP segment or UDP datagram. Store 0 as 0xffff, because in UDP, 0 means no checksum.
 * Returns false if the offsets in the header do not fit the frame. */
static bool sum_make(const uint8_t *header, uint8_t *frame, size_t len)
{
	size_t start = load_le16(header + HEADER_SUM_START), at = start + load_le16(header + HEADER_SUM_OFFSET);
	uint16_t sum;

	if (start < ETHERNET_BYTES || at + SUM_BYTES > len)
		return false;
	sum = (uint16_t)~sum_fold(sum_add(0, frame + start, len - start));
	store_be16(frame + at, sum ? sum : UINT16_MAX);
	return true;
}

/* Check a frame of the guest and compute its checksum. Combined segments stay one frame, because libslirp terminates
 * TCP in this process. Returns false if the frame is not valid. */
static bool frame_finish(const struct frames *f, const uint8_t *header, uint8_t *frame, size_t len)
{
	if (len < ETHERNET_BYTES || len > PACKET_BYTES_MAX - NET_HEADER || (header[HEADER_FLAGS] & ~HEADER_SUM_WANTED))
		return false;
	if (!header[HEADER_SEGMENTS]) {
		if (len > f->room)
			return false;
	} else if ((header[HEADER_SEGMENTS] & ~HEADER_SEGMENTS_ECN) != HEADER_SEGMENTS_TCP4 || !header[HEADER_FLAGS] ||
		len <= IPV4_PROTOCOL || load_be16(frame + FRAME_TYPE_AT) != ETHERTYPE_IP ||
		frame[IPV4_PROTOCOL] != IPPROTO_TCP) {
		return false;
	}
	return !header[HEADER_FLAGS] || sum_make(header, frame, len);
}

const uint8_t *frames_read(struct frames *f, size_t *ret_len)
{
	ssize_t got;

	for (;;) {
		got = recv(f->fd, f->packet, sizeof(f->packet), MSG_DONTWAIT | MSG_TRUNC);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || (!got && peer_has_closed(f->fd))) {
			f->end = f->end || got == 0 || errno != EAGAIN;
			return NULL;
		}
		if (got == OFFLOADS_BYTES) {
			f->offloads = load_le32(f->packet);
			continue;
		}
		if (got >= NET_HEADER && frame_finish(f, f->packet, f->packet + NET_HEADER, (size_t)got - NET_HEADER))
			break;
		log_guest("frames", "dropped a packet of %zd bytes: it is not a valid frame of this network", got);
	}
	*ret_len = (size_t)got - NET_HEADER;
	return f->packet + NET_HEADER;
}

/* ---- frames to the guest ---- */

/* Send a packet to the VM. Returns 0; -EAGAIN: no room. After any other error the packet is dropped, and the result is
 * 0. */
static int packet_send(struct frames *f, const struct iovec *iov, size_t niov)
{
	const struct msghdr m = { .msg_iov = (struct iovec *)iov, .msg_iovlen = niov };
	ssize_t done;

	do {
		done = sendmsg(f->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (done < 0 && errno == EINTR);
	if (done < 0 && (errno == EPIPE || errno == ECONNRESET))
		f->end = true;
	return done < 0 && errno == EAGAIN ? -EAGAIN : 0;
}

static void packet_write(struct frames *f, const struct iovec *iov, size_t niov)
{
	struct waiting *w = &f->queue[(f->first + f->nqueue) % QUEUE_FRAMES];
	size_t len = 0;

	if (!f->nqueue && packet_send(f, iov, niov) == 0)
		return;
	for (size_t i = 0; i < niov; i++)
		len += iov[i].iov_len;
	if (f->nqueue == QUEUE_FRAMES || f->queue_bytes + len > QUEUE_BYTES)
		return;
	w->packet = malloc(len);
	if (!w->packet)
		return;
	w->len = 0;
	for (size_t i = 0; i < niov; i++) {
		memcpy(w->packet + w->len, iov[i].iov_base, iov[i].iov_len);
		w->len += iov[i].iov_len;
	}
	f->nqueue++;
	f->queue_bytes += len;
}

void frames_push(struct frames *f)
{
	struct iovec iov;

	iov.iov_base = (void *)segments_end(&f->segments, &iov.iov_len);
	if (iov.iov_base)
		packet_write(f, &iov, 1);
}

void frames_write(struct frames *f, const void *frame, size_t len)
{
	const unsigned segments = TUN_F_CSUM | TUN_F_TSO4;
	/* Frames from this process have correct checksums and have crossed no network. */
	uint8_t header[NET_HEADER] = { f->offloads & TUN_F_CSUM ? HEADER_SUM_GOOD : 0 };
	const struct iovec iov[] = { { header, sizeof(header) }, { (void *)frame, len } };

	if ((f->offloads & segments) == segments) {
		if (segments_add(&f->segments, frame, len))
			return;
		frames_push(f);
		if (segments_add(&f->segments, frame, len))
			return;
	}
	packet_write(f, iov, ARRAY_SIZE(iov));
}

void frames_flush(struct frames *f)
{
	while (f->nqueue) {
		struct waiting *w = &f->queue[f->first];
		struct iovec iov = { w->packet, w->len };

		if (packet_send(f, &iov, 1) < 0)
			return;
		f->queue_bytes -= w->len;
		free(w->packet);
		f->first = (f->first + 1) % QUEUE_FRAMES;
		f->nqueue--;
	}
}
