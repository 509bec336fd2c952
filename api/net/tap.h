/* tap: connects a VM's interfaces to bridges of the host, each by a tap device that exists as long as its fd is open.
 * The VM's process gets the open fd; it may neither create taps nor attach them to another bridge.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_TAP_H
#define CAIRN_API_NET_TAP_H

struct config;
struct definition;
struct err;

/* Create a tap for each interface of type bridge whose link is up, and add its fd to c, which config_prepare() made
 * from d. The daemon's loop can do this itself, because it waits for no disk, no network and no other process.
 * allowed:  comma-separated bridges for VMs that other users defined (d->rights); NULL: none.
 * Returns 0; -errno, and c keeps the taps made so far. */
int taps_add(struct config *c, const struct definition *d, const char *allowed, struct err *e);

#endif
