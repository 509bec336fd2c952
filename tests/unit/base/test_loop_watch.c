/* loop: watches that any callback changes and removes at any time. */
#include "base/err.h"
#include "base/loop.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/base/loop_group.h"

#define MS 1000000ULL

struct spot {
	struct loop *loop;
	struct loop_watch *w;
	int fd[2]; /* [0] is watched */
	unsigned calls, revents;
	void (*act)(struct spot *s); /* run by the callback */
	struct spot *other;
};

static int loop_setup(void **state)
{
	struct err e;

	return loop_new(8, (struct loop **)state, &e);
}

static int loop_teardown(void **state)
{
	loop_free(*state);
	return 0;
}

static void spot_ready(void *opaque, unsigned revents)
{
	struct spot *s = opaque;

	s->calls++;
	s->revents = revents;
	if (s->act)
		s->act(s);
}

static void spot_init(struct spot *s, struct loop *l, unsigned events, void (*act)(struct spot *s))
{
	memset(s, 0, sizeof(*s));
	s->loop = l;
	s->act = act;
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s->fd), 0);
	assert_int_equal(loop_watch(l, s->fd[0], events, spot_ready, s, &s->w), 0);
}

static void spot_close(struct spot *s)
{
	close(s->fd[0]);
	close(s->fd[1]);
}

static void poke(struct spot *s)
{
	assert_int_equal(write(s->fd[1], "x", 1), 1);
}

static void drain(struct spot *s)
{
	char buf[64];

	while (read(s->fd[0], buf, sizeof(buf)) > 0)
		;
}

static void unwatch_self(struct spot *s)
{
	loop_unwatch(s->w);
	s->w = NULL;
}

static void rounds(struct loop *l, unsigned n)
{
	while (n--)
		loop_run_once(l, 2 * MS);
}

static void test_level_triggered(void **state)
{
	struct spot s;

	spot_init(&s, *state, POLLIN, NULL);
	rounds(*state, 3);
	assert_int_equal(s.calls, 0);
	poke(&s);
	rounds(*state, 20);
	assert_true(s.calls >= 3); /* nobody reads, so the event is repeated */
	assert_int_equal(s.revents, POLLIN);
	s.act = drain;
	rounds(*state, 3);
	s.calls = 0;
	rounds(*state, 3);
	assert_int_equal(s.calls, 0);
	loop_unwatch(s.w);
	spot_close(&s);
}

static void test_unwatch_in_its_own_callback(void **state)
{
	struct spot s;

	spot_init(&s, *state, POLLIN, unwatch_self);
	poke(&s);
	rounds(*state, 10);
	assert_int_equal(s.calls, 1);
	spot_close(&s);
}

/* The completion may already be in the ring when the watch is removed. */
static void test_unwatch_with_the_event_on_its_way(void **state)
{
	struct spot s;

	spot_init(&s, *state, POLLIN, NULL);
	loop_run_once(*state, 0);
	poke(&s);
	loop_unwatch(s.w);
	spot_close(&s);
	rounds(*state, 5);
	assert_int_equal(s.calls, 0);
}

static void test_unwatch_before_the_first_round(void **state)
{
	struct spot s;

	spot_init(&s, *state, POLLIN, NULL);
	poke(&s);
	loop_unwatch(s.w);
	spot_close(&s);
	rounds(*state, 5);
	assert_int_equal(s.calls, 0);
	loop_unwatch(NULL);
}

static void unwatch_other(struct spot *s)
{
	drain(s);
	if (s->other && s->other->w)
		unwatch_self(s->other);
}

/* Both are ready in the same iteration: the first callback removes the second watch. */
static void test_unwatch_another_that_is_ready(void **state)
{
	struct spot a, b;

	spot_init(&a, *state, POLLIN, unwatch_other);
	spot_init(&b, *state, POLLIN, unwatch_other);
	a.other = &b;
	b.other = &a;
	loop_run_once(*state, 0);
	poke(&a);
	poke(&b);
	rounds(*state, 10);
	assert_int_equal(a.calls + b.calls, 1);
	loop_unwatch(a.w);
	loop_unwatch(b.w);
	spot_close(&a);
	spot_close(&b);
}

static void pause_self(struct spot *s)
{
	loop_watch_events(s->w, 0);
}

