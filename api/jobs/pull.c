#include "api/jobs/pull.h"
#include "api/access/authors.h"
#include "api/access/fork_as.h"
#include "api/definition/definition.h"
#include "api/jobs/clone_files.h"
#include "api/jobs/job.h"
#include "api/jobs/job_recover.h"
#include "api/jobs/pin_release.h"
#include "api/jobs/snapshots.h"
#include "api/store/store.h"
#include "api/vm/former_files.h"
#include "api/vm/image_users.h"
#include "api/vm/observer.h"
#include "api/vm/pins.h"
#include "api/vm/pull_mark.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEASURE_TIMEOUT_NS (10 * 1000000000ULL)
#define AGAIN_NS 100000000ULL
#define UPDATE_TRIES 100 /* 10 seconds; then the next start ignores the backing files that the definition still names */

struct pull {
	struct store_work work; /* done when the mark is on stable storage, and later the definitions */
	struct job *job;
	struct vm *vm;
	struct vm_disk_pull body;
	char *image; /* path of the disk's image; owned */
	struct loop_timer *again; /* for a pull of an earlier daemon, which the process may still be ending; else NULL */
	uint64_t charged; /* bytes by which this pull has raised vm->counts.made_bytes */
	bool resumed; /* an earlier daemon began the pull */
	struct loop_timer *retry_timer; /* NULL: none */
	unsigned update_tries;
};

static void pull_free(struct pull *p)
{
	loop_timer_free(p->again);
	loop_timer_free(p->retry_timer);
	free(p->image);
	free(p);
}

static const struct definition_disk *disk_find(const struct definition *def, const char *name)
{
	for (unsigned i = 0; i < def->ndisks; i++)
		if (def->disks[i].nlayers && (!strcmp(def->disks[i].id, name) || !strcmp(def->disks[i].layers[0].path, name)))
			return &def->disks[i];
	return NULL;
}

/* ---- the definition ---- */

static void definition_update(void *opaque);

/* Update the definition again, since it was changed meanwhile or cannot be changed now. */
static bool update_later(struct pull *p)
{
	if (p->update_tries++ == UPDATE_TRIES)
		return false;
	if (!p->retry_timer && loop_timer_new(p->vm->host->loop, definition_update, p, &p->retry_timer) < 0)
		return false;
	loop_timer_arm(p->retry_timer, loop_now_ns() + AGAIN_NS);
	return true;
}

/* Make a copy of a definition without the disk's backing files. *ret: the caller's; NULL: it has no backing files for a
 * disk of this id and path. Returns 0 or -errno. */
static int definition_without(const struct pull *p, const struct definition *of, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(of);
	struct json_object *disks = js_get_array(o, "disks");
	bool any = false;

	*ret = NULL;
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *d = json_object_array_get_idx(disks, i);

		if (strcmp(js_get_str_or(d, "id", ""), p->body.disk) || strcmp(js_get_str_or(d, "path", ""), p->image) || !js_get(d, "backing"))
			continue;
		json_object_object_del(d, "backing");
		any = true;
	}
	return any ? definition_parse_stored(o, ret, e) : 0;
}

/* When a client learns of the end, both definitions lack the backing files, even if the daemon is killed then. */
static void live_stored(struct store_work *work)
{
	struct pull *p = container_of(work, struct pull, work);

	job_succeed(p->job, NULL);
	pull_free(p);
}

/* Remove the backing files from the definition that the VM runs with, which ends the disk's mark. If the daemon ends
 * before that is stored, the next one finds the mark and pulls again, which changes the definitions only. */
static void live_update(struct pull *p)
{
	struct definition *def = NULL;
	struct vm *vm = p->vm;
	struct err e;

	if (vm->live && vm->proc && !definition_without(p, vm->live, &def, &e) && def) {
		authors_copy(vm->live, def);
		vm_live_replace(vm, def);
	}
	pull_unmark(vm, p->image);
	vm_save(vm);
	p->work = (struct store_work){ .done = live_stored, .loop = vm->host->loop };
	store_after(vm->host->store, &p->work);
}

static void definition_fail(struct pull *p, int r, const struct err *e)
{
	struct err why;

	err_set(&why, r, e->cls, "the disk's image has no backing file any more, but the definition still names one, which the next start "
		"ignores: %.300s", e->msg);
	job_fail(p->job, &why);
	pull_free(p);
}

