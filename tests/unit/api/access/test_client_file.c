/* client_file: a process holds a client's file. Neither the daemon's end of it nor the death of the process blocks the
 * loop or leaves somebody waiting. */
#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "api/wire/close_async.h"
#include "api/wire/peer.h"
#include "base/channel.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/relay.h"
#include "tests/unit/lingering.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

#define SECOND_NS 1000000000ULL

struct fixture {
	struct loop *loop;
	struct closer *closer;
	struct helpers *helpers;
	struct client_file *file;
	pid_t holder;
	int peer; /* of the file */
	bool received;
	int sent; /* 1: not yet */
};

static void file_received(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct fixture *f = opaque;

	(void)e;
	assert_int_equal(r, 0);
	assert_int_equal(res->ndata, 1);
	f->received = true;
}

/* A process holds a file whose last close() blocks. */
static int setup(void **state)
{
	static struct fixture f;
	struct peer who = { geteuid(), getegid(), NULL, 0 };
	unsigned children;
	struct err e;
	int pair[2];

	f = (struct fixture){ .sent = 1 };
	assert_int_equal(loop_new(8, &f.loop, &e), 0);
	f.closer = closer_new();
	f.helpers = helpers_new(f.loop, f.closer, "/bin/false");
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fd_send(pair[1], lingering(&f.peer), 1, 0);
	assert_int_equal(client_file_receive(f.helpers, pair[0], &who, file_received, &f, &f.file, &e), 0);
	f.holder = last_child(&children);
	while (!f.received)
		loop_run_once(f.loop, SECOND_NS);
	assert_non_null(f.file);
	close(pair[0]);
	close(pair[1]);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	client_file_free(f->file);
	end_await(f->peer);
	helpers_free(f->helpers);
	closer_free(f->closer);
	loop_free(f->loop);
	return 0;
}

/* Kill the process, and wait until it has closed the file. */
static void holder_kill(const struct fixture *f)
{
	assert_int_equal(kill(f->holder, SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t)f->holder, &(siginfo_t){ 0 }, WEXITED | WNOWAIT), 0);
}

/* A process that asked for the file has ended before it took the file. */
static void test_file_left_in_the_relay_does_not_block(void **state)
{
	struct fixture *f = *state;
	struct pollfd p = { .fd = client_file_relay(f->file), .events = POLLIN };
	const uint16_t version = 1, ask = 1; /* as relay_take() */

	assert_int_equal(channel_send(p.fd, version, ask, 0, NULL, 0, NULL, 0), 0);
	assert_int_equal(poll(&p, 1, -1), 1);
	holder_kill(f);
}

static void message_sent(void *opaque, int r)
{
	((struct fixture *)opaque)->sent = r;
}

static void send_await(struct fixture *f, int to)
{
	struct relay_message m = { .to = to, .version = 7, .type = 9 };

	client_file_send(f->file, &m, message_sent, f);
	while (f->sent == 1)
		loop_run_once(f->loop, SECOND_NS);
}

/* The error is not that of a socket whose other end is closed. */
static void test_message_of_a_killed_process_fails(void **state)
{
	struct fixture *f = *state;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	holder_kill(f);
	send_await(f, pair[0]);
	assert_int_equal(f->sent, -EIO);
	close(pair[0]);
	close(pair[1]);
}

static void test_message_to_a_closed_socket_fails(void **state)
{
	struct fixture *f = *state;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	close(pair[1]);
	send_await(f, pair[0]);
	assert_int_equal(f->sent, -EPIPE);
	close(pair[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_file_left_in_the_relay_does_not_block, setup, teardown),
		cmocka_unit_test_setup_teardown(test_message_of_a_killed_process_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_message_to_a_closed_socket_fails, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
