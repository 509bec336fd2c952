/* delegate: starts the process of a user who has logged in (cairn-delegate). */
#ifndef CAIRN_TOOLS_LOGIN_DELEGATE_H
#define CAIRN_TOOLS_LOGIN_DELEGATE_H

#include <sys/types.h>

struct check_result;

/* Start the program with the user's ids and groups, in a process group of its own.
 * program: the opened program. socket: the daemon's.
 * ret_fd: cairn-web's end of the channel to it; owned.
 * Returns 0; -errno. */
int delegate_start(int program, const char *socket, const struct check_result *user, pid_t *ret_pid, int *ret_fd);

#endif
