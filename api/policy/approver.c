#include "api/policy/approver.h"
#include "api/access/audit.h"
#include "api/access/fork_as.h"
#include "api/access/groups.h"
#include "api/access/rights.h"
#include "api/jobs/job.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS 1000000000LL
#define CHECK_MAX_NS (3600 * NS) /* the clock may be set, so look at least so often */

struct approver {
	struct vm_host *host;
	call_run_as *run_as;
	void *context;
	struct approvals table;
	struct loop_timer *timer;
};

/* A change of the table that is being stored, and the call that made it. */
struct change {
	struct store_work work;
	struct vm_host *host;
	struct call *call;
	unsigned id; /* of the request; 0: a rule */
	bool of_vm;  /* the call names a VM */
	enum approval_state to;
};

static int64_t now_ns(void)
{
	return (int64_t)clock_realtime_ns();
}

static const uint8_t *uuid_of(const struct approval_request *r)
{
	return r->of_vm ? r->uuid : NULL;
}

const struct approvals *approver_table(const struct approver *a)
{
	return &a->table;
}

/* ---- telling and storing ---- */

static void request_emit(struct vm_host *host, const struct approval_request *r)
{
	const struct vm *vm = r->of_vm ? vm_find_uuid(host, r->uuid) : NULL;
	struct json_object *data = json_object_new_object();

	js_put_int(data, "id", r->id);
	js_put_str(data, "state", approval_state_word(r->state));
	js_put_str(data, "command", r->command);
	js_put_int(data, "user", r->asker->uid);
	if (r->by >= 0)
		js_put_int(data, "by", r->by);
	if (r->reason[0])
		js_put_str(data, "reason", r->reason);
	if (r->detail[0])
		js_put_str(data, "detail", r->detail);
	event_emit(&host->sink, EVENT_REQUEST_CHANGE, vm ? vm->def->name : r->vm[0] ? r->vm : NULL, uuid_of(r), data);
}

/* w: NULL: nobody waits. */
static void table_store(struct approver *a, struct store_work *w)
{
	CLEANUP_JS struct json_object *o = approvals_to_json(&a->table);

	store_put(a->host->store, NULL, APPROVALS_FILE, o, w ? STORE_WITH_WORK : STORE_EVENTUALLY, w, NULL);
}

static struct change *change_new(struct approver *a, struct call *c, unsigned id, void (*done)(struct store_work *w))
{
	struct change *ch = must_alloc(calloc(1, sizeof(*ch)));

	*ch = (struct change){ .work = { .done = done, .loop = a->host->loop }, .host = a->host, .call = c, .id = id };
	return ch;
}

/* End a request by itself, without a call. */
static void request_end(struct approver *a, struct approval_request *r, enum approval_state s, const char *detail)
{
	approval_end(r, s, detail, now_ns());
	table_store(a, NULL);
	request_emit(a->host, r);
}

static void approver_soon(struct approver *a)
{
	loop_timer_arm(a->timer, loop_now_ns());
}

/* Return whether the command was refused because something else was under way or the VM was in another state, so that
 * the act did not begin. */
static bool has_not_begun(struct json_object *error)
{
	const char *class_name = js_get_str_or(error, "class", "");

	return !strcmp(class_name, err_class_name(ERR_BUSY)) || !strcmp(class_name, err_class_name(ERR_WRONG_STATE));
}

/* Let the asker repeat the command, until the request expires. */
static void approval_return(struct approver *a, struct approval_request *r, struct json_object *error)
{
	approval_end(r, APPROVAL_APPROVED, js_get_str(error, "desc"), 0);
	table_store(a, NULL);
	request_emit(a->host, r);
	approver_soon(a);
}

void approver_refused(struct vm_host *host, unsigned id, struct json_object *error)
{
	struct approver *a = host->approver;
	struct approval_request *r = a ? approvals_find(&a->table, id) : NULL;

	if (r && r->state == APPROVAL_DONE && has_not_begun(error))
		approval_return(a, r, error);
}

/* ---- expiry, and jobs that have ended ---- */

