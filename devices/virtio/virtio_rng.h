/* virtio_rng: entropy from getrandom(2) (virtio 1.2, section 5.4). Runs on h->loop. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_RNG_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_RNG_H

struct dev_host;
struct device;
struct err;
struct pci_host;

/* Create the device.
 * name: "rng0"; copied. slot: 0 or -1: first free.
 * Free it through its ops. Returns 0 or -errno. */
int virtio_rng_new(struct dev_host *h, struct pci_host *p, const char *name, int slot,
	struct device **ret_dev, struct err *e);

#endif
