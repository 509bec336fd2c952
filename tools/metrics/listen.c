#include "tools/metrics/listen.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/keepalive.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define TOKEN_MIN 16
#define BACKLOG 128

int token_read(const char *path, char token[TOKEN_MAX], struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	CLEANUP_FREE char *text = NULL;
	struct stat st;
	size_t n;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (st.st_mode & 007)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: every user may read the token; run: chmod o= %s", path, path);
	r = file_read_fd(fd, path, TOKEN_MAX, &text, &n, e);
	if (r < 0)
		return r;
	n -= n && text[n - 1] == '\n';
	for (size_t i = 0; i < n; i++)
		if (text[i] <= ' ' || text[i] > '~')
			n = 0;
	if (n < TOKEN_MIN || n >= TOKEN_MAX)
		return err_set(e, -EINVAL, ERR_INVALID,
			"%s: a token is one line of 16 to 256 printable characters without blanks; make one: openssl rand -hex 32 >%s", path, path);
	memcpy(token, text, n);
	token[n] = 0;
	return 0;
}

/* Split "ADDRESS:PORT". Returns false if it is none. */
static bool where_split(const char *where, char address[64], const char **ret_port)
{
	const char *colon = strrchr(where, ':');
	size_t n = colon ? (size_t)(colon - where) : 0;

	if (n > 1 && where[0] == '[' && where[n - 1] == ']') {
		where++;
		n -= 2;
	}
	if (!n || n >= 64 || !colon[1])
		return false;
	memcpy(address, where, n);
	address[n] = 0;
	*ret_port = colon + 1;
	return true;
}

static int listen_at(const char *where, const struct addrinfo *a, int *ret_fd, struct err *e)
{
	CLEANUP_CLOSE int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1;

	if (fd < 0)
		return err_set_errno(e, -errno, "cannot make a socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	keepalive_set(fd);
	if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		return err_set(e, -errno, ERR_BUSY, "cannot listen on %s: %s%s", where, strerror(errno),
			errno == EADDRINUSE ? "; another program has this port: find it with ss -ltnp, or give another port" : "");
	*ret_fd = steal_fd(&fd);
	return 0;
}

int listen_tcp(const char *option, const char *where, unsigned port_min, int *ret_fd, struct err *e)
{
	static const struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE, .ai_socktype = SOCK_STREAM };
	struct addrinfo *a;
	const char *port;
	char address[64];
	int r;

	if (!where_split(where, address, &port) || port[strspn(port, "0123456789")] || atol(port) < port_min || atol(port) > 65535 ||
		getaddrinfo(address, port, &hints, &a))
		return err_set(e, -EINVAL, ERR_INVALID, "%s must be ADDRESS:PORT, such as 127.0.0.1:9177 or [::1]:9177, not \"%s\"", option, where);
	r = listen_at(where, a, ret_fd, e);
	freeaddrinfo(a);
	return r;
}

/* Remove the socket of a program that has ended. Returns whether there was one. */
static bool stale_remove(const struct sockaddr_un *a)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	return fd >= 0 && lstat(a->sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
		connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 && errno == ECONNREFUSED && unlink(a->sun_path) == 0;
}

int listen_unix(const char *path, mode_t mode, int *ret_fd, struct err *e)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int r;

	if (fd < 0)
		return err_set_errno(e, -errno, "cannot make a socket");
	if (strlen(path) >= sizeof(a.sun_path))
		return err_set(e, -EINVAL, ERR_INVALID, "--unix: a path has at most %zu bytes", sizeof(a.sun_path) - 1);
	memcpy(a.sun_path, path, strlen(path));
	umask(0777 & ~mode);
	r = bind(fd, (struct sockaddr *)&a, sizeof(a));
	if (r < 0 && errno == EADDRINUSE && stale_remove(&a))
		r = bind(fd, (struct sockaddr *)&a, sizeof(a));
	if (r < 0 || listen(fd, BACKLOG) < 0)
		return err_set(e, -errno, ERR_BUSY, "cannot listen on %s: %s%s", path, strerror(errno),
			errno == EADDRINUSE ? "; another program listens there, or it is no socket" : "");
	*ret_fd = steal_fd(&fd);
	return 0;
}
