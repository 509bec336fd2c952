/* kvm: /dev/kvm, its capabilities, the VM's fd and the in-kernel interrupt controllers.
 *
 * Threading: main thread. */
#ifndef CAIRN_VMM_KVM_KVM_H
#define CAIRN_VMM_KVM_KVM_H

#include "base/kvm_host.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cpuid;
struct err;
struct fork_host;
struct host_files;
struct kvm_board;
struct probe;

struct kvm {
	int sys_fd; /* /dev/kvm */
	int vm_fd;
	size_t run_bytes; /* size of a vCPU's kvm_run mapping */
	uint8_t host_kind; /* enum vm_host_kind */
	bool has_shadows;  /* KVM shadows the guest's page tables (no nested paging) */
	bool has_stats_fd;
	bool has_msr_filter;
	bool has_nested; /* KVM can read and set the state of a guest that is a hypervisor itself */
	bool made_board; /* the VM was created in advance, with its interrupt controllers and PIT */
	bool made_filter; /* and with the assist's MSR filter */
	int made_vcpu_fd; /* and with vCPU 0, which vcpus_init() takes; 0: none, or taken */
	bool scales_tsc; /* KVM can give a guest a TSC of another frequency */
	struct cpuid *supported; /* owned: CPUID leaves that KVM supports on this host */
	struct cpuid *guest;	 /* owned: CPUID leaves of the guest; NULL: the supported ones */
	uint8_t cpu_kind;	 /* enum cpu_kind; unknown before cpu_probe_result(), which sets own and xcr0, too */
	struct cpuid *own;	 /* owned: the processor's own answers; only with CPU_KIND_PROCESSOR */
	uint64_t xcr0;		 /* XCR0 of the host; only with CPU_KIND_PROCESSOR */
	bool confined;		 /* the main thread has dropped its last privileges (vmm/sandbox.h), or is to keep them */
	int flash_fd;		 /* the file that vCPU threads write for a flash memory; 0: none */
	bool has_vhost;		 /* vhost-net may serve interfaces (devices/virtio/virtio_net_vhost.c) */
	bool has_screen;	 /* vCPU threads move the screen's slot (memory_show()) */
	bool filters_threads;	 /* threads install filters of their own (vmm/kvm/thread_filter.h) */
	struct probe *probe;	 /* a probe in progress (vmm/kvm/cpu_probe.c), or NULL */
	uint32_t host_tsc_khz;	 /* TSC frequency of a new vCPU; 0: unknown */
	uint32_t set_tsc_khz;	 /* TSC frequency to which the vCPUs were set; 0: they have the host's */
	uint32_t saved_tsc_khz;	 /* TSC frequency recorded in the loaded state; 0: none */
	/* Owned: state of PICs, IOAPIC and PIT right after creation. */
	struct kvm_board *fresh;
};

/* Take /dev/kvm from *host, check all capabilities that Cairn needs, and create the VM.
 * known: facts about this host's processor from a fork's source; its lists are taken; NULL: ask KVM.
 * Returns 0 or -errno; the error (ERR_HOST or ERR_PERMISSION) names the missing capability. */
int kvm_init(struct kvm *k, struct host_files *host, struct fork_host *known, struct err *e);
void kvm_done(struct kvm *k);
/* Create the VM, its interrupt controllers, its PIT and its vCPU 0 before its configuration is known, for kvm_init(),
 * which tries again if that fails. On a host whose KVM emulates kernel mode, the VM has the assist's MSR filter. */
void kvm_create_ahead(struct host_files *host);

/* Create the in-kernel PICs, IOAPIC, LAPICs and PIT, unless the VM was created in advance and has them. Call after all
 * memory slots and the MSR filter are set: right after an irqchip was created, each such call waits up to 20 ms for a
 * grace period of RCU. */
int kvm_create_irqchip(struct kvm *k, struct err *e);

/* Reset PICs, IOAPIC and PIT to their state at creation. */
int kvm_reset_irqchip(struct kvm *k, struct err *e);

#endif
