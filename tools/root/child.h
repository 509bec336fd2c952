/* child: runs programs of other packages, and tells in one sentence why one failed.
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_CHILD_H
#define CAIRN_TOOLS_ROOT_CHILD_H

#include <sys/types.h>

struct err;

struct child {
	const char *name; /* borrowed */
	pid_t pid;	  /* 0: none */
	int said;	  /* memory file with the output */
};

/* Start a program of the PATH, which ends with this process.
 * argv: ends with NULL; argv[0] is the name.
 * package: of Debian, for the error when the program is missing.
 * in: standard input, borrowed; -1: empty. out: standard output, borrowed; -1: as standard error, which is kept for
 * the error.
 * Returns 0; -ENOENT; -errno with a sentence. */
int child_start(struct child *c, const char *package, char *const argv[], int in, int out, struct err *e);
/* Wait for the end. Returns 0; -ENOSPC; -EIO with a sentence that has the last line of its output; -EINTR: a signal
 * came. */
int child_wait(struct child *c, struct err *e);
/* Kill it, if it runs, and free what belongs to it. */
void child_done(struct child *c);

#endif
