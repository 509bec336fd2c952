/* A disk's requests in a saved state. */
#include "base/err.h"
#include "base/util.h"
#include "devices/virtio/virtio_blk_internal.h"
#include "snapshot/state.h"

#include <errno.h>

static uint32_t list_count(const struct blk_request *r)
{
	uint32_t n = 0;

	for (; r; r = r->next)
		n++;
	return n;
}

static void list_save(const struct blk_request *r, struct state_writer *w)
{
	for (; r; r = r->next) {
		state_put_u16(w, (uint16_t)r->queue);
		state_put_u16(w, r->elem.head);
	}
}

void virtio_blk_save(struct virtio_dev *v, struct state_writer *w)
{
	struct virtio_blk *b = container_of(v, struct virtio_blk, v);
	uint32_t n = b->nloaded + list_count(b->held);

	for (unsigned i = 0; i < DISK_LIMITS; i++)
		n += list_count(b->waiting[i]);
	state_put_u32(w, n);
	list_save(b->held, w);
	for (unsigned i = 0; i < DISK_LIMITS; i++)
		list_save(b->waiting[i], w);
	for (uint32_t i = b->nloaded; i--;) {
		state_put_u16(w, b->loaded[i].queue);
		state_put_u16(w, b->loaded[i].head);
	}
}

int virtio_blk_load(struct virtio_blk *b, struct state_reader *r, struct err *e)
{
	const struct virtio_dev *v = &b->v;
	uint32_t n = state_u32(r);

	if (r->failed || n > b->requests_max)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: %u requests held back", v->dev.name,
			n);
	for (uint32_t i = n; i--;) {
		struct blk_loaded l = { state_u16(r), state_u16(r) };

		if (r->failed || l.queue >= v->nqueues || !v->queues[l.queue].vq.enabled ||
			l.head >= v->queues[l.queue].vq.size)
			return err_set(e, -EINVAL, ERR_CORRUPT, "%s: malformed held request",
				v->dev.name);
		b->loaded[i] = l; /* newest first: requests are taken from the array's end */
	}
	b->nloaded = n;
	return 0;
}
