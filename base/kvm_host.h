/* kvm_host: reads the CPUID leaves that KVM supports, and finds out whether KVM virtualises CPUID, whether huge pages
 * are safe, and what a host without /dev/kvm needs. Any thread. */
#ifndef CAIRN_BASE_KVM_HOST_H
#define CAIRN_BASE_KVM_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cpuid;
struct kvm_cpuid2;
struct kvm_run;

/* Call ioctl() and retry on EINTR. Returns its result or -errno. */
int kvm_ioctl(int fd, unsigned long req, void *arg);

/* Convert leaves to KVM's struct, which the caller frees; NULL: out of memory. */
struct kvm_cpuid2 *kvm_cpuid_new(const struct cpuid *c);
/* Change leaves that KVM supports into leaves that a guest can have. c: has room for two more.
 * - Hide shadow stacks (Linux 6.18): only KVM_GET_ONE_REG reads their pointer, so a VM's state lacks it.
 * - Add the sub-leaves 1 of leaves 0xB and 0x1F, which Linux 6.2 and newer leave out: without them, a guest takes each
 *   core for a package. */
void kvm_cpuid_adjust(struct cpuid *c);
/* Read the leaves that KVM supports, adjusted.
 * kvm_fd: of /dev/kvm. ret: the caller frees it with free(). Returns 0 or -errno. */
int kvm_cpuid_read(int kvm_fd, struct cpuid **ret);

/* A small guest with one vCPU and no devices, which runs CPUID in user mode to find out whether KVM virtualises
 * CPUID. */
struct kvm_cpuid_guest {
	int vm_fd, vcpu_fd;
	uint8_t *ram;
	struct kvm_run *run;
	size_t run_bytes;
};

/* Create and run the guest, which takes about 1 ms.
 * g: the caller calls kvm_cpuid_guest_close() for it, also after a failure. supported: from kvm_cpuid_read().
 * Returns 1 if the guest sees the values of KVM_SET_CPUID2; 0 if it sees the processor's own values; -errno. */
int kvm_cpuid_guest_run(struct kvm_cpuid_guest *g, int kvm_fd, const struct cpuid *supported);
/* Close the guest, which takes up to 3 ms. */
void kvm_cpuid_guest_close(struct kvm_cpuid_guest *g);

/* Return "vmx" or "svm" for a processor that shows this extension; NULL: it shows neither. */
const char *kvm_host_extension(void);
/* Return what to do about a missing /dev/kvm, as in "as root: modprobe kvm_amd; …". confined: the caller may look at no
 * file, so the processor alone decides. */
const char *kvm_host_remedy(bool confined);

/* Whether a VM's memory may be in transparent huge pages: before Linux 6.6, userfaultfd does not work with shared ones
 * ("Memory in huge pages" in docs/snapshots.md). release: of uname(). */
bool kvm_host_huge_pages_safe(const char *release);

#endif
