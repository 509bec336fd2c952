/* Agents that answer a sync after its time limit. */
#include "agent/agent_fixture.h"

/* An agent on a busy host answers after the time limit. */
static void test_late_answer_shows_an_agent(void **state)
{
	struct fixture *f = *state;
	struct port_news p = { 0 };
	int64_t id;

	agent_watch(f->a, port_changed, &p);
	agent_port(f->a, true, false);
	rounds(f, 2 * MS);
	id = sync_heard(f);
	limit_ends(f);
	sync_answer(f, id - 1);
	assert_true(p.n == 1 && !p.answers);
	sync_answer(f, id);
	assert_true(p.n == 2 && p.answers);
	/* Of a request, too. */
	agent_set_time(f->a);
	id = sync_heard(f);
	limit_ends(f);
	assert_true(p.n == 3 && !p.answers);
	sync_answer(f, id);
	assert_true(p.n == 4 && p.answers);
	assert_string_equal(heard(f), "");
}

/* The second request waits for the first one's sync, instead of sending a sync whose answer would be late again. */
static void test_next_request_takes_the_late_answer(void **state)
{
	struct fixture *f = *state;
	int64_t id;

	freeze(f);
	id = sync_heard(f);
	limit_ends(f);
	assert_int_equal(f->r, -ETIMEDOUT);
	freeze(f);
	assert_string_equal(heard(f), "");
	limit_ends(f);
	assert_int_equal(f->r, -ETIMEDOUT);
	freeze(f);
	assert_string_equal(heard(f), "");
	sync_answer(f, id);
	assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-freeze\"}");
	says(f, "{\"return\": 1}\n");
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, 0);
}

static void command_ignored(struct agent_command *x, int r, const struct err *e)
{
	(void)x;
	(void)r;
	(void)e;
}

/* The answer comes while no request waits. */
static void test_late_answer_counts_as_the_next_sync(void **state)
{
	struct fixture *f = *state;
	uint64_t begin;
	int64_t id;
	char text[] = "{}\n";
	struct agent_command x = { .text = text, .len = 3, .fd = -1, .done = command_ignored };

	agent_set_time(f->a);
	id = sync_heard(f);
	limit_ends(f);
	begin = loop_now_ns();
	sync_answer(f, id);
	assert_int_equal(agent_command(f->a, &x, &f->e), 0);
	/* On a host that stands still, the answer is too old. */
	if (loop_now_ns() - begin >= AGENT_SYNCED_NS)
		sync_answer(f, sync_heard(f));
	assert_string_equal(heard(f), "{}");
	limit_ends(f);
}

static void test_sync_without_answer_is_repeated(void **state)
{
	struct fixture *f = *state;
	int64_t id;

	freeze(f);
	id = sync_heard(f);
	limit_ends(f);
	for (unsigned i = 1; i < 12; i++) {
		freeze(f);
		limit_ends(f);
	}
	assert_string_equal(heard(f), "");
	freeze(f);
	assert_int_equal(sync_heard(f), id + 1);
}

/* The program that got the sync is gone. */
static void test_sync_is_repeated_after_the_port_was_closed_or_the_guest_restored(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 4; i++) {
		freeze(f);
		(void)sync_heard(f);
		if (i % 2) /* while the sync is in progress, or after its limit */
			limit_ends(f);
		if (i < 2) {
			agent_restored(f->a, false);
		} else {
			agent_port(f->a, false, false);
			agent_port(f->a, true, true);
			rounds(f, 2 * MS);
		}
		if (!(i % 2))
			limit_ends(f);
	}
	freeze(f);
	(void)sync_heard(f);
}

/* The guest does not read its port, so no sync fits into it. */
static void test_sync_that_was_not_sent_is_repeated(void **state)
{
	struct fixture *f = *state;
	char junk[4096] = "";

	while (send(f->host, junk, sizeof(junk), MSG_DONTWAIT) > 0)
		;
	freeze(f);
	limit_ends(f);
	assert_int_equal(f->r, -ETIMEDOUT);
	while (recv(f->guest, junk, sizeof(junk), MSG_DONTWAIT) > 0)
		;
	freeze(f);
	(void)sync_heard(f);
}

static void test_late_answer_behind_much_input_is_not_read(void **state)
{
	struct fixture *f = *state;
	struct port_news p = { 0 };
	char text[1025];
	int64_t id;

	agent_watch(f->a, port_changed, &p);
	agent_port(f->a, true, false);
	rounds(f, 2 * MS);
	id = sync_heard(f);
	limit_ends(f);
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	for (unsigned i = 0; i < 64; i++)
		says(f, text);
	sync_answer(f, id);
	assert_true(p.n == 1 && !p.answers);
	agent_set_time(f->a);
	rounds(f, 2 * MS);
	sync_answer(f, sync_heard(f));
	assert_true(p.n == 2 && p.answers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_late_answer_shows_an_agent, setup, teardown),
		cmocka_unit_test_setup_teardown(test_next_request_takes_the_late_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_answer_counts_as_the_next_sync, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sync_without_answer_is_repeated, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sync_is_repeated_after_the_port_was_closed_or_the_guest_restored, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sync_that_was_not_sent_is_repeated, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_answer_behind_much_input_is_not_read, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