static void test_pause_and_resume(void **state)
{
	struct spot s;

	spot_init(&s, *state, POLLIN, pause_self);
	poke(&s);
	rounds(*state, 10);
	assert_int_equal(s.calls, 1);
	loop_watch_events(s.w, POLLIN); /* the byte is still unread */
	rounds(*state, 10);
	assert_int_equal(s.calls, 2);
	loop_watch_events(s.w, POLLIN);
	loop_watch_events(s.w, 0); /* while armed */
	rounds(*state, 10);
	assert_int_equal(s.calls, 2);
	loop_unwatch(s.w); /* while paused */
	spot_close(&s);
	rounds(*state, 3);
	assert_int_equal(s.calls, 2);
}

static void test_events_changed_while_armed(void **state)
{
	struct spot s;

	spot_init(&s, *state, POLLIN, NULL);
	rounds(*state, 2);
	assert_int_equal(s.calls, 0);
	loop_watch_events(s.w, POLLOUT); /* an idle socket is writable */
	rounds(*state, 5);
	assert_true(s.calls >= 1);
	assert_int_equal(s.revents, POLLOUT);
	loop_watch_events(s.w, POLLIN);
	rounds(*state, 3);
	s.calls = 0;
	rounds(*state, 3);
	assert_int_equal(s.calls, 0);
	/* Several changes in one iteration: the last one counts. */
	for (int i = 0; i < 100; i++)
		loop_watch_events(s.w, i % 2 ? POLLIN : POLLOUT | POLLIN);
	rounds(*state, 5);
	assert_int_equal(s.calls, 0);
	poke(&s);
	rounds(*state, 3);
	assert_true(s.calls >= 1);
	loop_unwatch(s.w);
	spot_close(&s);
}

static void change_then_unwatch(struct spot *s)
{
	loop_watch_events(s->w, POLLOUT);
	loop_watch_events(s->w, 0);
	loop_watch_events(s->w, POLLIN | POLLOUT);
	unwatch_self(s);
}

static void test_changed_and_removed_in_its_own_callback(void **state)
{
	struct spot s;

	spot_init(&s, *state, POLLIN, change_then_unwatch);
	poke(&s);
	rounds(*state, 10);
	assert_int_equal(s.calls, 1);
	spot_close(&s);
}

static void watch_anew(struct spot *s)
{
	unwatch_self(s);
	if (s->calls < 50)
		assert_int_equal(loop_watch(s->loop, s->fd[0], POLLIN, spot_ready, s, &s->w), 0);
}

/* The callback watches the same fd again: no event of the old watch reaches the new one. */
static void test_replaced_in_its_own_callback(void **state)
{
	struct spot s;

	spot_init(&s, *state, POLLIN, watch_anew);
	poke(&s);
	for (int i = 0; i < 500 && s.calls < 50; i++)
		loop_run_once(*state, 2 * MS);
	assert_int_equal(s.calls, 50);
	rounds(*state, 5);
	assert_int_equal(s.calls, 50);
	spot_close(&s);
}

/* The number of a closed fd is reused for another file: no event of the old one arrives. */
static void test_reused_fd_number_gets_no_old_event(void **state)
{
	struct spot a, b;
	int number;

	for (int i = 0; i < 50; i++) {
		spot_init(&a, *state, POLLIN, NULL);
		number = a.fd[0];
		loop_run_once(*state, 0);
		poke(&a);
		loop_unwatch(a.w);
		spot_close(&a);
		spot_init(&b, *state, POLLIN, NULL);
		assert_int_equal(b.fd[0], number);
		rounds(*state, 2);
		assert_int_equal(b.calls, 0);
		loop_unwatch(b.w);
		spot_close(&b);
	}
}

static void test_hang_up(void **state)
{
	struct spot s;

	spot_init(&s, *state, POLLIN, unwatch_self);
	loop_run_once(*state, 0);
	close(s.fd[1]);
	rounds(*state, 5);
	assert_int_equal(s.calls, 1);
	assert_true(s.revents & POLLHUP);
	close(s.fd[0]);
}

static void test_bad_fd_is_an_error_not_silence(void **state)
{
	struct spot s = { .loop = *state, .act = unwatch_self };

	assert_int_equal(loop_watch(*state, 9999, POLLIN, spot_ready, &s, &s.w), 0);
	rounds(*state, 5);
	assert_int_equal(s.calls, 1);
	assert_true(s.revents & POLLERR);
}

