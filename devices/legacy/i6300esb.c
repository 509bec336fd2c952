#include "devices/legacy/i6300esb.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "devices/pci/pci.h"
#include "snapshot/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* Device-specific configuration registers, each the low bytes of a dword. */
#define CONFIG_WDT 0x60
#define WDT_NO_OUTPUT 0x20 /* the end of the second stage sends no event */
#define WDT_1MHZ 0x04
#define WDT_WRITABLE 0x27
#define CONFIG_LOCK 0x68
#define LOCK_FREE_RUN 0x04
#define LOCK_ENABLE 0x02
#define LOCK_LOCKED 0x01 /* the register is read-only until a reset */
#define LOCK_WRITABLE 0x07

/* Registers in BAR 0. */
#define REG_RELOAD 0x0c
#define REGS_BYTES 0x10
#define BAR_BYTES 4096
#define PRELOAD_MAX 0xfffffu
#define RELOAD_PING 0x0100
#define RELOAD_TIMED_OUT 0x0200
/* Some drivers read and clear RELOAD_TIMED_OUT here. */
#define RELOAD_TIMED_OUT_ALIAS 0x1000
/* Written to REG_RELOAD in this order, these values allow one write to any register. */
#define UNLOCK_FIRST 0x80
#define UNLOCK_SECOND 0x86

#define PCI_TICK_NS 30ULL
#define MS_NS 1000000ULL
/* Minimum length of a stage, so that a guest cannot keep the loop busy. */
#define STAGE_MIN_NS (10 * MS_NS)
#define STAGE_MAX_NS ((uint64_t)PRELOAD_MAX * PCI_TICK_NS << 15)

enum unlock { UNLOCK_NONE, UNLOCK_HALF, UNLOCK_OPEN };

struct registers {
	uint32_t preload[2]; /* ticks of each stage */
	uint8_t config, lock;
	uint8_t unlock;	   /* enum unlock */
	uint8_t stage;	   /* 0: stopped; 1, 2 */
	uint8_t timed_out; /* set until the guest clears it; survives a reset */
};

struct i6300esb {
	struct device dev;
	struct dev_host *host;
	struct pci_function fn;
	struct loop_timer *timer; /* used on the loop only */
	struct loop_task rearm;

	pthread_mutex_t lock; /* protects all fields below */
	struct registers r;
	uint64_t end_ns;  /* end of the stage while time counts */
	uint64_t left_ns; /* rest of the stage while paused */
	bool paused, rearm_posted;
};

static const struct registers power_on = { .preload = { PRELOAD_MAX, PRELOAD_MAX } };

/* ---- the two stages; the lock is held ---- */

static uint64_t stage_ns(const struct registers *r)
{
	uint64_t ticks = r->preload[r->stage - 1];

	return MAX(ticks * PCI_TICK_NS << (r->config & WDT_1MHZ ? 5 : 15), STAGE_MIN_NS);
}

static void post_rearm(struct i6300esb *w)
{
	if (w->rearm_posted)
		return;
	w->rearm_posted = true;
	loop_post(w->host->loop, &w->rearm);
}

static void stage_begin(struct i6300esb *w, uint8_t stage)
{
	w->r.stage = stage;
	w->end_ns = stage ? loop_now_ns() + stage_ns(&w->r) : 0;
	post_rearm(w);
}

/* End a stage. Returns true when the action is due. */
static bool stage_end(struct i6300esb *w)
{
	bool bites = w->r.stage == 2 && !(w->r.config & WDT_NO_OUTPUT);

	if (w->r.stage == 1) {
		stage_begin(w, 2);
	} else if (bites) {
		w->r = power_on;
		w->r.timed_out = true;
	} else {
		stage_begin(w, w->r.lock & LOCK_FREE_RUN ? 1 : 0);
	}
	return bites;
}

/* Runs on the loop. */
static void stage_arm(struct loop_task *task)
{
	struct i6300esb *w = container_of(task, struct i6300esb, rearm);
	uint64_t end;

	pthread_mutex_lock(&w->lock);
	w->rearm_posted = false;
	end = w->paused || !w->r.stage ? 0 : w->end_ns;
	pthread_mutex_unlock(&w->lock);
	if (end)
		loop_timer_arm(w->timer, end);
	else
		loop_timer_disarm(w->timer);
}

static void stage_fire(void *opaque)
{
	struct i6300esb *w = opaque;
	struct dev_event ev = { .kind = DEV_EVENT_WATCHDOG, .device = w->dev.name };
	bool bites;

	pthread_mutex_lock(&w->lock);
	bites = !w->paused && w->r.stage && loop_now_ns() >= w->end_ns && stage_end(w);
	pthread_mutex_unlock(&w->lock);
	if (bites)
		dev_event(w->host, &ev);
}

