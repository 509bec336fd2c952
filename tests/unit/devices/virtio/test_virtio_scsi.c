/* The SCSI controller: commands, task management, errors, limits and the state. */
#include "scsi_fixture.h"

#include <pthread.h>

/* ---- tests ---- */

static void tells_its_configuration(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_begin(&t);
	assert_int_equal(fx_cfg_read(&t.f, SLOT, 0, 4), 0x10481af4);
	assert_int_equal(fx_read(&t.f, t.d.device, 4), 1);
	assert_int_equal(fx_read(&t.f, t.d.device + 20, 4), 96);
	assert_int_equal(fx_read(&t.f, t.d.device + 24, 4), 32);
	assert_int_equal(fx_read(&t.f, t.d.device + 30, 2), VIRTIO_SCSI_TARGETS_MAX);
	assert_int_equal(fx_read(&t.f, t.d.device + 32, 4), 16383);
	scsi_end(&t);
}

static void inquiry_pages(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_begin(&t); /* INQUIRY does not report the attention, nor drop it */
	assert_int_equal(COMMAND(&t, 0, 0, 36, 0x12, 0, 0, 0, 36), OK);
	assert_int_equal(data(&t)[0], 0);
	assert_memory_equal(data(&t) + 8, "CAIRN   disk    ", 16);
	assert_int_equal(COMMAND(&t, 1, 0, 36, 0x12, 0, 0, 0, 36), OK);
	assert_int_equal(data(&t)[0], 5);
	assert_int_equal(data(&t)[1], 0x80);
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x12, 1, 0, 0, 64), OK);
	assert_memory_equal(data(&t), ((uint8_t[]){ 0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2 }), 10);
	assert_int_equal(t.resid, 54);
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x12, 1, 0x80, 0, 64), OK);
	assert_memory_equal(data(&t) + 3, "\012CAIRN-0001", 11);
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x12, 1, 0x83, 0, 64), OK);
	assert_int_equal(load_be64(data(&t) + 4 + 4 + 10 + 4), 0x5000c50015ea71aaULL);
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x12, 1, 0xb0, 0, 64), OK);
	assert_int_equal(load_be32(data(&t) + 24), 1);
	assert_int_equal(load_be32(data(&t) + 28), 8);
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x12, 1, 0xb1, 0, 64), OK);
	assert_int_equal(load_be16(data(&t) + 4), 1);
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x12, 1, 0xb2, 0, 64), OK);
	assert_int_equal(data(&t)[5], 0xe0);
	assert_int_equal(COMMAND(&t, 1, 0, 64, 0x12, 1, 0xb0, 0, 64), SENSE(5, 0x24, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x12, 0, 1, 0, 64), SENSE(5, 0x24, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 4, 0x12, 0, 0, 0, 2), OK); /* no more than the command allows */
	assert_int_equal(t.resid, 2);
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0x00), SENSE(6, 0x29, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0x00), OK);
	scsi_end(&t);
}

/* A target that does not exist, a unit that does not exist, data in both directions. */
static void addresses_are_checked(void **state)
{
	struct scsi_test t;
	uint8_t *r;

	(void)state;
	scsi_ready(&t);
	COMMAND(&t, 2, 0, 0, 0x00);
	assert_int_equal(t.code, 3);
	COMMAND(&t, 0, 8, 8, 0x00);
	assert_int_equal(t.code, 9);
	assert_int_equal(COMMAND(&t, 1, 0, 16, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16), OK);
	assert_int_equal(load_be32(data(&t)), 8);
	PUT(&t, 0, 0, 0, 36, 0x12, 0, 0, 0, 36);
	r = fx_ram(&t.f, t.request);
	r[3] = 1; /* before the loop has read it */
	drv_wait(&t.d.q[REQUESTS], NULL);
	assert_int_equal(response_get(&t, 0), OK);
	assert_int_equal(data(&t)[0], 0x7f);
	PUT(&t, 0, 0, 0, 0, 0x00);
	r[3] = 1;
	drv_wait(&t.d.q[REQUESTS], NULL);
	assert_int_equal(response_get(&t, 0), SENSE(5, 0x25, 0));
	scsi_end(&t);
}

static void capacity(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	assert_int_equal(COMMAND(&t, 0, 0, 8, 0x25), OK);
	assert_int_equal(load_be32(data(&t)), DISK_BYTES / 512 - 1);
	assert_int_equal(load_be32(data(&t) + 4), 512);
	assert_int_equal(COMMAND(&t, 0, 0, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), OK);
	assert_int_equal(load_be64(data(&t)), DISK_BYTES / 512 - 1);
	assert_int_equal(data(&t)[13], 3);
	assert_int_equal(data(&t)[14], 0x80);
	assert_int_equal(COMMAND(&t, 1, 0, 8, 0x25), OK);
	assert_int_equal(load_be32(data(&t)), CD_BYTES / 2048 - 1);
	assert_int_equal(load_be32(data(&t) + 4), 2048);
	scsi_end(&t);
}

