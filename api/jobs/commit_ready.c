#include "api/jobs/commit_ready.h"
#include "api/access/authors.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/schema/call.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_copy.h"
#include "api/vm/vm_layers.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ready {
	struct job *job;
	uint8_t uuid[16];
	char disk[16], image[4096], base[4096], format[8];
	struct call *call; /* completes or leaves the job, which stays ready until the call is answered; NULL: none */
	bool leaving;
	bool ended; /* the copy is over, but the call is not */
	struct definition *before; /* owned: the next start's definition before the pivot; NULL: the same */
};

/* ---- the end of the job ---- */

static void ready_free(struct job *j)
{
	struct ready *x = j->opaque;

	definition_free(x->before);
	free(x);
}

static struct ready *ready_of(const struct job *j)
{
	return j && j->status == JOB_READY ? j->opaque : NULL;
}

/* Find the job that the call ends. */
static struct ready *ready_find(const struct call *c)
{
	for (struct job *j = c->host->jobs; j; j = j->next)
		if (ready_of(j) && ready_of(j)->call == c)
			return ready_of(j);
	return NULL;
}

static void ready_fail(struct ready *x)
{
	struct err e;

	err_set(&e, -ECANCELED, ERR_CANCELLED, x->job->cancelling ? "the job was cancelled; disk %s keeps its layers"
		: "the VM has ended; disk %s keeps its layers", x->disk);
	job_fail(x->job, &e);
}

/* Answer the call that was to end the job, which has failed. */
static void call_refuse(struct ready *x, const struct err *e)
{
	call_fail(STEAL_PTR(x->call), e);
	definition_free(STEAL_PTR(x->before));
	x->leaving = false;
	if (x->ended)
		ready_fail(x);
}

/* ---- completing ---- */

/* Return the VM's definition without the layers above the base; NULL: it has other layers. */
static struct definition *definition_below(const struct ready *x, const struct definition *of)
{
	CLEANUP_JS struct json_object *o = definition_to_json(of);
	int at = definition_disk_find(of, x->disk);
	const struct definition_disk *d = at < 0 ? NULL : &of->disks[at];
	struct definition *def;
	unsigned base = 0;
	struct err e;

	while (d && base < d->nlayers && strcmp(d->layers[base].path, x->base))
		base++;
	if (!d || !base || base == d->nlayers || strcmp(d->layers[0].path, x->image))
		return NULL;
	vm_layers_drop(json_object_array_get_idx(js_get_array(o, "disks"), (size_t)at), 0, base);
	if (definition_parse_stored(o, &def, &e) < 0)
		return NULL;
	authors_copy(of, def);
	return def;
}

static void restored(void *opaque, int r, const struct vm_defined *what, const struct err *e)
{
	(void)opaque;
	(void)what;
	if (r < 0)
		log_warn("job", "the next start has the image that a commit wrote to: %s", e->msg);
}

/* Return whether the daemon or the VM's process has refused the pivot. After another error, the base may be in use. */
static bool is_refusal(const struct err *e)
{
	return e->cls == ERR_INVALID || e->cls == ERR_BUSY || e->cls == ERR_NOT_FOUND || e->cls == ERR_UNSUPPORTED || e->cls == ERR_IO;
}

static void pivoted(void *opaque, int r, const struct err *e)
{
	struct call *c = opaque;
	struct ready *x = ready_find(c);

	if (!r) {
		x->call = NULL;
		job_succeed(x->job, NULL);
		call_return(c, NULL);
		return;
	}
	if (c->vm && x->before && is_refusal(e))
		vm_define(c->host, STEAL_PTR(x->before), VM_REDEFINE, NULL, definition_to_json(c->vm->def), restored, NULL);
	call_refuse(x, e);
}

static void pivot_ask(struct ready *x, bool check_only, void (*answer)(void *call, int r, const struct err *e))
{
	struct json_object *args = x->call->args;

	js_put_str(args, "disk", x->disk);
	js_put_str(args, "path", x->base);
	js_put_str(args, "format", x->format);
	js_put_bool(args, "check-only", check_only);
	vm_copy_pivot(x->call, answer);
}

static void defined(void *opaque, int r, const struct vm_defined *what, const struct err *e)
{
	struct ready *x = opaque;
	struct err own;

	(void)what;
	if (r < 0) {
		call_refuse(x, e);
	} else if (x->ended) {
		err_set(&own, -EPERM, ERR_WRONG_STATE, "the VM has ended meanwhile");
		call_refuse(x, &own);
	} else {
		pivot_ask(x, false, pivoted);
	}
}

