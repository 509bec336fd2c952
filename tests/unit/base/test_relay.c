/* relay: files go from the process that holds them to the one that asks, or to nobody. */
#include "base/relay.h"
#include "base/channel.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define N 3

struct fixture {
	int ours; /* -1: closed */
	int fds[N];
	pid_t holder;
};

/* the places of the holder's files in the other end's list */
static const uint16_t places[N] = { 3, 0, 2 };

static int holder_start(void **state, bool again)
{
	static struct fixture f;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	for (int i = 0; i < N; i++)
		assert_true((f.fds[i] = memfd_create("file", MFD_CLOEXEC)) >= 0);
	f.ours = pair[0];
	f.holder = fork();
	assert_true(f.holder >= 0);
	if (f.holder == 0) {
		close(pair[0]);
		_exit(-relay_serve(pair[1], f.fds, places, N, again));
	}
	close(pair[1]);
	*state = &f;
	return 0;
}

static int setup(void **state)
{
	return holder_start(state, false);
}

static int setup_again(void **state)
{
	return holder_start(state, true);
}

static int holder_end(struct fixture *f)
{
	int status;

	close(f->ours);
	assert_int_equal(waitpid(f->holder, &status, 0), f->holder);
	for (int i = 0; i < N; i++)
		close(f->fds[i]);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_files_arrive_in_their_places(void **state)
{
	struct fixture *f = *state;
	int got[] = { -1, 7777, -1, -1 };

	assert_int_equal(relay_take(f->ours, got, 4), 0);
	assert_int_equal(got[1], 7777);
	for (int i = 0; i < N; i++) {
		struct stat a, b;

		assert_true(fstat(f->fds[i], &a) == 0 && fstat(got[places[i]], &b) == 0);
		assert_true(a.st_ino == b.st_ino && a.st_dev == b.st_dev);
		close(got[places[i]]);
	}
	assert_int_equal(holder_end(f), 0);
}

static void test_holder_ends_when_nobody_asks(void **state)
{
	assert_int_equal(holder_end(*state), EPIPE);
}

/* size: of the list. */
static void refuse(struct fixture *f, unsigned size)
{
	int got[] = { -1, -1, 7777, -1 }, before = dup(f->ours), after;

	close(before);
	assert_int_equal(relay_take(f->ours, got, size), -EPROTO);
	for (int i = 0; i < 4; i++)
		if (got[i] >= 0 && got[i] != 7777)
			close(got[i]);
	after = dup(f->ours);
	assert_int_equal(after, before); /* the files without a place were closed */
	close(after);
	assert_int_equal(holder_end(f), 0);
}

static void test_file_beyond_the_list_is_refused(void **state)
{
	refuse(*state, 2);
}

static void test_file_in_the_place_of_another_is_refused(void **state)
{
	refuse(*state, 4);
}

static void test_end_of_the_holder_ends_the_wait(void **state)
{
	struct fixture *f = *state;
	int got[] = { -1, -1, -1, -1 };

	assert_int_equal(relay_take(f->ours, got, 4), 0);
	for (int i = 0; i < N; i++)
		close(got[places[i]]);
	assert_int_equal(relay_take(f->ours, got, 4), -EPIPE);
	assert_int_equal(holder_end(f), 0);
}

static void test_holder_serves_again(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 2; i++) {
		int got[] = { -1, -1, -1, -1 };

		assert_int_equal(relay_take(f->ours, got, 4), 0);
		for (int k = 0; k < N; k++)
			assert_int_equal(close(got[places[k]]), 0);
	}
	assert_int_equal(holder_end(f), EPIPE);
}

static void test_holder_sends_a_message_with_the_files(void **state)
{
	static const struct channel_type types[] = { [7] = { .body_max = 4, .fds_max = N + 1, .known = true } };
	static _Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct fixture *f = *state;
	struct channel_msg got;
	struct stat a, b;
	int pair[2], own = memfd_create("own", MFD_CLOEXEC);
	struct relay_message m = { .version = 5, .type = 7, .seq = 99, .body = "abc", .len = 4, .fds = &own, .nfds = 1 };

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	m.to = pair[0];
	assert_int_equal(relay_send_begin(f->ours, &m), 0);
	assert_int_equal(channel_recv(pair[1], 5, types, 8, buf, &got), 1);
	assert_true(got.head.seq == 99 && got.head.body_bytes == 4 && got.nfds == N + 1);
	assert_string_equal(buf, "abc");
	for (int i = 0; i <= N; i++) {
		assert_true(fstat(i < N ? f->fds[i] : own, &a) == 0 && fstat(got.fds[i], &b) == 0);
		assert_true(a.st_ino == b.st_ino && a.st_dev == b.st_dev);
	}
	channel_msg_close_fds(&got);
	poll(&(struct pollfd){ .fd = f->ours, .events = POLLIN }, 1, -1);
	assert_int_equal(relay_send_end(f->ours), 0);
	/* The receiver has gone. */
	close(pair[1]);
	assert_int_equal(relay_send_begin(f->ours, &m), 0);
	poll(&(struct pollfd){ .fd = f->ours, .events = POLLIN }, 1, -1);
	assert_int_equal(relay_send_end(f->ours), -EPIPE);
	kill(f->holder, SIGKILL);
	poll(&(struct pollfd){ .fd = f->ours, .events = POLLIN }, 1, -1);
	assert_int_equal(relay_send_end(f->ours), -EIO);
	waitpid(f->holder, NULL, 0);
	close(f->ours);
	close(pair[0]);
}

/* The receiver takes no messages. The holder gives up when the other end does, and sends nothing later. */
static void test_holder_does_not_send_late(void **state)
{
	static const struct channel_type types[] = { [1] = { .body_max = 4096, .known = true } };
	static _Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct fixture *f = *state;
	struct channel_msg got;
	int pair[2], r;
	struct relay_message m = { .version = 5, .type = 7 };

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	m.to = pair[0];
	do {
		r = channel_send(pair[0], 5, 1, 0, buf, 4096, NULL, 0);
	} while (!r);
	assert_int_equal(r, -EAGAIN);
	assert_int_equal(relay_send_begin(f->ours, &m), 0);
	assert_int_equal(shutdown(f->ours, SHUT_WR), 0);
	assert_int_equal(poll(&(struct pollfd){ .fd = f->ours, .events = POLLIN }, 1, 60000), 1);
	assert_int_equal(relay_send_end(f->ours), -ECANCELED);
	assert_int_equal(holder_end(f), EPIPE);
	close(pair[0]);
	while ((r = channel_recv(pair[1], 5, types, 2, buf, &got)) == 1)
		assert_int_equal(got.head.type, 1);
	assert_int_equal(r, 0);
	close(pair[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_files_arrive_in_their_places, setup),
		cmocka_unit_test_setup(test_holder_ends_when_nobody_asks, setup),
		cmocka_unit_test_setup(test_file_beyond_the_list_is_refused, setup),
		cmocka_unit_test_setup(test_file_in_the_place_of_another_is_refused, setup),
		cmocka_unit_test_setup(test_holder_serves_again, setup_again),
		cmocka_unit_test_setup(test_holder_sends_a_message_with_the_files, setup_again),
		cmocka_unit_test_setup(test_holder_does_not_send_late, setup_again),
		cmocka_unit_test_setup(test_end_of_the_holder_ends_the_wait, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
