/* scsi_fixture: the SCSI controller, driven through PCI registers and rings: target 0 is a disk, target 1 a CD
 * drive. */
#ifndef CAIRN_TESTS_UNIT_DEVICES_VIRTIO_SCSI_FIXTURE_H
#define CAIRN_TESTS_UNIT_DEVICES_VIRTIO_SCSI_FIXTURE_H

#include "blk_fixture.h"

#include "devices/virtio/virtio_scsi.h"

#define REQUEST_BYTES 51
#define RESPONSE_BYTES 108
#define CD_BYTES (64u * 2048)
#define SENSE(key, asc, ascq) ((key) << 16 | (asc) << 8 | (ascq))
#define OK 0
#define CONTROL 0
#define EVENTS 1
#define REQUESTS 2

struct scsi_test {
	struct fixture f;
	struct block disk, cd;
	struct device *dev;
	struct drv d;
	uint64_t request, response, data, control, events;
	struct virtio_scsi_disk disks[2];
	uint64_t features;
	uint32_t resid;
	uint8_t code; /* the response's */
};

static inline void block_make(struct block *b, struct loop *l, uint64_t bytes, bool read_only)
{
	memset(b, 0, sizeof(*b));
	b->fd = memfd_create("disk", 0);
	assert_int_equal(ftruncate(b->fd, (off_t)bytes), 0);
	b->loop = l;
	b->info = (struct block_info){ .format = BLOCK_FORMAT_RAW, .size_bytes = bytes, .logical_block_bytes = 512,
		.buffer_align = 1, .discard_granularity = 4096, .read_only = read_only };
}

static inline void scsi_new(struct scsi_test *t)
{
	memset(t, 0, sizeof(*t));
	t->features = ALL;
	fx_init(&t->f);
	block_make(&t->disk, t->f.host.loop, DISK_BYTES, false);
	block_make(&t->cd, t->f.host.loop, CD_BYTES, true);
	t->disks[0] = (struct virtio_scsi_disk){ .id = "sda", .block = &t->disk, .loop = t->f.host.loop, .serial = "CAIRN-0001",
		.wwn = 0x5000c50015ea71aaULL, .errors = VIRTIO_BLK_ERRORS_REPORT };
	t->disks[1] = (struct virtio_scsi_disk){ .id = "sdb", .block = &t->cd, .loop = t->f.host.loop, .cdrom = true };
}

static inline void scsi_start(struct scsi_test *t)
{
	struct virtio_scsi_config c = { .name = "scsi0", .disks = t->disks, .ndisks = 2, .queue_size = 16, .slot = SLOT };

	assert_int_equal(virtio_scsi_new(&t->f.host, t->f.pci, &c, &t->dev, NULL), 0);
	drv_init(&t->d, &t->f, SLOT, t->features, true);
	for (unsigned q = 0; q < 3; q++)
		drv_queue_setup(&t->d, q, 16);
	drv_ok(&t->d);
	t->request = fx_alloc(&t->f, 64 * 16, 64);
	t->response = fx_alloc(&t->f, 128 * 16, 64);
	t->control = fx_alloc(&t->f, 64, 64);
	t->events = fx_alloc(&t->f, 64, 64);
	t->data = fx_alloc(&t->f, 64 * 1024, 4096);
	fx_run(&t->f, 3);
}

static inline void scsi_begin(struct scsi_test *t)
{
	scsi_new(t);
	scsi_start(t);
}

static inline void scsi_end(struct scsi_test *t)
{
	t->dev->ops->free(t->dev);
	close(t->disk.fd);
	close(t->cd.fd);
	fx_done(&t->f);
}