static void expiry_audit(const struct vm_host *host, const struct approval_request *r)
{
	CLEANUP_JS struct json_object *line = json_object_new_object();
	struct json_object *args = json_object_new_object();

	js_put_int(line, "time", now_ns());
	js_put_int(line, "uid", geteuid());
	js_put_int(line, "pid", getpid());
	js_put_str(line, "command", "(request expired)");
	if (r->vm[0])
		js_put_str(line, "vm", r->vm);
	js_put_int(args, "id", r->id);
	js_put_str(args, "command", r->command);
	js_put_int(args, "user", r->asker->uid);
	js_put(line, "arguments", args);
	js_put_str(line, "outcome", "ok");
	audit_add(host->audit, line);
}

static bool request_expires(struct approver *a, struct approval_request *r)
{
	int64_t now = now_ns();

	if ((r->state != APPROVAL_WAITING && r->state != APPROVAL_APPROVED) ||
		(r->expires_ns > now && r->expires_ns <= now + APPROVAL_EXPIRE_MAX_NS)) /* else of a clock that was wrong */
		return false;
	expiry_audit(a->host, r);
	request_end(a, r, APPROVAL_EXPIRED, NULL);
	return true;
}

static void job_check(struct approver *a, struct approval_request *r)
{
	struct job *j = job_find(a->host, r->job);

	if (!j) {
		request_end(a, r, APPROVAL_FAILED, "its job was dismissed before the result was read");
	} else if (j->status == JOB_CONCLUDED) {
		request_end(a, r, j->failed ? APPROVAL_FAILED : APPROVAL_DONE, j->failed ? j->e.msg : NULL);
	}
}

static void approver_check(void *opaque)
{
	struct approver *a = opaque;
	int64_t now = now_ns(), wait = INT64_MAX;

	for (size_t i = 0; i < a->table.nrequests; i++) {
		struct approval_request *r = a->table.requests[i];

		if (r->state == APPROVAL_RUNNING && r->job[0])
			job_check(a, r);
		else if (!request_expires(a, r) && approval_is_open(r) && r->state != APPROVAL_RUNNING)
			wait = MIN(wait, MIN(r->expires_ns - now, CHECK_MAX_NS));
	}
	if (wait != INT64_MAX)
		loop_timer_arm(a->timer, loop_now_ns() + (uint64_t)MAX(wait, NS / 100));
}

/* ---- asking ---- */

/* Return the UUID of the VM to which a command does its act; NULL: all VMs. vm: that the command names; NULL: none. A
 * promotion stops the VM whose place the clone takes. */
static const uint8_t *uuid_acted_on(const char *command, struct json_object *args, const struct vm *vm)
{
	if (vm && !strcmp(command, "vm-promote") && !js_get_bool(args, "undo", false) && uuid_is_set(vm->source))
		return vm->source;
	return vm ? vm->def->uuid : NULL;
}

bool approver_binds(const struct call *c)
{
	const struct approver *a = c->host->approver;
	unsigned acts;

	if (!a || c->approved || uid_is_root_or_own(c->uid))
		return false;
	acts = approval_acts_of(c->dialect, c->command->name, c->args, c->vm ? c->vm->def : NULL);
	return acts && (a->table.unknown || approvals_find_rule(&a->table, &c->who, uuid_acted_on(c->command->name, c->args, c->vm), acts));
}

static void ask_stored(struct store_work *w)
{
	struct change *ch = container_of(w, struct change, work);
	struct approver *a = ch->host->approver;
	struct approval_request *r = a ? approvals_find(&a->table, ch->id) : NULL;
	struct err e = w->e;

	if (w->r < 0) {
		err_prefix(&e, "the request could not be stored");
		if (a)
			approvals_remove(&a->table, ch->id);
	} else {
		err_set(&e, -EPERM, ERR_APPROVAL, "%s%s%.100s%s waits for the approval of another user as request %u. Next: cairn requests %u",
			ch->call->command->name, r && r->vm[0] ? " of VM '" : "", r ? r->vm : "", r && r->vm[0] ? "'" : "", ch->id, ch->id);
	}
	if (w->r == 0 && r) {
		request_emit(ch->host, r);
		approver_soon(a);
	}
	call_fail(ch->call, &e);
	free(ch);
}

