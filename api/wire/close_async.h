/* close_async: closes Unix sockets of clients and VM processes. With such a socket the kernel closes the fds that are
 * still queued in it. A client can make this take arbitrarily long: a TCP socket waits as long as the client has set
 * with SO_LINGER, and a file as long as its file system takes. So a separate process closes a socket with queued fds.
 * A blocked thread of the daemon would keep the daemon's files and locks open, even after SIGKILL.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_WIRE_CLOSE_ASYNC_H
#define CAIRN_API_WIRE_CLOSE_ASYNC_H

#include <stddef.h>
#include <sys/types.h>

struct closer;

/* The process starts when it is needed first, and ends with the daemon. */
struct closer *closer_new(void);
/* NULL allowed. */
void closer_free(struct closer *c);

/* accept4() from a listening Unix stream socket, with SO_OOBINLINE. Without that option, reads skip an out-of-band byte
 * and close its fds. */
int close_async_accept(int listening, int flags);
/* Close a connected Unix socket, which nobody can send to any more (shutdown()).
 * Returns 0, and the socket is taken; -EAGAIN: too many closes hang, so try again later; -errno. */
int closer_take(struct closer *c, int sock);
/* Shut a connected Unix socket down and close it. If too many closes hang, it leaks, because a leak does less harm than
 * a blocked loop. */
void closer_drop(struct closer *c, int sock);
/* Close an fd of any kind, to which nobody sends files any more. If it is a socket that has one in its queue, close it
 * as closer_drop() does. */
void closer_close(struct closer *c, int fd);

/* recv() without blocking from a Unix socket without SO_PASSCRED. Returns the same as recv(); -1 with EPERM: fds would
 * come with the bytes, and all of them stay in the queue. */
ssize_t close_async_recv(int sock, void *buf, size_t size);

#endif
