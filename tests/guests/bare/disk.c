/* Commands for a disk behind virtio-blk or virtio-scsi. */
#include "virtio_blk.h"

#define INTERRUPT_CYCLES 5000000000ULL
#define TIMER_WATCHDOG 50000000 /* bus cycles between looks at the time */

static bool disk_is_open;

static const char *cmd_open(const struct args *a)
{
	const char *wrong;

	if (disk_is_open)
		vblk_stop(); /* each disk uses the same memory for its rings */
	disk_is_open = false;
	wrong = vblk_find((unsigned)a->v[0]);
	if (!wrong)
		wrong = vblk_open((uint16_t)a->v[1], (uint16_t)a->v[2], a->v[3]);
	disk_is_open = !wrong;
	return wrong;
}

/* The controller has reported its reset to nobody yet: take the unit attention. */
static const char *cmd_scsi_open(const struct args *a)
{
	static const uint8_t test_unit_ready[SCSI_CDB_BYTES];
	const char *wrong;

	if (disk_is_open)
		vblk_stop();
	disk_is_open = false;
	wrong = a->v[1] ? vblk_find_scsi((uint8_t)a->v[0], (uint32_t)a->v[1]) : "blocks of 0 bytes";
	if (!wrong)
		wrong = vblk_open((uint16_t)a->v[2], (uint16_t)a->v[3], a->v[4]);
	if (!wrong) {
		scsi_cdb_set(test_unit_ready, sizeof(test_unit_ready));
		vblk_do(0, BLK_SCSI, 0, NULL, 0);
	}
	disk_is_open = !wrong;
	return wrong;
}

static const char *disk_do(uint32_t type, uint64_t sector, void *data, uint64_t bytes)
{
	int status;

	if (!disk_is_open)
		return "open a disk first";
	status = vblk_do(0, type, sector, data, (uint32_t)bytes);
	if (virtio_status(&vblk.v) & STATUS_NEEDS_RESET)
		return "the disk needs a reset";
	switch (status) {
	case 0:
		return NULL;
	case 1:
		return "I/O error";
	case 2:
		return "unsupported";
	case -1:
		return "no answer";
	}
	return "odd status";
}

static const char *cmd_info(const struct args *a)
{
	char id[21];
	const char *wrong;

	(void)a;
	memset(vblk_data, 0, sizeof(id));
	wrong = disk_do(BLK_GET_ID, 0, vblk_data, 20);
	if (wrong)
		return wrong;
	memcpy(id, vblk_data, 20);
	id[20] = 0;
	print("sectors=%u features=%x queue_size=%u queues=%u status=%x serial=%s\n",
		mmio_read(vblk.v.config, 4) | mmio_read(vblk.v.config + 4, 4) << 32, vblk.v.features,
		(uint64_t)vblk.v.queue_size, (uint64_t)vblk.queues, (uint64_t)virtio_status(&vblk.v), id);
	return NULL;
}

static uint64_t disk_word(uint64_t sector, unsigned i, uint64_t seed)
{
	return ((sector << 6 | i) + seed * 0x9e3779b97f4a7c15ULL) * 0xd6e8feb86659fd93ULL;
}

static void pattern_make(uint64_t *p, uint64_t sector, uint64_t count, uint64_t seed)
{
	for (; count; count--, sector++)
		for (unsigned i = 0; i < SECTOR_BYTES / 8; i++)
			*p++ = disk_word(sector, i, seed);
}

static const char *count_check(uint64_t count)
{
	return count && count <= VBLK_DATA_BYTES / SECTOR_BYTES ? NULL : "1 to 8192 sectors";
}

static const char *cmd_write(const struct args *a)
{
	if (count_check(a->v[1]))
		return count_check(a->v[1]);
	pattern_make((uint64_t *)vblk_data, a->v[0], a->v[1], a->v[2]);
	return disk_do(BLK_OUT, a->v[0], vblk_data, a->v[1] * SECTOR_BYTES);
}

static const char *disk_read(const struct args *a)
{
	if (count_check(a->v[1]))
		return count_check(a->v[1]);
	memset(vblk_data, 0x5a, a->v[1] * SECTOR_BYTES);
	return disk_do(BLK_IN, a->v[0], vblk_data, a->v[1] * SECTOR_BYTES);
}

