/* Malformed rings. After each mode the guest checks whether the device asks for a reset, then
 * resets it and reads successfully. */
#include "virtio_blk.h"

#define WAIT_CYCLES 60000000000ULL   /* some 20 s, for a device that must ask for a reset */
#define IGNORE_CYCLES 1500000000ULL /* half a second, for one that may ignore the violation */
#define BEYOND 0x0000700000000000ULL
#define HOLE 0xf0000000ULL /* neither RAM nor a device */

static struct queue *const q0 = &vblk_queues[0];
static struct vblk_requests *const r0 = &vblk_requests[0];

/* Put a valid read request into descriptors 0 to 2, for a mode to modify. */
static void chain_good(void)
{
	r0->headers[0] = (struct blk_header){BLK_IN, 0, 0};
	r0->status[0] = 0xee;
	q0->desc[0] = (struct desc){(uint64_t)&r0->headers[0], 16, DESC_NEXT, 1};
	q0->desc[1] = (struct desc){(uint64_t)vblk_data, 512, DESC_NEXT | DESC_WRITE, 2};
	q0->desc[2] = (struct desc){(uint64_t)&r0->status[0], 1, DESC_WRITE, 0};
}

static void publish(uint16_t head)
{
	q0->avail.ring[q0->avail_idx++ % vblk.v.queue_size] = head;
	*(volatile uint16_t *)&q0->avail.idx = q0->avail_idx;
	vblk_kick(0);
}

static void queue_field(unsigned reg, uint64_t v)
{
	mmio_write(vblk.v.common + COMMON_QUEUE_SELECT, 2, 0);
	mmio_write(vblk.v.common + reg, 4, (uint32_t)v);
	mmio_write(vblk.v.common + reg + 4, 4, v >> 32);
}

static void indirect(const struct desc *table, uint32_t bytes)
{
	q0->desc[0] = (struct desc){(uint64_t)table, bytes, DESC_INDIRECT, 0};
	publish(0);
}

static void mode_loop(void)
{
	q0->desc[1].next = 0;
	publish(0);
}

static void mode_self(void)
{
	q0->desc[0].next = 0;
	publish(0);
}

static void mode_beyond(void)
{
	q0->desc[1].gpa = BEYOND;
	publish(0);
}

static void mode_hole(void)
{
	q0->desc[1].gpa = HOLE;
	publish(0);
}

static void mode_wrap(void)
{
	q0->desc[1].gpa = ~0ULL - 255;
	publish(0);
}

static void mode_huge(void)
{
	q0->desc[1].bytes = 0xffffffff;
	publish(0);
}

static void mode_header_beyond(void)
{
	q0->desc[0].gpa = BEYOND;
	publish(0);
}

static void mode_status_beyond(void)
{
	q0->desc[2].gpa = BEYOND;
	publish(0);
}

static void mode_next(void)
{
	q0->desc[1].next = vblk.v.queue_size;
	publish(0);
}

static void mode_head(void)
{
	publish(vblk.v.queue_size);
}

static void mode_order(void)
{
	q0->desc[0].flags |= DESC_WRITE;
	q0->desc[1].flags &= (uint16_t)~DESC_WRITE;
	publish(0);
}

static void mode_read_only(void)
{
	q0->desc[1].flags &= (uint16_t)~DESC_WRITE;
	q0->desc[2].flags &= (uint16_t)~DESC_WRITE;
	publish(0);
}

static void mode_short(void)
{
	q0->desc[0].bytes = 8;
	publish(0);
}

static void mode_lone(void)
{
	q0->desc[0].flags = 0;
	publish(0);
}

static void mode_empty(void)
{
	q0->desc[1].bytes = 0;
	q0->desc[2].bytes = 0;
	publish(0);
}

static void mode_nested(void)
{
	r0->tables[0][0] = (struct desc){(uint64_t)r0->tables[1], 48, DESC_INDIRECT, 0};
	memcpy(r0->tables[1], q0->desc, 48);
	indirect(r0->tables[0], 16);
}

static void mode_indirect_size(void)
{
	memcpy(r0->tables[0], q0->desc, 48);
	indirect(r0->tables[0], 40);
}

static void mode_indirect_none(void)
{
	indirect(r0->tables[0], 0);
}

static void mode_indirect_huge(void)
{
	indirect(r0->tables[0], 0xfffffff0);
}

static void mode_indirect_beyond(void)
{
	indirect((const struct desc *)BEYOND, 48);
}

static void mode_indirect_next(void)
{
	memcpy(r0->tables[0], q0->desc, 48);
	r0->tables[0][1].next = 7;
	indirect(r0->tables[0], 48);
}

static void mode_indirect_chained(void)
{
	memcpy(r0->tables[0], q0->desc, 48);
	q0->desc[0] = (struct desc){(uint64_t)r0->tables[0], 48, DESC_INDIRECT | DESC_NEXT, 1};
	publish(0);
}

static void mode_jump(void)
{
	q0->avail_idx = (uint16_t)(q0->avail_idx + vblk.v.queue_size + 1);
	publish(0);
}

static void mode_back(void)
{
	q0->avail_idx = (uint16_t)(q0->avail_idx - 2);
	publish(0);
}

/* Change addresses while the queue runs: a device may ignore such a write, but must not follow it
 * unchecked. */
static void mode_move(void)
{
	queue_field(COMMON_QUEUE_DESC, BEYOND);
	queue_field(COMMON_QUEUE_AVAIL, HOLE);
	queue_field(COMMON_QUEUE_USED, ~0ULL & ~4095ULL);
	publish(0);
}

static void mode_resize(void)
{
	mmio_write(vblk.v.common + COMMON_QUEUE_SELECT, 2, 0);
	mmio_write(vblk.v.common + COMMON_QUEUE_SIZE, 2, 0xffff);
	publish(0);
}

