#include "devices/cpu_hotplug.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/acpi_pm.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "snapshot/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define REG_SELECT 0
#define REG_FLAGS 1
#define REG_STATUS 2
#define FLAG_PRESENT 1u
#define FLAG_CAME 2u
#define FLAG_ASKED 4u
#define FLAG_RELEASE 8u
/* Values of _OST that are no refusal: the guest still works on it. */
#define OST_SUCCESS 0
#define OST_EJECTING 0x83
#define OST_EJECT_PENDING 0x84

struct cpu_hotplug {
	struct device dev;
	struct dev_host *host;
	struct bus *pio;
	struct device *pm;
	struct cpu_hotplug_listener listener;
	struct loop_task tell;
	uint64_t all; /* the vCPUs that the guest can have */

	pthread_mutex_t lock; /* protects all fields below */
	bool tell_posted;
	uint8_t selected;
	uint64_t present;
	uint64_t came, leaves;	    /* vCPUs of whose addition or removal the guest has to be notified */
	uint64_t asked;		    /* the guest may release these */
	uint64_t released, refused; /* the listener is not notified yet */
};

static struct cpu_hotplug *hotplug_of(const struct device *d)
{
	return container_of(d, struct cpu_hotplug, dev);
}

/* Notify the listener of the guest's writes. */
static void tell_run(struct loop_task *t)
{
	struct cpu_hotplug *p = container_of(t, struct cpu_hotplug, tell);
	uint64_t released, refused;

	pthread_mutex_lock(&p->lock);
	p->tell_posted = false;
	released = p->released;
	refused = p->refused;
	p->refused = 0;
	pthread_mutex_unlock(&p->lock);
	if (released && p->listener.released)
		p->listener.released(p->listener.opaque, released);
	if (refused && p->listener.refused)
		p->listener.refused(p->listener.opaque, refused);
}

static void tell_post(struct cpu_hotplug *p)
{
	if (p->tell_posted)
		return;
	p->tell_posted = true;
	loop_post(p->host->loop, &p->tell);
}

/* Return the bit of the selected vCPU; 0: there is none with this number. */
static uint64_t selected_bit(const struct cpu_hotplug *p)
{
	return p->selected < CPU_HOTPLUG_MAX ? 1ULL << p->selected & p->all : 0;
}

static uint64_t hotplug_read(void *opaque, uint64_t off, unsigned size)
{
	struct cpu_hotplug *p = opaque;
	uint64_t bit;

	LOCK_GUARD(&p->lock);
	bit = selected_bit(p);
	if (size != 1 || off != REG_FLAGS)
		return UINT64_MAX;
	return (p->present & bit ? FLAG_PRESENT : 0) | (p->came & bit ? FLAG_CAME : 0) | (p->leaves & bit ? FLAG_ASKED : 0);
}

static void flags_write(struct cpu_hotplug *p, uint64_t bit, uint64_t value)
{
	if (value & FLAG_CAME)
		p->came &= ~bit;
	if (value & FLAG_ASKED)
		p->leaves &= ~bit;
	if (!(value & FLAG_RELEASE) || !(p->asked & bit))
		return;
	p->asked &= ~bit;
	p->leaves &= ~bit;
	p->released |= bit;
	tell_post(p);
}

static void status_note(struct cpu_hotplug *p, uint64_t bit, uint64_t status)
{
	if (status == OST_SUCCESS || status == OST_EJECTING || status == OST_EJECT_PENDING || !(p->asked & bit))
		return;
	p->asked &= ~bit;
	p->leaves &= ~bit;
	p->refused |= bit;
	tell_post(p);
}

static void hotplug_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct cpu_hotplug *p = opaque;
	bool more = false;

	if (size != 1)
		return;
	pthread_mutex_lock(&p->lock);
	if (off == REG_SELECT) {
		p->selected = (uint8_t)value;
	} else if (off == REG_FLAGS) {
		flags_write(p, selected_bit(p), value);
		/* The guest takes one notification of a vCPU for each event. */
		more = value & FLAG_CAME && p->leaves & selected_bit(p);
	} else if (off == REG_STATUS) {
		status_note(p, selected_bit(p), value & 0xff);
	}
	pthread_mutex_unlock(&p->lock);
	if (more)
		acpi_pm_raise_gpe(p->pm, CPU_HOTPLUG_GPE);
}

static const struct bus_ops hotplug_bus_ops = { hotplug_read, hotplug_write };

/* ---- requests of the machine ---- */

void cpu_hotplug_listen(struct device *d, const struct cpu_hotplug_listener *l)
{
	hotplug_of(d)->listener = *l;
}

