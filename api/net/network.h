/* network: the networks of this host: their definitions, which of them are active, and which VMs use them. A network
 * has a definition for its next start, and while it is active, the one that it runs with; a transient network has only
 * the latter. Stored in networks/net-NAME.json. network_life.h starts and stops networks.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_H
#define CAIRN_API_NET_NETWORK_H

#include "api/definition/network_definition.h"

#include <stdbool.h>
#include <stddef.h>

struct definition;
struct err;
struct json_object;
struct network_operation;
struct network_programs;
struct network_query;
struct network_retry;
struct network_waits;
struct rights;
struct vm;
struct vm_host;

#define NETWORKS_FOLDER "networks"

/* starting and stopping are stored, so that the next daemon undoes the incomplete work of a killed one. */
enum network_state { NETWORK_INACTIVE, NETWORK_STARTING, NETWORK_ACTIVE, NETWORK_STOPPING };

struct network {
	struct vm_host *host;
	struct network_definition *def;	 /* owned; NULL: transient */
	struct network_definition *live; /* owned; NULL if and only if inactive */
	enum network_state state;
	bool autostart;
	bool of_group; /* made for the clones of a group, and removed with the last of them (group_network.h) */
	bool group_is_complete; /* of_group: all clones are complete, so the network is removed when no VM has an
				 * interface of it */
	bool was_lost; /* active for the last daemon, and gone now */
	bool ports_lost; /* the last look found no rules of ports, or no bridge */
	struct network_operation *operation; /* under way (network_life.c); NULL: none */
	struct network_query *queries;	     /* likewise */
	struct network_programs *programs;   /* api/net/network_programs.h; NULL: none yet */
	struct network_retry *retry;	     /* api/net/network_retry.h; NULL: nothing has failed yet */
	struct json_object *blocked; /* owned: an array of sentences (api/net/network_blocked.h); NULL: no obstacle is
				      * known */
	struct network_waits *waits;	     /* api/net/network_wait.h; NULL: no command has waited yet */
	struct json_object *links; /* owned: the names of its macvtap links when they were last listed; NULL: they were not */
};

/* Read the networks of an earlier daemon. */
void networks_load(struct vm_host *host);
/* Free all. Active networks stay active. */
void networks_free(struct vm_host *host);

/* Find a network by name, else by UUID. NULL: none. */
struct network *network_find(struct vm_host *host, const char *name_or_uuid);
struct network *network_find_name(struct vm_host *host, const char *name);
/* Append a sentence to the array for each network that the definition names and the host lacks. */
void network_warn_missing(struct vm_host *host, const struct definition *d, struct json_object *list);
size_t networks_count(const struct vm_host *host);
/* Return the i-th network by name; NULL: no more. */
struct network *network_at(struct vm_host *host, size_t i);
/* Return the definition for the next start, or that of a transient network. */
const struct network_definition *network_any(const struct network *n);
/* Whether VMs of that user may connect to the network as it is now. r: NULL: root or the daemon's own user, who may
 * always. */
bool network_permits(const struct network *n, const struct rights *r);
/* Return the word for a state: "active". */
const char *network_state_word(enum network_state s);

/* Complete and check a definition against the other networks: UUID, name of the bridge.
 * d: of a new network, or of the one with that name. Returns 0; -EEXIST; -errno. */
int network_complete(struct vm_host *host, struct network_definition *d, struct err *e);
/* Define a network, or redefine the one of that name; stores it and emits NETWORK_DEFINED.
 * d: from network_complete(); taken on success. of_group: as in struct network; ignored if a definition is replaced.
 * ret_created: whether none was replaced. Returns 0; -errno. */
int network_define(struct vm_host *host, struct network_definition *d, bool of_group, struct network **ret_n, bool *ret_created,
	struct err *e);
/* Add a network that has no definition for a next start. d: taken. */
struct network *network_add_transient(struct vm_host *host, struct network_definition *d);
/* Remove the definition for the next start, and a network that is not active. Returns 0; -errno. */
int network_undefine(struct network *n, struct err *e);
/* Remove an inactive network from the registry and free it. It must not be stored. */
void network_remove(struct network *n);
/* Store the network, in place at return, on stable storage soon after; remove the file of a network that has neither a
 * definition nor a state. Returns 0; -errno. */
int network_save(struct network *n, struct err *e);
/* Make the folder for the files of cairn-net. path: PATH_MAX bytes, gets its path. Returns 0; -errno. */
int network_folder_make(const struct network *n, char *path, struct err *e);

/* Find the bridge for a VM's interface: that of the active network, if the author of the interface may use it.
 * opaque: struct vm_host. at: index of the interface. *ret_bridge: borrowed. Returns 0; -ENOENT; -EPERM. */
int network_bridge_for(void *opaque, const struct definition *d, unsigned at, const char **ret_bridge, struct err *e);
/* Return whether the VM's start has to wait until one of its networks is active. */
bool network_start_waits(struct vm *vm);
/* Return whether the VM runs, or starts, with an interface of the network. */
bool network_is_used_by(const struct network *n, const struct vm *vm);
/* Print the names of the VMs that run with an interface of the network, at most three: "web1, web2 and 3 others".
 * Returns their number. */
size_t network_users_print(const struct network *n, char *buf, size_t size);
/* Emit an event about the network. data: taken; NULL: {}. */
void network_emit(const struct network *n, unsigned event, struct json_object *data);

#endif
