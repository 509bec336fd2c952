/* group_network: isolated networks that the daemon makes for the clones of a group of VMs (api/jobs/group_clone.h).
 * Such a network is a bridge without addresses, so the clones' guests keep the MAC and IP addresses of their sources.
 * It is stopped and undefined when no VM has an interface of it any more. Its file says that it is of a group
 * (`of_group`); the name decides nothing. Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_GROUP_NETWORK_H
#define CAIRN_API_NET_GROUP_NETWORK_H

#include "api/net/network_life.h"

#include <stddef.h>

struct definition;
struct json_object;
struct vm;
struct vm_observer;

extern const struct vm_observer group_network_observer;

/* Find the networks that two or more of the VMs have an interface of. id: 16 hexadecimal digits. Returns an object,
 * owned by the caller: from the name of each to the name of a network for the clones. */
struct json_object *group_networks_choose(struct vm *const *vms, size_t n, const char *id);
/* Check that the clones can stay on these networks, which have rules for each clone then (docs/networks.md, "Clones
 * of a group"). networks: from group_networks_choose(). Returns 0; -ENOTSUP. */
int group_networks_check_kept(struct vm *const *vms, size_t n, struct json_object *networks, struct err *e);
/* List the members of cairn-net's request about the other clones, for clones that stay on these networks.
 * clones: their definitions, in the order of the VMs. at: the clone that this is for.
 * Returns an array, owned by the caller: for each interface an array of objects with mac (that a VM's guest has) and
 * own (its clone's), or null. */
struct json_object *group_network_peers(struct vm *const *vms, const struct definition *const *clones, size_t n, size_t at,
	struct json_object *networks);
/* Set the interface of each forward that names none: one of type user, or of a network other than these, because the
 * host does not reach the clones in these. publish_validate() refuses a VM without an interface that can have
 * forwards.
 * forwards: as forward-add takes them; borrowed. networks: from group_networks_choose(). *ret: the caller's.
 * Returns 0; -ENOTSUP: the clone has such an interface only on a network of the group. */
int group_network_place_forwards(const struct vm *vm, struct json_object *forwards, struct json_object *networks, struct json_object **ret,
	struct err *e);
/* Define and start a network with the MTU of `source`. The users who own the VMs may connect others. Returns 0, and
 * done() is called as that of network_start(); -errno. */
int group_network_make(struct vm *const *vms, size_t n, const char *source, const char *name, network_done *done, void *opaque, struct err *e);
/* From now on, remove the network as soon as no VM has an interface of it. */
void group_network_keep(struct vm_host *host, const char *name);
/* Keep the networks of an earlier daemon. Call it when the running VMs are adopted. */
void group_networks_adopt(struct vm_host *host);

#endif
