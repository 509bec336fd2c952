#include "devices/legacy/debug_exit.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define REGISTER_BYTES 4u

struct debug_exit {
	struct device dev;
	struct dev_host *host;
	struct bus *pio, *mmio;
	unsigned nranges; /* of ranges[] on the buses */
	pthread_mutex_t lock; /* of what follows */
	uint8_t registers[REGISTER_BYTES];
	uint8_t *ram; /* few guests use it, so its pages are not touched before */
};

static void debug_exit_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct debug_exit *x = opaque;
	struct dev_event ev = { .kind = DEV_EVENT_DEBUG_EXIT, .device = x->dev.name,
		.value = (int64_t)(value & 0xff) };

	(void)off;
	(void)size;
	dev_event(x->host, &ev);
}

static void irq_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct debug_exit *x = opaque;

	(void)size;
	dev_irq_set(x->host, (unsigned)off, value);
}

static uint64_t bytes_read(struct debug_exit *x, const uint8_t *from, unsigned size)
{
	uint64_t v;

	pthread_mutex_lock(&x->lock);
	v = load_le(from, size);
	pthread_mutex_unlock(&x->lock);
	return v;
}

static void bytes_write(struct debug_exit *x, uint8_t *to, unsigned size, uint64_t value)
{
	pthread_mutex_lock(&x->lock);
	store_le(to, size, value);
	pthread_mutex_unlock(&x->lock);
}

static uint64_t register_read(void *opaque, uint64_t off, unsigned size)
{
	struct debug_exit *x = opaque;

	return bytes_read(x, x->registers + off, size);
}

static void register_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct debug_exit *x = opaque;

	bytes_write(x, x->registers + off, size, value);
}

static uint64_t ram_read(void *opaque, uint64_t off, unsigned size)
{
	struct debug_exit *x = opaque;

	return bytes_read(x, x->ram + off, size);
}

static void ram_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct debug_exit *x = opaque;

	bytes_write(x, x->ram + off, size, value);
}

static const struct {
	uint64_t base, len;
	bool mmio;
	struct bus_ops ops;
} ranges[] = {
	/* The port is one byte wide; claim four, so that a 32-bit write arrives, too. */
	{ DEBUG_EXIT_PORT, 4, false, { .write = debug_exit_write } },
	{ TESTDEV_REGISTER_PORT, REGISTER_BYTES, false, { register_read, register_write } },
	{ TESTDEV_IRQ_PORT, TESTDEV_IRQS, false, { .write = irq_write } },
	{ TESTDEV_RAM_BASE, TESTDEV_RAM_BYTES, true, { ram_read, ram_write } },
};

static void debug_exit_free(struct device *d)
{
	struct debug_exit *x = container_of(d, struct debug_exit, dev);

	while (x->nranges--)
		bus_remove(ranges[x->nranges].mmio ? x->mmio : x->pio, ranges[x->nranges].base, x);
	pthread_mutex_destroy(&x->lock);
	if (x->ram)
		munmap(x->ram, TESTDEV_RAM_BYTES);
	free(x);
}

static const struct device_ops debug_exit_ops = {
	.type = "debug-exit",
	.state_version = 1,
	.free = debug_exit_free,
};

int debug_exit_new(struct dev_host *h, struct bus *pio, struct bus *mmio, struct device **ret_dev, struct err *e)
{
	struct debug_exit *x = calloc(1, sizeof(*x));
	void *ram;
	int r = 0;

	if (!x)
		return err_set_errno(e, -ENOMEM, "debug-exit");
	x->dev.ops = &debug_exit_ops;
	snprintf(x->dev.name, sizeof(x->dev.name), "debug-exit");
	x->host = h;
	x->pio = pio;
	x->mmio = mmio;
	pthread_mutex_init(&x->lock, NULL);
	ram = mmap(NULL, TESTDEV_RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ram == MAP_FAILED)
		r = -errno;
	else
		x->ram = ram;
	for (unsigned i = 0; i < ARRAY_SIZE(ranges) && !r; i++) {
		r = bus_add(ranges[i].mmio ? mmio : pio, ranges[i].base, ranges[i].len, &ranges[i].ops, x);
		x->nranges += !r;
	}
	if (r) {
		debug_exit_free(&x->dev);
		return err_set_errno(e, r, "debug-exit: its ports or its memory");
	}
	*ret_dev = &x->dev;
	return 0;
}
