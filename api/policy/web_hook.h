/* web_hook: one web hook: the events that go to a URL, and those that wait for that. Pure functions and JSON;
 * web_hooks.h delivers them.
 *
 * A web hook belongs to a VM, and gets the events of that VM, or to no VM, and then gets those of all VMs and of pools.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_WEB_HOOK_H
#define CAIRN_API_POLICY_WEB_HOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct json_object;
struct rights;

#define WEB_HOOK_NAME_MAX 63
#define WEB_HOOK_URL_MAX 1000
#define WEB_HOOK_SECRET_MIN 24
#define WEB_HOOK_SECRET_MAX 256
#define WEB_HOOK_EVENTS 7
#define WEB_HOOK_LAST_MAX 300
#define WEB_HOOK_QUEUE_MAX 64 /* events that wait for one web hook */
#define WEB_HOOK_TRIES_MAX 10
#define WEB_HOOK_RETRY_MAX_S 3600 /* the longest time between two tries of an event */
#define WEB_HOOK_REST_MAX_S 300 /* the longest time without a try after others failed */

/* An event that waits. */
struct web_delivery {
	struct web_delivery *next;
	char id[40]; /* the same for all tries */
	char *body; /* owned */
	unsigned tries; /* that have failed */
	int64_t due_s; /* UTC: the next try */
	/* A test: tried once; done() gets the outcome. NULL: an event. Not stored. */
	void (*done)(void *opaque, bool delivered, const char *outcome);
	void *opaque;
};

struct web_hook {
	struct web_hook *next;
	uint64_t number; /* in the daemon's list; the newest web hook has the highest one */
	char name[WEB_HOOK_NAME_MAX + 1];
	bool of_vm;
	uint8_t uuid[16]; /* of the VM */
	char *url, *secret; /* owned */
	unsigned events; /* mask of indices of web_hook_word() */
	bool is_private; /* any address may be reached */
	uid_t uid; /* of the user who made it */
	struct rights *maker; /* owned; NULL: root or the daemon's own user */
	/* Stored in another file. */
	uint64_t delivered, failed, dropped; /* numbers of events */
	int64_t last_s; /* UTC: the last try; 0: none */
	char last[WEB_HOOK_LAST_MAX]; /* its outcome */
	struct web_delivery *first; /* owned; oldest first */
	size_t nwaiting;
	bool busy; /* a delivery is under way */
	unsigned fails; /* tries in a row that are to be repeated; not stored */
	int64_t rest_until_s; /* UTC: because of these, no event is tried before */
};

/* Return the i-th of the events that web hooks know. NULL: no more. */
const char *web_hook_word(unsigned i);
/* Return the index of an event; -1: unknown. */
int web_hook_index(const char *word);

/* Check the parts of a web hook of a client. Returns 0; -EINVAL. */
int web_hook_check_name(const char *name, struct err *e);
/* is_private: any address may be reached. Otherwise, the host must be neither localhost nor an address that is not
 * public. */
int web_hook_check_url(const char *url, bool is_private, struct err *e);
int web_hook_check_secret(const char *secret, struct err *e);
/* Return a new secret, owned by the caller. */
char *web_hook_secret_new(void);

/* NULL allowed. */
void web_hook_free(struct web_hook *w);

/* Add an event, or refuse it if WEB_HOOK_QUEUE_MAX wait already. type: a word, or "test". event: as sent to clients;
 * borrowed. Returns the delivery; NULL: it is dropped, and counted. */
struct web_delivery *web_hook_add(struct web_hook *w, const char *type, struct json_object *event, int64_t now_s);
/* Drop an event that waits, and count it. */
void web_hook_drop(struct web_hook *w, struct web_delivery *d);
/* Return the delivery that is due first, though perhaps not yet; NULL: there is none, or one is under way. */
struct web_delivery *web_hook_next(const struct web_hook *w);
/* Return when web_hook_next() may be tried, UTC. d: what that has returned. */
int64_t web_hook_due_s(const struct web_hook *w, const struct web_delivery *d);
/* End a try. Free the delivery unless it is to be tried again.
 * status: of cairn-webhook: 0: delivered; EX_TEMPFAIL: try again; others: failed. outcome: for people. */
void web_hook_tried(struct web_hook *w, struct web_delivery *d, int status, const char *outcome, int64_t now_s);

/* Return a web hook for the file of all of them, with its secret; owned by the caller. */
struct json_object *web_hook_to_json(const struct web_hook *w);
/* Parse that. Returns NULL if it is malformed. */
struct web_hook *web_hook_from_json(struct json_object *o);
/* Return counts and queue for the other file; owned by the caller. */
struct json_object *web_hook_progress_to_json(const struct web_hook *w);
/* Take counts and queue from that file. Malformed parts are left out. */
void web_hook_progress_from_json(struct web_hook *w, struct json_object *o);

#endif
