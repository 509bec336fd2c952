/* thresholds: compares the figures of running VMs with their rules (threshold.h), emits THRESHOLD, and runs the actions
 * with the rights of the rules' makers. The figures come from the samples of trends (trends.h), so no VM's process
 * wakes up for them. The space of file systems comes from the VM's process, and vm_space.h asks for it.
 *
 * A VM that ends clears its thresholds. A guest could raise and clear one at will, so THRESHOLD has a rate limit, and
 * an action runs at most once in ten minutes.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_THRESHOLDS_H
#define CAIRN_API_POLICY_THRESHOLDS_H

#include "api/policy/threshold.h"
#include "api/schema/call.h"

#include <stdbool.h>

struct vm;
struct vm_host;
struct vm_observer;
struct vm_spaces;
struct threshold_watch;

extern const struct vm_observer thresholds_observer;

/* Read the thresholds of the loaded VMs. context: borrowed. Returns the owned object. */
struct threshold_watch *thresholds_new(struct vm_host *host, call_run_as *run_as, void *context);
void thresholds_free(struct threshold_watch *w); /* NULL allowed */

/* Set a threshold, in place of the one with its name, and store that. t: taken on success. done: called once, from the
 * loop, unless the function fails. Returns 0; -ENOSPC: there are too many; -errno. */
int thresholds_set(struct vm *vm, struct threshold *t, void (*done)(void *opaque, int r, const struct err *e), void *opaque,
	struct err *e);
int thresholds_remove(struct vm *vm, const char *name, void (*done)(void *opaque, int r, const struct err *e), void *opaque,
	struct err *e);
/* Return the VM's thresholds; NULL: none. Borrowed. */
const struct thresholds *thresholds_of(const struct vm *vm);
/* Return a threshold for clients. The caller owns it. */
struct json_object *thresholds_show(const struct vm *vm, const struct threshold *t);

/* The figures of the last `seconds`; NAN: unknown. */
struct threshold_figures {
	double values[THRESHOLD_MEASURES];
	double seconds;
};
/* Compare the figures of a running VM. disk-space is not looked at. */
void thresholds_update(struct vm *vm, const struct threshold_figures *f);
/* Whether the VM has a threshold of disk-space, so that its process has to report the space also if the guest writes
 * nothing. */
bool thresholds_want_space(const struct vm *vm);
/* The VM's process has reported the space of its file systems: compare it with disk-space. s: borrowed. */
void thresholds_take_space(struct vm *vm, const struct vm_spaces *s);

#endif
