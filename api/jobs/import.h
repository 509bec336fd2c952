/* import: the job that creates a VM from an archive. cairn-archive (archiver.h) first reads the definition from the
 * archive, then checks and unpacks everything into a folder, which gets its final name as the last step.
 *
 * The VM is defined, and marked as incomplete, before the files are unpacked. If the daemon ends, the next daemon
 * finds the mark. If all files of the VM exist under the folder's final name, it keeps the VM; else it removes the
 * VM.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_IMPORT_H
#define CAIRN_API_JOBS_IMPORT_H

/* File in the VM's state folder. */
#define IMPORT_MARKER "import.pending" /* its presence marks the VM as incomplete */

#include <stdint.h>

#define IMPORT_INCREMENTS_MAX 15 /* a disk has at most 16 layers */

struct call;
struct client_file;
struct err;
struct json_object;
struct rights;
struct vm_host;

/* folder:     absolute path, shorter than PATH_MAX, in which the VM's folder is made; copied.
 * name:       the VM's name; NULL: the archive's; copied.
 * increments: absolute paths of archives that follow the first one (cairn export --since), which cairn-archive opens
 *             with the user's rights; borrowed for the call; NULL: none.
 * max_bytes:  limit for the data, and for the space that they take; 0: the file system's free space.
 * job_id:     borrowed until c is answered; NULL: generated. */
struct import_opts {
	const char *folder, *name;
	struct json_object *increments;
	int64_t max_bytes;
	const char *job_id;
};

/* Start to read an archive.
 * file:    the archive, a regular file; taken, also on errors.
 * rights:  of the user who imports; taken, also on errors; NULL: the daemon's.
 * c:       taken on success; answered with the job's id once the VM is defined, or with an error.
 * Returns 0 or -errno. */
int import_begin(struct vm_host *host, const struct import_opts *opts, struct client_file *file, struct rights *rights, struct call *c,
	struct err *e);
/* Finish, or begin to remove, the imports that an earlier daemon left. */
void import_clear_up(struct vm_host *host);

#endif
