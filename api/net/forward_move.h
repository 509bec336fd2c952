/* forward_move: moves the ports of one VM's forwards to another VM. Where both VMs run, the process that listens on a
 * port (cairn-slirp or cairn-publish) sends the listening socket to the other VM's process, so a client that connects
 * meanwhile waits in the socket's queue. Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_FORWARD_MOVE_H
#define CAIRN_API_NET_FORWARD_MOVE_H

#include <stdint.h>

struct err;
struct forward_move;
struct json_object;
struct vm;

/* Check that `to` has the interfaces of `from` that have forwards. Returns 0; -EPERM. */
int forward_move_check(const struct vm *from, const struct vm *to, struct err *e);
/* Note the forwards of `from`: those that it runs with, or those of its definition. The VMs must stay until
 * forward_move_free(). */
struct forward_move *forward_move_new(struct vm *from, struct vm *to);
/* Hand the sockets over. done: called once, at once or from the loop. If a VM does not run, or its process cannot
 * hand a socket over, forward_move_open() opens the port instead. */
void forward_move_begin(struct forward_move *m, void (*done)(void *opaque), void *opaque);
/* Open the ports that were not handed over, once the definition that `to` runs with has the forwards. Does nothing if
 * `to` does not run. done: as above. */
void forward_move_open(struct forward_move *m, void (*done)(void *opaque), void *opaque);
/* After forward_move_begin(), and the end of `to`: open the ports that were handed over for `from` again. Then
 * forward_move_lost() is about `from`. done: as above. */
void forward_move_return(struct forward_move *m, void (*done)(void *opaque), void *opaque);
/* Return a list of sentences about ports that `to` does not have, owned by the caller; NULL: it has all. */
struct json_object *forward_move_lost(const struct forward_move *m);
/* Return the longest time for which a port had no process, in ns. */
uint64_t forward_move_gap(const struct forward_move *m);
void forward_move_free(struct forward_move *m); /* NULL allowed */

#endif
