#include "api/policy/web_hooks.h"
#include "api/access/fork_as.h"
#include "api/access/groups.h"
#include "api/access/rights.h"
#include "api/access/spawn.h"
#include "api/definition/definition.h"
#include "api/policy/hooks.h"
#include "api/store/change_queue.h"
#include "api/store/paths.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_host.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/token_bucket.h"
#include "base/utf8.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#define NS CLOCK_NS_PER_S
#define CHECK_S 60 /* the wall clock may be set, so look at the queues at least so often */
#define PROCESS_NS (30 * CLOCK_NS_PER_S) /* the longest time of a try; cairn-webhook needs half of it at most */

/* A try that is under way. */
struct web_try {
	struct web_hooks *of;
	struct web_hook *hook; /* NULL: it was removed, or this place is free */
	struct web_delivery *delivery;
	struct groups_ask *ask;
	int pidfd, out; /* owned; -1: none */
	struct loop_watch *watch;
	struct loop_timer *timer; /* kills the process; NULL: not used yet */
	uid_t uid;
	bool used;
};

/* A user who has web hooks. */
struct web_user {
	struct web_user *next;
	uid_t uid;
	struct token_bucket bucket;
	uint64_t turn; /* of web_hooks.turn, at the last try */
};

struct hook_change {
	struct queued_change change;
	struct web_hooks *of;
	bool of_vm; /* the web hook of this VM and name is replaced by `made`, or removed */
	uint8_t uuid[16];
	char name[WEB_HOOK_NAME_MAX + 1]; /* "": only store the list */
	struct web_hook *made; /* owned; NULL: none */
	void (*done)(void *opaque, int r, const struct err *e); /* NULL: nobody waits */
	void *opaque;
};

struct web_hooks {
	struct vm_host *host;
	struct web_hook *list; /* owned; newest first */
	uint64_t number; /* of the newest */
	struct web_hook removed; /* numbers of events of those that were removed, so that sums do not decrease */
	struct change_queue changes;
	struct web_user *users; /* owned */
	uint64_t turn; /* number of tries */
	struct web_try tries[WEB_HOOKS_RUNNING_MAX];
	struct loop_timer *timer;
	bool unsaved; /* the queues are not stored as they are */
	uint64_t saved_ns;
	bool resuming; /* queues_resume() is running */
};

static int64_t now_s(void)
{
	return (int64_t)(clock_realtime_ns() / NS);
}

/* ---- storing ---- */

static void queues_save(struct web_hooks *h)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *list = json_object_new_array();
	struct err e;

	for (const struct web_hook *w = h->list; w; w = w->next)
		json_object_array_add(list, web_hook_progress_to_json(w));
	js_put(o, "queues", list);
	h->unsaved = false;
	h->saved_ns = loop_now_ns();
	if (store_put(h->host->store, NULL, WEB_HOOKS_QUEUE_FILE, o, STORE_EVENTUALLY, NULL, &e) < 0)
		log_error("webhook", "%s", e.msg);
}

/* ---- users ---- */

static struct web_user *user_of(struct web_hooks *h, uid_t uid)
{
	struct web_user *u = h->users;

	while (u && u->uid != uid)
		u = u->next;
	if (u)
		return u;
	u = must_alloc(calloc(1, sizeof(*u)));
	u->uid = uid;
	u->next = h->users;
	token_bucket_set(&u->bucket, WEB_HOOKS_RATE, WEB_HOOKS_BURST, loop_now_ns());
	h->users = u;
	return u;
}

static unsigned running_of(const struct web_hooks *h, uid_t uid)
{
	unsigned n = 0;

	for (size_t i = 0; i < WEB_HOOKS_RUNNING_MAX; i++)
		n += h->tries[i].used && h->tries[i].uid == uid;
	return n;
}

/* ---- one try ---- */

static void queues_resume(struct web_hooks *h);

static void try_close(struct web_try *t)
{
	groups_ask_free(t->ask);
	if (t->watch)
		loop_unwatch(t->watch);
	if (t->timer)
		loop_timer_disarm(t->timer);
	if (t->pidfd >= 0)
		close(t->pidfd);
	if (t->out >= 0)
		close(t->out);
	*t = (struct web_try){ .of = t->of, .timer = t->timer, .pidfd = -1, .out = -1 };
}

