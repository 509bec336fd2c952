#include "api/commands/command.h"
#include "api/access/audit.h"
#include "api/access/client_file.h"
#include "api/access/denial_log.h"
#include "api/access/fork_as.h"
#include "api/jobs/job.h"
#include "api/policy/approver.h"
#include "api/policy/idle.h"
#include "api/policy/restart.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/offline_process.h"
#include "api/vm/owner_claim.h"
#include "api/vm/vm.h"
#include "api/wire/close_async.h"
#include "api/wire/conn.h"
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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- answering commands ---- */

static void call_free(struct call *c)
{
	if (c->newer)
		c->newer->older = c->older;
	else
		c->host->calls = c->older;
	if (c->older)
		c->older->newer = c->newer;
	json_object_put(c->args);
	json_object_put(c->id);
	client_file_free(c->file);
	free((void *)c->who.groups);
	free(c->by);
	account_call_end(&c->account);
	free(c);
}

/* Return the name of the call's VM: the found VM's name, or else the name that the client wrote; NULL: none. */
static const char *vm_named(const struct call *c)
{
	const char *name = c->vm ? c->vm->def->name : js_get_str(c->args, "vm");
	bool is_network = c->command && !strncmp(c->command->name, "net-", 4);

	return name || is_network ? name : js_get_str(js_get(c->args, "definition"), "name");
}

/* Return the arguments for the audit log; the caller owns them. */
static struct json_object *arguments_audited(const struct call *c)
{
	if (!strcmp(c->command->name, "vm-agent-command"))
		return command_agent_audited(c->args);
	if (!strcmp(c->command->name, "agent-exec"))
		return command_exec_audited(c->args);
	return json_object_get(c->args);
}

static bool is_audited(const struct call *c, struct json_object *error)
{
	if (!c->command || !(c->command->flags & COMMAND_MUTATES))
		return false;
	return !error || !(c->command->flags & COMMAND_POLLED) || !strcmp(js_get_str_or(error, "class", ""), err_class_name(ERR_PERMISSION));
}

/* Write an audit line for a mutating call, also for a denied one. A denial above the rate limit of reports
 * (api/access/denial_log.h) is only counted.
 * Returns as audit_add_call(). */
static int call_audit(struct call *c, struct json_object *answer, void (*stored)(void *opaque, int r))
{
	CLEANUP_JS struct json_object *line = NULL;
	struct json_object *error = js_get(answer, "error");
	const char *vm = vm_named(c);

	if (!is_audited(c, error))
		return 0;
	if (c->untold) {
		denial_log_unaudited(c->context->denials, c->uid);
		return 0;
	}
	line = json_object_new_object();
	js_put_int(line, "time", (int64_t)clock_realtime_ns());
	js_put_int(line, "uid", c->uid);
	js_put_int(line, "pid", c->pid);
	js_put_str(line, "command", c->command->name);
	js_put_str(line, "vm", vm);
	js_put(line, "arguments", arguments_audited(c));
	if (c->by)
		js_put_str(line, "schedule", c->by);
	js_put_str(line, "outcome", error ? js_get_str(error, "class") : "ok");
	if (error)
		js_put_str(line, "error", js_get_str(error, "desc"));
	js_put_uint(line, "duration", loop_now_ns() - c->started_ns);
	return audit_add_call(c->context->host->audit, line, c->promised, stored, c);
}

/* Replace an error class that QEMU does not have by GenericError, because QMP clients may know only QEMU's classes. */
static void class_as_qemu(struct json_object *answer)
{
	static const char *const known[] = { "GenericError", "CommandNotFound", "DeviceNotActive", "DeviceNotFound" };
	struct json_object *error = js_get(answer, "error");
	const char *class_name = error ? js_get_str(error, "class") : known[0];

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(class_name, known[i]))
			return;
	js_put_str(error, "class", known[0]);
}

/* Write a trace line at a command's dispatch and at its answer. Arguments may hold secrets and are left out. */
static void call_trace(const struct call *c, const char *outcome)
{
	const char *vm = vm_named(c);

	log_trace(NULL, "command %s uid=%u pid=%d vm=%s %s", c->command->name, (unsigned)c->uid, (int)c->pid,
		vm ? vm : "-", outcome);
}

