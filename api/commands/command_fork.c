/* Handlers of vm-fork and group-clone: live clones of a running VM or of a snapshot, and of several VMs. */
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/commands/command.h"
#include "api/jobs/fork.h"
#include "api/jobs/group_clone.h"
#include "api/jobs/group_steps.h"
#include "api/jobs/job.h"
#include "api/vm/owner_claim.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Whether the client is root or the author of the source's disks. A clone's process can read its source's images,
 * including data that the source writes later. So clones that other users make get copies. */
static bool is_owner(const struct call *c, const struct vm *vm)
{
	const struct rights *r;
	struct err e;

	return c->uid == 0 || (authors_of_disks(vm->def, &r, &e) == 0 && c->uid == (r ? r->uid : geteuid()));
}

/* Read the limits of each clone. */
static int limits_take(struct call *c, unsigned *ret_quota, uint64_t *ret_memory, struct err *e)
{
	int64_t quota = js_get_int(c->args, "cpu-quota", 0), memory = js_get_int(c->args, "memory-max", 0);

	if (js_get(c->args, "cpu-quota") && (quota < 1 || quota > DEFINITION_CPU_QUOTA_MAX))
		return err_set(e, -EINVAL, ERR_INVALID, "cpu-quota: %lld is out of range; give 1 to %d, in percent of one processor",
			(long long)quota, DEFINITION_CPU_QUOTA_MAX);
	if (js_get(c->args, "memory-max") && (memory < (int64_t)VM_RAM_MIN_BYTES || memory % 4096))
		return err_set(e, -EINVAL, ERR_INVALID, "memory-max: %lld is not a multiple of 4 KiB from 1 MiB on, in bytes", (long long)memory);
	*ret_quota = (unsigned)quota;
	*ret_memory = (uint64_t)memory;
	return 0;
}

static int opts_take(struct call *c, struct fork_opts *opts, struct err *e)
{
	int64_t count = js_get_int(c->args, "count", 0);
	int r = limits_take(c, &opts->cpu_quota, &opts->memory_max_bytes, e);

	if (js_get(c->args, "count") && (count < 1 || count > FORK_CLONES_MAX))
		return err_set(e, -EINVAL, ERR_INVALID, "count: %lld is out of range; give 1 to %d",
			(long long)count, FORK_CLONES_MAX);
	if (r < 0)
		return r;
	opts->name = js_get_str(c->args, "name");
	opts->pattern = js_get_str(c->args, "name-pattern");
	opts->count = (unsigned)count;
	opts->paused = js_get_bool(c->args, "paused", false);
	opts->isolated = js_get_bool(c->args, "isolated", false) || !is_owner(c, c->vm);
	opts->ephemeral = js_get_bool(c->args, "ephemeral", false);
	opts->hint_hostname = js_get_bool(c->args, "hostname", true);
	opts->snapshot = js_get_str(c->args, "snapshot");
	opts->forwards = js_get_array(c->args, "forwards");
	if (!opts->name == !opts->pattern)
		return err_set(e, -EINVAL, ERR_INVALID, "give either name or name-pattern");
	if (opts->snapshot && (!*opts->snapshot || strlen(opts->snapshot) > VM_SNAPSHOT_NAME_MAX))
		return err_set(e, -EINVAL, ERR_INVALID, "snapshot: 1 to %d bytes", VM_SNAPSHOT_NAME_MAX);
	return 0;
}

/* Check that the VM can be cloned now. Without a snapshot, fewer states are legal than the command's trigger allows. */
static int state_check(const struct vm *vm, const struct fork_opts *opts, struct err *e)
{
	int r = opts->snapshot ? 0 : vm_state_check(vm->def->name, vm->state, VM_ASK_FORK, e);

	if (r < 0)
		return r;
	return vm_check_claim(vm, opts->snapshot ? VM_CLAIM_SNAPSHOTS : VM_CLAIM_ALL, "clone it", e);
}

void command_vm_fork(struct call *c)
{
	CLEANUP_FREE struct rights *rights = NULL;
	struct fork_opts opts = { 0 };
	struct job *j;
	struct err e;
	int r = creator_check_copy(c, c->vm, &e);
	if (!r)
		r = opts_take(c, &opts, &e);
	if (!r && opts.forwards)
		r = rights_of_peer(&c->who, &rights, &e);
	opts.forwards_rights = rights;
	if (!r)
		r = state_check(c->vm, &opts, &e);
	opts.owners = r < 0 ? NULL : owner_claim_new(c);
	if (!r)
		r = fork_begin(c->vm, &opts, js_get_str(c->args, "job-id"), &j, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}

/* ---- clones of a group ---- */

static int group_vm_check(const struct vm *vm, struct err *e)
{
	const struct fork_opts opts = { 0 };
	int r = state_check(vm, &opts, e);

	return r < 0 ? r : vm_compat_check_live(vm, VM_KNOWS_GROUP_FORKS, e);
}

void command_group_clone(struct call *c)
{
	struct vm *vms[GROUP_VMS_MAX];
	bool isolated[GROUP_VMS_MAX];
	struct group_clone_opts opts = { .pattern = js_get_str(c->args, "name-pattern"), .paused = js_get_bool(c->args, "paused", false),
		.ephemeral = js_get_bool(c->args, "ephemeral", false), .hint_hostname = js_get_bool(c->args, "hostname", true), .isolated = isolated,
		.keep_networks = js_get_bool(c->args, "keep-networks", false), .forwards = js_get_array(c->args, "forwards") };
	CLEANUP_FREE struct rights *rights = NULL;
	struct job *j = NULL;
	struct err e;
	size_t n = 0;
	int r = command_group_find(c, vms, &n, &e);

	if (!r)
		r = limits_take(c, &opts.cpu_quota, &opts.memory_max_bytes, &e);
	if (!r && opts.forwards)
		r = rights_of_peer(&c->who, &rights, &e);
	opts.forwards_rights = rights;
	for (size_t i = 0; i < n && !r; i++) {
		isolated[i] = js_get_bool(c->args, "isolated", false) || !is_owner(c, vms[i]);
		r = group_vm_check(vms[i], &e);
	}
	if (!r)
		r = group_clone_begin(vms, n, &opts, js_get_str(c->args, "job-id"), c, &j, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}