static void reads_and_writes(void **state)
{
	static const uint8_t writes[][16] = { { 0x0a, 0, 0, 8, 4 }, { 0x2a, 0, 0, 0, 0, 8, 0, 0, 4 },
		{ 0xaa, 0, 0, 0, 0, 8, 0, 0, 0, 4 }, { 0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 4 } };
	static const uint8_t reads[][16] = { { 0x08, 0, 0, 8, 4 }, { 0x28, 0, 0, 0, 0, 8, 0, 0, 4 },
		{ 0xa8, 0, 0, 0, 0, 8, 0, 0, 0, 4 }, { 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 4 } };
	struct scsi_test t;
	struct virtio_blk_stats s;
	uint8_t want[2048], file[2048];

	(void)state;
	scsi_ready(&t);
	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++) {
		for (unsigned k = 0; k < sizeof(want); k++)
			data(&t)[k] = want[k] = (uint8_t)(k * 7 + i);
		assert_int_equal(command(&t, 0, writes[i], 16, 2048, 0), OK);
		assert_int_equal(t.resid, 0);
		assert_int_equal(pread(t.disk.fd, file, 2048, 4096), 2048);
		assert_memory_equal(file, want, 2048);
		memset(data(&t), 0, 4096);
		assert_int_equal(command(&t, 0, reads[i], 16, 0, 4096), OK); /* more room than data */
		assert_int_equal(t.resid, 2048);
		assert_memory_equal(data(&t), want, 2048);
	}
	assert_int_equal(t.disk.fua, 0);
	assert_int_equal(COMMAND(&t, 0, 512, 0, 0x2a, 8, 0, 0, 0, 0, 0, 0, 1), OK);
	assert_int_equal(t.disk.fua, 1);
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0x35), OK);
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0x91), OK);
	assert_int_equal(t.disk.flushes, 2);
	virtio_scsi_stats(t.dev, 0, &s);
	assert_int_equal(s.rd_reqs, 4);
	assert_int_equal(s.wr_bytes, 4 * 2048 + 512);
	assert_int_equal(s.fl_reqs, 2);
	scsi_end(&t);
}

static void bad_ranges_and_lengths(void **state)
{
	struct scsi_test t;
	unsigned before;

	(void)state;
	scsi_ready(&t);
	before = t.disk.submits;
	assert_int_equal(COMMAND(&t, 0, 0, 512, 0x28, 0, 0, 0, 8, 0, 0, 0, 1), SENSE(5, 0x21, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 512, 0x28, 0, 0, 0, 7, 0xff, 0, 0, 2), SENSE(5, 0x21, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 512, 0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1), SENSE(5, 0x21, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 512, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff), SENSE(5, 0x21, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 512, 0x28, 0x20, 0, 0, 0, 0, 0, 0, 1), SENSE(5, 0x24, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 512, 0x28), OK); /* no blocks */
	COMMAND(&t, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 2);
	assert_int_equal(t.code, 1); /* more data than room */
	COMMAND(&t, 0, 512, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 2);
	assert_int_equal(t.code, 1);
	COMMAND(&t, 0, 512, 0, 0x28, 0, 0, 0, 0, 0, 0, 0, 1); /* a read with data to the device */
	assert_int_equal(t.code, 1);
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0xff), SENSE(5, 0x20, 0));
	assert_int_equal(COMMAND(&t, 1, 2048, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), SENSE(7, 0x27, 0));
	assert_int_equal(t.disk.submits, before);
	assert_int_equal(t.f.nevents, 0);
	scsi_end(&t);
}

