/* relay: TCP connections between clients of the host's ports and the guest. Each is two sockets and a buffer in each
 * direction; an end of file and a reset continue to the other side. */
#ifndef CAIRN_TOOLS_PUBLISH_RELAY_H
#define CAIRN_TOOLS_PUBLISH_RELAY_H

#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>

#define RELAYS_MAX 448 /* further clients wait in the kernel's queue */

struct relay;

struct relays {
	struct relay *list[RELAYS_MAX];
	unsigned n;
};

/* Connect to the guest for a client. client: a socket that does not block; taken. at: of the forward. */
void relay_add(struct relays *r, int client, const struct sockaddr_in *guest, unsigned at);
/* Add two entries for each connection. Returns their number. */
unsigned relays_poll_add(const struct relays *r, struct pollfd *fds);
/* Handle the events. came: called for each connection with data; client: it is from the client of forward `at`, else
 * from the guest. */
void relays_poll_done(struct relays *r, const struct pollfd *fds, unsigned n, void (*came)(void *opaque, bool client, unsigned at),
	void *opaque);
/* Note that the forward `at` is removed, and that those behind it moved up. Its connections stay. */
void relays_remove_forward(struct relays *r, unsigned at);

#endif
