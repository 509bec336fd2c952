/* listen: creates the daemon's own socket and the VMs' QMP sockets, replaces stale ones, and sets their permissions;
 * takes the socket that a service manager passed. */
#ifndef CAIRN_API_WIRE_LISTEN_H
#define CAIRN_API_WIRE_LISTEN_H

#include <stdbool.h>
#include <sys/types.h>

struct err;

/* Longest path of a socket, without the NUL (sun_path has 108 bytes). */
#define LISTEN_PATH_MAX 107

/* Create the socket's folder and check that no daemon answers at that path.
 * replace: do not check, because the daemon of that socket was killed and cannot end.
 * Returns 0; -EADDRINUSE; -errno. */
int listen_prepare(const char *path, bool replace, struct err *e);

/* Create the socket with mode 0600, replacing a stale one. In system mode, if the group `cairn` exists, the socket
 * belongs to that group with mode 0660, and *ret_group is set.
 * Returns 0 and an owned non-blocking fd; -errno. */
int listen_open(const char *path, bool system, int *ret_fd, gid_t *ret_group, struct err *e);
/* Take the listening stream socket that a service manager passed (LISTEN_PID, LISTEN_FDS: see sd_listen_fds(3)), make
 * it non-blocking, and remove these variables from the environment.
 * Returns 1 and an owned fd; 0 if none was passed; -errno. */
int listen_passed_fd(int *ret_fd, struct err *e);
/* The same with a Unix socket, whose path is written into `path`. */
int listen_passed(int *ret_fd, char *path, size_t size, struct err *e);

/* In system mode, give a passed socket to the group `cairn`, as listen_open() does; else change nothing.
 * Returns 0; -errno. */
int listen_adopt(const char *path, bool system, gid_t *ret_group, struct err *e);

#endif
