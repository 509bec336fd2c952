/* close_async: closing a client's socket never blocks the loop, nor keeps a thread of it, not even for fds that came
 * with an empty packet. */
#include "api/wire/close_async.h"
#include "base/util.h"
#include "tests/unit/lingering.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

static unsigned threads(void)
{
	DIR *d = opendir("/proc/self/task");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void let_go(struct closer *c, int type, size_t bytes, int flags)
{
	int pair[2], peer;

	assert_int_equal(socketpair(AF_UNIX, type, 0, pair), 0);
	fd_send(pair[1], lingering(&peer), bytes, flags);
	shutdown(pair[0], SHUT_RDWR);
	assert_int_equal(closer_take(c, pair[0]), 0);
	assert_int_equal(threads(), 1);
	end_await(peer);
	close(pair[1]);
}

static int setup(void **state)
{
	*state = closer_new();
	return 0;
}

static int teardown(void **state)
{
	closer_free(*state);
	return 0;
}

static void test_closing_socket_with_data_does_not_block(void **state)
{
	let_go(*state, SOCK_STREAM, 1, 0);
	let_go(*state, SOCK_STREAM, 1, MSG_OOB);
	let_go(*state, SOCK_SEQPACKET, 1, 0);
}

static void test_closing_fds_of_empty_packet_does_not_block(void **state)
{
	let_go(*state, SOCK_SEQPACKET, 0, 0);
}

static void test_socket_without_fds_needs_no_process(void **state)
{
	const int types[] = { SOCK_STREAM, SOCK_SEQPACKET };
	struct closer *c = closer_new();
	unsigned before, after;
	int pair[2];

	(void)state;
	last_child(&before);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		assert_int_equal(socketpair(AF_UNIX, types[i], 0, pair), 0);
		assert_int_equal(send(pair[1], "text", 4, 0), 4);
		shutdown(pair[0], SHUT_RDWR);
		assert_int_equal(closer_take(c, pair[0]), 0);
		close(pair[1]);
	}
	last_child(&after);
	assert_int_equal(after, before);
	closer_free(c);
}

/* A client cannot get an fd past the daemon's looks by sending it with an out-of-band byte. */
static void test_fds_of_an_out_of_band_byte_are_seen(void **state)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int listening = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0), s, peer;
	socklen_t len = sizeof(sa_family_t); /* the kernel makes an abstract name */
	char byte;

	assert_int_equal(bind(listening, (struct sockaddr *)&at, len), 0);
	assert_int_equal(listen(listening, 1), 0);
	len = sizeof(at);
	assert_int_equal(getsockname(listening, (struct sockaddr *)&at, &len), 0);
	assert_int_equal(connect(client, (struct sockaddr *)&at, len), 0);
	fd_send(client, lingering(&peer), 1, MSG_OOB);
	s = close_async_accept(listening, SOCK_CLOEXEC);
	assert_true(s >= 0);
	assert_int_equal(close_async_recv(s, &byte, 1), -1);
	assert_int_equal(errno, EPERM);
	shutdown(s, SHUT_RDWR);
	assert_int_equal(closer_take(*state, s), 0);
	end_await(peer);
	close(listening);
	close(client);
}

/* Return a socket with a queued fd. */
static int socket_new(int *ret_peer)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	fd_send(pair[1], lingering(ret_peer), 1, 0);
	close(pair[1]);
	shutdown(pair[0], SHUT_RDWR);
	return pair[0];
}

/* A process that closes nothing more, as if too many closes hung. */
static void test_full_queue_of_the_process_is_told(void **state)
{
	static int peers[1000];
	int n = 1, sock = 0, r = closer_take(*state, socket_new(&peers[0]));
	unsigned children;
	pid_t closer = last_child(&children);

	assert_int_equal(kill(closer, SIGSTOP), 0);
	while (!r && n < 1000)
		r = closer_take(*state, sock = socket_new(&peers[n++]));
	/* -ETOOMANYREFS: a user other than root reaches the limit of files in sockets first. */
	assert_true(r == -EAGAIN || r == -ETOOMANYREFS);
	assert_int_equal(kill(closer, SIGCONT), 0);
	while ((r = closer_take(*state, sock)) == -EAGAIN || r == -ETOOMANYREFS)
		sched_yield();
	assert_int_equal(r, 0);
	while (n--)
		end_await(peers[n]);
}

static void test_killed_process_is_replaced(void **state)
{
	unsigned children;
	int peers[2];
	pid_t closer;

	assert_int_equal(closer_take(*state, socket_new(&peers[0])), 0);
	closer = last_child(&children);
	end_await(peers[0]);
	assert_int_equal(kill(closer, SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t)closer, &(siginfo_t){ 0 }, WEXITED | WNOWAIT), 0);
	assert_int_equal(closer_take(*state, socket_new(&peers[1])), 0);
	end_await(peers[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_closing_socket_with_data_does_not_block, setup, teardown),
		cmocka_unit_test_setup_teardown(test_closing_fds_of_empty_packet_does_not_block, setup, teardown),
		cmocka_unit_test_setup_teardown(test_socket_without_fds_needs_no_process, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fds_of_an_out_of_band_byte_are_seen, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_queue_of_the_process_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed_process_is_replaced, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
