#include "tools/net/address.h"
#include "base/bytes.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

size_t address_len(const struct address *a)
{
	return a->family == AF_INET ? 4 : 16;
}

int address_parse(const char *text, int family, struct address *ret)
{
	struct address a = { .family = strchr(text, ':') ? AF_INET6 : AF_INET };

	if ((family && family != a.family) || inet_pton(a.family, text, a.bytes) != 1)
		return -EINVAL;
	*ret = a;
	return 0;
}

const char *address_print(const struct address *a, char buf[ADDRESS_TEXT_MAX])
{
	if (!inet_ntop(a->family, a->bytes, buf, ADDRESS_TEXT_MAX))
		buf[0] = 0;
	return buf;
}

int address_compare(const struct address *a, const struct address *b)
{
	return memcmp(a->bytes, b->bytes, address_len(a));
}

bool address_equal(const struct address *a, const struct address *b)
{
	return a->family == b->family && !address_compare(a, b);
}

bool address_shares_prefix(const struct address *a, const struct address *b, unsigned prefix)
{
	return a->family == b->family && bits_are_equal(a->bytes, b->bytes, prefix);
}

static bool address_is_zero(const struct address *a)
{
	static const uint8_t zero[16];

	return !memcmp(a->bytes, zero, address_len(a));
}

bool address_is_loopback(const struct address *a)
{
	static const uint8_t one[16] = { [15] = 1 };

	return address_is_zero(a) || (a->family == AF_INET ? a->bytes[0] == 127 : !memcmp(a->bytes, one, sizeof(one)));
}

bool address_is_unicast(const struct address *a)
{
	if (address_is_loopback(a))
		return false;
	if (a->family == AF_INET)
		return a->bytes[0] && a->bytes[0] < 224;
	return a->bytes[0] != 0xff && !(a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80);
}

static struct address address_fill(const struct address *a, unsigned prefix, bool ones)
{
	struct address r = *a;

	for (size_t i = 0; i < address_len(a); i++) {
		unsigned kept = prefix > i * 8 ? prefix - (unsigned)i * 8 : 0;
		uint8_t host = kept >= 8 ? 0 : (uint8_t)(0xff >> kept);

		r.bytes[i] = ones ? r.bytes[i] | host : (uint8_t)(r.bytes[i] & ~host);
	}
	return r;
}

struct address address_network(const struct address *a, unsigned prefix)
{
	return address_fill(a, prefix, false);
}

struct address address_last(const struct address *a, unsigned prefix)
{
	return address_fill(a, prefix, true);
}

struct address address_step(const struct address *a, int by)
{
	struct address r = *a;
	uint8_t from = by > 0 ? 0xff : 0;

	for (size_t i = address_len(a); i-- > 0;) {
		bool carry = r.bytes[i] == from;

		r.bytes[i] = (uint8_t)(r.bytes[i] + by);
		if (!carry)
			break;
	}
	return r;
}

bool address_is_edge(const struct address *a, unsigned prefix)
{
	struct address first = address_network(a, prefix), last = address_last(a, prefix);

	return address_equal(a, &first) || (a->family == AF_INET && address_equal(a, &last));
}

int mac_parse(const char *text, uint8_t ret[MAC_BYTES])
{
	static const uint8_t zero[MAC_BYTES];
	uint8_t mac[MAC_BYTES];
	unsigned v[MAC_BYTES];
	char end;

	if (strlen(text) != MAC_TEXT_MAX - 1)
		return -EINVAL;
	for (size_t i = 0; text[i]; i++)
		if (i % 3 == 2 ? text[i] != ':' : !isxdigit((unsigned char)text[i]))
			return -EINVAL;
	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &end) != MAC_BYTES)
		return -EINVAL;
	for (size_t i = 0; i < MAC_BYTES; i++)
		mac[i] = (uint8_t)v[i];
	if ((mac[0] & 1) || !memcmp(mac, zero, sizeof(zero)))
		return -EINVAL;
	memcpy(ret, mac, sizeof(mac));
	return 0;
}

const char *mac_print(const uint8_t mac[MAC_BYTES], char buf[MAC_TEXT_MAX])
{
	snprintf(buf, MAC_TEXT_MAX, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	return buf;
}
