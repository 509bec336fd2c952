/* clone_files: checks, creates and removes the files of clones' disks with the rights of the user who defined the
 * source VM. With the daemon's own rights, checks and creation happen at once, and done() is called before the function
 * returns. Removal always runs in a forked process, since it may take long. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_CLONE_FILES_H
#define CAIRN_API_JOBS_CLONE_FILES_H

#include "api/access/fork_as.h"

#include <stdbool.h>
#include <stdint.h>

struct definition;
struct definition_disk;
struct err;
struct helpers;

struct clone_files {
	struct definition *const *defs; /* the clones' definitions, all with the same rights */
	unsigned n;
	/* Only for clone_files_look(). The VM whose writable disks are copied; NULL: none is copied. layers: a
	 * copy gets the content of all layers, not only the first one's file. */
	const struct definition *source;
	bool layers;
	/* Only for clone_files_remove(). Per clone: number of its writable disks whose files are removed; NULL: all. */
	const unsigned *made;
	/* Only for clone_files_remove(). Per clone: files created before this time, in ns since 1970, are kept; 0: none
	 * is kept. NULL: none of any clone is kept. */
	const uint64_t *born_after_ns;
};

typedef void clone_files_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e);

/* Return what a copy of the disk's layers from `from` to before `to` counts with (api/vm/quota_use.h): the bytes that
 * their files occupy now. Runs in the forked process. */
uint64_t clone_disk_bytes(const struct definition_disk *d, unsigned from, unsigned to);
/* Check that none of the files exists. res->bytes: what the images of one clone count with (api/vm/quota_use.h).
 * *ret: as for fork_as_begin(), if a process was started. */
void clone_files_look(struct helpers *h, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct fork_as **ret);
/* Create the files of one clone. res->fds: one for each writable disk. res->count: number of files that were created,
 * also on failure (0 if the process did not answer). */
void clone_files_make(struct helpers *h, const struct definition *def, clone_files_done *done, void *opaque,
	struct fork_as **ret);
/* Remove the files that `made` and `born_after_ns` select. A file that is missing is no error. */
void clone_files_remove(struct helpers *h, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct fork_as **ret);

#endif
