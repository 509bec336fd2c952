/* port: the filters of VMs' taps, beyond the verbs in operation.h. */
#ifndef CAIRN_TOOLS_NET_PORT_H
#define CAIRN_TOOLS_NET_PORT_H

struct err;
struct operation;
struct service;

/* Update the shared sets of the ports to the network's definition; does nothing if there are no ports. Returns 0;
 * -errno with a sentence. */
int ports_refresh(struct operation *o, const struct service *service, struct err *e);

#endif
