/* tap: what plugs a VM's interfaces into bridges of the host's: for each a tap device that is there as long
 * as anybody has it open. The VM's process gets it open; it has no right to make one, or to plug it
 * elsewhere. */
#ifndef CAIRN_API_NET_TAP_H
#define CAIRN_API_NET_TAP_H

struct config;
struct definition;
struct err;

/* A tap for each interface of type bridge whose link is up, into c (as config_prepare() made it of d).
 * allowed: bridges, with commas, that those may use whose VM is not the daemon's own (d->rights); NULL:
 * none. It takes half a millisecond each, so the daemon's loop may do it. Returns 0; -errno with a
 * sentence; c then keeps what it has got so far. */
int taps_add(struct config *c, const struct definition *d, const char *allowed, struct err *e);

#endif