/* Add a command to the ring, without a doorbell; slot selects its memory, and is its tag. */
static inline void command_add_cdb(struct scsi_test *t, unsigned slot, unsigned target, const uint8_t *cdb, size_t n, uint32_t out, uint32_t in)
{
	uint64_t request = t->request + 64 * slot, response = t->response + 128 * slot;
	uint8_t *r = fx_ram(&t->f, request);
	struct drv_sg sg[4] = { { request, REQUEST_BYTES, false } };
	unsigned nsg = 1;

	memset(r, 0, REQUEST_BYTES);
	r[0] = 1;
	r[1] = (uint8_t)target;
	r[2] = 0x40;
	store_le64(r + 8, slot);
	memcpy(r + 19, cdb, n);
	memset(fx_ram(&t->f, response), 0xee, RESPONSE_BYTES);
	if (out)
		sg[nsg++] = (struct drv_sg){ t->data, out, false };
	sg[nsg++] = (struct drv_sg){ response, RESPONSE_BYTES, true };
	if (in)
		sg[nsg++] = (struct drv_sg){ t->data, in, true };
	drv_add(&t->d.q[REQUESTS], sg, nsg, false);
}

static inline void command_put(struct scsi_test *t, unsigned slot, unsigned target, const uint8_t *cdb, size_t n, uint32_t out, uint32_t in)
{
	command_add_cdb(t, slot, target, cdb, n, out, in);
	drv_kick(&t->d.q[REQUESTS]);
}

/* Returns the sense, or OK. */
static inline uint32_t response_get(struct scsi_test *t, unsigned slot)
{
	const uint8_t *r = fx_ram(&t->f, t->response + 128 * slot);

	t->resid = load_le32(r + 4);
	t->code = r[11];
	if (r[11] || !r[10])
		return OK;
	assert_int_equal(r[10], 2);
	assert_int_equal(load_le32(r), 18);
	return SENSE((uint32_t)r[12 + 2], (uint32_t)r[12 + 12], (uint32_t)r[12 + 13]);
}

static inline uint32_t command(struct scsi_test *t, unsigned target, const uint8_t *cdb, size_t n, uint32_t out, uint32_t in)
{
	command_put(t, 0, target, cdb, n, out, in);
	drv_wait(&t->d.q[REQUESTS], NULL);
	return response_get(t, 0);
}

#define COMMAND(t, target, out, in, ...) \
	command(t, target, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }), out, in)
#define PUT(t, slot, target, out, in, ...) \
	command_put(t, slot, target, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }), out, in)

static inline uint8_t *data(struct scsi_test *t)
{
	return fx_ram(&t->f, t->data);
}

/* Begin with both units' power-on attentions reported. */
static inline void scsi_ready(struct scsi_test *t)
{
	scsi_begin(t);
	assert_int_equal(COMMAND(t, 0, 0, 0, 0x00), SENSE(6, 0x29, 0));
	assert_int_equal(COMMAND(t, 1, 0, 0, 0x00), SENSE(6, 0x29, 0));
}

/* Returns the response. */
static inline uint8_t tmf(struct scsi_test *t, uint32_t subtype, unsigned target, uint64_t tag)
{
	struct drv_sg sg[2] = { { t->control, 24, false }, { t->control + 32, 1, true } };
	uint8_t *m = fx_ram(&t->f, t->control);

	store_le32(m, 0);
	store_le32(m + 4, subtype);
	store_le64(m + 8, 0);
	m[8] = 1;
	m[9] = (uint8_t)target;
	store_le64(m + 16, tag);
	m[32] = 0xee;
	drv_add(&t->d.q[CONTROL], sg, 2, false);
	drv_kick(&t->d.q[CONTROL]);
	for (unsigned i = 0; i < 10 && m[32] == 0xee; i++)
		fx_run(&t->f, 1);
	return m[32];
}

/* Add a buffer for an event, behind those before. */
static inline void event_buffer_add(struct scsi_test *t, unsigned slot, uint32_t bytes)
{
	struct drv_sg sg = { t->events + 16 * slot, bytes, true };

	memset(fx_ram(&t->f, sg.gpa), 0xee, 16);
	drv_add(&t->d.q[EVENTS], &sg, 1, false);
	drv_kick(&t->d.q[EVENTS]);
	fx_run(&t->f, 2);
}

static inline void event_check(struct scsi_test *t, unsigned slot, uint32_t event, unsigned target, uint32_t reason)
{
	const uint8_t *m = fx_ram(&t->f, t->events + 16 * slot);

	assert_int_equal(load_le32(m), event);
	assert_int_equal(m[4], 1);
	assert_int_equal(m[5], target);
	assert_int_equal(load_le32(m + 12), reason);
}

#endif
