/* commit: the job that copies the data of upper layers of a disk to a lower one (virsh's blockcommit). If the VM runs
 * and its active image is one of the upper layers, both images then get each change, until api/vm/vm_copy.h chooses
 * one. Otherwise the job removes the upper layers from the disk and from the definition.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_COMMIT_H
#define CAIRN_API_JOBS_COMMIT_H

#include "api/jobs/job.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct vm;
struct vm_observer;

/* Begins a commit again that an earlier daemon began on a VM that runs. */
extern const struct vm_observer commit_observer;

struct commit_opts {
	const char *disk; /* id, or path of its image */
	const char *top;  /* path of the uppermost layer; NULL: the image */
	const char *base; /* path of the layer that gets all; NULL: the lowest one */
	bool shallow;	  /* the base is the layer below top */
	bool active;	  /* top may be the image of a running VM */
	bool ready;	  /* then the job is ready at the end (commit_ready.h), not concluded */
	uint64_t rate;	  /* in bytes/s; 0: no limit */
	struct job_name name;
};

/* Begin the job. Returns 0; -ENOENT: no such disk or layer; -ENOTSUP; -errno with a sentence. */
int disk_commit(struct vm *vm, const struct commit_opts *o, struct job **ret_j, struct err *e);

#endif
