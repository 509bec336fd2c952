#include "api/policy/scheduler.h"
#include "api/jobs/job.h"
#include "api/jobs/snapshot_job.h"
#include "api/jobs/snapshots.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/boot_id.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define DAY_S (24 * 3600)
/* Interval of retries while a VM is busy. */
#define RETRY_S 30
#define SPACE_TIMEOUT_NS (20 * 1000000000ULL)
/* A jump of the clock that is larger than this means that somebody set the clock; smaller ones are corrections. */
#define LEAP_S 600
#define LEAP_HOLD_S 3600
#define CLOCK_FILE "clock.json"

struct scheduler {
	struct vm_host *host;
	int fd;
	struct loop_watch *watch;
	int64_t offset_s;     /* CLOCK_REALTIME minus CLOCK_BOOTTIME */
	int64_t hold_until_s; /* CLOCK_BOOTTIME; delete nothing before this time; 0: none; stored in CLOCK_FILE */
};

static int64_t clock_s(clockid_t id)
{
	return (int64_t)(clock_ns(id) / CLOCK_NS_PER_S);
}

/* ---- the timer; the schedule as JSON ---- */

static void timer_set(struct scheduler *s, int64_t at_s)
{
	struct itimerspec when = {.it_value.tv_sec = at_s};

	/* CANCEL_ON_SET: also wake when the clock is set. */
	if (timerfd_settime(s->fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &when, NULL) < 0)
		log_error("schedule", "timer: %s", strerror(errno));
}

/* Let the timer fire soon: a run may have waited for the change that the caller reports. s: NULL allowed. */
static void scheduler_soon(struct scheduler *s)
{
	if (s)
		timer_set(s, 1);
}

static struct json_object *plan_to_json(const struct schedule_plan *p)
{
	struct json_object *o = json_object_new_object();
	char buf[SCHEDULE_TEXT_MAX];

	schedule_print_every(p, buf);
	js_put_str(o, "every", buf);
	schedule_print_keep(p, buf);
	js_put_str(o, "keep", buf);
	schedule_print_min_free(p, buf);
	js_put_str(o, "min-free", buf);
	return o;
}

static int plan_from_json(struct json_object *o, struct schedule_plan *p, struct err *e)
{
	const char *every = js_get_str(o, "every"), *keep = js_get_str(o, "keep"),
		   *min_free = js_get_str(o, "min-free");
	int r;

	*p = (struct schedule_plan){0};
	if (!every || !keep || !min_free)
		return err_set(e, -EINVAL, ERR_CORRUPT, "every, keep or min-free is missing");
	r = schedule_set_every(p, every, e);
	if (!r)
		r = schedule_set_keep(p, keep, e);
	return r ? r : schedule_set_min_free(p, min_free, e);
}

static struct json_object *schedule_past_to_json(const struct schedule_past *p)
{
	struct json_object *o = json_object_new_object();

	js_put_int(o, "last_s", p->last_s);
	js_put_int(o, "run_s", p->run_s);
	js_put_str(o, "outcome", p->outcome);
	js_put_str(o, "detail", p->detail);
	return o;
}

static void schedule_past_load(struct schedule_past *p, struct json_object *o)
{
	/* The next run fits into 64 bits, too. */
	p->last_s = MIN(js_get_time_s(o, "last_s"), INT64_MAX / NS - SCHEDULE_EVERY_MAX_S);
	p->run_s = js_get_time_s(o, "run_s");
	snprintf(p->outcome, sizeof(p->outcome), "%s", js_get_str_or(o, "outcome", ""));
	snprintf(p->detail, sizeof(p->detail), "%s", js_get_str_or(o, "detail", ""));
}

static int64_t next_run_s(const struct vm *vm)
{
	const struct schedule_plan *p = &vm->schedule->plan;

	return schedule_slot(p, vm->schedule_past->last_s) + p->every_s;
}

struct json_object *scheduler_to_json(const struct vm *vm)
{
	struct json_object *o = plan_to_json(&vm->schedule->plan);
	const struct schedule_past *p = vm->schedule_past;

