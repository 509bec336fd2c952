/* listen: the daemon's own socket: made, found stale, given its permissions. */
#ifndef CAIRN_API_WIRE_LISTEN_H
#define CAIRN_API_WIRE_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct err;

/* Makes the socket's folder. 0: nobody answers there; -EADDRINUSE with a sentence. */
int listen_prepare(const char *path, struct err *e);

/* Make the socket (a stale one is replaced), mode 0600; in system mode, when there is a
 * group `cairn`, it is that group's with mode 0660 and *ret_group is set.
 * Returns 0 and an owned non-blocking fd; -errno with a sentence. */
int listen_open(const char *path, bool system, int *ret_fd, gid_t *ret_group, struct err *e);
/* The socket that a service manager listens on for us (LISTEN_PID, LISTEN_FDS: see
 * sd_listen_fds(3)), made non-blocking; its path into `path`. Forgets what the environment says
 * of it. Returns 1 and an owned fd; 0: there is none; -errno with a sentence. */
int listen_passed(int *ret_fd, char *path, size_t size, struct err *e);

/* The rest of listen_open() for such a one. */
int listen_adopt(const char *path, bool system, gid_t *ret_group, struct err *e);

#endif
