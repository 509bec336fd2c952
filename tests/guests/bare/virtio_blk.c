#include "virtio_blk.h"

#define PATIENCE_CYCLES 30000000000ULL
#define PATIENCE_STEP_CYCLES 30000000ULL

struct vblk vblk = {.bdf = -1};
struct queue vblk_queues[VBLK_QUEUES];
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
	return p->spent > PATIENCE_CYCLES;
}

static uint64_t capability_gpa(unsigned cap)
{
	uint64_t bar = pci_bar((uint16_t)vblk.bdf, pci_read((uint16_t)vblk.bdf, cap + 4, 1));

	return bar ? bar + pci_read((uint16_t)vblk.bdf, cap + 8, 4) : 0;
}

static void capabilities_read(void)
{
	uint16_t bdf = (uint16_t)vblk.bdf;
	unsigned cap = pci_read(bdf, 0x34, 1) & 0xfc;

	for (int n = 0; cap && n < 48; n++, cap = pci_read(bdf, cap + 1, 1) & 0xfc) {
		if (pci_read(bdf, cap, 1) != 0x09)
			continue;
		switch (pci_read(bdf, cap + 3, 1)) {
		case 1:
			vblk.common = capability_gpa(cap);
			break;
		case 2:
			vblk.notify = capability_gpa(cap);
			vblk.notify_step = pci_read(bdf, cap + 16, 4);
			break;
		case 3:
			vblk.isr = capability_gpa(cap);
			break;
		case 4:
			vblk.config = capability_gpa(cap);
		}
	}
}

