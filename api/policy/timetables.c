#include "api/policy/timetables.h"
#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "api/access/groups.h"
#include "api/access/rights.h"
#include "api/jobs/job.h"
#include "api/policy/export_file.h"
#include "api/policy/timetable_run.h"
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
#include "base/uuid.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define RETRY_S 30	  /* interval of retries while a VM is busy */
#define WAIT_MAX_S 3600	  /* so long a run waits for a busy VM */
/* A clock that was set back by more than this, or by more than a schedule's interval, begins the schedule anew. */
#define BACK_MAX_S (24 * 3600)
#define ZONE_FRESH_S (24 * 3600) /* then a zone's file is read again: tzdata may be newer */

/* A zone that schedules use. */
struct zone {
	struct zone *next;
	char name[TIME_ZONE_NAME_MAX + 1];
	struct time_zone *z; /* owned; NULL: UTC */
	int64_t loaded_s;
};

struct timetables {
	struct vm_host *host;
	call_run_as *run_as;
	void *context;
	int fd;
	struct loop_watch *watch;
	struct zone *zones;
};

static int64_t now_s(void)
{
	return (int64_t)clock_realtime_ns() / NS;
}

static void timer_set(struct timetables *k, int64_t at_s)
{
	struct itimerspec when = { .it_value.tv_sec = at_s };

	/* CANCEL_ON_SET: also wake when the clock is set. */
	if (timerfd_settime(k->fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &when, NULL) < 0)
		log_error("timetable", "timer: %s", strerror(errno));
}

/* Let the timer fire soon. k: NULL allowed. */
static void timetables_soon(struct timetables *k)
{
	if (k)
		timer_set(k, 1);
}

/* Arm the timer for the first run or retry. */
static void timetables_arm(struct timetables *k, int64_t now)
{
	int64_t first = 0;

	for (size_t i = 0; i < k->host->nvms; i++) {
		const struct timetable *t = k->host->vms[i]->timetable;

		for (size_t n = 0; t && n < t->n; n++) {
			const struct timetable_entry *one = t->entries[n];
			int64_t at = one->working || one->adding || one->removing ? 0 : one->begun_s ? now + RETRY_S : one->next_s;

			if (at && (!first || at < first))
				first = at;
		}
	}
	timer_set(k, first);
}

/* ---- zones ---- */

static const char *zone_of(const struct timetable_entry *t)
{
	return t->calendar.zone[0] ? t->calendar.zone : t->zone;
}

/* Set the zone of an entry. Returns as time_zone_load(). */
static int zone_set(struct timetables *k, struct timetable_entry *t, struct err *e)
{
	struct zone *z = k->zones;
	struct time_zone *loaded;
	int r;

	while (z && strcmp(z->name, zone_of(t)) != 0)
		z = z->next;
	if (!z) {
		r = time_zone_load(zone_of(t), &loaded, e);
		if (r < 0)
			return r;
		z = must_alloc(calloc(1, sizeof(*z)));
		*z = (struct zone){ .next = k->zones, .z = loaded, .loaded_s = now_s() };
		snprintf(z->name, sizeof(z->name), "%s", zone_of(t));
		k->zones = z;
	}
	t->z = z->z;
	return 0;
}

static void entry_check_ahead(struct timetable_entry *t)
{
	t->next_s = t->paused || t->no_zone ? 0 : timetable_next(t);
}

/* Read a zone's file again, and let the entries use that. */
static void zone_refresh(struct timetables *k, struct zone *z, int64_t now)
{
	struct time_zone *old = z->z, *fresh;
	struct err e;

	z->loaded_s = now;
	if (time_zone_load(z->name, &fresh, &e) < 0) {
		log_warn("timetable", "%s; schedules continue with the zone that was read before", e.msg);
		return;
	}
	z->z = fresh;
	for (size_t i = 0; i < k->host->nvms; i++) {
		struct timetable *t = k->host->vms[i]->timetable;

		for (size_t n = 0; t && n < t->n; n++)
			if (!strcmp(zone_of(t->entries[n]), z->name)) {
				t->entries[n]->z = fresh;
				entry_check_ahead(t->entries[n]);
			}
	}
	time_zone_free(old);
}

