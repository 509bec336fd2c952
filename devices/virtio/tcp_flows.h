/* tcp_flows: the TCP connections of a guest that pass through its interface, so that a revert can reset those that went
 * on after the snapshot. Without a reset, such a connection hangs: the reverted guest lacks segments that its peer
 * has acknowledged or sent, and each side discards the other side's segments as old ones.
 *
 * A flow *moves* when a segment with data, SYN, FIN or RST passes in either direction. A revert makes each flow *dead*
 * that has moved since the snapshot. A dead flow passes no segments: the sender of each one gets a RST in the name of
 * the other side, with the sender's own numbers, so the sender accepts it. The peer also gets a RST at once, with the
 * numbers that it had last. The guest's numbers after a revert are unknown, so the guest gets a segment that it must
 * answer (RFC 9293, 3.10.7.4), and then a RST for this answer. A SYN begins a new flow.
 *
 * A guest in promiscuous mode also gets segments of flows between others, which no revert may reset. A frame to another
 * address than the guest's thus counts only if the guest has sent a segment of its flow, as one that bridges does.
 *
 * Frames with VLAN tags, fragments and IPv6 extension headers are not looked at.
 *
 * Threading: the caller locks. */
#ifndef CAIRN_DEVICES_VIRTIO_TCP_FLOWS_H
#define CAIRN_DEVICES_VIRTIO_TCP_FLOWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tcp_flows;

enum tcp_side { TCP_GUEST = 0, TCP_PEER = 1, TCP_SIDES = 2 };

#define TCP_FLOWS_HEAD_BYTES (14 + 60 + 20)	 /* the headers: tcp_flows_note() reads no further */
#define TCP_FLOWS_FRAME_BYTES (14 + 40 + 20 + 1) /* longest frame of tcp_flows_next() */
#define TCP_FLOWS_MARKS 64u			 /* snapshots that are remembered; an older one counts as unknown */

/* Returns 0; -ENOMEM. */
int tcp_flows_new(struct tcp_flows **ret);
void tcp_flows_free(struct tcp_flows *f);

/* Note a frame, of which `head` has the first len bytes. own: it is from the guest, or to an address of the guest's.
 * Returns whether it may pass. Otherwise drop it; the answer is due (tcp_flows_next()). */
bool tcp_flows_note(struct tcp_flows *f, enum tcp_side from, bool own, const uint8_t *head, size_t len);
/* Record that a snapshot was taken. key: identifies it; not 0. */
void tcp_flows_mark(struct tcp_flows *f, uint64_t key);
/* Make flows dead after a revert: those that have moved since the mark with this key. With `all` or an unknown key, all
 * flows die, and each unknown one as soon as one of its segments comes. */
void tcp_flows_revert(struct tcp_flows *f, uint64_t key, bool all);
/* Take a frame that is to be sent to a side. Returns its length; 0: none. */
size_t tcp_flows_next(struct tcp_flows *f, enum tcp_side to, uint8_t out[TCP_FLOWS_FRAME_BYTES]);

#endif
