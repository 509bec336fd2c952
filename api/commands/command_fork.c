/* Handler of vm-fork: live clones of a running VM or of a snapshot. */
#include "api/commands/command.h"
#include "api/jobs/fork.h"
#include "api/jobs/job.h"
#include "api/vm/vm.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>

static int how_take(struct call *c, struct fork_how *how, struct err *e)
{
	int64_t count = js_get_int(c->args, "count", 0);

	if (js_get(c->args, "count") && (count < 1 || count > FORK_CLONES_MAX))
		return err_set(e, -EINVAL, ERR_INVALID, "count: %lld is out of range; give 1 to %d",
			(long long)count, FORK_CLONES_MAX);
	how->name = js_get_str(c->args, "name");
	how->count = (unsigned)count;
	how->paused = js_get_bool(c->args, "paused", false);
	how->hint_hostname = js_get_bool(c->args, "hostname", true);
	how->snapshot = js_get_str(c->args, "snapshot");
	if (how->snapshot && (!*how->snapshot || strlen(how->snapshot) > VM_SNAPSHOT_NAME_MAX))
		return err_set(e, -EINVAL, ERR_INVALID, "snapshot: 1 to %d bytes", VM_SNAPSHOT_NAME_MAX);
	return 0;
}

/* A snapshot can be cloned in any state of the VM. */
static int state_check(const struct vm *vm, const struct fork_how *how, struct err *e)
{
	int r = how->snapshot ? 0 : vm_state_check(vm->def->name, vm->state, VM_ASK_FORK, e);

	if (r < 0)
		return r;
	return how->snapshot ? vm_check_free(vm, "clone", e) : vm_check_idle(vm, "clone", e);
}

void command_vm_fork(struct call *c)
{
	struct fork_how how = { 0 };
	struct job *j;
	struct err e;
	int r = 0;

	/* The owner of one VM may not create others. */
	if (conn_role(c->conn) < ROLE_ADMIN)
		r = err_set(&e, -EPERM, ERR_PERMISSION, "to make VMs takes the role of admin of all");
	if (!r)
		r = how_take(c, &how, &e);
	if (!r)
		r = state_check(c->vm, &how, &e);
	if (!r)
		r = fork_begin(c->vm, &how, js_get_str(c->args, "job-id"), &j, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}
