/* closing: ends TCP connections that both sides have closed. libslirp keeps one that the host's side closed first for
 * 10 seconds (TIME_WAIT), with its socket and its buffers. That protects against segments that come late, but frames
 * between the guest and this process keep their order. So libslirp gets a reset in the guest's name.
 *
 * Order of calls for each frame of the guest: closing_received(), slirp_input(), during which libslirp may send frames
 * (closing_sent()), closing_reset(). */
#ifndef CAIRN_TOOLS_SLIRP_CLOSING_H
#define CAIRN_TOOLS_SLIRP_CLOSING_H

#include "tools/slirp/guest_packet.h"

#include <stddef.h>
#include <stdint.h>

/* Closed connections whose FIN the guest has not acknowledged. The oldest give way: libslirp keeps these. */
#define CLOSING_MAX 64

struct closing {
	struct closing_sent {
		struct guest_packet packet; /* with a FIN, to the guest; `data` is not valid */
		uint32_t end; /* acknowledgement number of the FIN; the packet's flags are 0 in an unused entry */
	} sent[CLOSING_MAX];
	unsigned next;
	struct guest_packet last; /* frame of the guest that closes a connection; flags 0: none */
	uint8_t reset[GUEST_ANSWER_HEADERS];
	size_t reset_bytes; /* 0: none */
};

/* The initial state is all zeros. Both read only frames that may have a FIN or follow one. */
void closing_received(struct closing *c, const uint8_t *frame, size_t len);
void closing_sent(struct closing *c, const uint8_t *frame, size_t len);
/* Returns the reset for the connection that the guest's frame has closed, if libslirp has all data and has
 * acknowledged all; NULL: none. */
const uint8_t *closing_reset(struct closing *c, size_t *ret_len);

#endif
