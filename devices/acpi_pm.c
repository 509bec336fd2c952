#include "devices/acpi_pm.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "snapshot/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define PM_TIMER_HZ 3579545ULL
#define PM1_TMR_STS 0x0001 /* the timer's top bit changed */
#define PM1_BM_STS 0x0010
#define PM1_GBL_STS 0x0020
#define PM1_PWRBTN 0x0100
#define PM1_SLPBTN 0x0200
#define PM1_RTC 0x0400
#define PM1_WAK_STS 0x8000
#define PM1_STATUS_BITS                                                                            \
	(PM1_TMR_STS | PM1_BM_STS | PM1_GBL_STS | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC | PM1_WAK_STS)
#define PM1_ENABLE_BITS (PM1_TMR_STS | PM1_GBL_STS | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)
#define PM1_CNT_SCI_EN 0x0001
#define PM1_CNT_BM_RLD 0x0002
#define PM1_CNT_SLP_TYP_SHIFT 10
#define PM1_CNT_SLP_TYP 0x1c00
#define PM1_CNT_SLP_EN 0x2000

struct acpi_pm {
	struct device dev;
	struct dev_host *host;
	struct bus *pio;
	struct loop_timer *timer; /* sets TMR_STS; armed only while TMR_EN is set */
	struct loop_task rearm;
	bool accepts_type_0;

	pthread_mutex_t lock; /* protects all fields below */
	uint16_t pm1_status, pm1_enable, pm1_control;
	uint16_t gpe_status, gpe_enable;
	uint64_t timer_offset; /* ticks to add to the host's, so that the count continues after a load */
	uint64_t timer_seen;   /* the timer's value >> 31 at the last check */
	bool sci, rearm_posted, paused;
	uint64_t paused_ticks; /* the timer's value while paused */
};

static uint64_t host_ticks(void)
{
	return (uint64_t)((unsigned __int128)loop_now_ns() * PM_TIMER_HZ / 1000000000u);
}

static uint64_t pm_ticks(const struct acpi_pm *a)
{
	return a->paused ? a->paused_ticks : host_ticks() + a->timer_offset;
}

/* Set TMR_STS when bit 31 has changed. */
static void pm_timer_catch_up(struct acpi_pm *a)
{
	uint64_t half = pm_ticks(a) >> 31;

	if (half != a->timer_seen)
		a->pm1_status |= PM1_TMR_STS;
	a->timer_seen = half;
}

static void pm_update_sci(struct acpi_pm *a)
{
	bool level = (a->pm1_status & a->pm1_enable & PM1_ENABLE_BITS) ||
		(a->gpe_status & a->gpe_enable);

	if (level == a->sci)
		return;
	a->sci = level;
	dev_irq_set(a->host, ACPI_SCI_GSI, level);
}

static void pm_arm(struct acpi_pm *a)
{
	uint64_t left = 0;

	pthread_mutex_lock(&a->lock);
	a->rearm_posted = false;
	if ((a->pm1_enable & PM1_TMR_STS) && !a->paused)
		left = (1ULL << 31) - (pm_ticks(a) & ((1ULL << 31) - 1));
	pthread_mutex_unlock(&a->lock);
	if (left)
		loop_timer_arm(a->timer,
			loop_now_ns() + (left + 1) * 1000000000ULL / PM_TIMER_HZ + 1);
	else
		loop_timer_disarm(a->timer);
}

static void pm_fire(void *opaque)
{
	struct acpi_pm *a = opaque;

	pthread_mutex_lock(&a->lock);
	pm_timer_catch_up(a);
	pm_update_sci(a);
	pthread_mutex_unlock(&a->lock);
	pm_arm(a);
}

static void pm_rearm_run(struct loop_task *t)
{
	pm_arm(container_of(t, struct acpi_pm, rearm));
}

static void pm_post_rearm(struct acpi_pm *a)
{
	if (a->rearm_posted)
		return;
	a->rearm_posted = true;
	loop_post(a->host->loop, &a->rearm);
}

/* ---- registers, as byte arrays, so that any access width works ---- */

static uint64_t register_bytes(uint64_t whole, uint64_t off, unsigned size)
{
	uint64_t v = whole >> (8 * off);

	return size >= 8 ? v : v & ((1ULL << (8 * size)) - 1);
}

/* Return the bits of a 32-bit register block that an access covers. */
static uint32_t register_is_covered(uint64_t off, unsigned size)
{
	return (uint32_t)(register_bytes(UINT32_MAX, 0, size) << (8 * off));
}

