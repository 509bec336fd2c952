/* Polls of a disk: while requests come shortly after each other, the disk's thread looks at the rings itself
 * (base/busy_poll.h), so that the guest needs no doorbells and the thread no wake-ups. */
#include "devices/virtio/virtio_blk_internal.h"
#include "base/cleanup.h"
#include "base/loop.h"

bool virtio_blk_takes(const struct virtio_blk *b)
{
	return !b->starved && !b->no_room && !b->resting && !b->held_wait;
}

static bool queue_poll(struct virtio_blk *b, unsigned qi)
{
	struct virtqueue *vq = &b->v.queues[qi].vq;
	uint16_t waiting = virtqueue_waiting(vq);

	/* Nothing is to be found in a ring from which the device takes nothing. */
	if (!waiting || !virtio_blk_takes(b))
		return false;
	virtio_blk_run(&b->v, qi);
	return true;
}

static bool blk_poll(void *opaque)
{
	struct virtio_blk *b = opaque;
	struct virtio_dev *v = &b->v;
	bool found = false;

	LOCK_GUARD(&v->lock);
	for (unsigned i = 0; i < v->nqueues && virtio_is_running(v); i++)
		found |= queue_poll(b, i);
	return found;
}

static bool blk_sleeps(void *opaque)
{
	struct virtio_blk *b = opaque;
	struct virtio_dev *v = &b->v;
	bool found = false;

	LOCK_GUARD(&v->lock);
	for (unsigned i = 0; i < v->nqueues && virtio_is_running(v); i++)
		found |= virtio_doorbell_wake(v, i);
	return found;
}

void virtio_blk_poll_begin(struct virtio_blk *b, uint32_t max_ns)
{
	b->poller = (struct loop_poller){ .poll = blk_poll, .sleeps = blk_sleeps, .opaque = b, .max_ns = max_ns };
	b->polled = max_ns != VIRTIO_BLK_POLL_OFF && loop_poll(b->v.loop, &b->poller) == 0; /* not if the loop has another disk */
}
