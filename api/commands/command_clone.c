/* Handlers of clones of a VM that is off, and of templates. */
#include "api/jobs/clone.h"
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/commands/command.h"
#include "api/jobs/job.h"
#include "api/jobs/sysprep.h"
#include "api/store/store.h"
#include "api/vm/image_users.h"
#include "api/vm/offline_process.h"
#include "api/vm/owner_claim.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIST_TIMEOUT_NS (30 * 1000000000ULL)

/* ---- clone ---- */

static int source_check(struct call *c, struct err *e)
{
	const struct vm *vm = c->vm;

	if (creator_check_copy(c, vm, e) < 0)
		return -EPERM;
	if (vm_state_refuse_kept(vm->def->name, vm->state, "clone it", e) < 0)
		return -EPERM;
	if (vm_state_is_active(vm->state))
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"VM '%.255s' is %s, and its disks would change during the copy. Next: cairn clone --live "
			"%s NAME, or shut the VM down first",
			vm->def->name, vm_state_name(vm->state), shell_word(vm->def->name).s);
	if (vm->state == VM_SAVED)
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"VM '%.255s' has a managed save, and its disks are incomplete without the save; start the VM "
			"and shut it down, or drop the save with: cairn managedsave-remove %s",
			vm->def->name, shell_word(vm->def->name).s);
	/* If an offline process is only listing the VM's snapshots, the clone waits for its end. */
	return vm_check_claim(vm, VM_CLAIM_AFTER_READ, "clone it", e);
}

/* Check whether the client may give the argument `files`. The daemon creates these files with the rights of the author
 * of the source's disks, so only that user, root and the daemon's own user may give the argument. */
static int files_check(const struct call *c, struct err *e)
{
	CLEANUP_FREE struct rights *mine = NULL;
	const struct rights *theirs;
	int r = js_get(c->args, "files") ? rights_of_peer(&c->who, &mine, e) : 0;

	if (!r && mine)
		r = authors_of_disks(c->vm->def, &theirs, e);
	if (r < 0 || !mine || (theirs && theirs->uid == mine->uid))
		return r;
	return err_set(e, -EPERM, ERR_PERMISSION,
		"files: the VM's disks are another user's, and the copies are created with that user's rights; omit files "
		"to create the copies beside the VM's disks");
}

static int opts_take(struct call *c, struct clone_opts *opts, struct err *e)
{
	const struct rights *author;
	const char *kind = js_get_str(c->args, "kind");
	int64_t count = js_get_int(c->args, "count", 0);
	int r;

	if (js_get(c->args, "count") && (count < 1 || count > CLONES_MAX))
		return err_set(e, -EINVAL, ERR_INVALID, "count: %lld is out of range; give 1 to %d",
			(long long)count, CLONES_MAX);
	opts->linked = kind && !strcmp(kind, "linked");
	opts->name = js_get_str(c->args, "name");
	opts->pattern = js_get_str(c->args, "name-pattern");
	opts->count = (unsigned)count;
	opts->snapshots = js_get_bool(c->args, "snapshots", false);
	opts->reset_identity = js_get_bool(c->args, "reset-identity", false);
	opts->files = js_get_array(c->args, "files");
	opts->macs = js_get_array(c->args, "macs");
	opts->uuid = js_get_str(c->args, "uuid");
	r = opts->reset_identity ? sysprep_check(e) : 0;
	/* virt-sysprep opens all disks in one process. */
	return r || !opts->reset_identity ? r : authors_of_disks(c->vm->def, &author, e);
}

static void plan_return(struct call *c, const struct clone_plan *p)
{
	struct json_object *o = json_object_new_object();

	js_put(o, "clones", clone_plan_to_json(p, c->vm));
	call_return(c, o);
}