	js_put_str(o, "vm", vm->def->name);
	js_put_int(o, "next-run", next_run_s(vm) * NS);
	if (!p->outcome[0])
		return o;
	js_put_int(o, "last-run", p->run_s * NS);
	js_put_str(o, "outcome", p->outcome);
	js_put_str(o, "detail", p->detail);
	return o;
}

/* ---- outcomes of runs ---- */

static void run_note(struct vm *vm, const char *outcome, const char *detail)
{
	struct schedule_past *p = vm->schedule_past;

	p->run_s = clock_s(CLOCK_REALTIME);
	snprintf(p->outcome, sizeof(p->outcome), "%s", outcome);
	snprintf(p->detail, sizeof(p->detail), "%s", detail);
	vm_save(vm);
}

/* Report that a run took no snapshot. reason: off, space, quota, failed. */
static void note_skipped(struct vm *vm, const char *reason, const char *detail)
{
	bool failed = !strcmp(reason, "failed"), lasts = !strcmp(reason, "off") || !strcmp(reason, "quota");
	struct json_object *data;

	/* A VM may be off, or a quota full, for months: emit the event once. */
	if (lasts && !strncmp(vm->schedule_past->detail, detail, sizeof(vm->schedule_past->detail) - 1)) {
		run_note(vm, "skipped", detail);
		return;
	}
	log_warn("schedule", "VM '%s': no automatic snapshot: %s", vm->def->name, detail);
	data = json_object_new_object();
	js_put_str(data, "reason", reason);
	js_put_str(data, "detail", detail);
	run_note(vm, failed ? "failed" : "skipped", detail);
	vm_emit(vm, EVENT_SNAPSHOT_SKIPPED, data);
}

static void run_end(struct vm *vm)
{
	vm->schedule_runs = false;
	if (vm->schedule)
		vm->schedule->working = false;
	scheduler_soon(vm->host->scheduler);
}

/* Whether the run that requested the present callback goes on. If its schedule was removed meanwhile, end the run; a
 * schedule that was set since then begins its own. */
static bool run_is_valid(struct vm *vm)
{
	if (vm->schedule && vm->schedule->working)
		return true;
	run_end(vm);
	return false;
}

/* ---- the clock ---- */

/* For the next daemon, to which the snapshots look as old. */
static void hold_store(struct scheduler *s)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	char boot_id[BOOT_ID_TEXT];
	struct err e;

	boot_id_read(boot_id);
	js_put_str(o, "boot_id", boot_id);
	js_put_int(o, "hold_until_s", s->hold_until_s);
	if (store_put(s->host->store, NULL, CLOCK_FILE, o, STORE_SOON, NULL, &e) < 0)
		log_error("schedule", "%s", e.msg);
}

static void schedule_hold(struct scheduler *s)
{
	s->hold_until_s = clock_s(CLOCK_BOOTTIME) + LEAP_HOLD_S;
	hold_store(s);
	log_warn("schedule",
		"the clock jumped forward; deleting no automatic snapshot for an hour");
}

/* After a boot of the host, the hour begins anew. */
static void hold_load(struct scheduler *s)
{
	CLEANUP_JS struct json_object *o = store_load_file(s->host->store, NULL, CLOCK_FILE);
	char boot_id[BOOT_ID_TEXT];

	boot_id_read(boot_id);
	if (o && strcmp(js_get_str_or(o, "boot_id", ""), boot_id) != 0)
		schedule_hold(s);
	else if (o)
		s->hold_until_s = MIN(js_get_int(o, "hold_until_s", 0), clock_s(CLOCK_BOOTTIME) + LEAP_HOLD_S);
}

static void hold_end(struct scheduler *s)
{
	struct err e;

	s->hold_until_s = 0;
	if (store_remove_file(s->host->store, NULL, CLOCK_FILE, STORE_EVENTUALLY, NULL, &e) < 0)
		log_error("schedule", "%s", e.msg);
}

