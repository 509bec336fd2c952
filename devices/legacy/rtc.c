#include "devices/legacy/rtc.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "devices/legacy/calendar.h"
#include "snapshot/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CMOS_BYTES 128
#define RTC_INDEX_PORTS 2

enum {
	REG_SECONDS = 0x00,
	REG_SECONDS_ALARM = 0x01,
	REG_MINUTES = 0x02,
	REG_MINUTES_ALARM = 0x03,
	REG_HOURS = 0x04,
	REG_HOURS_ALARM = 0x05,
	REG_WEEKDAY = 0x06,
	REG_DAY = 0x07,
	REG_MONTH = 0x08,
	REG_YEAR = 0x09,
	REG_A = 0x0a,
	REG_B = 0x0b,
	REG_C = 0x0c,
	REG_D = 0x0d,
	REG_CENTURY = RTC_CENTURY_REGISTER,
};

#define A_UIP 0x80
#define A_DIVIDER_32K 0x20
#define A_RATE 0x0f
#define B_SET 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define B_BINARY 0x04
#define B_24H 0x02
#define C_IRQF 0x80
#define C_PF 0x40
#define C_AF 0x20
#define C_UF 0x10
#define D_VALID 0x80
#define ALARM_ANY 0xc0 /* both top bits set: matches every value */
#define HOURS_PM 0x80

#define NS_PER_S 1000000000LL
/* Range of the guest's clock: years 1748 to 2255, so that no sum of nanoseconds overflows 64
 * bits. */
#define TIME_MIN_S (-7000000000LL)
#define TIME_MAX_S 9000000000LL
#define OFFSET_MIN_NS (-8900000000LL * NS_PER_S)
#define OFFSET_MAX_NS (7500000000LL * NS_PER_S)
/* Limit of the time that the registers can express while the clock is stopped, invalid digits
 * included. */
#define HELD_MAX_S 400000000000LL
#define UIP_NS 244000LL /* the update-in-progress flag precedes the update by 244 us */

struct rtc {
	struct device dev;
	struct dev_host *host;
	struct bus *pio;
	struct loop_timer *timer; /* used on the loop only */
	struct loop_task rearm;

	pthread_mutex_t lock; /* protects all fields below */
	uint8_t index;
	uint8_t cmos[CMOS_BYTES];
	int64_t offset_ns; /* guest's time minus CLOCK_REALTIME */
	struct calendar_date held; /* the time shown while B_SET stops the clock */
	int64_t seen_s;	   /* guest's second up to which updates and alarms are processed */
	int64_t seen_ns;   /* the same in ns, for periodic ticks */
	bool rearm_posted, paused;
};

/* The guest, or a loaded state, may have chosen an offset that leaves the range as the host's time passes. The clock
 * then stops at the range's end. */
static int64_t rtc_now_ns(const struct rtc *t)
{
	int64_t now;

	if (__builtin_add_overflow((int64_t)clock_realtime_ns(), t->offset_ns, &now))
		return TIME_MAX_S * NS_PER_S;
	return MIN(now, TIME_MAX_S * NS_PER_S);
}

/* Floor division: the guest may set a time before 1970. */
static int64_t floor_s(int64_t ns)
{
	return ns / NS_PER_S - (ns % NS_PER_S < 0);
}

/* ---- converting between time and registers ---- */

static uint8_t to_register(const struct rtc *t, unsigned v)
{
	return (uint8_t)(t->cmos[REG_B] & B_BINARY ? v : (v / 10 % 10) << 4 | v % 10);
}

static unsigned from_register(const struct rtc *t, uint8_t v)
{
	return t->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 0x0f);
}

static uint8_t hours_to_register(const struct rtc *t, unsigned h)
{
	if (t->cmos[REG_B] & B_24H)
		return to_register(t, h);
	return to_register(t, h % 12 ? h % 12 : 12) | (h >= 12 ? HOURS_PM : 0);
}

static unsigned hours_from_register(const struct rtc *t, uint8_t v)
{
	if (t->cmos[REG_B] & B_24H)
		return from_register(t, v) % 24;
	return from_register(t, v & (uint8_t)~HOURS_PM) % 12 + (v & HOURS_PM ? 12 : 0);
}

