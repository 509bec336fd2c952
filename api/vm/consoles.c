#include "api/vm/consoles.h"
#include "api/schema/schema.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_TIMEOUT_NS (10 * 1000000000ULL)
#define RETRY_NS (5 * 1000000000ULL)

_Static_assert(VM_CONSOLE_IDS_MAX >= PERMISSIONS_MAX + 3, "all users and groups with a role fit");

static enum role role_needed(bool agents)
{
	return schema_find(DIALECT_DAEMON, agents ? "agent-connect" : "vm-console")->role;
}

/* List the users and groups that may use the VM's consoles, or its connections to cairn-agent. */
static void allowed_list(const struct vm *vm, bool agents, struct vm_console_end *ret)
{
	const struct vm_host *host = vm->host;
	gid_t operators = server_operators(host->server);
	size_t n = 0;

	ret->ids[n++] = 0;
	ret->ids[n++] = geteuid();
	n += permissions_ids(&host->permissions, vm->def->uuid, role_needed(agents), false, ret->ids + n);
	ret->nusers = (uint32_t)n;
	if (operators != (gid_t)-1)
		ret->ids[n++] = operators;
	n += permissions_ids(&host->permissions, vm->def->uuid, role_needed(agents), true, ret->ids + n);
	ret->ngroups = (uint32_t)n - ret->nusers;
}

/* ---- opening a console ---- */

/* Return 1 + the gid of one of the user's groups that are on the list; 0: none. */
static uint32_t group_of(const struct vm *vm, bool agents, const struct peer *who)
{
	struct vm_console_end allowed;

	allowed_list(vm, agents, &allowed);
	for (uint32_t i = 0; i < allowed.ngroups; i++)
		if (peer_is_in_group(who, allowed.ids[allowed.nusers + i]))
			return allowed.ids[allowed.nusers + i] + 1;
	return 0;
}

void consoles_give_vsock(struct vm *vm, const struct peer *who, struct vm_vsock *body)
{
	vm->consoles.given |= !uid_is_root_or_own(who->uid);
	body->user = who->uid + 1;
	body->group = group_of(vm, body->agent, who);
}

size_t consoles_give(struct vm *vm, const struct peer *who, struct vm_console *body)
{
	vm->consoles.given |= !uid_is_root_or_own(who->uid);
	body->user = who->uid + 1;
	body->group = group_of(vm, false, who);
	return vm_process_knows(vm->proc, VM_KNOWS_CONSOLE_END) ? sizeof(*body) : offsetof(struct vm_console, user);
}

/* ---- ending consoles ---- */

static void end_send(struct vm *vm);
static void list_send(struct vm *vm, bool agents);

static void retry_run(void *opaque)
{
	struct vm_host *host = opaque;

	for (size_t i = 0; i < host->nvms; i++)
		end_send(host->vms[i]);
}

static void retry_arm(struct vm_host *host)
{
	if (!host->consoles_retry && loop_timer_new(host->loop, retry_run, host, &host->consoles_retry) < 0)
		abort();
	loop_timer_arm(host->consoles_retry, loop_now_ns() + RETRY_NS);
}

static void end_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	vm->consoles.asked = false;
	if (r == -ESRCH) {
		vm->consoles.due = false; /* the process has ended, and the consoles with it */
	} else if (r < 0) {
		log_warn("consoles", "VM '%s': clients without a role may still use its consoles; trying again: %s",
			vm->def->name, e->msg);
		vm->consoles.due = true;
		retry_arm(vm->host);
	} else if (!vm->consoles.agents && vm->proc && vm_process_knows(vm->proc, VM_KNOWS_AGENT_END)) {
		list_send(vm, true);
	} else {
		end_send(vm);
	}
}

static void list_send(struct vm *vm, bool agents)
{
	struct vm_console_end body;
	size_t len;

	vm->consoles.asked = true;
	vm->consoles.agents = agents;
	allowed_list(vm, agents, &body);
	len = offsetof(struct vm_console_end, ids) + (body.nusers + body.ngroups) * sizeof(body.ids[0]);
	if (agents)
		body.nusers |= VM_CONSOLE_END_AGENTS;
	vm_process_request(vm->proc, VM_MSG_CONSOLE_END, &body, len, -1, ANSWER_TIMEOUT_NS, end_done, vm);
}

/* Send the VM's process the users who may use its consoles, if the list has changed. */
static void end_send(struct vm *vm)
{
	if (!vm->consoles.due || vm->consoles.asked || !vm->proc || !vm_process_knows(vm->proc, VM_KNOWS_CONSOLE_END))
		return;
	vm->consoles.due = false;
	list_send(vm, false);
}

static bool cannot_end(const struct vm *vm)
{
	return vm->proc && vm->consoles.given && !vm_process_knows(vm->proc, VM_KNOWS_CONSOLE_END);
}

void consoles_check_all(struct vm_host *host)
{
	for (size_t i = 0; i < host->nvms && host->server; i++) {
		struct vm *vm = host->vms[i];

		if (!vm->proc || !vm->consoles.given)
			continue;
		vm->consoles.due = true;
		end_send(vm);
	}
}

/* An earlier daemon may have ended right after it revoked a role. An older process lacks the message and has no list,
 * so wait for the next change. */
static void check_adopted(struct vm *vm)
{
	vm->consoles.due = vm->consoles.given && !cannot_end(vm);
	end_send(vm);
}

void consoles_begin(struct vm_host *host)
{
	for (size_t i = 0; i < host->nvms; i++)
		check_adopted(host->vms[i]);
}

void consoles_adopted(struct vm *vm, const struct vm_info *info)
{
	vm->consoles.given = info->console_readers || info->vsock > 1;
	if (vm->host->server) /* otherwise consoles_begin() follows */
		check_adopted(vm);
}

void consoles_handed_over(struct vm *vm)
{
	end_send(vm);
}

struct json_object *consoles_left(const struct vm_host *host, const uint8_t *uuid)
{
	struct json_object *list = NULL;
	char text[VM_NAME_MAX * 2 + 300];

	for (size_t i = 0; i < host->nvms; i++) {
		const struct vm *vm = host->vms[i];

		if (!cannot_end(vm) || (uuid && memcmp(vm->def->uuid, uuid, sizeof(vm->def->uuid))))
			continue;
		snprintf(text, sizeof(text), "consoles of VM '%s' that are open stay open, because an older version of Cairn "
			"started its process; to end them, bring it up to date: cairn restart-process %s", vm->def->name, shell_word(vm->def->name).s);
		list = list ? list : json_object_new_array();
		json_object_array_add(list, json_object_new_string(text));
	}
	return list;
}
