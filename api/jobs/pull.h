/* pull: the job that gives a disk its own copy of what it reads from its backing files, and then drops these from the
 * image and from the definition (virsh's blockpull, QMP's block-stream). For a VM that runs or is off. */
#ifndef CAIRN_API_JOBS_PULL_H
#define CAIRN_API_JOBS_PULL_H

#include <stdint.h>

struct err;
struct job;
struct job_name;
struct vm;

/* Begin. disk: id or path of the image. rate: in bytes/s; 0: no limit. name: NULL: generated.
 * Returns 0; -ENOENT: no such disk; -ENOTSUP: it has no backing file, or the VM process is too old; -errno. */
int disk_pull(struct vm *vm, const char *disk, uint64_t rate, const struct job_name *name, struct job **ret_j,
	struct err *e);

#endif
