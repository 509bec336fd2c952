/* Tests which connections a web server ends when there are too many. */
#include "tools/metrics/connections.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define CROWD 320
#define MANY (CROWD + 80)

struct fixture {
	struct connections c;
	int ours[MANY], theirs[MANY], row[MANY];
};

static int setup(void **state)
{
	static struct fixture f;

	connections_init(&f.c, CROWD);
	*state = &f;
	return 0;
}

static void open_one(struct fixture *f, int i)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	f->ours[i] = pair[0];
	f->theirs[i] = pair[1];
	f->row[i] = connections_add(&f->c, pair[0]);
	assert_true(f->row[i] >= 0);
}

static void close_one(struct fixture *f, int i)
{
	connections_remove(&f->c, f->row[i]);
	close(f->ours[i]);
	close(f->theirs[i]);
}

static bool has_ended(struct fixture *f, int i)
{
	char byte;
	ssize_t n = recv(f->theirs[i], &byte, 1, MSG_DONTWAIT);

	assert_true(n == 0 || (n < 0 && errno == EAGAIN));
	return n == 0;
}

static void test_crowd_ends_the_oldest_though_none_has_gone(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < MANY; i++)
		open_one(f, i);
	for (int i = 0; i < MANY; i++)
		assert_int_equal(has_ended(f, i), i < MANY - CROWD);
	for (int i = 0; i < MANY; i++)
		close_one(f, i);
	assert_int_equal(connections_count(&f->c), 0);
}

static void test_answered_connection_outlives_a_crowd(void **state)
{
	struct fixture *f = *state;

	open_one(f, 0);
	connections_answer(&f->c, f->row[0], 7);
	for (int i = 1; i < MANY; i++)
		open_one(f, i);
	assert_false(has_ended(f, 0));
	connections_end(&f->c, 7, -1);
	assert_true(has_ended(f, 0));
	for (int i = 0; i < MANY; i++)
		close_one(f, i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_crowd_ends_the_oldest_though_none_has_gone, setup),
		cmocka_unit_test_setup(test_answered_connection_outlives_a_crowd, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