/* status: as for web_hook_tried(). */
static void try_end(struct web_try *t, int status, const char *outcome)
{
	struct web_hooks *h = t->of;
	struct web_hook *w = t->hook;
	struct web_delivery *d = t->delivery;
	uint64_t failed = w ? w->failed : 0;

	try_close(t);
	if (w) {
		web_hook_tried(w, d, status, outcome, now_s());
		if (w->failed != failed)
			log_warn("webhook", "web hook %s: an event was not delivered: %s", w->name, outcome);
		h->unsaved = true;
	}
	queues_resume(h);
}

static void process_ended(void *opaque, unsigned revents)
{
	struct web_try *t = opaque;
	char text[WEB_HOOK_LAST_MAX];
	siginfo_t si = { 0 };
	ssize_t n;
	int status;

	(void)revents;
	if (waitid(P_PIDFD, (id_t)t->pidfd, &si, WEXITED | WNOHANG) < 0 || !si.si_pid)
		return;
	status = si.si_code == CLD_EXITED ? si.si_status : EX_TEMPFAIL;
	if (status == SPAWN_NO_PROGRAM)
		status = EX_TEMPFAIL;
	n = read(t->out, text, sizeof(text) - 1);
	text[MAX(n, 0)] = 0;
	text[strcspn(text, "\n")] = 0;
	utf8_clean(text);
	try_end(t, status, text[0] ? text : "cairn-webhook failed");
}

static void process_late(void *opaque)
{
	struct web_try *t = opaque;

	pidfd_send_signal(t->pidfd, SIGKILL, NULL, 0);
}

static int process_start(struct web_try *t, bool is_private)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	CLEANUP_CLOSE int input = -1;
	CLEANUP_CLOSE int theirs = -1;
	char *const argv[] = { (char *)"cairn-webhook", NULL };
	struct vm_host *host = t->of->host;
	int fds[2], r;

	js_put_str(o, "url", t->hook->url);
	js_put_str(o, "secret", t->hook->secret);
	js_put_str(o, "id", t->delivery->id);
	js_put_str(o, "body", t->delivery->body);
	js_put_bool(o, "private", is_private);
	input = hooks_event_file(o);
	if (input < 0 || pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return input < 0 ? input : -errno;
	t->out = fds[0];
	theirs = fds[1];
	r = t->timer ? 0 : loop_timer_new(host->loop, process_late, t, &t->timer);
	if (!r)
		r = spawn_watched(host->loop, &(struct spawn_spec){ .path = host->paths->webhook_program, .argv = argv,
			.fds = (const int[]){ input, theirs, -1 }, .nfds = 3, .variable = "SSL_CERT_FILE" }, process_ended, t, &t->pidfd, &t->watch);
	if (r < 0)
		return r;
	loop_timer_arm(t->timer, loop_now_ns() + PROCESS_NS);
	return 0;
}

/* Begin the try if the maker still has the roles that it needs. who: NULL: root or the daemon's own user. */
static void try_as(struct web_try *t, const struct peer *who)
{
	const struct web_hook *w = t->hook;
	const struct server *s = t->of->host->server;
	bool admin = !who || server_role(s, who, NULL) >= ROLE_ADMIN;
	int r;

	if (!admin && (!w->of_vm || server_role(s, who, w->uuid) < ROLE_VIEWER)) {
		try_end(t, 1, "the user who made the web hook has lost the role that it needs");
		return;
	}
	r = process_start(t, w->is_private && admin);
	if (r < 0)
		try_end(t, EX_TEMPFAIL, strerror(-r));
}

static void rights_found(void *opaque, const struct rights *now, const char *note)
{
	struct web_try *t = opaque;
	struct peer who = rights_peer(now);

	(void)note;
	t->ask = NULL;
	try_as(t, &who);
}

static void try_begin(struct web_try *t, struct web_hook *w, struct web_delivery *d)
{
	struct groups_ask *ask = NULL;

	t->used = true;
	t->hook = w;
	t->delivery = d;
	t->uid = w->uid;
	w->busy = true;
	if (!w->maker) {
		try_as(t, NULL);
		return;
	}
	groups_ask(helpers_groups(t->of->host->helpers), w->maker, rights_found, t, &ask);
	if (ask)
		t->ask = ask;
}

/* ---- the queues ---- */

