/* virtio: the common part of all virtio devices (virtio 1.2, section 2): feature negotiation, the
 * status machine, queues, doorbells, reset, faults. A transport (virtio_pci) presents the device to
 * the guest; a device (virtio_blk, …) implements it.
 *
 * Threading: v->lock guards everything. Registers are handled on vCPU threads, doorbells on
 * v->loop. The functions of virtio_ops are called with the lock held; quiesce may wait on a condition
 * variable with it. Lock order: PCI config → v->lock → msix, INTx. DEV_EVENTs are
 * sent with the lock held. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_H

#include "base/cpu_share.h"
#include "devices/device.h"
#include "devices/virtio/virtqueue.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct dev_host;
struct err;
struct loop;
struct loop_timer;
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
	uint32_t class_code; /* PCI class code */
	/* The share of one processor that queue_run may use; 0: no limit. While the share is used up, the doorbells
	 * rest, so that a guest that rings them all the time takes little more than its vCPUs' time from the host. */
	unsigned cpu_percent;
	/* Offered features that an older state may lack. A device that loads such a state stops offering them. */
	uint64_t features_newer;
	/* Serve queue q, after its doorbell or a pause. The queue may be empty. Never called on a stopped or paused
	 * device. Does a bounded amount of work per call; the rest is served later, for example after
	 * virtio_queue_kick(). */
	void (*queue_run)(struct virtio_dev *v, unsigned q);
	/* Wait until nothing is in flight. NULL: nothing is in flight between calls. */
	void (*quiesce)(struct virtio_dev *v);
	/* Clear the device's own state, after quiesce. NULL allowed. */
	void (*reset)(struct virtio_dev *v);
	/* Apply the negotiated features (FEATURES_OK). NULL allowed. */
	void (*features_set)(struct virtio_dev *v);
	/* Apply a write of the driver to [off, off+len) of v->config; only bits in config_writable
	 * have changed. */
	void (*config_written)(struct virtio_dev *v, unsigned off, unsigned len);
	/* Save and load the device's own state. NULL allowed. load() runs after registers and
	 * queues are loaded. */
	void (*save)(struct virtio_dev *v, struct state_writer *w);
	int (*load)(struct virtio_dev *v, struct state_reader *r, struct err *e);
};

/* The transport's functions. The lock is held. */
struct virtio_transport_ops {
	void (*queue_interrupt)(void *transport, unsigned q);
	void (*config_interrupt)(void *transport);
	/* Let each signal of an eventfd be an interrupt of the queue, where possible without a thread of this process
	 * (msix_wire()). fd: borrowed until the next call; -1: no more, and the interrupts of earlier signals are
	 * delivered, or fd is still to be read. */
	void (*queue_wire)(void *transport, unsigned q, int fd);
	/* Update the doorbells after a change of the status or of a queue's enable bit. */
	void (*changed)(void *transport);
	/* Clear vectors and pending interrupts after a reset of the device. */
	void (*reset)(void *transport);
};

struct virtio_queue {
	struct virtqueue vq;
	struct virtio_dev *dev;
	unsigned index;
	int kick_fd; /* eventfd */
	struct loop_watch *watch;
	bool quiet; /* the doorbell stays disabled until the loop, which polls, is about to sleep */
};

struct virtio_dev {
	struct device dev;
	struct dev_host *host;
	struct loop *loop;
	const struct virtio_ops *ops;
	const struct virtio_transport_ops *transport_ops;
	void *transport;
	struct cpu_share share; /* used on the loop only */
	struct loop_timer *rest; /* ends the doorbells' rest; NULL: the ops have no cpu_percent */

