/* clone: creates copies of a VM that is off, as a job: full clones, or linked clones, whose disks are overlays on the
 * source's images. The source's offline process copies the images; the daemon passes it open files.
 *
 * The job creates all clones or none: they are a batch (api/jobs/batch.h). A clone is defined before any of its files
 * exists, so that a later daemon finds and removes the files of an unfinished clone. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_CLONE_H
#define CAIRN_API_JOBS_CLONE_H

#include "api/jobs/clone_plan.h"

struct err;
struct job;
struct vm;

/* Begin the job. The VM must be off.
 * plan: taken, also on errors. job_id: NULL: generated.
 * Returns 0; -errno. The job's result: count, first, last (names), total (duration in ns); forwards-left-out, if the
 * source has forwards. */
int clone_begin(struct vm *vm, const struct clone_opts *opts, struct clone_plan *plan, const char *job_id,
	struct job **ret_j, struct err *e);

#endif
