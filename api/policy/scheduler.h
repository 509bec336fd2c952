/* scheduler: takes scheduled snapshots and deletes those that no retention rule keeps, as jobs. The scheduler wakes
 * when a run is due, for retries while a VM is busy, when a VM's job has ended and when the clock is set.
 *
 * An automatic snapshot has the tag "auto" and a name of the schedule's form. The scheduler never deletes other
 * snapshots, those with the tag "keep", or the current one. It skips a VM that is off, since its disks do not change,
 * and a VM whose images' file system is short of space; it delays the run of a busy VM. After the clock jumped forward
 * the scheduler deletes nothing for an hour, so that a wrong clock which is corrected costs no snapshot.
 *
 * The plan is schedule.json in the VM's folder; state.json holds the progress.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_POLICY_SCHEDULER_H
#define CAIRN_API_POLICY_SCHEDULER_H

#include "api/policy/schedule.h"

struct err;
struct json_object;
struct scheduler;
struct snapshots;
struct store_work;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer scheduler_observer;

#define SCHEDULE_FILE "schedule.json"

struct schedule {
	struct schedule_plan plan;
	bool working; /* a run of this schedule is under way */
	bool waits;   /* a run is due but the VM is busy */
};

/* Progress of the schedule and outcome of the last run; cleared when the schedule is removed. */
struct schedule_past {
	int64_t last_s;   /* start of the last handled interval; UTC */
	int64_t run_s;    /* time of the last run; 0: never */
	char outcome[12]; /* "taken", "skipped", "failed"; "": none yet */
	char detail[200]; /* the snapshot's name, or the error */
};

/* Read the plans of the loaded VMs and arm the timer. Returns 0 or -errno. */
int scheduler_new(struct vm_host *host, struct scheduler **ret_s, struct err *e);
/* Free the scheduler; the VMs own their schedules. NULL allowed. */
void scheduler_free(struct scheduler *s);

/* Store a plan, or remove the stored plan (NULL). When w is done, the caller calls scheduler_set() or
 * scheduler_remove().
 * Returns 0; -ENOENT: no plan to remove; -errno. On errors the caller keeps w. */
int scheduler_store_plan(struct vm *vm, const struct schedule_plan *plan, struct store_work *w, struct err *e);
void scheduler_set(struct vm *vm, const struct schedule_plan *plan);
/* Compute for each snapshot whether the plan would delete it now. victims: one bool per snapshot, all false before.
 * with_next: compute this for the time after the next snapshot, when the present newest and current snapshots are
 * protected no longer. */
void scheduler_victims(const struct schedule_plan *p, const struct snapshots *s, bool with_next, bool *victims);
/* Remove a VM's schedule; its snapshots stay. */
void scheduler_remove(struct vm *vm);

/* Return a VM's schedule for clients; owned by the caller. */
struct json_object *scheduler_to_json(const struct vm *vm);

#endif
