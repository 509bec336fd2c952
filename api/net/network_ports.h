/* network_ports: has cairn-net (tools/net/port.c) install the rules of a VM's taps on networks before the guest runs,
 * and remove them after its end: a guest sends with its own MAC and IP addresses only. The rules are in the kernel, so
 * they survive the daemon and move with the tap to another process of the VM. docs/networks.md, "Ports".
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_PORTS_H
#define CAIRN_API_NET_NETWORK_PORTS_H

#include <stdbool.h>

struct json_object;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer network_ports_observer;

/* Note the MAC and IPv4 addresses that a live clone's guest has from its source. cairn-net translates between these and
 * the clone's (docs/networks.md, "Forks"). Lasts until the clone is undefined, because its saved states and snapshots
 * have them, too. present: the clone continues from the source's present state, not from a snapshot. */
void network_ports_clone(struct vm *clone, const struct vm *source, bool present);
/* Put the addresses of a live clone's interface into o: network-address (in the network, with its prefix) and
 * guest-address. Do nothing for other interfaces. at: the interface's index. */
void network_ports_show(const struct vm *vm, unsigned at, struct json_object *o);
/* Add an object to the list for each interface of a live clone: name, interface, network, address, guest-address.
 * network: only interfaces in this network; NULL: all. */
void network_ports_list(const struct vm *vm, const char *network, struct json_object *list);
/* Free the daemon's objects for removals under way. */
void network_ports_forget(struct vm_host *host);

#endif
