/* loop: polls before sleeps. */
#include "base/err.h"
#include "base/loop.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/base/loop_group.h"

#define MS 1000000ULL

struct polled {
	struct loop *l;
	struct loop_poller poller;
	struct loop_watch *watch;
	struct loop_timer *timer;
	int fd;
	unsigned polls, sleeps, reads, fired, work; /* work: polls that are to find some */
	void (*act)(struct polled *p);		    /* NULL, or called by the next poll */
};

static bool polled_poll(void *opaque)
{
	struct polled *p = opaque;
	void (*act)(struct polled *p) = p->act;

	p->polls++;
	p->act = NULL;
	if (act)
		act(p);
	if (!p->work)
		return false;
	p->work--;
	return true;
}

static bool polled_sleeps(void *opaque)
{
	struct polled *p = opaque;

	p->sleeps++;
	return false;
}

static void polled_ready(void *opaque, unsigned revents)
{
	struct polled *p = opaque;
	uint64_t n;

	(void)revents;
	p->reads += read(p->fd, &n, sizeof(n)) == sizeof(n);
}

static void polled_fire(void *opaque)
{
	((struct polled *)opaque)->fired++;
}

static void ring(struct polled *p)
{
	uint64_t one = 1;

	assert_int_equal(write(p->fd, &one, sizeof(one)), sizeof(one));
}

static int polled_setup(void **state)
{
	struct polled *p = calloc(1, sizeof(*p));
	struct err e;

	*state = p;
	p->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop_new(8, &p->l, &e) || loop_timer_new(p->l, polled_fire, p, &p->timer))
		return -1;
	p->poller = (struct loop_poller){ polled_poll, polled_sleeps, p, 0 };
	if (loop_poll(p->l, &p->poller))
		return -1;
	return loop_watch(p->l, p->fd, POLLIN, polled_ready, p, &p->watch);
}

static int polled_teardown(void **state)
{
	struct polled *p = *state;

	loop_timer_free(p->timer);
	loop_free(p->l);
	close(p->fd);
	free(p);
	return 0;
}

/* Run turns that need not sleep, until the loop polls. The loop measures its sleeps: on a busy machine, some are
 * long. */
static void polls_begin(struct polled *p)
{
	for (unsigned i = 0; i < 10000 && !loop_polls(p->l); i++) {
		ring(p);
		loop_run_once(p->l, 1000 * MS);
	}
	assert_true(loop_polls(p->l));
	p->polls = p->sleeps = p->reads = 0;
}

static void test_idle_loop_does_not_poll(void **state)
{
	struct polled *p = *state;

	/* A turn may end early, and then the next one polls, perhaps until its time is over: it does not sleep then. */
	for (unsigned i = 0; i < 5; i++) {
		bool polls = loop_polls(p->l);

		p->polls = p->sleeps = 0;
		loop_run_once(p->l, 2 * MS);
		assert_true(polls || (!p->polls && p->sleeps == 1));
	}
	for (unsigned i = 0; i < 100 && loop_polls(p->l); i++)
		loop_run_once(p->l, 2 * MS);
	assert_false(loop_polls(p->l));
}

static void test_busy_loop_polls_until_nothing_comes_and_then_sleeps(void **state)
{
	struct polled *p = *state;

	polls_begin(p);
	p->work = 5;
	while (!p->sleeps)
		loop_run_once(p->l, 2 * MS);
	assert_int_equal(p->work, 0);
	assert_true(p->polls > 5);
	assert_int_equal(p->sleeps, 1);
	for (unsigned i = 0; i < 100 && loop_polls(p->l); i++)
		loop_run_once(p->l, 2 * MS);
	assert_false(loop_polls(p->l));
}

static void test_endless_work_of_polls_leaves_turns_to_watches(void **state)
{
	struct polled *p = *state;

	polls_begin(p);
	p->work = 1u << 30;
	ring(p);
	for (unsigned i = 0; i < 10000 && !p->reads; i++)
		loop_run_once(p->l, UINT64_MAX);
	assert_int_equal(p->reads, 1);
	assert_int_equal(p->sleeps, 0);
}

static void arm(struct polled *p)
{
	loop_timer_arm(p->timer, loop_now_ns() + MS);
}

static void test_timer_armed_by_poll_fires(void **state)
{
	struct polled *p = *state;

	polls_begin(p);
	p->act = arm;
	while (!p->fired)
		loop_run_once(p->l, UINT64_MAX);
	assert_int_equal(p->fired, 1);
}

static void dawdle(struct polled *p)
{
	(void)p;
	usleep(2000);
}

/* On a busy machine, a poll may take longer than a turn of polls. */
static void test_slow_poll_without_work_is_followed_by_a_sleep(void **state)
{
	struct polled *p = *state;

	polls_begin(p);
	p->act = dawdle;
	loop_run_once(p->l, MS);
	assert_int_equal(p->sleeps, 1);
}

static void stop(struct polled *p)
{
	loop_stop(p->l);
}

static void test_stop_during_poll_ends_the_loop(void **state)
{
	struct polled *p = *state;

	polls_begin(p);
	p->act = stop;
	loop_run(p->l);
}

/* Otherwise the first poller would leave its notifications disabled for ever. */
/* ---- operations of polls ---- */

struct polled_op {
	struct loop_op op;
	struct polled *p;
	struct iovec iov;
	char buf[4];
	uint64_t offset;
	int fd, writer;
	unsigned polls_at_end, sleeps_at_end;
	int res;
};

static struct polled_op reading;

static void reading_done(struct loop_op *op, int res)
{
	struct polled_op *o = (struct polled_op *)op;

	o->res = res;
	o->polls_at_end = o->p->polls;
	o->sleeps_at_end = o->p->sleeps;
	o->p->work = 0;
}

