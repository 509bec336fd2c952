#include "base/inet_sum.h"
#include "base/bytes.h"

/* RFC 791: offsets in a header of the fields of the pseudo-header. */
enum { PSEUDO_PROTOCOL = 9, PSEUDO_FROM = 12 };

uint16_t sum_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* Sum in native byte order and swap at the end, which gives the same sum (RFC 1071, section 2 B). Of each 8 bytes,
 * `low` and `high` add 4 each; their upper 32 bits have room for the carries of any frame. */
uint64_t sum_add(uint64_t sum, const uint8_t *p, size_t len)
{
	uint64_t low = 0, high = 0;

	for (; len >= 8; p += 8, len -= 8) {
		uint64_t word;

		memcpy(&word, p, sizeof(word));
		low += word & UINT32_MAX;
		high += word >> 32;
	}
	sum += be16toh(sum_fold((low & UINT32_MAX) + (low >> 32) + (high & UINT32_MAX) + (high >> 32)));
	for (; len > 1; p += 2, len -= 2)
		sum += load_be16(p);
	return len ? sum + (uint64_t)*p * 256 : sum;
}

uint64_t sum_pseudo(const uint8_t *ip, size_t len)
{
	return sum_add(ip[PSEUDO_PROTOCOL] + len, ip + PSEUDO_FROM, 8);
}
