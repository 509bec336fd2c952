/* timetables: performs the runs of VMs' schedules (timetable.h) with the rights that the schedule's maker has at that
 * time, as if the maker called the command. It wakes when a run is due, for retries while a VM is busy, when a job has
 * ended, and when the clock is set.
 *
 * A run is neither lost nor done twice if the daemon is killed. Before a run, the daemon writes a note to the VM's
 * TIMETABLE_FILE on stable storage; the outcome replaces the note. A daemon that finds the note repeats the run, unless
 * the VM's state, its number of starts, or the snapshot, whose name has the time of the run, shows that the run took
 * effect.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_TIMETABLES_H
#define CAIRN_API_POLICY_TIMETABLES_H

#include "api/policy/timetable.h"
#include "api/schema/call.h"

struct peer;
struct timetables;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer timetables_observer;

/* Read the timetables of the loaded VMs and arm the timer. context: borrowed. Returns 0 or -errno. */
int timetables_new(struct vm_host *host, call_run_as *run_as, void *context, struct timetables **ret_k, struct err *e);
/* Runs under way are not noted any more. NULL allowed. */
void timetables_free(struct timetables *k);

/* Add a schedule, remove it, or pause or resume it, and store that.
 * entry: taken on success; its zone gets loaded.
 * done: called once, from the loop, unless the function fails. Returns 0; -EEXIST; -ENOENT; -ENOSPC: there are too
 * many; -EINVAL: its zone is unknown, or it never runs; -ENAMETOOLONG: its archives' file names; -errno. */
int timetables_add(struct vm *vm, struct timetable_entry *entry, void (*done)(void *opaque, int r, const struct err *e), void *opaque,
	struct err *e);
int timetables_remove(struct vm *vm, const char *name, void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e);
int timetables_pause(struct vm *vm, const char *name, bool paused, void (*done)(void *opaque, int r, const struct err *e), void *opaque,
	struct err *e);
/* Check that the VM's schedules can run if it gets the name. Returns 0; -ENAMETOOLONG. */
int timetables_check_name(const struct vm *vm, const char *name, struct err *e);

/* Return a schedule for clients. The caller owns it. */
struct json_object *timetables_to_json(const struct vm *vm, const struct timetable_entry *t);

#endif