/* Return the arguments without `vm`, owned by the caller; NULL: they are too long. */
static struct json_object *args_copy(const struct call *c, struct err *e)
{
	struct json_object *copy = json_object_new_object();
	size_t len = 0;

	json_object_object_foreach(c->args, key, v)
	{
		if (strcmp(key, "vm") != 0)
			js_put(copy, key, json_object_get(v));
	}
	json_object_to_json_string_length(copy, JSON_C_TO_STRING_PLAIN, &len);
	if (len <= APPROVAL_ARGS_MAX)
		return copy;
	json_object_put(copy);
	err_set(e, -E2BIG, ERR_INVALID, "%s needs approval, and a request has at most %d bytes of arguments", c->command->name, APPROVAL_ARGS_MAX);
	return NULL;
}

/* args: taken. */
static struct approval_request *request_new(const struct call *c, const char *command, struct json_object *args, int64_t expire_ns)
{
	struct approval_request *r = must_alloc(calloc(1, sizeof(*r)));

	*r = (struct approval_request){ .args = args, .asked_ns = now_ns(), .by = -1 };
	r->expires_ns = r->asked_ns + expire_ns;
	r->asker = must_alloc(rights_of_user(&c->who));
	snprintf(r->command, sizeof(r->command), "%s", command);
	return r;
}

/* Add and store a request. r: taken. Returns 1; -errno. */
static int request_add(struct approver *a, struct call *c, struct approval_request *r, void (*stored)(struct store_work *w), struct err *e)
{
	int res = approvals_add(&a->table, r, r->asked_ns, e);
	struct change *ch;

	if (res < 0) {
		approval_request_free(r);
		return res;
	}
	ch = change_new(a, c, r->id, stored);
	table_store(a, &ch->work);
	return 1;
}

static void again_stored(struct store_work *w)
{
	struct change *ch = container_of(w, struct change, work);
	struct approver *a = ch->host->approver;
	struct approval_request *r = a ? approvals_find(&a->table, ch->id) : NULL;
	struct call *c = ch->call;
	struct err e = w->e;

	if (r && w->r < 0) {
		approval_end(r, APPROVAL_APPROVED, NULL, 0);
		approver_soon(a);
	} else if (r) {
		request_emit(ch->host, r);
	}
	if (w->r < 0)
		err_prefix(&e, "the use of the approval could not be stored");
	else if (ch->of_vm && !c->vm)
		err_set(&e, -ENOENT, ERR_NOT_FOUND, "the VM is not there any more");
	c->approved = true;
	if (w->r < 0 || (ch->of_vm && !c->vm)) {
		call_fail(c, &e);
	} else {
		c->request = ch->id;
		c->go_on(c);
	}
	free(ch);
}

/* The user has asked for the same before. Returns as approver_ask(). */
static int ask_again(struct approver *a, struct call *c, struct approval_request *same, struct err *e)
{
	struct change *ch;

	if (same->state != APPROVAL_APPROVED)
		return err_set(e, -EPERM, ERR_APPROVAL, "%s %s as request %u. Next: cairn requests %u", c->command->name,
			same->state == APPROVAL_WAITING ? "waits for the approval of another user" : "runs already", same->id, same->id);
	approval_end(same, APPROVAL_DONE, "the asker has begun it", now_ns());
	ch = change_new(a, c, same->id, again_stored);
	ch->of_vm = c->vm != NULL;
	table_store(a, &ch->work);
	return 1;
}

static int check_askable(const struct approver *a, const struct call *c, struct err *e)
{
	if (a->table.unknown)
		return err_set(e, -EPERM, ERR_APPROVAL, "the approval rules could not be loaded: %s", a->table.unknown);
	if (c->dialect != DIALECT_DAEMON)
		return err_set(e, -EPERM, ERR_APPROVAL, "%s needs the approval of another user, which this socket cannot wait for; use the "
			"command of cairn or of the daemon's socket", c->command->name);
	if (c->by)
		return err_set(e, -EPERM, ERR_APPROVAL, "%s needs the approval of another user, and a schedule or a threshold cannot wait for that",
			c->command->name);
	return 0;
}

