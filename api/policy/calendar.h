/* calendar: systemd's calendar expressions (systemd.time(7)), such as "Mon..Fri *-*-* 02:30:00 Europe/Berlin", "daily",
 * "*:0/15" or "2026-*~3": parsing, and the next time that matches. Pure functions.
 *
 * It differs from systemd in these points. There are no fractions of a second. At a change to daylight saving time, a
 * time within the skipped hour runs once, at the change; systemd omits it. At the change back, a time that occurs
 * twice runs the first time. If the hours are "*", it runs both times, so that "*:0/15" has no gap; systemd runs it
 * the first time only. Days from a month's end may be a list, and count from the true end where the month has fewer
 * days. A step of days never leads into the next month, where systemd 252 leaves out days for it.
 * Threading: any thread, no shared state. */
#ifndef CAIRN_API_POLICY_CALENDAR_H
#define CAIRN_API_POLICY_CALENDAR_H

#include "api/policy/time_zone.h"

#include <stdbool.h>
#include <stdint.h>

struct err;

#define CALENDAR_TEXT_MAX 200
#define CALENDAR_YEAR_MIN 1970
#define CALENDAR_YEAR_MAX 2199
#define CALENDAR_YEAR_WORDS 4

/* Each field is a set of bits: bit n is the value n; of years, bit n is CALENDAR_YEAR_MIN + n. */
struct calendar {
	uint64_t years[CALENDAR_YEAR_WORDS];
	uint64_t months, days, hours, minutes, seconds;
	uint64_t weekdays; /* bit 0 is Monday */
	bool from_end;	   /* days count from the month's end: 1 is its last day */
	char zone[TIME_ZONE_NAME_MAX + 1]; /* the name at the end; "": none */
};

/* Parse an expression.
 * Returns 0; -EINVAL: the sentence says which part is wrong, and has an example. *ret is set on success only. */
int calendar_parse(const char *text, struct calendar *ret, struct err *e);
/* Return whether it matches more than once in some minute. */
bool calendar_is_frequent(const struct calendar *c);

/* Find the first match after after_s. z: the zone of the expression; NULL: UTC. Returns false: there is none until the
 * end of CALENDAR_YEAR_MAX. */
bool calendar_next(const struct calendar *c, const struct time_zone *z, int64_t after_s, int64_t *ret_s);
/* Find the last match after after_s and until until_s. Returns false: there is none. */
bool calendar_last(const struct calendar *c, const struct time_zone *z, int64_t after_s, int64_t until_s, int64_t *ret_s);

#endif
