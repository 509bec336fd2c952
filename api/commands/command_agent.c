/* Handlers of vm-agent-command and vm-agent-query: commands of clients for the guest agent. The agent's answer goes
 * through a memfd; the daemon copies short answers and never parses one. */
#include "api/commands/command.h"
#include "api/definition/definition.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TIMEOUT_DEFAULT_S 5
/* How long the VM's process may take beyond the command's own time limit: for the command's turn, for the sync with the
 * agent, and for itself. */
#define BEYOND_NS (15 * 1000000000ULL)

/* ---- for the audit log ---- */

/* Members of a command's arguments that hold data; audit.c masks passwords. */
static const char *const hidden[] = { "input-data", "buf-b64", "env", "keys" };

/* Return a copy of the arguments, with "..." in place of those that may be secret or long. */
static struct json_object *secrets_hide(struct json_object *args)
{
	struct json_object *o = json_object_new_object();

	json_object_object_foreach(args, key, v)
	{
		bool hide = false;

		for (size_t i = 0; i < ARRAY_SIZE(hidden); i++)
			hide |= !strcmp(key, hidden[i]);
		js_put(o, key, hide ? json_object_new_string("...") : json_object_get(v));
	}
	return o;
}

struct json_object *command_agent_audited(struct json_object *args)
{
	struct json_object *o = json_object_new_object(), *command = js_get(args, "command"), *its = js_get(command, "arguments");

	js_put_str(o, "vm", js_get_str(args, "vm"));
	js_put_str(o, "command", js_get_str(command, "execute"));
	if (json_object_is_type(its, json_type_object))
		js_put(o, "arguments", secrets_hide(its));
	return o;
}

struct json_object *command_exec_audited(struct json_object *args)
{
	return secrets_hide(args);
}

/* ---- checking a command ---- */

/* Commands of vm-agent-query. One with '*' at its end is a prefix. */
static const char *const queries[] = { "guest-ping", "guest-info", "guest-get-*", "guest-network-get-*", "guest-fsfreeze-status",
	"guest-exec-status", "guest-file-read", "guest-file-write", "guest-file-seek", "guest-file-flush", "guest-file-close" };

static bool is_query(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(queries); i++) {
		size_t len = strlen(queries[i]);

		if (queries[i][len - 1] == '*' ? !strncmp(name, queries[i], len - 1) : !strcmp(name, queries[i]))
			return true;
	}
	return false;
}

static int command_check(const struct call *c, struct json_object *command, bool query, struct err *e)
{
	const char *name = js_get_str(command, "execute");
	int64_t timeout = js_get_int(c->args, "timeout", TIMEOUT_DEFAULT_S);

	if (!name)
		return err_set(e, -EINVAL, ERR_INVALID, "the guest agent's command needs a member \"execute\", such as "
			"{\"execute\": \"guest-info\"}");
	/* The agent sends no answer to this command, and the daemon has to know that the guest was asked to power
	 * off. */
	if (!strcmp(name, "guest-shutdown"))
		return err_set(e, -EINVAL, ERR_INVALID, "guest-shutdown cannot be sent as it is; use cairn shutdown %s --mode agent",
			shell_word(c->vm->def->name).s);
	if (query && !is_query(name))
		return err_set(e, -EINVAL, ERR_INVALID, "'%.60s' may change something in the guest; use vm-agent-command", name);
	if (timeout < 1 || timeout > VM_AGENT_TIMEOUT_MAX_S)
		return err_set(e, -EINVAL, ERR_INVALID, "the time limit must be 1 to %d seconds", VM_AGENT_TIMEOUT_MAX_S);
	if (!c->vm->proc)
		return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%.200s' does not run; next: cairn start %s", c->vm->def->name,
			shell_word(c->vm->def->name).s);
	if (!vm_process_knows(c->vm->proc, VM_KNOWS_AGENT_COMMAND))
		return vm_compat_refuse(c->vm->def->name, e);
	return 0;
}

/* Print the command on one line. Returns the length of the message; -E2BIG. */
static int body_fill(struct vm_agent_command *body, struct json_object *command, int64_t timeout_s, struct err *e)
{
	size_t len;
	const char *text = json_object_to_json_string_length(command, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);

	if (len > sizeof(body->text))
		return err_set(e, -E2BIG, ERR_INVALID, "the guest agent's command has %zu bytes; at most %zu are possible", len,
			sizeof(body->text));
	body->timeout_ms = (uint32_t)timeout_s * 1000;
	memcpy(body->text, text, len);
	return (int)(offsetof(struct vm_agent_command, text) + len);
}

/* ---- the answer ---- */

struct agent_wait {
	struct call *call;
	int fd; /* a memfd, into which the VM's process writes the answer */
};

/* Put the answer's text into o. It is untrusted, and so is its length. */
static int answer_put(struct json_object *o, int fd, uint64_t bytes, struct err *e)
{
	CLEANUP_FREE char *text = must_alloc(calloc(1, MIN(bytes, (uint64_t)JS_ANSWER_MAX) + 1));

	if (bytes < JS_ANSWER_MAX && pread(fd, text, bytes, 0) < 0)
		return err_set_errno(e, -errno, "cannot read the guest agent's answer");
	utf8_clean(text);
	js_put_str(o, "answer", text);
	if (bytes < JS_ANSWER_MAX && js_line_bytes(o) < JS_ANSWER_MAX)
		return 0;
	return err_set(e, -EMSGSIZE, ERR_GENERIC, "the guest agent's answer has %llu bytes, too many for an answer of the daemon; ask for it "
		"as a file (\"fd\": true), as the command cairn does", (unsigned long long)bytes);
}

static void agent_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct agent_wait *w = opaque;
	struct json_object *o = NULL;
	struct err own;

	if (!r) {
		o = json_object_new_object();
		js_put_uint(o, "bytes", a->agent->bytes);
		if (!js_get_bool(w->call->args, "fd", false)) {
			r = answer_put(o, w->fd, a->agent->bytes, &own);
			e = &own;
			close(w->fd);
			w->fd = -1;
		}
	}
	if (r < 0) {
		json_object_put(o);
		if (w->fd >= 0)
			close(w->fd);
		call_fail(w->call, e);
	} else if (w->fd >= 0) {
		call_return_fd(w->call, o, w->fd);
	} else {
		call_return(w->call, o);
	}
	free(w);
}

static void agent_ask(struct call *c, bool query)
{
	CLEANUP_FREE struct vm_agent_command *body = must_alloc(malloc(sizeof(*body)));
	struct json_object *command = js_get(c->args, "command");
	int64_t timeout_s = js_get_int(c->args, "timeout", TIMEOUT_DEFAULT_S);
	struct agent_wait *w;
	struct err e;
	int r = command_check(c, command, query, &e), fd = -1;

	if (!r)
		r = body_fill(body, command, timeout_s, &e);
	if (r > 0) {
		fd = memfd_create("agent-answer", MFD_CLOEXEC);
		if (fd < 0)
			r = err_set_errno(&e, -errno, "guest agent");
	}
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	w = must_alloc(malloc(sizeof(*w)));
	*w = (struct agent_wait){ c, fd };
	vm_process_request(c->vm->proc, VM_MSG_AGENT_COMMAND, body, (size_t)r, fd,
		(uint64_t)timeout_s * 1000000000ULL + BEYOND_NS, agent_done, w);
}

void command_vm_agent_command(struct call *c)
{
	agent_ask(c, false);
}

void command_vm_agent_query(struct call *c)
{
	agent_ask(c, true);
}
