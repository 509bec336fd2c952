/* sum: the Internet's checksum (RFC 1071). */
#ifndef CAIRN_TOOLS_SLIRP_SUM_H
#define CAIRN_TOOLS_SLIRP_SUM_H

#include <stddef.h>
#include <stdint.h>

/* To a sum of 16-bit words in network order, those of len bytes more; only the last piece may be odd. */
uint64_t sum_add(uint64_t sum, const uint8_t *p, size_t len);
uint16_t sum_fold(uint64_t sum);
/* Of what TCP and UDP borrow of the header: ip: an IPv4 packet; len: of the segment or datagram. */
uint64_t sum_pseudo(const uint8_t *ip, size_t len);

#endif
