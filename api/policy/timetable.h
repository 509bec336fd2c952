/* timetable: the schedules of a VM, each an action and the calendar of its runs, with the history of runs. Pure
 * functions and JSON; timetables.h does the runs.
 *
 * A run is missed if it cannot begin within TIMETABLE_GRACE_S: no daemon ran, the host slept, or the run before it had
 * not ended. A schedule sets what the daemon does about such runs.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_TIMETABLE_H
#define CAIRN_API_POLICY_TIMETABLE_H

#include "api/policy/calendar.h"

#include <stddef.h>
#include <sys/types.h>

struct client_file;
struct err;
struct json_object;
struct rights;
struct time_zone;

#define TIMETABLE_FILE "timetable.json"
#define TIMETABLE_MAX 32 /* schedules of a VM */
#define TIMETABLE_USER_MAX 256 /* schedules of a user, of all VMs */
#define TIMETABLE_NAME_MAX 63
#define TIMETABLE_FOLDER_MAX 1023
#define TIMETABLE_HISTORY_MAX 64 /* runs that a VM's history keeps */
#define TIMETABLE_GRACE_S 60
#define TIMETABLE_ALL_MAX 10 /* missed runs that "all" does */

/* In the order of the schema's words for FIELD_SCHEDULE_ACTION. */
enum timetable_action {
	TIMETABLE_START,
	TIMETABLE_SHUTDOWN,
	TIMETABLE_REBOOT,
	TIMETABLE_SUSPEND,
	TIMETABLE_RESUME,
	TIMETABLE_SAVE,
	TIMETABLE_SNAPSHOT,
	TIMETABLE_EXPORT,
	TIMETABLE_ACTION_COUNT,
};

/* Treatment of missed runs; in the order of the schema's words for FIELD_SCHEDULE_MISSED. */
enum timetable_missed {
	TIMETABLE_SKIP, /* nothing */
	TIMETABLE_ONCE, /* one run for all of them */
	TIMETABLE_ALL,	/* each of the last TIMETABLE_ALL_MAX runs, one after the other */
};

/* Stages of an export. A VM that is not off is exported from a snapshot of its disks. */
enum timetable_stage {
	TIMETABLE_TAKE_SNAPSHOT,
	TIMETABLE_WRITE_ARCHIVE,
	TIMETABLE_DROP_SNAPSHOT,
};

struct timetable_entry {
	char name[TIMETABLE_NAME_MAX + 1];
	enum timetable_action action;
	enum timetable_missed missed;
	bool paused;
	bool no_zone; /* its time zone could not be loaded, so it does not run; not stored */
	char on[CALENDAR_TEXT_MAX + 1];
	struct calendar calendar;
	char zone[TIME_ZONE_NAME_MAX + 1]; /* "": the host's */
	char *folder;		/* owned; for TIMETABLE_EXPORT: where the archives go; NULL: none */
	uid_t uid;		/* of the user who made it, with whose rights it runs */
	struct rights *maker;	/* owned; NULL: root or the daemon's own user */
	int64_t last_s;		/* the last time that is handled; at first, when the schedule was made */
	int64_t begun_s;	/* time of the run under way; 0: none */
	uint64_t begun_run;	/* the VM's number of starts when it began */
	bool begun_on;		/* the VM was on when it began */
	/* Not stored. */
	const struct time_zone *z; /* borrowed; NULL: UTC */
	int64_t next_s;		/* the next run; 0: none */
	bool stored_paused;	/* `paused` as stored last */
	unsigned pauses;	/* the number of pauses and resumes */
	bool adding;		/* it is not on stable storage yet */
	bool removing;		/* its removal is not on stable storage yet */
	bool working;		/* the run's command or job is under way */
	bool resumed;		/* an earlier daemon began the run */
	int64_t waits_s;	/* since when the run waits for a busy VM; 0: it does not */
	char job[64];		/* id of the run's job; "": none */
	enum timetable_stage stage; /* of TIMETABLE_EXPORT; else 0 */
	bool snapped;		/* the export has made a snapshot, which it has to delete */
	struct client_file *file; /* owned: the archive, open; NULL: none */
	char why[200];		/* why the export has failed, while its snapshot is deleted */
};

struct timetable_run {
	char schedule[TIMETABLE_NAME_MAX + 1];
	enum timetable_action action;
	int64_t due_s, run_s; /* when it was due, and when it ended */
	char outcome[12];     /* done, skipped, missed, refused, failed, delayed */
	char detail[200];
};

struct timetable {
	struct timetable_entry *entries[TIMETABLE_MAX]; /* owned; in the order of their creation */
	size_t n;
	struct timetable_run history[TIMETABLE_HISTORY_MAX]; /* oldest first */
	size_t nhistory;
};

const char *timetable_action_name(enum timetable_action a);
/* Whether the name is 1 to TIMETABLE_NAME_MAX letters, digits, '.', '_' or '-' and begins with a letter or a digit. */
bool timetable_name_is_good(const char *name);

void timetable_entry_free(struct timetable_entry *t);
void timetable_free(struct timetable *t); /* NULL allowed */
/* Return the index of the schedule; -1: none. t: NULL: no schedules. */
int timetable_find(const struct timetable *t, const char *name);
/* Remove and free an entry. */
void timetable_drop(struct timetable *t, size_t i);

struct timetable_due {
	int64_t run_s;	  /* do this run; 0: none */
	int64_t missed_s; /* the last run that is missed and not made up for; 0: none */
};

/* Find the runs that are due at now_s. The caller sets last_s to the results as it handles them, and asks again after
 * the run. */
struct timetable_due timetable_due(const struct timetable_entry *t, int64_t now_s);
/* Return the time of the first run after the handled ones; 0: none. */
int64_t timetable_next(const struct timetable_entry *t);

/* Add a run to the history; the oldest one falls out. */
void timetable_note(struct timetable *t, const struct timetable_run *run);
/* Return the last run of a schedule; NULL: none. */
const struct timetable_run *timetable_last_run(const struct timetable *t, const char *schedule);

/* Return the content of TIMETABLE_FILE, without the schedules that are being removed. The caller owns it. */
struct json_object *timetable_to_json(const struct timetable *t);
/* Parse the content of TIMETABLE_FILE. A schedule that is malformed is left out.
 * *ret: owned; NULL without schedules and history. ret_bad: the number of those left out. */
void timetable_from_json(struct json_object *o, struct timetable **ret, unsigned *ret_bad);
/* Return a run for clients and for the file. The caller owns it. */
struct json_object *timetable_run_to_json(const struct timetable_run *run);

#endif
