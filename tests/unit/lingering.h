/* lingering: fds whose close() blocks, for tests of who closes them. */
#ifndef CAIRN_TESTS_LINGERING_H
#define CAIRN_TESTS_LINGERING_H

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>

#define HOUR_S 3600

/* Create a TCP socket whose last close() blocks for an hour, because its peer does not read. */
static inline int lingering(int *ret_peer)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct linger hour = { .l_onoff = 1, .l_linger = HOUR_S };
	int listening = socket(AF_INET, SOCK_STREAM, 0), s = socket(AF_INET, SOCK_STREAM, 0);
	static char bytes[65536];
	socklen_t len = sizeof(at);

	assert_int_equal(bind(listening, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(listening, 1), 0);
	assert_int_equal(getsockname(listening, (struct sockaddr *)&at, &len), 0);
	assert_int_equal(connect(s, (struct sockaddr *)&at, sizeof(at)), 0);
	*ret_peer = accept(listening, NULL, NULL);
	assert_true(*ret_peer >= 0);
	close(listening);
	while (send(s, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	assert_int_equal(setsockopt(s, SOL_SOCKET, SO_LINGER, &hour, sizeof(hour)), 0);
	return s;
}

/* s: taken. */
static inline void fd_send(int sock, int s, size_t bytes, int flags)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { "x", bytes };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);

	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &s, sizeof(s));
	assert_int_equal(sendmsg(sock, &m, flags), bytes);
	close(s);
}

/* Wait until the peer of the TCP connection sees its end: the fd has been closed. peer: taken. */
static inline void end_await(int peer)
{
	static char buf[65536];
	ssize_t n;

	do
		n = recv(peer, buf, sizeof(buf), 0);
	while (n > 0);
	assert_int_equal(n, 0);
	close(peer);
}

/* Return the last child of this process. ret_n: number of children. */
static inline pid_t last_child(unsigned *ret_n)
{
	char text[256] = "";
	int fd = open("/proc/thread-self/children", O_RDONLY), pid = 0, at = 0;

	assert_true(read(fd, text, sizeof(text) - 1) >= 0);
	close(fd);
	*ret_n = 0;
	for (const char *p = text; sscanf(p, "%d%n", &pid, &at) == 1; p += at)
		++*ret_n;
	return pid;
}

#endif
