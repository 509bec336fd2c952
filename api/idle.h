/* idle: a VM that has done nothing for as long as its definition says (no processor time to speak of, no disk
 * request, nothing on its consoles and nobody at them) is suspended or saved, with the reason `idle`. A
 * command that needs it running wakes it. Counting begins anew when it runs again. */
#ifndef CAIRN_API_IDLE_H
#define CAIRN_API_IDLE_H

#include "api/policy.h"
#include "api/vm_state.h"

#include <stdint.h>

struct err;
struct loop_timer;
struct vm;
struct vm_event;

struct idle {
	struct policy_idle look;
	struct loop_timer *timer;
	bool asking;	/* a request is under way */
	bool suspending, waking; /* the next pause, or run, has that reason */
};

/* It runs, or runs no more: begins to count, or ends that. */
void idle_follow(struct vm *vm);
/* Why it stands still, or runs, when that was for idleness; NULL: for something else. */
const char *idle_reason(const struct vm *vm, const struct vm_event *ev);

/* Does it sleep, and is that no state for what is asked for? */
bool idle_has_to_wake(const struct vm *vm, enum vm_trigger t);
/* done: once, at once or from the loop. */
void idle_wake(struct vm *vm, void (*done)(void *opaque, int r, const struct err *e), void *opaque);

#endif
