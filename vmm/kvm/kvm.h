/* kvm: /dev/kvm, what it can do, and the VM's fd. */
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
	size_t run_bytes; /* of a vCPU's kvm_run mapping */
	uint8_t host_kind; /* enum vm_host_kind */
	bool has_shadows;  /* of the guest's page tables: no nested paging */
	bool has_stats_fd;
	bool has_sync_regs;
	bool has_msr_filter;
	struct kvm_cpuid2 *supported; /* owned */
	struct kvm_board *fresh;      /* owned: PICs, IOAPIC and PIT as they were made */
};

#define KVM_CPUID_ENTRIES_MAX 256

/* Open /dev/kvm, check every capability we stand on, create the VM. A sentence (ERR_HOST
 * or ERR_PERMISSION) for each thing that is missing.
 * supported: taken; what KVM of this host supports, where that is known; NULL: it is asked. Returns 0 or -errno. */
int kvm_init(struct kvm *k, struct kvm_cpuid2 *supported, struct err *e);
void kvm_done(struct kvm *k);

/* In-kernel PIC, IOAPIC, LAPICs and PIT. After all memory slots and the MSR filter: what
 * comes later waits for a grace period, 7 to 13 ms each. */
int kvm_create_irqchip(struct kvm *k, struct err *e);

/* PICs, IOAPIC and PIT back to what they were when they were made. */
int kvm_reset_irqchip(struct kvm *k, struct err *e);

/* ioctl that retries EINTR; -errno on error. */
int kvm_ioctl(int fd, unsigned long req, void *arg);

#endif
