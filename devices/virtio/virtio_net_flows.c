/* TCP connections of the guest after a revert. */
#include "base/cleanup.h"
#include "base/log.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/tcp_flows.h"
#include "devices/virtio/virtio_net_internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

bool net_flows_begin(struct virtio_net *n)
{
	return n->flows || (n->pairs[0].tap_fd >= 0 && !tcp_flows_new(&n->flows));
}

/* Send the peers the frames that are due to them. If the socket is full, a frame is lost; the peer's next segment gets
 * another answer. */
static void peers_answer(struct virtio_net *n)
{
	uint8_t packet[NET_HEADER_BYTES + TCP_FLOWS_FRAME_BYTES] = { 0 };
	int fd = n->pairs[0].tap_fd;
	size_t bytes;

	while ((bytes = tcp_flows_next(n->flows, TCP_PEER, packet + NET_HEADER_BYTES)))
		if (fd >= 0 && n->link_wanted && write(fd, packet, NET_HEADER_BYTES + bytes) < 0)
			log_debug(n->v.dev.name, "cannot reset a connection: %s", strerror(errno));
}

bool net_flow_receives(struct net_pair *p)
{
	size_t bytes = p->held - NET_HEADER_BYTES;
	struct virtio_net *n = p->n;
	const uint8_t *frame = p->packet + NET_HEADER_BYTES;

	if (!n->flows || tcp_flows_note(n->flows, TCP_PEER, net_filter_is_own(&n->filter, frame), frame,
		MIN(bytes, (size_t)TCP_FLOWS_HEAD_BYTES)))
		return true;
	peers_answer(n);
	return false;
}

bool net_flow_sends(struct virtio_net *n, const struct iovec *iov, unsigned niov)
{
	uint8_t head[TCP_FLOWS_HEAD_BYTES];

	if (!n->flows || tcp_flows_note(n->flows, TCP_GUEST, true, head, iov_read(iov, niov, 0, head, sizeof(head))))
		return true;
	peers_answer(n);
	virtio_queue_kick(&n->v, RX);
	return false;
}

bool net_flow_answer_take(struct net_pair *p)
{
	struct virtio_net *n = p->n;
	size_t bytes = n->flows && n->link_wanted ? tcp_flows_next(n->flows, TCP_GUEST, p->packet + NET_HEADER_BYTES) : 0;

	memset(p->packet, 0, bytes ? NET_HEADER_BYTES : 0);
	p->held = bytes ? (uint32_t)bytes + NET_HEADER_BYTES : 0;
	return bytes;
}

void virtio_net_mark(struct device *d, uint64_t key)
{
	struct virtio_net *n = net_of_device(d);

	LOCK_GUARD(&n->v.lock);
	if (!net_flows_begin(n))
		return;
	tcp_flows_mark(n->flows, key);
	for (unsigned i = 0; i < n->npairs; i++)
		if (n->pairs[i].held) /* the guest gets this frame after the snapshot */
			net_flow_receives(&n->pairs[i]);
}

void virtio_net_revert(struct device *d, uint64_t key)
{
	struct virtio_net *n = net_of_device(d);

	LOCK_GUARD(&n->v.lock);
	if (!net_flows_begin(n))
		return;
	tcp_flows_revert(n->flows, key, n->user);
	peers_answer(n);
	virtio_queue_kick(&n->v, RX);
}
