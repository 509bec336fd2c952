/* target: the user's file that a job of the daemon writes; it gets its name only when it is complete. */
#ifndef CAIRN_TOOLS_TARGET_H
#define CAIRN_TOOLS_TARGET_H

#include <limits.h>
#include <stdbool.h>

struct err;

struct target {
	const char *path;
	bool is_new; /* refuse an existing file */
	bool whole; /* remove the file if it is incomplete, because nobody could use it */
	char tmp[PATH_MAX]; /* temporary name; empty: the file has its final name, because this process does not wait to
	                     * rename it */
	int fd;
};

/* Open the file. t->path and t->is_new are set.
 * in_place: write to the final name at once.
 * Returns 0; -errno with a sentence. */
int target_open(struct target *t, bool in_place, struct err *e);
/* Finish the file after a job: keep or remove it.
 * r: result of job_run(). Returns r; -errno with a sentence if the file cannot be kept. */
int target_close(struct target *t, int r, struct err *e);

#endif
