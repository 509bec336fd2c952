/* send_queue: the messages to the daemon for which its socket has no room.
 *
 * A stopped daemon does not read, while its VM runs and causes events. No answer and no change of state may get lost,
 * but a guest must not fill the memory of the process either. So a newer event of a kind that the guest can repeat
 * replaces a waiting one of the same kind and device. All other messages are the effects of requests: while too many
 * of them wait, the owner of the queue reads no requests.
 *
 * Threading: one thread. A zeroed struct is an empty queue. */
#ifndef CAIRN_VMM_SEND_QUEUE_H
#define CAIRN_VMM_SEND_QUEUE_H

#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct waiting_msg;

struct send_queue {
	struct waiting_msg *first, **last;
	size_t kept_bytes; /* of the waiting messages that no newer one replaces */
	uint64_t replaced; /* events that were replaced since the queue was empty */
};

/* Send a message to a non-blocking socket, or queue it if others wait or the socket is full.
 * body: copied. Returns 0; -ENOMEM; -EPIPE if the peer is gone; -errno. */
int send_queue_send(struct send_queue *q, int sock, enum vm_msg_type type, uint64_t seq, const void *body, size_t len);
/* Send the queued data until the socket is full. Returns 0; -EPIPE if the peer is gone; -errno. */
int send_queue_flush(struct send_queue *q, int sock);
/* At the end of the process: send all queued data, and wait while the peer reads it, unless the peer has closed its
 * end. */
void send_queue_finish(struct send_queue *q, int sock);
/* Drop the queued data. */
void send_queue_clear(struct send_queue *q);
/* Return whether messages wait. */
bool send_queue_waits(const struct send_queue *q);
/* Return whether so much waits that no further request may begin. */
bool send_queue_full(const struct send_queue *q);

#endif