/* Send the answer and free the call. */
static void answer_send(struct call *c)
{
	struct json_object *o = STEAL_PTR(c->answer);
	struct conn *conn = c->conn;
	void (*done)(void *opaque, struct json_object *answer);
	void *opaque;

	if (c->dialect == DIALECT_QEMU)
		class_as_qemu(o);
	if (c->has_id)
		js_put(o, "id", json_object_get(c->id));
	if (conn)
		conn_answer(conn, o, c->answer_fd);
	else if (c->answer_fd >= 0)
		closer_close(c->context->host->closer, c->answer_fd);
	conn = c->conn; /* may be NULL: sending may drop the connection */
	done = c->done;
	opaque = c->opaque;
	call_free(c);
	if (done)
		done(opaque, o);
	json_object_put(o);
	if (conn)
		conn_call_end(conn);
}

static void answer_wait_end(void *opaque)
{
	struct call *c = opaque;

	if (!--c->waits)
		answer_send(c);
}

static void answer_replace(struct call *c, const struct err *e)
{
	json_object_put(c->answer);
	c->answer = js_error(err_class_name(e->cls), e->msg);
	if (c->answer_fd >= 0)
		closer_close(c->context->host->closer, c->answer_fd);
	c->answer_fd = -1;
}

/* The call's audit line is lost. Where the audit is required, the client learns that, and gets no fd. */
static void answer_unrecorded(struct call *c, int r)
{
	struct err e;

	if (!audit_is_required(c->context->host->audit) || js_get(c->answer, "error"))
		return;
	err_set(&e, r, err_class_of_errno(r), "%s was carried out, but the audit log could not record it (%s); see the "
		"daemon's log", c->command->name, strerror(-r));
	answer_replace(c, &e);
}

static void call_stored(void *opaque, int r)
{
	struct call *c = opaque;

	if (r < 0)
		answer_unrecorded(c, r);
	answer_wait_end(c);
}

struct state_wait {
	struct store_work work;
	struct call *call;
};

static void state_stored(struct store_work *work)
{
	struct state_wait *w = container_of(work, struct state_wait, work);
	/* The failed sync may be that of another client's change. */
	bool is_doubtful = !work->r && store_failures(w->call->host->store, &work->e) != w->call->store_failures;
	struct err e;

	if ((work->r < 0 || is_doubtful) && !js_get(w->call->answer, "error")) {
		err_set(&e, -EIO, work->e.cls, "%s was carried out, but %s: %.300s", w->call->command->name,
			is_doubtful ? "a file of the daemon could not be synced meanwhile, so a power cut may undo it" :
				"could not be stored, so the next daemon will not know of it", work->e.msg);
		answer_replace(w->call, &e);
	}
	answer_wait_end(w->call);
	free(w);
}

static void state_wait(struct call *c)
{
	struct state_wait *w = must_alloc(calloc(1, sizeof(*w)));

	*w = (struct state_wait){ { .done = state_stored, .loop = c->host->loop }, c };
	c->waits++;
	if (c->vm)
		vm_save_first(c->vm, &w->work);
	else
		store_after(c->host->store, &w->work);
}

/* Audit the call, and answer it when its line is on stable storage and the VM's offline process has released the
 * images. o, fd: taken. */
static void call_reply(struct call *c, struct json_object *o, int fd)
{
	struct json_object *error = js_get(o, "error");
	int r;

	if (log_traces() && c->command)
		call_trace(c, error ? js_get_str(error, "class") : "ok");
	if (c->request && error)
		approver_refused(c->host, c->request, error);
	c->answer = o;
	c->answer_fd = fd;
	c->waits = 1;
	r = call_audit(c, o, call_stored);
	if (r < 0)
		answer_unrecorded(c, r);
	if (r > 0) {
		c->waits++;
		if (c->conn)
			conn_hold(c->conn);
	}
	if (c->when_stored)
		state_wait(c);
	/* A client with the answer may open the images, so wait until the offline process has released them. Do not
	 * wait for a job, because a job holds the images for long. */
	c->waits += c->on_images && c->vm && !c->vm->operation.job && offline_wait(c->vm, answer_wait_end, c);
	answer_wait_end(c);
}

