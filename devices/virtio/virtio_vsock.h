/* virtio_vsock: stream sockets between guest and host (virtio 1.2, section 5.10), without a kernel module on the host.
 *
 * On the host's side a connection is a Unix socket, with Firecracker's protocol. A client of the listening socket
 * writes "CONNECT PORT\n", and reads "OK HOSTPORT\n" when the guest has accepted. For a connection of the guest to
 * the host (CID 2), another process connects to the host's socket (vsock_dial.h). docs/vsock.md has the whole of it.
 *
 * A connection buffers at most VSOCK_BUFFER_BYTES that the host's side has not read. Data for the guest stays in the
 * host's socket until the guest has room.
 * Connections do not outlive a saved state: after it is loaded, the guest's driver gets the event TRANSPORT_RESET.
 *
 * Threading: the main loop's thread calls the functions below. A reset by the guest runs on a vCPU's thread and leaves
 * the sockets to the loop. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_VSOCK_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_VSOCK_H

#include <stdbool.h>
#include <stdint.h>

struct console_user;
struct dev_host;
struct device;
struct err;
struct pci_host;

#define VSOCK_CONNS_MAX 256
#define VSOCK_BUFFER_BYTES (128u * 1024)

struct virtio_vsock_config {
	const char *name; /* "vsock0"; copied */
	uint32_t cid;	  /* the guest's */
	int listen_fd;	  /* the host's clients connect to it; non-blocking; borrowed; -1: none */
	int dial_fd;	  /* socket to the process that connects to the host's sockets; borrowed; -1: none */
	int slot;	  /* PCI slot, 0 or -1: first free */
};

/* Create the device. Free it through its ops, when the loop has no task of the device. Returns 0 or -errno. */
int virtio_vsock_new(struct dev_host *h, struct pci_host *p, const struct virtio_vsock_config *c,
	struct device **ret_dev, struct err *e);

/* Connect a stream socket to a port of the guest.
 * fd: taken on success only.
 * who: whose socket it is, for virtio_vsock_end(); copied.
 * done: called from the loop, once, with 0 or -errno when the guest has accepted or refused; the connection is closed
 * then. Not called after the device was freed.
 * Returns 0; -ENOTCONN: the guest has no driver; -EMFILE: too many connections; -errno. */
int virtio_vsock_connect(struct device *d, uint32_t port, int fd, const struct console_user *who,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e);
/* End the connections of virtio_vsock_connect() for which stays() is false. */
void virtio_vsock_end(struct device *d, bool (*stays)(const void *opaque, struct console_user who), const void *opaque);
/* Return the number of connections of virtio_vsock_connect(). */
unsigned virtio_vsock_users(struct device *d);

#endif
