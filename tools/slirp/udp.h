/* udp: forward datagrams to the guest and back without libslirp. libslirp would drop the guest's answers to clients on
 * the host's loopback, where most clients are, if --host-loopback is not given, and all answers with --restrict.
 *
 * Only known clients get answers. The guest sees the client's own address, but the gateway's address for clients on
 * 127.0.0.0/8 and for addresses of the guest's network. A datagram must fit into one frame in both directions. */
#ifndef CAIRN_TOOLS_SLIRP_UDP_H
#define CAIRN_TOOLS_SLIRP_UDP_H

#include "tools/slirp/frames.h"
#include "tools/slirp/options.h"

struct udp;
struct err;

/* Begin to forward datagrams. o: has the UDP forwards. o and f outlive the result. Returns 0; -ENOMEM with a
 * sentence. */
int udp_new(const struct options *o, struct frames *f, struct udp **ret_u, struct err *e);
void udp_free(struct udp *u);
/* Begin to forward the datagrams of the UDP forward `at` of the options, which is the last one. Returns 0; -ENOMEM. */
int udp_add_forward(struct udp *u, unsigned at);
/* Remove the forward `at` of either protocol; those behind it move up. Does not close its fd. */
void udp_remove_forward(struct udp *u, unsigned at);

/* Pass the waiting datagrams of the UDP forward `at` to the guest. */
void udp_receive(struct udp *u, unsigned at, uint64_t now_ns);
/* Handle a frame of the guest. Returns true if the frame was an answer to a client; then libslirp must not get the
 * frame. */
bool udp_answer(struct udp *u, const uint8_t *frame, size_t len);

#endif
