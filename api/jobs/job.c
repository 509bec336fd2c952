#include "api/jobs/job.h"
#include "api/jobs/job_impl.h"
#include "api/jobs/job_owner.h"
#include "api/schema/call.h"
#include "api/store/event_log.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/offline_process.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TELL_NS 250000000ULL
/* jobs.json has a job that reports progress when it is so old. */
#define STORE_NS (60 * 1000000000ULL)

const char *const job_status_names[] = { "created", "running", "ready", "aborting", "waiting", "pending",
	"concluded", "null" };

/* ---- the job's VM ---- */

const uint8_t *job_vm_uuid(const struct job *j)
{
	return uuid_is_set(j->vm_uuid) ? j->vm_uuid : NULL;
}

bool job_is_of(const struct job *j, const struct vm *vm)
{
	return job_vm_uuid(j) ? !memcmp(j->vm_uuid, vm->def->uuid, sizeof(j->vm_uuid)) :
				!strcmp(j->vm_name, vm->def->name);
}

static const char *vm_name_of(const struct job *j)
{
	return j->vm_name[0] ? j->vm_name : NULL;
}

/* ---- status, progress and results ---- */

static void jobs_store(struct vm_host *host);

static void put_error(struct json_object *o, const struct job *j)
{
	js_put_str(o, "error", j->e.msg);
	js_put_str(o, "error-class", err_class_name(j->e.cls));
}

void job_status_set(struct job *j, enum job_status s)
{
	struct json_object *data = json_object_new_object();

	j->status = s;
	js_put_str(data, "id", j->id);
	if (j->qmp_id[0])
		js_put_str(data, "qmp-id", j->qmp_id);
	js_put_str(data, "status", job_status_names[s]);
	js_put_str(data, "type", j->type);
	if (s == JOB_CONCLUDED && j->failed)
		put_error(data, j);
	event_emit(&j->host->sink, EVENT_JOB_STATUS_CHANGE, vm_name_of(j), job_vm_uuid(j), data);
}

const char *job_status_name(const struct job *j)
{
	return job_status_names[j->status];
}

/* Add the job's unit, the average rate so far in units per second, and the remaining time in ns at that rate. */
static void put_progress(struct json_object *o, const struct job *j, uint64_t now)
{
	uint64_t ns = now - j->begun_ns;
	double rate = ns ? (double)j->done * 1e9 / (double)ns : 0;

	js_put_str(o, "unit", j->unit);
	js_put_uint(o, "rate", (uint64_t)rate);
	if (rate >= 1 && j->total >= j->done)
		js_put_uint(o, "remaining", (uint64_t)((double)(j->total - j->done) / rate * 1e9));
}

void job_progress(struct job *j, uint64_t done, uint64_t total)
{
	struct json_object *data;
	uint64_t now = loop_now_ns();

	j->done = done;
	j->total = total;
	if (!j->stored && now - j->begun_ns >= STORE_NS)
		jobs_store(j->host); /* the log keeps its events for a limited number of others */
	if (now - j->told_ns < TELL_NS && done != total)
		return;
	j->told_ns = now;
	data = json_object_new_object();
	js_put_str(data, "id", j->id);
	js_put_uint(data, "done", done);
	js_put_uint(data, "total", total);
	put_progress(data, j, now);
	event_emit(&j->host->sink, EVENT_JOB_PROGRESS, vm_name_of(j), job_vm_uuid(j), data);
}

void job_put_rounds(struct json_object *result, unsigned rounds, unsigned throttle, bool stopped)
{
	if (!rounds)
		return;
	js_put_uint(result, "memory-rounds", rounds);
	js_put_uint(result, "memory-throttle", throttle);
	js_put_bool(result, "memory-stopped", stopped);
}

void job_put_tracking(struct json_object *result, const struct vm_snapshot_done *d)
{
	static const char *const words[VM_TRACKING_COUNT] = {
		[VM_TRACKING_USERFAULTFD] = "userfaultfd",
		[VM_TRACKING_UNAVAILABLE] = "unavailable",
		[VM_TRACKING_NONE] = "none",
		[VM_TRACKING_DIRTY_LOG] = "dirty-log",
		[VM_TRACKING_HUGE_PAGES] = "huge-pages",
	};
	const char *word = d && d->memory_tracking < VM_TRACKING_COUNT ? words[d->memory_tracking] : NULL;

	if (!word)
		return;
	js_put_str(result, "memory-tracking", word);
	if (d->memory_tracking_reason[0])
		js_put_str(result, "memory-tracking-reason", d->memory_tracking_reason);
	job_put_rounds(result, d->memory_rounds, d->memory_throttle, d->memory_stopped);
}

