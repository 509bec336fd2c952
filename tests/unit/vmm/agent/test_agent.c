/* The guest agent protocol with a correct agent, and with agents that send nothing, garbage, too
 * much, or everything too late. */
#include "agent/agent_fixture.h"

static void test_freeze_and_thaw_work(void **state)
{
	struct fixture *f = *state;

	freeze(f);
	assert_int_equal(agent_freeze(f->a, answered, f, &f->e), -EBUSY);
	freeze_heard(f);
	assert_false(agent_is_frozen(f->a));
	says(f, "{\"return\": 2}\n");
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, 0);
	assert_true(agent_is_frozen(f->a));
	assert_string_equal(heard(f), "");
	agent_thaw(f->a);
	agent_thaw(f->a);
	assert_false(agent_is_frozen(f->a));
	sync_answer(f, thaw_heard(f));
	says(f, "{\"return\": 2}\n");
	assert_string_equal(heard(f), "");
	is_idle_again(f);
}

static void test_silent_agent_times_out(void **state)
{
	struct fixture *f = *state;

	freeze(f);
	answer_wait(f);
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, -ETIMEDOUT);
	assert_non_null(strstr(f->e.msg, "is qemu-guest-agent running"));
	(void)sync_heard(f);
	assert_string_equal(heard(f), ""); /* nothing was frozen, so no thaw follows */
	/* A late answer, to the previous sync. */
	freeze(f);
	sync_answer(f, 1);
	assert_int_equal(f->answers, 0);
	freeze_heard(f);
	says(f, "{\"return\": 0}\n");
	assert_int_equal(f->r, 0);
}

static int64_t time_heard(struct fixture *f)
{
	int64_t ns = -1;

	sync_answer(f, sync_heard(f));
	assert_int_equal(sscanf(heard(f), "{\"execute\":\"guest-set-time\",\"arguments\":{\"time\":%" SCNd64 "}}",
				 &ns), 1);
	return ns;
}

static void test_sets_the_time(void **state)
{
	struct fixture *f = *state;
	int64_t s = time(NULL), told;

	agent_set_time(NULL);
	agent_set_time(f->a);
	told = time_heard(f) / 1000000000;
	assert_in_range(told, s, time(NULL) + 1); /* time() is up to a tick of the kernel behind */
	freeze(f); /* waits for the clock */
	assert_string_equal(heard(f), "");
	agent_set_time(f->a); /* waits for the freeze and its thaw */
	says(f, "{\"return\": {}}\n");
	freeze_heard(f);
	says(f, "{\"return\": 1}\n");
	assert_true(f->answers == 1 && !f->r);
	assert_string_equal(heard(f), "");
	agent_thaw(f->a);
	sync_answer(f, thaw_heard(f));
	says(f, "{\"return\": 1}\n");
	(void)time_heard(f);
	says(f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n");
	is_idle_again(f);
}

static void name_heard(struct fixture *f, const char *name)
{
	char want[400];

	sync_answer(f, sync_heard(f));
	snprintf(want, sizeof(want), "{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"/bin/sh\",\"arg\":[\"-c\","
		"\"hostnamectl set-hostname $1 || { hostname $1 && echo $1 >/etc/hostname; }\",\"sh\",\"%s\"]}}", name);
	assert_string_equal(heard(f), want);
}

static void test_sets_the_host_name(void **state)
{
	struct fixture *f = *state;

	agent_set_hostname(NULL, "web-1");
	agent_set_hostname(f->a, "...");
	assert_string_equal(heard(f), "");
	agent_set_time(f->a);
	agent_set_hostname(f->a, "web_1"); /* after the clock */
	(void)time_heard(f);
	says(f, "{\"return\": {}}\n");
	name_heard(f, "web-1");
	freeze(f); /* waits for the host name */
	assert_string_equal(heard(f), "");
	says(f, "{\"return\": {\"pid\": 7}}\n");
	freeze_heard(f);
	says(f, "{\"return\": 1}\n");
	agent_thaw(f->a);
	sync_answer(f, thaw_heard(f));
	says(f, "{\"return\": 1}\n");
	agent_set_hostname(f->a, "b");
	name_heard(f, "b");
	says(f, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"disabled\"}}\n");
	is_idle_again(f);
}

static void test_missing_agent_keeps_host_name(void **state)
{
	struct fixture *f = *state;

	agent_set_hostname(f->a, "web1");
	(void)sync_heard(f);
	freeze(f);
	answer_wait(f); /* two time limits */
	assert_int_equal(f->r, -ETIMEDOUT);
	(void)sync_heard(f);
	assert_string_equal(heard(f), ""); /* not retried */
	is_idle_again(f);
}

static void test_host_names(void **state)
{
	static const char *const names[][2] = {{"web1", "web1"}, {"Web-1.example", "Web-1-example"}, {"a__b", "a-b"},
		{"-x-", "x"}, {"", ""}, {"...", ""}, {"\xc3\xa4rger", "rger"}, {"a\"; reboot", "a-reboot"}};
	char ret[AGENT_HOSTNAME_MAX + 1], longest[301];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		agent_hostname(names[i][0], ret);
		assert_string_equal(ret, names[i][1]);
	}
	memset(longest, 'x', 300);
	longest[62] = '.';
	longest[300] = 0;
	agent_hostname(longest, ret);
	assert_int_equal(strlen(ret), 62); /* does not end with a hyphen */
}

