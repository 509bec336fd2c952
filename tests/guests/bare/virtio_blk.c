#include "virtio_blk.h"

#define PATIENCE_STEP_CYCLES 30000000ULL

struct vblk vblk = {.v.bdf = -1};
struct queue vblk_queues[VBLK_QUEUES];
struct vblk_requests vblk_requests[VBLK_QUEUES];
uint8_t vblk_data[VBLK_DATA_BYTES] __attribute__((aligned(4096)));

struct patience {
	uint64_t last, spent;
};

/* Return whether a request has timed out. Ignores jumps of the TSC: after a revert, a TSC that the
 * host cannot offset jumps ahead, and the device did not have that time. */
static bool patience_is_over(struct patience *p)
{
	uint64_t now = rdtsc(), step = now - p->last;

	if (p->last)
		p->spent += step < PATIENCE_STEP_CYCLES ? step : PATIENCE_STEP_CYCLES;
	p->last = now;
	return p->spent > VIRTIO_PATIENCE_CYCLES;
}

static const char *device_find(uint16_t modern, uint16_t transitional, unsigned index)
{
	const char *wrong;

	vblk = (struct vblk){0};
	wrong = virtio_find(&vblk.v, modern, index);
	return vblk.v.bdf < 0 ? virtio_find(&vblk.v, transitional, index) : wrong;
}

const char *vblk_find(unsigned index)
{
	return device_find(0x1042, 0x1001, index);
}

const char *vblk_find_scsi(uint8_t target, uint32_t block_bytes)
{
	const char *wrong = device_find(0x1048, 0x1004, 0);

	vblk.first_queue = 2;
	vblk.target = target;
	vblk.block_bytes = block_bytes;
	return wrong;
}

/* The event fields follow the ring entries directly, so their place depends on the queue size. */
volatile uint16_t *vblk_used_event(struct queue *q)
{
	return &q->avail.ring[vblk.v.queue_size];
}

volatile uint16_t *vblk_avail_event(struct queue *q)
{
	return (volatile uint16_t *)((uint8_t *)&q->used + 4 + 8 * vblk.v.queue_size);
}

static const char *size_choose(uint16_t queue_size, uint16_t queues)
{
	uint64_t most, have;

	mmio_write(vblk.v.common + COMMON_QUEUE_SELECT, 2, vblk.first_queue);
	most = mmio_read(vblk.v.common + COMMON_QUEUE_SIZE, 2);
	have = mmio_read(vblk.v.common + COMMON_QUEUES, 2);
	vblk.v.queue_size = queue_size ? queue_size
				     : (uint16_t)(most < VIRTIO_QUEUE_SIZE ? most : VIRTIO_QUEUE_SIZE);
	vblk.queues = queues ? queues : 1;
	if (vblk.v.queue_size > most || vblk.v.queue_size > VIRTIO_QUEUE_SIZE)
		return "the queue is not that long";
	if (vblk.first_queue + vblk.queues > have || vblk.queues > VBLK_QUEUES)
		return "not so many queues";
	return NULL;
}

void vblk_stop(void)
{
	mmio_write(vblk.v.common + COMMON_STATUS, 1, 0);
}

const char *vblk_open(uint16_t queue_size, uint16_t queues, uint64_t without)
{
	uint64_t wanted = F_INDIRECT | F_EVENT_IDX | F_VERSION_1;
	const char *wrong;

	if (!vblk.block_bytes) /* the lower bits of virtio-scsi have other meanings */
		wanted |= F_BLK_SIZE | F_FLUSH | F_MQ | F_DISCARD | F_WRITE_ZEROES;
	wrong = virtio_begin(&vblk.v, wanted & ~without);
	if (!wrong)
		wrong = size_choose(queue_size, queues);
	if (wrong)
		return wrong;
	for (unsigned i = 0; i < vblk.queues; i++)
		virtio_queue_start(&vblk.v, &vblk_queues[i], vblk.first_queue + i);
	virtio_status_add(&vblk.v, STATUS_DRIVER_OK);
	return virtio_status(&vblk.v) & STATUS_NEEDS_RESET ? "the disk needs a reset at once" : NULL;
}

