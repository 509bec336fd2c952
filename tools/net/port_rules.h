/* port_rules: the text of the nft commands for the filters of VMs' taps, in a table of the bridge family,
 * `cairn_UUID_ports`. docs/networks.md, "Ports", says what a guest may send.
 *
 * Shared by all ports: map ports_in (tap: its chain); set port_macs (tap, MAC); sets of what only its owner may
 * use, of the ports (macs, clients, known6, targets) and of the network (host_macs, host_clients, reserved with
 * reserved_by, host6, host_targets); leased (addresses by DHCP); and chains that the ports' chains jump to.
 * Of a port: chains in_TAP, ack_TAP and asks_TAP, sets own_TAP (by DHCP), fixed_TAP, own6_TAP, own_nd_TAP and asks_TAP
 * (other MAC addresses for which the guest has asked DHCP).
 * Some sets are of raw bits, since nft compares bits of a payload with such sets only: leased and own_TAP, which
 * rules fill from DHCP's answers; asks_TAP, which they fill from requests; clients, targets and own_nd_TAP, which
 * repeat others. */
#ifndef CAIRN_TOOLS_NET_PORT_RULES_H
#define CAIRN_TOOLS_NET_PORT_RULES_H

#include "tools/net/request.h"
#include "tools/net/rules.h"

#include <stdio.h>

/* Where the commands go; all borrowed. */
struct port_text {
	FILE *f;
	const struct request *req;
	const struct port *port; /* for sets of one port: a port of the request */
	const struct service *service;
	char table[ID_MAX + 8];
};

/* Make the shared part, or bring it to this definition of the network. Afterwards no tap's chain gets DHCP's
 * acknowledgements: call port_learn_print() for each port. */
void port_table_print(const struct port_text *t);
/* Note an address that is leased at present. seconds: 0: forever. */
void port_leased_print(const struct port_text *t, const struct address *a, unsigned seconds);

/* Make t->port. It must not be there. */
void port_print(const struct port_text *t);
/* Add to the IPv4 addresses of t->port. */
void port_own_print(const struct port_text *t, const struct address *a);
/* Reserve the address of a live clone (forks.h) for its MAC address, or free it. */
void port_reserve_print(const struct port_text *t, const uint8_t mac[MAC_BYTES], const struct address *a, bool add);
/* Add the fixed IPv6 addresses of a MAC address to those of a tap. */
void port_hosts6_print(const struct port_text *t, const char *tap, const uint8_t mac[MAC_BYTES]);
/* Pass DHCP's acknowledgements to the tap's chain ack_TAP, which learns the guest's addresses from them. */
void port_learn_print(const struct port_text *t, const char *tap);

/* Pass DHCP's acknowledgements to no tap's chain: nft removes a chain only if no rule jumps to it. */
void port_learn_reset(const struct port_text *t);
/* Remove a port, except the elements of its MAC addresses. */
void port_clear(const struct port_text *t, const char *tap);
/* Remove the elements of a MAC address of a tap. last: no other tap has it. */
void port_mac_clear(const struct port_text *t, const char *tap, const uint8_t mac[MAC_BYTES], bool last);

#endif
