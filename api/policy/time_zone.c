#include "api/policy/time_zone.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DAY_S 86400
#define HOUR_S 3600
#define FILE_MAX (256 * 1024)
#define TRANSITIONS_MAX 20000
#define OFFSET_MAX_S (26 * HOUR_S)
#define FOLDER "/usr/share/zoneinfo"

/* ---- dates of the Gregorian calendar ----
 * The days of March to February, counted from 0000-03-01, so that the leap day is a year's last
 * (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"). */

#define DAYS_TO_1970 719468
#define ERA_YEARS 400
#define ERA_DAYS 146097

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

int64_t civil_day(int64_t year, int month, int day)
{
	int64_t y = year - (month <= 2), era = floor_div(y, ERA_YEARS), of_era = y - era * ERA_YEARS;
	int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

	return era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - DAYS_TO_1970;
}

void civil_date(int64_t day, int64_t *ret_year, int *ret_month, int *ret_day)
{
	int64_t n = day + DAYS_TO_1970, era = floor_div(n, ERA_DAYS), of_era = n - era * ERA_DAYS;
	int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
	int64_t month = (5 * of_year + 2) / 153;

	*ret_day = (int)(of_year - (153 * month + 2) / 5 + 1);
	*ret_month = (int)(month < 10 ? month + 3 : month - 9);
	*ret_year = year + era * ERA_YEARS + (*ret_month <= 2);
}

int civil_month_days(int64_t year, int month)
{
	return (int)(civil_day(month == 12 ? year + 1 : year, month == 12 ? 1 : month + 1, 1) - civil_day(year, month, 1));
}

int civil_weekday(int64_t day)
{
	int64_t d = day + 3; /* 1970 began on a Thursday */

	return (int)(d - floor_div(d, 7) * 7);
}

/* ---- the rule for the time after the last transition: POSIX's TZ, such as CET-1CEST,M3.5.0,M10.5.0/3 ---- */

enum rule_kind { RULE_MONTH, RULE_JULIAN, RULE_DAY };

/* A day of each year, and a time of that day. */
struct rule_date {
	enum rule_kind kind;
	int month, week, weekday; /* RULE_MONTH: week 5 is the last; weekday 0 is Sunday */
	int day;		  /* RULE_JULIAN: 1 to 365, without the leap day; RULE_DAY: 0 to 365, with it */
	int32_t time_s;
};

struct rule {
	bool given, has_dst;
	int32_t std_s, dst_s; /* offsets */
	struct rule_date begin, end; /* of daylight saving time */
};

struct time_zone {
	size_t n;
	int64_t *at;	  /* owned: transitions, ascending */
	int32_t *offsets; /* owned: the offset from each transition on */
	int32_t first_s;  /* the offset before the first one */
	struct rule rule;
};

static bool skip_name(const char **p)
{
	const char *s = *p;
	size_t n = 0;

	if (*s == '<') {
		n = strcspn(s, ">");
		*p = s + n + (s[n] == '>');
		return s[n] == '>' && n > 1;
	}
	while (isalpha((unsigned char)s[n]))
		n++;
	*p = s + n;
	return n >= 3;
}

static bool take_number(const char **p, int max, int *ret)
{
	const char *s = *p;
	int n = 0;

	for (; isdigit((unsigned char)*s); s++) {
		n = n * 10 + (*s - '0');
		if (n > max)
			return false;
	}
	if (s == *p)
		return false;
	*p = s;
	*ret = n;
	return true;
}

/* Take "[+-]H[:MM[:SS]]" in seconds; RFC 9636 allows up to 167 hours. */
static bool take_time(const char **p, int32_t *ret)
{
	bool minus = **p == '-';
	int h, m = 0, s = 0;

	if (**p == '-' || **p == '+')
		++*p;
	if (!take_number(p, 167, &h))
		return false;
	if (**p == ':' && (++*p, !take_number(p, 59, &m)))
		return false;
	if (**p == ':' && (++*p, !take_number(p, 59, &s)))
		return false;
	*ret = (minus ? -1 : 1) * (h * HOUR_S + m * 60 + s);
	return true;
}

