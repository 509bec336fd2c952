/* vm_fork_stage: a VM's process's reports about a fork, under way and in its answer (vmm/vm_msg.h). */
#ifndef CAIRN_VMM_VM_FORK_STAGE_H
#define CAIRN_VMM_VM_FORK_STAGE_H

/* Bits of vm_fork.flatten. No clone may read the image of another VM. */
#define VM_FORK_ISOLATED (1u << 31)
/* The daemon knows all of enum vm_fork_stage. Without it, only VM_FORK_READY is sent. */
#define VM_FORK_STAGES (1u << 30)
/* Wait for VM_MSG_SNAPSHOT_GO (vm_snapshot_msg.h); only to processes whose vm_info.groups is VM_GROUPS_FORK. */
#define VM_FORK_GROUP (1u << 29)

/* Stage of a fork in VM_EVENT_FORK_READY, for a fork whose disks are as requested. */
enum vm_fork_stage {
	/* The clones may start. The pins that their disks read can be read (vm_config.pins_readable), but the images
	 * may not name them yet, and the disks are not on stable storage. Of an older process (vm_info.pins_readable),
	 * a clone waits until the image names the pin. */
	VM_FORK_READY = 0,
	/* The state's file has the facts about the host (vmm/kvm/fork_host.h), and the pause is over or the process
	 * writes memory in it. So a clone may start that waits for the rest (vm_config.state_later). */
	VM_FORK_BEGUN,
	/* After VM_FORK_READY: all is on stable storage, so the fork cannot fail any more. The answer comes when the
	 * process has cleared up. */
	VM_FORK_DURABLE,
	/* Stages of a snapshot or a fork of a group (vm_snapshot_msg.h). */
	VM_GROUP_HELD,
	VM_GROUP_FROZEN,
};

/* How a fork made a disk. VM_MADE_SHARED: as an overlay on the pin in vm_fork.shared, and has made no pin. */
enum vm_disk_made { VM_MADE_UNKNOWN = 0, VM_MADE_OVERLAY, VM_MADE_COPY, VM_MADE_FLAT, VM_MADE_SHARED, VM_MADE_COUNT };

#endif
