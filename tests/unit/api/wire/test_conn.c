/* Many random clients of a server: nothing stays counted in their accounts when they and their calls have ended. */
#include "api/wire/account.h"
#include "api/wire/close_async.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/loop.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define CLIENTS 40
#define CALLS 100
#define FDS 900 /* more than a socket takes, and fewer than a process may open */

/* A command that is not answered yet. */
struct open_call {
	struct conn *conn;
	struct account_call account;
};

struct fixture {
	struct loop *loop;
	struct server *server;
	struct closer *closer;
	struct accounts *accounts; /* the server's */
	char path[96];
	struct open_call calls[CALLS];
	unsigned known, commands; /* users below `known` have a role; commands that ran */
	bool keep; /* keep some calls open */
	bool files; /* answers come with a file */
};

static struct accounts *last_accounts;

struct accounts *__real_accounts_new(void (*wake)(void *opaque), void *opaque);
struct accounts *__wrap_accounts_new(void (*wake)(void *opaque), void *opaque);

struct accounts *__wrap_accounts_new(void (*wake)(void *opaque), void *opaque)
{
	return last_accounts = __real_accounts_new(wake, opaque);
}

static void call_end(struct open_call *c, bool files)
{
	CLEANUP_JS struct json_object *answer = json_object_new_object();
	struct conn *conn;

	js_put_str(answer, "return", "x");
	if (c->conn)
		conn_send(c->conn, answer, files ? memfd_create("answer", MFD_CLOEXEC) : -1);
	conn = c->conn;
	c->conn = NULL;
	account_call_end(&c->account);
	if (conn)
		conn_call_end(conn);
}

static void dispatch(void *opaque, struct conn *c, struct json_object *text)
{
	struct fixture *f = opaque;
	struct open_call now, *call = &f->calls[(unsigned)rand() % CALLS];
	bool keep = f->keep && !call->account.account && rand() % 2;

	(void)text;
	f->commands++;
	call = keep ? call : &now;
	call->conn = c;
	conn_set_negotiated(c);
	conn_call_begin(c, &call->conn, &call->account);
	if (!keep)
		call_end(call, f->files);
}

static struct json_object *greeting(void *opaque)
{
	(void)opaque;
	return json_object_new_object();
}

static enum role no_role(void *opaque, const struct peer *who, const uint8_t *uuid)
{
	(void)opaque;
	(void)who;
	(void)uuid;
	return ROLE_NONE;
}

static uint64_t no_mark(void *opaque, const struct peer *who)
{
	(void)opaque;
	(void)who;
	return 0;
}

static bool is_known(void *opaque, const struct peer *who)
{
	return !who || who->uid < ((struct fixture *)opaque)->known;
}

static int no_files(void *opaque, struct conn *c, int sock, struct client_file **ret, struct err *e)
{
	(void)opaque;
	(void)c;
	(void)sock;
	(void)ret;
	return err_set(e, -EBUSY, ERR_BUSY, "no");
}

static void file_free(struct client_file *f)
{
	assert_null(f);
}

static void dropped(void *opaque, const struct conn *c, size_t unread_bytes)
{
	(void)opaque;
	(void)c;
	(void)unread_bytes;
}

static int setup(void **state)
{
	static const struct server_ops ops = { dispatch, greeting, no_role, no_mark, is_known, no_files, file_free, dropped };
	struct fixture *f = calloc(1, sizeof(*f));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct err e;

	snprintf(f->path, sizeof(f->path), "%s/cairn-conn-%d", tmp_folder(), (int)getpid());
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", f->path);
	unlink(f->path);
	f->known = 1003;
	f->closer = closer_new();
	*state = f;
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, CLIENTS) < 0 || loop_new(64, &f->loop, &e) < 0 ||
		server_new(f->loop, &ops, f, f->path, fd, (gid_t)-1, f->closer, &f->server, &e) < 0)
		return -1;
	f->accounts = last_accounts;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	server_free(f->server);
	closer_free(f->closer);
	loop_free(f->loop);
	unlink(f->path);
	free(f);
	return 0;
}

/* Connect as a user. Returns the socket. */
static int client_new(const struct fixture *f, uid_t uid)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", f->path);
	/* The kernel reports the effective ids at the time of connect(). */
	if (geteuid() == 0)
		assert_int_equal(seteuid(uid), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	if (geteuid() != 0)
		assert_int_equal(seteuid(getuid()), 0);
	return fd;
}