/* The commands that answer with data, and where each has its allocation length; those that take data, or none. */
static const struct opcode {
	uint8_t op, second; /* bytes 0 and 1 */
	uint8_t at, bytes;  /* of the length */
} opcodes[] = {
	{ 0x03, 0, 4, 1 }, { 0x12, 0, 3, 2 }, { 0x12, 1, 3, 2 }, { 0x1a, 0, 4, 1 }, { 0x25, 0, 0, 0 }, { 0x43, 0, 7, 2 }, { 0x46, 0, 7, 2 },
	{ 0x4a, 1, 7, 2 }, { 0x51, 0, 7, 2 }, { 0x5a, 0, 7, 2 }, { 0x5e, 0, 7, 2 }, { 0x9e, 0x10, 10, 4 }, { 0xa0, 0, 6, 4 }, { 0xbd, 0, 8, 2 },
	{ 0x00, 0, 4, 1 }, { 0x08, 0, 4, 1 }, { 0x0a, 0, 4, 1 }, { 0x15, 0x10, 4, 1 }, { 0x16, 0, 4, 1 }, { 0x17, 0, 4, 1 }, { 0x28, 0, 7, 2 },
	{ 0x2a, 0, 7, 2 }, { 0x2f, 0, 7, 2 }, { 0x35, 0, 7, 2 }, { 0x41, 0, 7, 2 }, { 0x42, 0, 7, 2 }, { 0x55, 0x10, 7, 2 }, { 0x56, 0, 7, 2 },
	{ 0x57, 0, 7, 2 }, { 0x5f, 0, 5, 4 }, { 0x88, 0, 10, 4 }, { 0x8a, 0, 10, 4 }, { 0x8f, 0, 10, 4 }, { 0x91, 0, 10, 4 }, { 0x93, 0, 10, 4 },
	{ 0xa8, 0, 6, 4 }, { 0xaa, 0, 6, 4 }, { 0xaf, 0, 6, 4 }, { 0xff, 0, 4, 1 }, { 0x1e, 0, 4, 1 }, { 0x1b, 0, 4, 1 },
};
#define OPCODES_OF_DATA 14

/* Send a command with a length and a buffer. Check that the device writes no further than both allow, and counts it. */
static void length_check(struct scsi_test *t, unsigned target, const struct opcode *o, uint32_t length, uint32_t out, uint32_t in)
{
	uint8_t cdb[16] = { o->op, o->second, o->op == 0x1a || o->op == 0x5a ? 0x3f : 0 };
	bool allocates = o < opcodes + OPCODES_OF_DATA;
	uint8_t untouched[1024];
	uint32_t used, written, most = allocates && o->bytes ? MIN(length, in) : in, sense;

	for (unsigned i = 0; i < o->bytes; i++)
		cdb[o->at + o->bytes - 1 - i] = (uint8_t)(length >> 8 * i);
	memset(untouched, 0xa5, sizeof(untouched));
	memcpy(data(t), untouched, sizeof(untouched));
	command_put(t, 0, target, cdb, sizeof(cdb), out, in);
	drv_wait(&t->d.q[REQUESTS], &used);
	sense = response_get(t, 0);
	assert_in_range(used, RESPONSE_BYTES, RESPONSE_BYTES + most);
	written = used - RESPONSE_BYTES;
	assert_memory_equal(data(t) + written, untouched, sizeof(untouched) - written);
	if (sense || t->code)
		assert_int_equal(written, 0);
	if (in && !t->code)
		assert_int_equal(t->resid, in - written);
	else
		assert_in_range(t->resid, 0, out);
}

static void answers_stay_inside_lengths_and_buffers(void **state)
{
	static const uint32_t buffers[] = { 0, 7, 40, 600 }, large[] = { 511, 512, 4095, 65535 };
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	for (unsigned target = 0; target < 2; target++)
		for (unsigned i = 0; i < ARRAY_SIZE(opcodes); i++)
			for (uint32_t n = 0; n < 256 + ARRAY_SIZE(large); n++)
				for (unsigned b = 0; b < 2 * ARRAY_SIZE(buffers); b++) {
					uint32_t length = n < 256 ? n : large[n - 256], bytes = buffers[b / 2];

					if (length >> 8 * MIN(opcodes[i].bytes, 3u) && opcodes[i].bytes)
						continue;
					length_check(&t, target, &opcodes[i], length, b & 1 ? bytes : 0, b & 1 ? 0 : bytes);
				}
	assert_int_equal(t.f.nevents, 0);
	scsi_end(&t);
}

static void unmap_put(struct scsi_test *t, uint64_t lba, uint32_t blocks)
{
	memset(data(t), 0, 24);
	store_be16(data(t), 22);
	store_be16(data(t) + 2, 16);
	store_be64(data(t) + 8, lba);
	store_be32(data(t) + 16, blocks);
}

static void unmaps_and_writes_zeros(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	unmap_put(&t, 8, 16);
	assert_int_equal(COMMAND(&t, 0, 24, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 24), OK);
	assert_int_equal(t.disk.discards, 1);
	assert_int_equal(t.disk.last_offset, 4096);
	assert_int_equal(t.disk.last_len, 8192);
	unmap_put(&t, DISK_BYTES / 512, 1);
	assert_int_equal(COMMAND(&t, 0, 24, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 24), SENSE(5, 0x21, 0));
	assert_int_equal(COMMAND(&t, 0, 24, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 40), SENSE(5, 0x1a, 0));
	store_be16(data(&t) + 2, 32);
	assert_int_equal(COMMAND(&t, 0, 40, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 40), SENSE(5, 0x26, 0));
	memset(data(&t), 0, 512);
	assert_int_equal(COMMAND(&t, 0, 512, 0, 0x93, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8), OK);
	assert_int_equal(t.disk.unmaps, 1);
	assert_int_equal(COMMAND(&t, 0, 512, 0, 0x41, 0, 0, 0, 0, 8, 0, 0, 8), OK);
	assert_int_equal(t.disk.unmaps, 1);
	data(&t)[511] = 1; /* only zeros are repeated */
	assert_int_equal(COMMAND(&t, 0, 512, 0, 0x41, 0, 0, 0, 0, 8, 0, 0, 8), SENSE(5, 0x24, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0x93, 9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8), OK);
	scsi_end(&t);
}

