/* The small devices of a PC: i8042, RTC, ACPI PM, pvpanic, debug exit. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/util.h"
#include "devices/acpi_pm.h"
#include "devices/legacy/debug_exit.h"
#include "devices/legacy/i8042.h"
#include "devices/legacy/pvpanic.h"
#include "devices/legacy/rtc.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef int device_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);

static struct device *begin(struct fixture *f, device_new *make)
{
	struct device *d;

	fx_init(f);
	assert_int_equal(make(&f->host, f->pio, &d, NULL), 0);
	return d;
}

static void end(struct fixture *f, struct device *d)
{
	d->ops->free(d);
	fx_done(f);
}

static void expect_event(struct fixture *f, enum dev_event_kind kind, int64_t value)
{
	assert_int_equal(f->nevents, 1);
	assert_int_equal(f->events[0].kind, kind);
	assert_int_equal(f->events[0].value, value);
	f->nevents = 0;
}

/* ---- test devices ---- */

static void debug_exit(void **state)
{
	struct bus *mmio = bus_new();
	struct fixture f;
	struct device *d;
	uint64_t v;

	(void)state;
	fx_init(&f);
	assert_int_equal(debug_exit_new(&f.host, f.pio, mmio, &d, NULL), 0);
	fx_out(&f, DEBUG_EXIT_PORT, 1, 42);
	expect_event(&f, DEV_EVENT_DEBUG_EXIT, 42);
	fx_out(&f, DEBUG_EXIT_PORT, 4, 0x107);
	expect_event(&f, DEV_EVENT_DEBUG_EXIT, 7);
	/* The rest of QEMU's pc-testdev */
	fx_out(&f, TESTDEV_REGISTER_PORT, 4, 0x12345678);
	assert_int_equal(fx_in(&f, TESTDEV_REGISTER_PORT + 2, 1), 0x34);
	fx_out(&f, TESTDEV_IRQ_PORT + 14, 1, 1);
	assert_true(f.level[14]);
	fx_out(&f, TESTDEV_IRQ_PORT + 14, 1, 0);
	assert_false(f.level[14]);
	assert_true(bus_write(mmio, TESTDEV_RAM_BASE + TESTDEV_RAM_BYTES - 8, 8, 0x1122334455667788));
	assert_true(bus_read(mmio, TESTDEV_RAM_BASE + TESTDEV_RAM_BYTES - 4, 4, &v));
	assert_int_equal(v, 0x11223344);
	assert_true(!d->ops->reset && !d->ops->save && !d->ops->load); /* no state */
	end(&f, d);
	assert_false(bus_read(mmio, TESTDEV_RAM_BASE, 1, &v));
	bus_free(mmio);
}

static void pvpanic(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, pvpanic_new);

	(void)state;
	assert_int_equal(fx_in(&f, PVPANIC_PORT, 1), 3);
	fx_out(&f, PVPANIC_PORT, 1, 0xfc);
	assert_int_equal(f.nevents, 0);
	fx_out(&f, PVPANIC_PORT, 1, 1);
	expect_event(&f, DEV_EVENT_PANICKED, PVPANIC_PANICKED);
	fx_out(&f, PVPANIC_PORT, 1, 2);
	expect_event(&f, DEV_EVENT_PANICKED, PVPANIC_CRASH_LOADED);
	assert_true(!d->ops->reset && !d->ops->save && !d->ops->load); /* no state */
	end(&f, d);
}

/* ---- i8042 ---- */

static void i8042_resets(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, i8042_new);

	(void)state;
	assert_int_equal(fx_in(&f, 0x64, 1) & 2, 0); /* the bit that reboot code polls */
	fx_out(&f, 0x64, 1, 0xfe);
	expect_event(&f, DEV_EVENT_RESET, 0);
	fx_out(&f, 0x92, 1, fx_in(&f, 0x92, 1) | 1);
	expect_event(&f, DEV_EVENT_RESET, 0);
	fx_out(&f, 0x64, 1, 0xd1);
	fx_out(&f, 0x60, 1, 0x02);
	expect_event(&f, DEV_EVENT_RESET, 0);
	fx_out(&f, 0x64, 1, 0xd1);
	fx_out(&f, 0x60, 1, 0x03); /* A20 only */
	fx_out(&f, 0x64, 1, 0xff); /* pulses nothing */
	assert_int_equal(f.nevents, 0);
	i8042_hide(d);
	assert_int_equal(fx_in(&f, 0x64, 1), 0xfd);
	fx_out(&f, 0x64, 1, 0xfe);
	expect_event(&f, DEV_EVENT_RESET, 0);
	end(&f, d);
}