static bool take_char(const char **p, char c)
{
	return **p == c && (++*p, true);
}

static bool take_date(const char **p, struct rule_date *d)
{
	bool good;

	*d = (struct rule_date){ .time_s = 2 * HOUR_S };
	if (take_char(p, 'M')) {
		good = take_number(p, 12, &d->month) && d->month && take_char(p, '.') && take_number(p, 5, &d->week) &&
		       d->week && take_char(p, '.') && take_number(p, 6, &d->weekday);
	} else if (take_char(p, 'J')) {
		d->kind = RULE_JULIAN;
		good = take_number(p, 365, &d->day) && d->day;
	} else {
		d->kind = RULE_DAY;
		good = take_number(p, 365, &d->day);
	}
	return good && (!take_char(p, '/') || take_time(p, &d->time_s));
}

static bool rule_parse(const char *text, struct rule *r)
{
	const char *p = text;

	*r = (struct rule){ 0 };
	if (!*p)
		return true;
	if (!skip_name(&p) || !take_time(&p, &r->std_s))
		return false;
	r->std_s = -r->std_s; /* POSIX counts to the west */
	r->given = true;
	if (!*p)
		return true;
	r->has_dst = true;
	r->dst_s = r->std_s + HOUR_S;
	if (!skip_name(&p))
		return false;
	if (*p != ',') {
		if (!take_time(&p, &r->dst_s))
			return false;
		r->dst_s = -r->dst_s;
	}
	return take_char(&p, ',') && take_date(&p, &r->begin) && take_char(&p, ',') && take_date(&p, &r->end) && !*p;
}

/* Return the local time, in seconds since 1970, of the rule's date in that year. */
static int64_t rule_local(const struct rule_date *d, int64_t year)
{
	int64_t first, day;
	bool leap = civil_month_days(year, 2) == 29;

	switch (d->kind) {
	case RULE_MONTH:
		first = civil_day(year, d->month, 1);
		day = first + (d->weekday + 6 - civil_weekday(first)) % 7 + 7 * (d->week - 1);
		while (day >= first + civil_month_days(year, d->month))
			day -= 7;
		break;
	case RULE_JULIAN:
		day = civil_day(year, 1, 1) + d->day - 1 + (leap && d->day >= 60);
		break;
	case RULE_DAY:
	default:
		day = civil_day(year, 1, 1) + d->day;
		break;
	}
	return day * DAY_S + d->time_s;
}

static int64_t year_of(int64_t s)
{
	int64_t year;
	int month, day;

	civil_date(floor_div(s, DAY_S), &year, &month, &day);
	return year;
}

static int32_t rule_offset(const struct rule *r, int64_t t)
{
	int64_t year = year_of(t + r->std_s), begin, end;
	bool dst;

	if (!r->has_dst)
		return r->std_s;
	begin = rule_local(&r->begin, year) - r->std_s;
	end = rule_local(&r->end, year) - r->dst_s;
	dst = begin < end ? t >= begin && t < end : !(t >= end && t < begin);
	return dst ? r->dst_s : r->std_s;
}

/* ---- the time around an instant ---- */

static int32_t offset_at(const struct time_zone *z, size_t i, int64_t t)
{
	if (i == z->n && z->rule.given)
		return rule_offset(&z->rule, t);
	return i ? z->offsets[i - 1] : z->first_s;
}

