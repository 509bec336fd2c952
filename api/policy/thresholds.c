#include "api/policy/thresholds.h"
#include "api/access/fork_as.h"
#include "api/access/groups.h"
#include "api/access/rights.h"
#include "api/schema/schema.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS CLOCK_NS_PER_S
#define EVENTS_BURST 10
#define EVENTS_WINDOW_NS (3600 * NS)
#define ACTION_NS (600 * NS)

struct threshold_watch {
	struct vm_host *host;
	call_run_as *run_as;
	void *context;
};

/* Of a VM with thresholds. */
struct vm_watch {
	struct thresholds *all; /* owned; NULL: none */
	uint64_t reported_ns;	/* of the last report of space; 0: none in this run */
};

static int64_t now_s(void)
{
	return (int64_t)(clock_realtime_ns() / NS);
}

static void thresholds_store(struct vm *vm)
{
	CLEANUP_JS struct json_object *o = thresholds_to_json(vm->watch->all);

	store_put(vm->host->store, vm->def->name, THRESHOLDS_FILE, o, STORE_EVENTUALLY, NULL, NULL);
}

/* ---- actions ---- */

static const char *const commands[] = { [THRESHOLD_SHUTDOWN] = "vm-shutdown", [THRESHOLD_REBOOT] = "vm-reboot",
	[THRESHOLD_SUSPEND] = "vm-suspend", [THRESHOLD_SAVE] = "vm-managed-save", [THRESHOLD_SNAPSHOT] = "snapshot-create" };

/* An action on its way: the VM and the threshold may be gone meanwhile. */
struct action {
	struct vm_host *host;
	uint8_t uuid[16];
	char name[THRESHOLD_NAME_MAX + 1];
	enum threshold_action then;
	uid_t uid;
};

static void action_answered(void *opaque, struct json_object *answer)
{
	struct action *a = opaque;
	const struct vm *vm = vm_find_uuid(a->host, a->uuid); /* NULL: it was undefined meanwhile */
	struct json_object *error = js_get(answer, "error");
	const char *delayed = js_get_str(js_get(answer, "return"), "delayed");

	if (vm && error)
		log_info("threshold", "VM '%s': threshold %s: %s was not done: %s", vm->def->name, a->name,
			field_type_word(FIELD_THRESHOLD_ACTION, (unsigned)a->then), js_get_str_or(error, "desc", ""));
	if (vm && delayed)
		log_info("threshold", "VM '%s': threshold %s: %s is delayed: %s", vm->def->name, a->name,
			field_type_word(FIELD_THRESHOLD_ACTION, (unsigned)a->then), delayed);
	free(a);
}

static void action_run(struct action *a, const struct peer *who)
{
	struct threshold_watch *w = a->host->threshold_watch;
	const struct vm *vm = w ? vm_find_uuid(a->host, a->uuid) : NULL;
	char by[THRESHOLD_NAME_MAX + 16], snapshot[THRESHOLD_NAME_MAX + 32];
	struct json_object *args;
	time_t now = (time_t)now_s();
	struct tm tm;
	size_t n;

	if (!vm) {
		free(a);
		return;
	}
	snprintf(by, sizeof(by), "threshold %s", a->name);
	args = json_object_new_object();
	js_put_str(args, "vm", vm->def->name);
	if (a->then == THRESHOLD_SNAPSHOT) {
		n = (size_t)snprintf(snapshot, sizeof(snapshot), "%s-", a->name);
		gmtime_r(&now, &tm);
		strftime(snapshot + n, sizeof(snapshot) - n, "%Y-%m-%dT%H:%M:%SZ", &tm);
		js_put_str(args, "name", snapshot);
	}
	w->run_as(w->context, who, by, commands[a->then], args, NULL, action_answered, a);
}

static void rights_found(void *opaque, const struct rights *now, const char *note)
{
	struct peer who = rights_peer(now);

	(void)note; /* the refusal names the user's missing role */
	action_run(opaque, &who);
}

