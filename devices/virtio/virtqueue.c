#include "devices/virtio/virtqueue.h"
#include "base/bytes.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Split ring, virtio 1.2 section 2.7: all little-endian.
 * Descriptor:  0 u64 address, 8 u32 length, 12 u16 flags, 14 u16 next.
 * Available:   0 u16 flags, 2 u16 idx, 4 u16 ring[size], then u16 used_event.
 * Used:        0 u16 flags, 2 u16 idx, 4 {u32 id, u32 len} ring[size], u16 avail_event. */
#define DESC_BYTES 16u
#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u
#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY 1u
#define RING_IDX 2
#define RING_ENTRIES 4

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* Load-acquire: reads after this load see what the driver wrote before its store. */
static uint16_t avail_load(const struct virtqueue *q, size_t off)
{
	const uint16_t *p = (const uint16_t *)(const void *)(q->avail + off);

	return le16toh(__atomic_load_n(p, __ATOMIC_ACQUIRE));
}

static void used_store(struct virtqueue *q, size_t off, uint16_t v)
{
	uint16_t *p = (uint16_t *)(void *)(q->used + off);

	__atomic_store_n(p, htole16(v), __ATOMIC_RELEASE);
}

/* A fence that -fsanitize=thread accepts. */
static void full_fence(void)
{
	__sync_synchronize();
}

static size_t avail_bytes(unsigned size)
{
	return RING_ENTRIES + 2 * (size_t)size + 2;
}

static size_t used_bytes(unsigned size)
{
	return RING_ENTRIES + 8 * (size_t)size + 2;
}

static void mark_dirty(struct virtqueue *q, const void *host, uint64_t len)
{
	const struct dev_host *h = q->host;

	if (!h->ops->ram_dirty || !len)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(h->ram); i++) {
		const struct dev_ram_range *r = &h->ram[i];
		uintptr_t off = (uintptr_t)host - (uintptr_t)r->host;

		if (r->bytes && off < r->bytes)
			h->ops->ram_dirty(q->host, r->gpa + off, len);
	}
}

void virtqueue_init(struct virtqueue *q, struct dev_host *h, uint16_t size_max)
{
	*q = (struct virtqueue){ .host = h, .size_max = size_max, .size = size_max };
}

void virtqueue_reset(struct virtqueue *q)
{
	bool large = q->large;

	virtqueue_init(q, q->host, q->size_max);
	q->large = large;
}

static int queue_fault(struct virtqueue *q, const char *sentence)
{
	q->fault = sentence;
	return -EPROTO;
}

static bool size_is_valid(const struct virtqueue *q)
{
	return is_power_of_two(q->size) && q->size <= q->size_max;
}

int virtqueue_resume(struct virtqueue *q, bool event_idx, bool indirect)
{
	if (!size_is_valid(q))
		q->fault = "the queue's size is no power of two or too large";
	else if (q->desc_gpa % 16 || q->avail_gpa % 2 || q->used_gpa % 4)
		q->fault = "a part of the queue is misaligned";
	if (q->fault)
		return -EINVAL;
	q->desc = dev_ram(q->host, q->desc_gpa, (uint64_t)q->size * DESC_BYTES);
	q->avail = dev_ram(q->host, q->avail_gpa, avail_bytes(q->size));
	q->used = dev_ram_for_write(q->host, q->used_gpa, used_bytes(q->size));
	if (!q->desc || !q->avail || !q->used) {
		q->fault = "a part of the queue lies outside of RAM";
		return -EINVAL;
	}
	q->event_idx = event_idx;
	q->indirect = indirect;
	q->enabled = true;
	return 0;
}

int virtqueue_start(struct virtqueue *q, bool event_idx, bool indirect)
{
	q->last_avail = 0;
	q->used_idx = 0;
	q->signalled = 0;
	return virtqueue_resume(q, event_idx, indirect);
}

/* ---- taking requests ---- */

