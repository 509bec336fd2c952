/* start_gate: limits how many of a fork's clones start at a time. A clone whose taps wait for their rules
 * (api/net/network_ports.h) needs no processor of its own, so it does not count: the next clones begin meanwhile, and
 * all that wait get their rules by one process (api/net/port_calls.h). Afterwards they continue one after another.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_START_GATE_H
#define CAIRN_API_JOBS_START_GATE_H

#include "base/loop.h"

#include <stdbool.h>

struct err;
struct vm;
struct vm_host;
struct vm_observer;

struct start_gate {
	struct vm_host *host;
	unsigned max;	    /* greatest value of `working` */
	unsigned working;   /* starts under way, without those that prepare */
	unsigned preparing; /* starts that wait for rules, or are in `waiting`; vm_host.preparing counts all forks' */
	struct gated *waiting; /* these have their rules, oldest first */
	bool releasing;
	void (*has_room)(struct start_gate *g); /* another clone may begin; may call gate_enter() */
};

/* A clone's start, from gate_enter() to gate_leave(). */
struct gated {
	struct gated *next; /* in `waiting` */
	struct start_gate *gate;
	struct vm *vm;
	bool prepares;
	void (*ready)(struct vm *vm, int r, const struct err *e); /* set while it waits */
	struct loop_task task; /* ends the wait of a start that was called off */
};

/* start_prepare of the first is called before that of the network's observer, of the second after it. */
extern const struct vm_observer start_gate_before_observer, start_gate_observer;

/* Return whether another clone may begin. */
bool gate_has_room(const struct start_gate *g);
/* Note that the VM is about to be started. gated: stays in place until gate_leave(). */
void gate_enter(struct start_gate *g, struct vm *vm, struct gated *gated);
/* Note that the start is over; let others continue. */
void gate_leave(struct gated *gated);

#endif
