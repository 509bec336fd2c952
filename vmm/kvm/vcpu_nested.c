#include "vmm/kvm/vcpu_nested.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"

#include <stdbool.h>
#include <string.h>

#define NO_ADDRESS (~0ULL)

static bool state_is_off(const struct kvm_nested_state *n)
{
	if (n->format == KVM_STATE_NESTED_FORMAT_VMX)
		return n->hdr.vmx.vmxon_pa == NO_ADDRESS;
	return (n->flags & (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_GIF_SET)) == KVM_STATE_NESTED_GIF_SET;
}

static void state_turn_off(struct kvm_nested_state *n)
{
	*n = (struct kvm_nested_state){ .format = n->format, .size = sizeof(*n) };
	if (n->format == KVM_STATE_NESTED_FORMAT_VMX)
		n->hdr.vmx.vmxon_pa = n->hdr.vmx.vmcs12_pa = NO_ADDRESS;
	else
		n->flags = KVM_STATE_NESTED_GIF_SET;
}

int vcpu_nested_read(struct vcpu *v, union nested_state *n)
{
	int r;

	n->head.size = 0;
	if (!v->set->cfg.kvm->has_nested)
		return 0;
	n->head.size = sizeof(*n);
	r = kvm_ioctl(v->fd, KVM_GET_NESTED_STATE, n);
	if (!r && state_is_off(&n->head))
		n->head.size = 0;
	return r;
}

int vcpu_nested_leave(struct vcpu *v)
{
	union nested_state n;
	int r = vcpu_nested_read(v, &n);

	if (r < 0 || !n.head.size)
		return r;
	state_turn_off(&n.head);
	return kvm_ioctl(v->fd, KVM_SET_NESTED_STATE, &n);
}
