/* virtqueue: the device's side of a split ring (virtio 1.2, section 2.7).
 *
 * A hostile guest may write the ring while this code reads it, so each field is read once and
 * checked before use. The first violation is recorded in `fault`; afterwards the queue returns no
 * requests.
 * Threading: the caller holds the device's lock. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTQUEUE_H
#define CAIRN_DEVICES_VIRTIO_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct dev_host;
struct state_reader;
struct state_writer;

#define VIRTQUEUE_SIZE_MAX 1024
/* Segments of one request: 256 of data, one header, one status. */
#define VIRTQUEUE_SEGS_MAX 258
/* Segments of one request in a queue with `large`. QEMU takes as many. */
#define VIRTQUEUE_LARGE_SEGS_MAX 1024
#define VIRTQUEUE_INDIRECT_MAX 1024 /* entries of an indirect table */

struct virtqueue {
	struct dev_host *host; /* borrowed */
	uint16_t size_max;     /* power of two */
	bool large; /* take requests of more than VIRTQUEUE_SEGS_MAX segments; then call virtqueue_elem_done() */
	/* as the driver wrote them; constant while enabled */
	uint16_t size;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	bool enabled;
	/* valid while enabled */
	const uint8_t *desc, *avail;
	uint8_t *used;
	bool event_idx, indirect; /* negotiated */
	uint16_t last_avail;	  /* next entry of the available ring to take */
	uint16_t used_idx;	  /* next entry of the used ring to fill */
	uint16_t signalled;	  /* used_idx at the last decision to interrupt */
	const char *fault; /* a constant sentence, or NULL */
};

/* A request: readable segments first, then writable ones. */
struct virtqueue_elem {
	uint16_t head;
	unsigned nout, nin;
	uint64_t out_bytes, in_bytes; /* their sum is below 4 GiB */
	struct iovec *iov; /* addresses in guest RAM; `own`, or the array of a large request */
	struct iovec own[VIRTQUEUE_SEGS_MAX];
};

void virtqueue_init(struct virtqueue *q, struct dev_host *h, uint16_t size_max);
/* Reset to power-on values. */
void virtqueue_reset(struct virtqueue *q);
/* Check size, alignment and address of the three parts, and enable the queue. Returns 0; -EINVAL
 * with `fault` set. */
int virtqueue_start(struct virtqueue *q, bool event_idx, bool indirect);

/* Return how many requests wait in the ring. */
uint16_t virtqueue_waiting(const struct virtqueue *q);
/* Take the next request. Returns 1; 0 when there is none; -EPROTO with `fault` set. */
int virtqueue_pop(struct virtqueue *q, struct virtqueue_elem *ret_el);
/* Return the last popped request to the ring; the next pop yields it again. Return several in
 * reverse order. */
void virtqueue_unpop(struct virtqueue *q);
/* Parse the chain at head, as virtqueue_pop() does; also for a request that was held back when the state was saved.
 * Returns 0; -EPROTO with `fault` set. */
int virtqueue_parse(struct virtqueue *q, uint16_t head, struct virtqueue_elem *ret_el);
/* Prepare an element for virtqueue_elem_done() without a request before. */
void virtqueue_elem_init(struct virtqueue_elem *el);
/* Free the array of a large request. */
void virtqueue_elem_done(struct virtqueue_elem *el);
/* Complete a request. written: bytes from the start of its writable part. */
void virtqueue_push(struct virtqueue *q, const struct virtqueue_elem *el, uint32_t written);
/* Tell the dirty tracking that a device has written to the request's buffers. virtqueue_fill() and virtqueue_push() do
 * so, too. */
void virtqueue_mark_dirty(struct virtqueue *q, const struct virtqueue_elem *el);
/* Complete several requests at once: fill each, then publish all n, so that the driver sees none
 * before all are filled. ahead: number of requests already filled. */
void virtqueue_fill(struct virtqueue *q, const struct virtqueue_elem *el, uint32_t written,
	unsigned ahead);
void virtqueue_publish(struct virtqueue *q, uint16_t n);
/* Return whether the requests completed since the last call need an interrupt. */
bool virtqueue_should_interrupt(struct virtqueue *q);
void virtqueue_notify_disable(struct virtqueue *q);
/* Disable doorbells that virtqueue_notify_enable() has enabled, though the next request has not come. */
void virtqueue_notify_cancel(struct virtqueue *q);
/* Enable doorbells. Returns true when requests arrived meanwhile: the caller has to look again, as
 * no doorbell will ring for them. */
bool virtqueue_notify_enable(struct virtqueue *q);
/* Enable doorbells for a caller that has seen `known` requests in the ring and needs more than
 * these at once. Returns as virtqueue_notify_enable(). */
bool virtqueue_notify_enable_beyond(struct virtqueue *q, uint16_t known);

#define VIRTQUEUE_STATE_BYTES 33
void virtqueue_save(const struct virtqueue *q, struct state_writer *w);
/* Load the fields and check the queue's size; q stays disabled.
 * *ret_enabled: the caller has to call virtqueue_resume() with the features.
 * Returns 0 or -EINVAL. */
int virtqueue_load(struct virtqueue *q, struct state_reader *r, bool *ret_enabled);
/* Enable the queue as virtqueue_start() does, but keep the indices. */
int virtqueue_resume(struct virtqueue *q, bool event_idx, bool indirect);

/* ---- iovec helpers ---- */

/* Copy up to len bytes out of iov (iov_read) or into it (iov_write), from offset off. Return the number of bytes
 * copied. */
size_t iov_read(const struct iovec *iov, unsigned n, size_t off, void *dst, size_t len);
size_t iov_write(const struct iovec *iov, unsigned n, size_t off, const void *src, size_t len);
/* Remove bytes from the front or back, by changing *iov, *n and the segment that remains in part.
 * The iov must have that many bytes. */
void iov_drop_front(struct iovec **iov, unsigned *n, size_t bytes);
void iov_drop_back(struct iovec *iov, unsigned *n, size_t bytes);

#endif
