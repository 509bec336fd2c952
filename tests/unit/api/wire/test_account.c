/* Accounts: whose command runs next, which accounts wait, and that nothing stays counted. Times are made up. */
#include "api/wire/account.h"
#include "base/cleanup.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define US 1000

struct client {
	struct account_member m;
	char name;
	uint64_t cost_ns, spent_ns; /* of one command, and of all that ran */
};

struct fixture {
	struct accounts *all;
	unsigned wakes;
	uint64_t now_ns; /* the turns' cost, and what a test adds */
};

static void wake(void *opaque)
{
	struct fixture *f = opaque;

	f->wakes++;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->all = accounts_new(wake, f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	assert_true(accounts_are_empty(f->all));
	accounts_free(f->all);
	free(f);
	return 0;
}

static struct client *client_new(struct fixture *f, char name, enum account_kind kind, uid_t uid, uint64_t cost_ns)
{
	struct client *c = calloc(1, sizeof(*c));

	c->name = name;
	c->cost_ns = cost_ns;
	account_join(f->all, &c->m, kind, uid, f->now_ns);
	account_wait(&c->m);
	return c;
}

static void client_free(struct client *c)
{
	account_leave(&c->m);
	free(c);
}

/* Run one command, after which its client has another one. Returns the client; NULL: none may run. */
static struct client *turn(struct fixture *f)
{
	struct account_member *m = accounts_next(f->all);
	struct client *c = m ? container_of(m, struct client, m) : NULL;

	if (!c)
		return NULL;
	f->now_ns += c->cost_ns;
	account_spend(m, c->cost_ns, f->now_ns);
	c->spent_ns += c->cost_ns;
	account_wait(m);
	return c;
}

static const char *turns(struct fixture *f, unsigned n)
{
	static char names[256];

	for (unsigned i = 0; i < n; i++) {
		struct client *c = turn(f);

		names[i] = c ? c->name : '-';
	}
	names[n] = 0;
	return names;
}

static void test_accounts_take_turns_whatever_the_number_of_clients(void **state)
{
	struct fixture *f = *state;
	struct client *a[50], *b, *c;

	for (unsigned i = 0; i < 50; i++)
		a[i] = client_new(f, 'a', ACCOUNT_USER, 1, US);
	b = client_new(f, 'b', ACCOUNT_USER, 2, US);
	c = client_new(f, 'c', ACCOUNT_USER, 3, US);
	assert_string_equal(turns(f, 12), "abcabcabcabc");
	/* The clients of one account take turns, too. */
	a[30]->name = 'X';
	assert_string_equal(turns(f, 90), "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc"
					  "abcabcabcabcabcabcabcXbcabcabcabc" + 0);
	for (unsigned i = 0; i < 50; i++)
		client_free(a[i]);
	assert_string_equal(turns(f, 6), "bcbcbc");
	client_free(b);
	client_free(c);
}

static void test_strangers_share_one_account(void **state)
{
	struct fixture *f = *state;
	struct client *s[5], *a = client_new(f, 'a', ACCOUNT_USER, 5, US);

	for (unsigned i = 0; i < 5; i++)
		s[i] = client_new(f, '1' + i, ACCOUNT_STRANGERS, i + 1, US);
	assert_string_equal(turns(f, 12), "a1a2a3a4a5a1");
	for (unsigned i = 0; i < 5; i++)
		client_free(s[i]);
	client_free(a);
}

static void test_root_gets_every_second_turn(void **state)
{
	struct fixture *f = *state;
	struct client *a = client_new(f, 'a', ACCOUNT_USER, 1, US), *b = client_new(f, 'b', ACCOUNT_USER, 2, US),
		      *s = client_new(f, 's', ACCOUNT_STRANGERS, 3, US), *root = client_new(f, 'R', ACCOUNT_MASTER, 0, US);

	assert_string_equal(turns(f, 12), "RaRbRsRaRbRs");
	account_wait_end(&root->m);
	assert_string_equal(turns(f, 3), "abs");
	account_wait(&root->m);
	assert_string_equal(turns(f, 4), "RaRb");
	client_free(a);
	client_free(b);
	client_free(s);
	assert_string_equal(turns(f, 3), "RRR");
	client_free(root);
}

/* Commands of 1 ms of one user, and of 10 us of another one: both get as much time. */
static void test_long_commands_get_fewer_turns(void **state)
{
	struct fixture *f = *state;
	struct client *slow = client_new(f, 's', ACCOUNT_USER, 1, 1000 * US),
		      *quick = client_new(f, 'q', ACCOUNT_USER, 2, 10 * US);
	unsigned wait = 0, longest = 0;

	for (unsigned i = 0; i < 20000; i++) {
		wait = turn(f) == quick ? 0 : wait + 1;
		longest = MAX(longest, wait);
	}
	assert_int_equal(longest, 1);
	assert_true(slow->spent_ns < quick->spent_ns + 2000 * US && quick->spent_ns < slow->spent_ns + 2000 * US);
	/* Alone, it is not held back; and one command, however long, is forgotten after some rounds. */
	account_wait_end(&quick->m);
	assert_string_equal(turns(f, 5), "sssss");
	slow->cost_ns = 60000000ULL * US;
	account_wait(&quick->m);
	while (turn(f) != slow)
		;
	for (wait = 0; turn(f) != slow; wait++)
		;
	assert_true(wait > 500 && wait < 5000);
	client_free(slow);
	client_free(quick);
}

/* Return how many of n turns a user gets beside another one, if its client leaves after each turn and another one comes
 * at once. */
static unsigned turns_beside(struct fixture *f, unsigned n)
{
	struct client *quick = client_new(f, 'q', ACCOUNT_USER, 2, 10 * US), *slow = NULL;
	unsigned got = 0;

	for (unsigned i = 0; i < n; i++) {
		if (!slow)
			slow = client_new(f, 's', ACCOUNT_USER, 1, 5000 * US);
		if (turn(f) != slow)
			continue;
		got++;
		client_free(STEAL_PTR(slow));
	}
	if (slow)
		client_free(slow);
	client_free(quick);
	return got;
}

/* A user whose client leaves after each command of 5 ms pays as one whose client stays. */
static void test_account_keeps_its_debt_when_its_clients_leave(void **state)
{
	struct fixture *f = *state;

	assert_in_range(turns_beside(f, 5000), 5, 15);
	assert_true(accounts_are_empty(f->all));
}

static void test_debt_is_forgotten_after_a_time(void **state)
{
	struct fixture *f = *state;
	struct client *quick = client_new(f, 'q', ACCOUNT_USER, 2, US), *slow = client_new(f, 's', ACCOUNT_USER, 1, 5000 * US);

	assert_string_equal(turns(f, 2), "qs");
	client_free(slow);
	f->now_ns += 10000 * US - 1;
	slow = client_new(f, 's', ACCOUNT_USER, 1, 5000 * US);
	assert_string_equal(turns(f, 3), "qqq");
	client_free(slow);
	slow = client_new(f, 's', ACCOUNT_USER, 1, 5000 * US);
	assert_string_equal(turns(f, 2), "qs");
	client_free(slow);
	client_free(quick);
}

static void test_account_with_too_many_calls_waits(void **state)
{
	struct fixture *f = *state;
	struct client *a = client_new(f, 'a', ACCOUNT_USER, 1, US), *b = client_new(f, 'b', ACCOUNT_USER, 2, US);
	unsigned max = account_limits(&a->m)->calls, wakes;
	struct account_call *calls = calloc(max, sizeof(*calls)), large;

	for (unsigned i = 0; i < max; i++) {
		assert_string_equal(turns(f, 2), "ab");
		account_call_begin(&a->m, &calls[i], 1);
	}
	assert_string_equal(turns(f, 4), "bbbb");
	account_wait_end(&b->m);
	assert_false(accounts_wait(f->all));
	wakes = f->wakes;
	account_call_end(&calls[0]);
	assert_int_equal(f->wakes, wakes + 1);
	assert_string_equal(turns(f, 2), "aa");
	for (unsigned i = 0; i < max; i++)
		account_call_end(&calls[i]); /* no effect on the one that has ended */
	/* One call whose arguments fill the memory of all. */
	account_call_begin(&a->m, &large, account_limits(&a->m)->call_bytes);
	assert_string_equal(turns(f, 1), "-");
	/* The call continues when its client hangs up, and still counts. */
	client_free(a);
	a = client_new(f, 'a', ACCOUNT_USER, 1, US);
	assert_string_equal(turns(f, 1), "-");
	account_call_end(&large);
	assert_string_equal(turns(f, 1), "a");
	client_free(a);
	client_free(b);
	free(calls);
}

static void test_root_has_no_limits(void **state)
{
	struct fixture *f = *state;
	struct client *root = client_new(f, 'R', ACCOUNT_MASTER, 0, US);
	struct account_call calls[200];

	for (unsigned i = 0; i < ARRAY_SIZE(calls); i++)
		account_call_begin(&root->m, &calls[i], 100 << 20);
	account_set_bytes(&root->m, (size_t)1 << 40, (size_t)1 << 40);
	assert_false(account_in_exceeded(&root->m) || account_out_exceeded(&root->m));
	assert_string_equal(turns(f, 2), "RR");
	for (unsigned i = 0; i < ARRAY_SIZE(calls); i++)
		account_call_end(&calls[i]);
	client_free(root);
}

static void test_bytes_of_an_accounts_clients_are_summed(void **state)
{
	struct fixture *f = *state;
	struct client *a = client_new(f, 'a', ACCOUNT_USER, 1, US), *b = client_new(f, 'b', ACCOUNT_USER, 1, US),
		      *other = client_new(f, 'o', ACCOUNT_USER, 2, US);
	const struct account_limits *l = account_limits(&a->m);

	account_set_bytes(&a->m, l->in_bytes, 0);
	assert_false(account_in_exceeded(&b->m));
	account_set_bytes(&b->m, 1, l->out_bytes);
	assert_true(account_in_exceeded(&a->m) && account_in_exceeded(&b->m) && !account_out_exceeded(&a->m));
	account_set_bytes(&a->m, 0, 1);
	account_set_bytes(&b->m, 1, l->out_bytes + 1);
	assert_true(!account_in_exceeded(&b->m) && account_out_exceeded(&b->m) && !account_out_exceeded(&other->m));
	/* A client that loses its role joins the strangers' account with its bytes, and continues to wait. */
	account_join(f->all, &b->m, ACCOUNT_STRANGERS, 1, f->now_ns);
	assert_true(account_out_exceeded(&b->m) && !account_out_exceeded(&a->m));
	assert_string_equal(turns(f, 3), "aob");
	client_free(b);
	client_free(a);
	client_free(other);
}

static void test_call_may_outlive_its_client_and_all_accounts(void **state)
{
	struct accounts *all = accounts_new(wake, *state);
	struct fixture f = { .all = all };
	struct client *a = client_new(&f, 'a', ACCOUNT_USER, 1, US);
	struct account_call call = { 0 };

	account_call_end(&call); /* was never begun */
	account_call_begin(&a->m, &call, 10);
	client_free(a);
	assert_false(accounts_are_empty(all));
	accounts_free(all);
	account_call_end(&call);
}

static void test_nothing_stays_counted_after_random_clients(void **state)
{
	static struct client *clients[64];
	static struct account_call calls[256];
	struct fixture *f = *state;

	srand(7);
	for (unsigned i = 0; i < 200000; i++) {
		struct client **c = &clients[(unsigned)rand() % ARRAY_SIZE(clients)];
		struct account_call *call = &calls[(unsigned)rand() % ARRAY_SIZE(calls)];
		enum account_kind kind = (unsigned)rand() % ACCOUNT_KINDS;
		uid_t uid = kind == ACCOUNT_MASTER ? 0 : 1 + (unsigned)rand() % 5;
		int what = rand() % 8;

		if (!*c) {
			*c = client_new(f, 'c', kind, uid, (unsigned)rand() % 1000 * US);
		} else if (!what) {
			client_free(*c);
			*c = NULL;
		} else if (what == 1) {
			account_join(f->all, &(*c)->m, kind, uid, f->now_ns);
		} else if (what == 2) {
			account_set_bytes(&(*c)->m, (size_t)rand(), (size_t)rand());
		} else if (what == 3) {
			account_wait_end(&(*c)->m);
		} else if (what == 4 && !call->account) {
			account_call_begin(&(*c)->m, call, (unsigned)rand() % 200000);
		} else if (what == 5) {
			account_call_end(call);
		} else {
			assert_true(!turn(f) == !accounts_wait(f->all));
		}
	}
	for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
		if (clients[i])
			client_free(clients[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(calls); i++)
		account_call_end(&calls[i]);
	assert_true(accounts_are_empty(f->all));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_accounts_take_turns_whatever_the_number_of_clients),
		TEST(test_strangers_share_one_account),
		TEST(test_root_gets_every_second_turn),
		TEST(test_long_commands_get_fewer_turns),
		TEST(test_account_keeps_its_debt_when_its_clients_leave),
		TEST(test_debt_is_forgotten_after_a_time),
		TEST(test_account_with_too_many_calls_waits),
		TEST(test_root_has_no_limits),
		TEST(test_bytes_of_an_accounts_clients_are_summed),
		TEST(test_call_may_outlive_its_client_and_all_accounts),
		TEST(test_nothing_stays_counted_after_random_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
