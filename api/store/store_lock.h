/* store_lock: the lock of the state folder, so that only one daemon at a time uses the folder, and the takeover from a
 * daemon that is stuck (docs/ARCHITECTURE.md).
 *
 * The file "lock" is locked with flock(). It has three lines: the daemon's pid, its start time (stuck_process.h), and
 * the path of its control socket. */
#ifndef CAIRN_API_STORE_STORE_LOCK_H
#define CAIRN_API_STORE_STORE_LOCK_H

#include <stdbool.h>

struct err;

/* The name of the thread that writes to the state folder. */
#define STORE_THREAD "store"

struct store_takeover {
	const char *socket; /* path of this daemon's control socket */
	bool replace;	    /* kill a daemon that does not answer, for any reason */
};

/* Lock the folder.
 * t: a daemon that is stuck in a file system may be killed: one that was killed already and does not end; one whose
 *    main thread has been in the same system call on a file for 10 s; with t->replace, any that does not greet clients
 *    within 10 s. If a thread of it stays in the kernel despite SIGKILL, the lock becomes a new file. NULL: none.
 * *ret_fd: owned; closing it releases the lock. *ret_replaced: a killed daemon that has not ended keeps its sockets.
 * Returns 0; -EBUSY: another daemon has the lock and works, or could still write to the folder; -errno. */
int store_lock(const char *dir, const struct store_takeover *t, int *ret_fd, bool *ret_replaced, struct err *e);

#endif