/* ---- checking a command before its handler runs ---- */

/* Keep the command's id for the answer. Returns 0; -EINVAL: it is too long. */
static int take_id(struct call *c, struct json_object *text, struct err *e)
{
	struct json_object *v;

	if (!json_object_is_type(text, json_type_object) || !json_object_object_get_ex(text, "id", &v))
		return 0;
	if (!conn_id_fits(v))
		return err_set(e, -EINVAL, ERR_GENERIC, "QMP input member 'id' has more than %d bytes", ID_BYTES_MAX);
	c->has_id = true;
	c->id = json_object_get(v);
	return 0;
}

/* Check the command's envelope, with QEMU's error texts. */
static int check_envelope(struct json_object *text, struct err *e)
{
	struct json_object *v;

	if (!json_object_is_type(text, json_type_object))
		return err_set(e, -EINVAL, ERR_GENERIC, "QMP input must be a JSON object");
	json_object_object_foreach(text, key, member)
	{
		(void)member;
		if (strcmp(key, "execute") && strcmp(key, "arguments") && strcmp(key, "id"))
			return err_set(e, -EINVAL, ERR_GENERIC,
				"QMP input member '%.60s' is unexpected", key);
	}
	if (!json_object_object_get_ex(text, "execute", &v))
		return err_set(e, -EINVAL, ERR_GENERIC, "QMP input lacks member 'execute'");
	if (!js_plain_string(v))
		return err_set(e, -EINVAL, ERR_GENERIC,
			"QMP input member 'execute' must be a string");
	if (json_object_object_get_ex(text, "arguments", &v) &&
		!json_object_is_type(v, json_type_object))
		return err_set(e, -EINVAL, ERR_GENERIC,
			"QMP input member 'arguments' must be an object");
	return 0;
}

/* Check the command against the connection's negotiation. Returns an error text; NULL: allowed. */
static const char *check_mode(const struct conn *conn, const struct command *command)
{
	bool capabilities = command && !strcmp(command->name, "qmp_capabilities");

	if (!conn_negotiated(conn) &&
		!(command && (command->flags & COMMAND_BEFORE_NEGOTIATION)))
		return "Expecting capabilities negotiation with 'qmp_capabilities'";
	if (conn_negotiated(conn) && capabilities)
		return "Capabilities negotiation is already complete, command ignored";
	return NULL;
}

/* Return the VM that vm-define would change. */
static const struct vm *vm_defined(const struct call *c)
{
	const char *name = js_get_str(js_get(c->args, "definition"), "name");

	return name ? vm_find_name(c->host, name) : NULL;
}

/* Return the VM that vm-restore would start. */
static const struct vm *vm_restored(const struct call *c)
{
	const char *text = js_get_str(js_get(c->args, "definition"), "uuid");
	uint8_t uuid[16];

	return text && uuid_parse(text, uuid) == 0 ? vm_find_uuid(c->host, uuid) : NULL;
}

/* Return the VM on whose socket the call came; NULL: on the daemon's. */
static struct vm *vm_of_socket(const struct call *c)
{
	return c->conn ? conn_vm(c->conn) : NULL;
}

/* Return the VM that the call concerns; NULL: none, or it does not exist. */
static const struct vm *vm_concerned(const struct call *c)
{
	const char *name = js_get_str(c->args, "vm");

	if (vm_of_socket(c))
		return vm_of_socket(c);
	if (c->command->flags & COMMAND_DEFINES)
		return vm_defined(c);
	if (c->command->flags & COMMAND_RESTORES)
		return vm_restored(c);
	return name && (c->command->flags & COMMAND_CONCERNS_VM) ? vm_find(c->host, name) : NULL;
}

