/* channel: only messages that the table allows are received, and no fd leaks. */
#include "base/channel.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define VERSION 3
#define SCM_MAX_FD 253 /* the kernel's limit for one message */

enum { TYPE_EMPTY = 1, TYPE_FIXED = 2, TYPE_RANGE = 3, TYPE_FDS = 4, TYPE_UNKNOWN = 5, TYPE_COUNT };

static const struct channel_type types[TYPE_COUNT] = {
	[TYPE_EMPTY] = { .known = true },
	[TYPE_FIXED] = { .body_min = 16, .body_max = 16, .known = true },
	[TYPE_RANGE] = { .body_min = 4, .body_max = CHANNEL_BODY_MAX, .fds_max = 2, .known = true },
	[TYPE_FDS] = { .body_max = 8, .fds_max = CHANNEL_FDS_MAX, .known = true },
};

struct pair {
	int a, b;
	unsigned fds_before;
	uint8_t buf[CHANNEL_BODY_MAX];
	struct channel_msg msg;
};

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static int pair_setup(void **state)
{
	struct pair *p = malloc(sizeof(*p));
	int fds[2];

	if (!p || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
		return -1;
	p->a = fds[0];
	p->b = fds[1];
	p->fds_before = open_fds();
	*state = p;
	return 0;
}

static int pair_teardown(void **state)
{
	struct pair *p = *state;
	unsigned now = open_fds();
	unsigned before = p->fds_before;

	if (p->a >= 0)
		close(p->a);
	else
		before--;
	if (p->b >= 0)
		close(p->b);
	else
		before--;
	free(p);
	if (now != before)
		print_error("%u fds open, %u before the test\n", now, before);
	return now != before;
}

static int receive(struct pair *p)
{
	return channel_recv(p->b, VERSION, types, TYPE_COUNT, p->buf, &p->msg);
}

/* Send a raw datagram with n copies of stdin's fd. */
static void raw_send(struct pair *p, const void *data, size_t len, unsigned nfds)
{
	struct iovec iov = { (void *)data, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * SCM_MAX_FD)];
	} control = { 0 };

	if (nfds) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int) * nfds); /* all of them are fd 0 */
	}
	assert_int_equal(sendmsg(p->a, &m, 0), len);
}

static void test_round_trip(void **state)
{
	struct pair *p = *state;

	assert_int_equal(
		channel_send(p->a, VERSION, TYPE_FIXED, 77, "0123456789abcdef", 16, NULL, 0), 0);
	assert_int_equal(channel_send(p->a, VERSION, TYPE_EMPTY, 0, NULL, 0, NULL, 0), 0);
	assert_int_equal(receive(p), 1);
	assert_int_equal(p->msg.head.type, TYPE_FIXED);
	assert_int_equal(p->msg.head.seq, 77);
	assert_int_equal(p->msg.head.body_bytes, 16);
	assert_int_equal(p->msg.nfds, 0);
	assert_memory_equal(p->msg.body, "0123456789abcdef", 16);
	assert_int_equal(receive(p), 1);
	assert_int_equal(p->msg.head.type, TYPE_EMPTY);
	assert_int_equal(receive(p), -EAGAIN);
}

static void test_largest_body(void **state)
{
	struct pair *p = *state;
	uint8_t *body = malloc(CHANNEL_BODY_MAX + 1);

	for (size_t i = 0; i < CHANNEL_BODY_MAX; i++)
		body[i] = (uint8_t)(i * 7);
	assert_int_equal(
		channel_send(p->a, VERSION, TYPE_RANGE, 1, body, CHANNEL_BODY_MAX, NULL, 0), 0);
	assert_int_equal(receive(p), 1);
	assert_memory_equal(p->msg.body, body, CHANNEL_BODY_MAX);
	assert_int_equal(
		channel_send(p->a, VERSION, TYPE_RANGE, 1, body, CHANNEL_BODY_MAX + 1, NULL, 0),
		-EINVAL);
	free(body);
}

