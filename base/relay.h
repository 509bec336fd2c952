/* relay: hands open files from the process that opened them to the process that needs them, over a SOCK_SEQPACKET pair
 * whose ends a third process gave them. The third process neither receives nor closes the files, so a file system that
 * hangs cannot block it. */
#ifndef CAIRN_BASE_RELAY_H
#define CAIRN_BASE_RELAY_H

#include <stdint.h>

/* Hold the files until the other end asks for them, and send them. Waits without a limit.
 * fds: borrowed, at most CHANNEL_FDS_MAX. at: the place of each in the list of the other end, which may take files
 * from several processes. Takes no lock, so a forked process may call it.
 * Returns 0; -EPIPE: the other end was closed; -errno. */
int relay_serve(int sock, const int *fds, const uint16_t *at, unsigned n);

/* Ask for the files, wait for them, and put them into the list.
 * fds: the list, of n files; -1: free places. On errors, too, it may have more files than before.
 * Returns 0; -EPIPE: the process that held the files has ended; -EPROTO: a file has no free place in the list;
 * -errno. */
int relay_take(int sock, int *fds, unsigned n);

#endif
