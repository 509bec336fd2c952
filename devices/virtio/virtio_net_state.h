/* virtio_net_state: makes the state of an interface without a control queue one of an interface with it.
 *
 * Version 1 of the section had 2 queues and 3 interrupt vectors. Version 2 has one more of each, and the driver's
 * filter (net_filter.h) behind the queues. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_NET_STATE_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_NET_STATE_H

struct state_reader;
struct state_writer;
struct virtio_pci;

#define VIRTIO_NET_STATE_VERSION 2

/* Write the state of version 1 that `old` has as one of version 2 for t. The control queue is unused, and all frames
 * pass the filter. Returns 0; -EINVAL for another length or number of queues. */
int virtio_net_state_upgrade(const struct virtio_pci *t, struct state_reader *old, struct state_writer *w);

#endif