static void detects_zeroes(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_new(&t);
	t.disks[0].detect_zeroes = BLOCK_ZEROES_UNMAP;
	scsi_start(&t);
	COMMAND(&t, 0, 0, 0, 0x00);
	memset(data(&t), 0, 4096);
	assert_int_equal(COMMAND(&t, 0, 4096, 0, 0x2a, 0, 0, 0, 0, 8, 0, 0, 8), OK);
	assert_int_equal(t.disk.unmaps, 1);
	data(&t)[4095] = 1;
	assert_int_equal(COMMAND(&t, 0, 4096, 0, 0x2a, 0, 0, 0, 0, 8, 0, 0, 8), OK);
	assert_int_equal(t.disk.unmaps, 1);
	scsi_end(&t);
}

static void block_sizes_and_no_discard(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_new(&t);
	t.disks[0].logical_bytes = 4096;
	t.disks[0].no_discard = true;
	scsi_start(&t);
	COMMAND(&t, 0, 0, 0, 0x00);
	assert_int_equal(COMMAND(&t, 0, 0, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), OK);
	assert_int_equal(load_be64(data(&t)), DISK_BYTES / 4096 - 1);
	assert_int_equal(load_be32(data(&t) + 8), 4096);
	assert_int_equal(data(&t)[13], 0);
	assert_int_equal(data(&t)[14], 0);
	unmap_put(&t, 0, 1);
	assert_int_equal(COMMAND(&t, 0, 24, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 24), SENSE(5, 0x20, 0));
	assert_int_equal(COMMAND(&t, 0, 4096, 0, 0x2a, 0, 0, 0, 0, 1, 0, 0, 1), OK);
	assert_int_equal(t.disk.last_offset, 4096);
	scsi_end(&t);
}

static void write_cache_can_be_turned_off(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x1a, 8, 8, 0, 64), OK);
	assert_memory_equal(data(&t), ((uint8_t[]){ 23, 0, 0x10, 0, 8, 0x12, 4 }), 7);
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 64), OK);
	assert_int_equal(load_be16(data(&t)), 8 + 8 + 12 + 20 - 2);
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x1a, 8, 0xc8, 0, 64), SENSE(5, 0x39, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 64, 0x1a, 8, 0x2a, 0, 64), SENSE(5, 0x24, 0));
	memset(data(&t), 0, 64);
	memcpy(data(&t) + 4, ((uint8_t[]){ 8, 0x12, 0 }), 3);
	assert_int_equal(COMMAND(&t, 0, 24, 0, 0x15, 0x10, 0, 0, 24), OK);
	assert_int_equal(t.disk.flushes, 1); /* data written before */
	assert_int_equal(COMMAND(&t, 0, 512, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), OK);
	assert_int_equal(t.disk.fua, 1);
	data(&t)[4] = 9;
	assert_int_equal(COMMAND(&t, 0, 24, 0, 0x15, 0x10, 0, 0, 24), SENSE(5, 0x26, 0));
	data(&t)[3] = 250; /* block descriptors beyond the list */
	assert_int_equal(COMMAND(&t, 0, 24, 0, 0x15, 0x10, 0, 0, 24), SENSE(5, 0x1a, 0));
	assert_int_equal(COMMAND(&t, 0, 24, 0, 0x15, 0x10, 0, 0, 25), SENSE(5, 0x1a, 0));
	scsi_end(&t);
}

static void reservations_are_refused(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0x16), SENSE(5, 0x20, 0));
	assert_int_equal(COMMAND(&t, 0, 24, 0, 0x5f, 1, 0, 0, 0, 0, 0, 0, 24), SENSE(5, 0x20, 0));
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0x00), OK);
	scsi_end(&t);
}