static void zones_refresh(struct timetables *k, int64_t now)
{
	for (struct zone *z = k->zones; z; z = z->next)
		if (now - z->loaded_s > ZONE_FRESH_S || now < z->loaded_s)
			zone_refresh(k, z, now);
}

/* ---- storing ---- */

/* A step of a schedule that continues later, when the VM and the schedule may be gone. */
struct step {
	struct store_work work;
	struct client_file *file; /* the archive that is being opened */
	struct vm_host *host;
	uint8_t uuid[16];
	char name[TIMETABLE_NAME_MAX + 1];
	int64_t begun_s;
	bool added, removed, paused; /* the change that a client has asked for */
	unsigned pause; /* its number */
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

static struct step *step_new(struct vm *vm, const struct timetable_entry *t)
{
	struct step *s = must_alloc(calloc(1, sizeof(*s)));

	s->host = vm->host;
	s->begun_s = t->begun_s;
	memcpy(s->uuid, vm->def->uuid, sizeof(s->uuid));
	snprintf(s->name, sizeof(s->name), "%s", t->name);
	return s;
}

/* Find the step's schedule. Returns NULL: it is gone, or not in the step's run. */
static struct timetable_entry *step_entry(const struct step *s, struct vm **ret_vm)
{
	struct vm *vm = s->host->timetables ? vm_find_uuid(s->host, s->uuid) : NULL;
	int i = vm ? timetable_find(vm->timetable, s->name) : -1;

