/* network_ports: has cairn-net (tools/net/port.c) install the rules of a VM's taps on networks before the guest runs,
 * and remove them after its end: a guest sends with its own MAC and IP addresses only. The rules are in the kernel, so
 * they survive the daemon and move with the tap to another process of the VM. docs/networks.md, "Ports".
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_PORTS_H
#define CAIRN_API_NET_NETWORK_PORTS_H

struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer network_ports_observer;

/* Permit a live clone the MAC addresses that its guest has from the source's. Lasts until the clone is undefined,
 * because its saved states and snapshots have them, too. */
void network_ports_clone(struct vm *clone, const struct vm *source);
/* Free the daemon's objects for removals under way. */
void network_ports_forget(struct vm_host *host);

#endif
