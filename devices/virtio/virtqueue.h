/* virtqueue: the device's side of a split ring (virtio 1.2, section 2.7).
 *
 * The ring is memory that a hostile guest writes while we read: each field is read once,
 * and checked, before it is used. The first violation is kept as a sentence in `fault`;
 * the queue then gives nothing more. Lock: the caller's. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTQUEUE_H
#define CAIRN_DEVICES_VIRTIO_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct dev_host;
struct err;
struct state_reader;
struct state_writer;

#define VIRTQUEUE_SIZE_MAX 1024
/* Segments of one request: 256 of data, and header and status. */
#define VIRTQUEUE_SEGS_MAX 258
#define VIRTQUEUE_INDIRECT_MAX 1024 /* entries of an indirect table */

struct virtqueue {
	struct dev_host *host; /* borrowed */
	uint16_t size_max;     /* power of two */
	/* as the driver wrote them; they stand still while enabled */
	uint16_t size;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	bool enabled;
	/* while enabled */
	const uint8_t *desc, *avail;
	uint8_t *used;
	bool event_idx, indirect; /* negotiated */
	uint16_t last_avail;	  /* next entry of the available ring to take */
	uint16_t used_idx;	  /* next entry of the used ring to fill */
	uint16_t signalled;	  /* used_idx at the last decision to interrupt */
	const char *fault; /* a constant sentence, or NULL */
};

/* One request: readable segments first, then writable ones. */
struct virtqueue_elem {
	uint16_t head;
	unsigned nout, nin;
	uint64_t out_bytes, in_bytes; /* their sum is below 4 GiB */
	struct iovec iov[VIRTQUEUE_SEGS_MAX]; /* guest RAM */
};

void virtqueue_init(struct virtqueue *q, struct dev_host *h, uint16_t size_max);
/* To power-on values. */
void virtqueue_reset(struct virtqueue *q);
/* Check size, alignment and place of the three parts and enable. Returns 0; -EINVAL with
 * `fault` set. */
int virtqueue_start(struct virtqueue *q, bool event_idx, bool indirect);

/* Take the next request. Returns 1; 0 when there is none; -EPROTO with `fault` set. */
int virtqueue_pop(struct virtqueue *q, struct virtqueue_elem *ret_el);
/* Give the last one popped back: the next pop returns it again. Several: the last one first. */
void virtqueue_unpop(struct virtqueue *q);
/* Parse the chain at head again (a request that was in flight when its state was saved). */
int virtqueue_parse(struct virtqueue *q, uint16_t head, struct virtqueue_elem *ret_el);
/* Hand a request back; written: bytes from the start of its writable part. */
void virtqueue_push(struct virtqueue *q, const struct virtqueue_elem *el, uint32_t written);
/* A push in two steps, for several at once: the driver sees none of them before all are published.
 * ahead: how many are filled in already. */
void virtqueue_fill(struct virtqueue *q, const struct virtqueue_elem *el, uint32_t written,
	unsigned ahead);
void virtqueue_publish(struct virtqueue *q, uint16_t n);
/* Whether what was pushed since the last call wants an interrupt. */
bool virtqueue_should_interrupt(struct virtqueue *q);
void virtqueue_notify_disable(struct virtqueue *q);
/* True when requests came in meanwhile: look again, no doorbell will tell. */
bool virtqueue_notify_enable(struct virtqueue *q);
/* The same for who knows of so many that are there, and needs more at a time. */
bool virtqueue_notify_enable_beyond(struct virtqueue *q, uint16_t known);

void virtqueue_save(const struct virtqueue *q, struct state_writer *w);
/* Reads fields and checks what can be checked without features; q stays disabled.
 * *ret_enabled: call virtqueue_resume() with the features. Returns 0 or -EINVAL. */
int virtqueue_load(struct virtqueue *q, struct state_reader *r, bool *ret_enabled);
/* virtqueue_start() that keeps the indices. */
int virtqueue_resume(struct virtqueue *q, bool event_idx, bool indirect);

/* ---- iovec helpers ---- */

/* Copy len bytes from (to) off bytes into iov; returns how many there were. */
size_t iov_read(const struct iovec *iov, unsigned n, size_t off, void *dst, size_t len);
size_t iov_write(const struct iovec *iov, unsigned n, size_t off, const void *src, size_t len);
/* Drop bytes at the front (back). They shift *iov and *n, and edit the segment that is
 * left over in part. There must be that many. */
void iov_drop_front(struct iovec **iov, unsigned *n, size_t bytes);
void iov_drop_back(struct iovec *iov, unsigned *n, size_t bytes);

#endif
