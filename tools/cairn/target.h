/* target: the user's file that a job of the daemon writes. The file has a temporary name until it is complete, unless
 * this process does not wait for the job (--no-wait). */
#ifndef CAIRN_TOOLS_TARGET_H
#define CAIRN_TOOLS_TARGET_H

#include <limits.h>
#include <signal.h>
#include <stdbool.h>

struct err;

struct target {
	const char *path;
	bool is_new; /* refuse an existing file */
	/* Replace a file only if it is empty or has this kind of content: "a saved state"; another file may be a disk's
	 * image. NULL: replace any file. */
	const char *kind;
	const char *begins[2]; /* with kind: what such a file begins with; the second one may be NULL */
	bool whole; /* remove the file if it is incomplete, because nobody could use it */
	bool goes_on; /* the job continues without the daemon, so the file may become complete later */
	char tmp[PATH_MAX]; /* temporary name; empty: the file has its final name, because this process does not wait to
	                     * rename it */
	int fd;
	sigset_t before; /* signals that were blocked before target_open() */
};

/* Open the file. The caller has set t->path, t->is_new and t->whole.
 * in_place: write to the final name at once; otherwise, SIGHUP is ignored from now on, and SIGINT and SIGTERM are
 *           blocked until target_close(), so that they leave no temporary file: job_run() cancels its job then.
 * Returns 0; -errno with a sentence. */
int target_open(struct target *t, bool in_place, struct err *e);
/* After job_run(), close the file. After a success, give it its name, durably. If the job failed, or t->whole is set,
 * remove it. If the connection failed, the file may be incomplete: print its name.
 * r: result of job_run(); after -EINPROGRESS the file stays as it is. Returns r; -errno with a sentence if the file
 * cannot be kept. */
int target_close(struct target *t, int r, struct err *e);

#endif
