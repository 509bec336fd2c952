/* wait_fds: poll(2) that polls for a bounded time before it sleeps, while work comes soon after each sleep
 * (base/busy_poll.h). The other side then need not wake this thread.
 *
 * Threading: the owner's of b and fds. */
#ifndef CAIRN_BASE_WAIT_FDS_H
#define CAIRN_BASE_WAIT_FDS_H

#include <poll.h>

struct busy_poll;

/* Wait for an event, at most timeout ms; -1: no limit. Returns how many fds have events; 0: none; -EINTR or another
 * -errno of poll(2). */
int wait_fds(struct busy_poll *b, struct pollfd *fds, nfds_t nfds, int timeout);

#endif
