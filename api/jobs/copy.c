#include "api/jobs/copy.h"
#include "api/access/client_file.h"
#include "api/definition/definition.h"
#include "api/jobs/archiver.h"
#include "api/jobs/job.h"
#include "api/jobs/outfile.h"
#include "api/jobs/snapshots.h"
#include "api/vm/mirrors.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What to note when the copy is complete. */
struct copy {
	const char *format; /* static */
	char *path; /* owned; NULL: not known */
};

static void copy_free(struct job *j)
{
	struct copy *x = j->opaque;

	free(x->path);
	free(x);
}

static void copy_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct job *j = opaque;
	const struct copy *x = j->opaque;

	(void)a;
	if (r < 0) {
		job_fail(j, e);
		return;
	}
	mirrors_add(j->vm, j->disk, j->type, x->path, x->format, j->uid);
	vm_save(j->vm);
	job_succeed(j, NULL);
}

static int copy_check(const struct vm *vm, const struct disk_copy_opts *o, const struct client_file *file, struct vm_disk_copy *body,
	struct err *e)
{
	int r = vm_check_claim(vm, VM_CLAIM_SNAPSHOTS, "copy its disk", e), at;

	if (!r && (!vm->proc || !vm_state_is_active(vm->state)))
		r = err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' is off; copy its image with cairn-img convert", vm->def->name);
	if (!r)
		r = vm_compat_check_live(vm, VM_KNOWS_DISK_COPY, e);
	if (!r)
		r = outfile_check(file, O_RDWR, "a copy", e);
	if (r < 0)
		return r;
	at = vm_live_disk(vm, o->disk, e);
	if (at >= 0 && o->path && *o->path != '/')
		at = err_set(e, -EINVAL, ERR_INVALID, "path: must be an absolute path");
	if (at < 0)
		return at;
	*body = (struct vm_disk_copy){ .rate_bytes_per_s = o->rate, .then_pivot = o->pivot,
		.format = !strcmp(o->format, "raw") ? DEFINITION_FORMAT_RAW : DEFINITION_FORMAT_QCOW2 };
	snprintf(body->disk, sizeof(body->disk), "%s", vm_live(vm)->disks[at].id);
	return 0;
}

int disk_copy(struct vm *vm, const struct disk_copy_opts *o, struct client_file **file, struct job **ret_j, struct err *e)
{
	struct vm_disk_copy body;
	struct copy *x;
	int r = copy_check(vm, o, *file, &body, e);

	if (!r)
		r = job_new(vm, "blockcopy", o->job_id, ret_j, e);
	if (r < 0)
		return r;
	x = must_alloc(calloc(1, sizeof(*x)));
	x->format = definition_format_name(body.format);
	x->path = o->path ? must_alloc(strdup(o->path)) : NULL;
	memcpy((*ret_j)->disk, body.disk, sizeof((*ret_j)->disk));
	(*ret_j)->speed = o->rate;
	(*ret_j)->opaque = x;
	(*ret_j)->release = copy_free;
	(*ret_j)->cancel = snapshots_cancel;
	snapshots_request_with(vm, VM_MSG_DISK_COPY, &body, sizeof(body), STEAL_PTR(*file), NULL, 0, VM_PROCESS_NO_TIMEOUT, copy_done,
		*ret_j);
	return 0;
}
