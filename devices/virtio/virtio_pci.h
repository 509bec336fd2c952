/* virtio_pci: virtio over PCI, modern only (virtio 1.2, section 4.1).
 *
 * BAR 0 (16 KiB, 32-bit): 0x0000 common configuration, 0x1000 ISR status, 0x2000 device
 * configuration, 0x3000 doorbells, 4 bytes apart. BAR 1: MSI-X. Vectors: one for each
 * queue and one for configuration. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_PCI_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_PCI_H

#include "devices/pci/pci.h"
#include "devices/virtio/virtio.h"

#define VIRTIO_PCI_VENDOR 0x1af4
#define VIRTIO_PCI_DEVICE_BASE 0x1040
#define VIRTIO_PCI_COMMON 0x0000
#define VIRTIO_PCI_ISR 0x1000
#define VIRTIO_PCI_DEVICE 0x2000
#define VIRTIO_PCI_NOTIFY 0x3000
#define VIRTIO_PCI_NOTIFY_STRIDE 4
#define VIRTIO_PCI_BAR_BYTES 0x4000

struct virtio_pci {
	struct pci_function fn;
	struct virtio_dev *v;
	/* protected by v->lock: */
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;
	uint16_t config_vector, queue_vector[VIRTIO_QUEUES_MAX];
	uint8_t isr;
	uint64_t notify_base; /* address of BAR 0's doorbells; 0: not mapped */
	uint64_t doorbell_gpa[VIRTIO_QUEUES_MAX]; /* registered address; 0: none */
	struct msix_wire wires[VIRTIO_QUEUES_MAX];
	unsigned access_cap; /* the configuration access capability */
	unsigned notify_cap; /* the capability of the doorbells */
};

/* Put v, which is initialized, on the bus.
 * t: zeroed, part of the device. slot: 0 or -1: first free.
 * Returns 0 or -errno; call virtio_pci_done() in either case. */
int virtio_pci_init(struct virtio_pci *t, struct virtio_dev *v, struct pci_host *p, int slot,
	struct err *e);
void virtio_pci_done(struct virtio_pci *t);

/* device_ops for all virtio devices: d is the `dev` of a virtio_dev that virtio_pci_init() has put
 * on the bus. A device with further work calls them from its own ops. */
void virtio_pci_device_reset(struct device *d);
void virtio_pci_device_pause(struct device *d);
void virtio_pci_device_resume(struct device *d);
void virtio_pci_device_save(struct device *d, struct state_writer *w);
/* Returns the number of queues of the device whose state r reads, derived from its interrupt vectors; 0: the state is
 * cut short. */
unsigned virtio_pci_state_queues(const struct state_reader *r);
/* Move r from the begin of such a state to the device's own part. Sets r->failed if the state is cut short. */
void virtio_pci_state_skip(struct state_reader *r);
/* Returns 0; -EINVAL, also if bytes remain. */
int virtio_pci_device_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e);

#endif
