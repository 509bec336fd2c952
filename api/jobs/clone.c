#include "api/jobs/clone.h"
#include "api/access/authors.h"
#include "api/access/client_file.h"
#include "api/access/open_as.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/jobs/batch.h"
#include "api/jobs/clone_files.h"
#include "api/jobs/job.h"
#include "api/jobs/snapshots.h"
#include "api/jobs/sysprep.h"
#include "api/store/store.h"
#include "api/vm/identity.h"
#include "api/vm/offline_process.h"
#include "api/vm/pins.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Greatest number of clones that are made concurrently. One disk of each is copied at a time, so that the copies' waits
 * for storage overlap. */
#define AT_ONCE_MAX 4
#define CANCEL_TIMEOUT_NS (10 * 1000000000ULL)

struct target {
	struct cloning *all;
	struct definition *def; /* NULL once the VM has it */
	struct vm *vm;		/* the clone, of which the job is the owner until the job ends */
	uint32_t disk; /* index of the disk that is copied now */
	unsigned nth;  /* index of that disk among the writable disks */
	uint64_t done, total; /* bytes copied of that disk, and its size; 0: not known yet */
	struct vm_clone_disk request; /* for that disk */
	struct open_as *opener;	  /* of the source's images */
	struct client_file *file; /* holds the new file and these images until they are sent */
	struct fork_as *helper;
	struct store_work copied; /* of the UEFI variables */
};

struct cloning {
	struct vm_host *host;
	struct vm *source;
	struct definition *def; /* copy of the source's definition, because the source may be redefined meanwhile */
	struct job *job;
	struct batch *batch;
	bool linked, snapshots, reset_identity;
	struct target *targets;
	unsigned n, next, begun, made;
	unsigned copies; /* writable disks of one clone */
	uint64_t copied; /* bytes of all disks whose copies are complete */
	uint64_t image_bytes; /* bytes that the images of one clone add to a quota */
	struct clone_files_work *look;
	bool working, loop_runs;
	uint64_t begun_ns;
	struct definition **defs; /* the array is owned, the definitions are borrowed; for clone_files_check() */
	struct loop_task task;
};

static void cloning_free(struct cloning *f)
{
	clone_files_free(f->look);
	for (unsigned i = 0; i < f->n; i++) {
		open_as_free(f->targets[i].opener);
		client_file_free(f->targets[i].file);
		fork_as_free(f->targets[i].helper);
		definition_free(f->targets[i].def);
	}
	batch_free(f->batch);
	definition_free(f->def);
	free(f->targets);
	free(f->defs);
	free(f);
}

/* ---- ending the job ---- */

static void result_put(void *opaque, struct json_object *o)
{
	struct cloning *f = opaque;

	js_put_uint(o, "total", loop_now_ns() - f->begun_ns);
	identity_put_forwards(f->def, o);
}

static void clone_end(struct cloning *f)
{
	batch_end(f->batch, f->job, result_put, NULL, f);
}

/* ---- resetting the guests' identity ---- */

static void identities_resume_pending(struct cloning *f);

static bool was_cancelled(struct cloning *f)
{
	struct err e;

	if (f->job->cancelling && !batch_has_failed(f->batch)) {
		err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; no clone remains");
		batch_fail(f->batch, &e);
	}
	return batch_has_failed(f->batch);
}

static void identity_reset(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct target *t = opaque;

	(void)res;
	t->helper = NULL;
	t->all->begun--;
	t->all->made += r == 0;
	if (r < 0 && !was_cancelled(t->all))
		batch_fail(t->all->batch, e);
	job_progress(t->all->job, t->all->made, 2 * (uint64_t)t->all->n);
	identities_resume_pending(t->all);
}

static void identities_resume_pending(struct cloning *f)
{
	struct err e;

	was_cancelled(f);
	while (!batch_has_failed(f->batch) && f->next < f->n && f->begun < AT_ONCE_MAX / 2) {
		struct target *t = &f->targets[f->next++];

		if (sysprep_begin(f->host->helpers, t->vm->def, identity_reset, t, &t->helper, &e) < 0)
			batch_fail(f->batch, &e);
		else
			f->begun++;
	}
	if (f->begun)
		return;
	clone_end(f);
}

