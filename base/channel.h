/* channel: messages with fds over a SOCK_SEQPACKET Unix socket.
 *
 * A message has a fixed header (version, type, length, sequence) and a body. A table gives, for each type, the
 * shortest and longest body and the maximum number of fds. channel_recv() rejects other messages. */
#ifndef CAIRN_BASE_CHANNEL_H
#define CAIRN_BASE_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHANNEL_FDS_MAX 128
#define CHANNEL_BODY_MAX (96 * 1024)

struct channel_header {
	uint16_t version;
	uint16_t type;
	uint32_t body_bytes;
	uint64_t seq; /* the request's number; a reply repeats it; 0 for events */
};

/* The limits of one message type. A type without a row is rejected. */
struct channel_type {
	uint32_t body_min, body_max;
	uint16_t fds_max;
	bool known;
};

struct channel_msg {
	struct channel_header head;
	void *body; /* inside the buffer given to channel_recv() */
	int fds[CHANNEL_FDS_MAX];
	unsigned nfds; /* number of fds, which the receiver owns */
};

/* Send one message. fds: borrowed.
 * Returns 0; -EAGAIN if a non-blocking socket is full; -EPIPE if the peer is gone; -errno. */
int channel_send(int sock, uint16_t version, uint16_t type, uint64_t seq, const void *body,
	size_t body_bytes, const int *fds, unsigned nfds);

/* Receive one message.
 * buf: CHANNEL_BODY_MAX bytes, aligned for the bodies; ret_msg->body points into it.
 * Returns 1; 0 at the end of the stream; -EAGAIN; -EPROTONOSUPPORT for another version
 * (ret_msg->head has it); -EPROTO for a message that the table rejects; -errno. With -EPROTO and
 * -EPROTONOSUPPORT, the message's fds are closed. */
int channel_recv(int sock, uint16_t version, const struct channel_type *types, size_t ntypes,
	void *buf, struct channel_msg *ret_msg);

/* Receive one message from a peer that may send no fds, and whose fds must not enter this process, because close() may
 * hang. sock: with SO_PASSCRED, without SO_PASSPIDFD and SO_PASSSEC.
 * Returns as channel_recv(); -EPERM: fds come with the message, which stays in the socket. */
int channel_recv_no_fds(int sock, uint16_t version, const struct channel_type *types, size_t ntypes, void *buf,
	struct channel_msg *ret_msg);

void channel_msg_close_fds(struct channel_msg *m);

#endif