static void i8042_answers_a_probe(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, i8042_new);

	(void)state;
	fx_out(&f, 0x64, 1, 0xaa);
	assert_int_equal(fx_in(&f, 0x64, 1) & 1, 1);
	assert_int_equal(fx_in(&f, 0x60, 1), 0x55);
	assert_int_equal(fx_in(&f, 0x64, 1) & 1, 0);
	fx_out(&f, 0x64, 1, 0x60);
	fx_out(&f, 0x60, 1, 0x74);
	fx_out(&f, 0x64, 1, 0x20);
	assert_int_equal(fx_in(&f, 0x60, 1), 0x74);
	fx_out(&f, 0x64, 1, 0xa9);
	assert_int_not_equal(fx_in(&f, 0x60, 1), 0);
	fx_out(&f, 0x60, 1, 0xff); /* to the missing keyboard: answers at once */
	assert_int_equal(fx_in(&f, 0x60, 1), 0xfe);
	fx_out(&f, 0x64, 1, 0xaa);
	fx_state_test(&f, d, 300);
	assert_int_equal(fx_in(&f, 0x60, 1), 0x55);
	end(&f, d);
}

/* ---- RTC ---- */

static uint8_t cmos(struct fixture *f, uint8_t reg)
{
	fx_out(f, 0x70, 1, reg);
	return (uint8_t)fx_in(f, 0x71, 1);
}

static void cmos_set(struct fixture *f, uint8_t reg, uint8_t v)
{
	fx_out(f, 0x70, 1, reg);
	fx_out(f, 0x71, 1, v);
}

static unsigned bcd(uint8_t v)
{
	return (v >> 4) * 10u + (v & 15);
}

/* As in Linux: wait for the end of an update, read, compare the seconds. */
static time_t rtc_get(struct fixture *f, bool binary)
{
	struct tm tm = { 0 };
	unsigned v[7], s;

	do {
		static const uint8_t regs[7] = { 0, 2, 4, 7, 8, 9, RTC_CENTURY_REGISTER };

		while (cmos(f, 0x0a) & 0x80)
			;
		for (unsigned i = 0; i < 7; i++)
			v[i] = binary ? cmos(f, regs[i]) : bcd(cmos(f, regs[i]));
		s = binary ? cmos(f, 0) : bcd(cmos(f, 0));
	} while (s != v[0]);
	tm.tm_sec = (int)v[0];
	tm.tm_min = (int)v[1];
	tm.tm_hour = (int)v[2];
	tm.tm_mday = (int)v[3];
	tm.tm_mon = (int)v[4] - 1;
	tm.tm_year = (int)(v[6] * 100 + v[5]) - 1900;
	return timegm(&tm);
}

static void rtc_tells_the_time(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, rtc_new);
	time_t now = time(NULL), t = rtc_get(&f, false);

	(void)state;
	assert_true(t >= now && t <= time(NULL) + 1);
	assert_int_equal(cmos(&f, 0x0d), 0x80);
	cmos_set(&f, 0x0b, 0x06); /* binary */
	t = rtc_get(&f, true);
	assert_true(t >= now && t <= time(NULL) + 1);
	cmos_set(&f, 0x0b, 0x00); /* BCD, 12 hours */
	assert_true(bcd(cmos(&f, 4) & 0x7f) >= 1 && bcd(cmos(&f, 4) & 0x7f) <= 12);
	assert_int_equal(cmos(&f, 0x17) | cmos(&f, 0x18) << 8, (FX_LOW_BYTES - (1 << 20)) / 1024);
	assert_int_equal(cmos(&f, 0x5b) | cmos(&f, 0x5c) << 8, FX_HIGH_BYTES >> 16);
	end(&f, d);
}

