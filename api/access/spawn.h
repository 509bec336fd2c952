/* spawn: starts one of Cairn's own programs with a user's rights (rights.h) and exactly the given fds. */
#ifndef CAIRN_API_ACCESS_SPAWN_H
#define CAIRN_API_ACCESS_SPAWN_H

#include <stddef.h>
#include <sys/types.h>

struct rights;

struct spawn_spec {
	const char *path;
	char *const *argv;
	const struct rights *rights; /* NULL: the daemon's own */
	/* fds[i] becomes fd i of the process; -1: the process inherits the daemon's fd i. At least 3 entries. */
	const int *fds;
	size_t nfds;
	int death_signal; /* sent when the daemon dies; 0: none, the process keeps running */
};

/* Start the program in a process group of its own; the caller waits for it. Later failures show in its exit status:
 * 127 if the program is missing, else 1. Returns 0 or -errno. */
int spawn_program(const struct spawn_spec *p, pid_t *ret_pid);

#endif