struct json_object *job_to_json(const struct job *j)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "id", j->id);
	if (j->qmp_id[0])
		js_put_str(o, "qmp-id", j->qmp_id);
	js_put_str(o, "type", j->type);
	js_put_str(o, "status", job_status_names[j->status]);
	if (j->disk[0])
		js_put_str(o, "disk", j->disk);
	if (j->speed)
		js_put_uint(o, "bandwidth", j->speed);
	js_put_uint(o, "current-progress", j->done);
	js_put_uint(o, "total-progress", j->total);
	js_put_str(o, "vm", vm_name_of(j));
	if (job_vm_uuid(j))
		js_put_uuid(o, VM_UUID_KEY, j->vm_uuid);
	js_put_uint(o, "started", j->begun_realtime_ns);
	if (j->status == JOB_CONCLUDED)
		js_put_uint(o, "duration", j->ended_ns - j->begun_ns);
	else
		put_progress(o, j, loop_now_ns());
	if (j->outpaced)
		js_put_bool(o, "outpaced", true);
	if (j->failed)
		put_error(o, j);
	if (j->result)
		js_put(o, "result", json_object_get(j->result));
	return o;
}

void call_return_job(struct call *c, struct job *j)
{
	struct json_object *o = json_object_new_object();

	job_owner_set(j, c);
	js_put_str(o, "job", j->id);
	call_return(c, o);
}

/* ---- the list of jobs ---- */

struct job *job_find(struct vm_host *host, const char *id)
{
	struct job *j = host->jobs;

	while (j && strcmp(j->id, id))
		j = j->next;
	return j;
}

/* ---- QEMU's job types ---- */

static const struct job_type {
	const char *type, *qmp;
	enum vm_operation_kind kind;
	bool makes_vms, is_block;
} types[] = {
	{ .type = "save", .kind = VM_OP_SAVE },
	{ .type = "managed-save", .kind = VM_OP_SAVE },
	{ .type = "restart-process", .kind = VM_OP_SAVE },
	{ .type = "blockpull", .qmp = "stream", .kind = VM_OP_JOB, .is_block = true },
	{ .type = "blockcopy", .qmp = "mirror", .kind = VM_OP_JOB, .is_block = true },
	{ .type = "blockcommit", .qmp = "commit", .kind = VM_OP_JOB, .is_block = true },
	{ .type = "snapshot-create", .qmp = "snapshot-save", .kind = VM_OP_JOB },
	{ .type = "snapshot-revert", .qmp = "snapshot-load", .kind = VM_OP_JOB },
	{ .type = "snapshot-delete", .qmp = "snapshot-delete", .kind = VM_OP_JOB },
	{ .type = "fork", .kind = VM_OP_JOB, .makes_vms = true },
	{ .type = "dump", .kind = VM_OP_JOB },
	{ .type = "export", .kind = VM_OP_JOB },
	{ .type = "snapshot-diff", .kind = VM_OP_JOB },
	{ .type = "snapshot-diff-files", .kind = VM_OP_JOB },
	{ .type = "import", .kind = VM_OP_MAKE, .makes_vms = true },
	{ .type = "clone", .kind = VM_OP_JOB, .makes_vms = true },
	{ .type = "exec", .qmp = "exec" }, /* owns no VM, as the next */
	{ .type = "group-snapshot" },
	{ .type = "group-clone" },
	{ .type = "volume-clone" },
	{ .type = "volume-create" },
};

_Static_assert(ARRAY_SIZE(types) <= JOB_TYPES_MAX, "each type has a count");

/* Find the row of a job type; NULL: unknown, or type is NULL. */
static const struct job_type *type_find(const char *type)
{
	for (size_t i = 0; type && i < ARRAY_SIZE(types); i++)
		if (!strcmp(types[i].type, type))
			return &types[i];
	return NULL;
}

struct json_object *jobs_count(const struct vm_host *host)
{
	struct json_object *list = json_object_new_array();
	uint64_t running[ARRAY_SIZE(types)] = { 0 };