/* Notice a clock that somebody has set, also before the timer reports it. Returns whether the clock is good enough for
 * the deletion of snapshots by their age. s: NULL: the daemon ends. */
static bool clock_is_steady(struct scheduler *s)
{
	int64_t now = clock_s(CLOCK_BOOTTIME), offset = clock_s(CLOCK_REALTIME) - now;

	if (!s)
		return false;
	if (offset - s->offset_s > LEAP_S)
		schedule_hold(s);
	s->offset_s = offset;
	if (s->hold_until_s && now >= s->hold_until_s)
		hold_end(s);
	return !s->hold_until_s;
}

/* ---- deleting snapshots that no rule keeps ---- */

static bool is_automatic(const struct vm_snapshot_info *i)
{
	return schedule_is_name(i->name) && snapshot_has_tag(i, SCHEDULE_TAG);
}

void scheduler_victims(const struct schedule_plan *p, const struct snapshots *s, bool with_next, bool *victims)
{
	int64_t *times = calloc(s->n + 1, sizeof(*times)), now_s = clock_s(CLOCK_REALTIME);
	bool *keep = calloc(s->n + 1, sizeof(*keep));
	size_t *at = calloc(s->n + 1, sizeof(*at)), n = 0;

	for (size_t i = 0; times && keep && at && i < s->n; i++) {
		if (!is_automatic(&s->list[i]))
			continue;
		times[n] = (int64_t)(s->list[i].realtime_ns / NS);
		at[n++] = i;
	}
	if (n && with_next)
		times[n] = now_s;
	if (n)
		schedule_keep(p, now_s, times, n + with_next, keep);
	for (size_t k = 0; k < n; k++) {
		const struct vm_snapshot_info *i = &s->list[at[k]];

		victims[at[k]] = !keep[k] && (with_next || !i->current) && !snapshot_has_tag(i, SNAPSHOT_TAG_KEEP);
	}
	free(times);
	free(keep);
	free(at);
}

static void victims_choose(void *opaque, const struct snapshots *s, bool *victims)
{
	struct vm *vm = opaque;

	if (!vm->schedule)
		return;
	scheduler_victims(&vm->schedule->plan, s, false, victims);
	/* Look at the clock afterwards: somebody may have set it just before the ages were computed. */
	if (!clock_is_steady(vm->host->scheduler))
		memset(victims, 0, s->n * sizeof(*victims));
}

static bool any_victim(struct vm *vm, const struct snapshots *s)
{
	bool *victims = calloc(s->n + 1, sizeof(*victims)), any = false;

	if (victims)
		victims_choose(vm, s, victims);
	for (size_t i = 0; victims && i < s->n; i++)
		any |= victims[i];
	free(victims);
	return any;
}

static void thin_done(struct job *j, void *opaque)
{
	struct vm *vm = opaque;

	if (j->failed && vm->schedule && vm->schedule->working)
		note_skipped(vm, "failed", j->e.msg);
	if (!j->failed)
		job_dismiss(j, NULL);
	run_end(vm);
}

/* Start a job that deletes the victims. The job chooses them again, since other clients could change the snapshots in
 * the meantime. */
static void thin_fetched(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct vm *vm = opaque;
	struct job *j = NULL;
	struct err why;

	if (!run_is_valid(vm))
		return;
	if (!r && any_victim(vm, s)) {
		r = snapshot_delete_where(vm, victims_choose, vm, &j, &why);
		e = &why;
	}
	if (j) {
		j->concluded = thin_done;
		j->concluded_opaque = vm;
		return;
	}
	if (r < 0)
		log_info("schedule", "VM '%s': old snapshots are not deleted now: %s",
			vm->def->name, e->msg);
	run_end(vm);
}

static void snapshots_thin(struct vm *vm)
{
	if (vm_state_is_active(vm->state) && clock_is_steady(vm->host->scheduler))
		snapshots_fetch(vm, thin_fetched, vm);
	else
		run_end(vm);
}

/* ---- taking a scheduled snapshot ---- */