static struct web_try *place_find(struct web_hooks *h)
{
	for (size_t i = 0; i < WEB_HOOKS_RUNNING_MAX; i++)
		if (!h->tries[i].used)
			return &h->tries[i];
	return NULL;
}

/* Whether the web hook's maker may have one more try under way. A user's web hooks whose last try failed have one
 * place together, since their servers may hang; the last places are for users who have none. */
static bool place_is_for(const struct web_hooks *h, const struct web_hook *w)
{
	unsigned free = 0, running = running_of(h, w->uid);

	for (size_t i = 0; i < WEB_HOOKS_RUNNING_MAX; i++)
		free += !h->tries[i].used;
	return !running || (running < WEB_HOOKS_RUNNING_OF_USER && !w->fails && free > WEB_HOOKS_RUNNING_KEPT);
}

/* Whether a comes before b: the makers take turns; of one maker's web hooks, the one whose event has waited longest. */
static bool is_before(struct web_hooks *h, const struct web_hook *a, const struct web_hook *b)
{
	uint64_t of_a = user_of(h, a->uid)->turn, of_b = user_of(h, b->uid)->turn;

	return of_a != of_b ? of_a < of_b : web_hook_next(a)->due_s < web_hook_next(b)->due_s;
}

/* Return the web hook whose next event is to be sent now; NULL: none. ret_wait_ns: lowered to the time until the queues
 * have to be checked again. */
static struct web_hook *hook_due(struct web_hooks *h, uint64_t *ret_wait_ns)
{
	struct web_hook *found = NULL;
	int64_t now = now_s();

	for (struct web_hook *w = h->list; w; w = w->next) {
		const struct web_delivery *d = web_hook_next(w);
		int64_t due = d ? web_hook_due_s(w, d) : 0;
		uint64_t wait;

		if (!d || !place_is_for(h, w))
			continue;
		/* An event that is due later than any retry would be: the clock was set back. */
		if (due > now && due - now <= WEB_HOOK_RETRY_MAX_S && !d->done) {
			*ret_wait_ns = MIN(*ret_wait_ns, (uint64_t)MIN(due - now, CHECK_S) * NS);
			continue;
		}
		wait = token_bucket_wait(&user_of(h, w->uid)->bucket, loop_now_ns());
		if (wait)
			*ret_wait_ns = MIN(*ret_wait_ns, wait);
		else if (!found || is_before(h, w, found))
			found = w;
	}
	return found;
}

static void queues_resume(struct web_hooks *h)
{
	uint64_t wait = UINT64_MAX, now = loop_now_ns();
	struct web_try *t;
	struct web_hook *w;

	if (h->resuming) /* a try ended at once: the loop below continues */
		return;
	h->resuming = true;
	while ((t = place_find(h)) && (w = hook_due(h, &wait))) {
		token_bucket_take(&user_of(h, w->uid)->bucket, 1);
		user_of(h, w->uid)->turn = ++h->turn;
		try_begin(t, w, web_hook_next(w));
	}
	h->resuming = false;
	if (h->unsaved && now - h->saved_ns >= NS)
		queues_save(h);
	if (h->unsaved)
		wait = MIN(wait, NS);
	if (wait != UINT64_MAX)
		loop_timer_arm(h->timer, now + wait);
}

static void timer_fire(void *opaque)
{
	queues_resume(opaque);
}

static size_t waiting_all(const struct web_hooks *h)
{
	size_t n = 0;

	for (const struct web_hook *w = h->list; w; w = w->next)
		n += w->nwaiting;
	return n;
}

static bool is_wanted(const struct web_hook *w, int index, const uint8_t *uuid)
{
	return w->events & 1u << index && (!w->of_vm || (uuid && !memcmp(w->uuid, uuid, sizeof(w->uuid))));
}

/* ---- changing the list ---- */

static void hook_link(struct web_hooks *h, struct web_hook *w)
{
	w->busy = false;
	w->number = ++h->number;
	w->next = h->list;
	h->list = w;
}

static void events_add(struct web_hook *sum, const struct web_hook *w)
{
	sum->delivered += w->delivered;
	sum->failed += w->failed;
	sum->dropped += w->dropped;
	sum->nwaiting += w->nwaiting;
}

