#include "api/policy/calendar.h"
#include "base/err.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define DAY_S 86400
#define HOUR_S 3600
#define MINUTE_S 60
#define EXAMPLE "for example Mon..Fri 02:30, *-*-01 04:00 or daily"

/* ---- sets of values ---- */

static bool bit_get(const uint64_t *set, int n)
{
	return set[n / 64] >> (n % 64) & 1;
}

static void bit_set(uint64_t *set, int n)
{
	set[n / 64] |= 1ULL << (n % 64);
}

/* Return the first bit from `from` to `max`; -1: none. */
static int bit_from(uint64_t set, int from, int max)
{
	for (int n = from; n <= max; n++)
		if (set >> n & 1)
			return n;
	return -1;
}

/* ---- fields: *, or a list of VALUE, A..B, A/STEP and A..B/STEP ---- */

struct field_kind {
	const char *name, *example;
	int min, max;
};

static const struct field_kind year_kind = { "year", "2026 or 2026..2030", CALENDAR_YEAR_MIN, CALENDAR_YEAR_MAX };
static const struct field_kind month_kind = { "month", "3 or 1,4,7,10", 1, 12 };
static const struct field_kind day_kind = { "day", "1, 1..7 or 1/7", 1, 31 };
static const struct field_kind hour_kind = { "hour", "2, 9..17 or 0/6", 0, 23 };
static const struct field_kind minute_kind = { "minute", "30 or 0/15", 0, 59 };
static const struct field_kind second_kind = { "second", "0 or 30", 0, 59 };

/* A part of a list as it was written. stop -1: none. step 0: none. */
struct part {
	int start, stop, step;
};

static int field_wrong(const struct field_kind *k, const char *text, size_t len, const char *why, struct err *e)
{
	return err_set(e, -EINVAL, ERR_INVALID, "calendar: %s \"%.*s\" %s; give for example %s", k->name, (int)MIN(len, (size_t)40), text,
		why, k->example);
}

static bool number_take(const char **p, const char *end, int *ret)
{
	const char *s = *p;
	int n = 0;

	for (; s < end && isdigit((unsigned char)*s); s++)
		if ((n = n * 10 + (*s - '0')) > 100000)
			return false;
	if (s == *p)
		return false;
	*p = s;
	*ret = n;
	return true;
}

static int year_complete(int n)
{
	return n < 0 || n >= 100 ? n : n < 70 ? n + 2000 : n + 1900;
}

static int part_parse(const struct field_kind *k, const char *text, size_t len, struct part *ret, struct err *e)
{
	const char *p = text, *end = text + len;
	struct part part = { .stop = -1 };

	if (len && *p == '*')
		return field_wrong(k, text, len, len > 1 && p[1] == '/' ? "is cron's form; a step has a first value before the /" :
						 "mixes * with more", e);
	if (!number_take(&p, end, &part.start))
		return field_wrong(k, text, len, "is not a number", e);
	if (end - p >= 2 && p[0] == '.' && p[1] == '.') {
		p += 2;
		part.step = 1;
		if (!number_take(&p, end, &part.stop))
			return field_wrong(k, text, len, "is a range without an end", e);
	}
	if (p < end && *p == '/') {
		p++;
		if (!number_take(&p, end, &part.step) || !part.step)
			return field_wrong(k, text, len, "has no step behind the /", e);
	}
	if (p < end && *p == '.' && k == &second_kind)
		return field_wrong(k, text, len, "has a fraction of a second", e);
	if (p != end)
		return field_wrong(k, text, len, "is malformed", e);
	if (k == &year_kind) {
		part.start = year_complete(part.start);
		part.stop = year_complete(part.stop);
	}
	*ret = part;
	return 0;
}

