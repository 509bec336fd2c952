/* network_wait: clients' commands that wait for the end of a network's operation, first come, first served. Threading:
 * the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_WAIT_H
#define CAIRN_API_NET_NETWORK_WAIT_H

#include <stdbool.h>

struct call;
struct network;
struct network_waits;

/* Let a command wait while an operation that it must not overtake is under way, or while other commands wait.
 * c: borrowed. run: the command's handler, which is called once from the loop and looks everything up again: the
 *    network may be gone by then. The client's role is checked before it.
 * Returns whether the command waits. false: it can continue; or too many wait already, and the operation that it begins
 * is refused. */
bool network_wait(struct network *n, void (*run)(struct call *c), struct call *c);
/* An operation ends: let the command that waits for it run, later, unless another operation has begun by then. */
void network_waits_wake(struct network *n);
/* Return the number of commands that wait. */
unsigned network_waits_count(const struct network *n);
/* Run all commands: the network is gone. w: of the network; freed. NULL allowed. */
void network_waits_run(struct network_waits *w);
/* Free without running the commands. NULL allowed. */
void network_waits_free(struct network_waits *w);

#endif
