#include "devices/virtio/virtio_net_state.h"
#include "base/bytes.h"
#include "devices/virtio/net_filter.h"
#include "devices/virtio/virtio_pci.h"
#include "snapshot/state.h"

#include <errno.h>
#include <string.h>

/* Version 1: the PCI function, the transport's registers, the device's, two queues. */
enum {
	OLD_VECTORS = 3,
	OLD_QUEUES = 2,
	INTX_AND_PENDING = 1 + 8, /* without the number of vectors between the two */
	VECTOR_BYTES = 16,
	TRANSPORT_BYTES = 4 + 4 + 2 + 2 + 2 * OLD_QUEUES,
	REGISTERS_BYTES = 1 + 8 + 8 + 1 + 1, /* the transport's last one, and the device's before the number of queues */
	CONFIG_BYTES = 12,
	QUEUE_BYTES = 2 + 3 * 8 + 1 + 3 * 2,
	OLD_BYTES = PCI_CONFIG_BYTES + INTX_AND_PENDING + 2 + OLD_VECTORS * VECTOR_BYTES + TRANSPORT_BYTES +
		REGISTERS_BYTES + 2 + 2 + CONFIG_BYTES + OLD_QUEUES * QUEUE_BYTES,
};

static void copy(struct state_reader *old, struct state_writer *w, size_t bytes)
{
	uint8_t buf[PCI_CONFIG_BYTES];

	state_bytes(old, buf, bytes);
	state_put_bytes(w, buf, bytes);
}

/* Copy the configuration space, with this function's numbers of vectors and of doorbells. */
static void config_copy(const struct virtio_pci *t, struct state_reader *old, struct state_writer *w)
{
	unsigned msix = t->fn.msix_cap + 2, doorbells = t->notify_cap + 12;
	uint8_t c[PCI_CONFIG_BYTES];

	state_bytes(old, c, sizeof(c));
	for (unsigned i = msix; i < msix + 2; i++)
		c[i] = (uint8_t)((c[i] & t->fn.writable[i]) | (t->fn.initial[i] & ~t->fn.writable[i]));
	memcpy(c + doorbells, t->fn.initial + doorbells, 4);
	state_put_bytes(w, c, sizeof(c));
}

static void vector_put(struct state_writer *w)
{
	state_put_u64(w, 0);
	state_put_u32(w, 0);
	state_put_u32(w, 1); /* masked */
}

static void queue_put(const struct virtqueue *vq, struct state_writer *w)
{
	static const uint8_t zeros[QUEUE_BYTES];

	state_put_u16(w, vq->size_max);
	state_put_bytes(w, zeros, QUEUE_BYTES - 2);
}

int virtio_net_state_upgrade(const struct virtio_pci *t, struct state_reader *old, struct state_writer *w)
{
	static const uint8_t no_mac[NET_MAC_BYTES];
	struct net_filter all;

	if (old->len - old->pos != OLD_BYTES)
		return -EINVAL;
	config_copy(t, old, w);
	copy(old, w, 1);
	if (state_u16(old) != OLD_VECTORS)
		return -EINVAL;
	state_put_u16(w, OLD_VECTORS + 1);
	copy(old, w, 8 + OLD_VECTORS * VECTOR_BYTES);
	vector_put(w);
	copy(old, w, TRANSPORT_BYTES);
	state_put_u16(w, 0xffff);
	copy(old, w, REGISTERS_BYTES);
	if (state_u16(old) != OLD_QUEUES)
		return -EINVAL;
	state_put_u16(w, OLD_QUEUES + 1);
	copy(old, w, 2 + CONFIG_BYTES + OLD_QUEUES * QUEUE_BYTES);
	queue_put(&t->v->queues[OLD_QUEUES].vq, w);
	net_filter_reset(&all, no_mac);
	net_filter_save(&all, w);
	state_put_u8(w, 0); /* no announcement is due */
	return 0;
}