int approver_ask(struct call *c, struct err *e)
{
	struct approver *a = c->host->approver;
	unsigned acts = approval_acts_of(c->dialect, c->command->name, c->args, c->vm ? c->vm->def : NULL);
	const uint8_t *uuid = c->vm ? c->vm->def->uuid : NULL;
	const struct approval_rule *rule = approvals_find_rule(&a->table, &c->who, uuid_acted_on(c->command->name, c->args, c->vm), acts);
	struct approval_request *r;
	struct json_object *args;
	int res = check_askable(a, c, e);

	if (res < 0)
		return res;
	args = args_copy(c, e);
	if (!args)
		return -E2BIG;
	r = approvals_find_same(&a->table, c->uid, c->command->name, args, uuid);
	if (r && !request_expires(a, r)) {
		json_object_put(args);
		return ask_again(a, c, r, e);
	}
	r = request_new(c, c->command->name, args, rule->expire_ns);
	r->of_vm = uuid;
	if (uuid)
		memcpy(r->uuid, uuid, sizeof(r->uuid));
	if (uuid)
		snprintf(r->vm, sizeof(r->vm), "%s", c->vm->def->name);
	return request_add(a, c, r, ask_stored, e);
}

static void role_ask_stored(struct store_work *w)
{
	struct change *ch = container_of(w, struct change, work);
	struct approver *a = ch->host->approver;
	struct approval_request *r = a ? approvals_find(&a->table, ch->id) : NULL;
	struct json_object *o;

	if (w->r < 0) {
		if (a)
			approvals_remove(&a->table, ch->id);
		call_fail(ch->call, &w->e);
	} else {
		if (r)
			request_emit(ch->host, r);
		if (r)
			approver_soon(a);
		o = json_object_new_object();
		js_put_int(o, "request", ch->id);
		call_return(ch->call, o);
	}
	free(ch);
}

/* args: taken. */
static int role_ask(struct approver *a, struct call *c, struct json_object *args, const char *note, struct err *e)
{
	struct approval_request *same = approvals_find_same(&a->table, c->uid, APPROVAL_GRANT, args, NULL), *r;

	if (same && !request_expires(a, same)) {
		json_object_put(args);
		return err_set(e, -EEXIST, ERR_EXISTS, "you have asked for that role as request %u. Next: cairn requests %u", same->id, same->id);
	}
	r = request_new(c, APPROVAL_GRANT, args, APPROVAL_GRANT_EXPIRE_NS);
	r->stranger = c->conn && !conn_known(c->conn);
	snprintf(r->vm, sizeof(r->vm), "%s", js_get_str_or(args, "vm", ""));
	snprintf(r->note, sizeof(r->note), "%s", note ? note : "");
	return request_add(a, c, r, role_ask_stored, e);
}

void approver_ask_role(struct call *c, const char *role, const char *vm, const char *note)
{
	struct approver *a = c->host->approver;
	struct json_object *args;
	struct err e;
	int r;

	if (a->table.unknown) {
		r = err_set(&e, -EPERM, ERR_CORRUPT, "requests cannot be stored: %s", a->table.unknown);
	} else {
		args = json_object_new_object();
		js_put_int(args, "user", c->uid);
		js_put_str(args, "role", role);
		js_put_str(args, "vm", vm);
		r = role_ask(a, c, args, note, &e);
	}
	if (r < 0)
		call_fail(c, &e);
}

/* ---- running ---- */

/* A run that continues later. */
struct run {
	struct vm_host *host;
	unsigned id;
};

static void run_answered(void *opaque, struct json_object *answer)
{
	struct run *run = opaque;
	struct approver *a = run->host->approver;
	struct approval_request *r = a ? approvals_find(&a->table, run->id) : NULL;
	struct json_object *error = js_get(answer, "error");
	const char *job = js_get_str(js_get(answer, "return"), "job");

	free(run);
	if (!r || r->state != APPROVAL_RUNNING)
		return;
	if (error && has_not_begun(error) && !approval_is_grant(r)) {
		approval_return(a, r, error);
	} else if (error) {
		request_end(a, r, APPROVAL_FAILED, js_get_str_or(error, "desc", ""));
	} else if (job) {
		snprintf(r->job, sizeof(r->job), "%s", job);
		table_store(a, NULL);
		approver_soon(a); /* it may have concluded already */
	} else {
		request_end(a, r, APPROVAL_DONE, NULL);
	}
}

