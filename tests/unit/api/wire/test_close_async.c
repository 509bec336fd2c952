/* close_async: closing a client's socket never blocks the loop, not even for fds that came with an
 * empty packet. */
#include "api/wire/close_async.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>

#define HOUR_S 3600

/* Create a TCP socket whose last close() blocks for an hour, because its peer does not read. */
static int lingering(int *ret_peer)
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
static void fd_send(int sock, int s, size_t bytes)
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
	assert_int_equal(sendmsg(sock, &m, 0), bytes);
	close(s);
}

/* Wait until the peer of the TCP connection sees its end: the fd has been closed. */
static void let_go(int type, size_t bytes)
{
	static char buf[65536];
	int pair[2], peer;
	ssize_t n;

	assert_int_equal(socketpair(AF_UNIX, type, 0, pair), 0);
	fd_send(pair[1], lingering(&peer), bytes);
	close_async_socket(pair[0]);
	do
		n = recv(peer, buf, sizeof(buf), 0);
	while (n > 0);
	assert_int_equal(n, 0);
	close(peer);
	close(pair[1]);
}

static void test_closing_socket_with_data_does_not_block(void **state)
{
	(void)state;
	let_go(SOCK_STREAM, 1);
	let_go(SOCK_SEQPACKET, 1);
}

static void test_closing_fds_of_empty_packet_does_not_block(void **state)
{
	(void)state;
	let_go(SOCK_SEQPACKET, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_closing_socket_with_data_does_not_block),
		cmocka_unit_test(test_closing_fds_of_empty_packet_does_not_block),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
