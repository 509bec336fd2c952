/* export: the job that writes a VM into one archive: its definition, its disks with their snapshots, kernel and initrd.
 * For a VM that is not off, the caller has to choose a snapshot, whose content of the disks is exported.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_EXPORT_H
#define CAIRN_API_JOBS_EXPORT_H

#include <stdint.h>

struct client_file;
struct err;
struct job;
struct vm;

struct export_opts {
	const char *compress; /* "zstd", "gzip", "none"; NULL: zstd */
	int64_t level;	      /* 0: the compression's default level */
	const char *snapshot; /* name or id; NULL: export the current content with all snapshots */
	const char *since; /* name or id of an earlier snapshot: export only the differences; NULL: everything */
};

/* Start the job. file: open for writing; taken on success, and then NULL. job_id: NULL: generated.
 * Returns 0 or -errno. */
int export_begin(struct vm *vm, struct client_file **file, const struct export_opts *opts, const char *job_id,
	struct job **ret_j, struct err *e);

#endif
