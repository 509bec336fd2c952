/* idle: a VM that has done nothing for as long as its definition says (no processor time to speak of, no disk
 * request, nothing on its consoles and nobody at them, nothing sent to a network) is suspended or saved, with the reason
 * `idle`. A command that needs it running wakes it, or a connection to a forward (forwards.h). Counting begins anew when
 * it runs again. */
#ifndef CAIRN_API_POLICY_IDLE_H
#define CAIRN_API_POLICY_IDLE_H

#include "api/policy/policy.h"
#include "api/schema/vm_state.h"

#include <stdint.h>

#define IDLE_WOKEN "woken" /* the reason to run, then */

struct err;
struct fall;
struct job;
struct loop_timer;
struct vm;
struct vm_event;

struct idle {
	struct policy_idle look;
	struct loop_timer *timer;
	bool asking;	/* a request is under way */
	bool suspending, waking; /* the next pause, or run, has that reason */
	bool holding;	/* its networks are asked to let nobody in, for it is to be saved */
	bool falling;	/* it is being suspended or saved. Its state says so, too */
	struct fall *fall; /* until that is kept; NULL: it is */
	bool disturbed; /* somebody came meanwhile */
	char by[80];	/* what wakes it; empty: a command */
};

/* It runs, or runs no more: begins to count, or ends that. */
void idle_on_state_change(struct vm *vm);
/* Why it stands still, or runs, when that was for idleness; NULL: for something else. */
const char *idle_reason(const struct vm *vm, const struct vm_event *ev);

void idle_free(struct vm *vm);

/* Found by a new daemon, whose state may say that it was falling asleep. Once it is known how it is; saving: its job,
 * if it is being saved. */
void idle_taken_back(struct vm *vm, struct job *saving);
/* Why one that is found paused is, when its process says `reason`. */
const char *idle_paused_reason(const struct vm *vm, const char *reason);

/* Its networks let nobody in any more (forwards_hold()). */
void idle_held(struct vm *vm);
/* It is being saved, and runs still, or has just ended. */
bool idle_is_saved_now(const struct vm *vm);
/* Does it sleep, suspended or saved? */
bool idle_sleeps(const struct vm *vm);
/* Does it sleep, and is that no state for what is asked for? */
bool idle_has_to_wake(const struct vm *vm, enum vm_trigger t);
/* done: once, at once or from the loop. */
void idle_wake(struct vm *vm, void (*done)(void *opaque, int r, const struct err *e), void *opaque);
/* Somebody connects to a forward of it ("tcp 127.0.0.1:2222"). One that is about to sleep does not, or wakes as soon as it
 * does; one that is awake, or being woken, is left alone, and then done() is not called. */
void idle_wake_by(struct vm *vm, const char *forward, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque);

#endif
