/* channel: whole messages with fds over a SOCK_SEQPACKET Unix socket.
 *
 * A message is a fixed header (version, type, length, sequence) and a body whose
 * length its type fixes; a table says which. What does not fit the table is
 * refused before the body is looked at. */
#ifndef CAIRN_BASE_CHANNEL_H
#define CAIRN_BASE_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define CHANNEL_FDS_MAX 128
#define CHANNEL_BODY_MAX (96 * 1024)

struct channel_header {
	uint16_t version;
	uint16_t type;
	uint32_t body_bytes;
	uint64_t seq; /* of a request; a reply carries its request's; 0 for events */
};

/* What a type's body must be. Types without a row are refused. */
struct channel_type {
	uint32_t body_min, body_max;
	uint16_t fds_max;
	bool known;
};

struct channel_msg {
	struct channel_header head;
	void *body; /* inside the buffer given to channel_recv() */
	int fds[CHANNEL_FDS_MAX];
	unsigned nfds; /* the receiver owns them */
};

/* Send one message. fds are borrowed. Returns 0; -EAGAIN when the peer does not
 * read (non-blocking sockets); -EPIPE; -errno. */
int channel_send(int sock, uint16_t version, uint16_t type, uint64_t seq, const void *body,
	size_t body_bytes, const int *fds, unsigned nfds);

/* Receive one message into buf (CHANNEL_BODY_MAX bytes, aligned for what bodies are). Returns 1; 0 at the end of
 * the stream; -EAGAIN; -EPROTONOSUPPORT for another version, which ret_msg->head
 * has; -EPROTO for what the table does not allow (its fds are closed, as those of
 * another version are); -errno. */
int channel_recv(int sock, uint16_t version, const struct channel_type *types, size_t ntypes,
	void *buf, struct channel_msg *ret_msg);

void channel_msg_close_fds(struct channel_msg *m);

#endif