/* Restart the queue with an invalid ring address. */
static void restart_at(unsigned reg, uint64_t gpa)
{
	mmio_write(vblk.v.common + COMMON_STATUS, 1, 0);
	virtio_status_add(&vblk.v, STATUS_ACKNOWLEDGE);
	virtio_status_add(&vblk.v, STATUS_DRIVER);
	mmio_write(vblk.v.common + COMMON_DRIVER_FEATURE_SELECT, 4, 1);
	mmio_write(vblk.v.common + COMMON_DRIVER_FEATURE, 4, 1);
	virtio_status_add(&vblk.v, STATUS_FEATURES_OK);
	queue_field(COMMON_QUEUE_DESC, (uint64_t)q0->desc);
	queue_field(COMMON_QUEUE_AVAIL, (uint64_t)&q0->avail);
	queue_field(COMMON_QUEUE_USED, (uint64_t)&q0->used);
	queue_field(reg, gpa);
	mmio_write(vblk.v.common + COMMON_QUEUE_SIZE, 2, vblk.v.queue_size);
	mmio_write(vblk.v.common + COMMON_QUEUE_ENABLE, 2, 1);
	virtio_status_add(&vblk.v, STATUS_DRIVER_OK);
	publish(0);
}

static void mode_desc_beyond(void)
{
	restart_at(COMMON_QUEUE_DESC, BEYOND);
}

static void mode_avail_hole(void)
{
	restart_at(COMMON_QUEUE_AVAIL, HOLE);
}

static void mode_used_wrap(void)
{
	restart_at(COMMON_QUEUE_USED, ~0ULL & ~15ULL);
}

static void mode_size_odd(void)
{
	mmio_write(vblk.v.common + COMMON_STATUS, 1, 0);
	virtio_status_add(&vblk.v, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	mmio_write(vblk.v.common + COMMON_QUEUE_SELECT, 2, 0);
	mmio_write(vblk.v.common + COMMON_QUEUE_SIZE, 2, 77);
	mmio_write(vblk.v.common + COMMON_QUEUE_ENABLE, 2, 1);
	virtio_status_add(&vblk.v, STATUS_DRIVER_OK);
	publish(0);
}

/* Kick queues that do not exist hundreds of times. */
static void mode_kicks(void)
{
	for (unsigned i = 0; i < 400; i++)
		mmio_write(q0->notify_gpa + 4 * (i & 63), 2, i * 257);
	publish(0);
}

static const struct {
	const char *name;
	void (*run)(void);
} modes[] = {
	{"loop", mode_loop},
	{"self", mode_self},
	{"beyond", mode_beyond},
	{"hole", mode_hole},
	{"wrap", mode_wrap},
	{"huge", mode_huge},
	{"header-beyond", mode_header_beyond},
	{"status-beyond", mode_status_beyond},
	{"next", mode_next},
	{"head", mode_head},
	{"order", mode_order},
	{"read-only", mode_read_only},
	{"short", mode_short},
	{"lone", mode_lone},
	{"empty", mode_empty},
	{"nested", mode_nested},
	{"indirect-size", mode_indirect_size},
	{"indirect-none", mode_indirect_none},
	{"indirect-huge", mode_indirect_huge},
	{"indirect-beyond", mode_indirect_beyond},
	{"indirect-next", mode_indirect_next},
	{"indirect-chained", mode_indirect_chained},
	{"jump", mode_jump},
	{"back", mode_back},
	{"move", mode_move},
	{"resize", mode_resize},
	{"desc-beyond", mode_desc_beyond},
	{"avail-hole", mode_avail_hole},
	{"used-wrap", mode_used_wrap},
	{"size-odd", mode_size_odd},
	{"kicks", mode_kicks},
};

/* Return whether the device need not ask for a reset, or the driver never starts it. */
static bool may_ignore(void (*mode)(void))
{
	return mode == mode_move || mode == mode_resize || mode == mode_size_odd || mode == mode_kicks;
}

/* Open the disk, violate the protocol, check the status, open again and read. */
static const char *mode_try(unsigned i, unsigned index)
{
	const char *wrong = vblk_find(index);
	bool ignores = may_ignore(modes[i].run);
	uint64_t begin;
	uint8_t status;

	if (!wrong)
		wrong = vblk_open(0, 1, 0);
	if (wrong)
		return wrong;
	chain_good();
	modes[i].run();
	begin = rdtsc();
	do
		status = virtio_status(&vblk.v);
	while (!(status & STATUS_NEEDS_RESET) && !(ignores && r0->status[0] != 0xee) &&
		rdtsc() - begin < (ignores ? IGNORE_CYCLES : WAIT_CYCLES));
	print("mode=%s status=%x answer=%x may_ignore=%x\n", modes[i].name, (uint64_t)status,
		(uint64_t)r0->status[0], (uint64_t)ignores);
	wrong = vblk_open(0, 1, 0);
	if (wrong)
		return wrong;
	return vblk_do(0, BLK_IN, 0, vblk_data, SECTOR_BYTES) == 0 ? NULL : "no read after a reset";
}

static const char *cmd_ring(const struct args *a)
{
	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++)
		if (str_equal(modes[i].name, a->s[0]))
			return mode_try(i, (unsigned)a->v[1]);
	return "no such mode";
}

static const char *cmd_rings(const struct args *a)
{
	(void)a;
	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++)
		print("%s\n", modes[i].name);
	return NULL;
}

const struct command ring_commands[] = {
	{"ring", 1, 1, "MODE [INDEX]", cmd_ring},
	{"rings", 0, 0, "", cmd_rings},
	{0},
};
