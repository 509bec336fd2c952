/* fork_seal: seals the file of a fork's state, so that neither the source nor a clone can change it. A thread does it
 * (file_thread.h), because the kernel examines each page of the file, which takes 57 ns a page, and waits for
 * references to pages. A page may have such a reference for some time although no process uses it, e.g. on a list of
 * a CPU's recently used pages, or while the kernel moves or ages it. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_FORK_SEAL_H
#define CAIRN_API_JOBS_FORK_SEAL_H

#include <stdbool.h>

struct err;
struct fork_as;
struct fork_as_result;
struct helpers;

/* Return whether the source's process has sealed the file. Adding F_SEAL_SEAL, which protects nothing more, would wait
 * for the file's lock, and the process can hold that for as long as a fallocate() takes. */
bool fork_is_sealed(int fd);
/* fd: borrowed for the call. done: called once on the loop; never after fork_as_free(*ret). r: 0; -EBUSY: a process or
 * the kernel still uses the file for writing after 30 s; -errno.
 * Returns 0 or -errno; on errors, done() is not called. */
int fork_seal_begin(struct helpers *h, int fd,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct fork_as **ret, struct err *e);

#endif
