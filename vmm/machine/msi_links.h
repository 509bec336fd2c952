/* msi_links: eventfds whose signals KVM turns into MSI messages, without a thread of this process (irqfd). Each has a
 * route of its own. KVM replaces all routes of a VM at once, so those of the interrupt controllers are in the list,
 * too.
 *
 * Any thread. */
#ifndef CAIRN_VMM_MACHINE_MSI_LINKS_H
#define CAIRN_VMM_MACHINE_MSI_LINKS_H

#include "vmm/vm_msg.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Both queues of each pair of each interface. */
#define MSI_LINKS_MAX (VM_INTERFACES_MAX * VM_QUEUE_PAIRS_MAX * 2)

struct msi_links {
	pthread_mutex_t lock; /* innermost */
	struct {
		bool used;
		uint64_t addr;
		uint32_t data;
	} links[MSI_LINKS_MAX];
};

void msi_links_init(struct msi_links *l);
/* As dev_host_ops.msi_link(). */
int msi_link(struct msi_links *l, int vm_fd, int eventfd, uint64_t addr, uint32_t data);
void msi_unlink(struct msi_links *l, int vm_fd, int eventfd, int link);

#endif