static void action_begin(struct vm *vm, struct threshold *t)
{
	uint64_t now = clock_monotonic_ns();
	struct groups_ask *ask;
	struct action *a;

	if (t->then == THRESHOLD_NOTHING || !vm->host->threshold_watch)
		return;
	if (now < t->act_after_ns) {
		log_info("threshold", "VM '%s': threshold %s: no second action within ten minutes", vm->def->name, t->name);
		return;
	}
	t->act_after_ns = now + ACTION_NS;
	a = must_alloc(calloc(1, sizeof(*a)));
	*a = (struct action){ .host = vm->host, .then = t->then, .uid = t->uid };
	memcpy(a->uuid, vm->def->uuid, sizeof(a->uuid));
	snprintf(a->name, sizeof(a->name), "%s", t->name);
	if (t->maker)
		groups_ask(helpers_groups(vm->host->helpers), t->maker, rights_found, a, &ask);
	else
		action_run(a, &(struct peer){ .uid = t->uid, .gid = getegid() });
}

/* ---- figures ---- */

static void change_emit(struct vm *vm, struct threshold *t, bool off)
{
	struct json_object *data;
	char text[THRESHOLD_TEXT];
	uint64_t left_out;

	thresholds_store(vm);
	if (!ratelimit_take_of(&t->events, EVENTS_BURST, EVENTS_WINDOW_NS, clock_monotonic_ns(), &left_out))
		return;
	data = json_object_new_object();
	js_put_str(data, "threshold", t->name);
	js_put_str(data, "measure", field_type_word(FIELD_MEASURE, t->measure));
	js_put_str(data, "state", t->raised_s ? "raised" : "cleared");
	if (!off)
		js_put_str(data, "value", threshold_text(t->measure, t->value, text));
	js_put_str(data, "above", threshold_text(t->measure, t->above, text));
	if (left_out)
		js_put_uint(data, "left-out", left_out);
	vm_emit(vm, EVENT_THRESHOLD, data);
}

static void threshold_apply(struct vm *vm, struct threshold *t, double value, double seconds)
{
	enum threshold_change change = threshold_update(t, value, seconds, now_s());

	if (change == THRESHOLD_SAME)
		return;
	change_emit(vm, t, false);
	if (change == THRESHOLD_RAISED)
		action_begin(vm, t);
}

/* Return the percentage that is taken of the fullest file system; NAN: unknown. */
static double space_taken(const struct vm *vm, const struct vm_spaces *s)
{
	double most = NAN;

	for (uint32_t i = 0; i < vm_live(vm)->ndisks; i++) {
		double total = (double)s->disks[i].total_bytes, free_bytes = (double)s->disks[i].free_bytes;
		double taken = total > 0 && free_bytes <= total ? 100 * (total - free_bytes) / total : NAN;

		if (!isnan(taken) && !(taken <= most))
			most = taken;
	}
	return most;
}

bool thresholds_want_space(const struct vm *vm)
{
	const struct vm_watch *w = vm->watch;

	for (size_t i = 0; w && w->all && i < w->all->n; i++)
		if (w->all->list[i]->measure == THRESHOLD_DISK_SPACE)
			return true;
	return false;
}

void thresholds_take_space(struct vm *vm, const struct vm_spaces *s)
{
	struct vm_watch *w = vm->watch;
	uint64_t now = clock_monotonic_ns();
	double seconds, taken;

	if (!thresholds_want_space(vm))
		return;
	seconds = w->reported_ns ? (double)(now - w->reported_ns) / (double)NS : 1;
	taken = space_taken(vm, s);
	w->reported_ns = now;
	for (size_t i = 0; w->all && i < w->all->n; i++)
		if (w->all->list[i]->measure == THRESHOLD_DISK_SPACE)
			threshold_apply(vm, w->all->list[i], taken, seconds);
}

