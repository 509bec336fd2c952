#include "devices/virtio/virtio_rng.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_pci.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define QUEUE_SIZE 64
/* Bytes per request; a short answer is legal, and the driver asks again. */
#define BYTES_MAX 4096

struct virtio_rng {
	struct virtio_dev v;
	struct virtio_pci pci;
};

static uint32_t rng_fill(const struct virtqueue_elem *el)
{
	const struct iovec *in = el->iov + el->nout;
	uint32_t done = 0;

	for (unsigned i = 0; i < el->nin && done < BYTES_MAX; i++) {
		size_t n = MIN(in[i].iov_len, (size_t)(BYTES_MAX - done));
		ssize_t got = getrandom(in[i].iov_base, n, GRND_NONBLOCK);

		if (got <= 0)
			break;
		done += (uint32_t)got;
		if ((size_t)got < n)
			break;
	}
	return done;
}

static void rng_run(struct virtio_dev *v, unsigned qi)
{
	struct virtqueue *vq = &v->queues[qi].vq;
	unsigned budget = 2u * vq->size;
	struct virtqueue_elem el;
	int got = 0;

	do {
		virtqueue_notify_disable(vq);
		while (budget && (got = virtqueue_pop(vq, &el)) > 0) {
			virtqueue_push(vq, &el, rng_fill(&el));
			budget--;
		}
	} while (budget && virtqueue_notify_enable(vq));
	if (got < 0)
		virtio_fault(v, vq->fault);
	virtio_queue_interrupt(v, qi);
	if (!budget)
		virtio_queue_kick(v, qi);
}

static const struct virtio_ops rng_virtio_ops = {
	.id = 4,
	.class_code = 0xff0000, /* no class fits */
	.cpu_percent = 25,
	.queue_run = rng_run,
};

static struct virtio_rng *rng_of(struct device *d)
{
	return container_of(d, struct virtio_rng, v.dev);
}

static void rng_free(struct device *d)
{
	struct virtio_rng *g = rng_of(d);

	virtio_pci_done(&g->pci);
	virtio_done(&g->v);
	free(g);
}

static const struct device_ops rng_ops = {
	.type = "virtio-rng",
	.state_version = 1,
	.reset = virtio_pci_device_reset,
	.pause = virtio_pci_device_pause,
	.resume = virtio_pci_device_resume,
	.save = virtio_pci_device_save,
	.load = virtio_pci_device_load,
	.free = rng_free,
};

int virtio_rng_new(struct dev_host *h, struct pci_host *p, const char *name, int slot,
	struct device **ret_dev, struct err *e)
{
	struct virtio_rng *g = calloc(1, sizeof(*g));
	int r;

	if (!g)
		return err_set_errno(e, -ENOMEM, "%s", name);
	r = virtio_init(&g->v, h, h->loop, name, &rng_ops, &rng_virtio_ops, 1, QUEUE_SIZE, e);
	if (!r)
		r = virtio_pci_init(&g->pci, &g->v, p, slot, e);
	if (r) {
		rng_free(&g->v.dev);
		return r;
	}
	*ret_dev = &g->v.dev;
	return 0;
}