static void rtc_time(const struct rtc *t, struct calendar_date *ret)
{
	if (t->cmos[REG_B] & B_SET)
		*ret = t->held;
	else
		calendar_from_seconds(floor_s(rtc_now_ns(t)), ret);
}

static uint8_t rtc_time_register(const struct rtc *t, unsigned reg)
{
	struct calendar_date c;

	rtc_time(t, &c);
	switch (reg) {
	case REG_SECONDS:
		return to_register(t, (unsigned)c.second);
	case REG_MINUTES:
		return to_register(t, (unsigned)c.minute);
	case REG_HOURS:
		return hours_to_register(t, (unsigned)c.hour);
	case REG_WEEKDAY:
		return to_register(t, (unsigned)c.weekday + 1);
	case REG_DAY:
		return to_register(t, (unsigned)c.day);
	case REG_MONTH:
		return to_register(t, (unsigned)c.month);
	case REG_YEAR:
		return to_register(t, (unsigned)c.year % 100);
	default:
		return to_register(t, (unsigned)c.year / 100 % 100);
	}
}

static void rtc_set_time(struct rtc *t, const struct calendar_date *c)
{
	int64_t s = calendar_seconds(c);

	s = MAX(MIN(s, TIME_MAX_S), TIME_MIN_S);
	t->offset_ns = s * NS_PER_S - (int64_t)clock_realtime_ns();
	t->seen_s = s;
	t->seen_ns = s * NS_PER_S;
}

static void rtc_write_time_register(struct rtc *t, unsigned reg, uint8_t v)
{
	struct calendar_date c;

	rtc_time(t, &c);
	switch (reg) {
	case REG_SECONDS:
		c.second = (int)from_register(t, v & 0x7f);
		break;
	case REG_MINUTES:
		c.minute = (int)from_register(t, v & 0x7f);
		break;
	case REG_HOURS:
		c.hour = (int)hours_from_register(t, v);
		break;
	case REG_DAY:
		c.day = (int)from_register(t, v & 0x3f);
		break;
	case REG_MONTH:
		c.month = (int)from_register(t, v & 0x1f);
		break;
	case REG_YEAR:
		c.year = c.year / 100 * 100 + from_register(t, v) % 100;
		break;
	case REG_CENTURY:
		c.year = from_register(t, v) % 100 * 100 + c.year % 100;
		break;
	default:
		return; /* the weekday is computed from the date */
	}
	if (t->cmos[REG_B] & B_SET)
		t->held = c;
	else
		rtc_set_time(t, &c);
}

static bool reg_is_time(unsigned reg)
{
	return reg == REG_SECONDS || reg == REG_MINUTES || reg == REG_HOURS ||
		(reg >= REG_WEEKDAY && reg <= REG_YEAR) || reg == REG_CENTURY;
}

/* ---- interrupts ---- */

/* Period of the periodic interrupt; 0: off. Rates 1 and 2 equal 8 and 9. */
static int64_t rtc_period_ns(const struct rtc *t)
{
	unsigned rate = t->cmos[REG_A] & A_RATE;

	if (!rate)
		return 0;
	if (rate <= 2)
		rate += 7;
	return (NS_PER_S << (rate - 1)) / 32768;
}

static bool alarm_field_matches(uint8_t reg, bool equal)
{
	return (reg & ALARM_ANY) == ALARM_ANY || equal;
}

static bool rtc_alarm_matches(const struct rtc *t, int64_t second)
{
	const uint8_t *c = t->cmos;
	unsigned day_s = (unsigned)(((second % 86400) + 86400) % 86400);

	return alarm_field_matches(c[REG_SECONDS_ALARM],
		       from_register(t, c[REG_SECONDS_ALARM]) == day_s % 60) &&
		alarm_field_matches(c[REG_MINUTES_ALARM],
			from_register(t, c[REG_MINUTES_ALARM]) == day_s / 60 % 60) &&
		alarm_field_matches(c[REG_HOURS_ALARM],
			hours_from_register(t, c[REG_HOURS_ALARM]) == day_s / 3600);
}