void thresholds_update(struct vm *vm, const struct threshold_figures *f)
{
	struct vm_watch *w = vm->watch;

	if (!w || !w->all)
		return;
	for (size_t i = 0; i < w->all->n; i++)
		if (w->all->list[i]->measure != THRESHOLD_DISK_SPACE)
			threshold_apply(vm, w->all->list[i], f->values[w->all->list[i]->measure], f->seconds);
}

/* ---- changes by clients ---- */

/* A change that is being stored. */
struct change {
	struct store_work work;
	struct vm_host *host;
	uint8_t uuid[16];
	char name[THRESHOLD_NAME_MAX + 1];
	struct threshold *before; /* owned; NULL: there was none of this name */
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

/* Put a threshold in the place of the one of that name. t: taken; NULL: only remove that. Returns the one before. */
static struct threshold *list_put(struct vm *vm, const char *name, struct threshold *t)
{
	struct vm_watch *w = vm->watch;
	int i = w ? threshold_find(w->all, name) : -1;
	struct threshold *before = i < 0 ? NULL : w->all->list[i];

	if (!w)
		w = vm->watch = must_alloc(calloc(1, sizeof(*w)));
	if (!w->all)
		w->all = must_alloc(calloc(1, sizeof(*w->all)));
	if (i >= 0 && t) {
		w->all->list[i] = t;
	} else if (i >= 0) {
		w->all->n--;
		memmove(&w->all->list[i], &w->all->list[i + 1], (w->all->n - (size_t)i) * sizeof(struct threshold *));
	} else if (t) {
		w->all->list[w->all->n++] = t;
	}
	return before;
}

static void change_stored(struct store_work *work)
{
	struct change *c = container_of(work, struct change, work);
	struct vm *vm = c->host->threshold_watch ? vm_find_uuid(c->host, c->uuid) : NULL;

	if (vm && work->r < 0 && (!c->before || vm->watch->all->n < THRESHOLDS_MAX || threshold_find(vm->watch->all, c->name) >= 0)) {
		threshold_free(list_put(vm, c->name, STEAL_PTR(c->before)));
		thresholds_store(vm); /* a later write may have had the change */
	}
	c->done(c->opaque, work->r, &work->e);
	threshold_free(c->before);
	free(c);
}

/* A threshold is going to be replaced or removed: it is not raised any more. */
static void threshold_end(struct vm *vm, const char *name)
{
	const struct thresholds *all = thresholds_of(vm);
	int i = threshold_find(all, name);

	if (i < 0 || !all->list[i]->raised_s)
		return;
	all->list[i]->raised_s = 0;
	change_emit(vm, all->list[i], false);
}

/* Make a change, and store it. t: taken on success. */
static int change_begin(struct vm *vm, const char *name, struct threshold *t, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e)
{
	struct change *c = must_alloc(calloc(1, sizeof(*c)));
	CLEANUP_JS struct json_object *o = NULL;
	int r;

	*c = (struct change){ .work = { .done = change_stored, .loop = vm->host->loop }, .host = vm->host, .done = done, .opaque = opaque };
	memcpy(c->uuid, vm->def->uuid, sizeof(c->uuid));
	snprintf(c->name, sizeof(c->name), "%s", name);
	threshold_end(vm, name);
	c->before = list_put(vm, name, t);
	o = thresholds_to_json(vm->watch->all);
	r = store_put(vm->host->store, vm->def->name, THRESHOLDS_FILE, o, STORE_WITH_WORK, &c->work, e);
	if (r < 0) {
		list_put(vm, name, c->before);
		free(c);
	}
	return r;
}

int thresholds_set(struct vm *vm, struct threshold *t, void (*done)(void *opaque, int r, const struct err *e), void *opaque,
	struct err *e)
{
	if (vm->watch && vm->watch->all && vm->watch->all->n == THRESHOLDS_MAX && threshold_find(vm->watch->all, t->name) < 0)
		return err_set(e, -ENOSPC, ERR_QUOTA, "VM '%.200s' has %d thresholds, which is the most; remove one: cairn threshold-remove %s NAME",
			vm->def->name, THRESHOLDS_MAX, shell_word(vm->def->name).s);
	return change_begin(vm, t->name, t, done, opaque, e);
}

int thresholds_remove(struct vm *vm, const char *name, void (*done)(void *opaque, int r, const struct err *e), void *opaque,
	struct err *e)
{
	if (!vm->watch || threshold_find(vm->watch->all, name) < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.200s' has no threshold '%.63s'. Next: cairn threshold-list %s", vm->def->name,
			name, shell_word(vm->def->name).s);
	return change_begin(vm, name, NULL, done, opaque, e);
}

const struct thresholds *thresholds_of(const struct vm *vm)
{
	return vm->watch ? vm->watch->all : NULL;
}

struct json_object *thresholds_show(const struct vm *vm, const struct threshold *t)
{
	struct json_object *o = json_object_new_object();
	char text[THRESHOLD_TEXT];