	for (const struct job *j = host->jobs; j; j = j->next) {
		const struct job_type *t = j->status == JOB_CONCLUDED ? NULL : type_find(j->type);

		if (t)
			running[t - types]++;
	}
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "type", types[i].type);
		js_put_uint(o, "running", running[i]);
		js_put_uint(o, "finished", host->job_counts[i].finished);
		js_put_uint(o, "failed", host->job_counts[i].failed);
		js_put_uint(o, "cancelled", host->job_counts[i].cancelled);
		json_object_array_add(list, o);
	}
	return list;
}

const char *job_type_known(const char *type)
{
	const struct job_type *t = type_find(type);

	return t ? t->type : NULL;
}

enum vm_operation_kind job_type_kind(const char *type)
{
	return type_find(type)->kind;
}

static const char *qmp_type(const char *type)
{
	const struct job_type *t = type_find(type);

	return t ? t->qmp : NULL;
}

const char *job_qmp_type(const struct job *j)
{
	return qmp_type(j->type);
}

bool job_qmp_is_block(const struct job *j)
{
	const struct job_type *t = type_find(j->type);

	return t && t->is_block;
}

bool job_makes_vms(const struct job *j)
{
	const struct job_type *t = type_find(j->type);

	return t && t->makes_vms;
}

struct job *job_find_qmp(const struct vm *vm, const char *qmp_id)
{
	struct job *j = vm->host->jobs;

	while (j && (!j->qmp_id[0] || strcmp(j->qmp_id, qmp_id) || !job_is_of(j, vm)))
		j = j->next;
	return j;
}

/* vm: NULL allowed. */
static bool is_taken(struct vm_host *host, const struct vm *vm, const char *id)
{
	return job_find(host, id) || (vm && job_find_qmp(vm, id));
}

/* ---- freeing jobs, and storing concluded ones ---- */

static void job_release(struct job *j)
{
	if (j->release)
		j->release(j);
	j->release = NULL;
	j->opaque = NULL;
}

static void job_free(struct job *j)
{
	job_release(j);
	if (j->output_free)
		j->output_free(j);
	json_object_put(j->result);
	free(j->text);
	free(j->pool);
	free(j->volume);
	free(j);
}

void job_append(struct vm_host *host, struct job *j)
{
	struct job **at = &host->jobs;

	while (*at)
		at = &(*at)->next;
	*at = j;
}

/* Return the job as jobs.json has it, owned by the caller. */
static struct json_object *job_to_file(const struct job *j)
{
	struct json_object *o = job_to_json(j);

	if (j->keeps_qmp_id)
		js_put_bool(o, "auto-dismiss", false);
	if (j->volume && j->status != JOB_CONCLUDED) {
		js_put_str(o, "pool", j->pool);
		js_put_str(o, "volume", j->volume);
	}
	return o;
}

/* Make the text of a concluded job in jobs.json. That file is written at the end of each job, with all jobs that are
 * kept, so each keeps its text. Without that, 64 jobs took 0.43 of the 1.28 ms of the loop that a fork took. */
static void text_make(struct job *j)
{
	struct json_object *o = job_to_file(j);

	js_put_uint(o, "uid", j->uid);
	j->text = must_alloc(strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN)));
	json_object_put(o);
}

struct json_object *jobs_to_file(struct vm_host *host)
{
	struct json_object *file = json_object_new_object(), *list = json_object_new_array(), *unfinished = json_object_new_array(),
			   *omitted = json_object_new_array();
	unsigned n = 0;

	for (const struct job *j = host->jobs; j; j = j->next)
		n += j->status == JOB_CONCLUDED;
	for (struct job *j = host->jobs; j; j = j->next) {
		struct json_object *o;

		if (j->status != JOB_CONCLUDED) {
			json_object_array_add(unfinished, job_to_file(j));
			j->stored = true;
			continue;
		}
		if (n-- > JOBS_STORED_MAX) {
			json_object_array_add(omitted, json_object_new_string(j->id));
			continue;
		}
		if (!j->text)
			text_make(j);
		o = json_object_new_object();
		json_object_set_serializer(o, json_object_userdata_to_json_string, j->text, NULL);
		json_object_array_add(list, o);
	}
	js_put_uint(file, "next", host->next_job);
	js_put(file, "jobs", list);
	js_put(file, "unfinished", unfinished);
	js_put(file, "omitted", omitted); /* the event log may still have their events */
	return file;
}

static void jobs_store(struct vm_host *host)
{
	CLEANUP_JS struct json_object *file = jobs_to_file(host);

	store_put(host->store, NULL, "jobs.json", file, STORE_EVENTUALLY, NULL, NULL);
}

