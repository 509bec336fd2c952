/* host_shutdown: stops all VMs before the host's shutdown, in reverse start order: by each definition's stop_action, or
 * all by one action. VMs with the action `leave` keep running, as they do when a daemon is replaced, unless the host
 * ends.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_POLICY_HOST_SHUTDOWN_H
#define CAIRN_API_POLICY_HOST_SHUTDOWN_H

#include <stdbool.h>

struct call;
struct err;
struct host_shutdown;
struct json_object;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer host_shutdown_observer;

#define HOST_SHUTDOWN_AS_DEFINED (-1) /* each definition's stop_action */
#define HOST_SHUTDOWN_HOST_ENDS (-2)  /* the same, but shutdown in place of leave: nothing leaves a VM running then */

/* Stop all VMs.
 * action:    enum definition_then: leave, shutdown or save; or one of the above.
 * then_end:  end the daemon afterwards.
 * c:         taken on success; answered at the end.
 * Returns 0; -EBUSY: a shutdown is under way. */
int host_shutdown_all(struct vm_host *host, int action, bool then_end, struct call *c, struct err *e);
/* Return the plan of host_shutdown_all(), as its answer would be; owned by the caller. */
struct json_object *host_shutdown_plan(struct vm_host *host, int action);
/* Free the object. NULL allowed. */
void host_shutdown_free(struct host_shutdown *s);
/* Return whether the shutdown awaits this VM's end. */
bool host_shutdown_waits_for(const struct vm *vm);
/* Return whether a shutdown is under way that leaves this VM as it is. */
bool host_shutdown_leaves(const struct vm *vm);
/* Report that a VM has ended or will not end. outcome: text for the answer. Does nothing if the shutdown does not await
 * the VM. */
void host_shutdown_vm_over(struct vm *vm, const char *outcome);

#endif
