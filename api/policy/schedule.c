#include "api/policy/schedule.h"
#include "base/duration.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MINUTE_S 60LL
#define HOUR_S (60 * MINUTE_S)
#define DAY_S (24 * HOUR_S)
#define WEEK_S (7 * DAY_S)
#define YEAR_S (365 * DAY_S)
#define WINDOW_MAX_S (100 * YEAR_S)
#define MIN_FREE_MAX (1ULL << 60)
#define MONDAY_S (4 * DAY_S) /* 1970 began on a Thursday */

/* ---- parsing and printing schedules ---- */

#define UNITS "ywdhm"

static const char *const period_names[SCHEDULE_PERIOD_COUNT] = {
	"all", "hourly", "daily", "weekly", "monthly", "yearly"};

int schedule_set_every(struct schedule_plan *p, const char *text, struct err *e)
{
	int64_t s;

	if (duration_parse_units(text, strlen(text), UNITS, SCHEDULE_EVERY_MAX_S, &s) < 0 || s < SCHEDULE_EVERY_MIN_S)
		return err_set(e, -EINVAL, ERR_INVALID,
			"every: \"%.40s\" is not a duration from 1m to 366d, such as 15m, 1h or 1d",
			text);
	p->every_s = s;
	return 0;
}

static bool period_parse(const char *text, size_t len, enum schedule_period *ret)
{
	for (size_t i = 0; i < SCHEDULE_PERIOD_COUNT; i++)
		if (strlen(period_names[i]) == len && !memcmp(period_names[i], text, len)) {
			*ret = (enum schedule_period)i;
			return true;
		}
	return false;
}

static int rule_parse(const char *text, size_t len, struct schedule_rule *ret, struct err *e)
{
	const char *colon = memchr(text, ':', len);

	if (!colon || duration_parse_units(text, (size_t)(colon - text), UNITS, WINDOW_MAX_S, &ret->window_s) < 0 ||
		!ret->window_s ||
		!period_parse(colon + 1, len - (size_t)(colon + 1 - text), &ret->period))
		return err_set(e, -EINVAL, ERR_INVALID,
			"keep: \"%.*s\" is not WINDOW:PERIOD, such as 24h:all or 7d:daily; a window is a number with m, h, d, w "
			"or y, at most 100y, a period all, hourly, daily, weekly, monthly or yearly",
			(int)MIN(len, (size_t)40), text);
	return 0;
}

int schedule_set_keep(struct schedule_plan *p, const char *text, struct err *e)
{
	struct schedule_rule rules[SCHEDULE_RULES_MAX];
	size_t n = 0;

	for (const char *at = text;; at++) {
		size_t len = strcspn(at, ",");
		int r;

		if (n == SCHEDULE_RULES_MAX)
			return err_set(e, -EINVAL, ERR_INVALID, "keep: at most %d rules",
				SCHEDULE_RULES_MAX);
		r = rule_parse(at, len, &rules[n++], e);
		if (r < 0)
			return r;
		at += len;
		if (!*at)
			break;
	}
	memcpy(p->rules, rules, n * sizeof(rules[0]));
	p->nrules = n;
	return 0;
}

int schedule_set_min_free(struct schedule_plan *p, const char *text, struct err *e)
{
	bool digits = isdigit((unsigned char)*text);
	uint64_t n;
	char *end;

	n = strtoull(text, &end, 10);
	if (digits && !strcmp(end, "%") && n <= 100) {
		p->min_free = n;
		p->min_free_is_percent = true;
		return 0;
	}
	if (size_parse(text, 1, &n) < 0 || n > MIN_FREE_MAX)
		return err_set(e, -EINVAL, ERR_INVALID,
			"min-free: \"%.40s\" is neither a part such as 10%% nor a size such as "
			"500M or 5G",
			text);
	p->min_free = n;
	p->min_free_is_percent = false;
	return 0;
}

void schedule_print_every(const struct schedule_plan *p, char buf[SCHEDULE_TEXT_MAX])
{
	duration_print_units(p->every_s, UNITS, buf);
}

void schedule_print_keep(const struct schedule_plan *p, char buf[SCHEDULE_TEXT_MAX])
{
	size_t n = 0;

	buf[0] = 0;
	for (size_t i = 0; i < p->nrules; i++) {
		char window[DURATION_TEXT];

		duration_print_units(p->rules[i].window_s, UNITS, window);
		n += (size_t)snprintf(buf + n, SCHEDULE_TEXT_MAX - n, "%s%s:%s", i ? "," : "",
			window, period_names[p->rules[i].period]);
	}
}

void schedule_print_min_free(const struct schedule_plan *p, char buf[SCHEDULE_TEXT_MAX])
{
	static const char *const letters[] = {"", "K", "M", "G", "T"};
	uint64_t n = p->min_free;
	size_t i = 0;

	for (; !p->min_free_is_percent && n && n % KIB == 0 && i + 1 < ARRAY_SIZE(letters); i++)
		n /= KIB;
	snprintf(buf, SCHEDULE_TEXT_MAX, "%" PRIu64 "%s", n,
		p->min_free_is_percent ? "%" : letters[i]);
}