void jobs_dismiss_qmp(const struct vm *vm)
{
	bool any = false;

	for (struct job *j = vm->host->jobs; j; j = j->next)
		if (j->qmp_id[0] && job_is_of(j, vm)) {
			j->qmp_id[0] = 0;
			free(STEAL_PTR(j->text));
			any = true;
		}
	if (any)
		jobs_store(vm->host);
}

static void job_remove(struct job *j)
{
	struct job **at = &j->host->jobs;

	while (*at != j)
		at = &(*at)->next;
	*at = j->next;
	job_status_set(j, JOB_NULL);
	job_free(j);
}

/* Return whether jobs_trim() may drop the job. */
static bool is_droppable(const struct job *j)
{
	return j->status == JOB_CONCLUDED && !j->concluding;
}

/* Return the oldest job of the user with the most jobs, so that no user displaces others' results. NULL: none. */
static struct job *surplus_find(const struct vm_host *host)
{
	struct {
		struct job *oldest;
		unsigned n;
	} users[JOBS_KEPT_MAX + 1], *most = users;
	unsigned n = 0;

	for (struct job *j = host->jobs; j; j = j->next) {
		unsigned i = 0;

		while (i < n && users[i].oldest->uid != j->uid)
			i++;
		if (!is_droppable(j) || i == ARRAY_SIZE(users))
			continue;
		if (i == n) {
			users[n].oldest = j;
			users[n++].n = 0;
		}
		users[i].n++;
		if (users[i].n > most->n)
			most = &users[i];
	}
	return n ? most->oldest : NULL;
}

void jobs_trim(struct vm_host *host)
{
	uint64_t now = loop_now_ns();
	unsigned kept = 0;
	struct job *surplus;

	for (struct job *j = host->jobs, *next; j; j = next) {
		next = j->next;
		if (is_droppable(j) && now - j->ended_ns >= JOBS_KEPT_NS)
			job_remove(j);
		else
			kept += j->status == JOB_CONCLUDED;
	}
	for (; kept > JOBS_KEPT_MAX && (surplus = surplus_find(host)); kept--)
		job_remove(surplus);
}

void jobs_free(struct vm_host *host)
{
	while (host->jobs) {
		struct job *j = host->jobs;

		host->jobs = j->next;
		job_free(j);
	}
}

/* ---- creating, ending and cancelling jobs ---- */

int job_id_check(const char *id, bool taken, struct err *e)
{
	size_t len = strlen(id);

	for (const char *c = id; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("-_.:", *c))
			len = 0;
	if (!len || len > JOB_ID_MAX)
		return err_set(e, -EINVAL, ERR_INVALID,
			"job-id: 1 to %d letters, digits and \"-_.:\"", JOB_ID_MAX);
	if (taken)
		return err_set(e, -EEXIST, ERR_EXISTS,
			"job-id: there is a job '%s'; dismiss it, or choose another", id);
	return 0;
}

static void id_make(struct vm_host *host, const struct vm *vm, char id[JOB_ID_MAX + 1])
{
	do
		snprintf(id, JOB_ID_MAX + 1, "job%u", ++host->next_job);
	while (is_taken(host, vm, id));
}

/* In QEMU, a block job is gone once it is concluded, unless its client wants to dismiss it. */
static bool qmp_id_is_free(const struct vm *vm, const char *qmp_id)
{
	const struct job *j = job_find_qmp(vm, qmp_id);

	return !j || (j->status == JOB_CONCLUDED && job_qmp_is_block(j) && !j->keeps_qmp_id);
}

static void qmp_id_take(struct job *j, const struct vm *vm, const struct job_name *name)
{
	const char *id = name->qmp_id ? name->qmp_id : j->id;
	struct job *old = *id ? job_find_qmp(vm, id) : NULL;

	if (old) {
		old->qmp_id[0] = 0;
		free(STEAL_PTR(old->text));
	}
	snprintf(j->qmp_id, sizeof(j->qmp_id), "%s", id);
	j->keeps_qmp_id = name->keeps_qmp_id;
}

static int name_check(struct vm_host *host, const struct vm *vm, const struct job_name *name, struct err *e)
{
	int r = 0;

	if (name->id)
		r = job_id_check(name->id, is_taken(host, vm, name->id), e);
	if (!r && name->qmp_id && name->qmp_id[0])
		r = job_id_check(name->qmp_id, !qmp_id_is_free(vm, name->qmp_id), e);
	return r;
}

