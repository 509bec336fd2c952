/* virtio: what every virtio device shares (virtio 1.2, section 2): feature negotiation,
 * the status machine, queues, doorbells, reset, faults. A transport (virtio_pci) shows it
 * to the guest; a device (virtio_blk, …) gives it meaning.
 *
 * Threading: v->lock guards everything. Registers are handled on vCPU threads, doorbells
 * on v->loop. queue_run, quiesce and the config hooks are called with the lock held;
 * quiesce may wait on a condition with it. Order of locks: PCI config → v->lock → msix,
 * INTx. DEV_EVENTs are sent with the lock held. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_H

#include "devices/device.h"
#include "devices/virtio/virtqueue.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct dev_host;
struct err;
struct loop;
struct loop_watch;
struct state_reader;
struct state_writer;
struct virtio_dev;

#define VIRTIO_QUEUES_MAX 32
#define VIRTIO_CONFIG_BYTES_MAX 64

#define VIRTIO_STATUS_ACKNOWLEDGE 1
#define VIRTIO_STATUS_DRIVER 2
#define VIRTIO_STATUS_DRIVER_OK 4
#define VIRTIO_STATUS_FEATURES_OK 8
#define VIRTIO_STATUS_NEEDS_RESET 64
#define VIRTIO_STATUS_FAILED 128

#define VIRTIO_F_INDIRECT_DESC (1ULL << 28)
#define VIRTIO_F_EVENT_IDX (1ULL << 29)
#define VIRTIO_F_VERSION_1 (1ULL << 32)

struct virtio_ops {
	uint16_t id; /* virtio device type */
	uint32_t class_code; /* PCI's */
	/* The queue's doorbell rang, or the device went on after a pause. May be called with
	 * nothing to do; never on a stopped or paused device. Bounded: what one call does is
	 * at most about two rings full; then virtio_queue_kick() itself. */
	void (*queue_run)(struct virtio_dev *v, unsigned q);
	/* Return when nothing is in flight. NULL: nothing ever is between calls. */
	void (*quiesce)(struct virtio_dev *v);
	/* Forget what is the device's own; after quiesce. NULL allowed. */
	void (*reset)(struct virtio_dev *v);
	/* Features are settled (FEATURES_OK). NULL allowed. */
	void (*features_set)(struct virtio_dev *v);
	/* The driver wrote [off, off+len) of v->config (only bits in config_writable changed). */
	void (*config_written)(struct virtio_dev *v, unsigned off, unsigned len);
	/* The device's own state. NULL allowed. load: registers and queues are loaded already. */
	void (*save)(struct virtio_dev *v, struct state_writer *w);
	int (*load)(struct virtio_dev *v, struct state_reader *r, struct err *e);
};

/* The transport's side. Lock held. */
struct virtio_transport_ops {
	void (*queue_interrupt)(void *transport, unsigned q);
	void (*config_interrupt)(void *transport);
	/* Status or a queue's enable changed: make doorbells agree. */
	void (*changed)(void *transport);
	/* The device was reset: vectors, pending interrupts. */
	void (*reset)(void *transport);
};

struct virtio_queue {
	struct virtqueue vq;
	struct virtio_dev *dev;
	unsigned index;
	int kick_fd; /* eventfd */
	struct loop_watch *watch;
};

struct virtio_dev {
	struct device dev;
	struct dev_host *host;
	struct loop *loop;
	const struct virtio_ops *ops;
	const struct virtio_transport_ops *transport_ops;
	void *transport;

	pthread_mutex_t lock; /* what follows */
	uint64_t features_offered, features; /* features: the driver's choice */
	uint8_t status, generation;
	bool paused;
	bool faulted; /* NEEDS_RESET has been told */
	unsigned nqueues;
	struct virtio_queue *queues;
	unsigned config_bytes;
	uint8_t config[VIRTIO_CONFIG_BYTES_MAX]; /* as the guest reads it */
	uint8_t config_writable[VIRTIO_CONFIG_BYTES_MAX];
};

/* Set up a zeroed v: queues of at most queue_size entries, their eventfds and watches on
 * l. dev_ops: of the concrete device. Returns 0; -errno with v ready for virtio_done(). */
int virtio_init(struct virtio_dev *v, struct dev_host *h, struct loop *l, const char *name,
	const struct device_ops *dev_ops, const struct virtio_ops *ops, unsigned nqueues,
	unsigned queue_size, struct err *e);
/* The loop does not run any more. */
void virtio_done(struct virtio_dev *v);

/* ---- for devices (lock held) ---- */

/* Whether rings may be looked at. */
bool virtio_is_running(const struct virtio_dev *v);
/* Interrupt for a queue, if what was pushed wants one. */
void virtio_queue_interrupt(struct virtio_dev *v, unsigned q);
/* Have queue_run called on the loop. Any thread, lock not needed. */
void virtio_queue_kick(struct virtio_dev *v, unsigned q);
void virtio_kick_all(struct virtio_dev *v);
/* The driver broke the rules: NEEDS_RESET, config interrupt, one event. sentence: constant. */
void virtio_fault(struct virtio_dev *v, const char *sentence);

/* ---- for transports (lock held) ---- */

void virtio_set_status(struct virtio_dev *v, uint8_t status);
/* Ignored after FEATURES_OK. */
void virtio_set_features(struct virtio_dev *v, unsigned word, uint32_t bits);
/* Ignored while the queue is enabled. */
void virtio_queue_set_size(struct virtio_dev *v, unsigned q, uint16_t size);
/* part: 0 descriptors, 1 available, 2 used; word: 0 low half, 1 high half. */
void virtio_queue_set_address(struct virtio_dev *v, unsigned q, unsigned part, unsigned word,
	uint32_t value);
void virtio_queue_enable(struct virtio_dev *v, unsigned q);
void virtio_config_read(struct virtio_dev *v, unsigned off, void *dst, unsigned len);
void virtio_config_write(struct virtio_dev *v, unsigned off, const void *src, unsigned len);

/* ---- parts of device_ops (they lock) ---- */

void virtio_reset(struct virtio_dev *v);
void virtio_pause(struct virtio_dev *v);
void virtio_resume(struct virtio_dev *v);
void virtio_save(struct virtio_dev *v, struct state_writer *w);
int virtio_load(struct virtio_dev *v, struct state_reader *r, struct err *e);

#endif
