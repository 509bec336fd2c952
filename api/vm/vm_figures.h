/* vm_figures: the figures of a running VM, read from the page that its process shares with the daemon (vmm/vm_page.h)
 * and from /proc, without waking the process.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_FIGURES_H
#define CAIRN_API_VM_VM_FIGURES_H

#include "base/figures.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm_process;

struct vm_figures {
	/* As in an answer to VM_MSG_QUERY, and trusted as little. Not filled in: phase to detail, what the
	 * process knows, and what has no figures. vcpus_halted: see vcpu_sleeps. */
	struct vm_info info;
	uint64_t vcpu_delay_ns[VM_VCPUS_MAX]; /* time that the vCPU's thread waited for a processor; starts at 0 in each process */
	uint64_t vcpu_user_ns, vcpu_system_ns; /* CPU time of all vCPU threads, within some milliseconds; starts at 0 in each process */
	uint64_t resident_bytes; /* of the process; 0: not known */
	int vcpu_processor[VM_VCPUS_MAX]; /* the host's processor that runs the vCPU's thread, or ran it last */
	bool vcpu_sleeps[VM_VCPUS_MAX]; /* the vCPU's thread sleeps: the vCPU is halted, if the VM runs */
	struct {
		uint64_t in_flight;
		uint64_t latency[3][LATENCY_BINS]; /* numbers of reads, writes and flushes; start at 0 in each process */
	} disks[VM_DISKS_MAX];
};

/* Read the figures. The first call gives the process its page.
 * Returns false if the process has written nothing to its page yet, or is of a version that has none: then ask it with
 * VM_MSG_QUERY. */
bool vm_figures_read(struct vm_process *p, struct vm_figures *ret);
/* Print the host's processors on which a vCPU may run, as "0-3,8". vcpu: one whose figures were just read. Returns
 * false if the thread has ended, or the text does not fit. */
bool vm_figures_affinity(const struct vm_process *p, unsigned vcpu, char *text, size_t size);

#endif