static void rtc_can_be_set(void **state)
{
	static const uint8_t values[][2] = { { 0, 0x58 }, { 2, 0x59 }, { 4, 0x23 }, { 7, 0x31 },
		{ 8, 0x12 }, { 9, 0x99 }, { RTC_CENTURY_REGISTER, 0x19 } };
	struct fixture f;
	struct device *d = begin(&f, rtc_new);
	time_t begun = time(NULL), t;
	uint8_t weekday;

	(void)state;
	cmos_set(&f, 0x0b, 0x82);
	for (unsigned i = 0; i < ARRAY_SIZE(values); i++)
		cmos_set(&f, values[i][0], values[i][1]);
	assert_int_equal(cmos(&f, 9), 0x99); /* the clock is stopped */
	cmos_set(&f, 0x0b, 0x02);
	do {
		t = rtc_get(&f, false);
		weekday = cmos(&f, 6);
	} while (rtc_get(&f, false) != t);
	assert_true(t >= 946684798 && t <= 946684799 + time(NULL) - begun); /* the last seconds of 1999 */
	assert_int_equal(weekday, t < 946684800 ? 6 : 7);
	/* The offset survives a reset and a save. */
	d->ops->reset(d);
	fx_state_test(&f, d, 1000);
	assert_true(rtc_get(&f, false) - t <= 25);
	end(&f, d);
}

/* Between the day and the month, the guest has set a date that does not exist. */
static void rtc_keeps_a_date_that_is_half_set(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, rtc_new);
	struct fx_state s;

	(void)state;
	cmos_set(&f, 0x0b, 0x82);
	cmos_set(&f, 8, 0x02);
	cmos_set(&f, 7, 0x31);
	d->ops->pause(d);
	fx_save(d, &s);
	cmos_set(&f, 7, 0x01);
	assert_int_equal(fx_load(d, &s), 0);
	d->ops->resume(d);
	assert_int_equal(cmos(&f, 8), 0x02);
	cmos_set(&f, 8, 0x03);
	assert_int_equal(cmos(&f, 7), 0x31);
	assert_int_equal(cmos(&f, 8), 0x03);
	free(s.buf);
	end(&f, d);
}

static void rtc_survives_any_value(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, rtc_new);
	uint32_t seed = 7;

	(void)state;
	for (unsigned i = 0; i < 20000; i++) {
		seed = seed * 1664525 + 1013904223;
		cmos_set(&f, (uint8_t)(seed >> 24 & (i & 1 ? 0x0f : 0xff)), (uint8_t)(seed >> 16));
		cmos(&f, (uint8_t)(seed >> 8) & 0x3f);
		if (i % 256 == 0)
			fx_run(&f, 1);
	}
	fx_state_test(&f, d, 500);
	end(&f, d);
}

/* A loaded state may name any offset to the host's clock: the guest's clock ends in 2255. */
static void rtc_stands_still_at_the_end_of_its_range(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, rtc_new);
	struct fx_state s;

	(void)state;
	d->ops->pause(d);
	fx_save(d, &s);
	store_le64(s.buf + 1 + 128, 7500000000ULL * 1000000000ULL); /* behind the index and the registers */
	assert_int_equal(fx_load(d, &s), 0);
	d->ops->resume(d);
	assert_int_equal(bcd(cmos(&f, RTC_CENTURY_REGISTER)) * 100 + bcd(cmos(&f, 9)), 2255);
	free(s.buf);
	end(&f, d);
}

