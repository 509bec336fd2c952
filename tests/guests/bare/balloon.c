/* Commands for a virtio-balloon device, polled. */
#include "virtio.h"

#define QUEUE_SIZE 32
#define PAGE_BYTES 4096ULL
#define PFNS_MAX 1024
#define F_STATS (1ULL << 1)
#define F_REPORTING (1ULL << 5)

enum { INFLATE, DEFLATE, STATS, REPORTS, QUEUES };
enum { TOTAL = 5, AVAILABLE = 6, STATS_MAX = 10 }; /* tags of statistics */

struct stat {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

static struct virtio dev = {.queue_size = QUEUE_SIZE};
static bool is_open;

static struct queue queues[QUEUES];
static uint32_t pfns[PFNS_MAX];
static struct stat stats[STATS_MAX];

/* Wait until the device has used a request, or asks for a reset. */
static const char *used_wait(unsigned i)
{
	uint64_t begin = rdtsc();

	while (virtio_take(&dev, &queues[i], NULL) < 0) {
		if (virtio_status(&dev) & STATUS_NEEDS_RESET)
			return "the device asks for a reset";
		if (rdtsc() - begin > VIRTIO_PATIENCE_CYCLES)
			return "a request was not taken";
	}
	return NULL;
}

static void stats_offer(void)
{
	queues[STATS].desc[0] = (struct desc){(uint64_t)stats, sizeof(stats), 0, 0};
	virtio_publish(&dev, &queues[STATS], STATS, 0);
}

static const char *balloon_open(const struct args *a)
{
	const char *wrong = virtio_find(&dev, 0x1045, 0);

	(void)a;
	is_open = false;
	if (!wrong)
		wrong = virtio_begin(&dev, F_STATS | F_REPORTING | F_VERSION_1);
	if (wrong)
		return wrong;
	for (unsigned i = 0; i < QUEUES; i++)
		virtio_queue_start(&dev, &queues[i], i);
	virtio_status_add(&dev, STATUS_DRIVER_OK);
	is_open = true;
	return NULL;
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
		virtio_publish(&dev, &queues[i], i, 0);
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
	virtio_publish(&dev, &queues[REPORTS], REPORTS, 0);
	return used_wait(REPORTS);
}

/* Offer statistics, and again each time the host asks for them: TIMES times. Each one without an argument is 1 MiB more
 * than the one with the tag before, beginning with 1 MiB. */
static const char *balloon_stats(const struct args *a)
{
	const char *wrong = NULL;

	for (uint16_t tag = 0; tag < STATS_MAX; tag++)
		stats[tag] = (struct stat){tag, (tag + 1ULL) << 20};
	stats[TOTAL].value = a->v[1];
	stats[AVAILABLE].value = a->v[2];
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
	print("target=%u actual=%u status=%x\n", mmio_read(dev.config, 4), mmio_read(dev.config + 4, 4), (uint64_t)virtio_status(&dev));
	return NULL;
}

static const char *cmd_balloon(const struct args *a)
{
	if (str_equal(a->s[0], "open"))
		return balloon_open(a);
	if (!is_open)
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