/* Find the job that the argument `id` names. */
static const struct job *job_named(const struct call *c)
{
	const char *id = c->command->flags & COMMAND_CONCERNS_JOB ? js_get_str(c->args, "id") : NULL;
	const struct vm *vm = vm_of_socket(c);

	return !id ? NULL : vm ? job_find_qmp(vm, id) : job_find(c->host, id);
}

/* Return the UUID of the VM of the job that the call concerns, also if that VM is gone; NULL: there is none. */
static const uint8_t *job_concerned(const struct call *c)
{
	const struct job *j = job_named(c);

	return j ? job_vm_uuid(j) : NULL;
}

/* Return the role that the call needs. The role guest, which may begin jobs of type exec, may also cancel and dismiss
 * them. */
static enum role role_needed(const struct call *c, enum role role)
{
	const struct job *j = role < ROLE_VIEWER ? NULL : job_named(c);

	return j && !strcmp(j->type, "exec") ? MIN(c->command->role, ROLE_GUEST) : c->command->role;
}

static void denial_emit(struct call *c)
{
	struct json_object *data = json_object_new_object();
	const char *vm = vm_named(c);
	char name[VM_NAME_MAX + 1];

	js_put_str(data, "command", c->command->name);
	if (vm) {
		snprintf(name, sizeof(name), "%s", vm); /* truncated: the client may send a longer text */
		js_put_str(data, "vm", name);
	}
	c->untold = !denial_log_report(c->context->denials, EVENT_PERMISSION_DENIED, c->uid, c->pid, data);
}

/* call_role_for(). A client's role for all VMs is looked up when permissions change. */
static enum role role_look_up(const struct call *c, const uint8_t *uuid)
{
	return c->conn ? conn_role_for(c->conn, uuid) : server_role(c->host->server, &c->who, uuid);
}

/* Check the role before the arguments and the VM, so that a client without rights does not learn which VMs exist. */
static int check_role(struct call *c, struct err *e)
{
	const struct vm *vm = vm_concerned(c);
	const uint8_t *uuid = vm ? vm->def->uuid : job_concerned(c);
	enum role role = call_role_for(c, uuid), needed = role_needed(c, role);
	bool seen = vm && role >= ROLE_VIEWER && c->command->flags & COMMAND_DEFINES;
	bool of_vm = seen || vm_of_socket(c) || (c->command->flags & COMMAND_CONCERNS_VM && js_get_str(c->args, "vm"));
	bool for_all = !vm_of_socket(c) && !(c->command->flags & (COMMAND_CONCERNS_VM | COMMAND_CONCERNS_JOB | COMMAND_DEFINES | COMMAND_RESTORES));

	if (vm) {
		c->concerns = true;
		memcpy(c->uuid, vm->def->uuid, sizeof(c->uuid));
	}
	if (c->command->flags & COMMAND_CREATES && role < needed && !vm_of_socket(c) && creator_is(c)) {
		if (!vm)
			return creator_check(c, e);
		if (c->command->flags & COMMAND_DEFINES && role < ROLE_VIEWER)
			return creator_name_taken(vm, e);
	}
	if (role >= needed ||
		((c->command->flags & COMMAND_FILTERS) && c->conn && conn_known(c->conn))) {
		if (needed > ROLE_NONE && !uid_is_root_or_own(c->uid))
			permissions_note_use(&c->host->permissions, c->host->loop, c->host->store, &c->who, uuid, needed,
				c->command->flags & COMMAND_FILTERS);
		return 0;
	}
	denial_emit(c);
	if (c->command->flags & COMMAND_CREATES && needed == ROLE_ADMIN && !of_vm)
		return err_set(e, -EPERM, ERR_PERMISSION, "%s requires the role admin for all VMs, or creator for VMs of your own, and you have "
			"%s%s; an admin can change your role with cairn grant", c->command->name, role ? "the role " : "no role",
			role ? role_name(role) : "");
	return err_set(e, -EPERM, ERR_PERMISSION,
		"%s requires the role %s, and you have %s%s%s; an admin can change your role with cairn grant",
		c->command->name, of_vm ? role_name_of_vm(needed) : role_name(needed), role ? "the role " : "no role", role ? role_name(role) : "",
		for_all ? " for all VMs" : "");
}

