/* tap: connects a VM's interfaces to bridges of the host, each by a tap device that exists as long as one of its fds is
 * open. The VM's process gets the open fds; it may neither create taps nor attach them to another bridge.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_TAP_H
#define CAIRN_API_NET_TAP_H

#include <net/if.h>
#include <stdbool.h>

struct config;
struct definition;
struct err;

struct tap_rules {
	const char *bridges_for_all; /* comma-separated bridges for VMs that other users defined (d->rights); NULL: none */
	/* Find the bridge of an active network that the interface may use. *ret_bridge: borrowed; NULL: the network has
	 * none (network_is_direct()), and tap_add_direct() follows. Returns 0; -errno.
	 * NULL: there are no networks. */
	int (*network_bridge)(void *opaque, const struct definition *d, unsigned at, const char **ret_bridge, struct err *e);
	void *opaque;
};

/* Create a tap for each interface of type bridge or network whose link is up, and add its fd to c, which
 * config_prepare() made from d. The daemon's loop can do this itself, because it waits for no disk, no network and no
 * other process.
 * Returns 0; -errno, and c keeps the taps made so far. */
int taps_add(struct config *c, const struct definition *d, const struct tap_rules *rules, struct err *e);

/* Check that taps_add() may use the bridges of these interfaces, and finds them. Creates nothing. Returns 0; -errno. */
int taps_check(const struct definition *d, const struct tap_rules *rules, struct err *e);

/* Choose a name that no other tap has had. at: index of the interface, for the sentence. Returns 0; -errno. */
int tap_name_make(unsigned at, char name[IFNAMSIZ], struct err *e);
/* Attach an existing tap to a bridge that was made anew, unless it is a port of a bridge. Returns 0; -errno. */
int tap_attach(const char *name, const char *bridge, struct err *e);
/* Open the queues of a macvtap link, and add them to c, whose interface gets its name and MTU. vhost: as in struct
 * definition_interface. Returns 0; -errno. */
int tap_add_direct(struct config *c, unsigned at, unsigned queues, bool vhost, const char *name, struct err *e);

#endif