/* Take a web hook out of the list, and end its try without an outcome. */
static void hook_unlink(struct web_hooks *h, struct web_hook *w)
{
	struct web_hook **at = &h->list;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	events_add(&h->removed, w);
	for (size_t i = 0; i < WEB_HOOKS_RUNNING_MAX; i++) {
		struct web_try *t = &h->tries[i];

		if (!t->used || t->hook != w)
			continue;
		t->hook = NULL;
		if (t->pidfd >= 0)
			pidfd_send_signal(t->pidfd, SIGKILL, NULL, 0);
		else
			try_close(t);
	}
}

static struct web_hook *hook_of(const struct web_hooks *h, const struct hook_change *c)
{
	return web_hooks_find(h, c->of_vm ? c->uuid : NULL, c->name);
}

static struct json_object *list_after(const struct web_hooks *h, const struct hook_change *c)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	const struct web_hook *before = hook_of(h, c);

	if (c->made)
		json_object_array_add(list, web_hook_to_json(c->made));
	for (const struct web_hook *w = h->list; w; w = w->next)
		if (w != before)
			json_object_array_add(list, web_hook_to_json(w));
	js_put(o, "hooks", list);
	return o;
}

static int room_check(const struct web_hooks *h, const struct web_hook *w, struct err *e)
{
	unsigned all = 0, own = 0;

	for (const struct web_hook *other = h->list; other; other = other->next) {
		all++;
		own += other->uid == w->uid;
	}
	if (own >= WEB_HOOKS_OF_USER && !uid_is_root_or_own(w->uid))
		return err_set(e, -ENOSPC, ERR_QUOTA, "you have %u web hooks, which is the most; remove one: cairn web-hook-remove NAME", own);
	if (all >= WEB_HOOKS_MAX)
		return err_set(e, -ENOSPC, ERR_QUOTA, "there are %u web hooks, which is the most; remove one: cairn web-hook-remove NAME", all);
	return 0;
}

static int change_make(struct queued_change *change, struct json_object **ret, struct err *e)
{
	const struct hook_change *c = container_of(change, struct hook_change, change);
	int r = c->made && !hook_of(c->of, c) ? room_check(c->of, c->made, e) : 0;

	if (!r)
		*ret = list_after(c->of, c);
	return r;
}

static void change_apply(struct queued_change *change);

static void change_release(struct queued_change *change)
{
	struct hook_change *c = container_of(change, struct hook_change, change);

	web_hook_free(c->made);
	free(c);
}

static void change_over(void *opaque, int r, const struct err *e)
{
	struct hook_change *c = opaque;

	if (c->done)
		c->done(c->opaque, r, e);
	else if (r < 0)
		log_error("webhook", "%s", e->msg);
	queues_resume(c->of);
}

/* of: the VM and name that are concerned, and `made` unless remove is set; NULL: only store the list. */
static void change_add(struct web_hooks *h, struct web_hook *of, bool remove, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque)
{
	static const struct queued_change_ops ops = { WEB_HOOKS_FILE, change_make, change_apply, change_release };
	struct hook_change *c = must_alloc(calloc(1, sizeof(*c)));

	*c = (struct hook_change){ .change = { .ops = &ops, .done = change_over, .opaque = c }, .of = h, .done = done, .opaque = opaque };
	if (of) {
		c->of_vm = of->of_vm;
		memcpy(c->uuid, of->uuid, sizeof(c->uuid));
		memcpy(c->name, of->name, sizeof(c->name));
		c->made = remove ? NULL : of;
	}
	change_queue_add(&h->changes, &c->change, h->host->loop, h->host->store);
}

static void vm_hooks_remove(struct web_hooks *h, const uint8_t *uuid)
{
	struct web_hook *w = h->list, *next;
	bool any = false;

	for (; w; w = next) {
		next = w->next;
		if (!w->of_vm || memcmp(w->uuid, uuid, sizeof(w->uuid)) != 0)
			continue;
		hook_unlink(h, w);
		web_hook_free(w);
		any = true;
	}
	if (!any)
		return;
	change_add(h, NULL, false, NULL, NULL);
	queues_save(h);
}

