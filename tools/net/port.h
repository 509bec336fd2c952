/* port: the filters of VMs' taps, beyond the verbs in operation.h. */
#ifndef CAIRN_TOOLS_NET_PORT_H
#define CAIRN_TOOLS_NET_PORT_H

#include <stdbool.h>

struct err;
struct operation;
struct service;

/* Find whether the network has rules of ports. Returns 0; -errno with a sentence. */
int ports_are_there(struct operation *o, bool *ret, struct err *e);
/* Update the shared sets of the ports to the network's definition; does nothing if there are no ports. Returns 0;
 * -errno with a sentence. */
int ports_refresh(struct operation *o, const struct service *service, struct err *e);

#endif
