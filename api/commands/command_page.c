/* Answers in pages: rows that several VMs have, such as their schedules. */
#include "api/commands/command.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <errno.h>

static bool may_see(const struct call *c, const struct vm *vm)
{
	return call_role_for(c, vm->def->uuid) >= ROLE_VIEWER;
}

bool command_vm_found(struct call *c, const struct vm **ret)
{
	const char *name = js_get_str(c->args, "vm");
	struct err e;

	*ret = name ? vm_find(c->host, name) : NULL;
	if (!name || (*ret && may_see(c, *ret)))
		return true;
	err_set(&e, -ENOENT, ERR_NOT_FOUND, "there is no VM '%.255s'. Next: cairn list --all", name);
	call_fail(c, &e);
	return false;
}

void command_return_page(struct call *c, const char *member, size_t (*append)(const struct vm *vm, struct json_object *list))
{
	const char *after = js_get_str(c->args, "after");
	struct vm_host *host = c->host;
	size_t i = vm_index_after(host, after ? after : ""), bytes = 0;
	struct json_object *o, *list;
	const struct vm *only;

	if (!command_vm_found(c, &only))
		return;
	o = json_object_new_object();
	list = json_object_new_array();
	for (; i < host->nvms && bytes < COMMAND_PAGE_BYTES; i++)
		if ((!only || host->vms[i] == only) && may_see(c, host->vms[i]))
			bytes += append(host->vms[i], list);
	js_put(o, member, list);
	if (i < host->nvms)
		js_put_str(o, "next", host->vms[i - 1]->def->name);
	call_return(c, o);
}
