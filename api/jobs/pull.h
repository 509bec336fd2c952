/* pull: the job that makes a disk independent of its backing files (virsh's blockpull, QMP's block-stream). It copies
 * the data that the disk reads from them into the disk's image, and then removes them from the image's header and
 * from the definition. The VM may run or be off. If the daemon ends meanwhile, the process of a running VM ends the
 * pull, and the next daemon begins it again as the same job.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_PULL_H
#define CAIRN_API_JOBS_PULL_H

#include <stdint.h>

struct err;
struct job;
struct job_name;
struct vm;
struct vm_observer;

/* Begin the job. disk: the disk's id or its image's path. rate: in bytes/s; 0: no limit. name: NULL: generated.
 * Returns 0; -ENOENT: no such disk; -ENOTSUP: the disk has no backing file or is read-only, or the VM process is too
 * old; -errno. */
int disk_pull(struct vm *vm, const char *disk, uint64_t rate, const struct job_name *name, struct job **ret_j,
	struct err *e);

extern const struct vm_observer pull_observer;

#endif
