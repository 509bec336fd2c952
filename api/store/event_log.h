/* event_log: the last events with their numbers, in memory and on disk, so that a client that
 * was away asks for what it missed. A number is given once: not again after a kill, nor after a
 * power cut (then some are left out).
 *
 * events.jsonl has one event a line, as clients get them; a line {"boot":…} names the boot that
 * wrote those behind it. When it is full it becomes events.old.jsonl. Lines are handed to the
 * kernel before clients see them, and not synced: they survive this process, not the host. */
#ifndef CAIRN_API_STORE_EVENT_LOG_H
#define CAIRN_API_STORE_EVENT_LOG_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct event_log;
struct json_object;

#define EVENT_LOG_MAX 10000

/* dir: the state folder. Returns 0; -errno with a sentence. */
int event_log_open(const char *dir, struct event_log **ret_l, struct err *e);
/* NULL allowed. */
void event_log_close(struct event_log *l);
/* Numbers it (member "seq") and keeps it. Borrows o. A disk that takes nothing is logged once. */
void event_log_add(struct event_log *l, struct json_object *o);

/* Those whose line has `text` in it, the newest first, until look() returns false. It adds none. */
void event_log_backwards(struct event_log *l, const char *text,
	bool (*look)(void *opaque, struct json_object *ev), void *opaque);

/* One page of those numbered above `since` that `wanted` lets through.
 * Returns {events, next (the `since` of the next page), last, lost: some are not kept any more,
 * more: another page is there}. The caller puts it. */
struct json_object *event_log_page(struct event_log *l, uint64_t since,
	bool (*wanted)(void *opaque, struct json_object *ev), void *opaque);

#endif