static void count(void *opaque)
{
	++*(unsigned *)opaque;
}

/* A state that was saved frozen is thawed before the clock is set; a refusal or a missing answer is
 * reported. */
static void test_restored_frozen_guest_is_thawed(void **state)
{
	struct fixture *f = *state;
	unsigned failed = 0;

	agent_restored(NULL, true);
	agent_thaw_restored(NULL, count, &failed);
	agent_thaw_restored(f->a, count, &failed); /* nothing is frozen */
	assert_string_equal(heard(f), "");
	agent_restored(f->a, true);
	assert_true(agent_needs_thaw(f->a) && !agent_needs_thaw(NULL));
	agent_thaw_restored(f->a, count, &failed);
	agent_set_time(f->a);
	sync_answer(f, thaw_heard(f));
	says(f, "{\"error\": {}}\n");
	assert_int_equal(failed, 1);
	assert_true(agent_needs_thaw(f->a));
	(void)time_heard(f);
	agent_thaw_restored(f->a, count, &failed); /* after the command in progress */
	assert_string_equal(heard(f), "");
	says(f, "{\"return\": {}}\n");
	sync_answer(f, thaw_heard(f));
	says(f, "{\"return\": 1}\n");
	assert_int_equal(failed, 1);
	assert_false(agent_needs_thaw(f->a));
	is_idle_again(f);
	assert_true(agent_needs_thaw(f->a));
}

static void test_missing_thaw_of_restored_guest_is_reported(void **state)
{
	struct fixture *f = *state;
	unsigned failed = 0;

	agent_restored(f->a, true);
	agent_thaw_restored(f->a, count, &failed);
	while (!failed)
		limit_ends(f);
	assert_true(agent_needs_thaw(f->a));
	agent_restored(f->a, false);
	assert_false(agent_needs_thaw(f->a));
}

/* No agent: the request fails, and the next one is accepted. */
static void test_missing_agent_skips_clock_and_next_request_works(void **state)
{
	struct fixture *f = *state;

	agent_set_time(f->a);
	freeze(f);
	answer_wait(f); /* two time limits */
	assert_int_equal(f->r, -ETIMEDOUT);
	(void)sync_heard(f);
	(void)sync_heard(f);
	is_idle_again(f);
}

