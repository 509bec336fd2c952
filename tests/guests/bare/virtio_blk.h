/* virtio_blk: a polling driver for virtio-blk over PCI (virtio 1.1), all at CPL 3. Also for a disk or CD drive behind
 * virtio-scsi (virtio_scsi.c): then each request is translated to a SCSI command. */
#ifndef CAIRN_TESTS_BARE_VIRTIO_BLK_H
#define CAIRN_TESTS_BARE_VIRTIO_BLK_H

#include "virtio.h"

#define VBLK_QUEUES 4
#define VBLK_DATA_BYTES (4u << 20)
#define SECTOR_BYTES 512

#define F_BLK_SIZE (1ULL << 6)
#define F_FLUSH (1ULL << 9)
#define F_MQ (1ULL << 12)
#define F_DISCARD (1ULL << 13)
#define F_WRITE_ZEROES (1ULL << 14)

#define BLK_IN 0
#define BLK_OUT 1
#define BLK_FLUSH 4
#define BLK_GET_ID 8
#define BLK_DISCARD 11
#define BLK_WRITE_ZEROES 13
#define BLK_SCSI 0x100 /* our own: the command of scsi_cdb_set(), which reads */

struct blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};

/* Memory for the requests of a queue, by slot. */
struct vblk_requests {
	struct desc tables[VIRTIO_QUEUE_SIZE][4] __attribute__((aligned(16)));
	struct blk_header headers[VIRTIO_QUEUE_SIZE];
	volatile uint8_t status[VIRTIO_QUEUE_SIZE];
};

struct vblk {
	struct virtio v;
	uint16_t queues;
	uint64_t kicks;
	uint16_t first_queue;	  /* of virtio-scsi: 2, the first queue of requests */
	uint8_t target;		  /* of virtio-scsi */
	uint32_t block_bytes;	  /* of virtio-scsi; 0: virtio-blk */
};

extern struct vblk vblk;
extern struct queue vblk_queues[VBLK_QUEUES];
extern struct vblk_requests vblk_requests[VBLK_QUEUES];
extern uint8_t vblk_data[VBLK_DATA_BYTES];

/* Functions return NULL, or the error's text. */
const char *vblk_find(unsigned index);
/* Find the SCSI controller, to be used for one of its targets. */
const char *vblk_find_scsi(uint8_t target, uint32_t block_bytes);
/* Reset the device that vblk_find() has found. */
void vblk_stop(void);
/* Reset the device, negotiate all features except `without`, set up the queues and start. For a
 * size below VIRTIO_QUEUE_SIZE the event fields move as virtio requires. */
const char *vblk_open(uint16_t queue_size, uint16_t queues, uint64_t without);
/* Return the address of an event field for the current queue size. */
volatile uint16_t *vblk_used_event(struct queue *q);
volatile uint16_t *vblk_avail_event(struct queue *q);

/* Put request `slot` into queue q: header, data (bytes 0: none), status. vblk_announce() publishes
 * it. */
void vblk_put(
	unsigned q, unsigned slot, uint32_t type, uint64_t sector, void *data, uint32_t bytes);
/* Return the number of slots of a queue. */
unsigned vblk_slots(void);
/* Publish all requests put, and kick if the device asks for it. */
void vblk_announce(unsigned q);
/* Return the slot of a completed request; -1: none. */
int vblk_take(unsigned q);
/* Run one request on queue q and return its status byte; -1: no completion within about 10 s. */
int vblk_do(unsigned q, uint32_t type, uint64_t sector, void *data, uint32_t bytes);
/* ---- virtio_scsi.c ---- */
#define SCSI_CDB_BYTES 32
#define SCSI_RESPONSE_BYTES 108

struct scsi_slot {
	uint8_t header[19 + SCSI_CDB_BYTES];
	uint8_t parameters[24];
	volatile uint8_t response[SCSI_RESPONSE_BYTES];
};

extern struct scsi_slot scsi_slots[VBLK_QUEUES][VIRTIO_QUEUE_SIZE];

/* Make the descriptors of a command from a request of virtio-blk, or from the CDB that scsi_cdb_set() has set. Returns
 * their number, at most 3. */
unsigned scsi_chain_fill(struct desc *d, uint16_t first, struct scsi_slot *s, const struct blk_header *h, void *data, uint32_t bytes);
/* Return the answer as a status byte of virtio-blk. */
uint8_t scsi_status(const struct scsi_slot *s);
/* Use this command for requests of type BLK_SCSI. */
void scsi_cdb_set(const uint8_t *cdb, unsigned n);

/* Kick a queue even if the device suppresses notifications. */
void vblk_kick(unsigned q);

#endif
