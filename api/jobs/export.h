/* export: a VM into one file, as a job: its definition, its disks with the snapshots in them,
 * kernel and initrd. Of a VM that is not off: the disks as a snapshot has them. */
#ifndef CAIRN_API_JOBS_EXPORT_H
#define CAIRN_API_JOBS_EXPORT_H

#include <stdint.h>

struct err;
struct job;
struct vm;

struct export_opts {
	const char *compress; /* "zstd", "gzip", "none"; NULL: zstd */
	int64_t level;	      /* 0: the usual one */
	const char *snapshot; /* NULL: all as it is */
};

/* fd: borrowed; open for writing. job_id: NULL: one is made. */
int export_begin(struct vm *vm, int fd, const struct export_opts *opts, const char *job_id,
	struct job **ret_j, struct err *e);

#endif
