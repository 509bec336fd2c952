/* forwarding: makes the kernel pass on packets of the network, on its own links only.
 *
 * The kernel looks at the link by which a packet comes in: net.ipv4.conf.LINK.forwarding for IPv4, and for IPv6
 * net.ipv6.conf.LINK.force_forwarding (Linux 6.17) or net.ipv6.conf.all.forwarding. So the bridge needs it for
 * packets of the guests, and each uplink for the answers. Sets in the network's own nft table record which settings
 * were switched on. The kernel keeps the table as long as these settings: until the network or the host stops. If
 * another program removes the table, FOLDER/forwarding has the same, which counts as long as the bridge is there: a
 * reboot resets the settings and removes the bridge. A link that several networks have switched on is switched off with
 * the last of them.
 *
 * The host itself must not become a router between its uplinks. So rules (forwarding_guard_print()) drop packets
 * from one link of the sets to another, also of the networks that are up before. If somebody switches forwarding on
 * for all links, the host is a router on purpose: the sets are empty then, so the rules drop nothing, and `down`
 * switches nothing off. */
#ifndef CAIRN_TOOLS_NET_FORWARDING_H
#define CAIRN_TOOLS_NET_FORWARDING_H

#include "tools/net/nft.h"
#include "tools/net/uplink.h"

#include <stdio.h>

/* The sets of one network's table. */
struct forwarding {
	struct names ipv4; /* links */
	struct names ipv6; /* links; or "all" */
	struct names guard_ipv4, guard_ipv6; /* the links of all networks' sets; not read again */
	struct names accept_ra; /* links whose accept_ra was 1 and is 2, since a host that forwards ignores router advertisements with 1 */
};

#define SET_IPV4 "forwarding_ipv4"
#define SET_IPV6 "forwarding_ipv6"
#define SET_ACCEPT_RA "accept_ra"
#define SET_GUARD_IPV4 "guard_ipv4"
#define SET_GUARD_IPV6 "guard_ipv6"

/* Find the settings that the network has to switch on, shares with other networks, or has switched on before. Changes
 * nothing. folder: the network's; NULL if its bridge is not there. Returns 0; -errno. */
int forwarding_plan(struct nft *nft, const struct network *n, const char *folder, const struct uplinks *up, struct forwarding *ret,
	struct err *e);
/* Write the planned settings to the folder, before they are switched on. Returns 0; -errno with a sentence. */
int forwarding_note(const char *folder, const struct forwarding *f, struct err *e);
/* Switch on the planned settings, and the bridge. Call it when the sets are in the kernel. Returns 0; -errno with a
 * sentence. */
int forwarding_enable(const struct network *n, const struct forwarding *f, struct err *e);
/* Switch off the settings that no other network has in its sets. folder: as in forwarding_plan(). */
int forwarding_disable(struct nft *nft, const struct network *n, const char *folder, struct err *e);
/* Print the rules for the chain of the forward hook. */
void forwarding_guard_print(FILE *f, const struct network *n);
/* Return 1 if packets pass between the bridge and these uplinks, and the sets are as the plan's; 0; -errno.
 * has_table: the network's table exists. */
int forwarding_is_complete(struct nft *nft, const struct network *n, const struct uplinks *up, bool has_table, struct err *e);

/* Write a number to /proc/sys/net/FAMILY/conf/LINK/KEY. Returns 0; -errno with a sentence. */
int link_sysctl_write(const char *family, const char *link, const char *key, int value, struct err *e);
/* Read it; -1: there is none. */
int link_sysctl_read(const char *family, const char *link, const char *key);

#endif