static const char *device_find(unsigned modern, unsigned transitional, unsigned index)
{
	vblk = (struct vblk){.bdf = pci_find(0x1af4, (uint16_t)modern, index)};
	if (vblk.bdf < 0)
		vblk.bdf = pci_find(0x1af4, (uint16_t)transitional, index);
	if (vblk.bdf < 0)
		return "no such disk";
	pci_write((uint16_t)vblk.bdf, 4, 2, 0x0006); /* memory, bus master */
	capabilities_read();
	if (!vblk.common || !vblk.notify || !vblk.isr || !vblk.config)
		return "the disk lacks a capability";
	return NULL;
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

uint8_t vblk_status(void)
{
	return (uint8_t)mmio_read(vblk.common + COMMON_STATUS, 1);
}

void vblk_status_add(uint8_t bits)
{
	mmio_write(vblk.common + COMMON_STATUS, 1, vblk_status() | bits);
}

static void common_write64(unsigned reg, const void *p)
{
	mmio_write(vblk.common + reg, 4, (uint32_t)(uint64_t)p);
	mmio_write(vblk.common + reg + 4, 4, (uint64_t)p >> 32);
}

static bool features_negotiate(uint64_t without)
{
	uint64_t offered;

	mmio_write(vblk.common + COMMON_DEVICE_FEATURE_SELECT, 4, 0);
	offered = mmio_read(vblk.common + COMMON_DEVICE_FEATURE, 4);
	mmio_write(vblk.common + COMMON_DEVICE_FEATURE_SELECT, 4, 1);
	offered |= mmio_read(vblk.common + COMMON_DEVICE_FEATURE, 4) << 32;
	if (vblk.block_bytes)
		without |= ~(F_INDIRECT | F_EVENT_IDX | F_VERSION_1); /* the lower bits have other meanings */
	vblk.features = offered & ~without &
			(F_BLK_SIZE | F_FLUSH | F_MQ | F_DISCARD | F_WRITE_ZEROES | F_INDIRECT |
				F_EVENT_IDX | F_VERSION_1);
	mmio_write(vblk.common + COMMON_DRIVER_FEATURE_SELECT, 4, 0);
	mmio_write(vblk.common + COMMON_DRIVER_FEATURE, 4, (uint32_t)vblk.features);
	mmio_write(vblk.common + COMMON_DRIVER_FEATURE_SELECT, 4, 1);
	mmio_write(vblk.common + COMMON_DRIVER_FEATURE, 4, vblk.features >> 32);
	vblk_status_add(STATUS_FEATURES_OK);
	return vblk_status() & STATUS_FEATURES_OK;
}

/* The event fields follow the ring entries directly, so their place depends on the queue size. */
volatile uint16_t *vblk_used_event(struct queue *q)
{
	return &q->avail.ring[vblk.queue_size];
}

volatile uint16_t *vblk_avail_event(struct queue *q)
{
	return (volatile uint16_t *)((uint8_t *)&q->used + 4 + 8 * vblk.queue_size);
}

static void queue_start(unsigned i)
{
	struct queue *q = &vblk_queues[i];

	memset(q, 0, sizeof(*q));
	q->avail.flags = 1; /* polling, so no interrupts */
	mmio_write(vblk.common + COMMON_QUEUE_SELECT, 2, vblk.first_queue + i);
	mmio_write(vblk.common + COMMON_QUEUE_SIZE, 2, vblk.queue_size);
	mmio_write(vblk.common + COMMON_QUEUE_VECTOR, 2, 0xffff);
	common_write64(COMMON_QUEUE_DESC, q->desc);
	common_write64(COMMON_QUEUE_AVAIL, &q->avail);
	common_write64(COMMON_QUEUE_USED, &q->used);
	q->notify_gpa = vblk.notify +
			mmio_read(vblk.common + COMMON_QUEUE_NOTIFY_OFF, 2) * vblk.notify_step;
	mmio_write(vblk.common + COMMON_QUEUE_ENABLE, 2, 1);
}

static const char *size_choose(uint16_t queue_size, uint16_t queues)
{
	uint64_t most, have;

	mmio_write(vblk.common + COMMON_QUEUE_SELECT, 2, vblk.first_queue);
	most = mmio_read(vblk.common + COMMON_QUEUE_SIZE, 2);
	have = mmio_read(vblk.common + COMMON_QUEUES, 2);
	vblk.queue_size = queue_size ? queue_size
				     : (uint16_t)(most < VBLK_QUEUE_SIZE ? most : VBLK_QUEUE_SIZE);
	vblk.queues = queues ? queues : 1;
	if (vblk.queue_size > most || vblk.queue_size > VBLK_QUEUE_SIZE)
		return "the queue is not that long";
	if (vblk.first_queue + vblk.queues > have || vblk.queues > VBLK_QUEUES)
		return "not so many queues";
	return NULL;
}

void vblk_stop(void)
{
	mmio_write(vblk.common + COMMON_STATUS, 1, 0);
}

const char *vblk_open(uint16_t queue_size, uint16_t queues, uint64_t without)
{
	struct patience p = {0};
	const char *wrong;

	vblk_stop();
	while (vblk_status())
		if (patience_is_over(&p))
			return "the disk does not reset";
	vblk_status_add(STATUS_ACKNOWLEDGE);
	vblk_status_add(STATUS_DRIVER);
	if (!features_negotiate(without))
		return "the disk refuses the features";
	wrong = size_choose(queue_size, queues);
	if (wrong)
		return wrong;
	for (unsigned i = 0; i < vblk.queues; i++)
		queue_start(i);
	vblk_status_add(STATUS_DRIVER_OK);
	return vblk_status() & STATUS_NEEDS_RESET ? "the disk needs a reset at once" : NULL;
}

unsigned vblk_slots(void)
{
	return vblk.features & F_INDIRECT ? vblk.queue_size : vblk.queue_size / 3;
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
	struct queue *q = &vblk_queues[qi];

	return vblk.block_bytes ? scsi_chain_fill(d, first, &scsi_slots[qi][slot], &q->headers[slot], data, bytes)
				: blk_chain_fill(d, first, &q->headers[slot], data, bytes, &q->status[slot]);
}

void vblk_put(
	unsigned qi, unsigned slot, uint32_t type, uint64_t sector, void *data, uint32_t bytes)
{
	struct queue *q = &vblk_queues[qi];
	uint16_t head;

	q->headers[slot] = (struct blk_header){type, 0, sector};
	q->status[slot] = 0xee;
	if (vblk.features & F_INDIRECT) {
		unsigned n = chain_fill(q->tables[slot], 0, qi, slot, data, bytes);

		head = (uint16_t)slot;
		q->desc[slot] = (struct desc){(uint64_t)q->tables[slot], 16 * n, DESC_INDIRECT, 0};
	} else {
		head = (uint16_t)(3 * slot);
		chain_fill(&q->desc[head], head, qi, slot, data, bytes);
	}
	q->avail.ring[q->avail_idx++ % vblk.queue_size] = head;
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
	if (vblk.features & F_EVENT_IDX)
		kick = (uint16_t)(q->avail_idx - *vblk_avail_event(q) - 1) <
		       (uint16_t)(q->avail_idx - old);
	else
		kick = !(*(volatile uint16_t *)&q->used.flags & 1);
	if (kick)
		vblk_kick(qi);
}

int vblk_take(unsigned qi)
{
	struct queue *q = &vblk_queues[qi];
	uint32_t id;

	if (*(volatile uint16_t *)&q->used.idx == q->last_used)
		return -1;
	__asm__ volatile("" : : : "memory");
	id = q->used.ring[q->last_used++ % vblk.queue_size].id;
	id = vblk.features & F_INDIRECT ? id : id / 3;
	if (vblk.block_bytes)
		q->status[id] = scsi_status(&scsi_slots[qi][id]);
	return (int)id;
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
	return vblk_queues[q].status[0];
}
