#include "api/jobs/job_owner.h"
#include "api/access/audit.h"
#include "api/access/permissions.h"
#include "api/access/rights.h"
#include "api/jobs/job.h"
#include "api/schema/call.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATE_KEY "job_owner"
#define CANCEL_TIMEOUT_NS (10 * 1000000000ULL)

struct job_owner {
	char job[JOB_ID_MAX + 1];
	struct rights *who; /* owned */
	enum role role;	    /* needed for the VM */
	bool makes_vms;	    /* the role admin for all VMs, or creator, is needed, too */
	bool denied;	    /* the role was lost, and the work was cancelled where that is possible */
};

static void owner_free(struct job_owner *o)
{
	if (o)
		free(o->who);
	free(o);
}

static void owner_replace(struct vm *vm, struct job_owner *o)
{
	owner_free(vm->job_owner);
	vm->job_owner = o;
	/* The folder of an incomplete VM may be going already; no job that makes a VM outlives the daemon. */
	if (!vm_has(vm, VM_FACT_INCOMPLETE))
		vm_save(vm);
}

void job_owner_set(struct job *j, const struct call *c)
{
	struct job_owner *o;

	j->uid = c->uid;
	if (!j->vm || uid_is_root_or_own(c->uid) || (j->vm->job_owner && !strcmp(j->vm->job_owner->job, j->id)))
		return;
	o = must_alloc(calloc(1, sizeof(*o)));
	*o = (struct job_owner){ .who = must_alloc(rights_of_ids(&c->who)), .role = c->command->role,
		.makes_vms = job_makes_vms(j) };
	snprintf(o->job, sizeof(o->job), "%s", j->id);
	owner_replace(j->vm, o);
}

void job_owner_end(struct vm *vm)
{
	if (vm->job_owner)
		owner_replace(vm, NULL);
}

/* ---- the end of a role ---- */

/* Return the role that the owner lacks; ROLE_NONE: none. *ret_all: it is a role for all VMs. */
static enum role role_lost(const struct vm *vm, bool *ret_all)
{
	const struct job_owner *o = vm->job_owner;
	const struct server *s = vm->host->server;
	struct peer who = rights_peer(o->who);

	*ret_all = o->makes_vms && server_role(s, &who, NULL) < ROLE_ADMIN && !permissions_creates(&vm->host->permissions, &who);
	if (*ret_all)
		return ROLE_ADMIN;
	/* Nobody but a creator has a role for an import's VM yet. */
	if (o->makes_vms && vm_has(vm, VM_FACT_INCOMPLETE))
		return ROLE_NONE;
	return server_role(s, &who, vm->def->uuid) < o->role ? o->role : ROLE_NONE;
}

void job_denial_audit(const struct vm_host *host, const char *vm_name, const char *id, uid_t uid, const char *why)
{
	CLEANUP_JS struct json_object *line = json_object_new_object();
	struct json_object *args = json_object_new_object();

	js_put_int(line, "time", (int64_t)clock_realtime_ns());
	js_put_int(line, "uid", geteuid());
	js_put_int(line, "pid", getpid());
	js_put_str(line, "command", "(job denied)");
	js_put_str(line, "vm", vm_name);
	js_put_str(args, "id", id);
	js_put_int(args, "user", uid);
	js_put(line, "arguments", args);
	js_put_str(line, "outcome", err_class_name(ERR_PERMISSION));
	js_put_str(line, "error", why);
	audit_add(host->audit, line);
}

static void cancel_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)opaque;
	(void)a;
	if (r < 0 && r != -ESRCH)
		log_info("job", "the work of an earlier daemon's job is not cancelled: %s", e->msg);
}

/* Cancel the work of the owner's job. May free the VM. */
static void owner_deny(struct vm *vm, enum role role, bool all)
{
	struct job_owner *o = vm->job_owner;
	struct job *j = vm->operation.job;
	char why[160];
	struct err e;

	o->denied = true;
	if (j && strcmp(j->id, o->job))
		return; /* the owner's job ended with an earlier daemon */
	snprintf(why, sizeof(why), "user %u, who began the job, has lost the role %s for %s%s", (unsigned)o->who->uid,
		all ? role_name(role) : role_name_of_vm(role), all ? "all VMs or creator" : "the VM", j && !j->cancel ? "; the job cannot be cancelled and ends by itself" : "");
	job_denial_audit(vm->host, vm->def->name, o->job, o->who->uid, why);
	if (j && job_deny(j, why, &e) < 0)
		log_info("job", "%s: %s", why, e.msg);
	/* The VM's process continues with the work of an earlier daemon's job, such as a dump. */
	else if (!j && vm->proc)
		vm_process_request(vm->proc, VM_MSG_CANCEL, NULL, 0, -1, CANCEL_TIMEOUT_NS, cancel_done, NULL);
}

static bool owner_check(struct vm *vm)
{
	enum role role;
	bool all;

	if (!vm->job_owner || vm->job_owner->denied || !vm->host->server)
		return false;
	role = role_lost(vm, &all);
	if (role != ROLE_NONE)
		owner_deny(vm, role, all);
	return role != ROLE_NONE;
}

void job_owners_check(struct vm_host *host)
{
	/* Begin again after each cancelled job, because its end may free VMs. */
	for (size_t i = 0; i < host->nvms; i = owner_check(host->vms[i]) ? 0 : i + 1)
		;
}

/* ---- the owner of an earlier daemon's job ---- */

static void state_put(const struct vm *vm, struct json_object *state)
{
	const struct job_owner *owner = vm->job_owner;
	struct json_object *o;

	if (!owner)
		return;
	o = json_object_new_object();
	js_put_str(o, "job", owner->job);
	js_put(o, "who", rights_to_json(owner->who));
	js_put_str(o, "role", role_name(owner->role));
	js_put_bool(o, "makes_vms", owner->makes_vms);
	js_put(state, STATE_KEY, o);
}

static void state_load(struct vm *vm, struct json_object *state)
{
	struct json_object *o = js_get(state, STATE_KEY);
	enum role role = permissions_role_from_word(js_get_str(o, "role"), false);
	struct job_owner *owner;
	struct rights *who;

	if (!o || role == ROLE_NONE || rights_parse(js_get(o, "who"), &who, NULL) < 0)
		return;
	owner = must_alloc(calloc(1, sizeof(*owner)));
	*owner = (struct job_owner){ .who = who, .role = role, .makes_vms = js_get_bool(o, "makes_vms", false) };
	snprintf(owner->job, sizeof(owner->job), "%s", js_get_str_or(o, "job", ""));
	vm->job_owner = owner;
}

static void adopted(struct vm *vm, const struct vm_info *info)
{
	(void)info;
	owner_check(vm); /* a process that answered late; those before are checked when the daemon begins to listen */
}

/* The work has ended with the process. A job that still runs concludes later. */
static void process_gone(struct vm *vm)
{
	if (!vm->operation.job)
		job_owner_end(vm);
}

static void removed(struct vm *vm)
{
	owner_free(vm->job_owner);
}

const struct vm_observer job_owner_observer = { .removed = removed, .state_put = state_put, .state_load = state_load,
	.adopted = adopted, .process_gone = process_gone, .found_off = process_gone };
