/* cairn-agent tells the connections that it cannot serve that it is busy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"

#include <linux/vm_sockets.h>
#include <sys/socket.h>

static int next_sock;

static int accept_next(int listener, struct sockaddr *from, socklen_t *len, int flags)
{
	(void)listener, (void)len, (void)flags;
	((struct sockaddr_vm *)(void *)from)->svm_family = AF_VSOCK;
	((struct sockaddr_vm *)(void *)from)->svm_cid = VMADDR_CID_HOST;
	return next_sock;
}

int agent_main(int argc, char **argv);
#define accept4 accept_next
#define main agent_main
#include "tools/agent/main.c"
#undef main

/* Connect as the host, and let the agent answer. Returns the host's end. */
static int host_connect(void)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	next_sock = pair[0];
	session_accept(-1);
	return pair[1];
}

static void all_serve(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(sessions); i++) {
		struct pollfd p[SESSION_FDS];

		session_watch(&sessions[i], p);
		poll(p, SESSION_FDS, 0);
		session_serve(&sessions[i], p);
	}
}

/* Returns the error that the agent has sent after its greeting; 0: none. */
static unsigned greeting_read(int sock)
{
	struct agent_order order = { 0 };
	struct agent_frame f;
	uint8_t buf[64];
	ssize_t n = recv(sock, buf, sizeof(buf), 0), used;
	unsigned error = 0, frames = 0;

	assert_true(n > 0);
	for (ssize_t at = 0; at < n; at += used, frames++) {
		used = agent_frame_parse(buf + at, (size_t)(n - at), true, &f);
		assert_true(used > 0);
		assert_int_equal(agent_order_check(&order, &f), 0);
		if (f.type == AGENT_FRAME_FAILED) {
			error = load_le32(f.data);
			assert_int_equal(load_le32(f.data + 4), AGENT_STEP_AGENT);
		}
	}
	assert_int_equal(frames, error ? 2 : 1);
	return error;
}

static void test_connections_beyond_the_limit_are_told_that_the_agent_is_busy(void **state)
{
	int host[SESSIONS_MAX + REFUSED_MAX + 1], again;
	char byte;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sessions); i++)
		sessions[i].sock = sessions[i].in = sessions[i].out[0] = sessions[i].out[1] = -1;
	for (size_t i = 0; i < ARRAY_SIZE(host); i++)
		host[i] = host_connect();
	all_serve();
	for (size_t i = 0; i < SESSIONS_MAX + REFUSED_MAX; i++)
		assert_int_equal(greeting_read(host[i]), i < SESSIONS_MAX ? 0 : AGENT_ERROR_BUSY);
	assert_int_equal(recv(host[SESSIONS_MAX + REFUSED_MAX], &byte, 1, 0), 0);
	/* A connection that has ended makes room for one that is served, and a refused one for one that is refused. */
	for (int i = 0; i < 2; i++) {
		close(host[i ? SESSIONS_MAX : 0]);
		all_serve();
		again = host_connect();
		all_serve();
		assert_int_equal(greeting_read(again), i ? AGENT_ERROR_BUSY : 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connections_beyond_the_limit_are_told_that_the_agent_is_busy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