static void cd_drive_ejects_and_loads(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	assert_int_equal(COMMAND(&t, 1, 0, 20, 0x43, 0, 0, 0, 0, 0, 0, 0, 20), OK);
	assert_memory_equal(data(&t), ((uint8_t[]){ 0, 18, 1, 1, 0, 0x14, 1 }), 7);
	assert_int_equal(load_be32(data(&t) + 16), CD_BYTES / 2048);
	assert_int_equal(COMMAND(&t, 1, 0, 8, 0x46, 2, 0, 0, 0, 0, 0, 0, 8), OK);
	assert_int_equal(load_be16(data(&t) + 6), 8);
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x1e, 0, 0, 0, 1), OK);
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x1b, 0, 0, 0, 2), SENSE(5, 0x53, 2));
	assert_true(virtio_scsi_is_locked(t.dev, 1, true));
	assert_int_equal(COMMAND(&t, 1, 0, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), OK);
	assert_memory_equal(data(&t), ((uint8_t[]){ 0, 6, 4, 0x10, 1, 2 }), 6); /* the user asks for the medium */
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x1e), OK);
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x1b, 0, 0, 0, 2), OK);
	assert_int_equal(fx_count_events(&t.f, DEV_EVENT_TRAY), 1);
	assert_true(virtio_scsi_tray_is_open(t.dev, 1));
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x00), SENSE(2, 0x3a, 2));
	assert_int_equal(COMMAND(&t, 1, 0, 2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), SENSE(2, 0x3a, 2));
	assert_int_equal(COMMAND(&t, 1, 0, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), OK);
	assert_memory_equal(data(&t), ((uint8_t[]){ 0, 6, 4, 0x10, 3, 1 }), 6);
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x1b, 0, 0, 0, 3), OK);
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x00), SENSE(6, 0x28, 0));
	assert_int_equal(COMMAND(&t, 1, 0, 2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), OK);
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0x1e, 0, 0, 0, 1), SENSE(5, 0x20, 0)); /* a disk */
	scsi_end(&t);
}

static void medium_is_changed(void **state)
{
	struct block other, none;
	struct fx_state saved;
	struct scsi_test t;
	struct err e;

	(void)state;
	scsi_ready(&t);
	block_make(&other, t.f.host.loop, 4 * 2048, true);
	block_make(&none, t.f.host.loop, 0, true);
	assert_int_equal(virtio_scsi_set_medium(t.dev, 1, &other, 7, &e), 0);
	assert_int_equal(COMMAND(&t, 1, 0, 8, 0x25), SENSE(6, 0x28, 0));
	assert_int_equal(COMMAND(&t, 1, 0, 8, 0x25), OK);
	assert_int_equal(load_be32(data(&t)), 3);
	/* The guest opens the tray; the new medium closes it. */
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x1b, 0, 0, 0, 2), OK);
	assert_int_equal(virtio_scsi_set_medium(t.dev, 1, &other, 9, &e), 0);
	assert_int_equal(fx_count_events(&t.f, DEV_EVENT_TRAY), 2);
	assert_false(virtio_scsi_tray_is_open(t.dev, 1));
	assert_int_equal(COMMAND(&t, 1, 0, 8, 0x25), SENSE(6, 0x28, 0));
	assert_int_equal(COMMAND(&t, 1, 0, 8, 0x25), OK);
	/* A medium of the same size is another one than in the state. */
	for (uint64_t medium = 9; medium > 7; medium--) {
		t.dev->ops->pause(t.dev);
		fx_save(t.dev, &saved);
		assert_int_equal(virtio_scsi_set_medium(t.dev, 1, &other, medium, &e), 0);
		assert_int_equal(fx_load(t.dev, &saved), 0);
		t.dev->ops->resume(t.dev);
		free(saved.buf);
		assert_int_equal(COMMAND(&t, 1, 0, 8, 0x25), medium == 9 ? OK : SENSE(6, 0x28, 0));
	}
	assert_int_equal(virtio_scsi_set_medium(t.dev, 1, &none, 0, &e), 0);
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x00), SENSE(6, 0x28, 0));
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x00), SENSE(2, 0x3a, 0));
	assert_int_equal(COMMAND(&t, 1, 0, 20, 0x43, 0, 0, 0, 0, 0, 0, 0, 20), SENSE(2, 0x3a, 0));
	other.info.logical_block_bytes = 4096;
	assert_int_equal(virtio_scsi_set_medium(t.dev, 1, &other, 8, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "blocks of 4096 bytes"));
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x00), SENSE(2, 0x3a, 0));
	close(other.fd);
	close(none.fd);
	scsi_end(&t);
}

