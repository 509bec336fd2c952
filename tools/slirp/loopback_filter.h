/* gate: which of a guest's frames libslirp may see. It connects to whatever address a packet has, and
 * looks only at those that it translates itself: a packet to 127.0.0.1 would reach the host's own.
 * And it can be crashed by fragments (4.7.0: ip_reass()), so it gets none. */
#ifndef CAIRN_TOOLS_SLIRP_LOOPBACK_FILTER_H
#define CAIRN_TOOLS_SLIRP_LOOPBACK_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* frame: with its Ethernet header, as libslirp reads it: no VLAN, IP at byte 14. */
bool loopback_filter_passes(const uint8_t *frame, size_t len);

#endif
