/* nic: a network interface of the machine: its device and, if the interface has a tap or a socket to cairn-slirp, a
 * loop with a thread.
 *
 * Threading: main thread. */
#ifndef CAIRN_VMM_MACHINE_NIC_H
#define CAIRN_VMM_MACHINE_NIC_H

#include "vmm/vm_msg.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct dev_host;
struct device;
struct err;
struct kvm;
struct loop;
struct pci_host;

struct nic {
	const struct vm_interface *cfg; /* borrowed */
	int tap_fd;	   /* owned; -1: none */
	unsigned pairs;	   /* of queues */
	int more_fds[VM_QUEUE_PAIRS_MAX - 1]; /* owned: the tap's further queues, one for each further pair; -1: none */
	bool vhost;	   /* vhost-net may serve the interface */
	bool is_uncounted; /* vhost-net moves frames, or has moved some: the device's counters lack them */
	int vhost_fds[VM_QUEUE_PAIRS_MAX]; /* owned: /dev/vhost-net for each pair; -1: none */
	const struct kvm *kvm; /* borrowed; set by nic_start() */
	bool on_main_loop; /* set before nic_init(): the interface gets no loop of its own */
	struct loop *loop; /* NULL: neither a tap nor a socket; the device runs on the main loop */
	struct device *dev; /* borrowed from the machine */
	pthread_t thread;
	bool thread_made;
};

/* Create the interface's device.
 * n: zeroed, but on_main_loop. cfg: borrowed as long as n; at: the interface's index in it.
 * fds: as for machine_new(); the tap's files are taken.
 * *ret_dev: owned by the machine, which frees it between nic_stop() and nic_done().
 * Returns 0 or -errno; call nic_done() in either case. */
int nic_init(struct nic *n, struct dev_host *h, struct pci_host *p, const struct vm_config *cfg, unsigned at,
	int *fds, struct device **ret_dev, struct err *e);
int nic_start(struct nic *n, const struct kvm *k, struct err *e);
void nic_stop(struct nic *n);
void nic_done(struct nic *n);
void nic_set_limits(struct nic *n, const struct vm_interface_limits *limits);
/* Set the link up or down. Returns 0; -EPERM: the interface has no file, so its link cannot be up. */
int nic_set_link(struct nic *n, bool up, struct err *e);
/* Keep vhost-net from the interface's queues (virtio_net_hold_vhost()). */
void nic_hold_vhost(struct nic *n, bool hold);
/* Note a snapshot, and reset connections after a revert to it (virtio_net_mark(), virtio_net_revert()). */
void nic_mark(struct nic *n, uint64_t key);
void nic_revert(struct nic *n, uint64_t key);
void nic_info(struct nic *n, struct vm_interface_info *ret);
/* Add the counters of the VM's earlier process, and show all on the page (virtio_net_carry(), virtio_net_show()). */
void nic_carry(struct nic *n, const struct vm_interface_info *before);
void nic_show(struct nic *n, _Atomic uint64_t *shown);

#endif
