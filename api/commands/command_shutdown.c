/* Handlers of shutdown, reboot and the host's shutdown. */
#include "api/commands/command.h"
#include "api/policy/host_shutdown.h"
#include "api/policy/shutdown.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/shell_word.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NS 1000000000LL
#define PLAN_MAX_S (366LL * 24 * 3600)
#define TIMEOUT_MAX_S (24 * 3600)

/* ---- shutdown, reboot ---- */

static int mode_parse(struct call *c, struct shutdown_plan *p, struct err *e)
{
	const char *mode = js_get_str(c->args, "mode");

	p->agent = mode && !strcmp(mode, "agent");
	if (p->agent && !vm_live(c->vm)->guest_agent)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"VM '%s' has no port for a guest agent; set \"guest_agent\": true with cairn edit %s, shut the VM down and start it",
			c->vm->def->name, shell_word(c->vm->def->name).s);
	return 0;
}

static int deadline_parse(struct call *c, struct shutdown_plan *p, struct err *e)
{
	/* In the order of the schema's words for FIELD_SHUTDOWN_THEN. */
	static const enum definition_then thens[] = { DEFINITION_LEAVE, DEFINITION_DESTROY, DEFINITION_SAVE };
	int i = field_type_index(FIELD_SHUTDOWN_THEN, js_get_str(c->args, "then"));
	int64_t timeout = js_get_int(c->args, "timeout", p->deadline_s);

	if (timeout < 1 || timeout > TIMEOUT_MAX_S)
		return err_set(e, -EINVAL, ERR_INVALID, "timeout: %lld is out of range; give 1 to %d seconds",
			(long long)timeout, TIMEOUT_MAX_S);
	if (i >= 0)
		p->then = (uint8_t)thens[i];
	p->deadline_s = (uint32_t)timeout;
	return 0;
}

static int time_parse(struct call *c, struct shutdown_plan *p, struct err *e)
{
	const char *message = js_get_str(c->args, "message");
	int64_t at = js_get_int(c->args, "at", 0), now = time(NULL);

	p->at_s = at / NS;
	if (at && (p->at_s < now || p->at_s - now > PLAN_MAX_S))
		return err_set(e, -EINVAL, ERR_INVALID, "at: is %s; give a time within the next year",
			p->at_s < now ? "past" : "too far away");
	if (message && strlen(message) > SHUTDOWN_MESSAGE_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "message: is %zu bytes long; at most %d", strlen(message),
			SHUTDOWN_MESSAGE_MAX);
	for (const char *s = message; s && *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			return err_set(e, -EINVAL, ERR_INVALID,
				"message: must be one line without control characters");
	snprintf(p->message, sizeof(p->message), "%s", message ? message : "");
	return 0;
}

/* Refuse to change the shutdown of a VM for which the host's shutdown waits. The wait is limited by the VM's
 * definition, and an operator of one VM must not make it longer. */
static int stop_check(const struct call *c, struct err *e)
{
	if (!host_shutdown_waits_for(c->vm))
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY,
		"VM '%.200s' is being stopped by cairn daemon-stop; to stop it at once: cairn destroy %s",
		c->vm->def->name, shell_word(c->vm->def->name).s);
}

static void shutdown_done(void *opaque, int r, const struct err *e)
{
	struct call *c = opaque;
	struct json_object *o = NULL;

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	if (r && c->dialect == DIALECT_DAEMON) {
		o = json_object_new_object();
		js_put_str(o, "delayed", c->vm->shutdown->plan.delay_reason);
		js_put_int(o, "at", c->vm->shutdown->plan.at_s * NS);
	}
	c->when_stored |= r > 0;
	call_return(c, o);
}

static void shutdown_ask(struct call *c, bool reboot)
{
	struct shutdown_plan p;
	struct err e;
	int r;

	shutdown_plan_default(c->vm, &p);
	p.reboot = reboot;
	r = stop_check(c, &e);
	if (!r)
		r = mode_parse(c, &p, &e);
	if (!r)
		r = deadline_parse(c, &p, &e);
	if (!r)
		r = time_parse(c, &p, &e);
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	/* The plan and the deadline must survive a kill of the daemon after the answer. */
	c->when_stored = p.at_s || !reboot;
	if (p.at_s) {
		shutdown_plan(c->vm, &p);
		call_return(c, NULL);
	} else {
		shutdown_request(c->vm, &p, shutdown_done, c);
	}
}

void command_vm_shutdown(struct call *c)
{
	shutdown_ask(c, false);
}

void command_vm_reboot(struct call *c)
{
	shutdown_ask(c, true);
}

void command_vm_shutdown_cancel(struct call *c)
{
	struct err e;

	if (stop_check(c, &e) < 0 || shutdown_cancel(c->vm, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	c->when_stored = true;
	call_return(c, NULL);
}

/* ---- the host's shutdown ---- */

void command_daemon_stop(struct call *c)
{
	/* In the order of the schema's words for FIELD_STOP_ACTION. */
	static const enum definition_then actions[] = { DEFINITION_LEAVE, DEFINITION_SHUTDOWN, DEFINITION_SAVE };
	int i = field_type_index(FIELD_STOP_ACTION, js_get_str(c->args, "action"));
	bool host_ends = js_get_bool(c->args, "host-ends", false);
	int action = i >= 0 ? (int)actions[i] : host_ends ? HOST_SHUTDOWN_HOST_ENDS : HOST_SHUTDOWN_AS_DEFINED;
	struct err e;

	if (js_get_bool(c->args, "dry-run", false)) {
		call_return(c, host_shutdown_plan(c->host, action));
		return;
	}
	if (host_shutdown_all(c->host, action, !js_get_bool(c->args, "vms-only", false), c, &e) < 0)
		call_fail(c, &e);
}
