/* cairn-login: the limits of failed logins, and the messages of cairn-web. */
#include "base/clock.h"
#include "base/util.h"
#include "tools/login/limits.h"
#include "tools/login/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- limits ---- */

static struct limits *limits_of(void **state)
{
	return *state;
}

static int setup(void **state)
{
	*state = must_alloc(calloc(1, sizeof(struct limits)));
	limits_init(*state, 0x1234567);
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static uint64_t at(unsigned seconds)
{
	return (1000 + seconds) * CLOCK_NS_PER_S;
}

/* Fail until there is a limit. Returns the number of failures; ret_wait: the seconds to wait then. */
static unsigned fail_all(struct limits *l, const char *user, const char *address, unsigned second, unsigned *ret_wait)
{
	unsigned n = 0;

	while (n < 1000 && !(*ret_wait = limits_wait(l, user, address, at(second)))) {
		limits_take(l, user, address, at(second));
		n++;
	}
	return n;
}

static void test_user_at_address_has_ten_tries(void **state)
{
	struct limits *l = limits_of(state);
	unsigned wait;

	assert_int_equal(fail_all(l, "alice", "192.0.2.1", 0, &wait), 10);
	assert_int_equal(wait, 30);
	assert_int_equal(limits_wait(l, "ALICE", "192.0.2.1", at(0)), 30);
	assert_int_equal(limits_wait(l, "alice", "192.0.2.1", at(29)), 1);
	assert_int_equal(fail_all(l, "alice", "192.0.2.1", 30, &wait), 1);
	assert_int_equal(fail_all(l, "alice", "192.0.2.1", 100000, &wait), 10);
	/* Others are not held up. */
	assert_int_equal(limits_wait(l, "bob", "192.0.2.1", at(100000)), 0);
	assert_int_equal(limits_wait(l, "alice", "192.0.2.2", at(100000)), 0);
}

static void test_address_has_thirty_tries(void **state)
{
	struct limits *l = limits_of(state);
	unsigned wait, n = 0;
	char user[16];

	for (unsigned i = 0; i < 100; i++) {
		snprintf(user, sizeof(user), "user%u", i);
		n += fail_all(l, user, "2001:db8::1", 0, &wait);
	}
	assert_int_equal(n, 30);
	assert_true(limits_wait(l, "other", "2001:db8::ffff", at(0)) > 0); /* of the same network */
	assert_int_equal(limits_wait(l, "other", "2001:db8:0:1::1", at(0)), 0);
	for (unsigned i = 0; i < 20; i++) { /* this host's users have limits, the host has none */
		snprintf(user, sizeof(user), "local%u", i);
		assert_int_equal(fail_all(l, user, "", 0, &wait), 10);
		assert_int_equal(fail_all(l, user, "uid:1000", 0, &wait), 10);
	}
}

static void test_user_has_sixty_tries_from_all_addresses(void **state)
{
	struct limits *l = limits_of(state);
	unsigned wait, n = 0;
	char address[16];

	for (unsigned i = 1; i < 100; i++) {
		snprintf(address, sizeof(address), "192.0.2.%u", i);
		n += fail_all(l, "alice", address, 0, &wait);
	}
	assert_int_equal(n, 60);
	assert_int_equal(limits_wait(l, "alice", "198.51.100.1", at(10)), 0);
}

static void test_success_costs_nothing(void **state)
{
	struct limits *l = limits_of(state);
	unsigned wait;

	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(limits_wait(l, "alice", "192.0.2.1", at(0)), 0);
		limits_take(l, "alice", "192.0.2.1", at(0));
		limits_return(l, "alice", "192.0.2.1", at(0));
	}
	assert_int_equal(fail_all(l, "alice", "192.0.2.1", 0, &wait), 10);
}

/* ---- messages ---- */

static struct login_ask good_ask(void)
{
	return (struct login_ask){ .user = "alice", .password = "secret", .address = "2001:db8::1" };
}

static void test_ask_is_checked(void **state)
{
	struct login_ask a = good_ask();

	(void)state;
	assert_true(login_ask_is_valid(&a));
	a.address[0] = 0;
	a.password[0] = 0;
	assert_true(login_ask_is_valid(&a));
	strcpy(a.address, "example.org");
	assert_false(login_ask_is_valid(&a));
	strcpy(a.address, "uid:1000");
	assert_true(login_ask_is_valid(&a));
	strcpy(a.address, "uid:1000 x");
	assert_false(login_ask_is_valid(&a));
	a = good_ask();
	strcpy(a.user, "a\nb");
	assert_false(login_ask_is_valid(&a));
	a.user[0] = 0;
	assert_false(login_ask_is_valid(&a));
	a = good_ask();
	memset(a.user, 'x', sizeof(a.user));
	assert_false(login_ask_is_valid(&a));
	a = good_ask();
	memset(a.password, 'x', sizeof(a.password));
	assert_false(login_ask_is_valid(&a));
	a = good_ask();
	memset(a.address, '1', sizeof(a.address));
	assert_false(login_ask_is_valid(&a));
}

/* Each message is rejected, or has the right length and texts that end with a zero byte. */
static void test_malformed_messages_are_rejected(void **state)
{
	static _Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct {
		struct channel_header head;
		struct login_ask ask;
		char more[64];
	} m;
	unsigned passed = 0;
	int sv[2];

	(void)state;
	srandom(1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv), 0);
	for (unsigned i = 0; i < 100000; i++) {
		size_t len = sizeof(m.head) + sizeof(m.ask), at_byte;
		struct channel_msg got;
		int r;

		m.head = (struct channel_header){ .version = LOGIN_VERSION, .type = LOGIN_ASK, .body_bytes = sizeof(m.ask), .seq = 1 };
		m.ask = good_ask();
		memset(m.more, 'x', sizeof(m.more));
		for (long k = random() % 4; k > 0; k--) {
			at_byte = (size_t)random() % (k == 1 ? sizeof(m.head) : len);
			((unsigned char *)&m)[at_byte] = (unsigned char)random();
		}
		if (random() % 3 == 0)
			len = (size_t)random() % (sizeof(m) + 1);
		if (!len)
			continue;
		assert_int_equal(send(sv[0], &m, len, 0), len);
		r = channel_recv(sv[1], LOGIN_VERSION, login_messages, ARRAY_SIZE(login_messages), buf, &got);
		if (r < 0)
			continue;
		assert_int_equal(r, 1);
		assert_int_equal(got.nfds, 0);
		if (got.head.type == LOGIN_ASK && login_ask_is_valid(got.body)) {
			const struct login_ask *a = got.body;

			assert_int_equal(got.head.body_bytes, sizeof(*a));
			assert_true(strlen(a->user) < sizeof(a->user) && strlen(a->password) < sizeof(a->password));
			passed++;
		}
	}
	assert_true(passed > 1000);
	close(sv[0]);
	close(sv[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_user_at_address_has_ten_tries, setup, teardown),
		cmocka_unit_test_setup_teardown(test_address_has_thirty_tries, setup, teardown),
		cmocka_unit_test_setup_teardown(test_user_has_sixty_tries_from_all_addresses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_success_costs_nothing, setup, teardown),
		cmocka_unit_test(test_ask_is_checked),
		cmocka_unit_test(test_malformed_messages_are_rejected),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
