/* subnet: the IPv4 or IPv6 part of a network: its checks, and the address that its dnsmasq has. */
#ifndef CAIRN_TOOLS_NET_SUBNET_H
#define CAIRN_TOOLS_NET_SUBNET_H

#include "tools/net/reading.h"
#include "tools/net/request.h"

/* Read and check the object `key`; absent: ret->given is false. Returns 0; -EINVAL. */
int subnet_read(const struct reading *up, const char *key, int family, struct subnet *ret, struct err *e);
/* Return whether the address may be dnsmasq's: inside the network, no edge, not the bridge's and no host's. */
bool subnet_service_is_valid(const struct subnet *s, const struct address *a);
/* Choose dnsmasq's address. Returns 0; -ENOSPC with a sentence: the network is full of hosts. */
int subnet_service_choose(const struct subnet *s, struct address *ret, struct err *e);

#endif
