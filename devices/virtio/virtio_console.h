/* virtio_console: hvc0 and named ports (virtio 1.2, section 5.3). With one unnamed port
 * it is the minimal device; with more, or a name, it has F_MULTIPORT. Runs on h->loop. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_CONSOLE_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_CONSOLE_H

#include <stdbool.h>

struct console;
struct dev_host;
struct device;
struct err;
struct pci_host;

#define VIRTIO_CONSOLE_PORTS_MAX 8
#define VIRTIO_CONSOLE_PORT_NAME_MAX 63

struct virtio_console_port_config {
	const char *name;	 /* NULL: a console (hvcN); else a port of that name; copied */
	struct console *console; /* borrowed; on h->loop */
	/* A program in the guest has opened the port, or closed it, or its driver is gone; loaded: by a state that
	 * was loaded. Any thread, with the device's lock. NULL: nobody asks. */
	void (*opened)(void *opaque, bool open, bool loaded);
	void *opaque;
};

struct virtio_console_config {
	const char *name; /* "virtio-console0"; copied */
	const struct virtio_console_port_config *ports;
	unsigned nports; /* 1..8; port 0 is the first console */
	int slot;	 /* PCI slot, 0 or -1: first free */
};

/* Freed through the device's ops. Returns 0 or -errno. */
int virtio_console_new(struct dev_host *h, struct pci_host *p,
	const struct virtio_console_config *c, struct device **ret_dev, struct err *e);

#endif