static void refused(
	struct pair *p, uint16_t version, uint16_t type, size_t body_bytes, unsigned nfds)
{
	static const uint8_t body[64];
	const int fds[4] = { 0, 0, 0, 0 };

	assert_int_equal(channel_send(p->a, version, type, 1, body, body_bytes, fds, nfds), 0);
	assert_int_equal(receive(p), version == VERSION ? -EPROTO : -EPROTONOSUPPORT);
	assert_int_equal(p->msg.head.version, version);
	assert_int_equal(p->msg.nfds, 0);
}

static void test_unknown_types_and_lengths_are_refused(void **state)
{
	struct pair *p = *state;

	refused(p, VERSION + 1, TYPE_EMPTY, 0, 0);
	refused(p, VERSION + 1, TYPE_COUNT, 3, 3);
	refused(p, 0, TYPE_EMPTY, 0, 0);
	refused(p, VERSION, 0, 0, 0);
	refused(p, VERSION, TYPE_UNKNOWN, 0, 0);
	refused(p, VERSION, TYPE_COUNT, 0, 0);
	refused(p, VERSION, 0xffff, 0, 0);
	refused(p, VERSION, TYPE_EMPTY, 1, 0);
	refused(p, VERSION, TYPE_FIXED, 15, 0);
	refused(p, VERSION, TYPE_FIXED, 17, 0);
	refused(p, VERSION, TYPE_RANGE, 3, 0);
	refused(p, VERSION, TYPE_FDS, 9, 0);
	refused(p, VERSION, TYPE_EMPTY, 0, 1);
	refused(p, VERSION, TYPE_RANGE, 4, 3);
	/* The next valid message is received. */
	assert_int_equal(channel_send(p->a, VERSION, TYPE_EMPTY, 9, NULL, 0, NULL, 0), 0);
	assert_int_equal(receive(p), 1);
	assert_int_equal(p->msg.head.seq, 9);
}

static void test_wrong_length_is_refused(void **state)
{
	struct pair *p = *state;
	struct {
		struct channel_header head;
		uint8_t body[16];
	} m = { .head = { .version = VERSION, .type = TYPE_FIXED } };
	static const uint32_t lies[] = { 0, 1, 15, 17, 0x7fffffff, 0xffffffff, 0xfffffff0 };

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		m.head.body_bytes = lies[i];
		raw_send(p, &m, sizeof(m), i % 3);
		assert_int_equal(receive(p), -EPROTO);
	}
	m.head.body_bytes = 16;
	raw_send(p, &m, sizeof(m), 0);
	assert_int_equal(receive(p), 1);
	/* Truncated at every byte. */
	for (size_t n = 1; n < sizeof(m); n++) {
		raw_send(p, &m, n, n % 2);
		assert_int_equal(receive(p), -EPROTO);
	}
}

static void test_too_long_message_is_refused(void **state)
{
	struct pair *p = *state;
	size_t len = sizeof(struct channel_header) + CHANNEL_BODY_MAX + 1;
	struct channel_header *m = calloc(1, len);

	m->version = VERSION;
	m->type = TYPE_RANGE;
	m->body_bytes = CHANNEL_BODY_MAX; /* valid except for the missing byte */
	raw_send(p, m, len, 1);
	assert_int_equal(receive(p), -EPROTO);
	free(m);
}

