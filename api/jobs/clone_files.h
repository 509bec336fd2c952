/* clone_files: checks, creates and removes the files of clones' disks with the rights of the user who defined the
 * source VM. With the daemon's own rights, checks and creation happen at once; removal always runs in a forked process,
 * since it may take long. */
#ifndef CAIRN_API_JOBS_CLONE_FILES_H
#define CAIRN_API_JOBS_CLONE_FILES_H

#include "api/access/fork_as.h"

#include <stdint.h>

struct definition;
struct err;
struct loop;

struct clone_files {
	struct definition *const *defs; /* the clones' definitions, all with the same rights */
	unsigned n;
	/* Per clone: number of its writable disks that may have files already; NULL: all. */
	const unsigned *made;
	/* Per clone: keep files created before this time, in ns since 1970; 0: no limit. NULL: no limit for all. */
	const uint64_t *born_after_ns;
};

typedef void clone_files_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e);

/* Check that none of the files exists. */
void clone_files_look(struct loop *l, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct fork_as **ret);
/* Create the files of one clone. res has an fd for each writable disk; count is the number of files made, also on
 * failure. */
void clone_files_make(struct loop *l, const struct definition *def, clone_files_done *done, void *opaque,
	struct fork_as **ret);
/* Remove the files. */
void clone_files_remove(struct loop *l, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct fork_as **ret);

#endif
