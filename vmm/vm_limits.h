/* vm_limits: limits of VMs, disks and interfaces, in messages (vmm/vm_msg.h). */
#ifndef CAIRN_VMM_VM_LIMITS_H
#define CAIRN_VMM_VM_LIMITS_H

#include <stdint.h>

#define VM_FORMER_MAX 4 /* vm_config.former */

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

/* How long a disk polls its rings for the next request, us, or one of these. */
enum vm_poll { VM_POLL_DEFAULT = 0, VM_POLL_US_MAX = 254, VM_POLL_OFF = 255 };

/* Limits of a disk; 0: none. */
struct vm_disk_limits {
	uint64_t iops, bps; /* requests and bytes a second */
};

/* One limit of a disk, and its bursts; 0: none. */
struct vm_disk_rate {
	uint64_t rate;	/* a second */
	uint64_t max;	/* a second, in a burst */
	uint64_t max_s; /* seconds of a burst; 0: 1 */
};

/* vm_info.sets_disks: the process knows struct vm_disk_tune in VM_MSG_DISK_SET, and in VM_MSG_PLUG up to
 * VM_PLUG_TUNE_BYTES. */
#define VM_SETS_DISK_TUNE 2
#define VM_DISK_RATES 3 /* of all requests, of reads, of writes */

/* All limits of a disk. In messages, iops[0].rate and bps[0].rate count for nothing: struct vm_disk_limits has them. */
struct vm_disk_tune {
	struct vm_disk_rate iops[VM_DISK_RATES], bps[VM_DISK_RATES];
	uint64_t iops_bytes; /* a larger request counts as several for iops, each of this size; 0: as one */
};

#endif
