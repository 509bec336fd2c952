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
 * Only interfaces with a MAC of the VM's definition count, so bridges inside the guest do not. If no interface has such
 * a MAC, all count: a live clone's driver may still use the source's MAC.
 * text: set on success only. Returns false if there is no such address. */
bool address_pick(struct json_object *interfaces, char text[ADDRESS_TEXT]);
/* Find the address that a network has for an interface of a live clone. info: vm-info's answer. Returns false if there
 * is none. */
bool address_of_clone(struct json_object *info, const char *id, char text[ADDRESS_TEXT], unsigned *ret_prefix);

#endif
