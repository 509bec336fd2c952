/* schedule: decides when a VM's automatic snapshots are due and which of them to keep. Pure functions: no clock, no
 * files; scheduler.h applies them.
 *
 * Time is UTC, divided into intervals of `every` seconds that start at a Monday's midnight. Each interval gets one
 * snapshot. A retention rule `WINDOW:PERIOD` keeps the first snapshot of each period (`all`: every snapshot) while it
 * is younger than the window. Snapshots that no rule keeps are deleted, except the newest of the past and those with a
 * time in the future. */
#ifndef CAIRN_API_POLICY_SCHEDULE_H
#define CAIRN_API_POLICY_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define SCHEDULE_RULES_MAX 8
#define SCHEDULE_EVERY_MIN_S 60
#define SCHEDULE_EVERY_MAX_S (366LL * 24 * 3600)
#define SCHEDULE_TEXT_MAX 160 /* size of `every`, `keep` or `min-free` as text, with the NUL */
#define SCHEDULE_NAME_MAX 32
#define SCHEDULE_TAG "auto"

enum schedule_period {
	SCHEDULE_ALL,
	SCHEDULE_HOURLY,
	SCHEDULE_DAILY,
	SCHEDULE_WEEKLY, /* weeks start on Monday */
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
	uint64_t min_free; /* bytes or percent of the file system that must stay free; 0: no limit */
	bool min_free_is_percent;
};

/* ---- parsing and printing; the setters return 0, or -EINVAL without changing *p ---- */

/* text: such as "15m", "1h", "1d", "2w" */
int schedule_set_every(struct schedule_plan *p, const char *text, struct err *e);
/* text: such as "24h:all,7d:daily,4w:weekly" */
int schedule_set_keep(struct schedule_plan *p, const char *text, struct err *e);
/* text: such as "10%", "5G", "0" */
int schedule_set_min_free(struct schedule_plan *p, const char *text, struct err *e);
void schedule_print_every(const struct schedule_plan *p, char buf[SCHEDULE_TEXT_MAX]);
void schedule_print_keep(const struct schedule_plan *p, char buf[SCHEDULE_TEXT_MAX]);
void schedule_print_min_free(const struct schedule_plan *p, char buf[SCHEDULE_TEXT_MAX]);

/* Return whether free_bytes of a file system of size_bytes is less than the plan's min_free. */
bool schedule_space_is_short(
	const struct schedule_plan *p, uint64_t free_bytes, uint64_t size_bytes);

/* ---- due times ---- */

/* Return the start of the interval that contains now_s. Seconds since 1970. */
int64_t schedule_slot(const struct schedule_plan *p, int64_t now_s);

enum schedule_due {
	SCHEDULE_NOT_YET,
	SCHEDULE_DUE,  /* due once, however many intervals were missed */
	SCHEDULE_ANEW, /* the clock went back by more than an interval: begin again with the present interval */
};

/* Decide whether a snapshot is due. last_s: start of the last handled interval, with or without a snapshot. */
enum schedule_due schedule_due(const struct schedule_plan *p, int64_t last_s, int64_t now_s);

/* ---- names ---- */

/* Print a snapshot's name: "auto-2026-11-20T10:00Z". again > 1 adds "-2", … for a name that is taken. */
void schedule_name(int64_t now_s, unsigned again, char buf[SCHEDULE_NAME_MAX]);
/* Return whether the name has the form of schedule_name(). */
bool schedule_is_name(const char *name);

/* ---- retention: which snapshots to keep ---- */

/* Decide which automatic snapshots to keep.
 * times_s:   creation time of each snapshot, in any order.
 * ret_keep:  one bool per snapshot. The newest one of the past is kept, and so are those with a time in the future. */
void schedule_keep(const struct schedule_plan *p, int64_t now_s, const int64_t *times_s, size_t n,
	bool *ret_keep);

#endif