static void tasks_are_managed(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	assert_int_equal(tmf(&t, 5, 0, 0), 0);
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0x00), SENSE(6, 0x29, 0));
	assert_int_equal(tmf(&t, 5, 7, 0), 3);
	assert_int_equal(tmf(&t, 2, 0, 0), 11);
	assert_int_equal(tmf(&t, 6, 0, 5), 0);
	t.disk.hold = 1;
	PUT(&t, 5, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
	fx_run(&t.f, 3);
	assert_int_equal(t.disk.nheld, 1);
	assert_int_equal(tmf(&t, 6, 0, 5), 10);
	/* An abort waits for the command in flight; what comes meanwhile waits, and is aborted. */
	assert_int_equal(tmf(&t, 1, 0, 0), 0xee);
	PUT(&t, 6, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
	fx_run(&t.f, 3);
	assert_int_equal(t.disk.nheld, 1);
	block_release(&t.disk);
	drv_wait(&t.d.q[REQUESTS], NULL);
	drv_wait(&t.d.q[REQUESTS], NULL);
	assert_int_equal(*(uint8_t *)fx_ram(&t.f, t.control + 32), 0);
	response_get(&t, 5);
	assert_int_equal(t.code, 0);
	response_get(&t, 6);
	assert_int_equal(t.code, 2);
	assert_int_equal(COMMAND(&t, 0, 0, 0, 0x00), OK);
	scsi_end(&t);
}

static void number_of_functions_that_wait_is_bounded(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	for (unsigned round = 0; round < 2; round++) {
		t.disk.hold = 1;
		PUT(&t, 5, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
		fx_run(&t.f, 3);
		for (unsigned i = 0; i < t.d.q[CONTROL].size; i++)
			assert_int_equal(tmf(&t, 1, 0, 0), 0xee);
		assert_int_equal(tmf(&t, 1, 0, 0), 9);
		block_release(&t.disk);
		drv_wait(&t.d.q[REQUESTS], NULL);
		assert_int_equal(tmf(&t, 1, 0, 0), 0);
		assert_int_equal(drv_used_idx(&t.d.q[CONTROL]), (round + 1) * (t.d.q[CONTROL].size + 2));
	}
	scsi_end(&t);
}

/* An event without a buffer is missed: the next buffer tells, or the next event if it comes in the same moment. */
static void resize_is_an_event(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	virtio_scsi_resized(t.dev, 0, 2 * DISK_BYTES);
	event_buffer_add(&t, 0, 16);
	assert_int_equal(load_le32(fx_ram(&t.f, t.events)), 0x80000000);
	event_buffer_add(&t, 1, 16);
	assert_int_equal(drv_used_idx(&t.d.q[EVENTS]), 1);
	virtio_scsi_resized(t.dev, 0, 2 * DISK_BYTES);
	event_check(&t, 1, 3, 0, 0x92a);
	assert_int_equal(COMMAND(&t, 0, 0, 8, 0x25), SENSE(6, 0x2a, 9));
	assert_int_equal(COMMAND(&t, 0, 0, 8, 0x25), OK);
	assert_int_equal(load_be32(data(&t)), 2 * DISK_BYTES / 512 - 1);
	scsi_end(&t);
}

static void errors_follow_the_policy(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	t.disk.fail_with = -EIO;
	assert_int_equal(COMMAND(&t, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), SENSE(3, 0x11, 0));
	assert_int_equal(COMMAND(&t, 0, 512, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), SENSE(3, 0x0c, 0));
	t.disk.fail_with = -ENOSPC;
	assert_int_equal(COMMAND(&t, 0, 512, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), SENSE(7, 0x27, 7));
	assert_int_equal(fx_count_events(&t.f, DEV_EVENT_IO_ERROR), 3);
	assert_string_equal(t.f.events[0].device, "sda");
	assert_false(t.f.events[0].stop);
	scsi_end(&t);
}

/* The command that stopped the VM, and those behind it, are in the saved state and begin again after a load. */
static void stopped_commands_are_saved(void **state)
{
	struct scsi_test t;
	struct fx_state s;
	uint8_t file[512];

	(void)state;
	scsi_new(&t);
	t.disks[0].errors = VIRTIO_BLK_ERRORS_STOP;
	scsi_start(&t);
	COMMAND(&t, 0, 0, 0, 0x00);
	t.disk.fail_with = -ENOSPC;
	memset(data(&t), 0x5a, 512);
	PUT(&t, 1, 0, 512, 0, 0x2a, 0, 0, 0, 0, 4, 0, 0, 1);
	fx_run(&t.f, 4);
	PUT(&t, 2, 0, 0, 0, 0x35);
	fx_run(&t.f, 4);
	assert_int_equal(fx_count_events(&t.f, DEV_EVENT_IO_ERROR), 1);
	assert_true(t.f.events[0].stop);
	assert_int_equal(t.disk.flushes, 0);
	t.dev->ops->pause(t.dev);
	fx_save(t.dev, &s);
	t.dev->ops->reset(t.dev);
	t.disk.fail_with = 0;
	assert_int_equal(fx_load(t.dev, &s), 0);
	t.dev->ops->resume(t.dev);
	fx_run(&t.f, 8);
	assert_int_equal(response_get(&t, 1), OK);
	assert_int_equal(response_get(&t, 2), OK);
	assert_int_equal(pread(t.disk.fd, file, 512, 2048), 512);
	assert_int_equal(file[0], 0x5a);
	assert_int_equal(t.disk.flushes, 1);
	free(s.buf);
	scsi_end(&t);
}

static void state_survives_and_is_checked(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	COMMAND(&t, 1, 0, 0, 0x1e, 0, 0, 0, 1);
	fx_state_test(&t.f, t.dev, 300);
	assert_true(virtio_scsi_is_locked(t.dev, 1, false));
	scsi_end(&t);
}

static void limit_keeps_commands_waiting(void **state)
{
	struct scsi_test t;
	struct virtio_blk_limits l = { .bps[0].rate = 1 }; /* the second read waits for minutes */

	(void)state;
	scsi_ready(&t);
	virtio_scsi_set_limits(t.dev, 0, &l);
	assert_int_equal(COMMAND(&t, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), OK);
	PUT(&t, 1, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
	fx_run(&t.f, 2);
	assert_int_equal(drv_used_idx(&t.d.q[REQUESTS]), 3);
	assert_int_equal(COMMAND(&t, 1, 0, 2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), OK); /* the other unit does not wait */
	l.bps[0].rate = 0;
	virtio_scsi_set_limits(t.dev, 0, &l);
	drv_wait(&t.d.q[REQUESTS], NULL);
	assert_int_equal(response_get(&t, 1), OK);
	scsi_end(&t);
}

/* A limit of reads lets writes pass, in whatever order they came. */
static void limit_of_reads_lets_writes_pass(void **state)
{
	struct virtio_blk_limits l = { .bps[DISK_LIMIT_READ].rate = 1 };
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	virtio_scsi_set_limits(t.dev, 0, &l);
	assert_int_equal(COMMAND(&t, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), OK);
	PUT(&t, 1, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
	PUT(&t, 2, 0, 0, 0, 0x00, 0, 0, 0, 0, 0);
	fx_run(&t.f, 2);
	assert_int_equal(drv_used_idx(&t.d.q[REQUESTS]), 4); /* TEST UNIT READY has passed */
	l.bps[DISK_LIMIT_READ].rate = 0;
	virtio_scsi_set_limits(t.dev, 0, &l);
	drv_wait(&t.d.q[REQUESTS], NULL);
	assert_int_equal(response_get(&t, 1), OK);
	scsi_end(&t);
}

/* Requests that are too short, and a task management request that is. */
static void short_requests_are_faults(void **state)
{
	static const uint32_t lens[][2] = { { 50, 108 }, { 51, 107 }, { 1, 1 } };
	struct scsi_test t;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(lens) + 1; i++) {
		bool control = i == ARRAY_SIZE(lens);
		struct drv_sg sg[2];

		scsi_begin(&t);
		sg[0] = (struct drv_sg){ t.request, control ? 23 : lens[i][0], false };
		sg[1] = (struct drv_sg){ t.response, control ? 1 : lens[i][1], true };
		drv_add(&t.d.q[control ? CONTROL : REQUESTS], sg, 2, false);
		drv_kick(&t.d.q[control ? CONTROL : REQUESTS]);
		fx_run(&t.f, 3);
		assert_int_equal(fx_count_events(&t.f, DEV_EVENT_NEEDS_RESET), 1);
		scsi_end(&t);
	}
}

static void *loop_thread(void *l)
{
	loop_run(l);
	return NULL;
}

/* The disk and the drive have loops of their own: the drive's requests go from the disk's loop to the drive's. */
static void units_have_loops_of_their_own(void **state)
{
	struct scsi_test t;
	struct loop *l;
	pthread_t thread;

	(void)state;
	scsi_new(&t);
	assert_int_equal(loop_new(8, &l, NULL), 0);
	t.disks[1].loop = t.cd.loop = l;
	scsi_start(&t);
	assert_int_equal(pthread_create(&thread, NULL, loop_thread, l), 0);
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x00), SENSE(6, 0x29, 0));
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(COMMAND(&t, 1, 0, 2048, 0x28, 0, 0, 0, 0, 1, 0, 0, 1), OK);
		PUT(&t, 1, 1, 0, 2048, 0x28, 0, 0, 0, 0, 1, 0, 0, 1);
		fx_run(&t.f, 1);
		t.dev->ops->pause(t.dev);
		t.dev->ops->resume(t.dev);
		drv_wait(&t.d.q[REQUESTS], NULL);
	}
	t.dev->ops->pause(t.dev);
	loop_stop(l);
	pthread_join(thread, NULL);
	scsi_end(&t);
	loop_free(l);
}

