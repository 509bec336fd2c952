/* event_log: keeps the last events with their sequence numbers, in memory and on disk, so that a client that was
 * disconnected can read the events it missed. So that no number is assigned twice, the log continues with the next
 * number after a kill of the daemon, and skips numbers after a boot of the host, which may follow a power cut.
 *
 * events.jsonl has one event per line, as clients get it. A line {"boot":…,"seq":…} names the host's boot for the lines
 * behind it, and the last number before them. A full file is renamed to events.old.jsonl. The log writes a line before
 * clients see the event, but does not sync it: lines survive the daemon's end, not a crash of the host. Only the first
 * boot line after a boot is synced, so that no two boots skip the same numbers.
 *
 * When the log is full and a VM, or all undefined VMs together, have more than a quarter of the events, some of the
 * oldest of these are dropped, so that nobody can push out events of other VMs. Then the events in memory, and not the
 * full file, become events.old.jsonl.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_STORE_EVENT_LOG_H
#define CAIRN_API_STORE_EVENT_LOG_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct event_log;
struct json_object;

#define EVENT_LOG_MAX 10000

/* The object of an event. Borrowed. */
struct event_log_subject {
	const char *event; /* its name */
	const char *vm;    /* name of the VM when the event happened; NULL: none */
	const char *uuid;  /* the VM's, as text; NULL: none, or an older daemon wrote the event */
};

/* Open the log and load its events. dir: the state folder. Returns 0; -errno. */
int event_log_open(const char *dir, struct event_log **ret_l, struct err *e);
/* Close the log and free it. NULL allowed. */
void event_log_close(struct event_log *l);
/* Give the event its number (member "seq") and append it. Borrows o. Logs the first of consecutive write errors. */
void event_log_add(struct event_log *l, struct json_object *o);

/* Call look() for each event whose line contains `text`, newest first, until look() returns false. look() must not add
 * events. */
void event_log_backwards(struct event_log *l, const char *text,
	bool (*look)(void *opaque, struct json_object *ev), void *opaque);

/* Return one page of the events numbered above `since` for which wanted() returns true: {events, next (the `since` of
 * the next page), last (the newest number), lost (some events above `since` are no longer kept), more (another page
 * follows)}. A page may be empty although another one follows, because it looks at a limited number of events.
 * The caller owns the page. Its events are values that are printed already (js_text()). */
struct json_object *event_log_page(struct event_log *l, uint64_t since,
	bool (*wanted)(void *opaque, const struct event_log_subject *s), void *opaque);

#endif
