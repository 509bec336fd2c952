/* socket: the socket that the page's server listens on: a new one, or one that a service manager passed. */
#ifndef CAIRN_TOOLS_WEB_SOCKET_H
#define CAIRN_TOOLS_WEB_SOCKET_H

#include <stdbool.h>

struct err;

#define SOCKET_ADDRESS_BYTES 64

struct web_socket {
	int fd;
	unsigned port; /* 0: a Unix socket */
	bool passed;   /* by a service manager, which keeps it when this process ends */
	char address[SOCKET_ADDRESS_BYTES]; /* of a port: "127.0.0.1", "[::1]" */
};

/* Take the passed socket, or listen.
 * tcp: "ADDRESS:PORT"; unix_path: of a Unix socket; both NULL: the passed socket, or a free port of 127.0.0.1.
 * tls: without it, the port has to be of loopback.
 * Returns 0, and the caller owns the fd; -errno with a sentence. */
int web_socket_open(const char *tcp, const char *unix_path, bool tls, struct web_socket *ret, struct err *e);

#endif
