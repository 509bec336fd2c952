/* peer: finds out which user of this host has the other end of a connection, by asking the kernel (sock_diag(7)). Any
 * thread. */
#ifndef CAIRN_TOOLS_WEB_PEER_H
#define CAIRN_TOOLS_WEB_PEER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct peers {
	pthread_mutex_t lock;
	int sock; /* -1: the kernel cannot be asked */
	uint32_t asked;
};

void peers_init(struct peers *p);
/* Get the user of the process that has the other end of a TCP connection of loopback. Returns false if that user is
 * root, or is not known because the process has closed its end. */
bool peer_find(struct peers *p, int fd, uid_t *ret_uid);

#endif