	*ret_vm = vm;
	return i < 0 || vm->timetable->entries[i]->begun_s != s->begun_s ? NULL : vm->timetable->entries[i];
}

/* Write the VM's timetable. s: done with its function; NULL: nobody waits. Returns 0; -errno: the step stays the
 * caller's. */
static int timetable_store(struct vm *vm, struct step *s, void (*done)(struct store_work *w), struct err *e)
{
	CLEANUP_JS struct json_object *o = timetable_to_json(vm->timetable);

	if (!s)
		return store_put(vm->host->store, vm->def->name, TIMETABLE_FILE, o, STORE_EVENTUALLY, NULL, e);
	s->work.done = done;
	s->work.loop = vm->host->loop;
	return store_put(vm->host->store, vm->def->name, TIMETABLE_FILE, o, STORE_WITH_WORK, &s->work, e);
}

/* Write it without waiting. The log has a failure. */
static void timetable_store_soon(struct vm *vm)
{
	struct err e;

	if (timetable_store(vm, NULL, NULL, &e) < 0)
		log_error("timetable", "VM '%s': %s", vm->def->name, e.msg);
}

/* ---- outcomes ---- */

static void outcome_note(struct vm *vm, const struct timetable_entry *t, int64_t due_s, const char *outcome, const char *detail)
{
	struct timetable_run run = { .action = t->action, .due_s = due_s, .run_s = now_s() };
	struct json_object *data;

	snprintf(run.schedule, sizeof(run.schedule), "%s", t->name);
	snprintf(run.outcome, sizeof(run.outcome), "%s", outcome);
	snprintf(run.detail, sizeof(run.detail), "%s", detail);
	timetable_note(vm->timetable, &run);
	data = timetable_run_to_json(&run);
	json_object_object_del(data, "time");
	vm_emit(vm, EVENT_SCHEDULE_RUN, data);
	if (strcmp(outcome, "done") != 0)
		log_info("timetable", "VM '%s': schedule %s, %s: %s: %s", vm->def->name, t->name, timetable_action_name(t->action),
			outcome, detail);
}

static void run_end(struct vm *vm, struct timetable_entry *t, const char *outcome, const char *detail)
{
	outcome_note(vm, t, t->begun_s, outcome, detail);
	t->begun_s = 0;
	t->waits_s = 0;
	t->working = t->resumed = t->snapped = false;
	t->job[0] = t->why[0] = 0;
	t->stage = TIMETABLE_TAKE_SNAPSHOT;
	client_file_free(STEAL_PTR(t->file));
	entry_check_ahead(t);
	timetable_store_soon(vm);
	timetables_soon(vm->host->timetables);
}

/* ---- doing a run ---- */

static const char *outcome_of_class(const char *class_name)
{
	if (!strcmp(class_name, err_class_name(ERR_WRONG_STATE)))
		return "skipped";
	return !strcmp(class_name, err_class_name(ERR_PERMISSION)) ? "refused" : "failed";
}

static void run_try(struct vm *vm, struct timetable_entry *t);
static void archive_end(struct vm *vm, struct timetable_entry *t, const char *why);

/* The last stage of an export fails. */
static void snapshot_stays(struct vm *vm, struct timetable_entry *t, const char *why)
{
	char run[TIMETABLE_RUN_NAME_BYTES], text[600];

	timetable_run_name(t, run);
	snprintf(text, sizeof(text), "%s; snapshot %s stays: %.200s; delete it with cairn snapshot-delete", t->why[0] ? t->why : "the archive is complete",
		run, why);
	run_end(vm, t, "failed", text);
}

/* The VM is busy: try again soon, for WAIT_MAX_S at most in each stage. */
static void run_wait(struct vm *vm, struct timetable_entry *t, const char *why)
{
	int64_t now = now_s();

	if (!t->waits_s || t->waits_s > now)
		t->waits_s = now;
	t->working = now - t->waits_s >= WAIT_MAX_S;
	if (!t->working)
		timetables_arm(vm->host->timetables, now);
	else if (t->action == TIMETABLE_EXPORT && t->stage == TIMETABLE_WRITE_ARCHIVE)
		archive_end(vm, t, why);
	else if (t->action == TIMETABLE_EXPORT && t->stage == TIMETABLE_DROP_SNAPSHOT)
		snapshot_stays(vm, t, why);
	else
		run_end(vm, t, "failed", why);
}

/* Go on with the run after a command or its job. class_name, why: of its failure; NULL: none. */
static void run_step_end(struct vm *vm, struct timetable_entry *t, const char *class_name, const char *why)
{
	bool exists = why && t->resumed && !strcmp(class_name, err_class_name(ERR_EXISTS));

	t->job[0] = 0;
	t->waits_s = 0;
	if (t->action != TIMETABLE_EXPORT || (t->stage == TIMETABLE_TAKE_SNAPSHOT && why && !exists)) {
		run_end(vm, t, !why || exists ? "done" : outcome_of_class(class_name), !why || exists ? "" : why);
	} else if (t->stage == TIMETABLE_TAKE_SNAPSHOT) {
		t->snapped = true;
		t->stage = TIMETABLE_WRITE_ARCHIVE;
		run_try(vm, t);
	} else if (t->stage == TIMETABLE_WRITE_ARCHIVE) {
		archive_end(vm, t, why);
	} else if (why && t->snapped && strcmp(class_name, err_class_name(ERR_NOT_FOUND)) != 0) {
		snapshot_stays(vm, t, why);
	} else {
		run_end(vm, t, t->why[0] ? "failed" : "done", t->why);
	}
}

static void run_answered(void *opaque, struct json_object *answer)
{
	struct step *s = opaque;
	struct vm *vm;
	struct timetable_entry *t = step_entry(s, &vm);
	struct json_object *error = js_get(answer, "error");
	const char *job = js_get_str(js_get(answer, "return"), "job"), *class_name = js_get_str_or(error, "class", ""),
		   *why = js_get_str_or(error, "desc", "");

	free(s);
	if (!t)
		return;
	if (error && !strcmp(class_name, err_class_name(ERR_BUSY))) {
		run_wait(vm, t, why);
	} else if (error) {
		run_step_end(vm, t, class_name, why);
	} else if (job) {
		snprintf(t->job, sizeof(t->job), "%s", job);
		timetables_soon(vm->host->timetables); /* it may have concluded already */
	} else if (js_get_str(js_get(answer, "return"), "delayed")) { /* the plan continues without the schedule */
		run_end(vm, t, "delayed", js_get_str(js_get(answer, "return"), "delayed"));
	} else {
		run_step_end(vm, t, NULL, NULL);
	}
}

static void run_as(struct step *s, const struct peer *who)
{
	struct vm *vm;
	struct timetable_entry *t = step_entry(s, &vm);
	struct timetables *k = s->host->timetables;
	char by[TIMETABLE_NAME_MAX + 1];

	if (!t) {
		free(s);
		return;
	}
	snprintf(by, sizeof(by), "%s", t->name);
	k->run_as(k->context, who, by, timetable_command(vm, t), timetable_args(vm, t), STEAL_PTR(t->file), run_answered, s);
}

static void rights_found(void *opaque, const struct rights *now, const char *note)
{
	struct peer who = rights_peer(now);

	(void)note; /* the refusal names the user's missing role */
	run_as(opaque, &who);
}

/* ---- the archive of an export ---- */

#define ARCHIVE_NAME_BYTES (VM_NAME_MAX + TIMETABLE_RUN_NAME_BYTES + 16)
#define ARCHIVE_ID_BYTES (UUID_TEXT + TIMETABLE_RUN_NAME_BYTES)

/* What an archive's file name has besides the names of the VM and of the schedule: "-", the time, ".tar.zst". */
#define ARCHIVE_REST_BYTES (sizeof("--2026-11-20T02:30:00Z.tar.zst") - 1)

/* Check that a schedule's archives have file names if the VM has this name. */
static int archive_check(const char *vm, const struct timetable_entry *t, struct err *e)
{
	size_t most = NAME_MAX - ARCHIVE_REST_BYTES, n = strlen(vm) + strlen(t->name);

	if (t->action != TIMETABLE_EXPORT || n <= most)
		return 0;
	return err_set(e, -ENAMETOOLONG, ERR_INVALID, "the names of the VM and of its schedule %s have %zu bytes together, but may have %zu, because "
		"the file names of its archives have both", t->name, n, most);
}

int timetables_check_name(const struct vm *vm, const char *name, struct err *e)
{
	int r = 0;

	for (size_t i = 0; vm->timetable && i < vm->timetable->n && !r; i++)
		r = archive_check(name, vm->timetable->entries[i], e);
	return r;
}

/* id: the run of another VM may have the same name for its archive. */
static void archive_name(const struct vm *vm, const struct timetable_entry *t, char name[ARCHIVE_NAME_BYTES], char id[ARCHIVE_ID_BYTES])
{
	char run[TIMETABLE_RUN_NAME_BYTES], uuid[UUID_TEXT];

	timetable_run_name(t, run);
	uuid_print(vm->def->uuid, uuid);
	snprintf(name, ARCHIVE_NAME_BYTES, "%s-%s.tar.zst", vm->def->name, run);
	snprintf(id, ARCHIVE_ID_BYTES, "%s-%s", uuid, run);
}

/* The archive is complete, or the export has failed: delete the snapshot, if there is one. */
static void export_over(struct vm *vm, struct timetable_entry *t, const char *why)
{
	if (why)
		snprintf(t->why, sizeof(t->why), "%s", why);
	/* An earlier daemon may have made the snapshot of a VM that is off now. */
	if (t->snapped || t->resumed) {
		t->stage = TIMETABLE_DROP_SNAPSHOT;
		run_try(vm, t);
	} else {
		run_end(vm, t, t->why[0] ? "failed" : "done", t->why);
	}
}

static void archive_opened(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct step *s = opaque;
	struct vm *vm;
	struct timetable_entry *t = step_entry(s, &vm);

	(void)res;
	if (!t || r < 0)
		client_file_free(s->file);
	if (t && r == -EEXIST && t->resumed) {
		export_over(vm, t, NULL);
	} else if (t && r < 0) {
		export_over(vm, t, e->msg);
	} else if (t) {
		t->file = s->file;
		run_try(vm, t);
	}
	free(s);
}

static void archive_open(struct vm *vm, struct timetable_entry *t)
{
	struct step *s = step_new(vm, t);
	char name[ARCHIVE_NAME_BYTES], id[ARCHIVE_ID_BYTES];
	struct err e;

	archive_name(vm, t, name, id);
	if (export_file_open(vm->host->helpers, t->maker, t->folder, name, id, archive_opened, s, &s->file, &e) < 0) {
		free(s);
		export_over(vm, t, e.msg);
	}
}

static void archive_ended(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct step *s = opaque;
	struct vm *vm;
	struct timetable_entry *t = step_entry(s, &vm);

	(void)res;
	free(s);
	if (t)
		export_over(vm, t, r < 0 && !t->why[0] ? e->msg : NULL);
}

static void archive_end(struct vm *vm, struct timetable_entry *t, const char *why)
{
	struct step *s = step_new(vm, t);
	char name[ARCHIVE_NAME_BYTES], id[ARCHIVE_ID_BYTES];
	struct err e;

	if (why)
		snprintf(t->why, sizeof(t->why), "%s", why);
	archive_name(vm, t, name, id);
	if (export_file_end(vm->host->helpers, t->maker, t->folder, name, id, !why, archive_ended, s, &e) < 0) {
		free(s);
		export_over(vm, t, why ? NULL : e.msg);
	}
}

/* Do the run that has begun, or its next stage. */
static void run_try(struct vm *vm, struct timetable_entry *t)
{
	struct groups_ask *ask;
	struct step *s;

	/* Whether the guest of a start in which the earlier daemon ended has run, the VM's process has yet to tell. */
	if (t->resumed && vm->proc && !vm_state_is_active(vm->state)) {
		t->working = false;
		return;
	}
	if (t->resumed && timetable_effect_is_there(vm, t)) {
		run_end(vm, t, "done", "");
		return;
	}
	t->working = true;
	if (t->action == TIMETABLE_EXPORT && t->stage == TIMETABLE_TAKE_SNAPSHOT && !vm_state_is_active(vm->state))
		t->stage = TIMETABLE_WRITE_ARCHIVE;
	if (t->action == TIMETABLE_EXPORT && t->stage == TIMETABLE_WRITE_ARCHIVE && !t->file) {
		archive_open(vm, t);
		return;
	}
	s = step_new(vm, t);
	if (t->maker)
		groups_ask(helpers_groups(vm->host->helpers), t->maker, rights_found, s, &ask);
	else
		run_as(s, &(struct peer){ .uid = t->uid, .gid = getegid() });
}

static void begin_stored(struct store_work *w)
{
	struct step *s = container_of(w, struct step, work);
	struct vm *vm;
	struct timetable_entry *t = step_entry(s, &vm);

	if (t && w->r < 0)
		run_end(vm, t, "failed", w->e.msg);
	else if (t)
		run_try(vm, t);
	free(s);
}

static void run_begin(struct vm *vm, struct timetable_entry *t, int64_t due_s)
{
	struct step *s;
	struct err e;

	t->begun_s = t->last_s = due_s;
	t->begun_run = vm->run;
	t->begun_on = vm_state_is_active(vm->state);
	t->working = true;
	s = step_new(vm, t);
	if (timetable_store(vm, s, begin_stored, &e) < 0) {
		free(s);
		run_end(vm, t, "failed", e.msg);
	}
}

/* Look whether the run's job has ended. */
static void job_check(struct vm *vm, struct timetable_entry *t)
{
	struct job *j = job_find(vm->host, t->job);
	const char *class_name;
	char why[sizeof(j->e.msg)];

	if (j && j->status != JOB_CONCLUDED)
		return;
	if (!j) {
		run_step_end(vm, t, "", "its job was dismissed before the result was read");
	} else if (j->failed) {
		snprintf(why, sizeof(why), "%s", j->e.msg);
		class_name = err_class_name(j->e.cls);
		if (t->resumed && j->e.cls == ERR_EXISTS)
			job_dismiss(j, NULL);
		run_step_end(vm, t, class_name, why);
	} else {
		job_dismiss(j, NULL);
		run_step_end(vm, t, NULL, NULL);
	}
}

static void entry_check(struct vm *vm, struct timetable_entry *t, int64_t now)
{
	struct timetable_due due;

	if (t->job[0]) {
		job_check(vm, t);
		return;
	}
	if (t->working || t->adding || t->removing)
		return;
	if (t->begun_s) {
		run_try(vm, t);
		return;
	}
	if (t->last_s - now > (t->next_s ? MIN(BACK_MAX_S, t->next_s - t->last_s) : BACK_MAX_S)) {
		log_warn("timetable", "VM '%s': the clock was set back; schedule %s begins anew", vm->def->name, t->name);
		t->last_s = now;
		entry_check_ahead(t);
	}
	if (t->paused || !t->next_s || t->next_s > now)
		return;
	due = timetable_due(t, now);
	if (due.missed_s) {
		t->last_s = MAX(t->last_s, due.missed_s);
		outcome_note(vm, t, due.missed_s, "missed", "the daemon did not run, the host slept, or the run before had not ended");
		timetable_store_soon(vm);
	}
	if (due.run_s)
		run_begin(vm, t, due.run_s);
	entry_check_ahead(t);
}

/* ---- the timer ---- */

static void timer_ready(void *opaque, unsigned revents)
{
	struct timetables *k = opaque;
	int64_t now = now_s();
	uint64_t times;

	(void)revents;
	if (read(k->fd, &times, sizeof(times)) < 0 && errno == EAGAIN)
		return;
	zones_refresh(k, now);
	/* A run may end at once, and arm the timer again; a run adds and removes no VM before the loop's next turn. */
	timetables_arm(k, now);
	for (size_t i = 0; i < k->host->nvms; i++) {
		struct vm *vm = k->host->vms[i];

		for (size_t n = 0; vm->timetable && n < vm->timetable->n; n++)
			entry_check(vm, vm->timetable->entries[n], now);
	}
	timetables_arm(k, now);
}

/* ---- changes by clients ---- */

static void pause_set(struct timetable_entry *t, bool paused)
{
	t->paused = paused;
	entry_check_ahead(t);
}

static void change_stored(struct store_work *w)
{
	struct step *s = container_of(w, struct step, work);
	struct vm *vm = s->host->timetables ? vm_find_uuid(s->host, s->uuid) : NULL;
	int i = vm ? timetable_find(vm->timetable, s->name) : -1;
	struct timetable_entry *t = i < 0 ? NULL : vm->timetable->entries[i];

	if (t && (s->added || s->removed)) {
		t->adding = t->removing = false;
		if (s->added ? w->r < 0 : w->r == 0)
			timetable_drop(vm->timetable, (size_t)i);
	} else if (t) {
		if (w->r == 0)
			t->stored_paused = s->paused;
		if (s->pause == t->pauses) /* a later one may be under way */
			pause_set(t, t->stored_paused);
	}
	if (vm && w->r < 0)
		timetable_store_soon(vm); /* a later write may have had the change */
	timetables_soon(s->host->timetables);
	s->done(s->opaque, w->r, &w->e);
	free(s);
}

/* Write a client's change. done: called when it is stored. Returns 0; -errno: the step is freed. */
static int change_store(struct vm *vm, struct step *s, void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e)
{
	int r;

	s->done = done;
	s->opaque = opaque;
	r = timetable_store(vm, s, change_stored, e);
	if (r < 0)
		free(s);
	return r;
}

static unsigned schedules_of(const struct vm_host *host, uid_t uid)
{
	unsigned n = 0;

	for (size_t i = 0; i < host->nvms; i++)
		for (size_t k = 0; host->vms[i]->timetable && k < host->vms[i]->timetable->n; k++)
			n += host->vms[i]->timetable->entries[k]->uid == uid;
	return n;
}

static int add_check(struct vm *vm, struct timetable_entry *t, struct err *e)
{
	if (timetable_find(vm->timetable, t->name) >= 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "VM '%.200s' has a schedule '%s'; give another --name, or remove that one first: cairn "
			"schedule-remove %s %s", vm->def->name, t->name, shell_word(vm->def->name).s, t->name);
	if (vm->timetable && vm->timetable->n == TIMETABLE_MAX)
		return err_set(e, -ENOSPC, ERR_QUOTA, "VM '%.200s' has %d schedules, which is the most; remove one: cairn schedule-remove %s NAME",
			vm->def->name, TIMETABLE_MAX, shell_word(vm->def->name).s);
	if (!uid_is_root_or_own(t->uid) && schedules_of(vm->host, t->uid) >= TIMETABLE_USER_MAX)
		return err_set(e, -ENOSPC, ERR_QUOTA, "user %u has %d schedules, which is the most; remove one", t->uid, TIMETABLE_USER_MAX);
	return archive_check(vm->def->name, t, e);
}

int timetables_add(struct vm *vm, struct timetable_entry *t, void (*done)(void *opaque, int r, const struct err *e), void *opaque,
	struct err *e)
{
	int r = add_check(vm, t, e);
	struct step *s;

