/* The client waits for a late answer as long as the daemon greets other clients. No test waits for time to pass:
 * ppoll() reports as many timeouts as a test wants. */
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define GREETING "{\"QMP\":{\"version\":{}}}\n"
#define EVENT "{\"event\":\"VM_STATE_CHANGE\"}\n"
#define BUSY "{\"error\":{\"class\":\"Busy\",\"desc\":\"too many clients\"}}\n"

static unsigned timeouts; /* of the next calls of ppoll() */

int __real_ppoll(struct pollfd *p, nfds_t n, const struct timespec *limit, const sigset_t *set);
int __wrap_ppoll(struct pollfd *p, nfds_t n, const struct timespec *limit, const sigset_t *set);

int __wrap_ppoll(struct pollfd *p, nfds_t n, const struct timespec *limit, const sigset_t *set)
{
	if (!timeouts)
		return __real_ppoll(p, n, limit, set);
	timeouts--;
	return 0;
}

struct daemon {
	char dir[80], path[96];
	int listening;
	const char *second; /* sent to the second client; only then the first one gets its answer. NULL: no answer */
	pthread_t thread;
};

static void put(int fd, const char *text)
{
	if (send(fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text))
		abort();
}

/* Read one line. Returns false at the end of the stream. */
static bool get_line(int fd)
{
	char c = 0;

	while (c != '\n')
		if (read(fd, &c, 1) != 1)
			return false;
	return true;
}

static void *daemon_run(void *opaque)
{
	struct daemon *d = opaque;
	int first = accept(d->listening, NULL, NULL), second;

	put(first, GREETING);
	get_line(first);
	put(first, "{\"return\":{},\"id\":1}\n");
	get_line(first);
	if (d->second) {
		second = accept(d->listening, NULL, NULL);
		put(second, d->second);
		get_line(second);
		close(second);
		put(first, EVENT "{\"return\":{\"late\":true},\"id\":2}\n");
	}
	get_line(first);
	close(first);
	return NULL;
}

static struct client *daemon_start(struct daemon *d)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct client *c;

	snprintf(d->dir, sizeof(d->dir), "%.60s/client-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(d->dir));
	snprintf(d->path, sizeof(d->path), "%s/socket", d->dir);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", d->path);
	d->listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(d->listening, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(d->listening, 4), 0);
	assert_int_equal(pthread_create(&d->thread, NULL, daemon_run, d), 0);
	assert_int_equal(client_connect(d->path, &c, NULL), 0);
	return c;
}

static void daemon_end(struct daemon *d, struct client *c)
{
	client_free(c);
	pthread_join(d->thread, NULL);
	close(d->listening);
	unlink(d->path);
	rmdir(d->dir);
}

static void late_answer(const char *second)
{
	struct daemon d = { .second = second };
	struct client *c = daemon_start(&d);
	CLEANUP_JS struct json_object *v = NULL;

	timeouts = 1;
	assert_int_equal(client_execute(c, "slow", NULL, &v, NULL, NULL), 0);
	assert_true(js_get_bool(v, "late", false));
	daemon_end(&d, c);
}

static void test_client_waits_while_daemon_greets_others(void **state)
{
	(void)state;
	late_answer(GREETING);
}

static void test_client_waits_while_daemon_refuses_others(void **state)
{
	(void)state;
	late_answer(BUSY);
}

static void test_client_gives_up_when_daemon_greets_nobody(void **state)
{
	struct daemon d = { .second = NULL };
	struct client *c = daemon_start(&d);
	struct err e;

	(void)state;
	timeouts = 2;
	assert_int_equal(client_execute(c, "slow", NULL, NULL, NULL, &e), -ETIMEDOUT);
	assert_int_equal(e.cls, ERR_TIMEOUT);
	assert_non_null(strstr(e.msg, "neither this command nor new clients"));
	daemon_end(&d, c);
}

static void events_kept(bool serves)
{
	struct daemon d = { .second = GREETING };
	struct client *c = daemon_start(&d);
	CLEANUP_JS struct json_object *event = NULL;
	int asker[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, asker), 0);
	if (serves)
		client_serve(c, asker[0], UINT64_MAX);
	timeouts = 1;
	assert_int_equal(client_execute(c, "slow", NULL, NULL, NULL, NULL), 0);
	assert_int_equal(client_next_event(c, 0, &event, NULL), serves ? -ETIMEDOUT : 0);
	daemon_end(&d, c);
	close(asker[0]);
	close(asker[1]);
}

static void test_event_before_an_answer_is_queued_unless_the_client_serves(void **state)
{
	(void)state;
	events_kept(false);
	events_kept(true);
}

static void test_client_gives_up_when_its_asker_disconnects(void **state)
{
	struct daemon d = { .second = NULL };
	struct client *c = daemon_start(&d);
	struct err e;
	int asker[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, asker), 0);
	client_serve(c, asker[0], UINT64_MAX);
	shutdown(asker[1], SHUT_WR);
	for (int i = 0; i < 2; i++)
		assert_int_equal(client_execute(c, "slow", json_object_new_object(), NULL, NULL, &e), -ECANCELED);
	daemon_end(&d, c);
	close(asker[0]);
	close(asker[1]);
}

static void test_client_gives_up_at_its_deadline(void **state)
{
	struct daemon d = { .second = NULL };
	struct client *c = daemon_start(&d);
	struct err e;
	int asker[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, asker), 0);
	client_serve(c, asker[0], 1);
	assert_int_equal(client_execute(c, "slow", NULL, NULL, NULL, &e), -ETIMEDOUT);
	assert_non_null(strstr(e.msg, "has not answered in time"));
	daemon_end(&d, c);
	close(asker[0]);
	close(asker[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_client_waits_while_daemon_greets_others),
		cmocka_unit_test(test_client_waits_while_daemon_refuses_others),
		cmocka_unit_test(test_client_gives_up_when_daemon_greets_nobody),
		cmocka_unit_test(test_event_before_an_answer_is_queued_unless_the_client_serves),
		cmocka_unit_test(test_client_gives_up_when_its_asker_disconnects),
		cmocka_unit_test(test_client_gives_up_at_its_deadline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
