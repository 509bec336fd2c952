/* copy: the job that copies a disk of a running VM to a file of the client, until each change goes to both (virsh's
 * blockcopy, QMP's drive-mirror). Then api/vm/vm_copy.h switches to one of the two.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_COPY_H
#define CAIRN_API_JOBS_COPY_H

#include <stdbool.h>
#include <stdint.h>

struct client_file;
struct err;
struct job;
struct vm;

struct disk_copy_opts {
	const char *disk; /* id, or path of its image */
	const char *format; /* "raw" or "qcow2" */
	const char *path; /* absolute, of the file; NULL: not known */
	uint64_t rate; /* in bytes/s; 0: no limit */
	bool pivot; /* refuse the copy if the VM could not continue with it */
	const char *job_id; /* NULL: generated */
};

/* Begin the job. file: empty, open for reading and writing; taken on success, and then NULL.
 * Returns 0; -ENOENT: no such disk; -ENOTSUP; -EPERM: the VM does not run; -errno. */
int disk_copy(struct vm *vm, const struct disk_copy_opts *o, struct client_file **file, struct job **ret_j, struct err *e);

#endif