/* call_check_role(): a role for all VMs covers any VM; one for a VM covers only the VM that it was checked for. */
static int check_role_again(const struct call *c, enum role role, const struct vm *vm, struct err *e)
{
	const struct server *s = c->host->server;
	bool same = vm && c->concerns && !memcmp(vm->def->uuid, c->uuid, sizeof(c->uuid));
	const char *name;

	if (server_role(s, &c->who, same ? c->uuid : NULL) >= role)
		return 0;
	name = vm ? role_name_of_vm(role) : role_name(role);
	if (role > c->command->role)
		return err_set(e, -EPERM, ERR_PERMISSION, "%s with these arguments requires the role %s; an admin can change your role with "
			"cairn grant", c->command->name, name);
	return err_set(e, -EPERM, ERR_PERMISSION, "%s requires the role %s, and you lost it, or the VM was replaced, while "
		"the command was under way", c->command->name, name);
}

static int take_file(struct call *c, struct err *e)
{
	if (!(c->command->flags & COMMAND_TAKES_FD))
		return 0;
	if (c->conn)
		c->file = conn_take_file(c->conn);
	if (c->file)
		return 0;
	return err_set(e, -EBADF, ERR_INVALID,
		"%s needs a file: pass its fd with the command (SCM_RIGHTS)",
		c->command->name);
}

static int find_vm(struct call *c, struct err *e)
{
	const char *name;

	if (!c->vm && !(c->command->flags & COMMAND_CONCERNS_VM))
		return 0;
	name = js_get_str(c->args, "vm");
	if (!c->vm && name)
		c->vm = vm_find(c->host, name);
	if (c->vm || (!name && c->command->args[0].optional))
		return 0;
	if (name && store_check_vm(c->host->store, name, e) < 0) {
		err_prefix(e, "VM '%.255s' is not loaded", name);
		return -ENOTSUP;
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND,
		"there is no VM '%.255s'. Next: cairn list --all", name ? name : "");
}

static int check_state(struct call *c, struct err *e)
{
	enum vm_trigger trigger = c->command->trigger;
	char what[64];

	if (!c->vm || trigger == VM_TRIGGER_COUNT)
		return 0;
	/* Errors call it a live clone then. Its handler checks the user's role before the states that are legal only
	 * with a snapshot. */
	if (trigger == VM_ASK_FORK_SNAPSHOT && !js_get_str(c->args, "snapshot"))
		trigger = VM_ASK_FORK;
	/* An operation under way may forbid each command except destroy; then the error names the operation. */
	snprintf(what, sizeof(what), "try %s again", vm_trigger_name(trigger));
	if (vm_check_claim(c->vm, VM_CLAIM_CONTROL, what, e) < 0)
		return trigger == VM_ASK_DESTROY ? 0 : -EBUSY;
	if (trigger == VM_ASK_DESTROY && (restart_is_pending(c->vm) || vm_is_starting(c->vm)))
		return 0;
	if (trigger == VM_ASK_SHUTDOWN && restart_is_pending(c->vm))
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"VM '%.255s' is already %s, but will be restarted; to cancel the restart: cairn destroy %s",
			c->vm->def->name, vm_state_name(c->vm->state), shell_word(c->vm->def->name).s);
	if (!vm_state_check(c->vm->def->name, c->vm->state, c->command->trigger, e))
		return 0;
	return vm_state_check(c->vm->def->name, c->vm->state, trigger, e);
}

/* Whether the audit log can record the call. */
static int check_audit(struct call *c, struct err *e)
{
	if (!(c->command->flags & COMMAND_MUTATES))
		return 0;
	if (audit_check(c->context->host->audit, c->uid, e) < 0) {
		err_prefix(e, "%s is refused", c->command->name);
		return -EPERM;
	}
	c->promised = audit_is_required(c->context->host->audit);
	return 0;
}

/* ---- dispatching commands ---- */

/* Copy the client's user for check_role_again(): the client may disconnect before. */
static struct peer peer_copy(struct peer who)
{
	size_t bytes = who.ngroups * sizeof(*who.groups);