/* ---- polls ---- */

#define MS 1000000ULL

/* Read until the loop, which measures its sleeps, polls before it sleeps. */
static void loop_made_busy(struct scsi_test *t)
{
	for (unsigned i = 0; i < 10000 && !loop_polls(t->f.host.loop); i++)
		assert_int_equal(COMMAND(t, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), OK);
	assert_true(loop_polls(t->f.host.loop));
}

/* Add TEST UNIT READY, without a doorbell. */
static void command_add(struct scsi_test *t, unsigned slot)
{
	command_add_cdb(t, slot, 0, (const uint8_t[6]){ 0 }, 6, 0, 0);
}

static void busy_loop_takes_commands_without_doorbells(void **state)
{
	for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
		struct scsi_test t;
		struct drv_queue *q = &t.d.q[REQUESTS];
		uint16_t old;

		(void)state;
		scsi_new(&t);
		t.features = event_idx ? ALL : ALL & ~VIRTIO_F_EVENT_IDX;
		scsi_start(&t);
		(void)COMMAND(&t, 0, 0, 0, 0); /* the attention after the start */
		loop_made_busy(&t);
		/* A doorbell that rings while the loop polls disables the next one until the loop sleeps. */
		PUT(&t, 1, 0, 0, 0, 0);
		for (unsigned i = 0; i < 5; i++)
			loop_run_once(t.f.host.loop, 0);
		assert_int_equal(drv_used_idx(q), q->avail_idx);
		old = q->avail_idx;
		command_add(&t, 2);
		assert_false(drv_wants_kick(q, old));
		loop_run_once(t.f.host.loop, MS);
		loop_run_once(t.f.host.loop, MS);
		assert_int_equal(drv_used_idx(q), q->avail_idx);
		assert_int_equal(response_get(&t, 2), OK);
		old = q->avail_idx;
		command_add(&t, 3);
		assert_true(drv_wants_kick(q, old));
		scsi_end(&t);
	}
}

