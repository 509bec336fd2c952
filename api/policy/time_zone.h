/* time_zone: the local time of a place, from the files of tzdata (RFC 9636, TZif). A zone is read once; all else are
 * pure functions of the time. Times are seconds since 1970, leap seconds not counted: UTC, or "local", which is UTC
 * plus the zone's offset.
 * Threading: any thread, no shared state. */
#ifndef CAIRN_API_POLICY_TIME_ZONE_H
#define CAIRN_API_POLICY_TIME_ZONE_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct time_zone;

#define TIME_ZONE_NAME_MAX 63

/* Parse the content of a TZif file. *ret: owned. Returns 0; -EINVAL: malformed; -ENOMEM. */
int time_zone_parse(const void *data, size_t len, struct time_zone **ret, struct err *e);
/* Read the zone's file.
 * name: such as "Europe/Berlin". "": the host's zone: of the variable TZ, else of /etc/localtime, else UTC.
 * *ret: owned. Returns 0; -ENOENT: there is no such zone; -EINVAL: its file is malformed; -errno. */
int time_zone_load(const char *name, struct time_zone **ret, struct err *e);
void time_zone_free(struct time_zone *z); /* NULL allowed */

/* The time around an instant during which the zone's offset is the same. */
struct time_zone_span {
	int64_t begin_s, end_s; /* UTC; the end is not part of it. INT64_MIN, INT64_MAX: none */
	int32_t offset_s;	/* local time minus UTC */
	int32_t before_s;	/* the offset before begin_s; offset_s if there is no begin */
};

/* z: NULL: UTC. */
struct time_zone_span time_zone_at(const struct time_zone *z, int64_t utc_s);

/* ---- dates of the Gregorian calendar ---- */

/* Return the number of days since 1970-01-01. month: 1 to 12. day: 1 and above; may be larger than the month. */
int64_t civil_day(int64_t year, int month, int day);
/* The reverse. month, day: from 1 on. */
void civil_date(int64_t day, int64_t *ret_year, int *ret_month, int *ret_day);
/* Return the number of days in the month. */
int civil_month_days(int64_t year, int month);
/* Return 0 for Monday to 6 for Sunday. day: as civil_day() returns it. */
int civil_weekday(int64_t day);

#endif