static void snapshot_taken(struct job *j, void *opaque)
{
	struct vm *vm = opaque;

	if (!run_is_valid(vm)) {
		job_dismiss(j, NULL);
		return;
	}
	if (j->failed && j->e.cls == ERR_QUOTA) {
		note_skipped(vm, "quota", j->e.msg);
		snapshots_thin(vm);
		return;
	}
	if (j->failed) {
		note_skipped(vm, "failed", j->e.msg);
		run_end(vm);
		return;
	}
	run_note(vm, "taken", js_get_str(j->result, "name"));
	job_dismiss(j, NULL); /* the schedule stores the result itself */
	snapshots_thin(vm);
}

static void name_choose(const struct snapshots *s, char name[SCHEDULE_NAME_MAX])
{
	bool is_there = true;

	for (unsigned again = 1; is_there; again++) {
		schedule_name(clock_s(CLOCK_REALTIME), again, name);
		is_there = false;
		for (size_t i = 0; i < s->n; i++)
			is_there |= !strcmp(s->list[i].name, name);
	}
}

static void list_fetched(void *opaque, int r, const struct snapshots *s, const struct err *e);

static void room_made(struct job *j, void *opaque)
{
	struct vm *vm = opaque;

	if (!run_is_valid(vm))
		return;
	if (j->failed) {
		note_skipped(vm, "failed", j->e.msg);
		run_end(vm);
		return;
	}
	job_dismiss(j, NULL);
	snapshots_fetch(vm, list_fetched, vm);
}

/* The quota of the VM's definer leaves no room: delete the snapshots that no rule keeps before the new one is made, not
 * after it. If there are none, this run takes no snapshot. */
static void room_make(struct vm *vm, const struct snapshots *s, const struct err *full)
{
	struct job *j = NULL;
	struct err e;

	if (any_victim(vm, s) && snapshot_delete_where(vm, victims_choose, vm, &j, &e) == 0) {
		j->concluded = room_made;
		j->concluded_opaque = vm;
		return;
	}
	note_skipped(vm, "quota", full->msg);
	run_end(vm);
}

static void list_fetched(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct vm_snapshot_create body = {.tags = SCHEDULE_TAG};
	struct vm *vm = opaque;
	struct job *j = NULL;
	struct err why;

	if (!run_is_valid(vm))
		return;
	if (!r) {
		name_choose(s, body.name);
		r = snapshot_create(vm, &body, NULL, &j, &why);
		e = &why;
	}
	if (j) {
		j->concluded = snapshot_taken;
		j->concluded_opaque = vm;
		return;
	}
	if (r == -EDQUOT) {
		room_make(vm, s, e);
		return;
	}
	if (r == -EBUSY) /* another operation came first: make the run due again, for a retry after that operation */
		vm->schedule_past->last_s -= vm->schedule->plan.every_s;
	else
		note_skipped(vm, "failed", e->msg);
	run_end(vm);
}

/* Check whether an image's file system is short of space. A file system without a report counts as having enough. */
static bool space_is_short(const struct vm *vm, const struct vm_spaces *s, char *detail, size_t size)
{
	const struct definition *d = vm_live(vm);

	for (uint32_t i = 0; i < d->ndisks; i++) {
		uint64_t available = s->disks[i].free_bytes, total = s->disks[i].total_bytes;

		if (!total || !schedule_space_is_short(&vm->schedule->plan, available, total))
			continue;
		snprintf(detail, size, "%llu MiB of %llu MiB are free where %.100s is",
			(unsigned long long)available >> 20, (unsigned long long)total >> 20,
			d->disks[i].layers[0].path);
		return true;
	}
	return false;
}

/* Handle the VM process's report of the free space. The daemon asks that process, because the process has the files
 * open, and a hanging file system must not block the daemon. */