/* Return whether the alarm's second and minute are valid. hours_from_register() makes each hour valid. */
static bool rtc_alarm_exists(const struct rtc *t)
{
	const uint8_t *c = t->cmos;

	return alarm_field_matches(c[REG_SECONDS_ALARM], from_register(t, c[REG_SECONDS_ALARM]) < 60) &&
		alarm_field_matches(c[REG_MINUTES_ALARM], from_register(t, c[REG_MINUTES_ALARM]) < 60);
}

/* Return the first second after `from` at which the alarm matches, within two days; INT64_MAX: never. Skips hours and
 * minutes that cannot match: at most 60 + 60 + 24 tries. */
static int64_t rtc_next_alarm(const struct rtc *t, int64_t from)
{
	const uint8_t *c = t->cmos;
	int64_t s = from + 1, end = from + 2 * 86400;

	if (!rtc_alarm_exists(t))
		return INT64_MAX;
	while (s < end && !rtc_alarm_matches(t, s)) {
		int64_t in_day = ((s % 86400) + 86400) % 86400;

		if (!alarm_field_matches(c[REG_HOURS_ALARM],
			    hours_from_register(t, c[REG_HOURS_ALARM]) == (unsigned)in_day / 3600))
			s += 3600 - in_day % 3600;
		else if (!alarm_field_matches(c[REG_MINUTES_ALARM],
				 from_register(t, c[REG_MINUTES_ALARM]) ==
					 (unsigned)in_day / 60 % 60))
			s += 60 - in_day % 60;
		else
			s++;
	}
	return s < end ? s : INT64_MAX;
}

/* Set the flags for all events since the last call. */
static void rtc_catch_up(struct rtc *t)
{
	int64_t now = rtc_now_ns(t), now_s = floor_s(now), period = rtc_period_ns(t);

	if (!(t->cmos[REG_B] & B_SET)) {
		if (now_s > t->seen_s) {
			t->cmos[REG_C] |= C_UF;
			if (rtc_next_alarm(t, t->seen_s) <= now_s)
				t->cmos[REG_C] |= C_AF;
		}
		t->seen_s = now_s;
	}
	if (period && now / period != t->seen_ns / period)
		t->cmos[REG_C] |= C_PF;
	t->seen_ns = now;
}

static void rtc_update_irq(struct rtc *t)
{
	bool wanted = t->cmos[REG_B] & t->cmos[REG_C] & (C_PF | C_AF | C_UF);
	bool before = t->cmos[REG_C] & C_IRQF;

	if (wanted == before)
		return;
	t->cmos[REG_C] ^= C_IRQF;
	dev_irq_set(t->host, RTC_GSI, wanted);
}

/* Return the guest's time of the next interrupt; INT64_MAX: none, and no timer runs. */
static int64_t rtc_next_event_ns(const struct rtc *t)
{
	uint8_t b = t->cmos[REG_B], pending = t->cmos[REG_C];
	int64_t next = INT64_MAX, now = rtc_now_ns(t), period = rtc_period_ns(t);

	if (t->paused)
		return INT64_MAX;
	if ((b & B_PIE) && period && !(pending & C_PF))
		next = (now / period + 1) * period;
	if ((b & B_UIE) && !(b & B_SET) && !(pending & C_UF))
		next = MIN(next, (floor_s(now) + 1) * NS_PER_S);
	if ((b & B_AIE) && !(b & B_SET) && !(pending & C_AF)) {
		int64_t s = rtc_next_alarm(t, floor_s(now));

		if (s != INT64_MAX)
			next = MIN(next, s * NS_PER_S);
	}
	return next;
}

/* Arm the timer. Runs on the loop. */
static void rtc_arm(struct rtc *t)
{
	int64_t next, now;

	pthread_mutex_lock(&t->lock);
	t->rearm_posted = false;
	next = rtc_next_event_ns(t);
	now = rtc_now_ns(t);
	pthread_mutex_unlock(&t->lock);
	if (next == INT64_MAX)
		loop_timer_disarm(t->timer);
	else
		loop_timer_arm(t->timer, loop_now_ns() + (uint64_t)MAX(next - now, 0));
}

