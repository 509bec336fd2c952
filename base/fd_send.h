/* fd_send: an open file that travels with bytes over a Unix socket. Takes no lock, so a forked process may call it. */
#ifndef CAIRN_BASE_FD_SEND_H
#define CAIRN_BASE_FD_SEND_H

#include <stddef.h>
#include <sys/types.h>

/* Send bytes, and fd with the first of them. fd: borrowed; -1: none. flags: of sendmsg(). Returns the number of sent
 * bytes; -1 with errno. */
ssize_t fd_send(int sock, const void *p, size_t len, int fd, int flags);
/* Take a file that was sent with one byte; wait for it. Returns the fd, which is closed on exec; -EPIPE: the other end
 * was closed without one; -errno. */
int fd_receive(int sock);

#endif
