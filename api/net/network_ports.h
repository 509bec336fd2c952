/* network_ports: lets cairn-net (tools/net/port.c) install the rules of a VM's taps on networks before the guest runs,
 * and remove them after its end. With these rules, a guest can send only with its own MAC and IP addresses. The rules
 * are in the kernel, so they survive the daemon and move with the tap to another process of the VM. docs/networks.md,
 * "Ports".
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_PORTS_H
#define CAIRN_API_NET_NETWORK_PORTS_H

#include <stdbool.h>
#include <stdint.h>

struct config;
struct err;
struct json_object;
struct network;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer network_ports_observer;

/* Note the MAC and IPv4 addresses that a live clone's guest has from its source. cairn-net translates between these and
 * the clone's (docs/networks.md, "Forks"). Lasts until the clone is undefined, because its saved states and snapshots
 * have them, too. present: the clone continues from the source's present state, not from a snapshot. */
void network_ports_clone(struct vm *clone, const struct vm *source, bool present);
/* Get the MAC address that the guest of a live clone has from its source, unless it has started again. Returns false
 * for other VMs. mac: 6 bytes. */
bool network_ports_guest_mac(const struct vm *vm, unsigned at, uint8_t *mac);
/* Let the guest of a live clone reach the other clones of its group at the addresses of their sources
 * (docs/networks.md, "Clones of a group"). Lasts as the addresses do, and its own clones get the same.
 * peers: has for each interface an array as group_network_peers() makes it, or null; borrowed. */
void network_ports_set_peers(struct vm *clone, struct json_object *peers);
/* Put the addresses of a live clone's interface into o: network-address (in the network, with its prefix) and
 * guest-address. Do nothing for other interfaces. at: the interface's index. */
void network_ports_show(const struct vm *vm, unsigned at, struct json_object *o);
/* Add an object to the list for each interface of a live clone: name, interface, network, address, guest-address.
 * network: only interfaces in this network; NULL: all. */
void network_ports_list(const struct vm *vm, const char *network, struct json_object *list);
/* Likewise for each interface whose address is reserved because published ports lead to it: name, interface, network,
 * address. */
void network_ports_list_reserved(const struct vm *vm, const char *network, struct json_object *list);
/* Return whether the guest of the VM's interface has the addresses of the source that the VM was cloned from. */
bool network_ports_is_clone(const struct vm *vm, unsigned at);
/* Return whether cairn-net has rules, or a link, for an interface of the VM, which starts or runs. */
bool network_ports_has_rules(const struct vm *vm);
/* Return whether a VM that starts or runs has rules, or a reserved address, for a tap of that name on the network. */
bool network_ports_has_tap(const struct vm_host *host, const char *network, const char *tap);
/* Remove those of the network's macvtap links that no VM has any more: an earlier daemon was killed before it did. If
 * there may be a VM whose links are not known, all stay. */
void network_ports_sweep(const struct network *n);
/* Reserve an address for a running VM's interface of type network, unless it has one, and send it to the interface's
 * cairn-publish.
 * done: called once, before the call returns or from the loop. The VM may be gone by then. */
void network_ports_lead(struct vm *vm, unsigned at, void (*done)(void *opaque, int r, const struct err *e), void *opaque);
/* Install the rules for interface `at`, which is attached to the running VM; vm_live() has it.
 * c: the configuration of this interface alone, which gets the files of a macvtap link; borrowed until done(), which is
 * called as that of network_ports_lead(). */
void network_ports_plug(struct vm *vm, unsigned at, struct config *c, void (*done)(void *opaque, int r, const struct err *e), void *opaque);
/* Tell the VM's cairn-publish processes again where to lead clients. For an adopted VM, call it after
 * forwards_adopted(): a daemon that was killed may not have done so. */
void network_ports_lead_all(struct vm *vm);
/* Free the daemon's objects for requests under way. */
void network_ports_free(struct vm_host *host);

#endif
