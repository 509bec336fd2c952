#include "tools/web/socket.h"
#include "api/wire/listen.h"
#include "base/err.h"
#include "tools/metrics/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage room;
};

static bool is_loopback(const union address *a)
{
	return a->any.sa_family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr) : a->v4.sin_addr.s_addr == htonl(INADDR_LOOPBACK);
}

/* Find out the port and the address. Returns 0; -errno with a sentence. */
static int address_fill(struct web_socket *s, bool tls, struct err *e)
{
	union address a = { .any.sa_family = AF_UNSPEC };
	socklen_t n = sizeof(a);
	char host[SOCKET_ADDRESS_BYTES - 2];
	bool six;

	if (getsockname(s->fd, &a.any, &n) < 0)
		return err_set_errno(e, -errno, "the socket to listen on");
	if (a.any.sa_family == AF_UNIX)
		return tls ? err_set(e, -EINVAL, ERR_INVALID, "the service manager passed a Unix socket; TLS needs a TCP port") : 0;
	six = a.any.sa_family == AF_INET6;
	if ((!six && a.any.sa_family != AF_INET) || getnameinfo(&a.any, n, host, sizeof(host), NULL, 0, NI_NUMERICHOST))
		return err_set(e, -EINVAL, ERR_INVALID, "the socket to listen on is neither TCP nor a Unix socket");
	snprintf(s->address, sizeof(s->address), six ? "[%s]" : "%s", host);
	s->port = ntohs(six ? a.v6.sin6_port : a.v4.sin_port);
	if (!tls && !is_loopback(&a))
		return err_set(e, -EINVAL, ERR_INVALID,
			"%s:%u: others in the network could read the session without TLS; give --certificate and --key, or listen on 127.0.0.1 and forward the port: ssh -L 9178:localhost:9178 HOST",
			s->address, s->port);
	return 0;
}

int web_socket_open(const char *tcp, const char *unix_path, bool tls, struct web_socket *ret, struct err *e)
{
	struct web_socket s = { .fd = -1 };
	int r = listen_passed_fd(&s.fd, e);

	s.passed = r > 0;
	if (s.passed && (tcp || unix_path))
		r = err_set(e, -EINVAL, ERR_INVALID, "the service manager passes a socket; give neither --listen nor --unix");
	else if (r == 0)
		r = unix_path ? listen_unix(unix_path, 0600, &s.fd, e) : listen_tcp("--listen", tcp ? tcp : "127.0.0.1:0", 0, &s.fd, e);
	if (r >= 0)
		r = address_fill(&s, tls, e);
	*ret = s;
	return r;
}
