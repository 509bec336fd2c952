/* address: the guest's network addresses, as its guest agent reports them. */
#ifndef CAIRN_TOOLS_ADDRESS_H
#define CAIRN_TOOLS_ADDRESS_H

#include "tools/cairn/cli.h"

#define ADDRESS_TEXT 64

/* Ask the guest agent for the guest's interfaces and addresses.
 * ret_interfaces: an array as in vm-addresses (docs/api.md); the caller owns it.
 * Returns 0; -errno with a sentence. */
int addresses_ask(struct cli *c, const char *vm, struct json_object **ret_interfaces, struct err *e);
/* Choose the address under which other machines reach the guest: neither loopback nor link-local, IPv4 before IPv6.
 * Addresses of the VM's own interfaces take precedence over those of bridges inside the guest. A live clone keeps its
 * source's MAC until its driver restarts; if no interface has a MAC of the VM, any interface counts.
 * text: set on success only. Returns false if there is no such address. */
bool address_pick(struct json_object *interfaces, char text[ADDRESS_TEXT]);

#endif
