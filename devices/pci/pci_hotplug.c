#include "devices/pci/pci_hotplug.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/acpi_pm.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "devices/pci/pci.h"
#include "snapshot/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define REG_UP 0
#define REG_DOWN 4
#define REG_RELEASE 8
#define REG_STATUS 12
#define STATUS_SLOT_SHIFT 24
/* Values of _OST that are no refusal: the guest still works on it. */
#define OST_SUCCESS 0
#define OST_EJECTING 0x83
#define OST_EJECT_PENDING 0x84
#define SLOTS_MASK (~1u) /* the host bridge stays */

struct pci_hotplug {
	struct device dev;
	struct dev_host *host;
	struct bus *pio;
	struct device *pm;
	struct pci_hotplug_listener listener;
	struct loop_task tell;

	pthread_mutex_t lock; /* protects all fields below */
	bool on, tell_posted;
	uint32_t up, down;
	uint32_t released, refused; /* the listener is not notified yet */
};

static struct pci_hotplug *hotplug_of(const struct device *d)
{
	return container_of(d, struct pci_hotplug, dev);
}

/* Notify the listener of the guest's writes. */
static void tell_run(struct loop_task *t)
{
	struct pci_hotplug *p = container_of(t, struct pci_hotplug, tell);
	uint32_t released, refused;

	pthread_mutex_lock(&p->lock);
	p->tell_posted = false;
	released = p->released;
	refused = p->refused;
	p->released = p->refused = 0;
	pthread_mutex_unlock(&p->lock);
	if (released && p->listener.released)
		p->listener.released(p->listener.opaque, released);
	if (refused && p->listener.refused)
		p->listener.refused(p->listener.opaque, refused);
}

static void tell_post(struct pci_hotplug *p)
{
	if (p->tell_posted || !(p->released | p->refused))
		return;
	p->tell_posted = true;
	loop_post(p->host->loop, &p->tell);
}

static uint64_t hotplug_read(void *opaque, uint64_t off, unsigned size)
{
	struct pci_hotplug *p = opaque;
	uint32_t v = 0;

	LOCK_GUARD(&p->lock);
	if (!p->on || size != 4)
		return UINT64_MAX;
	if (off == REG_UP) {
		v = p->up;
		p->up = 0;
	} else if (off == REG_DOWN) {
		v = p->down;
	}
	return v;
}

static void release(struct pci_hotplug *p, uint32_t slots)
{
	slots &= p->down;
	p->down &= ~slots;
	p->released |= slots;
}

static void status_note(struct pci_hotplug *p, uint32_t value)
{
	uint32_t slot = 1u << (value >> STATUS_SLOT_SHIFT & (PCI_SLOTS - 1)), status = value & 0xff;

	if (status == OST_SUCCESS || status == OST_EJECTING || status == OST_EJECT_PENDING || !(p->down & slot))
		return;
	p->down &= ~slot;
	p->refused |= slot;
}

static void hotplug_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_hotplug *p = opaque;

	LOCK_GUARD(&p->lock);
	if (!p->on || size != 4)
		return;
	if (off == REG_RELEASE)
		release(p, (uint32_t)value);
	else if (off == REG_STATUS)
		status_note(p, (uint32_t)value);
	tell_post(p);
}

static const struct bus_ops hotplug_bus_ops = { hotplug_read, hotplug_write };

/* ---- requests of the machine ---- */

void pci_hotplug_listen(struct device *d, const struct pci_hotplug_listener *l)
{
	hotplug_of(d)->listener = *l;
}

void pci_hotplug_enable(struct device *d, bool on)
{
	struct pci_hotplug *p = hotplug_of(d);

	LOCK_GUARD(&p->lock);
	p->on = on;
}

bool pci_hotplug_is_on(const struct device *d)
{
	struct pci_hotplug *p = hotplug_of(d);

	LOCK_GUARD(&p->lock);
	return p->on;
}

/* Set the slot's bit in `up` or `down`, and raise the event. */
static void slot_raise(struct pci_hotplug *p, uint32_t *slots, unsigned slot)
{
	pthread_mutex_lock(&p->lock);
	*slots |= 1u << slot & SLOTS_MASK;
	pthread_mutex_unlock(&p->lock);
	acpi_pm_raise_gpe(p->pm, PCI_HOTPLUG_GPE);
}

void pci_hotplug_plugged(struct device *d, unsigned slot)
{
	slot_raise(hotplug_of(d), &hotplug_of(d)->up, slot);
}

void pci_hotplug_ask_release(struct device *d, unsigned slot)
{
	slot_raise(hotplug_of(d), &hotplug_of(d)->down, slot);
}

void pci_hotplug_reset_slot(struct device *d, unsigned slot)
{
	struct pci_hotplug *p = hotplug_of(d);
	uint32_t rest = ~(1u << slot);

	LOCK_GUARD(&p->lock);
	p->up &= rest;
	p->down &= rest;
	p->released &= rest;
	p->refused &= rest;
}

/* ---- device ---- */

static void hotplug_reset(struct device *d)
{
	struct pci_hotplug *p = hotplug_of(d);

	LOCK_GUARD(&p->lock);
	p->up = p->down = 0;
}

static void hotplug_save(struct device *d, struct state_writer *w)
{
	struct pci_hotplug *p = hotplug_of(d);

	LOCK_GUARD(&p->lock);
	state_put_u32(w, p->up);
	state_put_u32(w, p->down | p->released | p->refused);
}

static int hotplug_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct pci_hotplug *p = hotplug_of(d);
	uint32_t up = state_u32(r), down = state_u32(r);

	(void)version;
	if (!state_reader_complete(r) || ((up | down) & ~SLOTS_MASK))
		return err_set(e, -EINVAL, ERR_CORRUPT, "pci-hotplug: malformed state");
	LOCK_GUARD(&p->lock);
	p->up = up;
	p->down = down;
	p->released = p->refused = 0;
	return 0;
}

static void hotplug_free(struct device *d)
{
	struct pci_hotplug *p = hotplug_of(d);

	bus_remove(p->pio, PCI_HOTPLUG_PORT, p);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static const struct device_ops hotplug_ops = {
	.type = "pci-hotplug",
	.state_version = 1,
	.reset = hotplug_reset,
	.save = hotplug_save,
	.load = hotplug_load,
	.free = hotplug_free,
};

int pci_hotplug_new(struct dev_host *h, struct bus *pio, struct device *pm, struct device **ret_dev, struct err *e)
{
	struct pci_hotplug *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set_errno(e, -ENOMEM, "pci-hotplug");
	p->dev.ops = &hotplug_ops;
	snprintf(p->dev.name, sizeof(p->dev.name), "pci-hotplug");
	p->host = h;
	p->pio = pio;
	p->pm = pm;
	p->on = true;
	p->tell.run = tell_run;
	r = bus_add(pio, PCI_HOTPLUG_PORT, PCI_HOTPLUG_BYTES, &hotplug_bus_ops, p);
	if (r) {
		free(p);
		return err_set_errno(e, r, "pci-hotplug: port 0x%x", PCI_HOTPLUG_PORT);
	}
	pthread_mutex_init(&p->lock, NULL);
	*ret_dev = &p->dev;
	return 0;
}