/* Continue after the copies are made and the source's offline process has ended: reset the guests' identity if that was
 * requested, or end the job. As the process has released the images, a clone may start at once then. */
static void offline_ended(void *opaque)
{
	struct cloning *f = opaque;

	f->working = false;
	f->source->operation.copiers = 0;
	if (f->reset_identity && !batch_has_failed(f->batch)) {
		f->next = 0;
		identities_resume_pending(f);
	} else {
		clone_end(f);
	}
}

static void copies_done(struct loop_task *task)
{
	struct cloning *f = container_of(task, struct cloning, task);

	if (!offline_wait(f->source, offline_ended, f))
		offline_ended(f);
}

/* ---- copying disks ---- */

static void copies_resume(struct cloning *f);
static void disk_next(struct target *t);

static void progress_report(struct cloning *f)
{
	uint64_t done = f->copied, total = f->copied, known = f->made * (uint64_t)f->copies;

	for (unsigned i = 0; i < f->next; i++) {
		known += f->targets[i].nth;
		done += f->targets[i].done;
		total += f->targets[i].total;
		known += f->targets[i].total ? 1 : 0;
	}
	/* Estimate the unknown size of disks that have not begun by the average of the others. */
	if (!f->reset_identity && !f->linked && known)
		job_progress(f->job, done, MAX(total / known * f->n * f->copies, done));
	else
		job_progress(f->job, f->made, f->reset_identity ? 2 * (uint64_t)f->n : f->n);
}

static void clone_progress(struct job *j, const struct vm_event *ev)
{
	struct cloning *f = j->opaque;
	char *end;
	unsigned long key = strtoul(ev->device, &end, 10);

	if (*end || end == ev->device || key >= f->n || ev->value < 0 || ev->total < ev->value)
		return;
	f->targets[key].done = (uint64_t)ev->value;
	f->targets[key].total = (uint64_t)ev->total;
	progress_report(f);
}

static void target_done(struct target *t, int r, const struct err *e)
{
	struct cloning *f = t->all;

	f->begun--;
	if (r < 0)
		batch_fail(f->batch, e);
	else
		f->made++;
	t->nth = 0;
	progress_report(f);
	copies_resume(f);
}

static void disk_copied(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct target *t = opaque;

	(void)a;
	if (r < 0) {
		target_done(t, r, e);
		return;
	}
	t->all->copied += t->total;
	t->done = t->total = 0;
	t->disk++;
	t->nth++;
	disk_next(t);
}

/* The disk's file was created. If the source's image is an overlay on a pin, note that its copy reads the same pin. */
static int overlay_note(const struct target *t, struct err *e)
{
	const char *from = t->all->def->disks[t->disk].layers[0].path, *to = t->vm->def->disks[t->disk].layers[0].path;

	if (!t->all->snapshots)
		return 0;
	pins_copy(t->vm->host, from, to);
	return pins_has_overlay(t->vm->host, to) ? pins_store(t->vm->host, e) : 0;
}

static void disk_opened(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct target *t = opaque;
	struct err own;

	batch_made(t->all->batch, t->vm, r == -ETIMEDOUT ? VM_DISKS_MAX : t->nth + res->count);
	if (!r && !was_cancelled(t->all)) {
		r = overlay_note(t, &own);
		e = &own;
	}
	if (r < 0 || was_cancelled(t->all)) {
		client_file_free(STEAL_PTR(t->file));
		target_done(t, r, e);
		return;
	}
	offline_request_with(t->all->source, VM_MSG_CLONE_DISK, &t->request, sizeof(t->request), STEAL_PTR(t->file), NULL, 0,
		VM_PROCESS_NO_TIMEOUT, disk_copied, t);
}