static void change_apply(struct queued_change *change)
{
	struct hook_change *c = container_of(change, struct hook_change, change);
	struct web_hook *before = hook_of(c->of, c), *made = STEAL_PTR(c->made);
	struct web_hooks *h = c->of;

	if (before)
		hook_unlink(h, before);
	web_hook_free(before);
	if (made)
		hook_link(h, made);
	if (made && made->of_vm && !vm_find_uuid(h->host, made->uuid)) /* it was undefined meanwhile */
		vm_hooks_remove(h, c->uuid);
	h->unsaved = true;
}

static size_t waiting_of(const struct web_hooks *h, uid_t uid)
{
	size_t n = 0;

	for (const struct web_hook *w = h->list; w; w = w->next)
		n += w->uid == uid ? w->nwaiting : 0;
	return n;
}

static bool is_under_way(const struct web_hooks *h, const struct web_delivery *d)
{
	for (size_t i = 0; i < WEB_HOOKS_RUNNING_MAX; i++)
		if (h->tries[i].used && h->tries[i].delivery == d)
			return true;
	return false;
}

/* Return the newest event of the queue that may be dropped; NULL: none. */
static struct web_delivery *newest_find(const struct web_hooks *h, const struct web_hook *w)
{
	struct web_delivery *found = NULL;

	for (struct web_delivery *d = w->first; d; d = d->next)
		if (!d->done && !is_under_way(h, d))
			found = d;
	return found;
}

/* Drop the newest event in the longest queue of the user with the most waiting events, unless w's user has as many. The
 * queues are full. Returns whether there is room now. */
static bool room_make(struct web_hooks *h, const struct web_hook *w)
{
	size_t most = waiting_of(h, w->uid);
	struct web_hook *longest = NULL;
	struct web_delivery *d;
	uid_t uid = w->uid;

	for (const struct web_hook *o = h->list; o; o = o->next) {
		size_t n = o->uid == uid ? 0 : waiting_of(h, o->uid);

		if (n > most) {
			most = n;
			uid = o->uid;
		}
	}
	for (struct web_hook *o = h->list; o; o = o->next)
		if (o->uid == uid && (!longest || o->nwaiting > longest->nwaiting))
			longest = o;
	d = uid == w->uid ? NULL : newest_find(h, longest);
	if (d)
		web_hook_drop(longest, d);
	return d;
}

/* Return whether the event tells that no VM has the UUID any more. It also comes when a VM gets another name; after a
 * promotion, another VM may have the UUID. */
static bool is_undefined(const struct web_hooks *h, struct json_object *event, const uint8_t *uuid)
{
	if (strcmp(js_get_str_or(event, "event", ""), "VM_UNDEFINED") != 0)
		return false;
	return !js_get(js_get(event, "data"), "renamed-to") || !vm_find_uuid(h->host, uuid);
}

void web_hooks_notify(struct web_hooks *h, struct json_object *event)
{
	const char *name, *text;
	bool has_uuid, any = false;
	uint8_t uuid[16];
	int index;

	if (!h || !h->list)
		return;
	name = hooks_event_of(event);
	index = web_hook_index(name);
	text = js_get_str(js_get(event, "data"), VM_UUID_KEY);
	has_uuid = text && uuid_parse(text, uuid) == 0;
	for (struct web_hook *w = h->list; w && index >= 0; w = w->next) {
		if (!is_wanted(w, index, has_uuid ? uuid : NULL))
			continue;
		if (w->nwaiting < WEB_HOOK_QUEUE_MAX && waiting_all(h) >= WEB_HOOKS_WAITING_MAX && !room_make(h, w))
			w->dropped++;
		else
			web_hook_add(w, name, event, now_s());
		any = true;
	}
	if (has_uuid && is_undefined(h, event, uuid))
		vm_hooks_remove(h, uuid);
	if (!any)
		return;
	h->unsaved = true;
	queues_resume(h);
}

const struct web_hook *web_hooks_first(const struct web_hooks *h)
{
	return h->list;
}

void web_hooks_sum(const struct web_hooks *h, struct web_hook *ret)
{
	*ret = (struct web_hook){ 0 };
	if (!h)
		return;
	events_add(ret, &h->removed);
	ret->nwaiting = 0; /* events of a web hook go with it */
	for (const struct web_hook *w = h->list; w; w = w->next)
		events_add(ret, w);
}

struct web_hook *web_hooks_find(const struct web_hooks *h, const uint8_t *uuid, const char *name)
{
	struct web_hook *w = h->list;