	if (!r)
		r = zone_set(vm->host->timetables, t, e);
	if (r < 0)
		return r;
	t->last_s = now_s();
	entry_check_ahead(t);
	if (!t->next_s)
		return err_set(e, -EINVAL, ERR_INVALID, "calendar: \"%.60s\" never comes again; give a future time, for example daily or "
			"*-*-01 04:00", t->on);
	if (!vm->timetable)
		vm->timetable = must_alloc(calloc(1, sizeof(*vm->timetable)));
	t->adding = true;
	vm->timetable->entries[vm->timetable->n++] = t;
	s = step_new(vm, t);
	s->added = true;
	r = change_store(vm, s, done, opaque, e);
	if (r < 0)
		vm->timetable->n--;
	return r;
}

static int entry_find(struct vm *vm, const char *name, struct timetable_entry **ret, struct err *e)
{
	int i = timetable_find(vm->timetable, name);

	*ret = i < 0 || vm->timetable->entries[i]->adding || vm->timetable->entries[i]->removing ? NULL : vm->timetable->entries[i];
	if (*ret)
		return 0;
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.200s' has no schedule '%.63s'. Next: cairn schedule-list %s", vm->def->name, name,
		shell_word(vm->def->name).s);
}

int timetables_remove(struct vm *vm, const char *name, void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e)
{
	struct timetable_entry *t;
	struct step *s;
	int r = entry_find(vm, name, &t, e);

	/* Its next stages complete the archive's file, and delete the snapshot. */
	if (!r && t->action == TIMETABLE_EXPORT && t->begun_s)
		r = err_set(e, -EBUSY, ERR_BUSY, "schedule %s of VM '%.200s' exports the VM just now; wait for its end%s%s", t->name, vm->def->name,
			t->job[0] ? ", or cancel it first: cairn job-cancel " : "", t->job);
	if (r < 0)
		return r;
	s = step_new(vm, t);
	s->removed = true;
	t->removing = true;
	r = change_store(vm, s, done, opaque, e);
	if (r < 0)
		t->removing = false;
	return r;
}

