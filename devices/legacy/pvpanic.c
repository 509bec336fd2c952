#include "devices/legacy/pvpanic.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define PVPANIC_EVENTS (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED)

struct pvpanic {
	struct device dev;
	struct dev_host *host;
	struct bus *pio;
};

static uint64_t pvpanic_read(void *opaque, uint64_t off, unsigned size)
{
	(void)opaque;
	(void)off;
	(void)size;
	return PVPANIC_EVENTS;
}

static void pvpanic_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct pvpanic *p = opaque;
	struct dev_event ev = { .kind = DEV_EVENT_PANICKED, .device = p->dev.name,
		.value = (int64_t)(value & PVPANIC_EVENTS) };

	(void)off;
	(void)size;
	if (ev.value)
		dev_event(p->host, &ev);
}

static const struct bus_ops pvpanic_bus_ops = { .read = pvpanic_read, .write = pvpanic_write };

static void pvpanic_free(struct device *d)
{
	struct pvpanic *p = container_of(d, struct pvpanic, dev);

	bus_remove(p->pio, PVPANIC_PORT, p);
	free(p);
}

/* The device has no state. */
static const struct device_ops pvpanic_ops = {
	.type = "pvpanic",
	.state_version = 1,
	.free = pvpanic_free,
};

int pvpanic_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e)
{
	struct pvpanic *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set_errno(e, -ENOMEM, "pvpanic");
	p->dev.ops = &pvpanic_ops;
	snprintf(p->dev.name, sizeof(p->dev.name), "pvpanic");
	p->host = h;
	p->pio = pio;
	r = bus_add(pio, PVPANIC_PORT, 1, &pvpanic_bus_ops, p);
	if (r) {
		free(p);
		return err_set_errno(e, r, "pvpanic: port 0x%x", PVPANIC_PORT);
	}
	*ret_dev = &p->dev;
	return 0;
}
