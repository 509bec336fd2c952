/* spawn: starts one of Cairn's own programs with a user's rights (rights.h) and exactly the given fds. The program
 * calls program_begin() (base/program.h) before anything else.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_SPAWN_H
#define CAIRN_API_ACCESS_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct loop;
struct loop_watch;
struct rights;

#define SPAWN_NO_PROGRAM 127 /* the exit status when execve() failed */

struct spawn_spec {
	const char *path;
	char *const *argv;
	const struct rights *rights; /* NULL: the daemon's own */
	/* With the supplementary groups of these rights, which are then the present ones (groups.h). Programs that open
	 * no file of the user by its name need none. */
	bool with_groups;
	/* fds[i] becomes fd i of the process; -1: fd i stays as it is in the daemon. At least 3 entries. Borrowed. */
	const int *fds;
	size_t nfds;
	const char *variable; /* of the daemon's environment, which the program gets, too; NULL: none */
	int death_signal; /* the process gets this signal when the daemon ends; 0: none */
};

/* Start the program in a process group of its own; the caller reaps the process. A failure after fork() shows in the
 * exit status: SPAWN_NO_PROGRAM if execve() failed, else 1. Returns 0; -errno of fork(). */
int spawn_program(const struct spawn_spec *p, pid_t *ret_pid);
/* In a new process: give the fds the numbers from 0 on, and close all others. fds: as in struct spawn_spec.
 * Returns 0 or -errno. */
int spawn_place_fds(const int *fds, size_t n);
/* Start the program, and watch its end.
 * ended: called when the process has ended; the caller reaps it by *ret_pidfd, ends the watch and closes the fd.
 * Returns 0; -errno: no process is left, and neither result is set. */
int spawn_watched(struct loop *l, const struct spawn_spec *p, void (*ended)(void *opaque, unsigned revents), void *opaque,
	int *ret_pidfd, struct loop_watch **ret_watch);

#endif
