#include "base/public_address.h"
#include "base/util.h"

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

static bool begins_with(const uint8_t *address, const uint8_t *prefix, unsigned bits)
{
	unsigned whole = bits / 8, mask = 0xff00U >> bits % 8 & 0xff;

	return !memcmp(address, prefix, whole) && (!mask || (address[whole] & mask) == (prefix[whole] & mask));
}

static bool v4_is_public(const uint8_t a[4])
{
	static const struct {
		uint8_t prefix[4], bits;
	} special[] = { { { 0 }, 8 }, { { 10 }, 8 }, { { 100, 64 }, 10 }, { { 127 }, 8 }, { { 169, 254 }, 16 }, { { 172, 16 }, 12 },
		{ { 192, 0, 0 }, 24 }, { { 192, 0, 2 }, 24 }, { { 192, 88, 99 }, 24 }, { { 192, 168 }, 16 }, { { 198, 18 }, 15 },
		{ { 198, 51, 100 }, 24 }, { { 203, 0, 113 }, 24 }, { { 224 }, 3 } };

	for (size_t i = 0; i < ARRAY_SIZE(special); i++)
		if (begins_with(a, special[i].prefix, special[i].bits))
			return false;
	return true;
}

static bool v6_is_public(const uint8_t a[16])
{
	/* Prefixes of addresses that hold an IPv4 address, and where: mapped, compatible, NAT64, 6to4. */
	static const struct {
		uint8_t prefix[12], bits, at;
	} holds[] = { { { [10] = 0xff, 0xff }, 96, 12 }, { { 0 }, 96, 12 }, { { 0, 0x64, 0xff, 0x9b }, 96, 12 }, { { 0x20, 0x02 }, 16, 2 } };
	static const uint8_t global[16] = { 0x20 }, documentation[16] = { 0x20, 0x01, 0x0d, 0xb8 }, more[16] = { 0x3f, 0xff },
			     protocols[16] = { 0x20, 0x01 };

	for (size_t i = 0; i < ARRAY_SIZE(holds); i++)
		if (begins_with(a, holds[i].prefix, holds[i].bits))
			return v4_is_public(a + holds[i].at);
	return begins_with(a, global, 3) && !begins_with(a, documentation, 32) && !begins_with(a, more, 20) && !begins_with(a, protocols, 23);
}

bool address_is_public(const struct sockaddr *sa)
{
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;

	if (sa->sa_family == AF_INET) {
		memcpy(&v4, sa, sizeof(v4));
		return v4_is_public((const uint8_t *)&v4.sin_addr);
	}
	if (sa->sa_family != AF_INET6)
		return false;
	memcpy(&v6, sa, sizeof(v6));
	return v6_is_public(v6.sin6_addr.s6_addr);
}