/* Send some bytes of commands: whole ones, cut ones, long ones, nonsense. */
static void client_send(int fd)
{
	static const char commands[] = "{\"execute\":\"a\"}{\"execute\":\"b\",\"arguments\":{\"x\":[{},{},{}]}}  {{]\xff{\"a\":\"";
	static char large[100000];
	size_t at = (unsigned)rand() % (sizeof(commands) - 1), n = (unsigned)rand() % (sizeof(commands) - at);

	memset(large, 'x', sizeof(large));
	if (rand() % 10 == 0)
		send(fd, large, (unsigned)rand() % sizeof(large), MSG_NOSIGNAL | MSG_DONTWAIT);
	else
		send(fd, commands + at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void client_read(int fd)
{
	static char buf[65536];

	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) == (ssize_t)sizeof(buf))
		;
}

static void client_act(struct fixture *f, int *fd)
{
	int what = rand() % 12;

	if (*fd < 0) {
		*fd = client_new(f, rand() % 8 ? 1000 + (unsigned)rand() % 6 : 0);
	} else if (what == 0) {
		close(*fd);
		*fd = -1;
	} else if (what == 1) {
		shutdown(*fd, SHUT_WR);
	} else if (what < 5) {
		client_read(*fd);
	} else {
		client_send(*fd);
	}
}

static void test_nothing_stays_counted_after_random_clients(void **state)
{
	struct fixture *f = *state;
	int fds[CLIENTS];

	srand(11);
	memset(fds, 0xff, sizeof(fds));
	f->keep = true;
	for (unsigned i = 0; i < 30000; i++) {
		struct open_call *call = &f->calls[(unsigned)rand() % CALLS];

		client_act(f, &fds[(unsigned)rand() % CLIENTS]);
		if (rand() % 3 == 0 && call->account.account)
			call_end(call, false);
		if (rand() % 500 == 0) {
			f->known = 1000 + (unsigned)rand() % 6;
			server_permissions_changed(f->server, NULL);
		}
		if (rand() % 3 == 0)
			loop_run_once(f->loop, 0);
	}
	assert_true(f->commands > 1000);
	f->keep = false;
	for (unsigned i = 0; i < CLIENTS; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	for (unsigned i = 0; i < CALLS; i++)
		if (f->calls[i].account.account)
			call_end(&f->calls[i], false);
	while (!accounts_are_empty(f->accounts))
		loop_run_once(f->loop, UINT64_MAX);
}

/* The client hangs up at once: its command runs all the same, in its turn. */
static void test_command_runs_although_the_client_has_gone(void **state)
{
	struct fixture *f = *state;
	int fd = client_new(f, 1000);
	char line[16];

	while (recv(fd, line, sizeof(line), MSG_DONTWAIT) < 0) /* the greeting; unread, it would reset the connection */
		loop_run_once(f->loop, UINT64_MAX);
	assert_int_equal(send(fd, "{}", 2, MSG_NOSIGNAL), 2);
	close(fd);
	while (!f->commands)
		loop_run_once(f->loop, UINT64_MAX);
	while (!accounts_are_empty(f->accounts))
		loop_run_once(f->loop, UINT64_MAX);
}

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < FDS; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* The socket has some of the answers; the daemon keeps few open files for the others, and continues when the client
 * reads. */
static void test_client_that_takes_no_files_keeps_few_open(void **state)
{
	struct fixture *f = *state;
	int fd = client_new(f, 1000);
	char commands[2 * FDS];
	unsigned before;

	f->files = true;
	for (size_t i = 0; i < sizeof(commands); i++)
		commands[i] = "{}"[i % 2];
	assert_int_equal(send(fd, commands, sizeof(commands), MSG_NOSIGNAL), sizeof(commands));
	before = open_fds() + 1; /* the daemon's end of the connection */
	for (unsigned i = 0; i < FDS; i++)
		loop_run_once(f->loop, 0);
	assert_in_range(open_fds(), before, before + 8);
	while (f->commands < FDS) {
		client_read(fd);
		loop_run_once(f->loop, 0);
	}
	close(fd);
	while (!accounts_are_empty(f->accounts))
		loop_run_once(f->loop, UINT64_MAX);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_nothing_stays_counted_after_random_clients, setup, teardown),
		cmocka_unit_test_setup_teardown(test_client_that_takes_no_files_keeps_few_open, setup, teardown),
		cmocka_unit_test_setup_teardown(test_command_runs_although_the_client_has_gone, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
