/* discard: what others have made is closed beside the loop, which never waits for it. close() of a TCP socket
 * that was handed over waits as long as who made it has asked for (SO_LINGER), of a file as long as its file
 * system likes, and whoever closes a Unix socket, or reads from it without room for fds, closes what is still in it.
 * Threading: each has a thread of its own, for as long as that takes. */
#ifndef CAIRN_API_WIRE_CLOSE_ASYNC_H
#define CAIRN_API_WIRE_CLOSE_ASYNC_H

#include <stddef.h>
#include <sys/types.h>

/* The most that come in one message (the kernel's SCM_MAX_FD). */
#define CLOSE_ASYNC_FDS_MAX 253

/* fds: taken. */
void close_async_fds(const int *fds, size_t n);
/* A connected Unix socket, taken: it is shut down at once. */
void close_async_socket(int sock);
/* A listening one, taken, with who waits in it: nobody connects any more. */
void close_async_listener(int listening);
/* recv() without waiting. ret_fd: the last fd that came, owned by the caller; untouched if none did; NULL: none is
 * wanted. The others are discarded. */
ssize_t close_async_recv(int sock, void *buf, size_t size, int *ret_fd);

#endif