/* Return the number of transitions until t. */
static size_t transitions_until(const struct time_zone *z, int64_t t)
{
	size_t lo = 0, hi = z->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (z->at[mid] <= t)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Narrow the span by a transition of the rule. */
static void span_narrow(struct time_zone_span *s, int64_t at, int64_t t)
{
	if (at <= t)
		s->begin_s = MAX(s->begin_s, at);
	else
		s->end_s = MIN(s->end_s, at);
}

struct time_zone_span time_zone_at(const struct time_zone *z, int64_t t)
{
	struct time_zone_span s = { INT64_MIN, INT64_MAX, 0, 0 };
	size_t i;

	if (!z)
		return s;
	i = transitions_until(z, t);
	if (i)
		s.begin_s = z->at[i - 1];
	if (i < z->n)
		s.end_s = z->at[i];
	s.offset_s = offset_at(z, i, t);
	if (i == z->n && z->rule.has_dst)
		for (int64_t y = year_of(t) - 1; y <= year_of(t) + 1; y++) {
			span_narrow(&s, rule_local(&z->rule.begin, y) - z->rule.std_s, t);
			span_narrow(&s, rule_local(&z->rule.end, y) - z->rule.dst_s, t);
		}
	s.before_s = s.begin_s == INT64_MIN ? s.offset_s
					    : offset_at(z, transitions_until(z, s.begin_s - 1), s.begin_s - 1);
	return s;
}

/* ---- TZif ----
 * A header of 44 bytes: "TZif", version, 15 unused, then six counts of 4 bytes: isutcnt, isstdcnt, leapcnt, timecnt,
 * typecnt, charcnt. The data: timecnt times, timecnt types (1 byte), typecnt of {offset: 4, is_dst: 1, name: 1},
 * charcnt bytes of names, leapcnt of {time, 4 bytes}, isstdcnt and isutcnt bytes. Version 2 and above: the same again
 * with times of 8 instead of 4 bytes, then the rule between two newlines. Numbers are big-endian. */

#define HEADER_BYTES 44
#define TYPE_BYTES 6

struct counts {
	uint32_t isut, isstd, leap, time, type, chars;
};

static int malformed(struct err *e)
{
	return err_set(e, -EINVAL, ERR_CORRUPT, "its file is malformed");
}

static bool header_parse(const uint8_t *p, size_t len, struct counts *c)
{
	if (len < HEADER_BYTES || memcmp(p, "TZif", 4) != 0)
		return false;
	*c = (struct counts){ load_be32(p + 20), load_be32(p + 24), load_be32(p + 28), load_be32(p + 32), load_be32(p + 36),
		load_be32(p + 40) };
	return c->time <= TRANSITIONS_MAX && c->type && c->type <= 256 && c->chars <= FILE_MAX && c->leap <= FILE_MAX &&
	       c->isut <= 256 && c->isstd <= 256;
}

static size_t data_bytes(const struct counts *c, size_t time_bytes)
{
	return c->time * (time_bytes + 1) + c->type * TYPE_BYTES + c->chars + c->leap * (time_bytes + 4) + c->isstd + c->isut;
}

static bool data_parse(struct time_zone *z, const uint8_t *p, const struct counts *c, size_t time_bytes)
{
	const uint8_t *types = p + c->time * time_bytes, *infos = types + c->time;

	for (uint32_t i = 0; i < c->type; i++) {
		int32_t offset = (int32_t)load_be32(infos + (size_t)i * TYPE_BYTES);

		if (offset < -OFFSET_MAX_S || offset > OFFSET_MAX_S)
			return false;
	}
	z->first_s = (int32_t)load_be32(infos);
	for (uint32_t i = 0; i < c->time; i++) {
		const uint8_t *at = p + i * time_bytes;

		z->at[i] = time_bytes == 8 ? (int64_t)load_be64(at) : (int32_t)load_be32(at);
		if (types[i] >= c->type || (i && z->at[i] <= z->at[i - 1]))
			return false;
		z->offsets[i] = (int32_t)load_be32(infos + (size_t)types[i] * TYPE_BYTES);
	}
	z->n = c->time;
	return true;
}

/* Parse the rule behind the data. */
static bool footer_parse(struct time_zone *z, const char *p, size_t len)
{
	char text[128];
	const char *end = len ? memchr(p + 1, '\n', len - 1) : NULL;

	if (!end || *p != '\n' || end - p - 1 >= (ptrdiff_t)sizeof(text))
		return false;
	snprintf(text, sizeof(text), "%.*s", (int)(end - p - 1), p + 1);
	return rule_parse(text, &z->rule);
}

int time_zone_parse(const void *data, size_t len, struct time_zone **ret, struct err *e)
{
	const uint8_t *p = data;
	struct time_zone *z;
	struct counts c;
	size_t time_bytes = 4, bytes;
	bool good;

	if (!header_parse(p, len, &c))
		return malformed(e);
	bytes = data_bytes(&c, time_bytes);
	if (p[4] >= '2') {
		if (len - HEADER_BYTES < bytes)
			return malformed(e);
		p += HEADER_BYTES + bytes;
		len -= HEADER_BYTES + bytes;
		time_bytes = 8;
		if (!header_parse(p, len, &c))
			return malformed(e);
		bytes = data_bytes(&c, time_bytes);
	}
	if (len - HEADER_BYTES < bytes)
		return malformed(e);
	z = calloc(1, sizeof(*z));
	if (!z)
		return err_set_errno(e, -ENOMEM, "time zone");
	z->at = calloc(c.time + 1, sizeof(*z->at));
	z->offsets = calloc(c.time + 1, sizeof(*z->offsets));
	good = z->at && z->offsets && data_parse(z, p + HEADER_BYTES, &c, time_bytes);
	if (good && time_bytes == 8)
		good = footer_parse(z, (const char *)p + HEADER_BYTES + bytes, len - HEADER_BYTES - bytes);
	if (!good) {
		time_zone_free(z);
		return malformed(e);
	}
	*ret = z;
	return 0;
}

void time_zone_free(struct time_zone *z)
{
	if (!z)
		return;
	free(z->at);
	free(z->offsets);
	free(z);
}

/* ---- reading the file ---- */

/* Return whether the name leads to a file below the folder of tzdata. */
static bool name_is_good(const char *name)
{
	size_t len = strlen(name);

	if (!len || len > TIME_ZONE_NAME_MAX || !isalpha((unsigned char)name[0]) || strstr(name, "//") || name[len - 1] == '/')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("/_+-", name[i]))
			return false;
	return true;
}

