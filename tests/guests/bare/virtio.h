/* virtio: what the drivers of all devices share, for virtio over PCI (virtio 1.1), polled, at CPL 3. */
#ifndef CAIRN_TESTS_BARE_VIRTIO_H
#define CAIRN_TESTS_BARE_VIRTIO_H

#include "bare.h"

#define VIRTIO_QUEUE_SIZE 256 /* most entries of a queue */
#define VIRTIO_PATIENCE_CYCLES 100000000000ULL /* the program behind a device starts late on a busy host */

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8
#define STATUS_NEEDS_RESET 0x40

#define COMMON_DEVICE_FEATURE_SELECT 0
#define COMMON_DEVICE_FEATURE 4
#define COMMON_DRIVER_FEATURE_SELECT 8
#define COMMON_DRIVER_FEATURE 12
#define COMMON_CONFIG_VECTOR 16
#define COMMON_QUEUES 18
#define COMMON_STATUS 20
#define COMMON_QUEUE_SELECT 22
#define COMMON_QUEUE_SIZE 24
#define COMMON_QUEUE_VECTOR 26
#define COMMON_QUEUE_ENABLE 28
#define COMMON_QUEUE_NOTIFY_OFF 30
#define COMMON_QUEUE_DESC 32
#define COMMON_QUEUE_AVAIL 40
#define COMMON_QUEUE_USED 48

#define F_INDIRECT (1ULL << 28)
#define F_EVENT_IDX (1ULL << 29)
#define F_VERSION_1 (1ULL << 32)

#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4

struct desc {
	uint64_t gpa;
	uint32_t bytes;
	uint16_t flags, next;
};

struct avail {
	uint16_t flags, idx, ring[VIRTIO_QUEUE_SIZE], used_event;
};

struct used {
	uint16_t flags, idx;
	struct {
		uint32_t id, bytes;
	} ring[VIRTIO_QUEUE_SIZE];
	uint16_t avail_event;
};

struct queue {
	struct desc desc[VIRTIO_QUEUE_SIZE] __attribute__((aligned(4096)));
	struct avail avail __attribute__((aligned(4096)));
	struct used used __attribute__((aligned(4096)));
	uint16_t last_used, avail_idx;
	uint64_t notify_gpa;
};

struct virtio {
	int bdf; /* -1: not found */
	uint64_t common, notify, isr, config;
	uint32_t notify_step;
	uint64_t features;   /* negotiated ones */
	uint16_t queue_size; /* the same for all queues */
};

/* Functions return NULL, or the error's text. */

/* Find the device `index` of those with this PCI id, and set all of v but queue_size. */
const char *virtio_find(struct virtio *v, uint16_t device, unsigned index);
/* Let entry 0 of the device's MSI-X table raise VECTOR_MSI. Returns false: the device has no MSI-X. */
bool virtio_msix_enable(const struct virtio *v);
void virtio_msix_disable(const struct virtio *v);
uint8_t virtio_status(const struct virtio *v);
void virtio_status_add(const struct virtio *v, uint8_t bits);
/* Reset the device, and accept those of the wanted features that it offers. */
const char *virtio_begin(struct virtio *v, uint64_t wanted);
/* Set up queue i of the device, without interrupts, and enable it. */
void virtio_queue_start(const struct virtio *v, struct queue *q, unsigned i);
/* Publish the chain that begins at descriptor `head` in queue i, and kick the device. */
void virtio_publish(const struct virtio *v, struct queue *q, unsigned i, uint16_t head);
/* Take the next used entry. Returns its id, and its bytes if bytes is not NULL; -1: none. */
int virtio_take(const struct virtio *v, struct queue *q, uint32_t *bytes);

#endif