/* ---- configuration space ---- */

static uint32_t register_piece(uint32_t dword, unsigned off, unsigned size)
{
	return dword >> 8 * (off & 3) & (uint32_t)(UINT32_MAX >> (32 - 8 * size));
}

static bool i6300esb_config_read(struct pci_function *f, unsigned off, unsigned size, uint32_t *ret_v)
{
	struct i6300esb *w = container_of(f, struct i6300esb, fn);
	unsigned reg = off & ~3u;

	if (reg != CONFIG_WDT && reg != CONFIG_LOCK)
		return false;
	LOCK_GUARD(&w->lock);
	*ret_v = register_piece(reg == CONFIG_WDT ? w->r.config : w->r.lock, off, size);
	return true;
}

static void lock_write(struct i6300esb *w, uint8_t v)
{
	bool was_on = w->r.lock & LOCK_ENABLE;

	if (w->r.lock & LOCK_LOCKED)
		return;
	w->r.lock = v & LOCK_WRITABLE;
	if (!(v & LOCK_ENABLE))
		stage_begin(w, 0);
	else if (!was_on)
		stage_begin(w, 1);
}

static bool i6300esb_config_write(struct pci_function *f, unsigned off, unsigned size, uint32_t v)
{
	struct i6300esb *w = container_of(f, struct i6300esb, fn);

	(void)size;
	if ((off & ~3u) != CONFIG_WDT && (off & ~3u) != CONFIG_LOCK)
		return false;
	LOCK_GUARD(&w->lock);
	if (off == CONFIG_WDT)
		w->r.config = v & WDT_WRITABLE;
	else if (off == CONFIG_LOCK)
		lock_write(w, (uint8_t)v);
	return true;
}

static const struct pci_function_ops fn_ops = { .config_read = i6300esb_config_read,
	.config_write = i6300esb_config_write };

/* ---- registers in memory ---- */

static uint32_t register_value(const struct registers *r, uint64_t reg)
{
	if (reg < 8)
		return r->preload[reg / 4];
	return reg == REG_RELOAD && r->timed_out ? RELOAD_TIMED_OUT | RELOAD_TIMED_OUT_ALIAS : 0;
}

static uint64_t bar_read(void *opaque, uint64_t off, unsigned size)
{
	struct i6300esb *w = opaque;
	uint64_t v = 0;

	if (off >= REGS_BYTES)
		return 0;
	LOCK_GUARD(&w->lock);
	if (size == 8)
		v = register_value(&w->r, off) | (uint64_t)register_value(&w->r, off + 4) << 32;
	else
		v = register_piece(register_value(&w->r, off & ~3ULL), off & 3, size);
	return v;
}

static void unlocked_write(struct i6300esb *w, uint64_t off, unsigned size, uint64_t value)
{
	if (off < 8 && size == 4) {
		w->r.preload[off / 4] = value & PRELOAD_MAX;
	} else if (off == REG_RELOAD) {
		if (value & (RELOAD_TIMED_OUT | RELOAD_TIMED_OUT_ALIAS))
			w->r.timed_out = false;
		if ((value & RELOAD_PING) && (w->r.lock & LOCK_ENABLE))
			stage_begin(w, 1);
	}
}

static void bar_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct i6300esb *w = opaque;

	LOCK_GUARD(&w->lock);
	if (off == REG_RELOAD && value == UNLOCK_FIRST) {
		w->r.unlock = UNLOCK_HALF;
	} else if (off == REG_RELOAD && value == UNLOCK_SECOND && w->r.unlock == UNLOCK_HALF) {
		w->r.unlock = UNLOCK_OPEN;
	} else {
		if (w->r.unlock == UNLOCK_OPEN)
			unlocked_write(w, off, size, value);
		w->r.unlock = UNLOCK_NONE;
	}
}

static const struct bus_ops bar_ops = { .read = bar_read, .write = bar_write };

/* ---- device ---- */

static void i6300esb_reset(struct device *d)
{
	struct i6300esb *w = container_of(d, struct i6300esb, dev);
	uint8_t timed_out;

	pthread_mutex_lock(&w->lock);
	timed_out = w->r.timed_out;
	w->r = power_on;
	w->r.timed_out = timed_out;
	post_rearm(w);
	pthread_mutex_unlock(&w->lock);
	pci_function_reset(&w->fn);
}