uint64_t cpu_hotplug_present(const struct device *d)
{
	struct cpu_hotplug *p = hotplug_of(d);

	LOCK_GUARD(&p->lock);
	return p->present;
}

void cpu_hotplug_add(struct device *d, unsigned vcpu)
{
	struct cpu_hotplug *p = hotplug_of(d);

	pthread_mutex_lock(&p->lock);
	p->present |= 1ULL << vcpu & p->all;
	p->came |= 1ULL << vcpu & p->all;
	pthread_mutex_unlock(&p->lock);
	acpi_pm_raise_gpe(p->pm, CPU_HOTPLUG_GPE);
}

void cpu_hotplug_ask_release(struct device *d, unsigned vcpu)
{
	struct cpu_hotplug *p = hotplug_of(d);
	uint64_t bit = 1ULL << vcpu;

	pthread_mutex_lock(&p->lock);
	bit &= p->present & ~p->released & ~1ULL;
	p->asked |= bit;
	p->leaves |= bit;
	pthread_mutex_unlock(&p->lock);
	acpi_pm_raise_gpe(p->pm, CPU_HOTPLUG_GPE);
}

bool cpu_hotplug_is_released(const struct device *d, unsigned vcpu)
{
	struct cpu_hotplug *p = hotplug_of(d);

	LOCK_GUARD(&p->lock);
	return p->released >> vcpu & 1;
}

void cpu_hotplug_removed(struct device *d, unsigned vcpu)
{
	struct cpu_hotplug *p = hotplug_of(d);
	uint64_t rest = ~(1ULL << vcpu);

	LOCK_GUARD(&p->lock);
	p->present &= rest;
	p->came &= rest;
	p->leaves &= rest;
	p->asked &= rest;
	p->released &= rest;
	p->refused &= rest;
}

/* ---- device ---- */

static void hotplug_reset(struct device *d)
{
	struct cpu_hotplug *p = hotplug_of(d);

	LOCK_GUARD(&p->lock);
	p->came = p->leaves = p->asked = 0;
	p->selected = 0;
}

static void hotplug_save(struct device *d, struct state_writer *w)
{
	struct cpu_hotplug *p = hotplug_of(d);

	LOCK_GUARD(&p->lock);
	/* A vCPU that is released but still present is absent in a saved state. */
	state_put_u64(w, p->present & ~p->released);
	state_put_u64(w, p->came & ~p->released);
	state_put_u64(w, p->leaves);
	state_put_u64(w, p->asked | p->refused);
	state_put_u8(w, p->selected);
}

static int hotplug_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct cpu_hotplug *p = hotplug_of(d);
	uint64_t present = state_u64(r), came = state_u64(r), leaves = state_u64(r), asked = state_u64(r);
	uint8_t selected = state_u8(r);

	(void)version;
	if (!state_reader_complete(r) || !(present & 1) || (present & ~p->all) || ((came | leaves | asked) & ~present) || (asked & 1))
		return err_set(e, -EINVAL, ERR_CORRUPT, "cpu-hotplug: malformed state");
	LOCK_GUARD(&p->lock);
	p->present = present;
	p->came = came;
	p->leaves = leaves;
	p->asked = asked;
	p->selected = selected;
	p->released = p->refused = 0;
	return 0;
}

static void hotplug_free(struct device *d)
{
	struct cpu_hotplug *p = hotplug_of(d);

	bus_remove(p->pio, CPU_HOTPLUG_PORT, p);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static const struct device_ops hotplug_ops = {
	.type = "cpu-hotplug",
	.state_version = 1,
	.reset = hotplug_reset,
	.save = hotplug_save,
	.load = hotplug_load,
	.free = hotplug_free,
};

int cpu_hotplug_new(struct dev_host *h, struct bus *pio, const struct cpu_hotplug_config *c, struct device **ret_dev, struct err *e)
{
	struct cpu_hotplug *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set_errno(e, -ENOMEM, "cpu-hotplug");
	p->dev.ops = &hotplug_ops;
	snprintf(p->dev.name, sizeof(p->dev.name), "cpu-hotplug");
	p->host = h;
	p->pio = pio;
	p->pm = c->pm;
	p->all = c->count < CPU_HOTPLUG_MAX ? (1ULL << c->count) - 1 : UINT64_MAX;
	p->present = (c->present & p->all) | 1;
	p->tell.run = tell_run;
	r = bus_add(pio, CPU_HOTPLUG_PORT, CPU_HOTPLUG_BYTES, &hotplug_bus_ops, p);
	if (r) {
		free(p);
		return err_set_errno(e, r, "cpu-hotplug: port 0x%x", CPU_HOTPLUG_PORT);
	}
	pthread_mutex_init(&p->lock, NULL);
	*ret_dev = &p->dev;
	return 0;
}
