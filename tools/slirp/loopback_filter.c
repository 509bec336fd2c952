#include "tools/slirp/loopback_filter.h"
#include "base/bytes.h"
#include "tools/slirp/frames.h"

#include <net/ethernet.h>
#include <string.h>

/* RFC 791 and RFC 8200: offsets of the destination in a frame. */
enum { IPV4_BYTES = 20, IPV4_FRAGMENT = ETHERNET_BYTES + 6, IPV4_TO = ETHERNET_BYTES + 16 };
enum { IPV6_BYTES = 40, IPV6_TO = ETHERNET_BYTES + 24 };
#define FRAGMENT_MASK 0x3fff /* flag "more fragments" and fragment offset */

/* Refuse "this host" and loopback (RFC 6890): the kernel delivers both locally. */
static bool ipv4_passes(const uint8_t *frame)
{
	const uint8_t *to = frame + IPV4_TO;

	return to[0] != 0 && to[0] != 127 && !(load_be16(frame + IPV4_FRAGMENT) & FRAGMENT_MASK);
}

/* Refuse ::/80, which holds ::, ::1 and addresses that stand for IPv4 addresses. */
static bool ipv6_passes(const uint8_t *frame)
{
	static const uint8_t zeros[10];

	return memcmp(frame + IPV6_TO, zeros, sizeof(zeros)) != 0;
}

bool loopback_filter_passes(const uint8_t *frame, size_t len)
{
	if (len < ETHERNET_BYTES)
		return false;
	switch (load_be16(frame + FRAME_TYPE_AT)) {
	case ETHERTYPE_ARP:
		return true;
	case ETHERTYPE_IP:
		return len >= ETHERNET_BYTES + IPV4_BYTES && ipv4_passes(frame);
	case ETHERTYPE_IPV6:
		return len >= ETHERNET_BYTES + IPV6_BYTES && ipv6_passes(frame);
	default:
		return false;
	}
}