static void test_fds_arrive_and_close_on_exec(void **state)
{
	struct pair *p = *state;
	int fds[CHANNEL_FDS_MAX], pipe_fds[2];
	struct stat want, got;

	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	for (unsigned i = 0; i < CHANNEL_FDS_MAX; i++)
		fds[i] = pipe_fds[i % 2];
	assert_int_equal(
		channel_send(p->a, VERSION, TYPE_FDS, 1, NULL, 0, fds, CHANNEL_FDS_MAX), 0);
	assert_int_equal(receive(p), 1);
	assert_int_equal(p->msg.nfds, CHANNEL_FDS_MAX);
	assert_int_equal(fstat(pipe_fds[0], &want), 0);
	for (unsigned i = 0; i < CHANNEL_FDS_MAX; i++) {
		assert_true(fcntl(p->msg.fds[i], F_GETFD) & FD_CLOEXEC);
		assert_int_equal(fstat(p->msg.fds[i], &got), 0);
		assert_int_equal(got.st_ino, want.st_ino);
	}
	channel_msg_close_fds(&p->msg);
	channel_msg_close_fds(&p->msg); /* a second call closes nothing */
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	assert_int_equal(
		channel_send(p->a, VERSION, TYPE_FDS, 1, NULL, 0, fds, CHANNEL_FDS_MAX + 1),
		-EINVAL);
}

static void test_too_many_fds_are_refused_and_closed(void **state)
{
	struct pair *p = *state;
	struct channel_header m = { .version = VERSION, .type = TYPE_FDS };

	raw_send(p, &m, sizeof(m), CHANNEL_FDS_MAX + 1);
	assert_int_equal(receive(p), -EPROTO);
	raw_send(p, &m, sizeof(m), SCM_MAX_FD);
	assert_int_equal(receive(p), -EPROTO);
	assert_int_equal(p->msg.nfds, 0);
	assert_int_equal(open_fds(), p->fds_before);
}

/* A datagram of no bytes can carry fds as well. */
static void test_fds_without_a_message(void **state)
{
	struct pair *p = *state;

	raw_send(p, "", 0, 5);
	assert_int_equal(receive(p), -EPROTO);
	assert_int_equal(p->msg.nfds, 0);
	assert_int_equal(open_fds(), p->fds_before);
}

static int receive_no_fds(struct pair *p)
{
	return channel_recv_no_fds(p->b, VERSION, types, TYPE_COUNT, p->buf, &p->msg);
}