/* Copy the descriptor once; the barrier keeps the compiler from reading guest memory again. */
static struct desc desc_fetch(const uint8_t *table, unsigned i)
{
	uint8_t raw[DESC_BYTES];

	memcpy(raw, table + (size_t)i * DESC_BYTES, sizeof(raw));
	__asm__ volatile("" : "+m"(raw) : : "memory");
	return (struct desc){ load_le64(raw), load_le32(raw + 8), load_le16(raw + 12),
		load_le16(raw + 14) };
}

void virtqueue_elem_init(struct virtqueue_elem *el)
{
	el->iov = el->own;
}

void virtqueue_elem_done(struct virtqueue_elem *el)
{
	if (el->iov == el->own)
		return;
	free(el->iov);
	el->iov = el->own;
}

/* Make room for another segment. */
static int elem_grow(struct virtqueue *q, struct virtqueue_elem *el)
{
	if (!q->large || el->iov != el->own)
		return queue_fault(q, "a request has too many descriptors");
	el->iov = malloc(VIRTQUEUE_LARGE_SEGS_MAX * sizeof(el->iov[0]));
	if (!el->iov) {
		el->iov = el->own;
		return queue_fault(q, "no memory is left for a request's descriptors");
	}
	memcpy(el->iov, el->own, sizeof(el->own));
	return 0;
}

static int elem_add(struct virtqueue *q, struct virtqueue_elem *el, const struct desc *d)
{
	unsigned n = el->nout + el->nin;
	bool writable = d->flags & DESC_WRITE;
	void *p;

	if (n == (el->iov == el->own ? VIRTQUEUE_SEGS_MAX : VIRTQUEUE_LARGE_SEGS_MAX) && elem_grow(q, el))
		return -EPROTO;
	if (!writable && el->nin)
		return queue_fault(q, "a readable descriptor follows a writable one");
	if (!d->len)
		return queue_fault(q, "a descriptor has length 0");
	if (el->out_bytes + el->in_bytes + d->len > UINT32_MAX)
		return queue_fault(q, "a request is of 4 GiB or more");
	p = writable ? dev_ram_for_write(q->host, d->addr, d->len)
		     : dev_ram(q->host, d->addr, d->len);
	if (!p)
		return queue_fault(q, "a descriptor points outside of RAM");
	el->iov[n] = (struct iovec){ .iov_base = p, .iov_len = d->len };
	*(writable ? &el->nin : &el->nout) += 1;
	*(writable ? &el->in_bytes : &el->out_bytes) += d->len;
	return 0;
}

/* Walk a chain in one table of n entries. Stops with *ret_indirect set at a descriptor that refers
 * to another table. */
static int chain_walk(struct virtqueue *q, const uint8_t *table, unsigned n, unsigned i,
	struct virtqueue_elem *el, struct desc *ret_indirect)
{
	for (unsigned steps = 0; steps < n; steps++) {
		struct desc d;
		int r;

		if (i >= n)
			return queue_fault(q, "a descriptor's number is beyond its table");
		d = desc_fetch(table, i);
		if (d.flags & DESC_INDIRECT) {
			if (!ret_indirect)
				return queue_fault(q,
					"an indirect descriptor inside an indirect table");
			if (d.flags & DESC_NEXT)
				return queue_fault(q, "an indirect descriptor has a successor");
			*ret_indirect = d;
			return 0;
		}
		r = elem_add(q, el, &d);
		if (r || !(d.flags & DESC_NEXT))
			return r;
		i = d.next;
	}
	return queue_fault(q, "a chain of descriptors loops");
}

static int indirect_walk(struct virtqueue *q, const struct desc *d, struct virtqueue_elem *el)
{
	const uint8_t *table;

	if (!q->indirect)
		return queue_fault(q, "an indirect descriptor that was not negotiated");
	if (!d->len || d->len % DESC_BYTES || d->len / DESC_BYTES > VIRTQUEUE_INDIRECT_MAX)
		return queue_fault(q, "an indirect table's length is invalid");
	table = dev_ram(q->host, d->addr, d->len);
	if (!table)
		return queue_fault(q, "an indirect table lies outside of RAM");
	return chain_walk(q, table, d->len / DESC_BYTES, 0, el, NULL);
}