static void controller_without_polls_is_not_polled(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_new(&t);
	t.disks[0].poll_max_ns = VIRTIO_BLK_POLL_OFF;
	scsi_start(&t);
	(void)COMMAND(&t, 0, 0, 0, 0);
	for (unsigned i = 0; i < 2000; i++) {
		assert_int_equal(COMMAND(&t, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), OK);
		assert_false(loop_polls(t.f.host.loop));
	}
	scsi_end(&t);
}

static void paused_controller_is_not_polled(void **state)
{
	struct scsi_test t;

	(void)state;
	scsi_begin(&t);
	(void)COMMAND(&t, 0, 0, 0, 0);
	loop_made_busy(&t);
	t.dev->ops->pause(t.dev);
	command_add(&t, 1);
	for (unsigned i = 0; i < 5; i++)
		loop_run_once(t.f.host.loop, MS);
	assert_int_equal(drv_used_idx(&t.d.q[REQUESTS]), (uint16_t)(t.d.q[REQUESTS].avail_idx - 1));
	t.dev->ops->resume(t.dev);
	drv_wait(&t.d.q[REQUESTS], NULL);
	assert_int_equal(response_get(&t, 1), OK);
	scsi_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tells_its_configuration),
		cmocka_unit_test(inquiry_pages),
		cmocka_unit_test(addresses_are_checked),
		cmocka_unit_test(capacity),
		cmocka_unit_test(reads_and_writes),
		cmocka_unit_test(bad_ranges_and_lengths),
		cmocka_unit_test(answers_stay_inside_lengths_and_buffers),
		cmocka_unit_test(unmaps_and_writes_zeros),
		cmocka_unit_test(detects_zeroes),
		cmocka_unit_test(block_sizes_and_no_discard),
		cmocka_unit_test(write_cache_can_be_turned_off),
		cmocka_unit_test(reservations_are_refused),
		cmocka_unit_test(cd_drive_ejects_and_loads),
		cmocka_unit_test(medium_is_changed),
		cmocka_unit_test(tasks_are_managed),
		cmocka_unit_test(number_of_functions_that_wait_is_bounded),
		cmocka_unit_test(resize_is_an_event),
		cmocka_unit_test(errors_follow_the_policy),
		cmocka_unit_test(stopped_commands_are_saved),
		cmocka_unit_test(state_survives_and_is_checked),
		cmocka_unit_test(limit_keeps_commands_waiting),
		cmocka_unit_test(limit_of_reads_lets_writes_pass),
		cmocka_unit_test(short_requests_are_faults),
		cmocka_unit_test(units_have_loops_of_their_own),
		cmocka_unit_test(busy_loop_takes_commands_without_doorbells),
		cmocka_unit_test(controller_without_polls_is_not_polled),
		cmocka_unit_test(paused_controller_is_not_polled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
