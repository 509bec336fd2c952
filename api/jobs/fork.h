/* fork: the job that makes live clones of a running VM or of a snapshot. The VM's state goes into a memfd and its disks
 * are copied; the clones start from that state and share its pages until they write to them.
 *
 * Where it can, a clone of a running VM gets an overlay on each disk, which reads the source's image as of the fork's
 * instant (vmm/snapshot/fork_disks.h, api/vm/pins.h); other disks are copied.
 *
 * The clones are a batch (api/jobs/batch.h): the job makes all of them or none. Each is defined before its process
 * starts. */
#ifndef CAIRN_API_JOBS_FORK_H
#define CAIRN_API_JOBS_FORK_H

#include <stdbool.h>

struct err;
struct job;
struct vm;

#define FORK_CLONES_MAX 1000

struct fork_opts {
	const char *name;
	unsigned count; /* 0: one clone with the given name; else that many, named NAME-1, NAME-2, … */
	bool paused, hint_hostname;
	bool isolated; /* copy all disks: the clones' processes get no file of the source */
	const char *snapshot; /* NULL: the running state. With a snapshot the VM may be off */
};

/* Start the job. Its result: count, first, last (names), pause, total (ns), ram-bytes-written, and
 * job_put_tracking()'s; disks, with the id of each writable disk and how it was made: overlay or copy.
 * Returns 0; -errno before anything was created: a name is in use, or the VM cannot be cloned. */
int fork_begin(struct vm *vm, const struct fork_opts *opts, const char *job_id, struct job **ret_j,
	struct err *e);

#endif
