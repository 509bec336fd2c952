/* address: what addresses a guest has, as its agent says. */
#ifndef CAIRN_TOOLS_ADDRESS_H
#define CAIRN_TOOLS_ADDRESS_H

#include "tools/cairn/cli.h"

#define ADDRESS_TEXT 64

/* The guest's interfaces, as an array that the caller puts; see vm-addresses in docs/api.md. Returns 0 or -errno. */
int addresses_ask(struct cli *c, const char *vm, struct json_object **ret_interfaces, struct err *e);
/* One by which others reach the guest: no loopback and none of the link alone; IPv4 first. Of an interface of the VM's,
 * and not a bridge inside the guest; but a live clone's has its source's MAC until its driver starts anew: where none
 * is the VM's, any will do. Returns false when there is none. */
bool address_pick(struct json_object *interfaces, char text[ADDRESS_TEXT]);

#endif