	while (w && (strcmp(w->name, name) != 0 || w->of_vm != (uuid != NULL) || (uuid && memcmp(w->uuid, uuid, sizeof(w->uuid)) != 0)))
		w = w->next;
	return w;
}

void web_hooks_set(struct web_hooks *h, struct web_hook *w, void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	change_add(h, w, false, done, opaque);
}

void web_hooks_remove(struct web_hooks *h, struct web_hook *w, void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	change_add(h, w, true, done, opaque);
}

void web_hooks_test(struct web_hooks *h, struct web_hook *w, void (*done)(void *opaque, bool delivered, const char *outcome), void *opaque)
{
	CLEANUP_JS struct json_object *event = json_object_new_object();
	struct json_object *data = json_object_new_object();
	const struct vm *vm = w->of_vm ? vm_find_uuid(h->host, w->uuid) : NULL;
	struct web_delivery *d;

	js_put_str(data, "hook", w->name);
	js_put_str(data, "vm", vm ? vm->def->name : NULL);
	js_put_str(event, "event", "WEB_HOOK_TEST");
	js_put(event, "data", data);
	d = web_hook_add(w, "test", event, 0);
	if (!d) {
		w->dropped--;
		done(opaque, false, "too many events wait for it");
		return;
	}
	d->done = done;
	d->opaque = opaque;
	queues_resume(h);
}

/* ---- start and end ---- */

static void hooks_load(struct web_hooks *h)
{
	CLEANUP_JS struct json_object *o = store_load_file(h->host->store, NULL, WEB_HOOKS_FILE);
	CLEANUP_JS struct json_object *progress = store_load_file(h->host->store, NULL, WEB_HOOKS_QUEUE_FILE);
	struct json_object *list = js_get_array(o, "hooks"), *queues = js_get_array(progress, "queues");
	struct web_hook *w;
	unsigned bad = 0, n = 0;
	bool unread = store_has_unread(h->host->store); /* such a VM may have web hooks */

	for (size_t i = list ? json_object_array_length(list) : 0; i-- > 0;) {
		w = n < WEB_HOOKS_MAX ? web_hook_from_json(json_object_array_get_idx(list, i)) : NULL;
		bad += !w;
		if (!w || (w->of_vm && !unread && !vm_find_uuid(h->host, w->uuid))) {
			web_hook_free(w);
			continue;
		}
		hook_link(h, w);
		n++;
	}
	if (bad)
		log_error("webhook", WEB_HOOKS_FILE ": %u of its web hooks are invalid and not used", bad);
	for (size_t i = 0; queues && i < json_object_array_length(queues); i++) {
		struct json_object *one = json_object_array_get_idx(queues, i);
		const char *text = js_get_str(one, "vm-uuid");
		uint8_t uuid[16];

		if (text && uuid_parse(text, uuid) < 0)
			continue;
		w = web_hooks_find(h, text ? uuid : NULL, js_get_str_or(one, "name", ""));
		if (w && !w->first)
			web_hook_progress_from_json(w, one);
	}
}

struct web_hooks *web_hooks_new(struct vm_host *host)
{
	struct web_hooks *h = must_alloc(calloc(1, sizeof(*h)));

	h->host = host;
	for (size_t i = 0; i < WEB_HOOKS_RUNNING_MAX; i++)
		h->tries[i] = (struct web_try){ .of = h, .pidfd = -1, .out = -1 };
	if (loop_timer_new(host->loop, timer_fire, h, &h->timer) < 0)
		abort();
	hooks_load(h);
	queues_resume(h);
	return h;
}

void web_hooks_free(struct web_hooks *h)
{
	struct web_user *u;
	struct web_hook *w;

	if (!h)
		return;
	if (h->unsaved)
		queues_save(h);
	for (size_t i = 0; i < WEB_HOOKS_RUNNING_MAX; i++) {
		try_close(&h->tries[i]);
		loop_timer_free(h->tries[i].timer);
	}
	change_queue_done(&h->changes);
	while ((w = h->list)) {
		h->list = w->next;
		for (struct web_delivery *d = w->first; d; d = d->next)
			d->done = NULL; /* nobody can be answered any more */
		web_hook_free(w);
	}
	while ((u = h->users)) {
		h->users = u->next;
		free(u);
	}
	loop_timer_free(h->timer);
	free(h);
}
