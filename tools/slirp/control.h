/* control: what passes between the daemon and this process: that somebody wants something of a forward, so that it can
 * wake the VM, and whether connections are taken at all. Daemons come and go: each connects anew, the last one counts.
 *
 * To the daemon: {"forward": N}, N as the forwards stand on the command line: at most one a CONTROL_INTERVAL_NS and
 * forward, the last one never lost: it is told to the next daemon, too, unless the guest has sent something since. One that is
 * killed may not have read it. {"held": true}: nobody is let in any more, and all who were have been told of. From it: {"hold": true}, {"hold": false}. */
#ifndef CAIRN_TOOLS_SLIRP_CONTROL_H
#define CAIRN_TOOLS_SLIRP_CONTROL_H

#include "tools/slirp/options.h"

#include <poll.h>
#include <stdint.h>

#define CONTROL_INTERVAL_NS 500000000ULL
#define CONTROL_FDS 2

struct control {
	int listening; /* borrowed; -1: none */
	int fd;	       /* the daemon's connection; -1: none */
	bool holds;    /* nobody is let in: that ends with the connection */
	bool owes;     /* {"held": true} */
	bool told;     /* one of the forwards is */
	struct {
		bool pending, told;
		uint64_t next_ns;
	} forwards[FORWARDS_MAX];
};

/* Returns 0 or -errno. */
int control_init(struct control *c, int listening);
void control_done(struct control *c);
void control_tell(struct control *c, unsigned forward, uint64_t now_ns);
/* The guest sends: it is awake. */
void control_awake(struct control *c);
/* Sends what is due. Returns when it wants to be called again; UINT64_MAX: not by itself. */
uint64_t control_run(struct control *c, uint64_t now_ns);
/* Around poll(): up to CONTROL_FDS of them. Returns how many. */
unsigned control_poll_add(const struct control *c, struct pollfd *fds);
void control_poll_done(struct control *c, const struct pollfd *fds, unsigned n, uint64_t now_ns);

#endif
