/* web_hooks: sends events to URLs that users name. The daemon starts cairn-webhook (tools/webhook) for each try, at
 * most WEB_HOOKS_RUNNING_MAX at a time, WEB_HOOKS_RUNNING_OF_USER of a user and one of a web hook. Users take turns.
 * An event that cannot be delivered is tried again. Meanwhile its web hook rests, the longer the more tries have
 * failed. An event whose delivery was under way when the daemon ended is tried again, too: its id tells receivers that
 * they have it already. Queues are stored, at most a second late. When they are full, the newest event of the user with
 * the most waiting ones is dropped.
 *
 * A try needs these rights of the web hook's maker at that time: the role viewer for the hook's VM, or admin for all
 * VMs and for addresses that are not public.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_WEB_HOOKS_H
#define CAIRN_API_POLICY_WEB_HOOKS_H

#include "api/policy/web_hook.h"

struct vm_host;
struct web_hooks;

#define WEB_HOOKS_FILE "webhooks.json"
#define WEB_HOOKS_QUEUE_FILE "webhook-queue.json"
#define WEB_HOOKS_MAX 128
#define WEB_HOOKS_OF_USER 16 /* of a user other than root and the daemon's own */
#define WEB_HOOKS_WAITING_MAX 1024 /* events of all queues together */
#define WEB_HOOKS_RUNNING_MAX 6
#define WEB_HOOKS_RUNNING_OF_USER 2
#define WEB_HOOKS_RUNNING_KEPT 2 /* for users who have none under way */
#define WEB_HOOKS_RATE 2   /* tries of a user a second */
#define WEB_HOOKS_BURST 60 /* tries of a user at once */

/* Read the web hooks, and continue their queues. */
struct web_hooks *web_hooks_new(struct vm_host *host);
/* Store the queues. NULL allowed. */
void web_hooks_free(struct web_hooks *h);

/* Put an event into the queues of the web hooks that want it. event: as sent to clients; borrowed. h: NULL allowed. */
void web_hooks_notify(struct web_hooks *h, struct json_object *event);

/* Return the first web hook of the list. */
const struct web_hook *web_hooks_first(const struct web_hooks *h);
/* Set the numbers of events in *ret: of all web hooks together, and of those that were removed since the daemon's
 * start. */
void web_hooks_sum(const struct web_hooks *h, struct web_hook *ret);
/* Find one. uuid: of its VM; NULL: it has none. */
struct web_hook *web_hooks_find(const struct web_hooks *h, const uint8_t *uuid, const char *name);

/* Add a web hook, or replace the one of this VM and name with its queue. This takes effect when it is on stable
 * storage. Until then, and if the write fails, the earlier web hook stays.
 * w: taken. done: called once, perhaps inside the call. */
void web_hooks_set(struct web_hooks *h, struct web_hook *w, void (*done)(void *opaque, int r, const struct err *e), void *opaque);
/* Remove a web hook with its queue, as web_hooks_set(). */
void web_hooks_remove(struct web_hooks *h, struct web_hook *w, void (*done)(void *opaque, int r, const struct err *e), void *opaque);
/* Send an event "test" once. done: called once, unless the daemon ends. */
void web_hooks_test(struct web_hooks *h, struct web_hook *w, void (*done)(void *opaque, bool delivered, const char *outcome), void *opaque);

#endif
