/* vm_page: the page with a VM's figures that its process shares with the daemon. Reading them wakes no process.
 *
 * The daemon makes a memfd of sizeof(struct vm_page), seals its size, maps it and sends it with VM_MSG_PAGE. The
 * process maps it, too, and writes to it from then on. The daemon only reads it, and does not trust it. A later page
 * replaces an earlier one. Only written pages take memory: 4 KiB for a VM with one disk and one interface.
 *
 * The devices and vCPUs repeat their counters here as they count (base/figures.h). The process's main thread writes all
 * other members, and sets `seq` odd meanwhile; a reader that finds it odd or changed reads again. A later release may
 * add members at the end, and changes VM_PAGE_VERSION if it changes another. */
#ifndef CAIRN_VMM_VM_PAGE_H
#define CAIRN_VMM_VM_PAGE_H

#include "base/figures.h"
#include "vmm/vm_msg.h"

#define VM_PAGE_VERSION 1

struct vm_page_interface {
	char id[16], target[16];
	uint8_t mac[6];
	uint8_t link_up, link_down, vhost; /* as in vm_interface_info and vm_info */
	uint8_t reserved[5];
	struct vm_interface_limits limits;
	_Atomic uint64_t n[NET_FIGURES];
};

struct vm_page_disk {
	char id[16];
	uint64_t size_bytes;
	uint8_t fault, tray, direct; /* as in vm_info */
	uint8_t reserved[5];
	_Atomic uint64_t n[DISK_FIGURES];
};

struct vm_page {
	_Atomic uint64_t seq; /* 0: the process has written nothing yet */
	uint32_t version;     /* VM_PAGE_VERSION */
	uint32_t vcpus, ndisks, ninterfaces;
	uint8_t host_kind, assist_on, machine, balloon_state; /* as in vm_info; VM_BALLOON_NONE: there is none */
	uint8_t vcpus_change; /* 1: vcpus_absent counts */
	uint8_t dirty_rate_status; /* VM_DIRTY_RATE_UNSTARTED: dirty_rate does not count */
	uint8_t reserved[2];
	/* Of the processes that had the VM before; those of this process are in vcpu_n and assist. */
	uint64_t exits_io, exits_mmio, exits_other, assist_syscalls, assist_instructions;
	_Atomic uint64_t assist[2]; /* system calls and instructions */
	_Atomic uint64_t balloon[BALLOON_FIGURES];
	struct vm_page_interface first_interface; /* the others are in more_interfaces */
	struct vm_page_disk first_disk;		  /* the others are in more_disks */
	uint64_t vcpu_ns[VM_VCPUS_MAX]; /* CPU time of the vCPUs in the processes before */
	_Atomic uint64_t vcpu_n[VM_VCPUS_MAX][VCPU_FIGURES];
	struct vm_page_interface more_interfaces[VM_INTERFACES_MAX - 1];
	struct vm_page_disk more_disks[VM_DISKS_MAX - 1];
	uint64_t vcpus_absent; /* as in vm_info */
	struct vm_dirty_rate dirty_rate; /* as in vm_info */
};

/* Return a member of the lists. i: below VM_DISKS_MAX, VM_INTERFACES_MAX. */
static inline struct vm_page_disk *vm_page_disk(struct vm_page *p, size_t i)
{
	return i ? &p->more_disks[i - 1] : &p->first_disk;
}

static inline struct vm_page_interface *vm_page_interface(struct vm_page *p, size_t i)
{
	return i ? &p->more_interfaces[i - 1] : &p->first_interface;
}

#endif