static void name_set(struct job *j, const struct vm *vm, const struct job_name *name)
{
	if (name->id)
		snprintf(j->id, sizeof(j->id), "%s", name->id);
	else
		id_make(j->host, vm, j->id);
	if (vm && vm->qmp && qmp_type(j->type))
		qmp_id_take(j, vm, name);
}

void job_own(struct job *j, struct vm *vm, enum vm_operation_kind kind)
{
	vm_operation_begin(vm, &(struct vm_operation){ .kind = kind, .job = j, .id = j->id, .type = j->type });
}

int job_new(struct vm *vm, const char *type, const char *id, struct job **ret_j, struct err *e)
{
	struct job_name name = { .id = id };

	return job_new_named(vm, type, &name, ret_j, e);
}

/* Create a job that is in no list and owns no VM yet. vm: NULL: a job of no VM. */
static int job_make(struct vm_host *host, struct vm *vm, const char *type, const struct job_name *name, struct job **ret_j, struct err *e)
{
	static const struct job_name any;
	struct job *j;
	int r = name_check(host, vm, name ? name : &any, e);

	if (r < 0)
		return r;
	j = calloc(1, sizeof(*j));
	if (!j)
		return err_set_errno(e, -ENOMEM, "job");
	jobs_trim(host);
	j->host = host;
	if (vm) {
		snprintf(j->vm_name, sizeof(j->vm_name), "%s", vm->def->name);
		memcpy(j->vm_uuid, vm->def->uuid, sizeof(j->vm_uuid));
	}
	j->type = type;
	name_set(j, vm, name ? name : &any);
	j->unit = "bytes";
	j->begun_ns = loop_now_ns();
	j->begun_realtime_ns = clock_realtime_ns();
	*ret_j = j;
	return 0;
}

static void job_begin(struct job *j)
{
	job_status_set(j, JOB_CREATED);
	job_status_set(j, JOB_RUNNING);
	if (j->keeps_qmp_id)
		jobs_store(j->host); /* no event says so */
}

int job_new_named(struct vm *vm, const char *type, const struct job_name *name, struct job **ret_j,
	struct err *e)
{
	struct job *j;
	int r = vm_check_claim(vm, VM_CLAIM_JOB, "try again", e);

	if (!r)
		r = job_make(vm->host, vm, type, name, &j, e);
	if (r < 0)
		return r;
	job_owner_end(vm); /* of an earlier daemon's job, whose work is over */
	j->vm = vm;
	job_append(vm->host, j);
	job_own(j, vm, type_find(type)->kind);
	job_begin(j);
	*ret_j = j;
	return 0;
}

static int beside_new(struct vm_host *host, struct vm *vm, const char *type, const struct job_name *name, struct job **ret_j, struct err *e)
{
	struct job *j;
	int r = job_make(host, vm, type, name, &j, e);

	if (r < 0)
		return r;
	job_append(host, j);
	job_begin(j);
	*ret_j = j;
	return 0;
}

int job_new_beside(struct vm *vm, const char *type, const struct job_name *name, struct job **ret_j, struct err *e)
{
	return beside_new(vm->host, vm, type, name, ret_j, e);
}

int job_new_of_host(struct vm_host *host, const char *type, const char *id, struct job **ret_j, struct err *e)
{
	struct job_name name = { .id = id };

	return beside_new(host, NULL, type, &name, ret_j, e);
}

void job_note_volume(struct job *j, const char *pool, const char *volume)
{
	j->pool = must_alloc(strdup(pool));
	j->volume = must_alloc(strdup(volume));
	jobs_store(j->host);
}

static void vm_let_go(struct job *j)
{
	if (j->vm) {
		job_owner_end(j->vm);
		vm_operation_end(j->vm);
	}
	j->vm = NULL;
}

void job_ready(struct job *j)
{
	j->done = j->total;
	vm_let_go(j);
	job_status_set(j, JOB_READY);
}

static void job_count(const struct job *j)
{
	size_t i = (size_t)(type_find(j->type) - types);

	j->host->job_counts[i].finished++;
	j->host->job_counts[i].failed += j->failed && !j->cancelling;
	j->host->job_counts[i].cancelled += j->failed && j->cancelling;
}