/* Check the part as systemd does. from_end: the values count down to 1. */
static int part_check(const struct field_kind *k, const char *text, size_t len, struct part *p, bool from_end, struct err *e)
{
	char why[80];

	if (p->start < k->min || p->start > k->max || p->stop > k->max || (p->stop >= 0 && p->stop < k->min)) {
		snprintf(why, sizeof(why), "is out of range %d to %d", k->min, k->max);
		return field_wrong(k, text, len, why, e);
	}
	if (p->stop > p->start && p->step)
		p->stop -= (p->stop - p->start) % p->step;
	if (p->stop >= 0 && p->start + p->step > p->stop)
		return field_wrong(k, text, len, "is a range of at most one value", e);
	if (p->step > k->max - k->min || (p->stop < 0 && (from_end ? p->start - p->step < k->min : p->start + p->step > k->max)))
		return field_wrong(k, text, len, "has a step beyond the last value", e);
	return 0;
}

static void part_add(const struct field_kind *k, const struct part *p, bool from_end, uint64_t *set)
{
	int base = k == &year_kind ? CALENDAR_YEAR_MIN : 0, step = MAX(p->step, 1);
	int last = p->stop >= 0 ? p->stop : p->step ? (from_end ? k->min : k->max) : p->start;

	if (from_end && p->stop < 0)
		for (int n = p->start; n >= last; n -= step)
			bit_set(set, n - base);
	else
		for (int n = p->start; n <= last; n += step)
			bit_set(set, n - base);
}

/* Parse a field of len bytes into a set of bits. */
static int field_parse(const struct field_kind *k, const char *text, size_t len, bool from_end, uint64_t *set, struct err *e)
{
	const char *end = text + len;

	if (len == 1 && *text == '*') {
		part_add(k, &(struct part){ .start = k->min, .stop = k->max, .step = 1 }, false, set);
		return 0;
	}
	for (const char *p = text;; p++) {
		const char *comma = memchr(p, ',', (size_t)(end - p)), *stop = comma ? comma : end;
		struct part part = { .stop = -1 };
		int r = part_parse(k, p, (size_t)(stop - p), &part, e);

		if (!r)
			r = part_check(k, p, (size_t)(stop - p), &part, from_end, e);
		if (r < 0)
			return r;
		part_add(k, &part, from_end, set);
		if (!comma)
			return 0;
		p = comma;
	}
}

/* ---- words ---- */

static const char *const weekday_names[] = { "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday" };

static const struct {
	const char *word, *means;
} shorthands[] = {
	{ "minutely", "*-*-* *:*:00" },
	{ "hourly", "*-*-* *:00:00" },
	{ "daily", "*-*-* 00:00:00" },
	{ "weekly", "Mon *-*-* 00:00:00" },
	{ "monthly", "*-*-01 00:00:00" },
	{ "quarterly", "*-01,04,07,10-01 00:00:00" },
	{ "semiannually", "*-01,07-01 00:00:00" },
	{ "semi-annually", "*-01,07-01 00:00:00" },
	{ "biannually", "*-01,07-01 00:00:00" },
	{ "bi-annually", "*-01,07-01 00:00:00" },
	{ "yearly", "*-01-01 00:00:00" },
	{ "annually", "*-01-01 00:00:00" },
	{ "anually", "*-01-01 00:00:00" },
};

static bool is_word(const char *text, size_t len, const char *word)
{
	return strlen(word) == len && !strncasecmp(text, word, len);
}

/* Return the weekday that the text begins with, by its whole or its short name, and move behind it; -1: none. */
static int weekday_take(const char **p, const char *end)
{
	size_t len = 0;

	while (*p + len < end && isalpha((unsigned char)(*p)[len]))
		len++;
	for (int i = 0; i < (int)ARRAY_SIZE(weekday_names); i++)
		if (is_word(*p, len, weekday_names[i]) || (len == 3 && !strncasecmp(*p, weekday_names[i], 3))) {
			*p += len;
			return i;
		}
	return -1;
}

static int weekdays_wrong(const char *text, size_t len, struct err *e)
{
	return err_set(e, -EINVAL, ERR_INVALID, "calendar: \"%.*s\" is no list of weekdays; give for example Mon, Sat,Sun or Mon..Fri",
		(int)MIN(len, (size_t)40), text);
}

