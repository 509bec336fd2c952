#include "devices/legacy/debugcon.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define LINE_BYTES 160
/* SeaBIOS writes some 75 lines for a start with a disk, and a few for each further device. The VM's process may write
 * 200 lines a minute in all. */
#define LINES_BURST 120
#define LINES_WINDOW_NS (60 * 1000000000ULL)

struct debugcon {
	struct device dev;
	struct bus *pio;
	pthread_mutex_t lock; /* protects all fields below */
	struct ratelimit limit;
	char line[LINE_BYTES + 1];
	unsigned n;
};

static void line_end(struct debugcon *c)
{
	uint64_t left_out;

	if (c->n && ratelimit_take_of(&c->limit, LINES_BURST, LINES_WINDOW_NS, loop_now_ns(), &left_out)) {
		c->line[c->n] = 0;
		if (left_out)
			log_info("firmware", "%llu lines were left out", (unsigned long long)left_out);
		log_info("firmware", "%s", c->line);
	}
	c->n = 0;
}

static uint64_t debugcon_read(void *opaque, uint64_t off, unsigned size)
{
	(void)opaque;
	(void)off;
	(void)size;
	return DEBUGCON_READBACK;
}

static void debugcon_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct debugcon *c = opaque;
	uint8_t byte = (uint8_t)value;

	(void)off;
	(void)size;
	LOCK_GUARD(&c->lock);
	if (byte == '\n') {
		line_end(c);
		return;
	}
	if (byte == '\r')
		return;
	if (c->n == LINE_BYTES)
		line_end(c);
	c->line[c->n++] = byte >= 0x20 && byte < 0x7f ? (char)byte : '?';
}

static const struct bus_ops debugcon_bus_ops = { debugcon_read, debugcon_write };

static void debugcon_reset(struct device *d)
{
	struct debugcon *c = container_of(d, struct debugcon, dev);

	LOCK_GUARD(&c->lock);
	line_end(c);
}

static void debugcon_free(struct device *d)
{
	struct debugcon *c = container_of(d, struct debugcon, dev);

	bus_remove(c->pio, DEBUGCON_PORT, c);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

/* An unfinished line is no state of the guest. */
static const struct device_ops debugcon_ops = {
	.type = "debugcon",
	.state_version = 1,
	.reset = debugcon_reset,
	.free = debugcon_free,
};

int debugcon_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e)
{
	struct debugcon *c = calloc(1, sizeof(*c));
	int r;

	(void)h;
	if (!c)
		return err_set_errno(e, -ENOMEM, "debugcon");
	c->dev.ops = &debugcon_ops;
	snprintf(c->dev.name, sizeof(c->dev.name), "debugcon");
	c->pio = pio;
	pthread_mutex_init(&c->lock, NULL);
	r = bus_add(pio, DEBUGCON_PORT, 1, &debugcon_bus_ops, c);
	if (r) {
		pthread_mutex_destroy(&c->lock);
		free(c);
		return err_set_errno(e, r, "debugcon: port 0x%x", DEBUGCON_PORT);
	}
	*ret_dev = &c->dev;
	return 0;
}