static void rtc_fire(void *opaque)
{
	struct rtc *t = opaque;

	pthread_mutex_lock(&t->lock);
	if (!t->paused) {
		rtc_catch_up(t);
		rtc_update_irq(t);
	}
	pthread_mutex_unlock(&t->lock);
	rtc_arm(t);
}

static void rtc_rearm_run(struct loop_task *task)
{
	rtc_arm(container_of(task, struct rtc, rearm));
}

/* Post rtc_arm() to the loop. Any thread, with the lock held. */
static void rtc_post_rearm(struct rtc *t)
{
	if (t->rearm_posted)
		return;
	t->rearm_posted = true;
	loop_post(t->host->loop, &t->rearm);
}

/* ---- register accesses ---- */

static uint8_t rtc_read_a(const struct rtc *t)
{
	int64_t now = rtc_now_ns(t), in_s = now - floor_s(now) * NS_PER_S;
	bool uip = !(t->cmos[REG_B] & B_SET) && in_s >= NS_PER_S - UIP_NS;

	return t->cmos[REG_A] | (uip ? A_UIP : 0);
}

static uint8_t rtc_read_c(struct rtc *t)
{
	uint8_t v;

	rtc_catch_up(t);
	rtc_update_irq(t);
	v = t->cmos[REG_C];
	t->cmos[REG_C] = v & C_IRQF;
	rtc_update_irq(t);
	if (t->cmos[REG_B] & (B_PIE | B_AIE | B_UIE))
		rtc_post_rearm(t);
	return v;
}

static uint8_t rtc_register_read(struct rtc *t, unsigned reg)
{
	if (reg_is_time(reg))
		return rtc_time_register(t, reg);
	switch (reg) {
	case REG_A:
		return rtc_read_a(t);
	case REG_C:
		return rtc_read_c(t);
	case REG_D:
		return D_VALID;
	default:
		return t->cmos[reg];
	}
}

static void rtc_write_b(struct rtc *t, uint8_t v)
{
	uint8_t before = t->cmos[REG_B];

	rtc_catch_up(t);
	if ((v & B_SET) && !(before & B_SET))
		rtc_time(t, &t->held);
	t->cmos[REG_B] = v & B_SET ? v & (uint8_t)~B_UIE : v; /* SET clears UIE */
	if (!(v & B_SET) && (before & B_SET))
		rtc_set_time(t, &t->held);
	rtc_update_irq(t);
	if ((before | v) & (B_PIE | B_AIE | B_UIE))
		rtc_post_rearm(t);
}

static void rtc_register_write(struct rtc *t, unsigned reg, uint8_t v)
{
	if (reg_is_time(reg)) {
		rtc_write_time_register(t, reg, v);
	} else if (reg == REG_A) {
		rtc_catch_up(t);
		t->cmos[REG_A] = v & (uint8_t)~A_UIP;
	} else if (reg == REG_B) {
		rtc_write_b(t, v);
		return;
	} else if (reg != REG_C && reg != REG_D) {
		t->cmos[reg] = v;
	}
	if (reg <= REG_A && (t->cmos[REG_B] & (B_PIE | B_AIE | B_UIE)))
		rtc_post_rearm(t);
}

static uint64_t rtc_bus_read(void *opaque, uint64_t off, unsigned size)
{
	struct rtc *t = opaque;
	uint8_t v = 0xff; /* the index port is write-only */

	(void)size;
	if (off != 1)
		return v;
	LOCK_GUARD(&t->lock);
	v = rtc_register_read(t, t->index);
	return v;
}

static void rtc_bus_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct rtc *t = opaque;

	LOCK_GUARD(&t->lock);
	if (off == 0)
		t->index = value & 0x7f; /* bit 7 masks NMI on a PC */
	else
		rtc_register_write(t, t->index, (uint8_t)value);
	if (off == 0 && size == 2)
		rtc_register_write(t, t->index, (uint8_t)(value >> 8));
}

static const struct bus_ops rtc_bus_ops = { rtc_bus_read, rtc_bus_write };

/* ---- device ---- */