static void pipe_fill(struct polled *p)
{
	(void)p;
	assert_int_equal(write(reading.writer, "abcd", 4), 4);
}

static void read_begin(struct polled *p)
{
	reading.iov = (struct iovec){ reading.buf, sizeof(reading.buf) };
	loop_readv(p->l, &reading.op, reading.fd, &reading.iov, 1, reading.offset);
	if (reading.writer >= 0)
		p->act = pipe_fill;
}

/* Let a poll begin the read, and run the loop until it has ended. Each poll finds work until then. */
static void read_during_polls(struct polled *p, int fd, int writer, uint64_t offset)
{
	polls_begin(p);
	reading = (struct polled_op){ .op.done = reading_done, .p = p, .fd = fd, .writer = writer, .offset = offset };
	p->act = read_begin;
	p->work = 1000000;
	while (!reading.res)
		loop_run_once(p->l, MS);
	assert_int_equal(reading.res, 4);
	assert_memory_equal(reading.buf, "abcd", 4);
}

static void test_read_of_memory_ends_with_the_poll_that_began_it(void **state)
{
	struct polled *p = *state;
	int fd = memfd_create("file", MFD_CLOEXEC);

	assert_int_equal(write(fd, "abcd", 4), 4);
	loop_file_in_memory(p->l, fd, true);
	read_during_polls(p, fd, -1, 0);
	assert_int_equal(reading.polls_at_end, 1);
	loop_file_in_memory(p->l, fd, false);
	close(fd);
}

/* The caller of loop_run_once() waits for nothing else: without the turn's end, it would sleep for ever. */
static void test_turn_ends_when_a_poll_has_reported_a_read(void **state)
{
	struct polled *p = *state;
	int fd = memfd_create("file", MFD_CLOEXEC);

	assert_int_equal(write(fd, "abcd", 4), 4);
	loop_file_in_memory(p->l, fd, true);
	polls_begin(p);
	reading = (struct polled_op){ .op.done = reading_done, .p = p, .fd = fd, .writer = -1 };
	p->act = read_begin;
	alarm(60);
	while (!reading.res)
		loop_run_once(p->l, UINT64_MAX);
	alarm(0);
	loop_file_in_memory(p->l, fd, false);
	close(fd);
}

/* A read of a pipe that nobody writes to until pipe_end(). */
struct waiting {
	struct polled_op reading;
	int fds[2];
};

static void pipe_begin(struct polled *p, struct waiting *w)
{
	*w = (struct waiting){ .reading = { .op.done = reading_done, .p = p } };
	w->reading.iov = (struct iovec){ w->reading.buf, sizeof(w->reading.buf) };
	assert_int_equal(pipe(w->fds), 0);
	loop_readv(p->l, &w->reading.op, w->fds[0], &w->reading.iov, 1, UINT64_MAX);
	polls_begin(p);
}

static void pipe_end(struct polled *p, struct waiting *w)
{
	assert_int_equal(write(w->fds[1], "abcd", 4), 4);
	while (!w->reading.res)
		loop_run_once(p->l, UINT64_MAX);
	close(w->fds[0]);
	close(w->fds[1]);
}

static void test_read_of_a_poll_is_submitted_and_ends_before_the_sleep(void **state)
{
	struct polled *p = *state;
	struct waiting w;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	pipe_begin(p, &w);
	read_during_polls(p, fds[0], fds[1], UINT64_MAX);
	if (loop_kind(p->l) == LOOP_IO_URING)
		assert_int_equal(reading.sleeps_at_end, 0);
	pipe_end(p, &w);
	close(fds[0]);
	close(fds[1]);
}

/* Otherwise a disk whose reads take longer than a poll would wait for a doorbell after each of them. */
static void test_polls_during_an_operation_do_not_end_those_without_one(void **state)
{
	struct polled *p = *state;
	struct waiting w;

	polls_begin(p);
	pipe_begin(p, &w);
	for (unsigned i = 0; i < 100; i++)
		loop_run_once(p->l, MS);
	assert_false(loop_polls(p->l));
	pipe_end(p, &w);
	assert_true(loop_polls(p->l));
}

static void test_second_poller_is_refused(void **state)
{
	struct loop_poller other = { polled_poll, polled_sleeps, *state, 0 };
	struct polled *p = *state;

	polls_begin(p);
	assert_int_equal(loop_poll(p->l, &other), -EBUSY);
	loop_poll_end(p->l, &other);
	assert_true(loop_polls(p->l));
	loop_poll_end(p->l, &p->poller);
	assert_false(loop_polls(p->l));
	assert_int_equal(loop_poll(p->l, &other), 0);
	loop_poll_end(p->l, &other);
}

int main(void)
{
#define POLL_TEST(t) cmocka_unit_test_setup_teardown(t, polled_setup, polled_teardown)
	const struct CMUnitTest tests[] = {
		POLL_TEST(test_idle_loop_does_not_poll),
		POLL_TEST(test_busy_loop_polls_until_nothing_comes_and_then_sleeps),
		POLL_TEST(test_endless_work_of_polls_leaves_turns_to_watches),
		POLL_TEST(test_timer_armed_by_poll_fires),
		POLL_TEST(test_slow_poll_without_work_is_followed_by_a_sleep),
		POLL_TEST(test_stop_during_poll_ends_the_loop),
		POLL_TEST(test_read_of_memory_ends_with_the_poll_that_began_it),
		POLL_TEST(test_turn_ends_when_a_poll_has_reported_a_read),
		POLL_TEST(test_read_of_a_poll_is_submitted_and_ends_before_the_sleep),
		POLL_TEST(test_polls_during_an_operation_do_not_end_those_without_one),
		POLL_TEST(test_second_poller_is_refused),
	};

	return loop_group_run(tests);
}