bool schedule_space_is_short(
	const struct schedule_plan *p, uint64_t free_bytes, uint64_t size_bytes)
{
	if (p->min_free_is_percent)
		return free_bytes < size_bytes / 100 * p->min_free;
	return free_bytes < p->min_free;
}

/* ---- due times ---- */

static int64_t floor_to(int64_t t, int64_t step)
{
	int64_t rest = t % step;

	return t - (rest < 0 ? rest + step : rest);
}

int64_t schedule_slot(const struct schedule_plan *p, int64_t now_s)
{
	return floor_to(now_s - MONDAY_S, p->every_s) + MONDAY_S;
}

enum schedule_due schedule_due(const struct schedule_plan *p, int64_t last_s, int64_t now_s)
{
	int64_t slot = schedule_slot(p, now_s);

	if (slot > last_s)
		return SCHEDULE_DUE;
	/* When the clock steps back across an interval's start, do not take a second snapshot. */
	return last_s - slot > p->every_s ? SCHEDULE_ANEW : SCHEDULE_NOT_YET;
}

/* ---- names of scheduled snapshots ---- */

void schedule_name(int64_t now_s, unsigned again, char buf[SCHEDULE_NAME_MAX])
{
	time_t t = (time_t)now_s;
	struct tm tm;
	size_t n;

	gmtime_r(&t, &tm);
	n = strftime(buf, SCHEDULE_NAME_MAX, "auto-%Y-%m-%dT%H:%MZ", &tm);
	if (again > 1)
		snprintf(buf + n, SCHEDULE_NAME_MAX - n, "-%u", again);
}

bool schedule_is_name(const char *name)
{
	static const char shape[] = "auto-dddd-dd-ddTdd:ddZ";
	size_t i = 0;

	for (; shape[i]; i++)
		if (shape[i] == 'd' ? !isdigit((unsigned char)name[i]) : name[i] != shape[i])
			return false;
	if (!name[i])
		return true;
	if (name[i++] != '-' || !name[i])
		return false;
	while (isdigit((unsigned char)name[i]))
		i++;
	return !name[i];
}

/* ---- retention: which snapshots to keep ---- */

/* Return the number of the period that contains t; it grows with t. */
static int64_t period_of(enum schedule_period period, int64_t t)
{
	time_t tt = (time_t)t;
	struct tm tm;

	switch (period) {
	case SCHEDULE_HOURLY:
		return floor_to(t, HOUR_S);
	case SCHEDULE_DAILY:
		return floor_to(t, DAY_S);
	case SCHEDULE_WEEKLY:
		return floor_to(t - MONDAY_S, WEEK_S);
	case SCHEDULE_MONTHLY:
	case SCHEDULE_YEARLY:
		gmtime_r(&tt, &tm);
		return period == SCHEDULE_YEARLY ? tm.tm_year : tm.tm_year * 12LL + tm.tm_mon;
	case SCHEDULE_ALL:
	case SCHEDULE_PERIOD_COUNT:
		break;
	}
	return t;
}

struct point {
	int64_t time_s;
	size_t i;
};

static int point_compare(const void *a, const void *b)
{
	const struct point *x = a, *y = b;

	if (x->time_s != y->time_s)
		return x->time_s < y->time_s ? -1 : 1;
	return x->i < y->i ? -1 : x->i > y->i;
}

/* Mark the snapshots in the rule's window that the rule keeps. points: sorted by time. The first snapshot of each
 * period is kept, because it stays the first when others are deleted: repeated runs keep the same snapshots. */
static void rule_apply(const struct schedule_rule *rule, int64_t now_s, const struct point *points,
	size_t n, bool *keep)
{
	for (size_t i = 0; i < n; i++) {
		bool first = rule->period == SCHEDULE_ALL || !i ||
			     period_of(rule->period, points[i].time_s) !=
				     period_of(rule->period, points[i - 1].time_s);

		if (first && now_s - points[i].time_s < rule->window_s)
			keep[points[i].i] = true;
	}
}

void schedule_keep(const struct schedule_plan *p, int64_t now_s, const int64_t *times_s, size_t n,
	bool *ret_keep)
{
	struct point *points = calloc(n + 1, sizeof(*points));
	size_t past = 0;

	memset(ret_keep, !points, n * sizeof(*ret_keep));
	if (!points)
		return; /* without memory, delete nothing this time */
	for (size_t i = 0; i < n; i++)
		points[i] = (struct point){times_s[i], i};
	qsort(points, n, sizeof(*points), point_compare);
	while (past < n && points[past].time_s <= now_s)
		past++;
	if (past)
		ret_keep[points[past - 1].i] = true;
	for (size_t i = past; i < n; i++)
		ret_keep[points[i].i] = true;
	for (size_t i = 0; i < p->nrules; i++)
		rule_apply(&p->rules[i], now_s, points, n, ret_keep);
	free(points);
}