int virtqueue_parse(struct virtqueue *q, uint16_t head, struct virtqueue_elem *el)
{
	struct desc indirect = { 0 };
	int r;

	virtqueue_elem_init(el);
	el->head = head;
	el->nout = el->nin = 0;
	el->out_bytes = el->in_bytes = 0;
	r = chain_walk(q, q->desc, q->size, head, el, &indirect);
	if (!r && (indirect.flags & DESC_INDIRECT))
		r = indirect_walk(q, &indirect, el);
	return r;
}

int virtqueue_pop(struct virtqueue *q, struct virtqueue_elem *el)
{
	uint16_t n, head;

	if (q->fault)
		return -EPROTO;
	if (!q->enabled)
		return 0;
	n = (uint16_t)(avail_load(q, RING_IDX) - q->last_avail);
	if (!n)
		return 0;
	if (n > q->size)
		return queue_fault(q, "the available index jumped by more than the queue's size");
	head = avail_load(q, RING_ENTRIES + 2 * (size_t)(q->last_avail & (q->size - 1)));
	if (head >= q->size)
		return queue_fault(q, "a descriptor's number is beyond its table");
	if (virtqueue_parse(q, head, el))
		return -EPROTO;
	q->last_avail++;
	return 1;
}

uint16_t virtqueue_waiting(const struct virtqueue *q)
{
	return q->enabled ? (uint16_t)(avail_load(q, RING_IDX) - q->last_avail) : 0;
}

void virtqueue_unpop(struct virtqueue *q)
{
	q->last_avail--;
}

/* ---- completing requests ---- */

void virtqueue_mark_dirty(struct virtqueue *q, const struct virtqueue_elem *el)
{
	for (unsigned i = 0; q->host->ops->ram_dirty && i < el->nin; i++)
		mark_dirty(q, el->iov[el->nout + i].iov_base, el->iov[el->nout + i].iov_len);
}

void virtqueue_fill(struct virtqueue *q, const struct virtqueue_elem *el, uint32_t written, unsigned ahead)
{
	size_t at = RING_ENTRIES + 8 * (size_t)((q->used_idx + ahead) & (q->size - 1u));

	/* The memory was marked as dirty when the request was taken. Mark it again: a snapshot between the two marks
	 * has saved the memory before the data arrived. Mark all buffers: a disk's status byte lies behind `written`.
	 */
	virtqueue_mark_dirty(q, el);
	store_le32(q->used + at, el->head);
	store_le32(q->used + at + 4, written);
	mark_dirty(q, q->used + at, 8);
}

void virtqueue_publish(struct virtqueue *q, uint16_t n)
{
	q->used_idx = (uint16_t)(q->used_idx + n);
	used_store(q, RING_IDX, q->used_idx);
	mark_dirty(q, q->used, RING_ENTRIES);
}

void virtqueue_push(struct virtqueue *q, const struct virtqueue_elem *el, uint32_t written)
{
	virtqueue_fill(q, el, written, 0);
	virtqueue_publish(q, 1);
}

bool virtqueue_should_interrupt(struct virtqueue *q)
{
	uint16_t old = q->signalled, event;

	if (!q->enabled || q->used_idx == old)
		return false;
	q->signalled = q->used_idx;
	/* The published index must be visible before this side reads the driver's event index: the
	 * driver writes its event index and then reads the published index. */
	full_fence();
	if (!q->event_idx)
		return !(avail_load(q, 0) & AVAIL_NO_INTERRUPT);
	event = avail_load(q, RING_ENTRIES + 2 * (size_t)q->size);
	return (uint16_t)(q->used_idx - event - 1) < (uint16_t)(q->used_idx - old);
}

