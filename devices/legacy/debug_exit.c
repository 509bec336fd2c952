#include "devices/legacy/debug_exit.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct debug_exit {
	struct device dev;
	struct dev_host *host;
	struct bus *pio;
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

/* The port is one byte wide; claim four, so that a 32-bit write arrives, too. */
#define DEBUG_EXIT_PORTS 4
static const struct bus_ops debug_exit_bus_ops = { .write = debug_exit_write };

static void debug_exit_free(struct device *d)
{
	struct debug_exit *x = container_of(d, struct debug_exit, dev);

	bus_remove(x->pio, DEBUG_EXIT_PORT, x);
	free(x);
}

/* The device has no state. */
static const struct device_ops debug_exit_ops = {
	.type = "debug-exit",
	.state_version = 1,
	.free = debug_exit_free,
};

int debug_exit_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e)
{
	struct debug_exit *x = calloc(1, sizeof(*x));
	int r;

	if (!x)
		return err_set_errno(e, -ENOMEM, "debug-exit");
	x->dev.ops = &debug_exit_ops;
	snprintf(x->dev.name, sizeof(x->dev.name), "debug-exit");
	x->host = h;
	x->pio = pio;
	r = bus_add(pio, DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, &debug_exit_bus_ops, x);
	if (r) {
		free(x);
		return err_set_errno(e, r, "debug-exit: port 0x%x", DEBUG_EXIT_PORT);
	}
	*ret_dev = &x->dev;
	return 0;
}
