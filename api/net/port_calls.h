/* port_calls: lets cairn-net (tools/net/port.c) install and remove the rules of taps. One process at a time works on
 * the ports of a network. Calls that arrive meanwhile wait. Then one process carries out all of them that install
 * rules, or all that remove rules: so the clones of a fork, and VMs that start or end together, share processes,
 * changes of the ruleset and reloads of dnsmasq. If such a process fails, each of its calls is repeated alone, and
 * only those that are wrong themselves fail; if it runs into its time limit, all of them fail. Threading: the
 * daemon's loop. */
#ifndef CAIRN_API_NET_PORT_CALLS_H
#define CAIRN_API_NET_PORT_CALLS_H

#include <stdbool.h>

struct err;
struct json_object;
struct port_call;
struct vm_host;

/* Begin a call.
 * network: its name. If it has stopped when the call's turn comes, installing fails (-ENOENT) and removing succeeds.
 * up:      install the rules; else remove them.
 * port:    the object of the request (docs/networks.md, "port"); taken.
 * done:    called once, from the loop, and the call is freed after it. answer: of the port; borrowed; NULL: a failure,
 *          and e is set.
 * Returns the call. */
struct port_call *port_call_begin(struct vm_host *host, const char *network, bool up, struct json_object *port,
	void (*done)(void *opaque, int r, struct json_object *answer, const struct err *e), void *opaque);
/* Forget a call: done() is not called. NULL allowed. */
void port_call_free(struct port_call *c);
/* Kill the processes, when no call is left whose owner would free it. */
void port_calls_free(struct vm_host *host);

#endif
