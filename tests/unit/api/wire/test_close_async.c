/* close_async: closing a client's socket never blocks the loop, not even for fds that came with an
 * empty packet. */
#include "api/wire/close_async.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

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
static void fd_send(int sock, int s, size_t bytes, int flags)
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

/* Wait until the peer of the TCP connection sees its end: the fd has been closed. */
static void wait_for_end(int peer)
{
	static char buf[65536];
	ssize_t n;

	do
		n = recv(peer, buf, sizeof(buf), 0);
	while (n > 0);
	assert_int_equal(n, 0);
	close(peer);
}

static void let_go(int type, size_t bytes, int flags)
{
	int pair[2], peer;

	assert_int_equal(socketpair(AF_UNIX, type, 0, pair), 0);
	fd_send(pair[1], lingering(&peer), bytes, flags);
	close_async_socket(pair[0]);
	wait_for_end(peer);
	close(pair[1]);
}

static void test_closing_socket_with_data_does_not_block(void **state)
{
	(void)state;
	let_go(SOCK_STREAM, 1, 0);
	let_go(SOCK_STREAM, 1, MSG_OOB);
	let_go(SOCK_SEQPACKET, 1, 0);
}

static void test_closing_fds_of_empty_packet_does_not_block(void **state)
{
	(void)state;
	let_go(SOCK_SEQPACKET, 0, 0);
}

/* A client cannot get an fd past the daemon's looks by sending it with an out-of-band byte. */
static void test_fds_of_an_out_of_band_byte_are_seen(void **state)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int listening = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0), s, peer, fd = -1;
	socklen_t len = sizeof(sa_family_t); /* the kernel makes an abstract name */
	char byte;

	(void)state;
	assert_int_equal(bind(listening, (struct sockaddr *)&at, len), 0);
	assert_int_equal(listen(listening, 1), 0);
	len = sizeof(at);
	assert_int_equal(getsockname(listening, (struct sockaddr *)&at, &len), 0);
	assert_int_equal(connect(client, (struct sockaddr *)&at, len), 0);
	fd_send(client, lingering(&peer), 1, MSG_OOB);
	s = close_async_accept(listening, SOCK_CLOEXEC);
	assert_true(s >= 0);
	assert_int_equal(close_async_recv_without_fds(s, &byte, 1), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(close_async_recv(s, &byte, 1, &fd), 1);
	assert_int_equal(byte, 'x');
	assert_true(fd >= 0);
	close_async_fds(&fd, 1);
	wait_for_end(peer);
	close_async_socket(s);
	close_async_listener(listening);
	close(client);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_closing_socket_with_data_does_not_block),
		cmocka_unit_test(test_closing_fds_of_empty_packet_does_not_block),
		cmocka_unit_test(test_fds_of_an_out_of_band_byte_are_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