static int disk_open(struct target *t, const struct config *c, struct err *e)
{
	struct cloning *f = t->all;
	const struct definition_disk *d = &f->def->disks[t->disk];
	struct clone_copy copy;

	t->request = (struct vm_clone_disk){ .key = (uint32_t)(t - f->targets),
		.mode = f->linked ? VM_CLONE_LINKED : f->snapshots ? VM_CLONE_IMAGE : VM_CLONE_CONTENT };
	snprintf(t->request.disk, sizeof(t->request.disk), "%s", d->id);
	snprintf(t->request.backing_name, sizeof(t->request.backing_name), "%s", f->linked ? d->layers[0].path : "");
	clone_copy_set(&copy, c, t->disk, t->vm->def->disks[t->disk].layers[0].path, &t->request);
	return clone_copy_open(f->host->helpers, author_of(t->vm->def, copy.path), &copy, c, disk_opened, t, &t->file, e);
}

static void sources_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct target *t = opaque;
	struct err own;

	t->opener = NULL;
	if (!r) {
		r = disk_open(t, c, &own);
		e = &own;
		config_done(c);
	}
	if (r < 0)
		target_done(t, r, e);
}

static void disk_next(struct target *t)
{
	const struct definition *def = t->all->def;

	while (t->disk < def->ndisks && def->disks[t->disk].read_only)
		t->disk++;
	if (t->disk == def->ndisks || batch_has_failed(t->all->batch))
		target_done(t, 0, NULL);
	else
		open_as_open(t->all->host->helpers, def, OPEN_AS_WRITTEN_READ, sources_opened, t, &t->opener);
}

static void variables_copied(struct store_work *w)
{
	struct target *t = container_of(w, struct target, copied);

	if (w->r < 0)
		target_done(t, w->r, &w->e);
	else
		disk_next(t);
}

static void target_start(struct target *t)
{
	struct err e;
	int r = batch_add(t->all->batch, t->def, t->all->job, &t->vm, &e);

	t->all->begun++;
	if (r < 0) {
		target_done(t, r, &e);
		return;
	}
	t->def = NULL;
	vm_save(t->vm);
	batch_made(t->all->batch, t->vm, 0);
	t->copied = (struct store_work){ .loop = t->all->host->loop, .done = variables_copied };
	if (t->all->def->firmware == VM_FIRMWARE_UEFI)
		store_copy_file(t->all->host->store, &t->copied, t->all->source->def->name, t->vm->def->name, STORE_NVRAM);
	else
		disk_next(t);
}

static void copies_resume(struct cloning *f)
{
	if (f->loop_runs) /* target_start() in the loop below has called this function; that loop continues */
		return;
	f->loop_runs = true;
	while (!was_cancelled(f) && f->next < f->n && f->begun < AT_ONCE_MAX)
		target_start(&f->targets[f->next++]);
	f->loop_runs = false;
	if (f->begun)
		return;
	f->working = false;
	f->task.run = copies_done;
	loop_post(f->host->loop, &f->task);
}

/* ---- beginning and cancelling the job ---- */

static void clone_start(void *opaque)
{
	struct cloning *f = opaque;
	struct err e;

	if (offline_check(f->source, &e) < 0) {
		job_fail(f->job, &e); /* there is nothing to remove */
		return;
	}
	if (offline_wait(f->source, clone_start, f))
		return;
	f->working = true;
	if (!was_cancelled(f) && batch_begin(f->batch, &e) < 0)
		batch_fail(f->batch, &e);
	if (!batch_has_failed(f->batch) && f->copies)
		offline_start_copiers(f->source, f->linked ? 0 : MIN(f->n, AT_ONCE_MAX));
	copies_resume(f);
}

/* Fail the job before the batch has begun: there is nothing to remove. */
static void end_early(struct cloning *f, const struct err *e)
{
	job_fail(f->job, e);
}

/* Claim quota for the copies, now that the size of the source's images and the number of its snapshots are known. */
static void clone_claim(struct cloning *f)
{
	struct err e;

	if (batch_claim_change(f->batch, f->image_bytes, f->snapshots ? f->source->counts.snapshots : 0, &e) < 0)
		end_early(f, &e);
	else
		clone_start(f);
}

static void clone_counted(void *opaque, int r, const struct err *e)
{
	(void)r;
	(void)e;
	clone_claim(opaque);
}