static int weekdays_parse(const char *text, size_t len, uint64_t *set, struct err *e)
{
	const char *p = text, *end = text + len;

	while (p < end) {
		int first = weekday_take(&p, end), last = first;

		if (first >= 0 && p < end && (*p == '-' || (end - p >= 2 && p[0] == '.' && p[1] == '.'))) {
			p += *p == '-' ? 1 : 2;
			last = weekday_take(&p, end);
		}
		if (first < 0 || last < first || (p < end && *p++ != ','))
			return weekdays_wrong(text, len, e);
		for (int i = first; i <= last; i++)
			bit_set(set, i);
	}
	return 0;
}

/* ---- date and time ---- */

static int date_parse(const char *text, size_t len, struct calendar *c, struct err *e)
{
	const char *cuts[3], *end = text + len;
	size_t n = 0, at = 0;
	int r;

	for (const char *p = text; p < end; p++)
		if ((*p == '-' || *p == '~') && n < ARRAY_SIZE(cuts))
			cuts[n++] = p;
	if (!n || n > 2 || (n == 2 && *cuts[0] == '~'))
		return err_set(e, -EINVAL, ERR_INVALID,
			"calendar: \"%.*s\" is neither a date nor a time; give for example *-*-01 or 2026-12-24 as a date and 02:30 "
			"or *:0/15 as a time", (int)MIN(len, (size_t)40), text);
	c->from_end = *cuts[n - 1] == '~';
	memset(c->years, 0, sizeof(c->years));
	if (n == 2)
		r = field_parse(&year_kind, text, (size_t)(cuts[at] - text), false, c->years, e);
	else
		r = field_parse(&year_kind, "*", 1, false, c->years, e);
	if (r < 0)
		return r;
	if (n == 2)
		text = cuts[at++] + 1;
	c->months = c->days = 0;
	r = field_parse(&month_kind, text, (size_t)(cuts[at] - text), false, &c->months, e);
	text = cuts[at] + 1;
	return r ? r : field_parse(&day_kind, text, (size_t)(end - text), c->from_end, &c->days, e);
}

static int time_parse(const char *text, size_t len, struct calendar *c, struct err *e)
{
	const char *end = text + len, *colon = memchr(text, ':', len), *second;
	int r;

	second = memchr(colon + 1, ':', (size_t)(end - colon - 1));
	c->hours = c->minutes = c->seconds = 0;
	r = field_parse(&hour_kind, text, (size_t)(colon - text), false, &c->hours, e);
	if (!r)
		r = field_parse(&minute_kind, colon + 1, (size_t)((second ? second : end) - colon - 1), false, &c->minutes, e);
	if (r < 0)
		return r;
	return second ? field_parse(&second_kind, second + 1, (size_t)(end - second - 1), false, &c->seconds, e)
		      : field_parse(&second_kind, "0", 1, false, &c->seconds, e);
}

/* Parse "@SECONDS", a time in seconds since 1970, as one second in UTC. */
static int stamp_parse(const char *text, size_t len, struct calendar *c, struct err *e)
{
	int64_t s = 0, year;
	int month, day;

	for (size_t i = 1; i < len && s >= 0; i++)
		s = isdigit((unsigned char)text[i]) && s < INT64_MAX / 20 ? s * 10 + (text[i] - '0') : -1;
	civil_date(MAX(s, 0) / DAY_S, &year, &month, &day);
	if (len < 2 || s < 0 || year > CALENDAR_YEAR_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "calendar: \"%.*s\" is no number of seconds since 1970; give for example @1798761600",
			(int)MIN(len, (size_t)40), text);
	*c = (struct calendar){ .months = 1ULL << month, .days = 1ULL << day, .hours = 1ULL << (s % DAY_S / HOUR_S),
		.minutes = 1ULL << (s % HOUR_S / MINUTE_S), .seconds = 1ULL << (s % MINUTE_S), .weekdays = 0x7f, .zone = "UTC" };
	bit_set(c->years, (int)year - CALENDAR_YEAR_MIN);
	return 0;
}

/* ---- whole expressions ---- */