	who.groups = bytes ? memcpy(must_alloc(malloc(bytes)), who.groups, bytes) : NULL;
	return who;
}

static void call_go_on(struct call *c);

/* conn: NULL: the daemon calls as the user. */
static struct call *call_new(const struct command_context *context, struct conn *conn, struct peer who, struct json_object *args)
{
	struct call *c = must_alloc(calloc(1, sizeof(*c)));

	c->host = context->host;
	c->older = c->host->calls;
	if (c->older)
		c->older->newer = c;
	c->host->calls = c;
	c->context = context;
	c->reply = call_reply;
	c->check_role = check_role_again;
	c->role_for = role_look_up;
	c->go_on = call_go_on;
	c->conn = conn;
	c->dialect = conn ? conn_dialect(conn) : DIALECT_DAEMON;
	c->vm = vm_of_socket(c);
	c->answer_fd = -1;
	c->started_ns = loop_now_ns();
	c->store_failures = store_failures(c->host->store, NULL);
	c->uid = who.uid;
	c->pid = conn ? conn_pid(conn) : getpid();
	c->who = peer_copy(who);
	c->args = args ? json_object_get(args) : json_object_new_object();
	if (conn)
		conn_call_begin(conn, &c->conn, &c->account);
	return c;
}

/* Run the command's handler. The search always finds one: a unit test checks that each command of the schema has a
 * handler. */
static void call_run(struct call *c)
{
	const struct command_handler *h = c->context->handlers[c->dialect];

	while (strcmp(h->name, c->command->name))
		h++;
	h->run(c);
}

/* Check the VM's state and run the handler. The caller has found the VM and, if needed, woken it. r: 0; -errno: waking
 * the VM failed. */
static void command_go(void *opaque, int r, const struct err *e)
{
	struct call *c = opaque;
	struct err own;

	if (!r) {
		r = check_state(c, &own);
		e = &own;
	}
	if (r < 0)
		call_fail(c, e);
	else
		call_run(c);
}

static void vm_woken(void *opaque, int r, const struct err *e)
{
	struct call *c = opaque;
	struct err own;

	if (!r && (r = call_check_role(c, c->command->role, c->vm, &own)) < 0)
		e = &own;
	command_go(c, r, e);
}

static void call_go_on(struct call *c)
{
	if (c->vm && idle_has_to_wake(c->vm, c->command->trigger))
		idle_wake(c->vm, vm_woken, c);
	else
		vm_woken(c, 0, NULL);
}

/* Let a call that needs the approval of another user wait for it.
 * Returns 0: the call may continue; 1: the call is taken; -errno. */
static int check_approval(struct call *c, struct err *e)
{
	int r;

	if (!approver_binds(c))
		return 0;
	/* An act that is not possible now would wait for nothing. */
	r = c->vm && idle_has_to_wake(c->vm, c->command->trigger) ? 0 : check_state(c, e);
	return r < 0 ? r : approver_ask(c, e);
}

/* Check the call of a known command, and run it. */
static void command_begin(struct call *c)
{
	struct err e;
	int r;

	if (log_traces())
		call_trace(c, "begins");
	r = check_role(c, &e);
	if (!r)
		r = schema_check_args(c->command, c->args, &e);
	if (!r)
		r = take_file(c, &e);
	if (!r)
		r = find_vm(c, &e);
	if (!r)
		r = check_audit(c, &e);
	if (!r)
		r = check_approval(c, &e);
	if (r > 0)
		return;
	if (r < 0)
		call_fail(c, &e);
	else if (c->vm && idle_has_to_wake(c->vm, c->command->trigger))
		idle_wake(c->vm, vm_woken, c);
	else
		command_go(c, 0, NULL);
}