/* poll() reports a regular file and /dev/null as ready at any time; stdin may be either. */
static void test_file_without_poll_is_always_ready(void **state)
{
	struct spot s = { .loop = *state };
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	assert_int_equal(loop_watch(*state, fd, POLLIN, spot_ready, &s, &s.w), 0);
	rounds(*state, 20);
	assert_true(s.calls >= 3);
	assert_int_equal(s.revents, POLLIN);
	loop_watch_events(s.w, 0);
	rounds(*state, 3);
	s.calls = 0;
	rounds(*state, 3);
	assert_int_equal(s.calls, 0);
	loop_watch_events(s.w, POLLOUT);
	s.act = unwatch_self;
	rounds(*state, 10);
	assert_int_equal(s.calls, 1);
	assert_int_equal(s.revents, POLLOUT);
	close(fd);
}

static void test_two_watches_of_one_fd(void **state)
{
	struct spot a, b = { .loop = *state };

	spot_init(&a, *state, POLLIN, NULL);
	assert_int_equal(loop_watch(*state, a.fd[0], POLLIN | POLLOUT, spot_ready, &b, &b.w), 0);
	rounds(*state, 5);
	assert_int_equal(a.calls, 0);
	assert_true(b.calls >= 1);
	assert_int_equal(b.revents, POLLOUT);
	poke(&a);
	rounds(*state, 5);
	assert_true(a.calls >= 1);
	assert_int_equal(b.revents, POLLIN | POLLOUT);
	loop_unwatch(a.w); /* the other stays */
	rounds(*state, 2);
	b.calls = 0;
	rounds(*state, 5);
	assert_true(b.calls >= 1);
	loop_unwatch(b.w);
	spot_close(&a);
}

static unsigned next_order, order[4];

static void order_note(struct spot *s)
{
	drain(s);
	order[next_order++ % 4] = s->other ? 2 : 1;
	if (next_order == 1) { /* both clients send while the loop serves the second one */
		poke(s->other);
		poke(s);
	}
}

/* A client that is served has no advantage over one that sends before it sends again. */
static void test_events_come_in_order(void **state)
{
	struct spot a, b;

	next_order = 0;
	spot_init(&a, *state, POLLIN, order_note);
	spot_init(&b, *state, POLLIN, order_note);
	b.other = &a;
	rounds(*state, 2);
	poke(&b);
	rounds(*state, 5);
	assert_int_equal(next_order, 3);
	assert_int_equal(order[1], 1);
	assert_int_equal(order[2], 2);
	loop_unwatch(a.w);
	loop_unwatch(b.w);
	spot_close(&a);
	spot_close(&b);
}

static void nest(struct spot *s)
{
	unsigned mine = s->calls;

	if (s->other->calls)
		return;
	while (!s->other->calls)
		loop_run_once(s->loop, 2 * MS);
	rounds(s->loop, 3);
	assert_int_equal(s->calls, mine); /* although the event is still pending */
	drain(s);
}

/* A callback that waits for another watch is not called again meanwhile; afterwards it is. */
static void test_callback_that_runs_the_loop(void **state)
{
	struct spot a, b;

	spot_init(&a, *state, POLLIN, nest);
	spot_init(&b, *state, POLLIN, drain);
	a.other = &b;
	poke(&a);
	poke(&b);
	rounds(*state, 5);
	assert_true(b.calls >= 1);
	assert_int_equal(a.calls, 1);
	poke(&a);
	rounds(*state, 3);
	assert_true(a.calls >= 2);
	loop_unwatch(a.w);
	loop_unwatch(b.w);
	spot_close(&a);
	spot_close(&b);
}

static void unwatch_outer(struct spot *s)
{
	unwatch_self(s->other);
	unwatch_self(s);
}

/* The watch of a callback that runs the loop is removed by a nested callback. */
static void test_removed_while_its_callback_runs(void **state)
{
	struct spot a, b;

	spot_init(&a, *state, POLLIN, nest);
	spot_init(&b, *state, POLLIN, unwatch_outer);
	a.other = &b;
	b.other = &a;
	poke(&a);
	poke(&b);
	rounds(*state, 5);
	assert_int_equal(b.calls, 1);
	assert_null(a.w);
	spot_close(&a);
	spot_close(&b);
}