static uint64_t pm1_event_read(void *opaque, uint64_t off, unsigned size)
{
	struct acpi_pm *a = opaque;

	LOCK_GUARD(&a->lock);
	pm_timer_catch_up(a);
	pm_update_sci(a);
	return register_bytes((uint64_t)a->pm1_enable << 16 | a->pm1_status, off, size);
}

static void pm1_event_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct acpi_pm *a = opaque;
	uint32_t mask = register_is_covered(off, size), v = (uint32_t)(value << (8 * off));
	uint16_t enable;

	LOCK_GUARD(&a->lock);
	pm_timer_catch_up(a);
	a->pm1_status &= (uint16_t)~(v & mask & PM1_STATUS_BITS);
	enable = (uint16_t)((a->pm1_enable & ~(mask >> 16)) | ((v & mask) >> 16));
	enable &= PM1_ENABLE_BITS;
	if ((enable ^ a->pm1_enable) & PM1_TMR_STS)
		pm_post_rearm(a);
	a->pm1_enable = enable;
	pm_update_sci(a);
}

static uint64_t pm1_control_read(void *opaque, uint64_t off, unsigned size)
{
	struct acpi_pm *a = opaque;

	LOCK_GUARD(&a->lock);
	return register_bytes(a->pm1_control | PM1_CNT_SCI_EN, off, size);
}

static void pm1_control_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct acpi_pm *a = opaque;
	struct dev_event ev = { .kind = DEV_EVENT_POWEROFF, .device = a->dev.name };
	uint32_t mask = register_is_covered(off, size), v;
	unsigned typ;

	pthread_mutex_lock(&a->lock);
	v = (a->pm1_control & ~mask) | ((uint32_t)(value << (8 * off)) & mask);
	a->pm1_control = (uint16_t)(v & (PM1_CNT_BM_RLD | PM1_CNT_SLP_TYP));
	pthread_mutex_unlock(&a->lock);
	typ = (v & PM1_CNT_SLP_TYP) >> PM1_CNT_SLP_TYP_SHIFT;
	if ((v & PM1_CNT_SLP_EN) && (typ == ACPI_S5_SLP_TYP || (a->accepts_type_0 && !typ)))
		dev_event(a->host, &ev);
}

static uint64_t pm_timer_read(void *opaque, uint64_t off, unsigned size)
{
	struct acpi_pm *a = opaque;

	LOCK_GUARD(&a->lock);
	return register_bytes((uint32_t)pm_ticks(a), off, size);
}

static uint64_t gpe_read(void *opaque, uint64_t off, unsigned size)
{
	struct acpi_pm *a = opaque;

	LOCK_GUARD(&a->lock);
	return register_bytes((uint64_t)a->gpe_enable << 16 | a->gpe_status, off, size);
}

static void gpe_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct acpi_pm *a = opaque;
	uint32_t mask = register_is_covered(off, size), v = (uint32_t)(value << (8 * off)) & mask;

	LOCK_GUARD(&a->lock);
	a->gpe_status &= (uint16_t)~v;
	a->gpe_enable = (uint16_t)((a->gpe_enable & ~(mask >> 16)) | v >> 16);
	pm_update_sci(a);
}

void acpi_pm_accept_type_0(struct device *d)
{
	container_of(d, struct acpi_pm, dev)->accepts_type_0 = true;
}

void acpi_pm_press_power_button(struct device *d)
{
	struct acpi_pm *a = container_of(d, struct acpi_pm, dev);

	LOCK_GUARD(&a->lock);
	a->pm1_status |= PM1_PWRBTN;
	pm_update_sci(a);
}

void acpi_pm_raise_gpe(struct device *d, unsigned n)
{
	struct acpi_pm *a = container_of(d, struct acpi_pm, dev);

	if (n >= 16)
		return;
	LOCK_GUARD(&a->lock);
	a->gpe_status |= (uint16_t)(1u << n);
	pm_update_sci(a);
}

static const struct {
	uint16_t port, bytes;
	struct bus_ops ops;
} pm_blocks[] = {
	{ ACPI_PM1_EVT_PORT, ACPI_PM1_EVT_BYTES, { pm1_event_read, pm1_event_write } },
	{ ACPI_PM1_CNT_PORT, ACPI_PM1_CNT_BYTES, { pm1_control_read, pm1_control_write } },
	{ ACPI_PM_TMR_PORT, ACPI_PM_TMR_BYTES, { pm_timer_read, NULL } },
	{ ACPI_GPE0_PORT, ACPI_GPE0_BYTES, { gpe_read, gpe_write } },
};