static void definition_defined(void *opaque, int r, const struct vm_defined *what, const struct err *e)
{
	struct pull *p = opaque;

	(void)what;
	if (r == -EBUSY && update_later(p))
		return;
	if (r < 0)
		definition_fail(p, r, e);
	else
		live_update(p);
}

/* Remove the backing files from the definition of the next start. If the daemon ends before that is stored, the mark
 * makes the next start ignore them. */
static void definition_update(void *opaque)
{
	struct pull *p = opaque;
	struct vm *vm = p->vm;
	struct definition *def;
	struct err e;
	int r = definition_without(p, vm->def, &def, &e);
	const struct definition_disk *d = disk_find(vm_live(vm), p->image);

	if (d)
		former_files_add(vm, vm_live(vm), d, 1, d->nlayers);
	if (pins_remove(vm->host, p->image))
		pin_release_due(vm->host);
	if (r < 0) {
		definition_fail(p, r, &e);
	} else if (def) {
		authors_copy(vm->def, def);
		vm_define(vm->host, def, VM_REDEFINE, NULL, definition_to_json(vm->def), definition_defined, p);
	} else {
		live_update(p);
	}
}

/* ---- the job ---- */

/* Whether this answer of the process shows that the image still has its backing file. After other errors, such as a
 * failed write of the header, the image may or may not have it. */
static bool image_is_unchanged(int r, const struct err *e)
{
	return r == -EREMOTEIO && (e->cls == ERR_CANCELLED || e->cls == ERR_UNSUPPORTED || e->cls == ERR_BUSY);
}

static void pull_fail(struct pull *p, bool unchanged, const struct err *e)
{
	p->vm->counts.made_bytes -= MIN(p->charged, p->vm->counts.made_bytes);
	if (p->charged)
		vm_save(p->vm);
	if (unchanged)
		pull_unmark(p->vm, p->image);
	job_fail(p->job, e);
	pull_free(p);
}

/* Do nothing: the pull has not begun, and pull_begin() checks for the cancel. */
static void pull_cancel_early(struct job *j)
{
	(void)j;
}

static void pull_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct pull *p = opaque;

	(void)a;
	if (!r) {
		definition_update(p);
		return;
	}
	if (p->again && r == -EREMOTEIO && e->cls == ERR_BUSY) {
		p->job->cancel = pull_cancel_early;
		loop_timer_arm(p->again, loop_now_ns() + AGAIN_NS);
		return;
	}
	pull_fail(p, image_is_unchanged(r, e), e);
}

static void pull_begin(void *opaque)
{
	struct pull *p = opaque;
	struct err e;

	if (p->job->cancelling && !p->again) {
		err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; disk %s keeps its backing file", p->body.disk);
		pull_fail(p, true, &e);
		return;
	}
	p->job->cancel = snapshots_cancel;
	snapshots_request(p->vm, VM_MSG_DISK_PULL, &p->body, sizeof(p->body), VM_PROCESS_NO_TIMEOUT, pull_done, p);
	/* The job ends when the process has ended the pull of the earlier daemon. */
	if (p->job->cancelling)
		snapshots_cancel(p->job);
}

/* The next start would name backing files of a layer that has none any more. */
static int next_check(const struct vm *vm, const struct definition_disk *d, struct err *e)
{
	int at = definition_disk_find(vm->def, d->id);
	const struct definition_disk *next = at < 0 ? NULL : &vm->def->disks[at];

	for (unsigned i = 1; next && i + 1 < next->nlayers; i++)
		if (!strcmp(next->layers[i].path, d->layers[0].path))
			return err_set(e, -EPERM, ERR_WRONG_STATE, "the next start has %.300s above the image of disk %s, such as after an interrupted "
				"snapshot: complete that with cairn snapshot-create-as --reuse-external, or change the definition with cairn edit",
				next->layers[0].path, d->id);
	return 0;
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
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk '%s' has no backing file in the definition of VM '%s'; if its image has "
			"one, add it to \"backing\" of the disk (cairn edit)", d->id, vm->def->name);
	if (d->read_only)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk '%s' of VM '%s' is read-only", d->id, vm->def->name);
	*ret = d;
	return next_check(vm, d, e);
}

/* ---- the quota of the VM's definer ---- */

