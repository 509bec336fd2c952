/* virtio_input: a tablet, a pointer with absolute coordinates (virtio 1.2, section 5.8). It sends the driver the
 * changes since the last event for which the driver had a buffer, so no amount of input takes memory. Runs on
 * h->loop.
 *
 * Threading: virtio_input_takes(), virtio_input_event() and virtio_input_release() on any thread. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_INPUT_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_INPUT_H

#include <stdbool.h>

struct dev_host;
struct device;
struct err;
struct input_event;
struct pci_host;

#define VIRTIO_INPUT_AXIS 32768 /* coordinates: 0 to one less */

/* Create the device. name: "tablet0"; copied. slot: 0 or -1: first free. Free it through its ops. Returns 0 or
 * -errno. */
int virtio_input_new(struct dev_host *h, struct pci_host *p, const char *name, int slot, struct device **ret_dev, struct err *e);
/* Return whether the guest has a driver for the device. */
bool virtio_input_takes(struct device *d);
/* Take an input_event_ok() event of the pointer. INPUT_POINT: x, y: below VIRTIO_INPUT_AXIS; larger
 * ones are cut, and a negative one is a coordinate that stays. */
void virtio_input_event(struct device *d, const struct input_event *ev);
/* Release all buttons. */
void virtio_input_release(struct device *d);

#endif
