/* scheduler: takes the snapshots that schedules ask for, and deletes those that no rule keeps, as
 * jobs. Wakes when one is due, when a VM's job has ended, and when somebody sets the clock.
 *
 * An automatic snapshot has the tag "auto" and a name of the schedule's shape; nothing else is ever
 * deleted here, nor what has the tag "keep", nor the current one. A VM that is off is passed over:
 * its disks stand still. One that is busy is late: its run comes when it is free. After the clock
 * has leapt forward nothing is deleted for an hour, so that a clock that is put right again costs
 * no snapshot.
 *
 * The plan is schedule.json in the VM's folder; how far it is is part of state.json. */
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
	bool working; /* a run is under way */
	bool waits;   /* it is due, and the VM is busy */
};

/* What has become of it; kept while the VM is defined. */
struct schedule_past {
	int64_t last_s;   /* where the interval begins that was dealt with last; UTC */
	int64_t run_s;    /* when that was; 0: never */
	char outcome[12]; /* "taken", "skipped", "failed"; "": none yet */
	char detail[200]; /* the snapshot's name, or why not */
};

/* The VMs are there: reads their plans. Runs come from the loop. */
int scheduler_new(struct vm_host *host, struct scheduler **ret_s, struct err *e);
/* NULL allowed. The schedules are the VMs'. */
void scheduler_free(struct scheduler *s);

/* Keeps a plan (NULL: that there is none); when w is done, scheduler_set() or scheduler_remove() puts that in
 * force. Returns 0; -ENOENT: there is none to remove; -errno. Then w stays the caller's. */
int scheduler_keep(struct vm *vm, const struct schedule_plan *plan, struct store_work *w, struct err *e);
void scheduler_set(struct vm *vm, const struct schedule_plan *plan);
/* Which of these that plan would have deleted now, one for each. with_next: once another has been taken: the newest is
 * not the newest any more, and the current one not current. */
void scheduler_victims(const struct schedule_plan *p, const struct snapshots *s, bool with_next, bool *victims);
/* Its snapshots stay. */
void scheduler_remove(struct vm *vm);

/* What a client sees of a VM's schedule. The caller puts it. */
struct json_object *scheduler_to_json(const struct vm *vm);

#endif
