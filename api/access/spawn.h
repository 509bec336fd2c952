/* program: a program of ours that the daemon starts, with somebody's rights (rights.h), with the files that it
 * is to have and no others. */
#ifndef CAIRN_API_ACCESS_SPAWN_H
#define CAIRN_API_ACCESS_SPAWN_H

#include <stddef.h>
#include <sys/types.h>

struct rights;

struct spawn_spec {
	const char *path;
	char *const *argv;
	const struct rights *rights; /* NULL: the daemon's own */
	/* fds[i] becomes the process's fd i; -1: it keeps the one that the daemon has. At least 3. */
	const int *fds;
	size_t nfds;
	int death_signal; /* when the daemon dies; 0: none, it lives on */
};

/* In a process group of its own. The caller waits for it. Returns 0 or -errno; what goes wrong after that is told by
 * its exit status: 1, or 127 when there is no such program. */
int spawn_program(const struct spawn_spec *p, pid_t *ret_pid);

#endif
