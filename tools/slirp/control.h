/* control: tells the daemon that somebody wants something of a forward, so that it can wake the VM.
 * Each message is {"forward": N}, N as the forwards stand on the command line: at most one a
 * CONTROL_INTERVAL_NS and forward, the last one never lost. */
#ifndef CAIRN_TOOLS_SLIRP_CONTROL_H
#define CAIRN_TOOLS_SLIRP_CONTROL_H

#include "tools/slirp/options.h"

#include <stdint.h>

#define CONTROL_INTERVAL_NS 500000000ULL

struct control {
	int fd; /* borrowed; -1: none, or the daemon is gone */
	struct {
		bool pending;
		uint64_t next_ns;
	} forwards[FORWARDS_MAX];
};

void control_init(struct control *c, int fd);
void control_tell(struct control *c, unsigned forward, uint64_t now_ns);
/* Sends what is due. Returns when it wants to be called again; UINT64_MAX: not by itself. */
uint64_t control_run(struct control *c, uint64_t now_ns);

#endif
