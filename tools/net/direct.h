/* direct: networks without a bridge, whose guests are connected to a link of the host by macvtap links. up only checks
 * that the host can do so; port-up makes a macvtap link for a guest, whose queues the daemon opens as /dev/tapN, and
 * port-down deletes it. All of them have an alias with the network's UUID, by which down finds the remaining ones. */
#ifndef CAIRN_TOOLS_NET_DIRECT_H
#define CAIRN_TOOLS_NET_DIRECT_H

struct err;
struct operation;

/* Each returns 0; -errno with a sentence. */
int direct_up(struct operation *o, struct err *e);
int direct_down(struct operation *o, struct err *e);
int direct_check(struct operation *o, struct err *e);
/* Make the macvtap links of the request's ports, up and with the guests' MAC addresses; or none, after an error. */
int direct_ports_up(struct operation *o, struct err *e);
int direct_ports_down(struct operation *o, struct err *e);

#endif