static void rights_found(void *opaque, const struct rights *now, const char *note)
{
	struct run *run = opaque;
	struct approver *a = run->host->approver;
	struct approval_request *r = a ? approvals_find(&a->table, run->id) : NULL;
	struct peer who = rights_peer(now);
	char by[32];
	struct json_object *args = NULL;

	(void)note; /* the refusal names the user's missing role */
	if (!r || json_object_deep_copy(r->args, &args, NULL) < 0) {
		free(run);
		return;
	}
	if (r->of_vm && !vm_find_uuid(a->host, r->uuid)) {
		json_object_put(args);
		free(run);
		request_end(a, r, APPROVAL_FAILED, "the VM is not there any more");
		return;
	}
	if (r->of_vm)
		js_put_uuid(args, "vm", r->uuid);
	snprintf(by, sizeof(by), "request %u", r->id);
	a->run_as(a->context, &who, by, r->command, args, NULL, run_answered, run);
}

/* by: who approved. */
static void request_run(struct approver *a, const struct approval_request *r, const struct rights *by)
{
	struct run *run = must_alloc(calloc(1, sizeof(*run)));
	struct groups_ask *ask;

	*run = (struct run){ a->host, r->id };
	/* The asker may give no role, so the approver does. */
	if (approval_is_grant(r))
		rights_found(run, by, "");
	else
		groups_ask(helpers_groups(a->host->helpers), r->asker, rights_found, run, &ask);
}

/* ---- answering ---- */

static enum role role_of(const struct call *c, const struct approval_request *r)
{
	const struct vm *vm = r->of_vm ? vm_find_uuid(c->host, r->uuid) : NULL;

	return server_role(c->host->server, &c->who, vm ? uuid_acted_on(r->command, r->args, vm) : uuid_of(r));
}

bool approver_shows(const struct call *c, const struct approval_request *r)
{
	return r->asker->uid == c->uid || role_of(c, r) >= schema_find(DIALECT_DAEMON, r->command)->role;
}

/* Return whether the command takes a file, so that only its asker can run it. */
static bool is_run_by_asker(const struct approval_request *r)
{
	return schema_find(DIALECT_DAEMON, r->command)->flags & COMMAND_TAKES_FD;
}

/* Let the request wait for another answer. */
static void answer_undo(struct approver *a, struct approval_request *r)
{
	r->state = APPROVAL_WAITING;
	r->by = -1;
	r->reason[0] = 0;
	r->ended_ns = 0;
	approver_soon(a);
}

static void answer_stored(struct store_work *w)
{
	struct change *ch = container_of(w, struct change, work);
	struct approver *a = ch->host->approver;
	struct approval_request *r = a ? approvals_find(&a->table, ch->id) : NULL;
	CLEANUP_FREE struct rights *by = must_alloc(rights_of_ids(&ch->call->who));
	struct json_object *o;
	struct err e = w->e;

	if (w->r < 0) {
		err_prefix(&e, "the answer could not be stored");
		if (r && r->state == ch->to)
			answer_undo(a, r);
		call_fail(ch->call, &e);
		free(ch);
		return;
	}
	if (r)
		request_emit(ch->host, r);
	o = json_object_new_object();
	js_put_str(o, "state", approval_state_word(ch->to));
	call_return(ch->call, o);
	if (r && ch->to == APPROVAL_RUNNING && r->state == APPROVAL_RUNNING)
		request_run(a, r, by);
	free(ch);
}

static int check_answer(struct approver *a, struct call *c, struct approval_request *r, int64_t id, bool approves, const char *reason,
	struct err *e)
{
	if (!r || !approver_shows(c, r))
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no request %lld. Next: cairn requests", (long long)id);
	if (approves && r->asker->uid == c->uid)
		return err_set(e, -EPERM, ERR_PERMISSION, "you made request %u, so another user must approve it", r->id);
	if (reason && strlen(reason) > APPROVAL_TEXT_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "reason: has more than %d bytes", APPROVAL_TEXT_MAX);
	request_expires(a, r);
	if (r->state != APPROVAL_WAITING && (approves || r->state != APPROVAL_APPROVED))
		return err_set(e, -EPERM, ERR_WRONG_STATE, "request %u is %s, and cannot be answered any more", r->id,
			approval_state_word(r->state));
	return 0;
}