static void test_late_freeze_is_thawed(void **state)
{
	struct fixture *f = *state;
	int64_t id;

	freeze(f);
	freeze_heard(f);
	answer_wait(f);
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, -ETIMEDOUT);
	id = thaw_heard(f);
	says(f, "{\"return\": 1}\n"); /* the late answer to the freeze, not taken for the thaw's */
	sync_answer(f, id);
	freeze(f); /* waits for the thaw */
	assert_int_equal(agent_freeze(f->a, answered, f, &f->e), -EBUSY);
	assert_string_equal(heard(f), "");
	says(f, "{\"return\": 1}\n");
	freeze_heard(f);
	says(f, "{\"return\": 1}\n");
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, 0);
}

static void test_refused_freeze_is_reported(void **state)
{
	struct fixture *f = *state;

	freeze(f);
	freeze_heard(f);
	says(f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"failed to open /mnt: "
		"\\\"no\\\"\x1b[2J\"}}\n");
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, -EIO);
	assert_non_null(strstr(f->e.msg, "failed to open /mnt: ?no??[2J"));
	sync_answer(f, thaw_heard(f));
	says(f, "{\"error\": {}}\n");
	is_idle_again(f);
}

static void test_garbage_answer_is_reported(void **state)
{
	static const char *const answers[] = {"\n", "}{\n", "{\"return\"\n", "{\"return\":}\n",
		"[1]\n", "{\"return\": 1} x\n", "null\n"};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		freeze(f);
		freeze_heard(f);
		says(f, answers[i]);
		assert_int_equal(f->answers, 1);
		assert_int_equal(f->r, -EPROTO);
		sync_answer(f, thaw_heard(f));
		says(f, "{\"return\": 0}\n");
	}
	/* Input before the sync's answer is skipped, also without newlines and without end. */
	freeze(f);
	for (unsigned i = 0; i < 20; i++) {
		char noise[4000];

		memset(noise, i % 3 ? 'x' : '\n', sizeof(noise) - 1);
		noise[sizeof(noise) - 1] = 0;
		says(f, noise);
	}
	assert_int_equal(f->answers, 0);
	freeze_heard(f);
	says(f, "{\"return\": 0}\n");
	assert_int_equal(f->r, 0);
}

static void test_endless_line_is_skipped(void **state)
{
	struct fixture *f = *state;
	char noise[3000];

	memset(noise, ' ', sizeof(noise) - 1);
	noise[sizeof(noise) - 1] = 0;
	freeze(f);
	freeze_heard(f);
	for (unsigned i = 0; i <= AGENT_LINE_MAX / (sizeof(noise) - 1); i++)
		says(f, noise);
	says(f, "{\"return\": 0}\n");
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, -EPROTO);
	(void)thaw_heard(f);
}

/* A missing thaw is sent after the hold time, and repeated until the agent confirms it. */
static void test_missing_thaw_is_sent_after_hold_time(void **state)
{
	struct fixture *f = *state;

	freeze(f);
	freeze_heard(f);
	says(f, "{\"return\": 1}\n");
	assert_true(agent_is_frozen(f->a));
	limit_ends(f);
	assert_false(agent_is_frozen(f->a));
	(void)thaw_heard(f);
	limit_ends(f);
	(void)thaw_heard(f);
	limit_ends(f);
	(void)thaw_heard(f);
	limit_ends(f);
	assert_string_equal(heard(f), "");
	is_idle_again(f);
}

static void test_closed_port_times_out(void **state)
{
	struct fixture *f = *state;

	freeze(f);
	freeze_heard(f);
	shutdown(f->guest, SHUT_RDWR);
	answer_wait(f);
	assert_int_equal(f->r, -ETIMEDOUT);
}

/* ---- answers ---- */

static struct agent_answer parsed(const char *text)
{
	struct agent_answer x;

	agent_answer_parse(text, strlen(text), &x);
	return x;
}

