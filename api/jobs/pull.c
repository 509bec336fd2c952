#include "api/jobs/pull.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/jobs/pin_release.h"
#include "api/jobs/snapshots.h"
#include "api/vm/image_users.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CANCEL_TIMEOUT_NS (10 * 1000000000ULL)

struct pull {
	struct job *job;
	struct vm *vm;
	bool was_pending;
	char disk[sizeof(((struct definition_disk *)NULL)->id)];
};

static const struct definition_disk *disk_find(const struct definition *def, const char *name)
{
	for (unsigned i = 0; i < def->ndisks; i++)
		if (def->disks[i].nlayers && (!strcmp(def->disks[i].id, name) || !strcmp(def->disks[i].layers[0].path, name)))
			return &def->disks[i];
	return NULL;
}

/* ---- the definition ---- */

static void definition_defined(void *opaque, int r, const struct vm_defined *what, const struct err *e)
{
	struct pull *p = opaque;
	struct vm *vm = p->vm;
	struct err why;

	(void)what;
	if (r < 0) {
		err_set(&why, r, e->cls, "the disk's image has no backing file any more, but the definition still names one, "
			"which the next start ignores: %.300s", e->msg);
		job_fail(p->job, &why);
	} else {
		/* The process no longer reads a backing file either. If its definition differed from the next start's
		 * in nothing else, both are equal now. */
		if (!p->was_pending) {
			definition_free(vm->live);
			vm->live = NULL;
		}
		job_succeed(p->job, NULL);
	}
	free(p);
}

/* Return a copy of the definition for the next start without the disk's backing files; the caller owns it. NULL: the
 * definition has no backing files for this disk, or copying failed. */
static struct definition *definition_without(const struct vm *vm, const char *disk, const char *path)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm->def), *its = json_object_new_object();
	struct json_object *disks = js_get_array(o, "disks");
	struct definition *def = NULL;
	bool any = false;
	struct err e;

	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *d = json_object_array_get_idx(disks, i);

		if (strcmp(js_get_str_or(d, "id", ""), disk) || strcmp(js_get_str_or(d, "path", ""), path) || !js_get(d, "backing"))
			continue;
		json_object_object_del(d, "backing");
		any = true;
	}
	if (!any || definition_parse(o, NULL, &def, &e) < 0)
		return NULL;
	if (vm->def->rights) {
		rights_put(its, vm->def->rights);
		if (rights_take(its, &def->rights, &e) < 0) {
			definition_free(def);
			return NULL;
		}
	}
	return def;
}

/* Remove the backing files from the definition. If the daemon ends before it has done so, the next start ignores them
 * (block_open.may_stand_alone). */
static void definition_settle(struct pull *p)
{
	struct vm *vm = p->vm;
	const struct definition_disk *d = disk_find(vm_live(vm), p->disk);
	struct definition *def = d ? definition_without(vm, p->disk, d->layers[0].path) : NULL;

	if (d && pins_forget(vm->host, d->layers[0].path))
		pin_release_due(vm->host);
	p->was_pending = vm->live;
	if (def) {
		vm_define(vm->host, def, VM_REDEFINE, NULL, definition_defined, p);
		return;
	}
	job_succeed(p->job, NULL);
	free(p);
}

/* ---- the job ---- */

static void pull_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct pull *p = opaque;

	(void)a;
	if (!r) {
		definition_settle(p);
		return;
	}
	job_fail(p->job, e);
	free(p);
}

static void cancel_ignore(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)opaque;
	(void)a;
	if (r < 0 && r != -ESRCH)
		log_info("pull", "not cancelled: %s", e->msg);
}

static void pull_cancel(struct job *j)
{
	snapshots_request(j->vm, VM_MSG_CANCEL, NULL, 0, CANCEL_TIMEOUT_NS, cancel_ignore, NULL);
}

static int pull_check(const struct vm *vm, const char *disk, const struct definition_disk **ret, struct err *e)
{
	const struct definition_disk *d = disk_find(vm_live(vm), disk);
	int r = vm_check_claim(vm, VM_CLAIM_SNAPSHOTS, "pull its disk", e);

	if (!r && !vm_state_is_active(vm->state))
		r = image_check_writable(vm, "pull its disk", e);
	if (!r)
		r = vm_compat_check(vm, e);
	if (r < 0)
		return r;
	if (!d)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%s' has no disk '%.200s'; see cairn domblklist", vm->def->name, disk);
	if (d->nlayers < 2)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk '%s' of VM '%s' has no backing file", d->id, vm->def->name);
	if (d->read_only)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk '%s' of VM '%s' is read-only", d->id, vm->def->name);
	*ret = d;
	return 0;
}

int disk_pull(struct vm *vm, const char *disk, uint64_t rate, const struct job_name *name, struct job **ret_j,
	struct err *e)
{
	struct vm_disk_pull body = { .rate_bytes_per_s = rate };
	const struct definition_disk *d = NULL;
	struct pull *p;
	int r = pull_check(vm, disk, &d, e);

	if (!r)
		r = job_new_named(vm, "blockpull", name, ret_j, e);
	if (r < 0)
		return r;
	p = must_alloc(calloc(1, sizeof(*p)));
	*p = (struct pull){ *ret_j, vm, false, "" };
	snprintf(p->disk, sizeof(p->disk), "%s", d->id);
	snprintf(body.disk, sizeof(body.disk), "%s", d->id);
	p->job->cancel = pull_cancel;
	snapshots_request(vm, VM_MSG_DISK_PULL, &body, sizeof(body), VM_PROCESS_NO_TIMEOUT, pull_done, p);
	return 0;
}