/* ---- device ---- */

static void acpi_pm_reset(struct device *d)
{
	struct acpi_pm *a = container_of(d, struct acpi_pm, dev);

	LOCK_GUARD(&a->lock);
	a->pm1_status = a->pm1_enable = a->pm1_control = 0;
	a->gpe_status = a->gpe_enable = 0;
	a->timer_seen = pm_ticks(a) >> 31;
	pm_update_sci(a);
}

static void acpi_pm_pause(struct device *d)
{
	struct acpi_pm *a = container_of(d, struct acpi_pm, dev);

	LOCK_GUARD(&a->lock);
	if (!a->paused) {
		pm_timer_catch_up(a);
		pm_update_sci(a);
		a->paused_ticks = pm_ticks(a);
		a->paused = true;
	}
}

static void acpi_pm_resume(struct device *d)
{
	struct acpi_pm *a = container_of(d, struct acpi_pm, dev);

	LOCK_GUARD(&a->lock);
	if (a->paused) {
		a->timer_offset = a->paused_ticks - host_ticks();
		a->paused = false;
	}
	if (a->pm1_enable & PM1_TMR_STS)
		pm_post_rearm(a);
}

static void acpi_pm_save(struct device *d, struct state_writer *w)
{
	struct acpi_pm *a = container_of(d, struct acpi_pm, dev);

	LOCK_GUARD(&a->lock);
	state_put_u16(w, a->pm1_status);
	state_put_u16(w, a->pm1_enable);
	state_put_u16(w, a->pm1_control);
	state_put_u16(w, a->gpe_status);
	state_put_u16(w, a->gpe_enable);
	state_put_u64(w, pm_ticks(a));
}

static int acpi_pm_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct acpi_pm *a = container_of(d, struct acpi_pm, dev);
	uint16_t status = state_u16(r), enable = state_u16(r), control = state_u16(r);
	uint16_t gpe_status = state_u16(r), gpe_enable = state_u16(r);
	uint64_t ticks = state_u64(r);

	(void)version;
	if (!state_reader_complete(r) || (status & (uint16_t)~PM1_STATUS_BITS) ||
		(enable & (uint16_t)~PM1_ENABLE_BITS) ||
		(control & (uint16_t) ~(PM1_CNT_BM_RLD | PM1_CNT_SLP_TYP)))
		return err_set(e, -EINVAL, ERR_CORRUPT, "acpi-pm: malformed state");
	LOCK_GUARD(&a->lock);
	a->pm1_status = status;
	a->pm1_enable = enable;
	a->pm1_control = control;
	a->gpe_status = gpe_status;
	a->gpe_enable = gpe_enable;
	a->timer_offset = ticks - host_ticks();
	a->paused_ticks = ticks;
	a->timer_seen = ticks >> 31;
	pm_update_sci(a);
	return 0;
}

static void acpi_pm_free(struct device *d)
{
	struct acpi_pm *a = container_of(d, struct acpi_pm, dev);

	for (size_t i = 0; i < ARRAY_SIZE(pm_blocks); i++)
		bus_remove(a->pio, pm_blocks[i].port, a);
	loop_timer_free(a->timer);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static const struct device_ops acpi_pm_ops = {
	.type = "acpi-pm",
	.state_version = 1,
	.reset = acpi_pm_reset,
	.pause = acpi_pm_pause,
	.resume = acpi_pm_resume,
	.save = acpi_pm_save,
	.load = acpi_pm_load,
	.free = acpi_pm_free,
};

int acpi_pm_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e)
{
	struct acpi_pm *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return err_set_errno(e, -ENOMEM, "acpi-pm");
	a->dev.ops = &acpi_pm_ops;
	snprintf(a->dev.name, sizeof(a->dev.name), "acpi-pm");
	a->host = h;
	a->pio = pio;
	a->rearm.run = pm_rearm_run;
	a->timer_offset = -host_ticks(); /* start counting from 0 */
	pthread_mutex_init(&a->lock, NULL);
	r = loop_timer_new(h->loop, pm_fire, a, &a->timer);
	for (size_t i = 0; i < ARRAY_SIZE(pm_blocks) && !r; i++)
		r = bus_add(pio, pm_blocks[i].port, pm_blocks[i].bytes, &pm_blocks[i].ops, a);
	if (r) {
		acpi_pm_free(&a->dev);
		return err_set_errno(e, r, "acpi-pm");
	}
	*ret_dev = &a->dev;
	return 0;
}
