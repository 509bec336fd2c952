/* network_life: starts, changes and stops networks by the program cairn-net, one operation of a network at a time, and
 * adopts the networks that an earlier daemon left active. Commands wait for their turn (network_wait.h). Threading: the
 * daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_LIFE_H
#define CAIRN_API_NET_NETWORK_LIFE_H

#include <stdbool.h>

struct err;
struct json_object;
struct network;
struct network_definition;
struct vm_host;

/* The end of an operation. r: 0; -errno, and e is set. answer: what the program returned, borrowed; NULL: nothing. */
typedef void network_done(void *opaque, int r, struct json_object *answer, const struct err *e);

/* Start a network, or make the missing parts of an active one. A start that fails leaves nothing. transient: the
 * network has no definition for a next start, and is removed when it stops or fails.
 * Returns 0, and done() is called once from the loop, with the notes of the program in its answer, or with -EPERM: it
 * is active and complete. -EBUSY: network_is_busy(); -errno. */
int network_start(struct network *n, bool transient, network_done *done, void *opaque, struct err *e);
/* Stop an active network. Returns as network_start(); -EBUSY also if VMs use the network. After done(), a transient
 * network is gone. */
int network_stop(struct network *n, network_done *done, void *opaque, struct err *e);
/* Change an active network. d: taken, also on errors; it becomes the live definition when done() reports success.
 * Returns as network_start(). */
int network_update(struct network *n, struct network_definition *d, network_done *done, void *opaque, struct err *e);
/* Emit and log the network's state. detail: why; NULL: on request. */
void network_state_emit(const struct network *n, const char *detail);
/* Whether an operation is under way that another one must not overtake. A check that the daemon makes by itself changes
 * nothing, so an operation ends it. */
bool network_is_busy(const struct network *n);
/* Look at an active network, and make the parts that are missing. The log has the actions taken. Returns false if an
 * operation is under way, so that the network has to be looked at later. */
bool network_check_parts(struct network *n);
/* If the last look at the active network found no rules of ports, or no bridge, let running VMs restore theirs. */
void network_ports_notify(const struct network *n);
/* Send cairn-net a request that changes nothing, also during an operation.
 * verb: borrowed until the end; "leases": those that `part` selects; "denied": how many packets the egress rules of an
 *       active network have denied; "blocked" (network_blocked.h).
 * part: a further member of the request, which gets the verb's name; NULL: none.
 * Returns as network_start(); -EBUSY: too many ask. */
int network_query(struct network *n, const char *verb, struct json_object *part, network_done *done, void *opaque, struct err *e);
/* Return whether such a question is under way. */
bool network_query_runs(const struct network *n, const char *verb);
/* End the requests under way. why: the error for done(); NULL: done() is not called. */
void network_queries_end(struct network *n, const struct err *why);

/* Free the operation under way; done() is not called. */
void network_operation_free(struct network *n);

/* Compare the networks that an earlier daemon recorded with the host: repair active networks, remove the parts that
 * an interrupted start or stop left, and start the networks with autostart after a boot of the host. Waits for that,
 * up to 20 s, so that VMs find their networks. */
void networks_take_back(struct vm_host *host);

#endif
