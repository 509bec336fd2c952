/* Commands for a virtio-balloon device, polled. */
#include "virtio_blk.h"

#define QUEUE_SIZE 32
#define PATIENCE_CYCLES 30000000000ULL
#define PAGE_BYTES 4096ULL
#define PFNS_MAX 1024
#define F_STATS (1ULL << 1)
#define F_REPORTING (1ULL << 5)

enum { INFLATE, DEFLATE, STATS, REPORTS, QUEUES };

struct stat {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

static struct {
	int bdf;
	bool is_open;
	uint64_t common, notify, config;
	uint32_t notify_step;
} dev;

static struct queue queues[QUEUES];
static uint32_t pfns[PFNS_MAX];
static struct stat stats[2];

static uint64_t capability_gpa(unsigned cap)
{
	uint64_t bar = pci_bar((uint16_t)dev.bdf, pci_read((uint16_t)dev.bdf, cap + 4, 1));

	return bar ? bar + pci_read((uint16_t)dev.bdf, cap + 8, 4) : 0;
}

static const char *dev_find(void)
{
	uint16_t bdf;

	dev.bdf = pci_find(0x1af4, 0x1045, 0);
	if (dev.bdf < 0)
		return "no balloon device";
	bdf = (uint16_t)dev.bdf;
	pci_write(bdf, 4, 2, 0x0006); /* memory, bus master */
	for (unsigned cap = pci_read(bdf, 0x34, 1) & 0xfc, n = 0; cap && n < 48;
		cap = pci_read(bdf, cap + 1, 1) & 0xfc, n++) {
		unsigned kind = pci_read(bdf, cap, 1) == 0x09 ? pci_read(bdf, cap + 3, 1) : 0;

		if (kind == 1)
			dev.common = capability_gpa(cap);
		if (kind == 2) {
			dev.notify = capability_gpa(cap);
			dev.notify_step = pci_read(bdf, cap + 16, 4);
		}
		if (kind == 4)
			dev.config = capability_gpa(cap);
	}
	return dev.common && dev.notify && dev.config ? NULL : "the device lacks a capability";
}

static uint8_t status(void)
{
	return (uint8_t)mmio_read(dev.common + COMMON_STATUS, 1);
}

static void status_add(uint8_t bits)
{
	mmio_write(dev.common + COMMON_STATUS, 1, status() | bits);
}

static void common_write64(unsigned reg, const void *p)
{
	mmio_write(dev.common + reg, 4, (uint32_t)(uint64_t)p);
	mmio_write(dev.common + reg + 4, 4, (uint64_t)p >> 32);
}

static void queue_start(unsigned i)
{
	struct queue *q = &queues[i];

	memset(q, 0, sizeof(*q));
	q->avail.flags = 1; /* polling, so no interrupts */
	mmio_write(dev.common + COMMON_QUEUE_SELECT, 2, i);
	mmio_write(dev.common + COMMON_QUEUE_SIZE, 2, QUEUE_SIZE);
	mmio_write(dev.common + COMMON_QUEUE_VECTOR, 2, 0xffff);
	common_write64(COMMON_QUEUE_DESC, q->desc);
	common_write64(COMMON_QUEUE_AVAIL, &q->avail);
	common_write64(COMMON_QUEUE_USED, &q->used);
	q->notify_gpa = dev.notify + mmio_read(dev.common + COMMON_QUEUE_NOTIFY_OFF, 2) * dev.notify_step;
	mmio_write(dev.common + COMMON_QUEUE_ENABLE, 2, 1);
}

static void publish(unsigned i, uint16_t head)
{
	struct queue *q = &queues[i];

	q->avail.ring[q->avail_idx++ % QUEUE_SIZE] = head;
	__asm__ volatile("mfence" : : : "memory");
	*(volatile uint16_t *)&q->avail.idx = q->avail_idx;
	__asm__ volatile("mfence" : : : "memory");
	mmio_write(q->notify_gpa, 2, i);
}

static bool used_next(unsigned i)
{
	struct queue *q = &queues[i];

	if (*(volatile uint16_t *)&q->used.idx == q->last_used)
		return false;
	q->last_used++;
	return true;
}

/* Wait until the device has used a request, or asks for a reset. */
static const char *used_wait(unsigned i)
{
	uint64_t begin = rdtsc();

	while (!used_next(i)) {
		if (status() & STATUS_NEEDS_RESET)
			return "the device asks for a reset";
		if (rdtsc() - begin > PATIENCE_CYCLES)
			return "a request was not taken";
	}
	return NULL;
}

static void stats_offer(void)
{
	queues[STATS].desc[0] = (struct desc){(uint64_t)stats, sizeof(stats), 0, 0};
	publish(STATS, 0);
}

static const char *dev_start(void)
{
	uint64_t begin = rdtsc();

	mmio_write(dev.common + COMMON_STATUS, 1, 0);
	while (status())
		if (rdtsc() - begin > PATIENCE_CYCLES)
			return "the device does not reset";
	status_add(STATUS_ACKNOWLEDGE);
	status_add(STATUS_DRIVER);
	mmio_write(dev.common + COMMON_DRIVER_FEATURE_SELECT, 4, 0);
	mmio_write(dev.common + COMMON_DRIVER_FEATURE, 4, F_STATS | F_REPORTING);
	mmio_write(dev.common + COMMON_DRIVER_FEATURE_SELECT, 4, 1);
	mmio_write(dev.common + COMMON_DRIVER_FEATURE, 4, (uint32_t)(F_VERSION_1 >> 32));
	status_add(STATUS_FEATURES_OK);
	if (!(status() & STATUS_FEATURES_OK))
		return "the device refuses the features";
	for (unsigned i = 0; i < QUEUES; i++)
		queue_start(i);
	status_add(STATUS_DRIVER_OK);
	dev.is_open = true;
	return NULL;
}

static const char *balloon_open(const struct args *a)
{
	const char *wrong = dev_find();

	(void)a;
	dev.is_open = false;
	return wrong ? wrong : dev_start();
}

/* Put the pages of a range into the balloon, or take them out. */
static const char *range_move(unsigned i, const struct args *a)
{
	uint64_t pfn = a->v[1] / PAGE_BYTES, end = (a->v[1] + a->v[2]) / PAGE_BYTES;
	uint32_t actual = (uint32_t)mmio_read(dev.config + 4, 4);
	const char *wrong = NULL;

	while (pfn < end && !wrong) {
		uint64_t n = 0;

		for (; n < PFNS_MAX && pfn < end; n++, pfn++)
			pfns[n] = (uint32_t)pfn;
		queues[i].desc[0] = (struct desc){(uint64_t)pfns, (uint32_t)(4 * n), 0, 0};
		publish(i, 0);
		wrong = used_wait(i);
		actual = i == INFLATE ? actual + (uint32_t)n : actual - (uint32_t)n;
		mmio_write(dev.config + 4, 4, actual);
	}
	return wrong;
}

/* Report a range as free. */
static const char *balloon_report(const struct args *a)
{
	queues[REPORTS].desc[0] = (struct desc){a->v[1], (uint32_t)a->v[2], DESC_WRITE, 0};
	publish(REPORTS, 0);
	return used_wait(REPORTS);
}

/* Offer statistics, and again each time the host asks for them: TIMES times. */
static const char *balloon_stats(const struct args *a)
{
	const char *wrong = NULL;

	stats[0] = (struct stat){5, a->v[1]}; /* total */
	stats[1] = (struct stat){6, a->v[2]}; /* available */
	stats_offer();
	for (uint64_t i = 0; i < a->v[3] && !wrong; i++) {
		wrong = used_wait(STATS);
		if (!wrong)
			stats_offer();
	}
	return wrong;
}

static const char *balloon_show(const struct args *a)
{
	(void)a;
	print("target=%u actual=%u status=%x\n", mmio_read(dev.config, 4), mmio_read(dev.config + 4, 4), (uint64_t)status());
	return NULL;
}

static const char *cmd_balloon(const struct args *a)
{
	if (str_equal(a->s[0], "open"))
		return balloon_open(a);
	if (!dev.is_open)
		return "open the device first";
	if (str_equal(a->s[0], "show"))
		return balloon_show(a);
	if (str_equal(a->s[0], "inflate"))
		return range_move(INFLATE, a);
	if (str_equal(a->s[0], "deflate"))
		return range_move(DEFLATE, a);
	if (str_equal(a->s[0], "report"))
		return balloon_report(a);
	return str_equal(a->s[0], "stats") ? balloon_stats(a) : "no such command";
}

const struct command balloon_commands[] = {
	{"balloon", 1, 1, "open|show|inflate GPA BYTES|deflate GPA BYTES|report GPA BYTES|stats TOTAL AVAILABLE TIMES", cmd_balloon},
	{0},
};
