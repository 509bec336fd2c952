/* network_blocked: finds out whether iptables-legacy drops the packets that an active network forwards, as after a
 * start of Docker. The kernel does not report changes of such rules, so the daemon asks cairn-net at the starts of VMs,
 * at net-info, and when a link of the host gets an address. It does not change these rules: their programs lock them
 * against each other, and may be absent. Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_BLOCKED_H
#define CAIRN_API_NET_NETWORK_BLOCKED_H

#include "api/net/network_life.h"

struct network;
struct vm_observer;

/* Ask, unless the host has no such rules. A change of n->blocked emits NETWORK_STATE_CHANGE with a detail that names
 * the remedy. done: as of network_query().
 * Returns 1: asked, and done() is called once; 0: n->blocked is up to date, and done() is not called; -errno: likewise,
 * but it may be older. */
int network_blocked_ask(struct network *n, network_done *done, void *opaque);
/* The same without an answer, unless somebody is asking already. */
void network_blocked_update(struct network *n);
/* Looks at the networks of each VM that has started. */
extern const struct vm_observer network_blocked_observer;

#endif