static void space_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;
	char detail[200];

	if (!run_is_valid(vm))
		return;
	if (r < 0) {
		snprintf(detail, sizeof(detail), "cannot read the free space: %.150s",
			r < 0 && e ? e->msg : "invalid answer of the VM's process");
		note_skipped(vm, "failed", detail);
		run_end(vm);
	} else if (space_is_short(vm, a->spaces, detail, sizeof(detail))) {
		note_skipped(vm, "space", detail);
		snapshots_thin(vm);
	} else {
		/* Store that the interval is handled: if this run crashes the daemon, the next daemon does not repeat
		 * it. */
		vm_save(vm);
		snapshots_fetch(vm, list_fetched, vm);
	}
}

static void schedule_run(struct vm *vm)
{
	struct schedule *s = vm->schedule;
	char detail[200];

	s->waits = vm_check_claim(vm, VM_CLAIM_SNAPSHOTS, "take a snapshot", NULL) < 0;
	if (s->waits)
		return;
	vm->schedule_past->last_s = schedule_slot(&s->plan, clock_s(CLOCK_REALTIME));
	if (vm_state_check(vm->def->name, vm->state, VM_ASK_SNAPSHOT, NULL) < 0 ||
		!vm_state_is_active(vm->state)) {
		snprintf(detail, sizeof(detail), "the VM is %s", vm_state_name(vm->state));
		note_skipped(vm, "off", detail);
		return;
	}
	s->working = vm->schedule_runs = true;
	vm_process_request(vm->proc, VM_MSG_SPACE, NULL, 0, -1, SPACE_TIMEOUT_NS, space_done, vm);
}

static void vm_check(struct vm *vm, int64_t now)
{
	struct schedule *s = vm->schedule;

	if (!s || vm->schedule_runs)
		return;
	switch (schedule_due(&s->plan, vm->schedule_past->last_s, now)) {
	case SCHEDULE_NOT_YET:
		s->waits = false;
		break;
	case SCHEDULE_DUE:
		schedule_run(vm);
		break;
	case SCHEDULE_ANEW:
		log_warn("schedule", "VM '%s': the clock was set back; restarting its schedule",
			vm->def->name);
		vm->schedule_past->last_s = schedule_slot(&s->plan, now);
		vm_save(vm);
		break;
	}
}

/* ---- the timer ---- */

static void timer_arm(struct scheduler *s, int64_t now)
{
	struct vm_host *host = s->host;
	int64_t first = 0;

	for (size_t i = 0; i < host->nvms; i++) {
		const struct vm *vm = host->vms[i];
		int64_t at;

		if (!vm->schedule || vm->schedule_runs)
			continue;
		at = vm->schedule->waits ? now + RETRY_S : next_run_s(vm);
		if (at > 0 && (!first || at < first))
			first = at;
	}
	timer_set(s, first);
}

static void timer_ready(void *opaque, unsigned revents)
{
	struct scheduler *s = opaque;
	int64_t now = clock_s(CLOCK_REALTIME);
	uint64_t times;

	(void)revents;
	if (read(s->fd, &times, sizeof(times)) < 0 && errno == EAGAIN)
		return;
	clock_is_steady(s);
	for (size_t i = 0; i < s->host->nvms; i++)
		vm_check(s->host->vms[i], now);
	timer_arm(s, now);
}

/* ---- changes of a schedule ---- */

int scheduler_store_plan(struct vm *vm, const struct schedule_plan *plan, struct store_work *w, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct store *s = vm->host->store;

	if (plan) {
		o = plan_to_json(plan);
		return store_put(s, vm->def->name, SCHEDULE_FILE, o, STORE_WITH_WORK, w, e);
	}
	if (!vm->schedule)
		return err_set(e, -ENOENT, ERR_NOT_FOUND,
			"VM '%.200s' has no schedule. Next: cairn snapshot-schedule %s --every "
			"1h",
			vm->def->name, shell_word(vm->def->name).s);
	return store_remove_file(s, vm->def->name, SCHEDULE_FILE, STORE_WITH_WORK, w, e);
}

