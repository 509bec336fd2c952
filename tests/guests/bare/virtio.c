#include "virtio.h"

static uint64_t capability_gpa(uint16_t bdf, unsigned cap)
{
	uint64_t bar = pci_bar(bdf, pci_read(bdf, cap + 4, 1));

	return bar ? bar + pci_read(bdf, cap + 8, 4) : 0;
}

static void capabilities_read(struct virtio *v)
{
	uint16_t bdf = (uint16_t)v->bdf;
	unsigned cap = pci_read(bdf, 0x34, 1) & 0xfc;

	for (int n = 0; cap && n < 48; n++, cap = pci_read(bdf, cap + 1, 1) & 0xfc) {
		if (pci_read(bdf, cap, 1) != 0x09)
			continue;
		switch (pci_read(bdf, cap + 3, 1)) {
		case 1:
			v->common = capability_gpa(bdf, cap);
			break;
		case 2:
			v->notify = capability_gpa(bdf, cap);
			v->notify_step = pci_read(bdf, cap + 16, 4);
			break;
		case 3:
			v->isr = capability_gpa(bdf, cap);
			break;
		case 4:
			v->config = capability_gpa(bdf, cap);
		}
	}
}

const char *virtio_find(struct virtio *v, uint16_t device, unsigned index)
{
	*v = (struct virtio){.bdf = pci_find(0x1af4, device, index), .queue_size = v->queue_size};
	if (v->bdf < 0)
		return "no such device";
	pci_write((uint16_t)v->bdf, 4, 2, 0x0006); /* memory, bus master */
	capabilities_read(v);
	return v->common && v->notify && v->isr && v->config ? NULL : "the device lacks a capability";
}

static unsigned msix_find(uint16_t bdf)
{
	unsigned cap = pci_read(bdf, 0x34, 1) & 0xfc;

	for (int n = 0; cap && n < 48; n++, cap = pci_read(bdf, cap + 1, 1) & 0xfc)
		if (pci_read(bdf, cap, 1) == 0x11)
			return cap;
	return 0;
}

bool virtio_msix_enable(const struct virtio *v)
{
	uint16_t bdf = (uint16_t)v->bdf;
	unsigned cap = msix_find(bdf);
	uint32_t table = cap ? pci_read(bdf, cap + 4, 4) : 0;
	uint64_t entry = cap ? pci_bar(bdf, table & 7) : 0;

	if (!entry)
		return false;
	entry += table & ~7u;
	mmio_write(entry, 4, 0xfee00000);
	mmio_write(entry + 4, 4, 0);
	mmio_write(entry + 8, 4, VECTOR_MSI);
	mmio_write(entry + 12, 4, 0);
	pci_write(bdf, cap + 2, 2, 0x8000);
	return true;
}

void virtio_msix_disable(const struct virtio *v)
{
	unsigned cap = msix_find((uint16_t)v->bdf);

	if (cap)
		pci_write((uint16_t)v->bdf, cap + 2, 2, 0);
}

uint8_t virtio_status(const struct virtio *v)
{
	return (uint8_t)mmio_read(v->common + COMMON_STATUS, 1);
}

void virtio_status_add(const struct virtio *v, uint8_t bits)
{
	mmio_write(v->common + COMMON_STATUS, 1, virtio_status(v) | bits);
}

static const char *reset(const struct virtio *v)
{
	uint64_t begin = rdtsc();

	mmio_write(v->common + COMMON_STATUS, 1, 0);
	while (virtio_status(v))
		if (rdtsc() - begin > VIRTIO_PATIENCE_CYCLES)
			return "the device does not reset";
	return NULL;
}

static void features_negotiate(struct virtio *v, uint64_t wanted)
{
	v->features = 0;
	for (unsigned word = 0; word < 2; word++) {
		mmio_write(v->common + COMMON_DEVICE_FEATURE_SELECT, 4, word);
		v->features |= wanted & mmio_read(v->common + COMMON_DEVICE_FEATURE, 4) << (32 * word);
		mmio_write(v->common + COMMON_DRIVER_FEATURE_SELECT, 4, word);
		mmio_write(v->common + COMMON_DRIVER_FEATURE, 4, (uint32_t)(v->features >> (32 * word)));
	}
}

const char *virtio_begin(struct virtio *v, uint64_t wanted)
{
	const char *wrong = reset(v);

	if (wrong)
		return wrong;
	virtio_status_add(v, STATUS_ACKNOWLEDGE);
	virtio_status_add(v, STATUS_DRIVER);
	features_negotiate(v, wanted);
	virtio_status_add(v, STATUS_FEATURES_OK);
	return virtio_status(v) & STATUS_FEATURES_OK ? NULL : "the device refuses the features";
}

static void common_write64(const struct virtio *v, unsigned reg, const void *p)
{
	mmio_write(v->common + reg, 4, (uint32_t)(uint64_t)p);
	mmio_write(v->common + reg + 4, 4, (uint64_t)p >> 32);
}

void virtio_queue_start(const struct virtio *v, struct queue *q, unsigned i)
{
	memset(q, 0, sizeof(*q));
	q->avail.flags = 1; /* polling, so no interrupts */
	mmio_write(v->common + COMMON_QUEUE_SELECT, 2, i);
	mmio_write(v->common + COMMON_QUEUE_SIZE, 2, v->queue_size);
	mmio_write(v->common + COMMON_QUEUE_VECTOR, 2, 0xffff);
	common_write64(v, COMMON_QUEUE_DESC, q->desc);
	common_write64(v, COMMON_QUEUE_AVAIL, &q->avail);
	common_write64(v, COMMON_QUEUE_USED, &q->used);
	q->notify_gpa = v->notify + mmio_read(v->common + COMMON_QUEUE_NOTIFY_OFF, 2) * v->notify_step;
	mmio_write(v->common + COMMON_QUEUE_ENABLE, 2, 1);
}

/* Always kicks. The device's unit test covers notification suppression. */
void virtio_publish(const struct virtio *v, struct queue *q, unsigned i, uint16_t head)
{
	q->avail.ring[q->avail_idx++ % v->queue_size] = head;
	__asm__ volatile("mfence" : : : "memory");
	*(volatile uint16_t *)&q->avail.idx = q->avail_idx;
	__asm__ volatile("mfence" : : : "memory");
	mmio_write(q->notify_gpa, 2, i);
}

int virtio_take(const struct virtio *v, struct queue *q, uint32_t *bytes)
{
	unsigned at;

	if (*(volatile uint16_t *)&q->used.idx == q->last_used)
		return -1;
	__asm__ volatile("" : : : "memory");
	at = q->last_used++ % v->queue_size;
	if (bytes)
		*bytes = q->used.ring[at].bytes;
	return (int)q->used.ring[at].id;
}
