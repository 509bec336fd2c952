/* datagrams: UDP between clients of the host's ports and the guest. Each client has a socket of its own towards the
 * guest, so that the guest's answers can be assigned to the client. Beyond DATAGRAM_CLIENTS_MAX, the least recently
 * used client of the process is forgotten. */
#ifndef CAIRN_TOOLS_PUBLISH_DATAGRAMS_H
#define CAIRN_TOOLS_PUBLISH_DATAGRAMS_H

#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define DATAGRAM_CLIENTS_MAX 64

struct datagram_client {
	int fd; /* connected to the guest */
	unsigned at; /* the forward */
	struct sockaddr_in6 address; /* the bytes of a sockaddr_in if the port is one of IPv4 */
	socklen_t address_bytes;
	struct in6_addr own; /* address of the host that the client has sent to, and that answers come from; IPv4: its first four bytes */
	uint64_t used_ns;
};

struct datagrams {
	struct datagram_client list[DATAGRAM_CLIENTS_MAX];
	unsigned n;
};

/* Have the kernel tell to which address of the host each datagram came. fd: the host's port. family: AF_INET or
 * AF_INET6. Returns 0 or -errno. */
int datagrams_prepare(int fd, sa_family_t family);
/* Pass the waiting datagrams of forward `at` to the guest. fd: from datagrams_prepare(). */
void datagrams_receive(struct datagrams *d, int fd, unsigned at, const struct sockaddr_in *guest, uint64_t now_ns);
/* Add an entry for each client. Returns their number. */
unsigned datagrams_poll_add(const struct datagrams *d, struct pollfd *fds);
/* Pass the guest's answers to the clients. fd_of: returns the host's port of a forward. Returns whether there were
 * any. */
bool datagrams_poll_done(struct datagrams *d, const struct pollfd *fds, unsigned n, int (*fd_of)(const void *opaque, unsigned at),
	const void *opaque);
/* Remove the forward's clients; the forwards behind it moved up. */
void datagrams_remove_forward(struct datagrams *d, unsigned at);

#endif