static void i6300esb_pause(struct device *d)
{
	struct i6300esb *w = container_of(d, struct i6300esb, dev);
	uint64_t now = loop_now_ns();

	LOCK_GUARD(&w->lock);
	if (!w->paused && w->r.stage)
		w->left_ns = w->end_ns > now ? w->end_ns - now : 0;
	w->paused = true;
}

static void i6300esb_resume(struct device *d)
{
	struct i6300esb *w = container_of(d, struct i6300esb, dev);

	LOCK_GUARD(&w->lock);
	if (w->paused && w->r.stage)
		w->end_ns = loop_now_ns() + w->left_ns;
	w->paused = false;
	post_rearm(w);
}

static void i6300esb_save(struct device *d, struct state_writer *s)
{
	struct i6300esb *w = container_of(d, struct i6300esb, dev);

	pthread_mutex_lock(&w->lock);
	state_put_u32(s, w->r.preload[0]);
	state_put_u32(s, w->r.preload[1]);
	state_put_u8(s, w->r.config);
	state_put_u8(s, w->r.lock);
	state_put_u8(s, w->r.unlock);
	state_put_u8(s, w->r.stage);
	state_put_u8(s, w->r.timed_out);
	state_put_u64(s, w->r.stage ? w->left_ns : 0);
	pthread_mutex_unlock(&w->lock);
	pci_function_save(&w->fn, s);
}

static bool registers_are_valid(const struct registers *r, uint64_t left_ns)
{
	return r->preload[0] <= PRELOAD_MAX && r->preload[1] <= PRELOAD_MAX &&
		!(r->config & (uint8_t)~WDT_WRITABLE) && !(r->lock & (uint8_t)~LOCK_WRITABLE) &&
		r->unlock <= UNLOCK_OPEN && r->stage <= 2 && r->timed_out <= 1 &&
		(!r->stage || (r->lock & LOCK_ENABLE)) && left_ns <= (r->stage ? STAGE_MAX_NS : 0);
}

static int i6300esb_load(struct device *d, struct state_reader *s, uint16_t version, struct err *e)
{
	struct i6300esb *w = container_of(d, struct i6300esb, dev);
	struct registers r;
	uint64_t left_ns;
	int ret;

	(void)version;
	r.preload[0] = state_u32(s);
	r.preload[1] = state_u32(s);
	r.config = state_u8(s);
	r.lock = state_u8(s);
	r.unlock = state_u8(s);
	r.stage = state_u8(s);
	r.timed_out = state_u8(s);
	left_ns = state_u64(s);
	if (s->failed || !registers_are_valid(&r, left_ns))
		return err_set(e, -EINVAL, ERR_CORRUPT, "watchdog: malformed state");
	ret = pci_function_load(&w->fn, s, e);
	if (!ret && !state_reader_complete(s))
		ret = err_set(e, -EINVAL, ERR_CORRUPT, "watchdog: malformed state");
	if (ret < 0)
		return ret;
	LOCK_GUARD(&w->lock);
	w->r = r;
	w->left_ns = left_ns;
	return 0;
}

static void i6300esb_free(struct device *d)
{
	struct i6300esb *w = container_of(d, struct i6300esb, dev);

	pci_host_remove(&w->fn);
	loop_timer_free(w->timer);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static const struct device_ops i6300esb_ops = {
	.type = "i6300esb",
	.state_version = 1,
	.reset = i6300esb_reset,
	.pause = i6300esb_pause,
	.resume = i6300esb_resume,
	.save = i6300esb_save,
	.load = i6300esb_load,
	.free = i6300esb_free,
};

static const struct pci_ids ids = { .vendor = 0x8086, .device = 0x25ab, .class_code = 0x088000 };

int i6300esb_new(struct dev_host *h, struct pci_host *p, int slot, struct device **ret_dev, struct err *e)
{
	struct i6300esb *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set_errno(e, -ENOMEM, "watchdog");
	w->dev.ops = &i6300esb_ops;
	snprintf(w->dev.name, sizeof(w->dev.name), "watchdog0");
	w->host = h;
	w->r = power_on;
	w->rearm.run = stage_arm;
	pthread_mutex_init(&w->lock, NULL);
	pci_function_init(&w->fn, &ids, &fn_ops);
	pci_function_bar(&w->fn, 0, BAR_BYTES, false, &bar_ops, w);
	r = loop_timer_new(h->loop, stage_fire, w, &w->timer);
	if (r < 0)
		err_set_errno(e, r, "watchdog");
	else
		r = pci_host_add(p, &w->fn, slot > 0 ? slot : -1, e);
	if (r < 0) {
		i6300esb_free(&w->dev);
		return r;
	}
	*ret_dev = &w->dev;
	return 0;
}
