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
	/* As in an answer to VM_MSG_QUERY, and trusted as little. Not filled in: phase to detail, members that only
	 * the process knows, and devices without figures. vcpus_halted: see vcpu_sleeps. */
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
/* The sums that trends record (api/policy/trends.h). Untrusted as the figures are. */
struct vm_sums {
	uint64_t rd_reqs, rd_bytes, rd_ns, wr_reqs, wr_bytes, wr_ns, io_errors; /* of all disks */
	uint64_t rx_bytes, rx_packets, tx_bytes, tx_packets;			/* of all interfaces */
	uint64_t guest_bytes; /* memory that the balloon leaves to the guest; 0: there is no balloon */
	uint64_t used_bytes;  /* memory that programs of the guest cannot have, as its driver tells; 0: not known */
	uint64_t total_bytes; /* with used_bytes: the memory that the guest sees */
};

/* Read the sums from the page alone, without a system call unless the kernel serves an interface. Otherwise as
 * vm_figures_read(). */
bool vm_figures_sums(struct vm_process *p, struct vm_sums *ret);
/* Read the processor time of all threads of the process, in one system call. Returns false if it has ended. */
bool vm_figures_cpu(const struct vm_process *p, uint64_t *ret_ns);
/* Return the resident memory of the process; 0: not known. */
uint64_t vm_figures_resident(const struct vm_process *p);
/* Print the host's processors on which a vCPU may run, as "0-3,8". vcpu: one whose figures were just read. Returns
 * false if the thread has ended, or the text does not fit. */
bool vm_figures_affinity(const struct vm_process *p, unsigned vcpu, char *text, size_t size);

#endif