static const char *cmd_verify(const struct args *a)
{
	const char *wrong = disk_read(a);
	const uint64_t *p = (const uint64_t *)vblk_data;

	for (uint64_t w = 0; !wrong && w < a->v[1] * SECTOR_BYTES / 8; w++) {
		uint64_t want = disk_word(a->v[0] + w / 64, w % 64, a->v[2]);

		if (p[w] == want)
			continue;
		print("sector=%u word=%u is=%x want=%x\n", a->v[0] + w / 64, w % 64, p[w], want);
		wrong = "differs";
	}
	return wrong;
}

/* FNV-1a, 64 bits. */
static const char *cmd_sum(const struct args *a)
{
	const char *wrong = disk_read(a);
	uint64_t h = 0xcbf29ce484222325ULL;

	if (wrong)
		return wrong;
	for (uint64_t i = 0; i < a->v[1] * SECTOR_BYTES; i++)
		h = (h ^ vblk_data[i]) * 0x100000001b3ULL;
	print("%x\n", h);
	return NULL;
}

static const char *cmd_dump(const struct args *a)
{
	static const struct args none;
	struct args one = none;
	const char *wrong;

	one.v[0] = a->v[0];
	one.v[1] = 1;
	wrong = disk_read(&one);
	if (wrong)
		return wrong;
	for (unsigned i = 0; i < SECTOR_BYTES; i++)
		print("%c%c%s", "0123456789abcdef"[vblk_data[i] >> 4],
			"0123456789abcdef"[vblk_data[i] & 15], i % 32 == 31 ? "\n" : "");
	return NULL;
}

static const char *cmd_flush(const struct args *a)
{
	(void)a;
	return disk_do(BLK_FLUSH, 0, NULL, 0);
}

static const char *range_do(uint32_t type, const struct args *a)
{
	struct {
		uint64_t sector;
		uint32_t count, flags;
	} r = {a->v[0], (uint32_t)a->v[1], (uint32_t)a->v[2]};

	memcpy(vblk_data, &r, sizeof(r));
	return disk_do(type, 0, vblk_data, sizeof(r));
}

static const char *cmd_discard(const struct args *a)
{
	return range_do(BLK_DISCARD, a);
}

static const char *cmd_zero(const struct args *a)
{
	return range_do(BLK_WRITE_ZEROES, a);
}

static const char *cmd_raw(const struct args *a)
{
	return disk_do((uint32_t)a->v[0], a->v[1], vblk_data, a->v[2]);
}

static unsigned hex_digit(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
}

/* Send a command, and print its answer and the first bytes of what it read. */
static const char *cmd_scsi(const struct args *a)
{
	const volatile uint8_t *r = scsi_slots[0][0].response;
	uint8_t cdb[SCSI_CDB_BYTES];
	uint64_t bytes = a->v[1], moved;
	unsigned n = 0;

	if (!disk_is_open || !vblk.block_bytes)
		return "open a SCSI disk first";
	if (bytes > VBLK_DATA_BYTES)
		return "too many bytes";
	for (const char *s = a->s[0]; s[0] && s[1] && n < sizeof(cdb); s += 2)
		cdb[n++] = (uint8_t)(hex_digit(s[0]) << 4 | hex_digit(s[1]));
	scsi_cdb_set(cdb, n);
	if (vblk_do(0, BLK_SCSI, 0, vblk_data, (uint32_t)bytes) < 0)
		return "no answer";
	moved = bytes - (r[4] | (uint32_t)r[5] << 8 | (uint32_t)r[6] << 16 | (uint32_t)r[7] << 24);
	print("response=%u status=%u sense=%x/%x/%x bytes=%u data=", (uint64_t)r[11], (uint64_t)r[10], (uint64_t)(r[14] & 15),
		(uint64_t)r[24], (uint64_t)r[25], moved);
	for (uint64_t i = 0; i < moved && i < 64; i++)
		print("%c%c", "0123456789abcdef"[vblk_data[i] >> 4], "0123456789abcdef"[vblk_data[i] & 15]);
	print("\n");
	return NULL;
}