unsigned vblk_slots(void)
{
	return vblk.v.features & F_INDIRECT ? vblk.v.queue_size : vblk.v.queue_size / 3;
}

static unsigned blk_chain_fill(struct desc *d, uint16_t first, const struct blk_header *h, void *data,
	uint32_t bytes, volatile uint8_t *status)
{
	uint16_t write = h->type == BLK_IN || h->type == BLK_GET_ID ? DESC_WRITE : 0;
	unsigned n = 0;

	d[n++] = (struct desc){(uint64_t)h, sizeof(*h), DESC_NEXT, (uint16_t)(first + 1)};
	if (bytes) {
		d[n] = (struct desc){(uint64_t)data, bytes, DESC_NEXT | write, 0};
		d[n].next = (uint16_t)(first + n + 1);
		n++;
	}
	d[n++] = (struct desc){(uint64_t)status, 1, DESC_WRITE, 0};
	return n;
}

static unsigned chain_fill(struct desc *d, uint16_t first, unsigned qi, unsigned slot, void *data, uint32_t bytes)
{
	struct vblk_requests *q = &vblk_requests[qi];

	return vblk.block_bytes ? scsi_chain_fill(d, first, &scsi_slots[qi][slot], &q->headers[slot], data, bytes)
				: blk_chain_fill(d, first, &q->headers[slot], data, bytes, &q->status[slot]);
}

void vblk_put(
	unsigned qi, unsigned slot, uint32_t type, uint64_t sector, void *data, uint32_t bytes)
{
	struct vblk_requests *r = &vblk_requests[qi];
	struct queue *q = &vblk_queues[qi];
	uint16_t head;

	r->headers[slot] = (struct blk_header){type, 0, sector};
	r->status[slot] = 0xee;
	if (vblk.v.features & F_INDIRECT) {
		unsigned n = chain_fill(r->tables[slot], 0, qi, slot, data, bytes);

		head = (uint16_t)slot;
		q->desc[slot] = (struct desc){(uint64_t)r->tables[slot], 16 * n, DESC_INDIRECT, 0};
	} else {
		head = (uint16_t)(3 * slot);
		chain_fill(&q->desc[head], head, qi, slot, data, bytes);
	}
	q->avail.ring[q->avail_idx++ % vblk.v.queue_size] = head;
}

void vblk_kick(unsigned qi)
{
	vblk.kicks++;
	mmio_write(vblk_queues[qi].notify_gpa, 2, vblk.first_queue + qi);
}

void vblk_announce(unsigned qi)
{
	struct queue *q = &vblk_queues[qi];
	uint16_t old = q->avail.idx;
	bool kick;

	__asm__ volatile("" : : : "memory");
	*(volatile uint16_t *)&q->avail.idx = q->avail_idx;
	__asm__ volatile("mfence" : : : "memory");
	if (vblk.v.features & F_EVENT_IDX)
		kick = (uint16_t)(q->avail_idx - *vblk_avail_event(q) - 1) <
		       (uint16_t)(q->avail_idx - old);
	else
		kick = !(*(volatile uint16_t *)&q->used.flags & 1);
	if (kick)
		vblk_kick(qi);
}

int vblk_take(unsigned qi)
{
	int id = virtio_take(&vblk.v, &vblk_queues[qi], NULL);

	if (id < 0)
		return -1;
	id = vblk.v.features & F_INDIRECT ? id : id / 3;
	if (vblk.block_bytes)
		vblk_requests[qi].status[id] = scsi_status(&scsi_slots[qi][id]);
	return id;
}

int vblk_do(unsigned q, uint32_t type, uint64_t sector, void *data, uint32_t bytes)
{
	struct patience p = {0};

	vblk_put(q, 0, type, sector, data, bytes);
	vblk_announce(q);
	while (vblk_take(q) < 0) {
		if (patience_is_over(&p))
			return -1;
		__asm__ volatile("pause");
	}
	return vblk_requests[q].status[0];
}
