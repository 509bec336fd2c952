/* Waiting for files with polls before the sleep. A thread that writes counts how often it is needed: no test depends on
 * the time that anything takes. */
#include "base/wait_fds.h"
#include "base/busy_poll.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#define TRIES 10000

static void test_event_ends_wait_and_leaves_window(void **state)
{
	struct busy_poll b = { .window_ns = BUSY_POLL_NS, .failed = 2 };
	struct pollfd p[] = { { .fd = -1 }, { .fd = eventfd(1, 0), .events = POLLIN } };

	(void)state;
	assert_int_equal(wait_fds(&b, p, 2, -1), 1);
	assert_int_equal(p[1].revents, POLLIN);
	assert_int_equal(b.window_ns, BUSY_POLL_NS);
	assert_int_equal(b.failed, 2); /* the window was not used */
	close(p[1].fd);
}

/* Without an event, the window passes, and then the timeout. */
static void test_no_event_counts_as_failed_poll(void **state)
{
	struct pollfd p = { .fd = eventfd(0, 0), .events = POLLIN };
	struct busy_poll b = { .window_ns = BUSY_POLL_NS };

	(void)state;
	assert_int_equal(wait_fds(&b, &p, 1, 1), 0);
	assert_in_range(b.failed, 1, UINT16_MAX);
	assert_int_equal(b.window_ns, 0); /* after a sleep of 1 ms */
	close(p.fd);
}

static void test_no_timeout_neither_polls_nor_learns(void **state)
{
	struct pollfd p = { .fd = eventfd(0, 0), .events = POLLIN };
	struct busy_poll b = { .window_ns = BUSY_POLL_NS, .skip = 3 }, before = b;

	(void)state;
	assert_int_equal(wait_fds(&b, &p, 1, 0), 0);
	assert_memory_equal(&b, &before, sizeof(b));
	close(p.fd);
}

static void test_many_fds_are_not_polled(void **state)
{
	struct busy_poll b = { .window_ns = BUSY_POLL_NS };
	struct pollfd p[1000];

	(void)state;
	for (size_t i = 0; i < 1000; i++)
		p[i] = (struct pollfd){ .fd = -1 };
	assert_int_equal(wait_fds(&b, p, 1000, 1), 0);
	assert_int_equal(b.failed, 0);
}

struct writer {
	int fd;
	atomic_bool go, end;
};

static void *writer_run(void *opaque)
{
	struct writer *w = opaque;

	while (!atomic_load(&w->end))
		if (atomic_exchange(&w->go, false))
			eventfd_write(w->fd, 1);
		else
			sched_yield();
	return NULL;
}

/* An event of the window ends the wait, and keeps the window open. */
static void test_event_within_window_is_found(void **state)
{
	struct writer w = { .fd = eventfd(0, 0) };
	struct pollfd p = { .fd = w.fd, .events = POLLIN };
	pthread_t thread;
	eventfd_t value;
	bool found = false;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, writer_run, &w), 0);
	for (unsigned i = 0; i < TRIES && !found; i++) {
		struct busy_poll b = { .window_ns = 2000000000, .failed = 1 };

		atomic_store(&w.go, true);
		assert_int_equal(wait_fds(&b, &p, 1, -1), 1);
		assert_int_equal(eventfd_read(w.fd, &value), 0);
		found = b.failed == 0 && b.window_ns == 2000000000; /* not so if another thread took the processor */
	}
	atomic_store(&w.end, true);
	pthread_join(thread, NULL);
	assert_true(found);
	close(w.fd);
}

static void on_alarm(int number)
{
	(void)number;
}

static void test_signal_ends_wait(void **state)
{
	const struct sigaction act = { .sa_handler = on_alarm };
	const struct itimerval each_ms = { { 0, 1000 }, { 0, 1000 } }, never = { { 0, 0 }, { 0, 0 } };
	struct pollfd p = { .fd = eventfd(0, 0), .events = POLLIN };
	struct busy_poll b = { .window_ns = BUSY_POLL_NS };

	(void)state;
	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &each_ms, NULL);
	assert_int_equal(wait_fds(&b, &p, 1, -1), -EINTR);
	setitimer(ITIMER_REAL, &never, NULL);
	close(p.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_event_ends_wait_and_leaves_window),
		cmocka_unit_test(test_no_event_counts_as_failed_poll),
		cmocka_unit_test(test_no_timeout_neither_polls_nor_learns),
		cmocka_unit_test(test_many_fds_are_not_polled),
		cmocka_unit_test(test_event_within_window_is_found),
		cmocka_unit_test(test_signal_ends_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
