/* relay: TCP connections between clients of the host's ports and the guest. Each is two sockets and a buffer in each
 * direction; an end of file and a reset continue to the other side. */
#ifndef CAIRN_TOOLS_PUBLISH_RELAY_H
#define CAIRN_TOOLS_PUBLISH_RELAY_H

#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#define RELAYS_MAX 448
#define RELAY_IDLE_NS 10000000000ULL /* a connection without data for so long may be ended for a new client */

struct relay;
struct sockaddr_storage;

struct relays {
	struct relay *list[RELAYS_MAX];
	unsigned n;
};

/* Returns the time from which there is room for a further client: 0 with fewer than RELAYS_MAX connections. */
uint64_t relays_room_ns(const struct relays *r);
/* Connect to the guest for a client. If there are RELAYS_MAX connections already, first end one: of the client address
 * that has the most connections, the connection that has been without data for the longest time. client: a socket that
 * does not block; this function takes it. from: the client's address. at: the forward's index. */
void relay_add(struct relays *r, int client, const struct sockaddr_storage *from, const struct sockaddr_in *guest, unsigned at);
/* Add two entries for each connection. Returns their number. */
unsigned relays_poll_add(const struct relays *r, struct pollfd *fds);
/* Handle the events. came: called for each connection with data; client: it is from the client of forward `at`, else
 * from the guest. */
void relays_poll_done(struct relays *r, const struct pollfd *fds, unsigned n, void (*came)(void *opaque, bool client, unsigned at),
	void *opaque);
/* Note that the forward `at` is removed, and that those behind it moved up. Its connections stay. */
void relays_remove_forward(struct relays *r, unsigned at);

#endif
