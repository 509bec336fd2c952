/* public_address: tells addresses of the internet from local and reserved ones. Any thread. */
#ifndef CAIRN_BASE_PUBLIC_ADDRESS_H
#define CAIRN_BASE_PUBLIC_ADDRESS_H

#include <stdbool.h>

struct sockaddr;

/* Whether the address is a public one of the internet: not of this host, of a private or local network, of
 * documentation or tests, multicast, or reserved (RFC 6890). An IPv6 address that holds an IPv4 address counts as that
 * one. Other families are not public. */
bool address_is_public(const struct sockaddr *sa);

#endif
