/* vm_limits: limits of disks and interfaces, in messages (vmm/vm_msg.h). */
#ifndef CAIRN_VMM_VM_LIMITS_H
#define CAIRN_VMM_VM_LIMITS_H

#include <stdint.h>

/* Limits of one direction of an interface; 0: none. */
struct vm_interface_limit {
	uint64_t average; /* bytes a second */
	uint64_t peak;	  /* bytes a second, within a burst */
	uint64_t burst;	  /* bytes */
	uint64_t packets; /* a second */
};

struct vm_interface_limits {
	struct vm_interface_limit in, out; /* in: to the guest */
};

/* Limits of a disk; 0: none. */
struct vm_disk_limits {
	uint64_t iops, bps; /* requests and bytes a second */
};

#endif
