#include "api/jobs/job_recover.h"
#include "api/jobs/job_impl.h"
#include "api/store/event_log.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_of_host(const char *type)
{
	return !strncmp(type, "volume-", strlen("volume-"));
}

/* Take the volume that an unfinished job of jobs.json makes. */
static void volume_take(struct job *j, struct json_object *o)
{
	const char *pool = js_get_str(o, "pool"), *volume = js_get_str(o, "volume");

	if (!pool || !volume || j->volume)
		return;
	j->pool = must_alloc(strdup(pool));
	j->volume = must_alloc(strdup(volume));
}

/* Make a job of an earlier daemon from the members that its stored job and the data of its events have. Returns NULL if
 * the job has a VM and the VM's name is missing. */
static struct job *former_new(struct vm_host *host, const char *id, const char *type, struct json_object *o)
{
	const char *vm = js_get_str(o, "vm"), *qmp_id = js_get_str(o, "qmp-id"), *uuid = js_get_str(o, VM_UUID_KEY);
	struct job *j = vm || is_of_host(type) ? calloc(1, sizeof(*j)) : NULL;

	if (!j)
		return NULL;
	j->host = host;
	j->type = type;
	j->unit = "bytes";
	snprintf(j->id, sizeof(j->id), "%s", id);
	if (qmp_id && job_id_check(qmp_id, false, NULL) == 0)
		snprintf(j->qmp_id, sizeof(j->qmp_id), "%s", qmp_id);
	j->keeps_qmp_id = !js_get_bool(o, "auto-dismiss", true);
	snprintf(j->vm_name, sizeof(j->vm_name), "%s", vm ? vm : "");
	if (uuid)
		uuid_parse(uuid, j->vm_uuid);
	volume_take(j, o);
	return j;
}

/* ---- concluded jobs of an earlier daemon ---- */

static enum err_class class_known(const char *name)
{
	unsigned c = 0;

	while (name && c < ERR_CLASS_COUNT && strcmp(err_class_name(c), name))
		c++;
	return name && c < ERR_CLASS_COUNT ? (enum err_class)c : ERR_GENERIC;
}

static void job_load(struct vm_host *host, struct json_object *o)
{
	const char *id = js_get_str(o, "id"), *type = job_type_known(js_get_str(o, "type")), *error = js_get_str(o, "error");
	int64_t started = js_get_int(o, "started", 0), duration = js_get_int(o, "duration", 0);
	uint64_t now = clock_realtime_ns(), end, age;
	struct job *j;

	if (!id || !type || job_id_check(id, job_find(host, id) != NULL, NULL) < 0 || started < 0 || duration < 0)
		return;
	end = (uint64_t)started + (uint64_t)duration;
	age = end < now ? now - end : 0; /* end is in the future if the clock was set back */
	if (age >= JOBS_KEPT_NS || end >= now + JOBS_KEPT_NS)
		return;
	j = former_new(host, id, type, o);
	if (!j)
		return;
	j->status = JOB_CONCLUDED;
	j->uid = (uid_t)js_get_int(o, "uid", 0);
	j->done = (uint64_t)js_get_int(o, "current-progress", 0);
	j->total = (uint64_t)js_get_int(o, "total-progress", 0);
	j->begun_realtime_ns = (uint64_t)started;
	/* The monotonic clock starts at the host's boot, which may be later than the job. */
	j->ended_ns = loop_now_ns() - MIN(age, loop_now_ns());
	j->begun_ns = j->ended_ns - (uint64_t)duration;
	j->outpaced = js_get_bool(o, "outpaced", false);
	j->failed = error != NULL;
	if (error)
		err_set(&j->e, 0, class_known(js_get_str(o, "error-class")), "%s", error);
	j->result = json_object_get(js_get(o, "result"));
	job_append(host, j);
}

void jobs_load(struct vm_host *host, struct json_object *file)
{
	struct json_object *list = js_get_array(file, "jobs");

	host->next_job = (unsigned)js_get_int(file, "next", 0);
	for (size_t i = 0; list && i < json_object_array_length(list) && i < JOBS_KEPT_MAX; i++)
		job_load(host, json_object_array_get_idx(list, i));
}

/* ---- unfinished jobs of an earlier daemon ---- */

struct recover {
	struct vm_host *host;
	struct json_object *file; /* jobs.json; NULL: none. Its jobs may have expired */
	struct job **at; /* where the list continues after the jobs of jobs.json; the events come newest first */
	/* By id. Only the last event of each job counts, unless that is the end of an unknown job: then that event is
	 * here, and the one before shows whether the job has succeeded. */
	struct json_object *seen;
};

