/* out_queue: bytes that wait until a client's socket takes them, and fds that are sent with them. */
#ifndef CAIRN_API_WIRE_OUT_QUEUE_H
#define CAIRN_API_WIRE_OUT_QUEUE_H

#include <stddef.h>

struct chunk;
struct closer;

struct out_queue {
	struct chunk *first, **last; /* first: NULL: empty */
	size_t bytes;
	size_t fds; /* that are not sent yet */
	struct closer *closer;
};

/* closer: closes fds that are sockets with queued files; borrowed. */
void out_queue_init(struct out_queue *q, struct closer *closer);
/* Drop the unsent data. */
void out_queue_done(struct out_queue *q);
/* Append bytes. data: taken; from malloc(). fd: sent with the first byte; taken. -1: none. */
void out_queue_add(struct out_queue *q, char *data, size_t len, int fd);
/* Move all of another queue behind this one's. */
void out_queue_append(struct out_queue *q, struct out_queue *from);
/* Send as much as the socket takes now. Returns 0; -errno: the client is gone. */
int out_queue_flush(struct out_queue *q, int sock);

#endif