/* ---- work ---- */

struct work {
	bool random, write;
	uint64_t depth, requests, bytes, span, seed; /* span: number of requests in the range */
	uint64_t put, errors;
};

static void work_put(struct work *w, unsigned q, unsigned slot)
{
	uint64_t r = w->random ? random_next(&w->seed) % w->span : w->put % w->span;
	uint64_t per_queue = w->depth / vblk.queues;

	vblk_put(q, slot, w->write ? BLK_OUT : BLK_IN, r * (w->bytes / SECTOR_BYTES),
		vblk_data + (q * per_queue + slot) * w->bytes, (uint32_t)w->bytes);
	w->put++;
}

/* Take the completed requests of one queue and put as many new ones. Returns the number taken. */
static uint64_t work_turn(struct work *w, unsigned q)
{
	uint64_t n = 0, put = w->put;
	int slot;

	while ((slot = vblk_take(q)) >= 0) {
		n++;
		w->errors += vblk_requests[q].status[slot] != 0;
		if (w->put < w->requests)
			work_put(w, q, (unsigned)slot);
	}
	if (w->put != put)
		vblk_announce(q);
	return n;
}

static void work_run(struct work *w)
{
	uint64_t done = 0, per_queue = w->depth / vblk.queues;

	for (unsigned q = 0; q < vblk.queues; q++) {
		for (unsigned slot = 0; slot < per_queue && w->put < w->requests; slot++)
			work_put(w, q, slot);
		vblk_announce(q);
	}
	while (done < w->put) {
		for (unsigned q = 0; q < vblk.queues; q++)
			done += work_turn(w, q);
		__asm__ volatile("pause");
	}
}

static const char *cmd_bench(const struct args *a)
{
	struct work w = {.depth = a->v[1],
		.requests = a->v[2],
		.bytes = a->v[3],
		.seed = a->v[5] | 1ULL << 63};
	uint64_t ns, tsc, kicks = vblk.kicks;

	w.random = a->s[0][0] == 'r' && a->s[0][1] == 'a';
	w.write = str_equal(a->s[0], "write") || str_equal(a->s[0], "randwrite");
	if (!disk_is_open)
		return "open a disk first";
	if (!w.bytes || w.bytes % SECTOR_BYTES || !w.depth || w.depth % vblk.queues ||
		w.depth * w.bytes > VBLK_DATA_BYTES || w.depth / vblk.queues > vblk_slots())
		return "depth or size is out of range";
	w.span = a->v[4] * SECTOR_BYTES / w.bytes;
	if (!w.span)
		return "the span is too small";
	ns = clock_ns();
	tsc = rdtsc();
	work_run(&w);
	tsc = rdtsc() - tsc;
	ns = clock_ns() - ns;
	print("requests=%u errors=%u ns=%u tsc=%u kicks=%u\n", w.put, w.errors, ns, tsc,
		vblk.kicks - kicks);
	return w.errors ? "errors" : NULL;
}

/* ---- requests that cost the host much ---- */

#define FLOOD_SEGMENTS 256

/* Put equal requests into queue 0 at once, and wait for all. They share one header, one status byte and one table of
 * segments, which may share memory, so a request can be larger than RAM. */
