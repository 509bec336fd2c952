/* vm_resource_msg: structs of the messages about vCPUs and memory that come and go, and about how fast memory changes,
 * for vm_msg.h. */
#ifndef CAIRN_VMM_VM_RESOURCE_MSG_H
#define CAIRN_VMM_VM_RESOURCE_MSG_H

#include <stdint.h>

enum vm_vcpus_op { VM_VCPUS_COUNT, VM_VCPU_ADD, VM_VCPU_REMOVE };

struct vm_vcpus {
	uint32_t op; /* enum vm_vcpus_op: let the guest have n vCPUs; give it vCPU n; ask it to release vCPU n */
	uint32_t n;
};

struct vm_balloon_set {
	uint8_t set_target, set_period; /* 1: set it */
	uint8_t reserved[2];
	uint32_t period_s; /* 0: no statistics but on request */
	uint64_t target_bytes; /* memory that the guest is to have, at most the VM's */
};

enum vm_balloon_state { VM_BALLOON_NONE = 0, VM_BALLOON_NO_DRIVER, VM_BALLOON_WORKS };
#define VM_BALLOON_STATS 10
#define VM_BALLOON_PERIOD_MAX_S 86400

struct vm_balloon_info {
	uint8_t state; /* enum vm_balloon_state */
	uint8_t reserved[3];
	uint32_t period_s; /* how often the guest sends statistics; 0: only on request */
	uint64_t target_bytes, guest_bytes; /* memory that the guest is to have, and that its driver says it has */
	uint64_t reported_bytes; /* given back by free page reporting */
	uint64_t stats_s; /* realtime of the statistics, in seconds; 0: none yet */
	uint64_t known;	  /* bit n: stats[n] is known */
	uint64_t stats[VM_BALLOON_STATS]; /* enum balloon_stat (devices/virtio/virtio_balloon.h) */
};

#define VM_DIRTY_RATE_SECONDS_MAX 60
/* QEMU's default and bounds of the pages that are sampled of each GiB. */
#define VM_DIRTY_RATE_PAGES 512
#define VM_DIRTY_RATE_PAGES_MIN 128
#define VM_DIRTY_RATE_PAGES_MAX 16384

struct vm_dirty_rate_ask {
	uint32_t seconds;	/* 1 to VM_DIRTY_RATE_SECONDS_MAX */
	uint32_t pages_per_gib; /* VM_DIRTY_RATE_PAGES_MIN to _MAX */
};

/* With libvirt's numbers (virDomainDirtyRateStatus). */
enum vm_dirty_rate_status { VM_DIRTY_RATE_UNSTARTED = 0, VM_DIRTY_RATE_MEASURING = 1, VM_DIRTY_RATE_MEASURED = 2 };

/* The last measurement; if the status is VM_DIRTY_RATE_UNSTARTED, all 0. */
struct vm_dirty_rate {
	uint8_t status; /* enum vm_dirty_rate_status */
	uint8_t reserved[7];
	struct vm_dirty_rate_ask ask;
	uint64_t start_s;     /* realtime of the start, in seconds */
	uint64_t bytes_per_s; /* 0 unless measured */
};

#endif
