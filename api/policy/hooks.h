/* hooks: runs the host admin's executables at events of VMs. The daemon starts cairn-hook (tools/hook) with the event,
 * at most HOOKS_RUNNING_MAX at a time, so hooks of different events may run at the same time and in another order. Up
 * to HOOKS_WAITING_MAX further events wait, and the VMs take turns, so that one with many events delays no others by
 * much. Beyond that, events of the VM with the most waiting events are dropped, and the log has their number.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_HOOKS_H
#define CAIRN_API_POLICY_HOOKS_H

#include <stdbool.h>

struct hooks;
struct json_object;
struct loop;
struct loop_watch;

/* Events that hook_ask.h asks about. */
#define HOOK_START "before-start"
#define HOOK_SHUTDOWN "before-shutdown"
#define HOOKS_RUNNING_MAX 4
#define HOOKS_WAITING_MAX 256

/* program: the path of cairn-hook; folder: the folder of hooks; both borrowed. */
struct hooks *hooks_new(struct loop *l, const char *program, const char *folder);
/* Log the executables and folders in the folder that never run, because no event has their name. */
void hooks_check(const struct hooks *h);
/* Processes that run continue; events that wait are dropped. NULL allowed. */
void hooks_free(struct hooks *h);
/* Return the hook's event for one of the daemon's events: started, stopped, crashed, snapshot, schedule, threshold or
 * disk-space; NULL: there are no hooks for it. event: as sent to clients; borrowed. */
const char *hooks_event_of(struct json_object *event);
/* Run the hooks of an event. Does nothing without a folder for them. event: borrowed. h: NULL allowed. */
void hooks_notify(struct hooks *h, struct json_object *event);

/* Return an owned fd of a file that has the object as a line of JSON, and that nobody can change. Returns -errno. */
int hooks_event_file(struct json_object *o);
/* Return whether an event has a folder of hooks. */
bool hooks_exist(const struct hooks *h, const char *name);
/* Start cairn-hook for an event, in addition to HOOKS_RUNNING_MAX. o: borrowed. out: its standard output; -1: none.
 * ended: called from the loop when it has ended; then the caller reaps it, closes the pidfd and frees the watch.
 * Returns 0 or -errno. */
int hooks_start(struct hooks *h, const char *name, struct json_object *o, int out, void (*ended)(void *opaque, unsigned revents),
	void *opaque, int *ret_pidfd, struct loop_watch **ret_watch);

#endif