static uint64_t time_of(struct json_object *ev)
{
	struct json_object *time = js_get(ev, "timestamp");

	return (uint64_t)js_get_int(time, "seconds", 0) * 1000000000ULL + (uint64_t)js_get_int(time, "microseconds", 0) * 1000;
}

static void lost_begin(const struct recover *r, struct job *j, uint64_t begun_realtime_ns)
{
	j->lost = true;
	j->status = JOB_RUNNING;
	j->begun_ns = loop_now_ns();
	j->begun_realtime_ns = begun_realtime_ns;
	j->next = *r->at;
	*r->at = j;
}

/* Add the job of an event. Returns NULL if the event is not complete. */
static struct job *lost_add(struct recover *r, struct json_object *ev, const char *id, const char *type)
{
	struct job *j = former_new(r->host, id, type, js_get(ev, "data"));

	if (j)
		lost_begin(r, j, time_of(ev));
	return j;
}

/* Note that the job has succeeded. Not for jobs that have a result, because it is lost. */
static void success_note(struct job *j)
{
	j->status = JOB_CONCLUDED;
	j->ended_ns = loop_now_ns();
}

/* Add a job whose end the earlier daemon sent to its clients but did not store. end: the event of that end. before:
 * the status before it. */
static void ended_add(struct recover *r, struct json_object *end, const char *id, const char *type, const char *before)
{
	uint64_t now = clock_realtime_ns(), at = time_of(end), age = at < now ? now - at : 0;
	struct job *j = age < JOBS_KEPT_NS && at < now + JOBS_KEPT_NS ? lost_add(r, end, id, type) : NULL;

	if (!j)
		return;
	j->lost = false;
	j->status = JOB_CONCLUDED;
	j->begun_ns = j->ended_ns = loop_now_ns() - MIN(age, loop_now_ns());
	j->failed = strcmp(before, job_status_names[JOB_PENDING]) != 0;
	if (j->failed)
		err_set(&j->e, -EIO, class_known(js_get_str(js_get(end, "data"), "error-class")), "%s",
			js_get_str_or(js_get(end, "data"), "error", "the job failed, and the daemon ended before it had stored the reason"));
}

static void number_note(struct vm_host *host, const char *id)
{
	unsigned n;
	int end = 0;

	if (sscanf(id, "job%9u%n", &n, &end) == 1 && !id[end])
		host->next_job = MAX(host->next_job, n);
}

static bool is_stored(struct json_object *file, const char *id)
{
	struct json_object *list = js_get_array(file, "jobs"), *omitted = js_get_array(file, "omitted");

	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		if (!strcmp(js_get_str_or(json_object_array_get_idx(list, i), "id", ""), id))
			return true;
	for (size_t i = 0; omitted && i < json_object_array_length(omitted); i++)
		if (!strcmp(js_plain_string(json_object_array_get_idx(omitted, i)) ?: "", id))
			return true;
	return false;
}

/* Return whether this is the first event found of a job; if not, complete a job whose end was found before. */
static bool is_last_event(struct recover *r, const char *id, const char *type, const char *status)
{
	struct json_object *end;

	if (!json_object_object_get_ex(r->seen, id, &end))
		return true;
	if (type && json_object_is_type(end, json_type_object)) {
		ended_add(r, end, id, type, status);
		js_put_bool(r->seen, id, true);
	}
	return false;
}

static bool recover_event(void *opaque, struct json_object *ev)
{
	struct recover *r = opaque;
	struct json_object *data = js_get(ev, "data");
	struct job *j;
	const char *id = js_get_str(data, "id"), *status = js_get_str(data, "status"),
		   *type = job_type_known(js_get_str(data, "type"));

	if (!id || !status || job_id_check(id, false, NULL) < 0 || !is_last_event(r, id, type, status))
		return true;
	js_put_bool(r->seen, id, true);
	number_note(r->host, id);
	j = job_find(r->host, id);
	if (!type || !strcmp(status, job_status_names[JOB_NULL]))
		return true;
	if (!strcmp(status, job_status_names[JOB_CONCLUDED])) {
		if (!j && !is_stored(r->file, id) && !store_is_newer(r->host->store, "jobs.json"))
			js_put(r->seen, id, json_object_get(ev));
		return true;
	}
	if (j)
		j->lost = true; /* jobs.json has the job's end, but the earlier daemon emitted no event for it */
	else if ((j = lost_add(r, ev, id, type)) && is_of_host(type) && !strcmp(status, job_status_names[JOB_PENDING]))
		success_note(j); /* only job_succeed() sets this status */
	return true;
}

