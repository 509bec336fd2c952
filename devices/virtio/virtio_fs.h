/* virtio_fs: a folder of the host that the guest mounts by its tag (virtio 1.2, section 5.11). The device passes the
 * guest's FUSE requests to another process (base/share_link.h), which serves the folder, and writes the answers to
 * the guest's memory. So that process sees no guest memory, and the tracking of memory sees each write.
 *
 * Threading: requests and answers are served on the machine's main loop. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_FS_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_FS_H

#include <stdbool.h>

struct dev_host;
struct device;
struct err;
struct pci_host;

struct virtio_fs_config {
	const char *name; /* "share0"; copied */
	const char *tag;  /* at most SHARE_TAG_MAX bytes; copied */
	int fd; /* the socket to the process that serves the folder; borrowed until free; -1: none, all requests fail */
	int slot; /* PCI slot; 0 or -1: first free */
};

/* Create the device. Free it through its ops. Returns 0 or -errno. */
int virtio_fs_new(struct dev_host *h, struct pci_host *p, const struct virtio_fs_config *c, struct device **ret_dev,
	struct err *e);
/* Whether the guest has the folder mounted, or requests are under way: then the other process has state that no saved
 * state of the device includes. Any thread. */
bool virtio_fs_is_used(struct device *d);
/* The tag; borrowed. */
const char *virtio_fs_tag(const struct device *d);

#endif
