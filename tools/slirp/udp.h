/* udp: datagrams of forwards, to the guest and back, past libslirp: that drops a guest's answers when
 * it keeps the guest from the host's loopback, where most who ask come from, or from everything.
 *
 * Who asks is remembered, and the guest can answer nobody else. It sees their own addresses, and those
 * of the host itself as the gateway's. A datagram has to fit into one frame, both ways. */
#ifndef CAIRN_TOOLS_SLIRP_UDP_H
#define CAIRN_TOOLS_SLIRP_UDP_H

#include "tools/slirp/frames.h"
#include "tools/slirp/options.h"

struct udp;
struct err;

/* o: its UDP forwards, in that order; it and f outlive the result. Returns 0; -ENOMEM. */
int udp_new(const struct options *o, struct frames *f, struct udp **ret_u, struct err *e);
void udp_free(struct udp *u);

/* Datagrams that have come over forward `at`, which is UDP's, go to the guest. */
void udp_receive(struct udp *u, unsigned at, uint64_t now_ns);
/* A frame of the guest's. True: it was an answer, and nobody else is to see it. */
bool udp_answer(struct udp *u, const uint8_t *frame, size_t len);

#endif
