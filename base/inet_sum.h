/* inet_sum: the Internet checksum (RFC 1071). */
#ifndef CAIRN_BASE_INET_SUM_H
#define CAIRN_BASE_INET_SUM_H

#include <stddef.h>
#include <stdint.h>

/* Add len bytes to a sum of 16-bit words in network order. Only the last piece may have an odd length. */
uint64_t sum_add(uint64_t sum, const uint8_t *p, size_t len);
uint16_t sum_fold(uint64_t sum);
/* Returns the sum of the pseudo-header of TCP and UDP. ip: an IPv4 packet. len: length of the segment or datagram. */
uint64_t sum_pseudo(const uint8_t *ip, size_t len);

#endif