static void test_answers_are_parsed(void **state)
{
	static const char *const garbage[] = {"", " ", "{", "}", "{}x", "1", "\"a\"",
		"{\"return\":1", "{\"return\":1,,}", "{\"return\" 1}", "{return:1}",
		"{\"return\":1]", "{\"error\":5}", "{\"error\":{\"desc\":5}}",
		"{\"return\":99999999999999999999}", "{\"return\":-}", "{\"a\":\"b}", "{\"a\":\"\\",
		"{\"a\":[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]],\"return\":1}"};
	struct agent_answer x;

	(void)state;
	x = parsed(" { \"return\" : -12 , \"id\": {\"a\": [1, \"]\", {}]} }\r");
	assert_true(x.kind == AGENT_RETURN && x.is_number && x.number == -12);
	x = parsed("{\"return\":1796074170123456789}"); /* nanoseconds of guest-get-time */
	assert_true(x.kind == AGENT_RETURN && x.number == 1796074170123456789);
	x = parsed("{\"return\":{}}");
	assert_true(x.kind == AGENT_RETURN && !x.is_number);
	x = parsed("{\"return\":true}");
	assert_true(x.kind == AGENT_RETURN && !x.is_number);
	x = parsed("{\"error\":{\"class\":\"X\",\"data\":{},\"desc\":\"no\"}}");
	assert_int_equal(x.kind, AGENT_ERROR);
	assert_string_equal(x.desc, "no");
	assert_int_equal(parsed("{}").kind, AGENT_GARBAGE);
	for (size_t i = 0; i < ARRAY_SIZE(garbage); i++)
		if (parsed(garbage[i]).kind != AGENT_GARBAGE)
			fail_msg("%s", garbage[i]);
}

/* No input makes the parser read past its end (for the sanitizers). */
static void test_any_bytes_are_parsed_safely(void **state)
{
	static const char seed[] =
		"{\"return\": {\"a\": [1, \"\\\"\"]}, \"error\": {\"desc\": \"x\"}}";

	(void)state;
	srandom(1);
	for (unsigned i = 0; i < 20000; i++) {
		size_t len = 1 + (size_t)random() % (sizeof(seed) - 1);
		char *copy = malloc(len);
		struct agent_answer x;

		memcpy(copy, seed, len);
		for (unsigned k = 0; k < i % 4; k++)
			copy[(size_t)random() % len] = (char)random();
		agent_answer_parse(copy, len, &x);
		assert_true(strlen(x.desc) < sizeof(x.desc));
		free(copy);
	}
}

/* ---- commands with a result ---- */

static void test_tell_shows_line(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(agent_tell(f->a, "say \"\\\n", answered, f, &f->e), 0);
	assert_int_equal(agent_tell(f->a, "more", answered, f, &f->e), -EBUSY);
	sync_answer(f, sync_heard(f));
	assert_string_equal(heard(f), "{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"wall\","
				      "\"arg\":[\"say \\\"\\\\?\"]}}");
	assert_int_equal(f->answers, 0);
	says(f, "{\"return\":{\"pid\":7}}\n");
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, 0);
	is_idle_again(f);
}

static void test_refused_command_is_reported(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(agent_shutdown(f->a, true, answered, f, &f->e), 0);
	sync_answer(f, sync_heard(f));
	assert_string_equal(heard(f), "{\"execute\":\"guest-shutdown\",\"arguments\":{\"mode\":\"reboot\"}}");
	says(f, "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"it is disabled\"}}\n");
	assert_int_equal(f->r, -EIO);
	assert_non_null(strstr(f->e.msg, "refuses: it is disabled"));
	is_idle_again(f);
}

/* A shutdown has no answer; a sync before it shows that an agent is there. */
static void test_shutdown_succeeds_without_answer(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(agent_shutdown(f->a, false, answered, f, &f->e), 0);
	sync_answer(f, sync_heard(f));
	assert_string_equal(heard(f), "{\"execute\":\"guest-shutdown\",\"arguments\":{\"mode\":\"powerdown\"}}");
	answer_wait(f);
	assert_int_equal(f->r, 0);
	f->answers = 0;
	assert_int_equal(agent_shutdown(f->a, false, answered, f, &f->e), 0);
	sync_heard(f);
	answer_wait(f);
	assert_int_equal(f->r, -ETIMEDOUT);
	is_idle_again(f);
}

