/* Commands for a virtio-input device, polled. */
#include "virtio.h"

#define QUEUE_SIZE 64
#define SELECT_NAME 1
#define SELECT_AXIS 0x12

struct event {
	uint16_t type, code;
	uint32_t value;
};

static struct virtio dev = {.queue_size = QUEUE_SIZE};
static bool is_open;
static struct queue events_queue, status_queue;
static struct event events[QUEUE_SIZE];

static void room_offer(unsigned i)
{
	events_queue.desc[i] = (struct desc){(uint64_t)&events[i], sizeof(events[i]), DESC_WRITE, 0};
	virtio_publish(&dev, &events_queue, 0, (uint16_t)i);
}

/* Print the device's name, and the maximum of its first axis. */
static const char *tablet_open(const struct args *a)
{
	const char *wrong = virtio_find(&dev, 0x1052, 0);
	char name[57];
	unsigned n;

	(void)a;
	is_open = false;
	if (!wrong)
		wrong = virtio_begin(&dev, F_VERSION_1);
	if (wrong)
		return wrong;
	mmio_write(dev.config, 1, SELECT_NAME);
	n = (unsigned)mmio_read(dev.config + 2, 1);
	for (unsigned i = 0; i < n && i < sizeof(name) - 1; i++)
		name[i] = (char)mmio_read(dev.config + 8 + i, 1);
	name[n < sizeof(name) - 1 ? n : sizeof(name) - 1] = 0;
	mmio_write(dev.config, 1, SELECT_AXIS);
	print("%s, %u\n", name, mmio_read(dev.config + 12, 4));
	virtio_queue_start(&dev, &events_queue, 0);
	virtio_queue_start(&dev, &status_queue, 1);
	virtio_status_add(&dev, STATUS_DRIVER_OK);
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		room_offer(i);
	is_open = true;
	return NULL;
}

/* Print the events that have come. */
static const char *tablet_read(const struct args *a)
{
	int i;

	(void)a;
	while ((i = virtio_take(&dev, &events_queue, NULL)) >= 0 && i < QUEUE_SIZE) {
		print("%u %u %u\n", (uint64_t)events[i].type, (uint64_t)events[i].code, (uint64_t)events[i].value);
		room_offer((unsigned)i);
	}
	return NULL;
}

static const char *cmd_tablet(const struct args *a)
{
	if (str_equal(a->s[0], "open"))
		return tablet_open(a);
	if (!is_open)
		return "tablet is not open";
	return str_equal(a->s[0], "read") ? tablet_read(a) : "unknown action";
}

const struct command tablet_commands[] = {
	{"tablet", 1, 1, "open|read", cmd_tablet},
	{0},
};