#define WORDS_MAX 4 /* weekdays, date, time, zone */

struct word {
	const char *text;
	size_t len;
};

static int words_split(const char *text, struct word words[WORDS_MAX], size_t *ret_n, struct err *e)
{
	size_t n = 0;

	for (const char *p = text + strspn(text, " "); *p; p += strspn(p, " ")) {
		size_t len = strcspn(p, " ");

		if (n == WORDS_MAX)
			return err_set(e, -EINVAL, ERR_INVALID, "calendar: \"%.*s\" is one word too many; an expression is [WEEKDAYS] [DATE] "
				"[TIME] [ZONE], " EXAMPLE, (int)MIN(len, (size_t)40), p);
		words[n++] = (struct word){ p, len };
		p += len;
	}
	if (!n)
		return err_set(e, -EINVAL, ERR_INVALID, "calendar: is empty; give " EXAMPLE);
	*ret_n = n;
	return 0;
}

static int order_wrong(const struct word *w, struct err *e)
{
	return err_set(e, -EINVAL, ERR_INVALID, "calendar: \"%.*s\" is not expected there; the order is [WEEKDAYS] [DATE] [TIME] [ZONE], "
		EXAMPLE, (int)MIN(w->len, (size_t)40), w->text);
}

static int words_parse(const struct word *w, size_t n, struct calendar *c, struct err *e)
{
	size_t i = 0;
	int r;

	if (isalpha((unsigned char)w[0].text[0])) {
		c->weekdays = 0;
		r = weekdays_parse(w[0].text, w[0].len, &c->weekdays, e);
		if (r < 0)
			return r;
		i++;
	}
	if (i < n && *w[i].text == '@') {
		r = i ? order_wrong(&w[i], e) : stamp_parse(w[i].text, w[i].len, c, e);
		if (r < 0)
			return r;
		return ++i < n ? order_wrong(&w[i], e) : 0;
	}
	if (i < n && !memchr(w[i].text, ':', w[i].len)) {
		r = date_parse(w[i].text, w[i].len, c, e);
		if (r < 0)
			return r;
		i++;
	}
	if (i < n && memchr(w[i].text, ':', w[i].len)) {
		r = time_parse(w[i].text, w[i].len, c, e);
		if (r < 0)
			return r;
		i++;
	}
	return i < n ? order_wrong(&w[i], e) : 0;
}

/* Take a zone at the end, which is the only word besides the first that begins with a letter. */
static int zone_take(const struct word *w, size_t *n, struct calendar *c, struct err *e)
{
	const struct word *last = &w[*n - 1];

	if (*n < 2 || !isalpha((unsigned char)last->text[0]))
		return 0;
	if (last->len > TIME_ZONE_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "calendar: \"%.40s\" is no time zone; give for example Europe/Berlin", last->text);
	if (is_word(last->text, last->len, "UTC"))
		snprintf(c->zone, sizeof(c->zone), "UTC");
	else
		snprintf(c->zone, sizeof(c->zone), "%.*s", (int)last->len, last->text);
	--*n;
	return 0;
}

int calendar_parse(const char *text, struct calendar *ret, struct err *e)
{
	struct calendar c = { .weekdays = 0x7f, .hours = 1, .minutes = 1, .seconds = 1 };
	struct word words[WORDS_MAX];
	size_t n = 0;
	int r = 0;

	if (strlen(text) > CALENDAR_TEXT_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "calendar: the expression has more than %d bytes; give " EXAMPLE, CALENDAR_TEXT_MAX);
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
			return err_set(e, -EINVAL, ERR_INVALID, "calendar: the expression has a character that is no plain ASCII; give " EXAMPLE);
	r = words_split(text, words, &n, e);
	if (!r)
		r = zone_take(words, &n, &c, e);
	if (!r)
		r = date_parse("*-*-*", 5, &c, e);
	if (r < 0)
		return r;
	for (size_t i = 0; n == 1 && i < ARRAY_SIZE(shorthands); i++)
		if (is_word(words[0].text, words[0].len, shorthands[i].word)) {
			r = words_split(shorthands[i].means, words, &n, e);
			break;
		}
	if (!r)
		r = words_parse(words, n, &c, e);
	if (!r)
		*ret = c;
	return r;
}

