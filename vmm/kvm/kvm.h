/* kvm: /dev/kvm, its capabilities, and the VM's fd. */
#ifndef CAIRN_VMM_KVM_KVM_H
#define CAIRN_VMM_KVM_KVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct kvm_board;
struct kvm_cpuid2;

struct kvm {
	int sys_fd; /* /dev/kvm */
	int vm_fd;
	size_t run_bytes; /* size of a vCPU's kvm_run mapping */
	uint8_t host_kind; /* enum vm_host_kind */
	bool has_shadows;  /* KVM shadows the guest's page tables (no nested paging) */
	bool has_stats_fd;
	bool has_sync_regs;
	bool has_msr_filter;
	struct kvm_cpuid2 *supported; /* owned: CPUID leaves that KVM supports on this host */
	/* Owned: state of PICs, IOAPIC and PIT right after creation. */
	struct kvm_board *fresh;
};

#define KVM_CPUID_ENTRIES_MAX 256

/* Open /dev/kvm, check all capabilities that Cairn needs, and create the VM.
 * supported: taken; CPUID leaves that KVM supports on this host; NULL: ask KVM.
 * Returns 0 or -errno; the error (ERR_HOST or ERR_PERMISSION) names the missing capability. */
int kvm_init(struct kvm *k, struct kvm_cpuid2 *supported, struct err *e);
void kvm_done(struct kvm *k);

/* Create the in-kernel PICs, IOAPIC, LAPICs and PIT. Call after all memory slots and the MSR filter
 * are set: with an irqchip, each such call waits 7 to 13 ms for an RCU grace period. */
int kvm_create_irqchip(struct kvm *k, struct err *e);

/* Reset PICs, IOAPIC and PIT to their state at creation. */
int kvm_reset_irqchip(struct kvm *k, struct err *e);

/* Call ioctl() and retry on EINTR. Returns its result or -errno. */
int kvm_ioctl(int fd, unsigned long req, void *arg);

#endif
