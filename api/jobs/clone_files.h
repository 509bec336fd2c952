/* clone_files: the files of clones' disks, looked for, made and removed, with the rights of whoever defined the
 * VM that is copied. The daemon's own are made at once; removing is always an errand: it may take long. */
#ifndef CAIRN_API_JOBS_CLONE_FILES_H
#define CAIRN_API_JOBS_CLONE_FILES_H

#include "api/access/fork_as.h"

#include <stdint.h>

struct definition;
struct err;
struct loop;

struct clone_files {
	struct definition *const *defs; /* of the clones, all with the same rights */
	unsigned n;
	/* Of each how many of its written disks there may be files of; NULL: of all. */
	const unsigned *made;
	/* Of each: removes no file that was born before; ns since 1970, 0: whenever. NULL: of none. */
	const uint64_t *born_after_ns;
};

typedef void clone_files_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e);

/* None of them is there? */
void clone_files_look(struct loop *l, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct fork_as **ret);
/* Of one definition: res has an fd for each written disk. count: how many were made, also on failure. */
void clone_files_make(struct loop *l, const struct definition *def, clone_files_done *done, void *opaque,
	struct fork_as **ret);
void clone_files_remove(struct loop *l, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct fork_as **ret);

#endif
