/* Polls of the SCSI controller: its loop looks at the rings of commands itself while commands come shortly after each
 * other, as that of a disk does (virtio_blk_poll.c). Commands for a target on another loop still wake that loop. */
#include "base/cleanup.h"
#include "base/loop.h"
#include "devices/virtio/virtio_scsi_internal.h"

bool scsi_takes(const struct virtio_scsi *s)
{
	return !s->starved && !s->held_wait;
}

static bool ring_poll(struct virtio_scsi *s, unsigned qi)
{
	struct virtqueue *vq = &s->v.queues[qi].vq;
	uint16_t waiting = virtqueue_waiting(vq);

	if (!waiting || !scsi_takes(s))
		return false;
	scsi_run(&s->v, qi);
	/* A command stays in the ring while there is no room to save the memory that it will write. */
	return virtqueue_waiting(vq) != waiting;
}

static bool scsi_poll(void *opaque)
{
	struct virtio_scsi *s = opaque;
	bool found = false;

	LOCK_GUARD(&s->v.lock);
	for (unsigned i = SCSI_QUEUE_FIRST; i < s->v.nqueues && virtio_is_running(&s->v); i++)
		found |= ring_poll(s, i);
	return found;
}

static bool scsi_sleeps(void *opaque)
{
	struct virtio_scsi *s = opaque;
	bool found = false;

	LOCK_GUARD(&s->v.lock);
	for (unsigned i = SCSI_QUEUE_FIRST; i < s->v.nqueues && virtio_is_running(&s->v); i++)
		found |= virtio_doorbell_wake(&s->v, i);
	return found;
}

void scsi_poll_begin(struct virtio_scsi *s, uint32_t max_ns)
{
	s->poller = (struct loop_poller){ .poll = scsi_poll, .sleeps = scsi_sleeps, .opaque = s, .max_ns = max_ns };
	s->polled = max_ns != VIRTIO_BLK_POLL_OFF && loop_poll(s->v.loop, &s->poller) == 0; /* not if the loop polls for a disk */
}
