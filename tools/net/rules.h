/* rules: the nft tables of a network: filters and NAT (family inet), and, with IPv6, a rule of the bridge. The rules
 * are libvirt's: a NAT network lets its guests out and answers in; a routed one lets both pass; an isolated one
 * neither. */
#ifndef CAIRN_TOOLS_NET_RULES_H
#define CAIRN_TOOLS_NET_RULES_H

#include "tools/net/forwarding.h"
#include "tools/net/nft.h"
#include "tools/net/request.h"

/* dnsmasq's addresses; family 0: none. */
struct service {
	struct address ipv4, ipv6;
};

/* Replace the network's tables by new ones, in one transaction. The rules of ports (port.h) remain. Returns 0; -errno
 * with a sentence. */
int rules_apply(struct nft *nft, const struct network *n, const struct service *s, const struct forwarding *f, struct err *e);
/* Delete all tables of the network, also those of its ports. removed(): called with each. Returns 0; -errno. */
int rules_remove(struct nft *nft, const struct network *n, void (*removed)(void *arg, const char *what), void *arg, struct err *e);
/* Whether the table is there. Returns 1, 0; -errno. */
int rules_are_there(struct nft *nft, const struct network *n, struct err *e);

#endif
