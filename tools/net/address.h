/* address: IPv4 and IPv6 addresses and prefixes. */
#ifndef CAIRN_TOOLS_NET_ADDRESS_H
#define CAIRN_TOOLS_NET_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define ADDRESS_TEXT_MAX 46 /* INET6_ADDRSTRLEN */

struct address {
	int family; /* AF_INET, AF_INET6; 0: none */
	uint8_t bytes[16]; /* in network order; IPv4 uses the first four */
};

/* Parse the text of an address of the family (AF_UNSPEC: either). Returns 0; -EINVAL. */
int address_parse(const char *text, int family, struct address *ret);
/* Print it. Returns buf. */
const char *address_print(const struct address *a, char buf[ADDRESS_TEXT_MAX]);
/* Length in bytes: 4 or 16. */
size_t address_len(const struct address *a);
/* Compare as numbers; both of one family. */
int address_compare(const struct address *a, const struct address *b);
bool address_equal(const struct address *a, const struct address *b);
/* Return whether the first `prefix` bits are equal; false for different families. */
bool address_shares_prefix(const struct address *a, const struct address *b, unsigned prefix);
/* Return whether it is 127.0.0.0/8, ::1 or unspecified. */
bool address_is_loopback(const struct address *a);
/* Return whether hosts may have it: no multicast, broadcast, loopback, unspecified address. */
bool address_is_unicast(const struct address *a);
/* The first address of the network: all bits after the prefix are 0. */
struct address address_network(const struct address *a, unsigned prefix);
/* The last one: all bits after the prefix are 1. */
struct address address_last(const struct address *a, unsigned prefix);
/* Return the next (by = 1) or previous (by = -1) address. */
struct address address_step(const struct address *a, int by);
/* Return whether the address is the first or (IPv4) the last of its network, which no host has. */
bool address_is_edge(const struct address *a, unsigned prefix);

#define MAC_BYTES 6
#define MAC_TEXT_MAX 18

/* Parse aa:bb:cc:dd:ee:ff. Returns 0; -EINVAL, also for multicast and for zero. */
int mac_parse(const char *text, uint8_t ret[MAC_BYTES]);
const char *mac_print(const uint8_t mac[MAC_BYTES], char buf[MAC_TEXT_MAX]);

#endif