int timetables_pause(struct vm *vm, const char *name, bool paused, void (*done)(void *opaque, int r, const struct err *e), void *opaque,
	struct err *e)
{
	struct timetable_entry *t;
	struct step *s;
	int r = entry_find(vm, name, &t, e);
	bool was;

	if (!r && !paused && t->no_zone)
		r = zone_set(vm->host->timetables, t, e);
	if (r < 0)
		return r;
	t->no_zone = t->no_zone && paused;
	was = t->paused;
	s = step_new(vm, t);
	s->paused = paused;
	s->pause = t->pauses + 1;
	/* Runs within the pause are not made up for. If the resume is undone, last_s stays: the next one sets it. */
	if (was && !paused)
		t->last_s = MAX(t->last_s, now_s());
	pause_set(t, paused);
	r = change_store(vm, s, done, opaque, e);
	if (r < 0)
		pause_set(t, was);
	else
		t->pauses++;
	return r;
}

struct json_object *timetables_to_json(const struct vm *vm, const struct timetable_entry *t)
{
	const struct timetable_run *last = timetable_last_run(vm->timetable, t->name);
	struct json_object *o = json_object_new_object();

	js_put_str(o, "vm", vm->def->name);
	js_put_str(o, "name", t->name);
	js_put_str(o, "action", timetable_action_name(t->action));
	js_put_str(o, "on", t->on);
	if (zone_of(t)[0])
		js_put_str(o, "zone", zone_of(t));
	js_put_str(o, "missed", field_type_word(FIELD_SCHEDULE_MISSED, t->missed));
	if (t->folder)
		js_put_str(o, "folder", t->folder);
	js_put_int(o, "uid", t->uid);
	if (t->paused || t->no_zone)
		js_put_bool(o, "paused", true);
	if (t->begun_s)
		js_put_bool(o, "under-way", true);
	if (t->next_s)
		js_put_int(o, "next-run", t->next_s * NS);
	if (!last)
		return o;
	js_put_int(o, "last-run", last->run_s * NS);
	js_put_str(o, "outcome", last->outcome);
	if (last->detail[0])
		js_put_str(o, "detail", last->detail);
	return o;
}