static void files_checked(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct cloning *f = opaque;

	if (!f->linked)
		f->image_bytes = quota_sum(res->bytes, 0);
	if (r < 0)
		end_early(f, e);
	else if (f->snapshots && quota_limits(f->host, f->targets[0].def, QUOTA_SNAPSHOTS))
		snapshots_count(f->source, false, clone_counted, f);
	else
		clone_claim(f);
}

/* Check for the clones' files. Called from the loop, so that the client gets the job's id before the job can end. */
static void cloning_start(struct loop_task *task)
{
	struct cloning *f = container_of(task, struct cloning, task);
	struct clone_files files = { .defs = f->defs, .n = f->n, .source = f->linked ? NULL : f->def,
		.layers = !f->snapshots };

	for (unsigned i = 0; i < f->n; i++)
		f->defs[i] = f->targets[i].def;
	clone_files_check(f->host->helpers, &files, files_checked, f, &f->look);
}

static void copies_cancelled(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)opaque;
	(void)a;
	if (r < 0 && r != -ESRCH)
		log_debug("clone", "%s", e->msg);
}

static void clone_cancel(struct job *j)
{
	struct cloning *f = j->opaque;

	/* If no copy is under way, copies_resume() checks for the cancel. */
	if (f->working && f->begun && j->vm->offline)
		offline_request(j->vm, VM_MSG_CANCEL, NULL, 0, CANCEL_TIMEOUT_NS, copies_cancelled, NULL);
	for (unsigned i = 0; !f->working && i < f->n; i++)
		sysprep_cancel(f->targets[i].helper);
}

static void clone_release(struct job *j)
{
	cloning_free(j->opaque);
}

static struct cloning *cloning_new(struct vm_host *host, unsigned n)
{
	struct cloning *f = calloc(1, sizeof(*f));

	if (f) {
		f->targets = calloc(n, sizeof(*f->targets));
		f->defs = calloc(n, sizeof(struct definition *));
	}
	if (!f || !f->targets || !f->defs)
		abort(); /* otherwise the client would never get an answer */
	f->host = host;
	f->batch = batch_new(host);
	f->n = n;
	for (unsigned i = 0; i < n; i++)
		f->targets[i].all = f;
	return f;
}

static int source_take(const struct definition *def, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(def);
	int r = definition_parse(o, NULL, ret, e);

	if (!r)
		authors_copy(def, *ret);
	return r;
}

int clone_begin(struct vm *vm, const struct clone_opts *opts, struct clone_plan *plan, const char *job_id,
	struct job **ret_j, struct err *e)
{
	struct cloning *f = cloning_new(vm->host, plan->n);
	int r;

	f->source = vm;
	f->linked = opts->linked;
	f->snapshots = opts->snapshots;
	f->reset_identity = opts->reset_identity;
	for (unsigned i = 0; i < plan->n; i++) {
		f->targets[i].def = STEAL_PTR(plan->defs[i]);
		batch_plan(f->batch, f->targets[i].def);
	}
	batch_set_owners(f->batch, STEAL_PTR(plan->owners));
	clone_plan_done(plan);
	for (uint32_t i = 0; i < vm->def->ndisks; i++)
		f->copies += !vm->def->disks[i].read_only;
	f->image_bytes = f->copies * QUOTA_IMAGE_MIN_BYTES; /* at least */
	r = source_take(vm->def, &f->def, e);
	if (!r)
		r = batch_claim(f->batch, f->targets[0].def, &(struct quota_new){ .n = f->n, .image_bytes = f->image_bytes,
			.snapshots = f->snapshots ? vm->counts.snapshots : 0 }, e);
	if (!r)
		r = job_new(vm, "clone", job_id, &f->job, e);
	if (r < 0) {
		cloning_free(f);
		return r;
	}
	f->job->unit = f->linked || f->reset_identity ? "clones" : "bytes";
	f->job->opaque = f;
	f->job->release = clone_release;
	f->job->cancel = clone_cancel;
	f->job->progress = clone_progress;
	f->begun_ns = loop_now_ns();
	f->task.run = cloning_start;
	loop_post(f->host->loop, &f->task);
	*ret_j = f->job;
	return 0;
}
