/* prefault: lets the kernel map the pages that a guest touches first before the guest touches them, many in one call.
 * Else each is a page fault: of the guest's page tables in KVM, and, at the first write, of this process.
 * `cairn run` begins from a state whose file has the list of the pages (snapshot/first_pages.h). The first of its runs
 * makes the list.
 *
 * Threading: main thread, unless a comment says otherwise. */
#ifndef CAIRN_VMM_KVM_PREFAULT_H
#define CAIRN_VMM_KVM_PREFAULT_H

#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifndef KVM_PRE_FAULT_MEMORY
struct kvm_pre_fault_memory {
	__u64 gpa, size, flags, padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory) /* since Linux 6.11 */
#define KVM_CAP_PRE_FAULT_MEMORY 236
#endif

struct err;
struct memory;

struct prefault {
	const struct memory *mem; /* borrowed; NULL: the VM does not begin from such a state */
	uint32_t *list; /* owned; NULL: none */
	int n;
	bool maps; /* KVM can map pages in advance: it does not shadow the guest's page tables */
	int uffd; /* while the list is to be made: with it, the kernel maps only pages that are touched; -1: none */
};

/* Read the list of the state that RAM maps; if there is none, prepare to make one. Before the guest runs.
 * kvm_fd: /dev/kvm, borrowed; -1: KVM maps nothing in advance. */
void prefault_init(struct prefault *p, const struct memory *mem, int state_fd, int kvm_fd);
void prefault_done(struct prefault *p);
/* Map the pages of the list, if there is one. On the vCPU's thread.
 * stop: becomes true when the thread has to park. If KVM's page tables become obsolete meanwhile, KVM of Linux 6.11 to
 * 6.14 tries again until a signal comes. */
void prefault_run(const struct prefault *p, int vcpu_fd, const atomic_bool *stop);
/* Write the list of the pages that the guest has touched to an empty file: the entries alone. If only written pages can
 * be told from others, only these; if there are more than FIRST_PAGES_MAX, none. If the state had a list already, which
 * another run has written after `cairn run` found none, write that one. Returns 0 or -errno. */
int prefault_make(const struct prefault *p, int fd, struct err *e);

#endif
