/* fork: running copies of a running VM, or of a snapshot, as a job. The state goes into a file in memory, and the
 * disks are copied; the clones begin with it and share its pages until they write to them.
 *
 * All of them or none: they are a batch (api/jobs/batch.h), each there before its process is. */
#ifndef CAIRN_API_JOBS_FORK_H
#define CAIRN_API_JOBS_FORK_H

#include <stdbool.h>

struct err;
struct job;
struct vm;

#define FORK_CLONES_MAX 1000

struct fork_opts {
	const char *name;
	unsigned count; /* 0: one, that has the name; else so many, with -1, -2, ... behind it */
	bool paused, hint_hostname;
	const char *snapshot; /* NULL: what the VM is now; else it may be off */
};

/* Result: count, first, last (names), pause, total (ns), ram-bytes-written. Names that are taken and what
 * cannot be cloned are refused before anything is done. */
int fork_begin(struct vm *vm, const struct fork_opts *opts, const char *job_id, struct job **ret_j,
	struct err *e);

#endif
