/* target: the file that a job of the daemon's writes into: the user's own, there under its name only when it is
 * whole. */
#ifndef CAIRN_TOOLS_TARGET_H
#define CAIRN_TOOLS_TARGET_H

#include <limits.h>
#include <stdbool.h>

struct err;

struct target {
	const char *path;
	bool is_new; /* nothing is replaced: a file that is there already is refused */
	bool whole; /* who writes it ends with the daemon: half of it is of use to nobody */
	char tmp[PATH_MAX]; /* empty: written in place, as nobody waits to rename it */
	int fd;
};

/* t->path is set, and is_new. Returns 0; -errno with a sentence. */
int target_open(struct target *t, bool in_place, struct err *e);
/* Of a job that went as r says (job_run()): keeps the file, or removes it. Returns r, or what went wrong then. */
int target_close(struct target *t, int r, struct err *e);

#endif