void virtqueue_notify_disable(struct virtqueue *q)
{
	if (!q->enabled || q->event_idx)
		return; /* with event_idx, the old event index, which has passed, suppresses doorbells */
	used_store(q, 0, USED_NO_NOTIFY);
	mark_dirty(q, q->used, 2);
}

void virtqueue_notify_cancel(struct virtqueue *q)
{
	size_t event = RING_ENTRIES + 8 * (size_t)q->size;

	if (!q->enabled || !q->event_idx) {
		virtqueue_notify_disable(q);
		return;
	}
	used_store(q, event, (uint16_t)(q->last_avail - 1)); /* has passed */
	mark_dirty(q, q->used + event, 2);
}

bool virtqueue_notify_enable_beyond(struct virtqueue *q, uint16_t known)
{
	size_t event = RING_ENTRIES + 8 * (size_t)q->size;
	uint16_t next = (uint16_t)(q->last_avail + known);

	if (!q->enabled || q->fault)
		return false;
	if (q->event_idx) {
		used_store(q, event, next);
		mark_dirty(q, q->used + event, 2);
	} else {
		used_store(q, 0, 0);
		mark_dirty(q, q->used, 2);
	}
	full_fence();
	return avail_load(q, RING_IDX) != next;
}

bool virtqueue_notify_enable(struct virtqueue *q)
{
	return virtqueue_notify_enable_beyond(q, 0);
}

/* ---- saving and loading a queue ---- */

void virtqueue_save(const struct virtqueue *q, struct state_writer *w)
{
	state_put_u16(w, q->size);
	state_put_u64(w, q->desc_gpa);
	state_put_u64(w, q->avail_gpa);
	state_put_u64(w, q->used_gpa);
	state_put_u8(w, q->enabled);
	state_put_u16(w, q->last_avail);
	state_put_u16(w, q->used_idx);
	state_put_u16(w, q->signalled);
}

int virtqueue_load(struct virtqueue *q, struct state_reader *r, bool *ret_enabled)
{
	uint8_t enabled;

	virtqueue_reset(q);
	q->size = state_u16(r);
	q->desc_gpa = state_u64(r);
	q->avail_gpa = state_u64(r);
	q->used_gpa = state_u64(r);
	enabled = state_u8(r);
	q->last_avail = state_u16(r);
	q->used_idx = state_u16(r);
	q->signalled = state_u16(r);
	if (r->failed || enabled > 1 || !size_is_valid(q))
		return -EINVAL;
	*ret_enabled = enabled;
	return 0;
}

/* ---- iovec helpers ---- */

static size_t iov_copy(const struct iovec *iov, unsigned n, size_t off, uint8_t *buf, size_t len,
	bool to_iov)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t chunk;
		uint8_t *p;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		p = (uint8_t *)iov[i].iov_base + off;
		chunk = MIN(iov[i].iov_len - off, len - done);
		memcpy(to_iov ? p : buf + done, to_iov ? buf + done : p, chunk);
		done += chunk;
		off = 0;
	}
	return done;
}

size_t iov_read(const struct iovec *iov, unsigned n, size_t off, void *dst, size_t len)
{
	return iov_copy(iov, n, off, dst, len, false);
}

size_t iov_write(const struct iovec *iov, unsigned n, size_t off, const void *src, size_t len)
{
	return iov_copy(iov, n, off, (uint8_t *)(uintptr_t)src, len, true);
}

void iov_drop_front(struct iovec **iov, unsigned *n, size_t bytes)
{
	while (bytes && bytes >= (*iov)->iov_len) {
		bytes -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (bytes) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + bytes;
		(*iov)->iov_len -= bytes;
	}
}

void iov_drop_back(struct iovec *iov, unsigned *n, size_t bytes)
{
	while (bytes && bytes >= iov[*n - 1].iov_len) {
		bytes -= iov[*n - 1].iov_len;
		(*n)--;
	}
	if (bytes)
		iov[*n - 1].iov_len -= bytes;
}