/* Until the pivot, both images have all data that the guest has flushed, so a crash between the steps loses nothing. */
static void checked(void *opaque, int r, const struct err *e)
{
	struct call *c = opaque;
	struct ready *x = ready_find(c);
	struct definition *def;
	struct err own;

	if (r < 0) {
		call_refuse(x, e);
		return;
	}
	def = !authors_definition_copy(c->vm->def, &x->before, &own) ? definition_below(x, c->vm->def) : NULL;
	if (def)
		vm_define(c->host, def, VM_REDEFINE, NULL, definition_to_json(c->vm->def), defined, x);
	else /* the pivot checks the layers in the definition */
		pivot_ask(x, false, pivoted);
}

/* Return what the call may end; NULL: answered. verb: QEMU's. */
static struct ready *ready_take(struct call *c, struct job *j, const char *verb)
{
	struct ready *x = ready_of(j);
	struct err e;

	if (x && !x->call && !j->cancelling) {
		x->call = c;
		return x;
	}
	err_set(&e, -EPERM, ERR_WRONG_STATE, "Job '%s' in state '%s' cannot accept command verb '%s'", j->qmp_id,
		x ? "pending" : job_status_name(j), verb);
	call_fail(c, &e);
	return NULL;
}

void commit_ready_complete(struct call *c, struct job *j)
{
	struct ready *x = ready_take(c, j, "complete");

	if (x)
		pivot_ask(x, true, checked);
}

/* ---- keeping the layers ---- */

static void left(void *opaque, int r, const struct err *e)
{
	struct call *c = opaque;
	struct ready *x = ready_find(c);

	if (x && r < 0)
		call_refuse(x, e);
	else
		call_done(c, r, e); /* copy_ended() has ended the job */
}

void commit_ready_leave(struct call *c, struct job *j)
{
	struct ready *x = ready_take(c, j, "cancel");
	struct err e;

	if (!x)
		return;
	x->leaving = true;
	if (vm_copy_end(c->vm, x->disk, left, c, &e) < 0)
		call_refuse(x, &e);
}

struct cancel {
	struct vm_host *host;
	char id[JOB_ID_MAX + 1];
};

static void cancelled(void *opaque, int r, const struct err *e)
{
	struct cancel *k = opaque;
	struct job *j = job_find(k->host, k->id);

	if (r < 0 && ready_of(j)) {
		j->cancelling = false;
		log_warn("job", "VM '%s': %s stays ready: %s", j->vm_name, j->id, e->msg);
	}
	free(k);
}

static void ready_cancel(struct job *j)
{
	struct ready *x = ready_of(j);
	struct vm *vm = vm_find_uuid(j->host, x->uuid);
	struct cancel *k = must_alloc(calloc(1, sizeof(*k)));
	struct err e;

	k->host = j->host;
	snprintf(k->id, sizeof(k->id), "%s", j->id);
	if (x->call || !vm)
		err_set(&e, -EBUSY, ERR_BUSY, "a client ends the job");
	else if (!vm_copy_end(vm, x->disk, cancelled, k, &e))
		return;
	cancelled(k, -EBUSY, &e);
}

/* ---- the VM ---- */

static struct ready *ready_next(const struct vm *vm, const char *disk)
{
	for (struct job *j = vm->host->jobs; j; j = j->next) {
		struct ready *x = ready_of(j);

		if (x && !memcmp(x->uuid, vm->def->uuid, sizeof(x->uuid)) && !x->ended && (!disk || !strcmp(x->disk, disk)))
			return x;
	}
	return NULL;
}

/* commit_ready_leave(), a cancel or another client has ended the copy. */
static void copy_ended(struct vm *vm, const char *disk)
{
	struct ready *x = ready_next(vm, disk);

	if (!x)
		return;
	x->ended = x->call && !x->leaving;
	if (x->ended)
		return;
	if (x->job->cancelling)
		ready_fail(x);
	else
		job_succeed(x->job, NULL);
}

static void process_gone(struct vm *vm)
{
	struct ready *x;

	while ((x = ready_next(vm, NULL))) {
		x->ended = x->call && !x->leaving;
		if (!x->ended)
			ready_fail(x);
	}
}

const struct vm_observer commit_ready_observer = { .copy_ended = copy_ended, .process_gone = process_gone };

void commit_ready(struct job *j, struct vm *vm, const char *disk, const char *image, const char *base, const char *format)
{
	struct ready *x = must_alloc(calloc(1, sizeof(*x)));

	x->job = j;
	memcpy(x->uuid, vm->def->uuid, sizeof(x->uuid));
	snprintf(x->disk, sizeof(x->disk), "%s", disk);
	snprintf(x->image, sizeof(x->image), "%s", image);
	snprintf(x->base, sizeof(x->base), "%s", base);
	snprintf(x->format, sizeof(x->format), "%s", format);
	j->opaque = x;
	j->release = ready_free;
	j->cancel = ready_cancel;
	job_ready(j);
}
