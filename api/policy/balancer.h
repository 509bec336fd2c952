/* balancer: shifts processor time and memory between running VMs by their need (balance.h), within the bounds of the
 * key `balance` of their definitions, and emits BALANCE_CHANGE. Every some seconds, while such a VM runs, a timer reads
 * the VMs' figures from the pages that their processes share with the daemon, and /proc. It writes cpu.weight of the
 * VMs' control groups, and sends targets to balloons.
 *
 * The balancer does not wake an idle VM: it leaves its balloon as it is. A user's own setting takes precedence until
 * the VM's next start: a target of the balloon, which the caller reports, and a cpu.weight, which the timer notices.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_BALANCER_H
#define CAIRN_API_POLICY_BALANCER_H

struct json_object;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer balancer_observer;

/* A user has set the target of the VM's balloon. */
void balancer_hold_memory(struct vm *vm);
/* Return the member `balance` of vm-info; the caller owns it. NULL: the VM is off, or has no bounds. */
struct json_object *balancer_to_json(const struct vm *vm);
/* Free the observer's data of all VMs. Call it after vm_free_all(). */
void balancer_free(struct vm_host *host);

#endif
