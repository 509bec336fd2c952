/* Agents that answer a sync after its time limit. */
#include "agent/agent_fixture.h"

#define STRAY "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, stray '\\u00FF'\"}}\n"

static void command_ignored(struct agent_command *x, int r, const struct err *e)
{
	(void)x;
	(void)r;
	(void)e;
}

static void time_heard(struct fixture *f)
{
	assert_non_null(strstr(heard(f), "\"guest-set-time\""));
}

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
	time_heard(f);
}

/* A client's command comes before the agent answers. */
static void test_clock_is_set_after_a_command_that_an_agent_answers(void **state)
{
	struct fixture *f = *state;
	char text[] = "{}\n";
	struct agent_command x = { .text = text, .len = 3, .fd = -1, .done = command_ignored };

	agent_set_time(f->a);
	(void)sync_heard(f);
	limit_ends(f);
	assert_int_equal(agent_command(f->a, &x, &f->e), 0);
	sync_answer(f, sync_heard(f));
	assert_string_equal(heard(f), "{}");
	limit_ends(f);
	sync_answer(f, sync_heard(f));
	time_heard(f);
}

/* Each request sends a sync of its own. The answer to that comes when the next request waits. */
static void test_request_takes_the_answer_to_an_earlier_sync(void **state)
{
	struct fixture *f = *state;
	int64_t id;

	freeze(f);
	id = sync_heard(f);
	limit_ends(f);
	assert_int_equal(f->r, -ETIMEDOUT);
	freeze(f);
	assert_int_equal(sync_heard(f), id + 1);
	limit_ends(f);
	assert_int_equal(f->r, -ETIMEDOUT);
	freeze(f);
	assert_int_equal(sync_heard(f), id + 2);
	sync_answer(f, id);
	assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-freeze\"}");
	/* The agent answers the sentinel of each sync with an error. */
	says(f, STRAY);
	sync_answer(f, id + 1);
	says(f, STRAY);
	assert_int_equal(f->answers, 0);
	sync_answer(f, id + 2);
	says(f, "{\"return\": 1}\n");
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, 0);
	/* Of the thaw's three tries, the second takes the answer to the first. */
	agent_thaw(f->a);
	id = thaw_heard(f);
	limit_ends(f);
	assert_int_equal(thaw_heard(f), id + 1);
	sync_answer(f, id);
	says(f, "{\"return\": 1}\n");
	assert_false(agent_needs_thaw(f->a));
	/* The answer to the second thaw is no other command's answer. */
	freeze(f);
	sync_answer(f, id + 1);
	says(f, "{\"return\": 1}\n");
	freeze_heard(f);
	says(f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n");
	assert_int_equal(f->r, -EIO);
}

/* A command that timed out may be answered between the two syncs. */
static void test_answer_to_a_sync_before_the_last_command_is_ignored(void **state)
{
	struct fixture *f = *state;
	int64_t id;

	freeze(f);
	id = sync_heard(f);
	limit_ends(f);
	freeze(f);
	(void)sync_heard(f);
	sync_answer(f, id);
	assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-freeze\"}");
	agent_set_time(f->a);
	limit_ends(f); /* of the freeze; a thaw follows */
	assert_int_equal(thaw_heard(f), id + 2);
	sync_answer(f, id + 1);
	says(f, "{\"return\": 1}\n");
	assert_true(agent_needs_thaw(f->a));
	sync_answer(f, id + 2);
	says(f, "{\"return\": 1}\n");
	assert_false(agent_needs_thaw(f->a));
}

/* The answer comes while no request waits. */
static void test_late_answer_counts_as_the_next_sync(void **state)
{
	struct fixture *f = *state;
	uint64_t begin;
	int64_t id;
	char text[] = "{}\n";
	struct agent_command x = { .text = text, .len = 3, .fd = -1, .done = command_ignored };

	freeze(f);
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

/* The agent that answered is gone. */
static void test_late_answer_from_a_closed_port_shows_no_agent(void **state)
{
	struct fixture *f = *state;
	int64_t id;

	freeze(f);
	id = sync_heard(f);
	limit_ends(f);
	agent_port(f->a, false, false);
	rounds(f, 2 * MS);
	sync_answer(f, id);
	freeze(f);
	rounds(f, 2 * MS);
	assert_int_equal(sync_heard(f), id + 1);
	assert_string_equal(heard(f), "");
	sync_answer(f, id + 1);
	assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-freeze\"}");
}

/* The answers to two syncs come while no request waits. */
static void test_late_answers_are_all_read(void **state)
{
	struct fixture *f = *state;
	struct port_news p = { 0 };
	int64_t id;

	agent_watch(f->a, port_changed, &p);
	freeze(f);
	id = sync_heard(f);
	limit_ends(f);
	freeze(f);
	(void)sync_heard(f);
	limit_ends(f);
	sync_answer(f, id);
	assert_true(p.answers);
	sync_answer(f, id + 1);
	agent_set_time(f->a);
	rounds(f, 2 * MS);
	assert_int_equal(sync_heard(f), id + 2);
	assert_string_equal(heard(f), "");
}

/* The guest does not read its port, so the second sync does not fit into it. */
static void test_sync_that_was_not_sent_needs_no_answer(void **state)
{
	struct fixture *f = *state;
	char junk[4096] = "";
	int64_t id;

	freeze(f);
	id = sync_heard(f);
	limit_ends(f);
	while (send(f->host, junk, sizeof(junk), MSG_DONTWAIT) > 0)
		;
	freeze(f);
	while (recv(f->guest, junk, sizeof(junk), MSG_DONTWAIT) > 0)
		;
	sync_answer(f, id);
	assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-freeze\"}");
	says(f, "{\"return\": 1}\n");
	assert_int_equal(f->r, 0);
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
		cmocka_unit_test_setup_teardown(test_clock_is_set_after_a_command_that_an_agent_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_request_takes_the_answer_to_an_earlier_sync, setup, teardown),
		cmocka_unit_test_setup_teardown(test_answer_to_a_sync_before_the_last_command_is_ignored, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_answer_counts_as_the_next_sync, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_answer_from_a_closed_port_shows_no_agent, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_answers_are_all_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sync_that_was_not_sent_needs_no_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_answer_behind_much_input_is_not_read, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