static void rtc_interrupts_only_when_asked(void **state)
{
	uint64_t start = loop_now_ns();
	struct fixture f;
	struct device *d = begin(&f, rtc_new);

	(void)state;
	loop_run_once(f.host.loop, 0);
	loop_run_once(f.host.loop, 30000000); /* nothing ends the wait, because no timer runs */
	assert_true(loop_now_ns() - start >= 30000000);
	/* Periodic, 64 Hz. */
	cmos_set(&f, 0x0a, 0x2a);
	cmos_set(&f, 0x0b, 0x42);
	fx_wait(&f, &f.raises[RTC_GSI], 1);
	assert_int_equal(cmos(&f, 0x0c) & 0xc0, 0xc0);
	assert_false(f.level[RTC_GSI]);
	fx_wait(&f, &f.raises[RTC_GSI], 3 - 1);
	cmos(&f, 0x0c);
	cmos_set(&f, 0x0b, 0x02);
	fx_run(&f, 2);
	start = loop_now_ns();
	loop_run_once(f.host.loop, 40000000);
	assert_true(loop_now_ns() - start >= 40000000);
	end(&f, d);
}

static void rtc_alarm_and_update(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, rtc_new);
	struct timespec now; /* time() lags by a tick */
	struct tm tm;
	time_t at;

	(void)state;
	do { /* again when the machine stood still: the next alarm would be in an hour */
		at = time(NULL) + 2;
		gmtime_r(&at, &tm);
		cmos_set(&f, 0x0b, 0x06);
		cmos_set(&f, 1, (uint8_t)tm.tm_sec);
		cmos_set(&f, 3, (uint8_t)tm.tm_min);
		cmos_set(&f, 5, 0xff); /* any hour */
		cmos(&f, 0x0c);
		cmos_set(&f, 0x0b, 0x26);
		fx_run(&f, 2); /* arms the timer */
	} while (time(NULL) >= at && !f.raises[RTC_GSI]);
	fx_wait(&f, &f.raises[RTC_GSI], 1);
	clock_gettime(CLOCK_REALTIME, &now);
	assert_true(now.tv_sec >= at && now.tv_sec <= at + 20);
	assert_int_equal(cmos(&f, 0x0c) & 0xa0, 0xa0);
	cmos_set(&f, 0x0b, 0x16);
	fx_wait(&f, &f.raises[RTC_GSI], 2);
	assert_int_equal(cmos(&f, 0x0c) & 0x90, 0x90);
	end(&f, d);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Return the processor time for arming an alarm many times. */
static uint64_t alarm_cost(struct fixture *f, uint8_t second, uint8_t minute, uint8_t hour)
{
	uint64_t before = cpu_ns();

	cmos_set(f, 1, second);
	cmos_set(f, 3, minute);
	cmos_set(f, 5, hour);
	for (unsigned i = 0; i < 200; i++) {
		cmos_set(f, 0x0b, 0x26);
		fx_run(f, 1);
	}
	return cpu_ns() - before;
}

/* An alarm whose second or minute does not exist is not searched in all seconds of two days. */
static void rtc_alarm_that_never_comes_costs_nothing(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, rtc_new);
	uint64_t usual = alarm_cost(&f, 59, 59, 23);

	(void)state;
	assert_true(alarm_cost(&f, 0x7f, 0xff, 0xff) < 20 * usual);
	assert_true(alarm_cost(&f, 0, 0x7f, 0xff) < 20 * usual);
	end(&f, d);
}

/* ---- ACPI PM ---- */

static void power_button(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, acpi_pm_new);

	(void)state;
	acpi_pm_press_power_button(d);
	assert_false(f.level[ACPI_SCI_GSI]); /* the event is not enabled yet */
	fx_out(&f, ACPI_PM1_EVT_PORT + 2, 2, 0x100);
	assert_true(f.level[ACPI_SCI_GSI]);
	assert_int_equal(fx_in(&f, ACPI_PM1_EVT_PORT, 2) & 0x100, 0x100);
	fx_state_test(&f, d, 500);
	assert_true(f.level[ACPI_SCI_GSI]);
	fx_out(&f, ACPI_PM1_EVT_PORT, 2, 0x100);
	assert_false(f.level[ACPI_SCI_GSI]);
	assert_int_equal(fx_in(&f, ACPI_PM1_EVT_PORT, 2) & 0x100, 0);
	acpi_pm_press_power_button(d);
	assert_true(f.level[ACPI_SCI_GSI]);
	d->ops->reset(d);
	assert_false(f.level[ACPI_SCI_GSI]);
	end(&f, d);
}