	js_put_str(o, "vm", vm->def->name);
	js_put_str(o, "name", t->name);
	js_put_str(o, "measure", field_type_word(FIELD_MEASURE, t->measure));
	js_put_str(o, "above", threshold_text(t->measure, t->above, text));
	js_put_str(o, "below", threshold_text(t->measure, t->below, text));
	js_put_uint(o, "for", t->for_s * NS);
	if (t->then != THRESHOLD_NOTHING)
		js_put_str(o, "then", field_type_word(FIELD_THRESHOLD_ACTION, (unsigned)t->then));
	js_put_int(o, "uid", t->uid);
	if (!isnan(t->value))
		js_put_str(o, "value", threshold_text(t->measure, t->value, text));
	js_put_bool(o, "raised", t->raised_s != 0);
	if (t->raised_s)
		js_put_int(o, "since", t->raised_s * (int64_t)NS);
	return o;
}

/* ---- start and end ---- */

struct threshold_watch *thresholds_new(struct vm_host *host, call_run_as *run_as, void *context)
{
	struct threshold_watch *w = must_alloc(calloc(1, sizeof(*w)));

	*w = (struct threshold_watch){ host, run_as, context };
	for (size_t i = 0; i < host->nvms; i++) {
		struct vm *vm = host->vms[i];
		CLEANUP_JS struct json_object *o = store_load_file(host->store, vm->def->name, THRESHOLDS_FILE);
		struct thresholds *all;
		unsigned bad;

		if (!o)
			continue;
		thresholds_from_json(o, &all, &bad);
		if (bad)
			log_error("threshold", "VM '%s': %u of its thresholds are invalid and not used", vm->def->name, bad);
		if (all)
			vm->watch = must_alloc(calloc(1, sizeof(*vm->watch)));
		if (all)
			vm->watch->all = all;
	}
	return w;
}

void thresholds_free(struct threshold_watch *w)
{
	free(w);
}

static void thresholds_on_process_gone(struct vm *vm)
{
	struct vm_watch *w = vm->watch;

	if (!w)
		return;
	w->reported_ns = 0;
	for (size_t i = 0; w->all && i < w->all->n; i++) {
		struct threshold *t = w->all->list[i];

		t->held_s = 0;
		t->value = NAN;
		if (!t->raised_s)
			continue;
		t->raised_s = 0;
		change_emit(vm, t, true);
	}
}

static void thresholds_on_removed(struct vm *vm)
{
	if (vm->watch)
		thresholds_done(vm->watch->all);
	free(vm->watch);
	vm->watch = NULL;
}

static void thresholds_on_promoted(struct vm *clone, struct vm *other)
{
	SWAP(clone->watch, other->watch);
	thresholds_on_removed(other);
}

const struct vm_observer thresholds_observer = { .promoted = thresholds_on_promoted, .removed = thresholds_on_removed, .process_gone = thresholds_on_process_gone };
