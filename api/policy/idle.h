/* idle: a VM that has done nothing for as long as its definition says (no processor time to speak of, no disk
 * request, nothing on its consoles and nobody at them, nothing sent to a network) is suspended or saved, with the reason
 * `idle`. A command that needs it running wakes it, or a connection to a forward (forwards.h). Counting begins anew when
 * it runs again. */
#ifndef CAIRN_API_POLICY_IDLE_H
#define CAIRN_API_POLICY_IDLE_H

#include "api/policy/policy.h"
#include "api/schema/vm_state.h"

#include <stdint.h>

struct err;
struct fall;
struct loop_timer;
struct vm;
struct vm_observer;

extern const struct vm_observer idle_observer;

struct idle {
	struct policy_idle look;
	struct loop_timer *timer;
	bool asking;	/* a request is under way */
	bool waking; /* asked to run on */
	bool holding;	/* its networks are asked to let nobody in, for it is to be saved */
	struct fall *fall; /* until that is kept; NULL: it is */
	bool disturbed; /* somebody came meanwhile */
	char by[80];	/* what wakes it; empty: a command */
};

/* It runs, or runs no more: begins to count, or ends that. */
void idle_on_state_change(struct vm *vm);
/* Does it sleep, and is that no state for what is asked for? */
bool idle_has_to_wake(const struct vm *vm, enum vm_trigger t);
/* done: once, at once or from the loop. */
void idle_wake(struct vm *vm, void (*done)(void *opaque, int r, const struct err *e), void *opaque);

#endif
