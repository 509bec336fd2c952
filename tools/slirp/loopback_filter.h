/* loopback_filter: choose the guest's frames that libslirp may see. libslirp connects to any destination except the
 * addresses that it translates, so a packet to 127.0.0.1 would reach the host's loopback. Fragments are refused,
 * because they can crash libslirp (4.7.0: ip_reass()). */
#ifndef CAIRN_TOOLS_SLIRP_LOOPBACK_FILTER_H
#define CAIRN_TOOLS_SLIRP_LOOPBACK_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Return whether libslirp may get the frame. frame: begins with its Ethernet header; as in libslirp, it has no VLAN
 * tag, so IP begins at byte 14. */
bool loopback_filter_passes(const uint8_t *frame, size_t len);

#endif
