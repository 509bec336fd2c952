/* vsock_socket: the host's side of a VM's vsock device: the Unix socket for programs of the host, and the process that
 * connects the guest's connections. Both are made with the rights of the calling process. */
#ifndef CAIRN_API_DEFINITION_VSOCK_SOCKET_H
#define CAIRN_API_DEFINITION_VSOCK_SOCKET_H

struct err;

/* Make the socket, to which only the caller's user may connect, in place of one on which nobody listens. Waits up to
 * 2 s for the end of a VM that was killed. key: for error messages. Returns an owned fd; -EBUSY: a program listens
 * there; -EEXIST: the path is no socket; -errno. The socket's file stays; see below. */
int path_listen(const char *path, const char *key, struct err *e);
/* Start cairn-dial (base/vsock_dial.h), which ends when the returned fd and its copies are closed, and then removes the
 * socket. listener: path_listen()'s; borrowed. Returns an owned fd; -errno. */
int vsock_dial_start(const char *path, const char *key, int listener, struct err *e);
/* Start a process that removes the socket when the returned fd, the end of a pipe, and its copies are closed.
 * Otherwise as above. */
int socket_guard_start(const char *path, const char *key, int listener, struct err *e);

#endif
