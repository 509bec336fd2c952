/* schedule: when a VM's automatic snapshots are taken, and which of them stay. Pure: no clock, no
 * files; scheduler.h runs it.
 *
 * Time is UTC. It is cut into intervals of `every` seconds, counted from a Monday's midnight; one
 * snapshot belongs into each. A rule `WINDOW:PERIOD` keeps, of those that are younger than the
 * window, the first of each period (or all). What no rule keeps may go. */
#ifndef CAIRN_API_POLICY_SCHEDULE_H
#define CAIRN_API_POLICY_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define SCHEDULE_RULES_MAX 8
#define SCHEDULE_EVERY_MIN_S 60
#define SCHEDULE_EVERY_MAX_S (366LL * 24 * 3600)
#define SCHEDULE_TEXT_MAX 160 /* of any value as text, with the NUL */
#define SCHEDULE_NAME_MAX 32
#define SCHEDULE_TAG "auto"

#define SCHEDULE_KEEP_DEFAULT "24h:all,7d:daily,4w:weekly"
#define SCHEDULE_MIN_FREE_DEFAULT "10%"

enum schedule_period {
	SCHEDULE_ALL,
	SCHEDULE_HOURLY,
	SCHEDULE_DAILY,
	SCHEDULE_WEEKLY, /* from Monday on */
	SCHEDULE_MONTHLY,
	SCHEDULE_YEARLY,
	SCHEDULE_PERIOD_COUNT,
};

struct schedule_rule {
	int64_t window_s;
	enum schedule_period period;
};

struct schedule_plan {
	int64_t every_s;
	struct schedule_rule rules[SCHEDULE_RULES_MAX];
	size_t nrules;
	uint64_t min_free; /* bytes, or percent of the file system; 0: whatever is left */
	bool min_free_is_percent;
};

/* ---- as text; each returns 0, or -EINVAL with a sentence and leaves *p alone ---- */

/* "15m", "1h", "1d", "2w" */
int schedule_set_every(struct schedule_plan *p, const char *text, struct err *e);
/* "24h:all,7d:daily,4w:weekly" */
int schedule_set_keep(struct schedule_plan *p, const char *text, struct err *e);
/* "10%", "5G", "0" */
int schedule_set_min_free(struct schedule_plan *p, const char *text, struct err *e);
void schedule_print_every(const struct schedule_plan *p, char buf[SCHEDULE_TEXT_MAX]);
void schedule_print_keep(const struct schedule_plan *p, char buf[SCHEDULE_TEXT_MAX]);
void schedule_print_min_free(const struct schedule_plan *p, char buf[SCHEDULE_TEXT_MAX]);

/* Is so much free space too little? Both in bytes. */
bool schedule_space_is_short(
	const struct schedule_plan *p, uint64_t free_bytes, uint64_t size_bytes);

/* ---- when ---- */

/* Where the interval that holds now_s begins. Seconds since 1970. */
int64_t schedule_slot(const struct schedule_plan *p, int64_t now_s);

enum schedule_due {
	SCHEDULE_NOT_YET,
	SCHEDULE_DUE,  /* once, however many intervals were missed */
	SCHEDULE_ANEW, /* the clock went back by more than an interval: begin with the present one
			*/
};

/* last_s: where the interval begins that was dealt with last. */
enum schedule_due schedule_due(const struct schedule_plan *p, int64_t last_s, int64_t now_s);

/* ---- names ---- */

/* "auto-2026-11-20T10:00Z"; again > 1 adds "-2", … when that is taken. */
void schedule_name(int64_t now_s, unsigned again, char buf[SCHEDULE_NAME_MAX]);
/* Could schedule_name() have made it? */
bool schedule_is_name(const char *name);

/* ---- what stays ---- */

/* times_s: when each automatic snapshot was taken, in any order. ret_keep: one per snapshot. The
 * newest stays, and so does what the clock says is still to come. */
void schedule_keep(const struct schedule_plan *p, int64_t now_s, const int64_t *times_s, size_t n,
	bool *ret_keep);

#endif