static int zone_missing(const char *name, struct err *e)
{
	return err_set(e, -ENOENT, ERR_INVALID, "there is no time zone '%.63s'; give a name such as Europe/Berlin or UTC (timedatectl "
		"list-timezones)", name);
}

/* Returns -ENOENT without a sentence if there is no such file. */
static int file_load(const char *path, const char *name, struct time_zone **ret, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	CLEANUP_FREE uint8_t *data = fd < 0 ? NULL : malloc(FILE_MAX);
	ssize_t n = data ? read(fd, data, FILE_MAX) : -1;

	if (n < 0 && (errno == ENOENT || errno == ENOTDIR || errno == EISDIR))
		return -ENOENT;
	if (n < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (time_zone_parse(data, (size_t)n, ret, e) < 0) {
		err_prefix(e, "time zone '%.63s'", name);
		return -EINVAL;
	}
	return 0;
}

static int named_load(const char *name, struct time_zone **ret, struct err *e)
{
	char path[PATH_MAX];

	if (!name_is_good(name))
		return -ENOENT;
	snprintf(path, sizeof(path), FOLDER "/%s", name);
	return file_load(path, name, ret, e);
}

/* As tzset(3): a path, a name, or a rule, each with or without a colon before it. Others, and "", are UTC. */
static int variable_load(const char *tz, struct time_zone **ret, struct err *e)
{
	struct rule rule;
	int r;

	tz += *tz == ':';
	r = *tz == '/' ? file_load(tz, tz, ret, e) : named_load(tz, ret, e);
	if (r != -ENOENT)
		return r;
	*ret = rule_parse(tz, &rule) && rule.given ? calloc(1, sizeof(**ret)) : NULL;
	if (*ret)
		(*ret)->rule = rule;
	return 0;
}

int time_zone_load(const char *name, struct time_zone **ret, struct err *e)
{
	const char *tz = getenv("TZ");
	int r;

	if (!name[0] && tz)
		return variable_load(tz, ret, e);
	r = name[0] ? named_load(name, ret, e) : file_load("/etc/localtime", "/etc/localtime", ret, e);
	if (r != -ENOENT)
		return r;
	/* Without tzdata, or without a zone of the host, there is UTC. */
	*ret = NULL;
	return !name[0] || !strcasecmp(name, "UTC") ? 0 : zone_missing(name, e);
}