/* The guest is off before the agent could refuse. */
static void test_guest_off_completes_shutdown(void **state)
{
	struct fixture *f = *state;

	agent_guest_off(NULL);
	assert_int_equal(agent_shutdown(f->a, false, answered, f, &f->e), 0);
	agent_guest_off(f->a); /* not by the agent, which has received nothing */
	sync_answer(f, sync_heard(f));
	assert_int_equal(f->answers, 0);
	heard(f);
	agent_guest_off(f->a);
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, 0);
}

/* An address query and a shutdown do not block each other, in either order. */
static void test_address_query_returns_addresses(void **state)
{
	struct fixture *f = *state;
	struct vm_addresses all = { .n = 7 };

	assert_int_equal(agent_addresses(f->a, &all, answered, f, &f->e), 0);
	assert_int_equal(agent_addresses(f->a, &all, answered, f, &f->e), -EBUSY);
	assert_int_equal(agent_tell(f->a, "words", answered, f, &f->e), 0);
	sync_answer(f, sync_heard(f));
	assert_string_equal(heard(f), "{\"execute\":\"guest-network-get-interfaces\"}");
	says(f, "{\"return\":[{\"name\":\"lo\",\"ip-addresses\":[{\"ip-address\":\"127.0.0.1\",\"prefix\":8}]}]}\n");
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, 0);
	assert_int_equal(all.n, 1);
	assert_string_equal(all.list[0].name, "lo");
	assert_int_equal(agent_addresses(f->a, &all, answered, f, &f->e), 0);
	sync_answer(f, sync_heard(f));
	assert_non_null(strstr(heard(f), "wall"));
	says(f, "{\"return\":{}}\n");
	assert_int_equal(f->answers, 2);
	sync_answer(f, sync_heard(f));
	assert_non_null(strstr(heard(f), "guest-network"));
	says(f, "{\"return\":{}}\n");
	assert_int_equal(f->answers, 3);
	assert_int_equal(f->r, -EPROTO);
	is_idle_again(f);
}

/* As many interfaces as a container host: an answer longer than one read. */
static void test_long_address_answer_is_read(void **state)
{
	struct fixture *f = *state;
	struct vm_addresses all = { 0 };
	char text[1200];
	int n;

	assert_int_equal(agent_addresses(f->a, &all, answered, f, &f->e), 0);
	sync_answer(f, sync_heard(f));
	heard(f);
	says(f, "{\"return\":[");
	for (unsigned i = 0; i < 50; i++) {
		n = snprintf(text, sizeof(text), "%s{\"name\":\"veth%u\",\"statistics\":{\"of\":\"%0500d\"},\"hardware-address\":"
			"\"02:00:00:00:00:%02x\"}", i ? "," : "", i, 0, i);
		assert_true(n > 0 && n < (int)sizeof(text));
		says(f, text);
	}
	says(f, "]}\n");
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, 0);
	assert_int_equal(all.n, 50);
	assert_int_equal(all.list[49].mac[5], 49);
	is_idle_again(f);
}

/* A freeze goes first; other commands follow its thaw. */
static void test_command_waits_for_thaw(void **state)
{
	struct fixture *f = *state;

	freeze(f);
	assert_int_equal(agent_tell(f->a, "words", answered, f, &f->e), 0);
	freeze_heard(f);
	says(f, "{\"return\": 1}\n");
	agent_thaw(f->a);
	f->answers = 0;
	sync_answer(f, thaw_heard(f));
	says(f, "{\"return\": 1}\n");
	sync_answer(f, sync_heard(f));
	assert_non_null(strstr(heard(f), "wall"));
	says(f, "{\"return\":{}}\n");
	assert_int_equal(f->answers, 1);
}

