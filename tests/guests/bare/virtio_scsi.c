/* Requests of virtio-blk as SCSI commands of virtio-scsi (virtio 1.2, section 5.6.6). */
#include "virtio_blk.h"

enum { READ_16 = 0x88, WRITE_16 = 0x8a, SYNCHRONIZE_CACHE_10 = 0x35, UNMAP = 0x42, WRITE_SAME_16 = 0x93 };
enum { ILLEGAL_REQUEST = 5 };

struct scsi_slot scsi_slots[VBLK_QUEUES][VIRTIO_QUEUE_SIZE];
static uint8_t own_cdb[SCSI_CDB_BYTES];

static void be_store(uint8_t *p, uint64_t v, unsigned n)
{
	while (n--) {
		p[n] = (uint8_t)v;
		v >>= 8;
	}
}

void scsi_cdb_set(const uint8_t *cdb, unsigned n)
{
	memset(own_cdb, 0, sizeof(own_cdb));
	memcpy(own_cdb, cdb, n);
}

struct range {
	uint64_t sector;
	uint32_t count, flags;
};

/* Zeros need no data (NDOB). */
static void write_same_fill(struct scsi_slot *s, const struct range *r)
{
	uint8_t *cdb = s->header + 19;

	cdb[0] = WRITE_SAME_16;
	cdb[1] = 1;
	be_store(cdb + 2, r->sector * SECTOR_BYTES / vblk.block_bytes, 8);
	be_store(cdb + 10, r->count * SECTOR_BYTES / vblk.block_bytes, 4);
}

/* The range of a discard as the parameters of UNMAP. */
static void unmap_fill(struct scsi_slot *s, const struct range *r)
{
	memset(s->parameters, 0, sizeof(s->parameters));
	be_store(s->parameters, 22, 2);
	be_store(s->parameters + 2, 16, 2);
	be_store(s->parameters + 8, r->sector * SECTOR_BYTES / vblk.block_bytes, 8);
	be_store(s->parameters + 16, r->count * SECTOR_BYTES / vblk.block_bytes, 4);
}

/* Returns whether the command reads. */
static bool cdb_fill(struct scsi_slot *s, const struct blk_header *h, uint32_t bytes)
{
	uint8_t *cdb = s->header + 19;

	memset(cdb, 0, SCSI_CDB_BYTES);
	switch (h->type) {
	case BLK_IN:
	case BLK_OUT:
		cdb[0] = h->type == BLK_IN ? READ_16 : WRITE_16;
		be_store(cdb + 2, h->sector * SECTOR_BYTES / vblk.block_bytes, 8);
		be_store(cdb + 10, bytes / vblk.block_bytes, 4);
		return h->type == BLK_IN;
	case BLK_FLUSH:
		cdb[0] = SYNCHRONIZE_CACHE_10;
		return false;
	case BLK_DISCARD:
		cdb[0] = UNMAP;
		be_store(cdb + 7, sizeof(s->parameters), 2);
		return false;
	case BLK_SCSI:
		memcpy(cdb, own_cdb, SCSI_CDB_BYTES);
		return true;
	default:
		cdb[0] = 0xff; /* no such command */
		return false;
	}
}

unsigned scsi_chain_fill(struct desc *d, uint16_t first, struct scsi_slot *s, const struct blk_header *h, void *data, uint32_t bytes)
{
	bool reads;
	unsigned n = 0;

	memset(s->header, 0, sizeof(s->header));
	s->header[0] = 1;
	s->header[1] = vblk.target;
	s->header[2] = 0x40;
	reads = cdb_fill(s, h, bytes);
	if (h->type == BLK_WRITE_ZEROES) {
		write_same_fill(s, data);
		bytes = 0;
	}
	if (h->type == BLK_DISCARD) {
		unmap_fill(s, data);
		data = s->parameters;
		bytes = sizeof(s->parameters);
	}
	s->response[10] = s->response[11] = 0xee;
	d[n++] = (struct desc){(uint64_t)s->header, sizeof(s->header), DESC_NEXT, 0};
	if (bytes && !reads)
		d[n++] = (struct desc){(uint64_t)data, bytes, DESC_NEXT, 0};
	d[n++] = (struct desc){(uint64_t)s->response, SCSI_RESPONSE_BYTES, DESC_WRITE, 0};
	if (bytes && reads) {
		d[n - 1].flags |= DESC_NEXT;
		d[n++] = (struct desc){(uint64_t)data, bytes, DESC_WRITE, 0};
	}
	for (unsigned i = 0; i < n; i++)
		d[i].next = (uint16_t)(first + i + 1);
	return n;
}

uint8_t scsi_status(const struct scsi_slot *s)
{
	if (!s->response[10] && !s->response[11])
		return 0;
	return !s->response[11] && (s->response[14] & 15) == ILLEGAL_REQUEST ? 2 : 1;
}