static void cmos_put16(struct rtc *t, unsigned low, uint64_t v)
{
	v = MIN(v, 0xffffu);
	t->cmos[low] = (uint8_t)v;
	t->cmos[low + 1] = (uint8_t)(v >> 8);
}

/* Store memory sizes in the places that a BIOS uses. */
static void cmos_put_memory(struct rtc *t)
{
	const struct dev_ram_range *low = &t->host->ram[0], *high = &t->host->ram[1];
	uint64_t above = high->bytes >> 16;

	cmos_put16(t, 0x15, MIN(low->bytes / KIB, 640));
	cmos_put16(t, 0x17, low->bytes > MIB ? (low->bytes - MIB) / KIB : 0);
	cmos_put16(t, 0x30, low->bytes > MIB ? (low->bytes - MIB) / KIB : 0);
	cmos_put16(t, 0x34, low->bytes > 16 * MIB ? (low->bytes - 16 * MIB) >> 16 : 0);
	t->cmos[0x5b] = (uint8_t)above;
	t->cmos[0x5c] = (uint8_t)(above >> 8);
	t->cmos[0x5d] = (uint8_t)(above >> 16);
}

/* Reset the registers; the battery keeps time and CMOS memory. */
static void rtc_reset(struct device *d)
{
	struct rtc *t = container_of(d, struct rtc, dev);

	LOCK_GUARD(&t->lock);
	if (t->cmos[REG_B] & B_SET)
		rtc_set_time(t, &t->held);
	t->index = 0;
	t->cmos[REG_A] = A_DIVIDER_32K | 6;
	t->cmos[REG_B] = B_24H;
	t->cmos[REG_C] &= C_IRQF;
	rtc_update_irq(t);
	rtc_post_rearm(t);
}

static void rtc_pause(struct device *d)
{
	struct rtc *t = container_of(d, struct rtc, dev);

	LOCK_GUARD(&t->lock);
	rtc_catch_up(t);
	rtc_update_irq(t);
	t->paused = true;
}

static void rtc_resume(struct device *d)
{
	struct rtc *t = container_of(d, struct rtc, dev);

	LOCK_GUARD(&t->lock);
	t->paused = false;
	rtc_catch_up(t);
	rtc_update_irq(t);
	if (t->cmos[REG_B] & (B_PIE | B_AIE | B_UIE))
		rtc_post_rearm(t);
}

/* Put the fields of `held` in place of the time registers, which have no bytes of their own. The seconds alone would
 * lose a date that does not exist, which a guest may have set between two of its fields. */
static void held_put(const struct calendar_date *held, uint8_t cmos[CMOS_BYTES])
{
	cmos[REG_SECONDS] = (uint8_t)held->second;
	cmos[REG_MINUTES] = (uint8_t)held->minute;
	cmos[REG_HOURS] = (uint8_t)held->hour;
	cmos[REG_WEEKDAY] = (uint8_t)held->weekday;
	cmos[REG_DAY] = (uint8_t)held->day;
	cmos[REG_MONTH] = (uint8_t)held->month;
	cmos[REG_YEAR] = (uint8_t)(held->year % 100);
	cmos[REG_CENTURY] = (uint8_t)(held->year / 100);
}

/* Take the fields, or the seconds alone from a state that has no fields. */
static void held_take(int64_t seconds, const uint8_t cmos[CMOS_BYTES], struct calendar_date *ret_held)
{
	struct calendar_date c = { .second = cmos[REG_SECONDS], .minute = cmos[REG_MINUTES], .hour = cmos[REG_HOURS],
		.weekday = cmos[REG_WEEKDAY], .day = cmos[REG_DAY], .month = cmos[REG_MONTH],
		.year = cmos[REG_CENTURY] * 100 + cmos[REG_YEAR] };

	if (calendar_seconds(&c) == seconds)
		*ret_held = c;
	else
		calendar_from_seconds(seconds, ret_held);
}

