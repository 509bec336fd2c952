/* helper: runs a program of libexec/cairn that gets a text on its stdin. */
#ifndef CAIRN_TOOLS_HELPER_H
#define CAIRN_TOOLS_HELPER_H

#include <stddef.h>
#include <sys/types.h>

struct err;

/* Start the program without an environment.
 * mode: its only argument; NULL: none. text: its stdin, copied.
 * out, err: its stdout and stderr, borrowed; err -1: this process's own.
 * Returns 0 or -errno. */
int helper_spawn(const char *name, const char *mode, const char *text, size_t len, int out, int err, pid_t *ret_pid, struct err *e);
/* Wait for its end. *ret_status: as of waitpid(). Returns 0 or -errno. */
int helper_wait(const char *name, pid_t pid, int *ret_status, struct err *e);

#endif
