/* stop: all VMs are stopped, because the host goes down: each as its definition's stop_action says, or all in
 * one way; by their order, the last first. Others keep running, as when a daemon follows another. */
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

/* action: enum definition_then: leave, shutdown or save; -1: as the definitions say. then_end: the daemon ends
 * afterwards. c: answered when all is over; taken. Returns 0; -EBUSY: that is under way, and c is not taken. */
int host_shutdown_all(struct vm_host *host, int action, bool then_end, struct call *c, struct err *e);
/* What that would do, as an array of the same shape; the caller puts it. */
struct json_object *host_shutdown_look(struct vm_host *host, int action);
/* NULL allowed. */
void host_shutdown_free(struct host_shutdown *s);
/* Is the end of this VM waited for? */
bool host_shutdown_waits_for(const struct vm *vm);
/* It is off, or will not be: what became of it. Nothing, when nobody waits for it. */
void host_shutdown_vm_over(struct vm *vm, const char *outcome);

#endif
