/* hook_ask: asks the host admin's hooks of before-start and before-shutdown whether that may happen. They say yes, no
 * or later. After a delay the daemon asks them again, at most HOOK_DELAYS_MAX times and within HOOK_DELAY_MAX_S in
 * all. After that, a further delay counts as a refusal.
 *
 * A start that is delayed waits in VM_OP_START_WAITS without its files, and ends with the daemon. A shutdown that is
 * delayed is a plan (shutdown.h), which the next daemon continues.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_HOOK_ASK_H
#define CAIRN_API_POLICY_HOOK_ASK_H

#include "api/policy/hooks.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct json_object;
struct vm;
struct vm_host;
struct vm_observer;

/* Asks before a start, when its files are open and before the host is prepared. */
extern const struct vm_observer hook_ask_observer;

#define HOOK_REASON_MAX 400
#define HOOK_DELAYS_MAX 360
#define HOOK_DELAY_MAX_S 3600

struct hook_answer {
	enum { HOOK_YES, HOOK_NO, HOOK_LATER, HOOK_CANCELLED } says;
	unsigned delay_s; /* for HOOK_LATER: 1 to HOOK_DELAY_MAX_S */
	char reason[HOOK_REASON_MAX + 1]; /* for HOOK_NO, HOOK_LATER */
};

/* The delays of one request. */
struct hook_delays {
	uint32_t n, sum_s;
};

/* Ask the hooks of an event. reboot: for HOOK_SHUTDOWN.
 * answered: called once, from the loop, unless the daemon ends. vm: NULL: it is gone.
 * opaque: taken if the function returns 1; freed by free() after answered().
 * Returns 0: there are no hooks; 1: they are asked; -errno. */
int hook_ask(struct vm *vm, const char *event, bool reboot, void (*answered)(struct vm *vm, const struct hook_answer *a, void *opaque),
	void *opaque, struct err *e);
/* Return whether the hooks of the event are being asked about the VM. */
bool hook_ask_is_under_way(const struct vm *vm, const char *event);
/* End the hooks that are being asked. answered() follows with HOOK_CANCELLED. */
void hook_ask_cancel(const struct vm *vm, const char *event);
/* Drop all requests to hooks, at the daemon's end. */
void hook_asks_free(struct vm_host *host);
/* Count a delay. a: changed to HOOK_NO if there were too many. */
void hook_delays_add(struct hook_delays *d, struct hook_answer *a);

/* Return "start", "shutdown" or "reboot" if hooks are being asked about that, or have delayed the start; else NULL. */
const char *hook_ask_waits(const struct vm *vm);
/* Add a delayed start to a VM's info for clients. */
void hook_ask_put(const struct vm *vm, struct json_object *o);

#endif