static void command_dispatch(void *opaque, struct conn *conn, struct json_object *text)
{
	struct call *c = call_new(opaque, conn, conn_peer(conn), js_get(text, "arguments"));
	const char *name, *mode;
	struct err e;
	int r = take_id(c, text, &e);

	if (!r)
		r = check_envelope(text, &e);
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	name = js_get_str(text, "execute");
	c->command = schema_find(c->dialect, name);
	mode = check_mode(conn, c->command);
	if (mode) {
		call_fail_class(c, "CommandNotFound", mode);
		return;
	}
	if (!c->command) {
		err_set(&e, -ENOENT, ERR_GENERIC, "The command %.100s has not been found%s", name,
			c->dialect == DIALECT_DAEMON && schema_find(DIALECT_QEMU, name) ?
				"; a VM's own socket has it, and vm-qmp-path tells the path of that socket (cairn qmp-path VM)" : "");
		call_fail_class(c, "CommandNotFound", e.msg);
		return;
	}
	command_begin(c);
}

/* args, file: taken. */
static struct call *call_new_as(void *context, const struct peer *who, const char *by, const char *command, struct json_object *args,
	struct client_file *file, void (*done)(void *opaque, struct json_object *answer), void *opaque)
{
	struct call *c = call_new(context, NULL, *who, args);

	json_object_put(args);
	c->by = must_alloc(strdup(by));
	c->file = file;
	c->done = done;
	c->opaque = opaque;
	c->command = schema_find(DIALECT_DAEMON, command);
	return c;
}

void command_run_as(void *context, const struct peer *who, const char *by, const char *command, struct json_object *args,
	struct client_file *file, void (*done)(void *opaque, struct json_object *answer), void *opaque)
{
	command_begin(call_new_as(context, who, by, command, args, file, done, opaque));
}

void command_run_approved(void *context, const struct peer *who, const char *by, const char *command, struct json_object *args,
	struct client_file *file, void (*done)(void *opaque, struct json_object *answer), void *opaque)
{
	struct call *c = call_new_as(context, who, by, command, args, file, done, opaque);

	c->approved = true;
	command_begin(c);
}

/* The handler of a call may wait for something else than the VM, such as the store. */
static void calls_on_removed(struct vm *vm)
{
	for (struct call *c = vm->host->calls; c; c = c->older)
		if (c->vm == vm)
			c->vm = NULL;
}

const struct vm_observer command_observer = { .removed = calls_on_removed };

/* ---- callbacks of the server ---- */

static struct json_object *greeting_make(void *opaque)
{
	struct json_object *o = json_object_new_object(), *qmp = json_object_new_object();

	(void)opaque;
	js_put(qmp, "version", schema_version_to_json());
	js_put(qmp, "capabilities", json_object_new_array());
	js_put(o, "QMP", qmp);
	return o;
}

static enum role peer_role(void *opaque, const struct peer *who, const uint8_t *uuid)
{
	const struct command_context *context = opaque;

	return permissions_role(&context->host->permissions, who, uuid);
}

static uint64_t peer_mark(void *opaque, const struct peer *who)
{
	return permissions_mark(&((const struct command_context *)opaque)->host->permissions, who);
}

static bool peer_known(void *opaque, const struct peer *who)
{
	const struct permissions *p = &((const struct command_context *)opaque)->host->permissions;

	return who ? permissions_know(p, who) : p->n > 0;
}

static void client_dropped(void *opaque, const struct conn *conn, size_t unread_bytes)
{
	const struct command_context *context = opaque;
	struct json_object *data = json_object_new_object();

	js_put_uint(data, "unread", unread_bytes);
	denial_log_report(context->denials, EVENT_CLIENT_DROPPED, conn_uid(conn), conn_pid(conn), data);
}

static void file_received(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	conn_received(opaque, r, res->data, res->ndata, res->nheld, e);
}

static int file_receive(void *opaque, struct conn *conn, int sock, struct client_file **ret, struct err *e)
{
	const struct command_context *context = opaque;
	struct peer who = conn_peer(conn);

	return client_file_receive(context->host->helpers, sock, &who, file_received, conn, ret, e);
}

const struct server_ops command_server_ops = { command_dispatch, greeting_make, peer_role, peer_mark, peer_known,
	file_receive, client_file_free, client_dropped };

void command_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)a;
	call_done(opaque, r, e);
}