/* A program opens the port: a ping finds out whether it is an agent. */
static void test_open_port_is_pinged(void **state)
{
	struct fixture *f = *state;
	struct port_news p = { 0 };

	agent_watch(f->a, port_changed, &p);
	agent_port(f->a, true, false);
	rounds(f, 2 * MS);
	assert_true(p.n == 1 && p.open && !p.answers);
	assert_true(agent_port_is_open(f->a) && !agent_answers(f->a));
	sync_answer(f, sync_heard(f));
	assert_true(p.n == 2 && p.answers && agent_answers(f->a));
	assert_string_equal(heard(f), "");
	agent_port(f->a, false, false);
	rounds(f, 2 * MS);
	assert_true(p.n == 3 && !p.open && !p.answers);
	/* The port is open in a loaded state: no ping; the next request finds out. */
	agent_port(f->a, true, true);
	rounds(f, 2 * MS);
	assert_true(p.n == 4 && p.open && !p.answers);
	assert_string_equal(heard(f), "");
	agent_set_time(f->a);
	sync_answer(f, sync_heard(f));
	assert_true(p.n == 5 && p.answers);
}

/* The guest may open and close the port at any rate. */
static void test_port_changes_are_rate_limited(void **state)
{
	struct fixture *f = *state;
	struct port_news p = { 0 };
	uint64_t begin = loop_now_ns();

	agent_watch(f->a, port_changed, &p);
	for (unsigned i = 0; i < 200; i++) {
		agent_port(f->a, i % 2 == 0, true);
		rounds(f, MS / 10);
	}
	agent_port(f->a, true, true);
	rounds(f, 2 * MS);
	assert_true(p.n <= 8 * (2 + (loop_now_ns() - begin) / (1000 * MS)));
	while (!p.open)
		loop_run_once(f->loop, 10 * MS);
}

/* A program that does not answer is not an agent, and no request waits for it. */
static void test_silent_program_is_not_an_agent(void **state)
{
	struct fixture *f = *state;
	struct port_news p = { 0 };

	agent_watch(f->a, port_changed, &p);
	agent_port(f->a, true, false);
	rounds(f, 2 * MS);
	sync_heard(f);
	freeze(f);
	limit_ends(f);
	assert_true(p.n == 1 && !p.answers);
	sync_answer(f, sync_heard(f));
	assert_true(p.n == 2 && p.answers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_freeze_and_thaw_work, setup, teardown),
		cmocka_unit_test_setup_teardown(test_silent_agent_times_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_missing_agent_skips_clock_and_next_request_works, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sets_the_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sets_the_host_name, setup, teardown),
		cmocka_unit_test_setup_teardown(test_missing_agent_keeps_host_name, setup, teardown),
		cmocka_unit_test(test_host_names),
		cmocka_unit_test_setup_teardown(test_restored_frozen_guest_is_thawed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_missing_thaw_of_restored_guest_is_reported, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_freeze_is_thawed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_freeze_is_reported, setup, teardown),
		cmocka_unit_test_setup_teardown(test_garbage_answer_is_reported, setup, teardown),
		cmocka_unit_test_setup_teardown(test_endless_line_is_skipped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_missing_thaw_is_sent_after_hold_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_closed_port_times_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tell_shows_line, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_command_is_reported, setup, teardown),
		cmocka_unit_test_setup_teardown(test_guest_off_completes_shutdown, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shutdown_succeeds_without_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_address_query_returns_addresses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_address_answer_is_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_command_waits_for_thaw, setup, teardown),
		cmocka_unit_test_setup_teardown(test_open_port_is_pinged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_port_changes_are_rate_limited, setup, teardown),
		cmocka_unit_test_setup_teardown(test_silent_program_is_not_an_agent, setup, teardown),
		cmocka_unit_test(test_answers_are_parsed),
		cmocka_unit_test(test_any_bytes_are_parsed_safely),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
