/* close_async: closes fds that clients sent, and large files, on a thread of its own, because close() may block the
 * loop: on a TCP socket for as long as the client has set with SO_LINGER, on a file for as long as its file system
 * takes. Closing a
 * Unix socket, or reading from it without room for fds, also closes the fds that are still queued in it. Reading also
 * closes the fds of an out-of-band byte, unless SO_OOBINLINE makes it a byte like others.
 * Threading: any thread. Where a close may block, the call starts a thread that ends when the closing is done. */
#ifndef CAIRN_API_WIRE_CLOSE_ASYNC_H
#define CAIRN_API_WIRE_CLOSE_ASYNC_H

#include <stddef.h>
#include <sys/types.h>

/* Most fds in one message: the kernel's SCM_MAX_FD. */
#define CLOSE_ASYNC_FDS_MAX 253

/* accept4() from a listening Unix stream socket, with SO_OOBINLINE. */
int close_async_accept(int listening, int flags);
/* Close n fds. fds: the fds are taken; the array is borrowed. */
void close_async_fds(const int *fds, size_t n);
/* Close a connected Unix socket (taken). The shutdown is immediate. */
void close_async_socket(int sock);
/* Close a listening Unix socket (taken) and the connections in its queue. Further connects fail at once. */
void close_async_listener(int listening);
/* recv() without blocking.
 * ret_fd:  the last fd received, owned by the caller; untouched if none came; NULL: not wanted. All other
 *          received fds are closed asynchronously.
 * Returns the same as recv(). */
ssize_t close_async_recv(int sock, void *buf, size_t size, int *ret_fd);
/* recv() without blocking from a Unix stream socket. Returns the same as recv(); -1 with EPERM: fds would come with
 * the bytes, and all of them stay in the queue. */
ssize_t close_async_recv_without_fds(int sock, void *buf, size_t size);

#endif