void command_vm_clone(struct call *c)
{
	bool dry_run = js_get_bool(c->args, "dry-run", false);
	struct clone_plan plan = { 0 };
	struct clone_opts opts = { 0 };
	struct job *j;
	struct err e;
	int r = source_check(c, &e);

	if (!r)
		r = files_check(c, &e);
	if (!r)
		r = opts_take(c, &opts, &e);
	opts.owners = r < 0 ? NULL : owner_claim_new(c);
	if (!r)
		r = clone_plan_make(c->vm, &opts, &plan, &e);
	if (!r && !dry_run)
		r = clone_begin(c->vm, &opts, &plan, js_get_str(c->args, "job-id"), &j, &e);
	if (r < 0)
		call_fail(c, &e);
	else if (dry_run)
		plan_return(c, &plan);
	else
		call_return_job(c, j);
	clone_plan_done(&plan);
}

/* ---- template ---- */

static void template_retry(void *opaque)
{
	struct call *c = opaque;
	struct err e;

	if (c->vm) {
		command_vm_template(c);
		return;
	}
	err_set(&e, -ENOENT, ERR_NOT_FOUND, "there is no VM '%.255s' any more", js_get_str(c->args, "vm"));
	call_fail(c, &e);
}

struct template_mark {
	struct store_work work;
	struct call *call;
};

static void template_done(struct call *c, int r, const struct err *e)
{
	vm_operation_end(c->vm);
	if (r < 0) {
		call_fail(c, e);
		return;
	}
	vm_set(c->vm, VM_FACT_TEMPLATE, !js_get_bool(c->args, "disable", false));
	vm_emit(c->vm, EVENT_VM_DEFINED, NULL);
	call_return(c, NULL);
}

static void template_stored(struct store_work *work)
{
	struct template_mark *m = container_of(work, struct template_mark, work);

	template_done(m->call, work->r, &work->e);
	free(m);
}

/* Store or remove the mark "template". No other operation on the VM starts until that is done. */
static void template_store(struct call *c, bool on)
{
	struct store *s = c->host->store;
	struct template_mark *m = must_alloc(calloc(1, sizeof(*m)));
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct err e;
	int r;

	*m = (struct template_mark){ { .done = template_stored, .loop = c->host->loop }, c };
	r = on ? store_put(s, c->vm->def->name, VM_TEMPLATE_FILE, o, STORE_WITH_WORK, &m->work, &e) :
		 store_remove_file(s, c->vm->def->name, VM_TEMPLATE_FILE, STORE_WITH_WORK, &m->work, &e);
	if (r < 0) {
		free(m);
		template_done(c, r, &e);
	}
}

static int template_unset_check(const struct vm *vm, struct err *e)
{
	char clones[360];

	if (!image_clones(vm, clones, sizeof(clones)))
		return 0;
	return err_set(e, -EPERM, ERR_WRONG_STATE,
		"VM '%.120s' is the template of linked clones (%s); undefine them first", vm->def->name, clones);
}

/* The offline process has opened the images and thereby completed repairs after a crash. This must happen before the
 * mark is stored, because the images are not written as long as the VM is a template. */
static void offline_opened(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;

	(void)a;
	if (r < 0)
		template_done(c, r, e);
	else
		template_store(c, true);
}

static bool has_snapshots_disk(const struct definition *def)
{
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (!def->disks[i].read_only && !def->disks[i].layers[0].data_file &&
			def->disks[i].layers[0].format == DEFINITION_FORMAT_QCOW2)
			return true;
	return false;
}

void command_vm_template(struct call *c)
{
	static const struct vm_snapshot_list all = { 0 };
	bool disable = js_get_bool(c->args, "disable", false);
	struct err e;
	int r;

	if (offline_check(c->vm, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	/* An offline process that lists the VM's snapshots may still exist: wait until it has ended. */
	if (!c->vm->operation.job && offline_wait(c->vm, template_retry, c))
		return;
	r = vm_check_claim(c->vm, VM_CLAIM_ALL, "change it", &e);
	if (!r && disable)
		r = template_unset_check(c->vm, &e);
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	vm_operation_begin(c->vm, &(struct vm_operation){ .kind = VM_OP_TEMPLATE });
	if (disable || image_is_frozen(c->vm) || !has_snapshots_disk(c->vm->def)) {
		template_store(c, !disable);
		return;
	}
	offline_request(c->vm, VM_MSG_SNAPSHOT_LIST, &all, sizeof(all), LIST_TIMEOUT_NS, offline_opened, c);
}