/* Let b's messages come with credentials, as channel_recv_no_fds() needs it. */
static void credentials_on(struct pair *p)
{
	int on = 1;

	assert_int_equal(setsockopt(p->b, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
}

/* Return whether nobody has the other end of the pipe. */
static bool is_closed(int fd)
{
	char byte;

	return read(fd, &byte, 1) == 0;
}

static void test_fds_that_nobody_wants_stay_in_the_socket(void **state)
{
	struct pair *p = *state;
	int pipe_fds[2];

	credentials_on(p);
	for (unsigned n = 1; n < CHANNEL_FDS_MAX; n *= 2) {
		struct channel_header head = { .version = VERSION, .type = TYPE_FDS };

		assert_int_equal(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
		assert_int_equal(dup2(pipe_fds[1], 100), 100);
		assert_int_equal(channel_send(p->a, VERSION, TYPE_FDS, 1, NULL, 0, &(int){ 100 }, 1), 0);
		raw_send(p, n % 2 ? "" : (void *)&head, n % 2 ? 0 : sizeof(head), n);
		close(100);
		close(pipe_fds[1]);
		for (int i = 0; i < 3; i++)
			assert_int_equal(receive_no_fds(p), -EPERM);
		assert_false(is_closed(pipe_fds[0]));
		assert_int_equal(receive(p), 1);
		channel_msg_close_fds(&p->msg);
		assert_true(is_closed(pipe_fds[0]));
		assert_int_equal(receive_no_fds(p), -EPERM);
		assert_int_equal(receive(p), n % 2 ? -EPROTO : 1);
		channel_msg_close_fds(&p->msg);
		close(pipe_fds[0]);
	}
}

static void test_messages_without_fds_are_received(void **state)
{
	struct pair *p = *state;

	credentials_on(p);
	assert_int_equal(receive_no_fds(p), -EAGAIN);
	assert_int_equal(channel_send(p->a, VERSION, TYPE_FIXED, 7, "0123456789abcdef", 16, NULL, 0), 0);
	assert_int_equal(channel_send(p->a, VERSION, TYPE_UNKNOWN, 8, NULL, 0, NULL, 0), 0);
	assert_int_equal(channel_send(p->b, VERSION, TYPE_EMPTY, 9, NULL, 0, NULL, 0), 0);
	close(p->a); /* with unread data */
	p->a = -1;
	assert_int_equal(receive_no_fds(p), 1);
	assert_int_equal(p->msg.head.seq, 7);
	assert_memory_equal(p->msg.body, "0123456789abcdef", 16);
	assert_int_equal(receive_no_fds(p), -EPROTO);
	assert_int_equal(receive_no_fds(p), 0);
}

static void test_closed_peer_ends_channel(void **state)
{
	struct pair *p = *state;

	assert_int_equal(channel_send(p->a, VERSION, TYPE_EMPTY, 4, NULL, 0, NULL, 0), 0);
	close(p->a);
	p->a = -1;
	assert_int_equal(receive(p), 1); /* messages sent before the close still arrive */
	assert_int_equal(p->msg.head.seq, 4);
	assert_int_equal(receive(p), 0);
	assert_int_equal(receive(p), 0);
	assert_int_equal(channel_send(p->b, VERSION, TYPE_EMPTY, 5, NULL, 0, NULL, 0), -EPIPE);
}

/* The peer's last message is received although it closed its socket with unread data from us. */
static void test_last_message_arrives_despite_unread_data(void **state)
{
	struct pair *p = *state;

	assert_int_equal(channel_send(p->b, VERSION, TYPE_EMPTY, 1, NULL, 0, NULL, 0), 0);
	assert_int_equal(channel_send(p->a, VERSION, TYPE_EMPTY, 2, NULL, 0, NULL, 0), 0);
	close(p->a);
	p->a = -1;
	assert_int_equal(receive(p), 1);
	assert_int_equal(p->msg.head.seq, 2);
	assert_int_equal(receive(p), 0);
}

/* A peer that does not read: the sender gets an error, and neither a signal nor a block. */
static void test_send_to_full_socket_fails(void **state)
{
	struct pair *p = *state;
	unsigned sent = 0, got = 0;
	int r;

	while (!(
		r = channel_send(p->a, VERSION, TYPE_FIXED, sent, "0123456789abcdef", 16, NULL, 0)))
		sent++;
	assert_int_equal(r, -EAGAIN);
	assert_in_range(sent, 1, 1000000);
	while ((r = receive(p)) == 1)
		assert_int_equal(p->msg.head.seq, got++);
	assert_int_equal(r, -EAGAIN);
	assert_int_equal(got, sent);
}

static void test_not_a_socket(void **state)
{
	struct pair *p = *state;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(
		channel_recv(fds[0], VERSION, types, TYPE_COUNT, p->buf, &p->msg), -ENOTSOCK);
	assert_int_equal(channel_send(fds[1], VERSION, TYPE_EMPTY, 0, NULL, 0, NULL, 0), -ENOTSOCK);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
#define PAIR_TEST(t) cmocka_unit_test_setup_teardown(t, pair_setup, pair_teardown)
	const struct CMUnitTest tests[] = {
		PAIR_TEST(test_round_trip),
		PAIR_TEST(test_largest_body),
		PAIR_TEST(test_unknown_types_and_lengths_are_refused),
		PAIR_TEST(test_wrong_length_is_refused),
		PAIR_TEST(test_too_long_message_is_refused),
		PAIR_TEST(test_fds_arrive_and_close_on_exec),
		PAIR_TEST(test_too_many_fds_are_refused_and_closed),
		PAIR_TEST(test_fds_without_a_message),
		PAIR_TEST(test_fds_that_nobody_wants_stay_in_the_socket),
		PAIR_TEST(test_messages_without_fds_are_received),
		PAIR_TEST(test_closed_peer_ends_channel),
		PAIR_TEST(test_last_message_arrives_despite_unread_data),
		PAIR_TEST(test_send_to_full_socket_fails),
		PAIR_TEST(test_not_a_socket),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