void approver_answer(struct call *c, int64_t id, bool approves, const char *reason)
{
	struct approver *a = c->host->approver;
	struct approval_request *r = approvals_find(&a->table, id);
	struct change *ch;
	struct err e;

	if (check_answer(a, c, r, id, approves, reason, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	if (r->vm[0])
		js_put_str(c->args, "vm", r->vm); /* for the audit log */
	r->by = c->uid;
	snprintf(r->reason, sizeof(r->reason), "%s", reason ? reason : "");
	if (!approves)
		approval_end(r, r->asker->uid == c->uid ? APPROVAL_WITHDRAWN : APPROVAL_DENIED, NULL, now_ns());
	else
		r->state = is_run_by_asker(r) ? APPROVAL_APPROVED : APPROVAL_RUNNING;
	ch = change_new(a, c, r->id, answer_stored);
	ch->to = r->state;
	table_store(a, &ch->work);
}

/* ---- rules ---- */

static void rule_stored(struct store_work *w)
{
	struct change *ch = container_of(w, struct change, work);
	struct err e;

	if (w->r < 0) {
		err_set(&e, w->r, w->e.cls, "the rule is in effect, but not stored, so a restarted daemon would not have it; set it again: %.300s", w->e.msg);
		call_fail(ch->call, &e);
	} else {
		call_return(ch->call, NULL);
	}
	free(ch);
}

void approver_set_rule(struct call *c, const struct approval_rule *rule)
{
	struct approver *a = c->host->approver;
	struct change *ch;
	struct err e;
	int r;

	if (a->table.unknown) {
		err_set(&e, -EPERM, ERR_CORRUPT, "the approval rules could not be loaded: %s", a->table.unknown);
		call_fail(c, &e);
		return;
	}
	/* Rules of undefined VMs do not count towards the limit. A VM that is not loaded may have rules. */
	for (size_t i = store_has_unread(a->host->store) ? 0 : a->table.nrules; i--;) {
		struct approval_rule old = a->table.rules[i];

		old.acts = 0;
		if (old.of_vm && !vm_find_uuid(a->host, old.uuid) && memcmp(old.uuid, rule->uuid, sizeof(old.uuid)) != 0)
			approvals_set_rule(&a->table, &old);
	}
	r = approvals_set_rule(&a->table, rule);
	if (r < 0) {
		if (r == -ENOENT)
			err_set(&e, r, ERR_NOT_FOUND, "there is no such rule. Next: cairn approval-rule");
		else
			err_set(&e, r, ERR_QUOTA, "there are %d rules, which is the most; remove one: cairn approval-rule --remove", APPROVAL_RULES_MAX);
		call_fail(c, &e);
		return;
	}
	ch = change_new(a, c, 0, rule_stored);
	table_store(a, &ch->work);
}

/* ---- start and end ---- */

int approver_new(struct vm_host *host, call_run_as *run_as, void *context, struct approver **ret_a, struct err *e)
{
	struct approver *a = must_alloc(calloc(1, sizeof(*a)));

	*a = (struct approver){ .host = host, .run_as = run_as, .context = context };
	if (loop_timer_new(host->loop, approver_check, a, &a->timer) < 0) {
		approver_free(a);
		return err_set_errno(e, -ENOMEM, "approvals");
	}
	approvals_load(&a->table, host->store, now_ns());
	approver_soon(a);
	*ret_a = a;
	return 0;
}

void approver_free(struct approver *a)
{
	if (!a)
		return;
	loop_timer_free(a->timer);
	approvals_done(&a->table);
	free(a);
}

static void approver_on_job_concluded(struct vm_host *host, const char *name)
{
	(void)name;
	if (host->approver)
		approver_soon(host->approver);
}

const struct vm_observer approver_observer = { .job_concluded = approver_on_job_concluded };