bool calendar_is_frequent(const struct calendar *c)
{
	return c->seconds & (c->seconds - 1);
}

/* ---- the next match in local time ---- */

static bool time_next(const struct calendar *c, int64_t from, int64_t *ret)
{
	int h = (int)(from / HOUR_S), m = (int)(from % HOUR_S / MINUTE_S), s = (int)(from % MINUTE_S);

	for (int hour = bit_from(c->hours, h, 23); hour >= 0; hour = bit_from(c->hours, hour + 1, 23)) {
		int minute = bit_from(c->minutes, hour == h ? m : 0, 59);

		for (; minute >= 0; minute = bit_from(c->minutes, minute + 1, 59)) {
			int second = bit_from(c->seconds, hour == h && minute == m ? s : 0, 59);

			if (second >= 0) {
				*ret = hour * HOUR_S + minute * MINUTE_S + second;
				return true;
			}
		}
	}
	return false;
}

static bool day_matches(const struct calendar *c, int64_t first, int day, int days)
{
	return c->days >> (c->from_end ? days - day + 1 : day) & 1 && c->weekdays >> civil_weekday(first + day - 1) & 1;
}

/* Find the first match of local time from `from` on. */
static bool local_next(const struct calendar *c, int64_t from, int64_t *ret)
{
	int64_t start = civil_day(CALENDAR_YEAR_MIN, 1, 1) * DAY_S, at = MAX(from, start), today = at / DAY_S, year;
	int month, day;

	civil_date(today, &year, &month, &day);
	for (; year <= CALENDAR_YEAR_MAX; year++, month = day = 1) {
		if (!bit_get(c->years, (int)year - CALENDAR_YEAR_MIN))
			continue;
		for (; month <= 12; month++, day = 1) {
			int64_t first = civil_day(year, month, 1), time;
			int days = civil_month_days(year, month);

			for (; c->months >> month & 1 && day <= days; day++) {
				int64_t n = first + day - 1;

				if (!day_matches(c, first, day, days) || !time_next(c, n == today ? at % DAY_S : 0, &time))
					continue;
				*ret = n * DAY_S + time;
				return true;
			}
		}
	}
	return false;
}

/* ---- the next match in a zone ---- */

bool calendar_next(const struct calendar *c, const struct time_zone *z, int64_t after_s, int64_t *ret_s)
{
	bool every_hour = c->hours == (1ULL << 24) - 1;
	int64_t t = after_s + 1, local;

	for (;;) {
		struct time_zone_span s = time_zone_at(z, t);
		int64_t from = t + s.offset_s;

		if (t == s.begin_s && s.offset_s > s.before_s && local_next(c, t + s.before_s, &local) && local < from) {
			*ret_s = t; /* the local time of this match does not exist */
			return true;
		}
		/* The clock was set back: skip the local times that it shows for the second time. */
		if (s.offset_s < s.before_s && !every_hour)
			from = MAX(from, s.begin_s + s.before_s);
		if (!local_next(c, from, &local))
			return false;
		if (local - s.offset_s < s.end_s) {
			*ret_s = local - s.offset_s;
			return true;
		}
		t = s.end_s;
	}
}

bool calendar_last(const struct calendar *c, const struct time_zone *z, int64_t after_s, int64_t until_s, int64_t *ret_s)
{
	int64_t at, back = HOUR_S, begin;

	if (until_s <= after_s || !calendar_next(c, z, after_s, &at) || at > until_s)
		return false;
	/* Look in a window before the end that grows until it has a match, so that few matches are passed. */
	do {
		begin = until_s - after_s > back ? until_s - back : after_s;
		back *= 16;
	} while (!calendar_next(c, z, begin, &at) || at > until_s);
	do
		*ret_s = at;
	while (calendar_next(c, z, at, &at) && at <= until_s);
	return true;
}
