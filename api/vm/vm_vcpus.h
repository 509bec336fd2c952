/* vm_vcpus: adds vCPUs to a running VM, and asks the guest to release vCPUs. The daemon stores none of that: the VM's
 * process knows which vCPUs the guest has, and so do its saved states and snapshots.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_VCPUS_H
#define CAIRN_API_VM_VM_VCPUS_H

#include <stdint.h>

struct call;
struct vm;
struct vm_event;

/* Return the vCPUs that the VM lacks, a bit for each: of the running VM; of one that is off, at its start. */
uint64_t vm_vcpus_absent(const struct vm *vm);
/* Return how many vCPUs the VM has now, or at its start. */
unsigned vm_vcpus_now(const struct vm *vm);

/* Let the running VM have `args.vcpus` vCPUs, and answer the call when the guest has released those above, or with the
 * reason why it has not. */
void vm_vcpus_set(struct call *c);
/* Add a vCPU, or ask the guest to release one, and answer the call when the guest is notified. */
void vm_vcpus_add(struct call *c, unsigned vcpu);
void vm_vcpus_ask(struct call *c, unsigned vcpu);

/* The process reports that a vCPU is removed, or that the guest refuses to release it. */
void vm_vcpus_event(struct vm *vm, const struct vm_event *ev);

#endif
