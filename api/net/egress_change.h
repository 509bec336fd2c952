/* egress_change: changes the egress rules of an interface of type user while the VM runs: its cairn-slirp takes them,
 * and ends the connections that they deny. Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_EGRESS_CHANGE_H
#define CAIRN_API_NET_EGRESS_CHANGE_H

struct call;

/* The handler of vm-set-interface with `egress` or `no-egress`. Answers the call. */
void egress_change(struct call *c);

#endif
