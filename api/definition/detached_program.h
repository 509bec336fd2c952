/* detached_program: starts helper programs that belong to a VM and not to the process that starts them. */
#ifndef CAIRN_API_DEFINITION_DETACHED_PROGRAM_H
#define CAIRN_API_DEFINITION_DETACHED_PROGRAM_H

#define DETACHED_PROGRAM_FD 3 /* the program's first file */

/* Start a program that nobody has to reap, in a session of its own.
 * argv: NULL-terminated. fds: the program has them as DETACHED_PROGRAM_FD and following, and no other files but the
 * standard ones; borrowed.
 * Returns 0; -errno, also of execve(). */
int detached_program_start(const char *program, char *const *argv, const int *fds, unsigned nfds);

#endif