	pthread_mutex_t lock; /* protects all fields below */
	uint64_t features_offered, features; /* features: those that the driver accepted */
	uint8_t status, generation;
	bool early; /* the driver rang a doorbell before DRIVER_OK; the device serves it as if that were set */
	bool paused;
	bool faulted; /* NEEDS_RESET has been reported */
	bool resetting; /* a reset waits for requests in flight, without the lock */
	pthread_cond_t reset_done;
	unsigned nqueues;
	struct virtio_queue *queues;
	unsigned config_bytes;
	uint8_t config[VIRTIO_CONFIG_BYTES_MAX]; /* content as the guest reads it */
	uint8_t config_writable[VIRTIO_CONFIG_BYTES_MAX];
};

/* Initialize a zeroed v: queues of at most queue_size entries, with eventfds and watches on l.
 * dev_ops: ops of the concrete device.
 * Returns 0; -errno, with v in a state for virtio_done(). */
int virtio_init(struct virtio_dev *v, struct dev_host *h, struct loop *l, const char *name,
	const struct device_ops *dev_ops, const struct virtio_ops *ops, unsigned nqueues,
	unsigned queue_size, struct err *e);
/* Free queues, eventfds and watches. The loop no longer runs. */
void virtio_done(struct virtio_dev *v);

/* ---- for devices (lock held) ---- */

/* Return whether the device may access its rings. */
bool virtio_is_running(const struct virtio_dev *v);
/* Send a queue's interrupt, if the driver wants one for the pushed requests. */
void virtio_queue_interrupt(struct virtio_dev *v, unsigned q);
/* Make the loop call queue_run. Any thread; needs no lock. */
void virtio_queue_kick(struct virtio_dev *v, unsigned q);
void virtio_kick_all(struct virtio_dev *v);
/* Enable the doorbell of a queue that was just emptied, unless the loop is about to poll. polled: the loop polls for
 * this device. The device is locked. Returns whether requests came meanwhile. */
bool virtio_doorbell_enable(struct virtio_dev *v, unsigned q, bool polled);
/* The driver may be about to add a request: disable the doorbell if the loop, which polls for this queue, will poll
 * before it sleeps. The device is locked. */
void virtio_doorbell_disable(struct virtio_dev *v, unsigned q);
/* The loop is about to sleep: enable a doorbell that polls left disabled, and kick the queue if requests came
 * meanwhile. The device is locked. Returns whether any came. */
bool virtio_doorbell_wake(struct virtio_dev *v, unsigned q);
/* Tell the driver, if there is one, that `config` has changed. The device is locked. */
void virtio_config_changed(struct virtio_dev *v);
/* Report a protocol violation by the driver: set NEEDS_RESET, send a config interrupt (if DRIVER_OK is set) and an
 * event. Does nothing if the device has reported one since its reset. sentence: a constant. */
void virtio_fault(struct virtio_dev *v, const char *sentence);

/* ---- for transports (lock held) ---- */

void virtio_set_status(struct virtio_dev *v, uint8_t status);
/* Set the driver's features. Ignored after FEATURES_OK. */
void virtio_set_features(struct virtio_dev *v, unsigned word, uint32_t bits);
/* Set a queue's size. Ignored while the queue is enabled, and if the size is too large or no power of two. */
void virtio_queue_set_size(struct virtio_dev *v, unsigned q, uint16_t size);
/* Set half of a queue's address. part: 0 descriptors, 1 available, 2 used; word: 0 low half, 1 high
 * half. */
void virtio_queue_set_address(struct virtio_dev *v, unsigned q, unsigned part, unsigned word,
	uint32_t value);
void virtio_queue_enable(struct virtio_dev *v, unsigned q);
void virtio_config_read(struct virtio_dev *v, unsigned off, void *dst, unsigned len);
void virtio_config_write(struct virtio_dev *v, unsigned off, const void *src, unsigned len);

/* ---- parts of device_ops (these take the lock) ---- */

void virtio_reset(struct virtio_dev *v);
void virtio_pause(struct virtio_dev *v);
void virtio_resume(struct virtio_dev *v);
void virtio_save(struct virtio_dev *v, struct state_writer *w);
int virtio_load(struct virtio_dev *v, struct state_reader *r, struct err *e);

#endif
