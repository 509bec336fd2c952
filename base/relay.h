/* relay: passes open files from the process that opened them to the process that needs them. A third process gave
 * each one end of a SOCK_SEQPACKET pair. The third process neither receives nor closes the files, so a file system
 * that hangs cannot block it. */
#ifndef CAIRN_BASE_RELAY_H
#define CAIRN_BASE_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Hold the files until the other end takes them, or lets them be sent with a message. Waits without a limit.
 * fds: borrowed, at most CHANNEL_FDS_MAX. at: the place of each in the list of the other end, which may take files
 * from several processes. again: serve the other end until it is closed. Takes no lock, so a forked process may call
 * it.
 * Returns 0; -EPIPE: the other end was closed; -errno. */
int relay_serve(int sock, const int *fds, const uint16_t *at, unsigned n, bool again);

/* Ask for the files, wait for them, and put them into the list.
 * fds: the list, of n files; -1: free places. On errors, too, it may have more files than before.
 * Returns 0; -EPIPE: the process that held the files has ended; -EPROTO: a file has no free place in the list;
 * -errno. */
int relay_take(int sock, int *fds, unsigned n);
/* Take n files from the processes behind several sockets, which are the fds from `first` on. The files get the numbers
 * from `first` on, and the sockets are closed. The caller moves other fds in that range away before.
 * Returns 0; -EINVAL: more than CHANNEL_FDS_MAX files or sockets; -EBADF: a file is missing; as relay_take(). */
int relay_take_at(int first, int64_t relays, int64_t n);

/* A message to a third process (base/channel.h). */
struct relay_message {
	int to; /* the socket; borrowed */
	uint16_t version, type;
	uint64_t seq;
	const void *body;
	size_t len;
	const int *fds; /* sent behind the held files; borrowed */
	unsigned nfds;
};

/* Let the process that holds the files send a message with them. relay_send_end() has the result once sock is
 * readable. After shutdown(sock, SHUT_WR), the process does not wait any more until the message can be sent.
 * Returns 0; -EINVAL: the message is too long; -errno. */
int relay_send_begin(int sock, const struct relay_message *x);
/* Returns 0: the message was sent; -EAGAIN: there is no result yet (on a non-blocking socket); -EIO: the process that
 * held the files has ended, and whether it sent the message is not known; -ECANCELED: sock was shut down before the
 * message could be sent; -errno of sending it. */
int relay_send_end(int sock);

#endif
