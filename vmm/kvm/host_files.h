/* host_files: the host's files that a VM's process needs. It opens them before it confines itself, and confines itself
 * before it reads its configuration, so it opens them whether the VM needs them or not.
 *
 * Threading: main thread. */
#ifndef CAIRN_VMM_KVM_HOST_FILES_H
#define CAIRN_VMM_KVM_HOST_FILES_H

#include "snapshot/uffd_open.h"

#include <stdbool.h>
#include <stdint.h>

struct host_files {
	int kvm_fd; /* /dev/kvm; a failure's -errno */
	int vm_fd; /* a VM that was created in advance (kvm_create_ahead()); 0: none */
	int vcpu_fd; /* its vCPU 0; 0: none */
	uint8_t host_kind; /* enum vm_host_kind; 0: not known yet */
	bool vm_has_filter; /* it has the assist's MSR filter */
	bool nested_paging_on; /* KVM's module has EPT or NPT */
	bool nested_paging_off; /* it was loaded without them; neither: the module is not known */
	bool huge_pages_safe; /* kvm_host_huge_pages_safe() */
	int ram_fd; /* an empty file for a guest's memory in transparent huge pages; -1: none */
	struct uffd uffd;
	int self_fd; /* the folder /proc/self, until the pagemap is open; a failure's -errno */
	int pagemap_fd; /* /proc/self/pagemap; a failure's -errno */
	int peer_fd; /* connected to the sender of the configuration; borrowed; 0: none */
};

/* Open all but the pagemap. No failure is an error yet: a process that works on images needs none of these files. */
void host_files_open(struct host_files *h);
/* Open the pagemap, in a mount namespace without /proc, too. Call it without capabilities: with CAP_SYS_ADMIN, the file
 * would show physical addresses. */
void host_files_open_pagemap(struct host_files *h);
/* Make the file ram_fd on a separate tmpfs that is not mounted in any folder. Most hosts have turned huge pages off
 * for memfds (shmem_enabled), while each tmpfs has its own option. Call it with CAP_SYS_ADMIN in the user namespace
 * of the process. Nothing is made where KVM shadows the guest's page tables, since huge pages gain little there. */
void host_files_make_ram(struct host_files *h);
/* Close the VM that was created in advance, if any, so that kvm_init() creates one. */
void host_files_drop_vm(struct host_files *h);
/* Close the remaining files. A function that takes a file replaces it by -1. */
void host_files_done(struct host_files *h);

#endif