/* Save the offset to the host's clock, not the time, so that the clock is right at any later time of a restore. */
static void rtc_save(struct device *d, struct state_writer *w)
{
	struct rtc *t = container_of(d, struct rtc, dev);
	struct calendar_date none = { 0 };
	uint8_t cmos[CMOS_BYTES];

	LOCK_GUARD(&t->lock);
	memcpy(cmos, t->cmos, sizeof(cmos));
	held_put(cmos[REG_B] & B_SET ? &t->held : &none, cmos);
	state_put_u8(w, t->index);
	state_put_bytes(w, cmos, sizeof(cmos));
	state_put_u64(w, (uint64_t)t->offset_ns);
	state_put_u64(w, t->cmos[REG_B] & B_SET ? (uint64_t)calendar_seconds(&t->held) : 0);
	state_put_u64(w, (uint64_t)t->seen_s);
	state_put_u64(w, (uint64_t)t->seen_ns);
}

static bool rtc_state_is_valid(const struct rtc *t, int64_t held_s)
{
	return t->index < CMOS_BYTES && !(t->cmos[REG_A] & A_UIP) && held_s <= HELD_MAX_S &&
		held_s >= -HELD_MAX_S && t->seen_s >= 2 * TIME_MIN_S &&
		t->seen_s <= 2 * TIME_MAX_S && t->offset_ns >= OFFSET_MIN_NS &&
		t->offset_ns <= OFFSET_MAX_NS;
}

static int rtc_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct rtc *t = container_of(d, struct rtc, dev);
	struct rtc n = { 0 };
	int64_t held;

	(void)version;
	n.index = state_u8(r);
	state_bytes(r, n.cmos, sizeof(n.cmos));
	n.offset_ns = (int64_t)state_u64(r);
	held = (int64_t)state_u64(r);
	n.seen_s = (int64_t)state_u64(r);
	n.seen_ns = (int64_t)state_u64(r);
	if (!state_reader_complete(r) || !rtc_state_is_valid(&n, held))
		return err_set(e, -EINVAL, ERR_CORRUPT, "rtc: malformed state");
	held_take(held, n.cmos, &n.held);
	LOCK_GUARD(&t->lock);
	t->index = n.index;
	memcpy(t->cmos, n.cmos, sizeof(t->cmos));
	t->offset_ns = n.offset_ns;
	t->held = n.held;
	t->seen_s = n.seen_s;
	t->seen_ns = n.seen_ns;
	dev_irq_set(t->host, RTC_GSI, t->cmos[REG_C] & C_IRQF);
	return 0;
}

static void rtc_free(struct device *d)
{
	struct rtc *t = container_of(d, struct rtc, dev);

	bus_remove(t->pio, RTC_PORT, t);
	loop_timer_free(t->timer);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static const struct device_ops rtc_ops = {
	.type = "rtc",
	.state_version = 1,
	.reset = rtc_reset,
	.pause = rtc_pause,
	.resume = rtc_resume,
	.save = rtc_save,
	.load = rtc_load,
	.free = rtc_free,
};

void rtc_set_ahead(struct device *dev, int32_t of_utc_s)
{
	struct rtc *t = container_of(dev, struct rtc, dev);

	t->offset_ns = of_utc_s * NS_PER_S;
	t->seen_ns = rtc_now_ns(t);
	t->seen_s = floor_s(t->seen_ns);
}

int rtc_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e)
{
	struct rtc *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return err_set_errno(e, -ENOMEM, "rtc");
	t->dev.ops = &rtc_ops;
	snprintf(t->dev.name, sizeof(t->dev.name), "rtc");
	t->host = h;
	t->pio = pio;
	t->rearm.run = rtc_rearm_run;
	pthread_mutex_init(&t->lock, NULL);
	t->cmos[REG_A] = A_DIVIDER_32K | 6;
	t->cmos[REG_B] = B_24H;
	cmos_put_memory(t);
	t->seen_ns = rtc_now_ns(t);
	t->seen_s = floor_s(t->seen_ns);
	r = loop_timer_new(h->loop, rtc_fire, t, &t->timer);
	if (!r)
		r = bus_add(pio, RTC_PORT, RTC_INDEX_PORTS, &rtc_bus_ops, t);
	if (r) {
		rtc_free(&t->dev);
		return err_set_errno(e, r, "rtc: port 0x%x", RTC_PORT);
	}
	*ret_dev = &t->dev;
	return 0;
}