void scheduler_set(struct vm *vm, const struct schedule_plan *plan)
{
	bool begins = !vm->schedule || vm->schedule->plan.every_s != plan->every_s;

	if (!vm->schedule)
		vm->schedule = calloc(1, sizeof(*vm->schedule));
	if (!vm->schedule)
		abort(); /* otherwise the scheduled snapshots would stop silently */
	vm->schedule->plan = *plan;
	/* The first snapshot of a new schedule is due in the next interval. */
	if (begins) {
		*vm->schedule_past = (struct schedule_past){
			.last_s = schedule_slot(plan, clock_s(CLOCK_REALTIME))};
		vm_save(vm);
	}
	scheduler_soon(vm->host->scheduler);
}

void scheduler_remove(struct vm *vm)
{
	free(vm->schedule);
	vm->schedule = NULL;
	*vm->schedule_past = (struct schedule_past){0};
	vm_save(vm);
}

/* ---- start and end of the scheduler ---- */

static void plan_load(struct scheduler *s, struct vm *vm, int64_t now)
{
	CLEANUP_JS struct json_object *o =
		store_load_file(s->host->store, vm->def->name, SCHEDULE_FILE);
	struct schedule_past *past = vm->schedule_past;
	struct schedule_plan plan;
	struct err e;

	if (!o)
		return;
	if (plan_from_json(o, &plan, &e) < 0) {
		log_error("schedule", "VM '%s': its schedule.json is invalid and not used: %s; set the "
			"schedule again",
			vm->def->name, e.msg);
		return;
	}
	vm->schedule = calloc(1, sizeof(*vm->schedule));
	if (!vm->schedule)
		abort(); /* otherwise the scheduled snapshots would stop silently */
	vm->schedule->plan = plan;
	if (!past->last_s)
		past->last_s = schedule_slot(&plan, now);
	else if (now - past->last_s > plan.every_s + DAY_S && !s->hold_until_s)
		schedule_hold(s);
}

int scheduler_new(struct vm_host *host, struct scheduler **ret_s, struct err *e)
{
	struct scheduler *s = calloc(1, sizeof(*s));
	int64_t now = clock_s(CLOCK_REALTIME);
	int r;

	if (!s)
		return err_set_errno(e, -ENOMEM, "schedules");
	s->host = host;
	s->offset_s = now - clock_s(CLOCK_BOOTTIME);
	s->fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	r = s->fd < 0 ? -errno : loop_watch(host->loop, s->fd, POLLIN, timer_ready, s, &s->watch);
	if (r < 0) {
		scheduler_free(s);
		return err_set_errno(e, r, "schedules");
	}
	hold_load(s);
	for (size_t i = 0; i < host->nvms; i++)
		plan_load(s, host->vms[i], now);
	scheduler_soon(s);
	*ret_s = s;
	return 0;
}

void scheduler_free(struct scheduler *s)
{
	if (!s)
		return;
	loop_unwatch(s->watch);
	if (s->fd >= 0)
		close(s->fd);
	free(s);
}

/* ---- hooks of the observer ---- */

static void scheduler_state_put(const struct vm *vm, struct json_object *state)
{
	if (vm->schedule)
		js_put(state, "schedule", schedule_past_to_json(vm->schedule_past));
}

static void scheduler_state_load(struct vm *vm, struct json_object *state)
{
	schedule_past_load(vm->schedule_past, js_get(state, "schedule"));
}

static void scheduler_added(struct vm *vm)
{
	vm->schedule_past = must_alloc(calloc(1, sizeof(*vm->schedule_past)));
}

static void scheduler_removed(struct vm *vm)
{
	free(vm->schedule);
	free(vm->schedule_past);
}

static void scheduler_on_job_concluded(struct vm_host *host, const char *name)
{
	(void)name;
	scheduler_soon(host->scheduler);
}

static void scheduler_on_promoted(struct vm *clone, struct vm *other)
{
	SWAP(clone->schedule, other->schedule);
	SWAP(clone->schedule_past, other->schedule_past);
	if (other->schedule)
		scheduler_remove(other);
}

const struct vm_observer scheduler_observer = { .promoted = scheduler_on_promoted, .added = scheduler_added, .removed = scheduler_removed,
	.state_put = scheduler_state_put, .state_load = scheduler_state_load, .job_concluded = scheduler_on_job_concluded };
