/* unix_socket: connects to the Unix socket of another program. Any thread. */
#ifndef CAIRN_BASE_UNIX_SOCKET_H
#define CAIRN_BASE_UNIX_SOCKET_H

#include <sys/socket.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

#define UNIX_PATH_MAX 107 /* bytes of a socket's path, without the NUL */

/* Connect a stream socket. flags: SOCK_NONBLOCK or 0; with it, a queue that is full refuses (-EAGAIN).
 * Returns an fd that the caller owns, which is closed on exec; -ENAMETOOLONG; -errno. */
int unix_connect(const char *path, int flags);

#endif
