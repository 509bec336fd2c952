/* vm_snapshot_msg: parts of the messages about snapshots (vmm/vm_msg.h).
 *
 * A snapshot of a group shows several VMs at one instant. The process of each VM prepares its snapshot, sends
 * VM_GROUP_HELD and waits, while the guest runs. VM_STEP_SETTLE lets it prepare the memory that the guest has changed
 * meanwhile, and wait again. At the time in VM_STEP_FREEZE it pauses the VM, takes the state, and sends
 * VM_GROUP_FROZEN. The guest continues after VM_STEP_RESUME, which the daemon sends when all VMs are frozen: so no VM
 * gets a message that another VM sends after its own instant. If VM_STEP_RESUME does not come in time, the guest
 * continues and the snapshot fails. The forks of a group (VM_FORK_GROUP) go through the same steps. */
#ifndef CAIRN_VMM_VM_SNAPSHOT_MSG_H
#define CAIRN_VMM_VM_SNAPSHOT_MSG_H

#include <stdint.h>

#define VM_GROUPS_FORK 2 /* vm_info.groups */

enum vm_snapshot_step { VM_STEP_SETTLE = 1, VM_STEP_FREEZE, VM_STEP_RESUME };

struct vm_snapshot_go {
	uint64_t at_ns; /* VM_STEP_FREEZE: the instant, of CLOCK_MONOTONIC; if it is past: at once */
	uint32_t step; /* enum vm_snapshot_step */
	/* VM_STEP_FREEZE: do nothing but stop the vCPUs before at_ns + stand_us, so that the processes of the other VMs
	 * get a processor to stop theirs. */
	uint32_t stand_us;
};

/* The mechanism that tracked the guest's accesses to memory while the memory was copied or loaded. */
enum vm_memory_tracking {
	VM_TRACKING_UNKNOWN = 0,     /* the operation did not include memory, or the process is older than this field */
	VM_TRACKING_USERFAULTFD,
	VM_TRACKING_UNAVAILABLE,     /* the host offers no userfaultfd to the VM process's user */
	VM_TRACKING_NONE,	     /* this VM's memory cannot be tracked */
	VM_TRACKING_DIRTY_LOG,	     /* KVM's dirty log: the host offers no userfaultfd to the VM process's user */
	VM_TRACKING_HUGE_PAGES,	     /* KVM's dirty log, only while memory is copied: memory is in huge pages */
	VM_TRACKING_COUNT,
};

#endif
