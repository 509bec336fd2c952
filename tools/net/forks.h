/* forks: translation between the addresses of a live clone's guest and its unique addresses in the network. The guest
 * has its source's MAC and IPv4 address, until its driver starts again. Rules at its tap, in front of all other
 * rules, give its frames the clone's own MAC address and a unique IPv4 address of the network, and the reverse. So
 * bridge, filters, egress rules, NAT, DHCP and the other guests see one more guest. The rules keep no state of
 * connections.
 *
 * The table `bridge cairn_UUID_forks` exists while there are forks:
 * forks: each tap with the clone's MAC and its unique address. Afterwards dnsmasq leases the address to that MAC only.
 * fork_in, fork_out: maps from taps to the chains in_TAP and out_TAP.
 * A VM with published ports has a row in `forks`, too, and empty chains: its address is reserved for its MAC.
 * macs_TAP: has the clone's MAC while the guest uses the source's. The guest's last frame decides.
 * inner_TAP: maps the unique address to the guest's, while the guest uses the source's. Likewise.
 *
 * A fork with peers, other clones of its group (docs/networks.md, "Clones of a group"), has an element in `grouped`,
 * and sources_TAP, clones_TAP: the MAC addresses of the peers' sources, and the peers' own.
 * to_TAP, from_TAP: maps from the former to the latter, and the reverse.
 * peer_TAP: chain for frames from peers.
 * first_TAP: has the address that the next two maps got from the guest's frames, or none.
 * group_inner: maps the unique address of each fork with peers to the one that its source has, as long as the fork
 * lives, whatever its guest uses. group_unique: maps its own MAC address and the source's IPv4 address to the unique
 * one.
 *
 * Where a message has addresses within its payload (DHCP renewals, ICMP errors), a constant in bytes that nobody reads
 * keeps the checksum right. IPv6 of a guest that uses the source's MAC is dropped. docs/networks.md, "Forks". */
#ifndef CAIRN_TOOLS_NET_FORKS_H
#define CAIRN_TOOLS_NET_FORKS_H

#include "tools/net/request.h"

#include <stdio.h>

struct err;
struct operation;
struct service;

/* Read the forks into o->req->net, which has room for PORTS_MAX more afterwards. Returns 0; -errno with a sentence. */
int forks_read(struct operation *o, struct err *e);
/* If the source of the port's fork is a fork itself, take the addresses that the source's guest has at present: it
 * may have started again. Behind forks_read(). Returns 0; -errno with a sentence. */
int fork_source_read(struct operation *o, struct port *p, struct err *e);
/* Return whether a fixed host of the definition has the MAC address of a fork or the address. a: NULL allowed. */
bool fork_is_host(const struct dhcp_host *h, const uint8_t mac[MAC_BYTES], const struct address *a);
/* Check that no fixed host of the definition has the address of a fork with another MAC address: dnsmasq would lease it
 * a second time. Returns 0; -EEXIST with a sentence. */
int forks_check(const struct network *n, struct err *e);
/* Note each fixed host whose VM runs with another address, which is reserved. note: gets a sentence. */
void forks_note_hosts(const struct network *n, void (*note)(void *opaque, const char *sentence), void *opaque);
/* Choose the unique address of the port's fork: that of its fixed host, that of before, else one that depends on its
 * MAC address.
 * last: the last address that its MAC address had by DHCP, which its guest may have noted; family 0: none. A guest that
 * continues keeps it, even if it has a fixed host with another one.
 * taken: returns whether somebody else may have the address. pass: 0; 1: pass 0 has found no free address.
 * Returns 0; -ENOSPC with a sentence. */
int fork_choose(const struct network *n, const struct port *p, const struct address *service,
	const struct address *last, bool (*taken)(void *arg, const struct address *a, int pass), void *arg, struct address *ret, struct err *e);
/* Print commands that remove the forks that are marked as gone. */
void forks_clear_print(FILE *f, const struct network *n);
/* Print commands that add the port's fork, behind forks_clear_print(). inner: the guest's address; family 0:
 * unknown, then it is the first address of the network that the guest sends from. service: dnsmasq's address; family 0:
 * none. */
void fork_print(FILE *f, const struct network *n, const struct port *p, const struct address *unique, const struct address *inner,
	const struct address *service);
/* Print commands that reserve the address for the port: it becomes a fork without rules, behind
 * forks_clear_print(). */
void reservation_print(FILE *f, const struct network *n, const struct port *p, const struct address *a);

#endif
