/* first_messages: receives the messages before a VM process serves requests: its configuration and, before that, in a
 * process that takes a live clone over, the clone's memory (vmm/machine/ram_carry.h).
 *
 * Threading: main thread. Blocking. */
#ifndef CAIRN_VMM_FIRST_MESSAGES_H
#define CAIRN_VMM_FIRST_MESSAGES_H

#include "vmm/vm_msg.h"

#include <stdbool.h>

struct err;
struct memory;

struct first_messages {
	int fd;		 /* connected to the peer; borrowed */
	bool takes_over; /* the peer is a process that hands its VM over */
	void *buf;	 /* CHANNEL_BODY_MAX bytes, aligned to 16 */
	int *pagemap_fd; /* /proc/self/pagemap; taken if the peer sends memory */
	uint64_t seq;	 /* of the last message */
	struct memory *memory; /* the clone's memory; NULL: none. memory_done() and free() it, also after an error */
};

/* Receive up to the configuration, and check it. f: fd, takes_over, buf and pagemap_fd are set, the rest is zeroed.
 * ret_cfg: in f->buf.
 * fds: CHANNEL_FDS_MAX; owned by the caller afterwards, also after an error.
 * Returns 0 or -errno. */
int first_messages_receive(struct first_messages *f, const struct vm_config **ret_cfg, int *fds, unsigned *nfds, struct err *e);
/* Wait for the peer at a listening socket, at most so many ms. Returns an owned fd; -ETIMEDOUT; -errno. */
int first_messages_accept(int listen_fd, int ms, struct err *e);

#endif