static void general_purpose_events(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, acpi_pm_new);

	(void)state;
	fx_out(&f, ACPI_GPE0_PORT + 2, 1, 0x08);
	acpi_pm_raise_gpe(d, 4);
	assert_false(f.level[ACPI_SCI_GSI]);
	acpi_pm_raise_gpe(d, 3);
	acpi_pm_raise_gpe(d, 99);
	assert_true(f.level[ACPI_SCI_GSI]);
	assert_int_equal(fx_in(&f, ACPI_GPE0_PORT, 2), 0x18);
	fx_out(&f, ACPI_GPE0_PORT, 1, 0x08);
	assert_false(f.level[ACPI_SCI_GSI]);
	assert_int_equal(fx_in(&f, ACPI_GPE0_PORT, 1), 0x10);
	end(&f, d);
}

static void soft_off(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, acpi_pm_new);

	(void)state;
	assert_int_equal(fx_in(&f, ACPI_PM1_CNT_PORT, 2), 1); /* SCI_EN */
	fx_out(&f, ACPI_PM1_CNT_PORT, 2, ACPI_S5_SLP_TYP << 10); /* Linux writes twice */
	assert_int_equal(f.nevents, 0);
	assert_int_equal(fx_in(&f, ACPI_PM1_CNT_PORT, 2), 1 | ACPI_S5_SLP_TYP << 10);
	fx_out(&f, ACPI_PM1_CNT_PORT, 2, ACPI_S5_SLP_TYP << 10 | 1 << 13);
	expect_event(&f, DEV_EVENT_POWEROFF, 0);
	assert_int_equal(fx_in(&f, ACPI_PM1_CNT_PORT, 2) & 1 << 13, 0);
	fx_out(&f, ACPI_PM1_CNT_PORT, 2, 1 << 10 | 1 << 13); /* another sleep type */
	assert_int_equal(f.nevents, 0);
	end(&f, d);
}

/* Maximum number of ticks in that time. */
static uint64_t pm_ticks(uint64_t ns)
{
	return ns * 3579545 / 1000000000 + 2;
}

static void pm_timer_counts(void **state)
{
	struct fixture f;
	struct device *d = begin(&f, acpi_pm_new);
	uint64_t start = loop_now_ns();
	uint32_t a, b, c;

	(void)state;
	a = fx_in(&f, ACPI_PM_TMR_PORT, 4);
	usleep(20000);
	b = fx_in(&f, ACPI_PM_TMR_PORT, 4);
	assert_true(b - a >= 71590 && b - a <= pm_ticks(loop_now_ns() - start));
	/* The timer stops during a pause. */
	d->ops->pause(d);
	a = fx_in(&f, ACPI_PM_TMR_PORT, 4);
	usleep(20000);
	b = fx_in(&f, ACPI_PM_TMR_PORT, 4);
	assert_int_equal(a, b);
	start = loop_now_ns();
	d->ops->resume(d);
	c = fx_in(&f, ACPI_PM_TMR_PORT, 4);
	assert_true(c - b <= pm_ticks(loop_now_ns() - start));
	end(&f, d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(debug_exit),
		cmocka_unit_test(pvpanic),
		cmocka_unit_test(i8042_resets),
		cmocka_unit_test(i8042_answers_a_probe),
		cmocka_unit_test(rtc_tells_the_time),
		cmocka_unit_test(rtc_can_be_set),
		cmocka_unit_test(rtc_keeps_a_date_that_is_half_set),
		cmocka_unit_test(rtc_survives_any_value),
		cmocka_unit_test(rtc_stands_still_at_the_end_of_its_range),
		cmocka_unit_test(rtc_interrupts_only_when_asked),
		cmocka_unit_test(rtc_alarm_and_update),
		cmocka_unit_test(rtc_alarm_that_never_comes_costs_nothing),
		cmocka_unit_test(power_button),
		cmocka_unit_test(general_purpose_events),
		cmocka_unit_test(soft_off),
		cmocka_unit_test(pm_timer_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