static const char *cmd_flood(const struct args *a)
{
	static struct desc table[FLOOD_SEGMENTS + 2];
	static struct blk_header header;
	static volatile uint8_t status;
	uint64_t requests = a->v[1], segments = a->v[2], done = 0;
	uint16_t write = a->v[0] == BLK_IN ? DESC_WRITE : 0, i;
	struct queue *q = &vblk_queues[0];

	if (!disk_is_open || !(vblk.v.features & F_INDIRECT))
		return "open a disk with indirect descriptors first";
	if (requests > vblk_slots() || !segments || segments > FLOOD_SEGMENTS)
		return "too many requests or segments";
	header = (struct blk_header){(uint32_t)a->v[0], 0, 0};
	table[0] = (struct desc){(uint64_t)&header, sizeof(header), DESC_NEXT, 1};
	for (i = 1; i <= segments; i++)
		table[i] = (struct desc){a->v[4] + (i - 1) * a->v[5], (uint32_t)a->v[3], DESC_NEXT | write, i + 1};
	table[i] = (struct desc){(uint64_t)&status, 1, DESC_WRITE, 0};
	for (i = 0; i < requests; i++) {
		q->desc[i] = (struct desc){(uint64_t)table, (uint32_t)(16 * (segments + 2)), DESC_INDIRECT, 0};
		q->avail.ring[q->avail_idx++ % vblk.v.queue_size] = i;
	}
	vblk_announce(0);
	while (done < requests) {
		if (vblk_take(0) >= 0)
			done++;
		__asm__ volatile("pause");
	}
	print("status=%u\n", (uint64_t)status);
	return NULL;
}

/* ---- interrupts ---- */

/* Read once with completion by interrupt, the processor halted meanwhile. */
static const char *cmd_irq(const struct args *a)
{
	bool msix = str_equal(a->s[0], "msix");
	unsigned gsi = 16 + ((unsigned)vblk.v.bdf >> 3) % 8;
	unsigned vector = msix ? VECTOR_MSI : VECTOR_GSI(gsi);
	uint64_t before = irq_count[vector], begin = rdtsc();

	if (!disk_is_open)
		return "open a disk first";
	virtio_msix_disable(&vblk.v);
	if (msix && !virtio_msix_enable(&vblk.v))
		return "no MSI-X";
	mmio_write(vblk.v.common + COMMON_QUEUE_SELECT, 2, 0);
	mmio_write(vblk.v.common + COMMON_QUEUE_VECTOR, 2, msix ? 0 : 0xffff);
	if (!msix) {
		irq_ack_gpa[gsi] = vblk.v.isr;
		ioapic_route(gsi, true);
	}
	vblk_queues[0].avail.flags = 0;
	*vblk_used_event(&vblk_queues[0]) = vblk_queues[0].last_used;
	vblk_put(0, 0, BLK_IN, 0, vblk_data, SECTOR_BYTES);
	vblk_announce(0);
	timer_start(TIMER_WATCHDOG);
	while (irq_count[vector] == before && rdtsc() - begin < INTERRUPT_CYCLES)
		halt_unless(&irq_count[vector], before);
	timer_start(0);
	vblk_queues[0].avail.flags = 1;
	if (irq_count[vector] != before && vblk_take(0) == 0)
		return NULL;
	disk_is_open = false; /* the completion may still arrive */
	return irq_count[vector] == before ? "no interrupt" : "no answer";
}

const struct command disk_commands[] = {
	{"open", 0, 1, "INDEX [QUEUE-SIZE QUEUES WITHOUT-FEATURES]", cmd_open},
	{"sopen", 0, 2, "TARGET BLOCK-BYTES [QUEUE-SIZE QUEUES WITHOUT-FEATURES]", cmd_scsi_open},
	{"scsi", 1, 1, "CDB [BYTES]", cmd_scsi},
	{"info", 0, 0, "", cmd_info},
	{"write", 0, 3, "SECTOR COUNT SEED", cmd_write},
	{"verify", 0, 3, "SECTOR COUNT SEED", cmd_verify},
	{"sum", 0, 2, "SECTOR COUNT", cmd_sum},
	{"dump", 0, 1, "SECTOR", cmd_dump},
	{"flush", 0, 0, "", cmd_flush},
	{"discard", 0, 2, "SECTOR COUNT [FLAGS]", cmd_discard},
	{"zero", 0, 2, "SECTOR COUNT [FLAGS]", cmd_zero},
	{"request", 0, 3, "TYPE SECTOR BYTES", cmd_raw},
	{"bench", 1, 5, "read|write|randread|randwrite DEPTH REQUESTS BYTES SPAN-SECTORS [SEED]",
		cmd_bench},
	{"flood", 0, 5, "TYPE REQUESTS SEGMENTS SEGMENT-BYTES GPA [STEP]", cmd_flood},
	{"irq", 1, 1, "msix|intx", cmd_irq},
	{0},
};
