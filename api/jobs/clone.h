/* clone: copies of a VM that is off, as a job: full ones, or linked ones, whose disks stand on the source's. The
 * work on images is done by a process for the source's images; the daemon hands it open files.
 * All of them or none: they are a batch (api/jobs/batch.h), each there before any file of its is. */
#ifndef CAIRN_API_JOBS_CLONE_H
#define CAIRN_API_JOBS_CLONE_H

#include "api/jobs/clone_plan.h"

struct err;
struct job;
struct vm;

/* plan: taken. The VM is off, and free for a job. Result: count, first, last (names), total (ns). */
int clone_begin(struct vm *vm, const struct clone_opts *opts, struct clone_plan *plan, const char *job_id,
	struct job **ret_j, struct err *e);

#endif