/* Add the unfinished jobs of jobs.json whose events the log does not have any more. The events of the others do not say
 * whether they keep their ids. */
static void unfinished_add(struct recover *r)
{
	struct json_object *list = js_get_array(r->file, "unfinished");

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		const char *id = js_get_str(o, "id"), *type = job_type_known(js_get_str(o, "type"));
		struct job *j = id ? job_find(r->host, id) : NULL;

		if (j && !js_get_bool(o, "auto-dismiss", true))
			j->keeps_qmp_id = true;
		if (j && j->lost)
			volume_take(j, o);
		if (!id || !type || js_get(r->seen, id) || job_id_check(id, j != NULL, NULL) < 0)
			continue;
		j = former_new(r->host, id, type, o);
		if (j)
			lost_begin(r, j, (uint64_t)MAX(js_get_int(o, "started", 0), 0));
	}
}

void jobs_recover(struct vm_host *host, struct json_object *file)
{
	CLEANUP_JS struct json_object *seen = json_object_new_object();
	struct recover r = { host, file, &host->jobs, seen };

	while (*r.at)
		r.at = &(*r.at)->next;
	event_log_backwards(host->events, "\"JOB_STATUS_CHANGE\"", recover_event, &r);
	unfinished_add(&r);
}

/* Return the VM's lost job of that type; NULL: there is none. */
static struct job *lost_find(const struct vm *vm, const char *type)
{
	struct job *j = vm->host->jobs;

	while (j && !(j->lost && j->status == JOB_RUNNING && job_is_of(j, vm) && !strcmp(j->type, type)))
		j = j->next;
	return j;
}

int job_adopt(struct vm *vm, const char *type, struct job **ret_j, struct err *e)
{
	struct job *j = vm->operation.kind ? NULL : lost_find(vm, type);

	if (!j)
		return job_new(vm, type, NULL, ret_j, e);
	j->lost = false;
	j->vm = vm;
	memcpy(j->vm_uuid, vm->def->uuid, sizeof(j->vm_uuid));
	job_own(j, vm, job_type_kind(type));
	*ret_j = j;
	return 0;
}

void job_lost_succeeded(const struct vm *vm, const char *type)
{
	struct job *j = lost_find(vm, type);

	if (j)
		success_note(j);
}

static void set_lost_error(struct job *j)
{
	if (j->volume)
		err_set(&j->e, -EIO, ERR_GENERIC, "the daemon ended while the job was under way, so its result is unknown; the work needs no "
			"daemon, and volume '%s' may be complete now or later. Next: cairn vol-list %s", j->volume, j->pool);
	else if (is_of_host(j->type))
		err_set(&j->e, -EIO, ERR_GENERIC, "the daemon ended while the job was under way, so its result is unknown; the work needs no "
			"daemon, and the volume may be complete now or later. Next: cairn pool-list");
	else
		err_set(&j->e, -EIO, ERR_GENERIC,
			"the daemon ended while the job was under way, so its result is unknown. Next: cairn %s %s",
			strstr(j->type, "snapshot") ? "snapshot-list" : "dominfo", shell_word(j->vm_name).s);
}

void jobs_recover_end(struct vm_host *host)
{
	CLEANUP_JS struct json_object *file = NULL;
	bool any = false;
	struct err e;

	for (struct job *j = host->jobs; j; j = j->next) {
		if (!j->lost)
			continue;
		any = true;
		if (j->status == JOB_CONCLUDED)
			continue;
		j->failed = true;
		j->status = JOB_CONCLUDED;
		j->ended_ns = loop_now_ns();
		set_lost_error(j);
	}
	if (!any)
		return;
	/* Store these failures before emitting their events: from the events alone, a later daemon does not know the
	 * reason. */
	file = jobs_to_file(host);
	if (store_put(host->store, NULL, "jobs.json", file, STORE_NOW, NULL, &e) < 0)
		log_warn("job", "%s", e.msg);
	for (struct job *j = host->jobs; j; j = j->next)
		if (j->lost) {
			j->lost = false;
			if (j->failed)
				job_status_set(j, JOB_ABORTING);
			job_status_set(j, JOB_CONCLUDED);
		}
}
