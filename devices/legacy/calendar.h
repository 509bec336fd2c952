/* calendar: converts seconds since 1970 to a UTC date and back, in the proleptic Gregorian
 * calendar.
 *
 * Replaces libc's gmtime_r(), which opens the time zone's file at its first call, inside the
 * sandbox. Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March,
 * eras have 400 years. */
#ifndef CAIRN_DEVICES_LEGACY_CALENDAR_H
#define CAIRN_DEVICES_LEGACY_CALENDAR_H

#include <stdint.h>

struct calendar_date {
	int64_t year;
	int month;   /* 1..12 */
	int day;     /* 1..31 */
	int hour, minute, second;
	int weekday; /* 0: Sunday; calendar_seconds() ignores it */
};

/* Convert seconds to a date. |seconds| is below 2^55. */
void calendar_from_seconds(int64_t seconds, struct calendar_date *ret_c);
/* Convert a date to seconds. Fields may be out of range by a few thousand and carry over. |year| is
 * below 2^30. */
int64_t calendar_seconds(const struct calendar_date *c);

#endif
