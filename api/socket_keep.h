/* socket_keep: makes the daemon's socket and the VMs' QMP sockets again after somebody has removed them: a user's
 * runtime folder is removed at the end of the last session and made for the next one, while the daemon and its VMs run.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_SOCKET_KEEP_H
#define CAIRN_API_SOCKET_KEEP_H

struct err;
struct socket_keep;
struct vm_host;

/* Look from time to time whether the socket is there. host: listens. Returns 0 or -errno. */
int socket_keep_new(struct vm_host *host, struct socket_keep **ret, struct err *e);
/* NULL allowed. */
void socket_keep_free(struct socket_keep *k);

#endif