static void job_conclude(void *opaque)
{
	struct job *j = opaque;
	struct vm_host *host = j->host;
	struct vm *vm = j->vm;
	/* Read this fact now, because the callbacks below may free the VM. They do not free a VM with a pending dump,
	 * because its process still runs. */
	bool dump_due = vm && vm_has(vm, VM_FACT_DUMP_DUE);

	j->ended_ns = loop_now_ns();
	vm_let_go(j);
	job_release(j);
	/* The callbacks may begin other jobs, which drop concluded ones. */
	j->concluding = true;
	job_count(j);
	job_status_set(j, JOB_CONCLUDED);
	jobs_store(host);
	vm_observers_each(o, host)
		if ((*o)->job_concluded)
			(*o)->job_concluded(host, j->vm_name);
	if (j->concluded)
		j->concluded(j, j->concluded_opaque); /* may free j */
	for (struct job *left = host->jobs; left; left = left->next)
		if (left == j)
			left->concluding = false;
	if (dump_due)
		vm_notify(vm, dump_due);
}

/* Conclude the job after the VM's offline process has ended, because a client that learns of the job's end may open the
 * images at once. */
static void job_end(struct job *j)
{
	j->cancel = NULL;
	if (!j->vm || !offline_wait(j->vm, job_conclude, j))
		job_conclude(j);
}

void job_succeed(struct job *j, struct json_object *result)
{
	j->result = result;
	j->done = j->total; /* a job that succeeded is at 100 % */
	job_status_set(j, JOB_WAITING);
	job_status_set(j, JOB_PENDING);
	job_end(j);
}

void job_fail(struct job *j, const struct err *e)
{
	j->failed = true;
	j->e = *e;
	if (j->cancelling)
		j->e.cls = j->denied[0] ? ERR_PERMISSION : ERR_CANCELLED;
	if (j->denied[0])
		err_prefix(&j->e, "%s", j->denied);
	if (vm_name_of(j))
		log_warn("job", "VM '%s': %s (%s): %s", j->vm_name, j->id, j->type, j->e.msg);
	else
		log_warn("job", "%s (%s): %s", j->id, j->type, j->e.msg);
	if (j->status != JOB_ABORTING)
		job_status_set(j, JOB_ABORTING);
	job_end(j);
}

int job_cancel_named(struct job *j, const char *name, struct err *e)
{
	if (j->status == JOB_CONCLUDED)
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"Job '%s' in state 'concluded' cannot accept command verb 'cancel'", name);
	if (!j->cancel)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"job %s (%s) cannot be cancelled; it ends by itself", name, j->type);
	if (!j->cancelling) {
		j->cancelling = true;
		j->cancel(j);
	}
	return 0;
}

int job_cancel(struct job *j, struct err *e)
{
	return job_cancel_named(j, j->id, e);
}

int job_deny(struct job *j, const char *why, struct err *e)
{
	/* The work may end in j->cancel(). */
	if (j->cancel && !j->cancelling)
		snprintf(j->denied, sizeof(j->denied), "%s", why);
	return job_cancel(j, e);
}

int job_dismiss_named(struct job *j, const char *name, struct err *e)
{
	struct vm_host *host = j->host;

	if (j->status != JOB_CONCLUDED)
		return err_set(e, -EBUSY, ERR_WRONG_STATE,
			"Job '%s' in state '%s' cannot accept command verb 'dismiss'", name,
			job_status_names[j->status]);
	job_remove(j);
	jobs_store(host);
	return 0;
}

int job_dismiss(struct job *j, struct err *e)
{
	return job_dismiss_named(j, j->id, e);
}

/* ---- messages of VM processes ---- */

static void job_outpaced(struct job *j)
{
	struct json_object *data = json_object_new_object();

	j->outpaced = true;
	js_put_str(data, "id", j->id);
	js_put_str(data, "status", job_status_names[j->status]);
	js_put_str(data, "type", j->type);
	event_emit(&j->host->sink, EVENT_JOB_OUTPACED, j->vm_name, job_vm_uuid(j), data);
}

static void job_on_progress(struct vm *vm, const struct vm_event *ev)
{
	struct job *j = vm->operation.job;

	if (ev->kind == VM_EVENT_COPY_OUTPACED) {
		if (j && !j->outpaced)
			job_outpaced(j);
		return;
	}
	if (ev->kind == VM_EVENT_FORK_READY) {
		if (j && j->fork_stage)
			j->fork_stage(j, ev->value);
		return;
	}
	if (j && j->progress)
		j->progress(j, ev);
	else if (j && ev->value >= 0 && ev->total >= ev->value && !strcmp(j->unit, "bytes"))
		job_progress(j, (uint64_t)ev->value, (uint64_t)ev->total);
}

const struct vm_observer job_observer = { .progress = job_on_progress };