/* Runs in the forked process. */
static int backing_measure(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct definition_disk *d = arg;

	(void)e;
	out->bytes = clone_disk_bytes(d, 1, d->nlayers);
	return 0;
}

/* Let the pulled bytes count before the pull begins, as if the image had been made as a copy. */
static void backing_measured(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct pull *p = opaque;
	uint64_t bytes = r ? QUOTA_IMAGE_MIN_BYTES : quota_sum(res->bytes, 0);
	struct err own;

	if (r < 0)
		log_info("pull", "VM '%s': the size of the backing files is not known: %s", p->vm->def->name, e->msg);
	if (quota_check_more(p->vm, QUOTA_DISK, bytes, &own) < 0) {
		pull_fail(p, true, &own);
		return;
	}
	p->charged = quota_sum(p->vm->counts.made_bytes, bytes) - p->vm->counts.made_bytes;
	p->vm->counts.made_bytes += p->charged;
	vm_save(p->vm);
	pull_begin(p);
}

static void mark_stored(struct store_work *work)
{
	struct pull *p = container_of(work, struct pull, work);
	const struct definition_disk *d = disk_find(vm_live(p->vm), p->body.disk);
	struct fork_as_spec s = { .run = backing_measure, .arg = d, .what = "measuring the backing files",
		.timeout_ns = MEASURE_TIMEOUT_NS, .done = backing_measured, .opaque = p };
	struct fork_as *x;
	struct err e = work->e;

	if (work->r < 0 && !p->resumed) {
		pull_fail(p, true, &e);
		return;
	}
	/* The pull of an earlier daemon counts already. Root and the daemon's own user have no quota. */
	if (p->resumed || !p->vm->def->rights || !d) {
		pull_begin(p);
		return;
	}
	s.rights = author_of(p->vm->def, d->layers[0].path);
	if (fork_as_begin(p->vm->host->helpers, &s, &x, &e) < 0)
		pull_fail(p, true, &e);
}

/* Begin the pull as job j, which owns the VM. */
static struct pull *pull_start(struct vm *vm, const struct definition_disk *d, uint64_t rate, struct job *j)
{
	struct pull *p = must_alloc(calloc(1, sizeof(*p)));

	*p = (struct pull){ .work = { .done = mark_stored, .loop = vm->host->loop }, .job = j, .vm = vm,
		.body.rate_bytes_per_s = rate, .image = must_alloc(strdup(d->layers[0].path)) };
	snprintf(p->body.disk, sizeof(p->body.disk), "%s", d->id);
	snprintf(j->disk, sizeof(j->disk), "%s", d->id);
	j->speed = rate;
	j->cancel = pull_cancel_early;
	/* The daemon may end during the pull, so the mark has to be stored before the process begins. */
	pull_mark(vm, p->image, rate);
	vm_save_first(vm, &p->work);
	return p;
}

int disk_pull(struct vm *vm, const char *disk, uint64_t rate, const struct job_name *name, struct job **ret_j,
	struct err *e)
{
	const struct definition_disk *d = NULL;
	int r = pull_check(vm, disk, &d, e);

	if (!r)
		r = quota_check_more(vm, QUOTA_DISK, QUOTA_IMAGE_MIN_BYTES, e);
	if (!r)
		r = job_new_named(vm, "blockpull", name, ret_j, e);
	if (!r)
		pull_start(vm, d, rate, *ret_j);
	return r;
}

/* Begin the pull of an earlier daemon again, as the same job. The VM's process has completed the earlier pull, or
 * cancels it because the earlier daemon's connection is gone. */
static void pull_resume(struct vm *vm, const struct vm_info *info)
{
	const char *image = pull_marked(vm);
	const struct definition_disk *d = image ? disk_find(vm_live(vm), image) : NULL;
	struct pull *p;
	struct job *j;
	struct err e;

	(void)info;
	if (!d || pull_check(vm, image, &d, &e) < 0 || job_adopt(vm, "blockpull", &j, &e) < 0)
		return;
	log_info("pull", "VM '%s': the pull of disk %s begins again as %s, because the daemon ended", vm->def->name, d->id,
		j->id);
	p = pull_start(vm, d, vm->pull.rate, j);
	p->resumed = true;
	if (loop_timer_new(vm->host->loop, pull_begin, p, &p->again) < 0)
		p->again = NULL;
}

const struct vm_observer pull_observer = { .adopted = pull_resume };
