/* vcpu_nested: the part of a vCPU's state for nested virtualization, where the guest is a hypervisor. It holds
 * whether the vCPU runs the hypervisor or the hypervisor's guest, and in the latter case the hypervisor's state that
 * the processor keeps.
 *
 * Threading: main thread, while the vCPU is parked. */
#ifndef CAIRN_VMM_KVM_VCPU_NESTED_H
#define CAIRN_VMM_KVM_VCPU_NESTED_H

#include <linux/kvm.h>
#include <stdint.h>

struct vcpu;

#define NESTED_MAX_BYTES (sizeof(struct kvm_nested_state) + 2 * 4096) /* VMX: two pages follow the header; SVM: one */

union nested_state {
	struct kvm_nested_state head; /* head.size: bytes in use */
	uint8_t raw[NESTED_MAX_BYTES];
};

/* Read the state; head.size is 0 if the guest uses no virtualization or KVM offers none. Returns 0 or -errno. */
int vcpu_nested_read(struct vcpu *v, union nested_state *n);
/* Put the vCPU where it is after a reset: virtualization is off. Call it before a vCPU that has run gets other
 * registers, or KVM would take them for those of the hypervisor's guest. Returns 0 or -errno. */
int vcpu_nested_leave(struct vcpu *v);

#endif