/* More watches than the ring has entries, all ready and all removed at once. */
static void test_more_watches_than_entries(void **state)
{
	enum { N = 300 };
	struct spot *s = calloc(N, sizeof(*s));
	unsigned served = 0;

	for (unsigned i = 0; i < N; i++)
		spot_init(&s[i], *state, POLLIN, drain);
	rounds(*state, 2);
	for (unsigned i = 0; i < N; i++)
		poke(&s[i]);
	rounds(*state, 200);
	for (unsigned i = 0; i < N; i++)
		served += s[i].calls == 1;
	assert_int_equal(served, N);
	for (unsigned i = 0; i < N; i++) {
		poke(&s[i]);
		loop_unwatch(s[i].w);
		spot_close(&s[i]);
	}
	rounds(*state, 10);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(s[i].calls, 1);
	free(s);
}

/* loop_free() frees the remaining watches in any state. */
static void test_loop_freed_around_its_watches(void **state)
{
	struct spot a, b, c;
	struct loop *l;
	struct err e;

	(void)state;
	assert_int_equal(loop_new(8, &l, &e), 0);
	spot_init(&a, l, POLLIN, NULL);
	spot_init(&b, l, 0, NULL);
	spot_init(&c, l, POLLIN, NULL);
	loop_run_once(l, 0);
	poke(&a);
	loop_unwatch(c.w);
	loop_free(l);
	spot_close(&a);
	spot_close(&b);
	spot_close(&c);
}

/* A process with a loop that watches `sock`, and that is killed. Its child, which has no file of it, lives until `hold`
 * ends. Tell by `there` that both run. */
static _Noreturn void parent_run(int sock, int hold, int there)
{
	struct loop_watch *w;
	struct loop *l;
	struct err e;
	char byte = 0;

	if (loop_new(8, &l, &e) < 0 || loop_watch(l, sock, POLLIN, spot_ready, &(struct spot){ 0 }, &w) < 0)
		_exit(1);
	loop_run_once(l, 0);
	if (fork() == 0) {
		if (dup2(hold, 3) < 0 || close_range(4, ~0U, 0) < 0)
			_exit(1);
		_exit(read(3, &byte, 1) != 0);
	}
	if (write(there, &byte, 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

/* A watched socket is closed when its process is killed, although a child of the process goes on. */
static void test_killed_process_leaves_no_file_to_its_child(void **state)
{
	int sock[2], hold[2], there[2];
	struct pollfd p;
	char byte;
	pid_t pid;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sock), 0);
	assert_int_equal(pipe(hold), 0);
	assert_int_equal(pipe(there), 0);
	pid = fork();
	if (pid == 0) {
		close(sock[0]);
		close(hold[1]);
		parent_run(sock[1], hold[0], there[1]);
	}
	close(sock[1]);
	close(hold[0]);
	assert_int_equal(read(there[0], &byte, 1), 1);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	p = (struct pollfd){ .fd = sock[0], .events = POLLIN };
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(read(sock[0], &byte, 1), 0);
	close(hold[1]);
	close(sock[0]);
	close(there[0]);
	close(there[1]);
}

int main(void)
{
#define LOOP_TEST(t) cmocka_unit_test_setup_teardown(t, loop_setup, loop_teardown)
	const struct CMUnitTest tests[] = {
		LOOP_TEST(test_level_triggered),
		LOOP_TEST(test_unwatch_in_its_own_callback),
		LOOP_TEST(test_unwatch_with_the_event_on_its_way),
		LOOP_TEST(test_unwatch_before_the_first_round),
		LOOP_TEST(test_unwatch_another_that_is_ready),
		LOOP_TEST(test_pause_and_resume),
		LOOP_TEST(test_events_changed_while_armed),
		LOOP_TEST(test_changed_and_removed_in_its_own_callback),
		LOOP_TEST(test_replaced_in_its_own_callback),
		LOOP_TEST(test_reused_fd_number_gets_no_old_event),
		LOOP_TEST(test_hang_up),
		LOOP_TEST(test_bad_fd_is_an_error_not_silence),
		LOOP_TEST(test_file_without_poll_is_always_ready),
		LOOP_TEST(test_two_watches_of_one_fd),
		LOOP_TEST(test_events_come_in_order),
		LOOP_TEST(test_callback_that_runs_the_loop),
		LOOP_TEST(test_removed_while_its_callback_runs),
		LOOP_TEST(test_more_watches_than_entries),
		cmocka_unit_test(test_loop_freed_around_its_watches),
		cmocka_unit_test(test_killed_process_leaves_no_file_to_its_child),
	};

	return loop_group_run(tests);
}