/* ---- start and end ---- */

static void timetable_load(struct timetables *k, struct vm *vm)
{
	CLEANUP_JS struct json_object *o = store_load_file(k->host->store, vm->def->name, TIMETABLE_FILE);
	struct err e;
	unsigned bad;

	if (!o)
		return;
	timetable_from_json(o, &vm->timetable, &bad);
	if (bad)
		log_error("timetable", "VM '%s': %u of its schedules are invalid and not used", vm->def->name, bad);
	for (size_t i = 0; vm->timetable && i < vm->timetable->n; i++) {
		struct timetable_entry *t = vm->timetable->entries[i];

		/* Without its zone, the schedule waits for an admin who installs tzdata, and then resumes it or starts
		 * another daemon. */
		t->no_zone = zone_set(k, t, &e) < 0;
		if (t->no_zone)
			log_error("timetable", "VM '%s': schedule %s is paused: %s", vm->def->name, t->name, e.msg);
		t->stored_paused = t->paused;
		entry_check_ahead(t);
	}
}

int timetables_new(struct vm_host *host, call_run_as *run_as_user, void *context, struct timetables **ret_k, struct err *e)
{
	struct timetables *k = must_alloc(calloc(1, sizeof(*k)));
	int r;

	*k = (struct timetables){ .host = host, .run_as = run_as_user, .context = context };
	k->fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	r = k->fd < 0 ? -errno : loop_watch(host->loop, k->fd, POLLIN, timer_ready, k, &k->watch);
	if (r < 0) {
		timetables_free(k);
		return err_set_errno(e, r, "schedules");
	}
	for (size_t i = 0; i < host->nvms; i++)
		timetable_load(k, host->vms[i]);
	timetables_soon(k);
	*ret_k = k;
	return 0;
}

void timetables_free(struct timetables *k)
{
	struct zone *z;

	if (!k)
		return;
	loop_unwatch(k->watch);
	if (k->fd >= 0)
		close(k->fd);
	while ((z = k->zones)) {
		k->zones = z->next;
		time_zone_free(z->z);
		free(z);
	}
	free(k);
}

/* ---- hooks of the observer ---- */

static void timetables_removed(struct vm *vm)
{
	timetable_free(vm->timetable);
}

static void timetables_on_job_concluded(struct vm_host *host, const char *name)
{
	(void)name;
	timetables_soon(host->timetables);
}

static void timetables_on_process(struct vm *vm)
{
	timetables_soon(vm->host->timetables);
}

static void timetables_on_adopted(struct vm *vm, const struct vm_info *info)
{
	(void)info;
	timetables_soon(vm->host->timetables);
}

static void timetables_on_promoted(struct vm *clone, struct vm *other)
{
	SWAP(clone->timetable, other->timetable);
	timetable_free(STEAL_PTR(other->timetable));
}

const struct vm_observer timetables_observer = { .promoted = timetables_on_promoted, .removed = timetables_removed, .job_concluded = timetables_on_job_concluded,
	.adopted = timetables_on_adopted, .process_gone = timetables_on_process };
