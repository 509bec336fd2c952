/* egress_notice: the message by which cairn-dns reports to a network's nftables rules that a name has opened an
 * address. cairn-dns may not change the rules, so it sends the host a ping (ICMP echo request) with these data. A
 * rule of nftables puts the address into the set of the name, and the host's answer confirms that (docs/networks.md,
 * "Names in egress rules"). */
#ifndef CAIRN_BASE_EGRESS_NOTICE_H
#define CAIRN_BASE_EGRESS_NOTICE_H

#include "base/egress.h"

/* Offsets in the data; numbers are in network order. */
#define NOTICE_NAME 0	  /* 8 bytes: egress_rule_name_hash(); 0: a question was refused */
#define NOTICE_TIME 8	  /* 1 byte: the time is EGRESS_TTL_MIN_S, doubled so often, but at most EGRESS_TTL_MAX_S */
#define NOTICE_FAMILY 9	  /* 1 byte: 4 or 6 */
#define NOTICE_ADDRESS 12 /* 4 or 16 bytes */
#define NOTICE_BYTES 28

#define NOTICE_TIMES 10 /* values of NOTICE_TIME */

static inline unsigned notice_seconds(unsigned time)
{
	unsigned s = (unsigned)EGRESS_TTL_MIN_S << time;

	return s < EGRESS_TTL_MAX_S ? s : EGRESS_TTL_MAX_S;
}

#endif
