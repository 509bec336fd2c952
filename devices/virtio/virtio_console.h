/* virtio_console: consoles (hvcN) and named ports (virtio 1.2, section 5.3). With one unnamed port
 * it is the minimal device; with more ports, or a name, it offers F_MULTIPORT. Runs on h->loop. */
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
	const char *name;	 /* NULL: a console (hvcN); else the port's name; copied */
	struct console *console; /* borrowed; runs on h->loop */
	/* Called when a program in the guest opens or closes the port, or its driver goes away.
	 * NULL allowed.
	 * loaded: the change comes from a loaded state.
	 * Any thread, with the device's lock held. */
	void (*opened)(void *opaque, bool open, bool loaded);
	void *opaque;
};

struct virtio_console_config {
	const char *name; /* "virtio-console0"; copied */
	const struct virtio_console_port_config *ports;
	unsigned nports; /* 1..8; port 0 is the first console */
	int slot;	 /* PCI slot, 0 or -1: first free */
};

/* Create the device. Free it through its ops. Returns 0 or -errno. */
int virtio_console_new(struct dev_host *h, struct pci_host *p,
	const struct virtio_console_config *c, struct device **ret_dev, struct err *e);

#endif
