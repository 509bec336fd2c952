/* fork_files: the images of a VM's disks and their copies for clones, as paths. What is done to them is done
 * by these, in the daemon or, for another user's VM, in a process with that user's rights (fork_as.h): they call
 * nothing that takes a lock. */
#ifndef CAIRN_API_JOBS_FORK_FILES_H
#define CAIRN_API_JOBS_FORK_FILES_H

#include "base/channel.h"

#include <stdbool.h>

struct err;
struct fork_as_result;

struct fork_file {
	const char *path; /* borrowed */
	bool copy;	  /* to be made; else an image that is there */
};

struct fork_files {
	struct fork_file list[CHANNEL_FDS_MAX];
	unsigned n;
};

/* files: struct fork_files. Each returns 0 or -errno with a sentence.
 * Is each image a regular file, and no copy there yet? */
int fork_files_check(const void *files, struct fork_as_result *out, struct err *e);
/* Images for reading, copies made anew: their fds. On failure no copy is left. */
int fork_files_open(const void *files, struct fork_as_result *out, struct err *e);

#endif
