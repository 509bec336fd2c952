/* Commands of clients for the guest agent: their answers, short, long, too long, malformed and missing, and their
 * turns. */
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/agent/agent.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 1000000ULL
#define LONG_NS (60000 * MS)

struct fixture {
	struct loop *loop;
	struct agent *a;
	int guest; /* the agent's end of the socket */
	char said[8192]; /* sent by the host so far */
	size_t nsaid;
};

struct asked {
	struct agent_command x;
	unsigned answers;
	int r;
	struct err e;
};

static int setup_with(void **state, uint64_t turn_ns)
{
	const struct agent_times times = { LONG_NS, LONG_NS, LONG_NS, LONG_NS, turn_ns };
	struct fixture *f = calloc(1, sizeof(*f));
	struct err e;
	int pair[2];

	log_set_fd(open("/dev/null", O_WRONLY));
	assert_int_equal(loop_new(16, &f->loop, &e), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(agent_new(f->loop, pair[0], &times, &f->a, &e), 0);
	f->guest = pair[1];
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, LONG_NS);
}

/* A command that does not begin at once times out. */
static int setup_hasty(void **state)
{
	return setup_with(state, 1);
}

static int setup_brisk(void **state)
{
	return setup_with(state, 200 * MS);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	agent_free(f->a);
	loop_free(f->loop);
	close(f->guest);
	free(f);
	return 0;
}

static void command_done(struct agent_command *x, int r, const struct err *e)
{
	struct asked *k = container_of(x, struct asked, x);

	k->answers++;
	k->r = r;
	if (r < 0)
		k->e = *e;
}

static int ask(struct fixture *f, struct asked *k, const char *text, uint64_t timeout_ns, uint64_t bytes_max)
{
	*k = (struct asked){ .x = { .text = (char *)text, .len = strlen(text), .timeout_ns = timeout_ns, .bytes_max = bytes_max,
		.fd = memfd_create("answer", MFD_CLOEXEC), .done = command_done } };
	assert_true(k->x.fd >= 0);
	return agent_command(f->a, &k->x, &k->e);
}

static void asked_end(struct asked *k)
{
	close(k->x.fd);
}

/* Return the next line that the host sends. */
static const char *heard(struct fixture *f)
{
	static char line[4096];
	char *end;

	while (!(end = memchr(f->said, '\n', f->nsaid))) {
		ssize_t n = recv(f->guest, f->said + f->nsaid, sizeof(f->said) - f->nsaid, MSG_DONTWAIT);

		f->nsaid += n > 0 ? (size_t)n : 0;
		if (n <= 0)
			loop_run_once(f->loop, 5 * MS);
	}
	snprintf(line, sizeof(line), "%.*s", (int)(end - f->said), f->said);
	f->nsaid -= (size_t)(end + 1 - f->said);
	memmove(f->said, end + 1, f->nsaid);
	return line;
}

static bool silent(struct fixture *f)
{
	loop_run_once(f->loop, 0);
	return !f->nsaid && recv(f->guest, f->said, sizeof(f->said), MSG_DONTWAIT) < 0;
}

/* Send a text of any length, and let the host read it. */
static void says(struct fixture *f, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(f->guest, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0) {
			text += n;
			len -= (size_t)n;
		}
		loop_run_once(f->loop, MS);
	}
}

static void line_says(struct fixture *f, const char *text)
{
	says(f, text, strlen(text));
}

/* Answer the sync that comes before a command. */
static void sync_answered(struct fixture *f)
{
	char text[64];
	int64_t id = -1;

	assert_int_equal(sscanf(heard(f), "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%" SCNd64 "}}", &id), 1);
	snprintf(text, sizeof(text), "\xff{\"return\": %" PRId64 "}\n", id);
	line_says(f, text);
}

/* Return the command that the host sends, after its sync, if there is one. */
static const char *command_heard(struct fixture *f)
{
	static char line[4096];
	char text[64];
	int64_t id;

	snprintf(line, sizeof(line), "%s", heard(f));
	if (sscanf(line, "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%" SCNd64 "}}", &id) != 1)
		return line;
	snprintf(text, sizeof(text), "\xff{\"return\": %" PRId64 "}\n", id);
	line_says(f, text);
	return heard(f);
}

static void ends(struct fixture *f, const struct asked *k)
{
	while (!k->answers)
		loop_run_once(f->loop, 10 * MS);
	assert_int_equal(k->answers, 1);
}

static void answer_is(const struct asked *k, const char *text, size_t len)
{
	char *buf = malloc(len + 1);

	assert_int_equal(k->r, 0);
	assert_int_equal(k->x.bytes, len);
	assert_int_equal(pread(k->x.fd, buf, len + 1, 0), len);
	assert_memory_equal(buf, text, len);
	free(buf);
}

static void test_answer_comes_in_the_file(void **state)
{
	struct fixture *f = *state;
	struct asked k;

	assert_int_equal(ask(f, &k, "{\"execute\":\"guest-info\"}\n", LONG_NS, 1 << 20), 0);
	sync_answered(f);
	assert_true(agent_answers(f->a));
	assert_string_equal(heard(f), "{\"execute\":\"guest-info\"}");
	line_says(f, "{\"return\": {\"version\": \"7.2\"}}\n");
	ends(f, &k);
	answer_is(&k, "{\"return\": {\"version\": \"7.2\"}}", 30);
	asked_end(&k);
}

/* Longer than the buffer, and by chance as long. */
static void test_long_answers_are_complete(void **state)
{
	struct fixture *f = *state;
	static const size_t lengths[] = { AGENT_LINE_MAX - 1, AGENT_LINE_MAX, AGENT_LINE_MAX + 1, 2 * AGENT_LINE_MAX, 700000 };

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		char *text = malloc(lengths[i] + 1);
		struct asked k;

		memset(text, 'x', lengths[i]);
		memcpy(text, "{\"return\":\"", 11);
		memcpy(text + lengths[i] - 2, "\"}\n", 3);
		assert_int_equal(ask(f, &k, "{}\n", LONG_NS, 1 << 20), 0);
		(void)command_heard(f);
		says(f, text, lengths[i] + 1);
		ends(f, &k);
		answer_is(&k, text, lengths[i]);
		asked_end(&k);
		free(text);
	}
}

static void test_too_long_answer_is_refused(void **state)
{
	struct fixture *f = *state;
	size_t len = 3 * AGENT_LINE_MAX;
	char *text = malloc(len);
	struct asked k;

	memset(text, 'x', len);
	text[len - 1] = '\n';
	assert_int_equal(ask(f, &k, "{}\n", LONG_NS, AGENT_LINE_MAX), 0);
	sync_answered(f);
	(void)heard(f);
	says(f, text, len);
	ends(f, &k);
	assert_int_equal(k.r, -EPROTO);
	assert_non_null(strstr(k.e.msg, "longer than 65536 bytes"));
	assert_true(lseek(k.x.fd, 0, SEEK_END) <= AGENT_LINE_MAX);
	asked_end(&k);
	free(text);
}

static void test_bad_answers_are_reported(void **state)
{
	static const struct {
		const char *line, *words;
		int r;
	} bad[] = { { "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not today\"}}\n", "refuses: not today", -EIO },
		{ "}{\n", "malformed", -EPROTO }, { "\n", "malformed", -EPROTO }, { "[]\n", "malformed", -EPROTO } };
	struct fixture *f = *state;
	struct asked k;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(ask(f, &k, "{}\n", LONG_NS, 1 << 20), 0);
		(void)command_heard(f);
		line_says(f, bad[i].line);
		ends(f, &k);
		assert_int_equal(k.r, bad[i].r);
		assert_non_null(strstr(k.e.msg, bad[i].words));
		asked_end(&k);
	}
}

/* The late answer must not be taken for that of the next command. */
static void test_late_answer_is_dropped(void **state)
{
	struct fixture *f = *state;
	struct asked k, next;

	assert_int_equal(ask(f, &k, "{\"n\":1}\n", 20 * MS, 1 << 20), 0);
	assert_int_equal(ask(f, &next, "{\"n\":2}\n", LONG_NS, 1 << 20), 0);
	sync_answered(f);
	(void)heard(f);
	ends(f, &k);
	assert_int_equal(k.r, -ETIMEDOUT);
	assert_non_null(strstr(k.e.msg, "may have carried it out"));
	line_says(f, "{\"return\": 1}\n");
	sync_answered(f);
	assert_string_equal(heard(f), "{\"n\":2}");
	assert_int_equal(next.answers, 0);
	line_says(f, "{\"return\": 2}\n");
	ends(f, &next);
	answer_is(&next, "{\"return\": 2}", 13);
	asked_end(&k);
	asked_end(&next);
}

static void test_commands_take_turns_and_are_limited(void **state)
{
	struct fixture *f = *state;
	struct asked k[AGENT_COMMANDS_MAX], more;

	for (size_t i = 0; i < ARRAY_SIZE(k); i++)
		assert_int_equal(ask(f, &k[i], "{}\n", LONG_NS, 1 << 20), 0);
	assert_int_equal(ask(f, &more, "{}\n", LONG_NS, 1 << 20), -EBUSY);
	asked_end(&more);
	for (size_t i = 0; i < ARRAY_SIZE(k); i++) {
		(void)command_heard(f);
		assert_true(silent(f));
		line_says(f, "{\"return\": {}}\n");
		ends(f, &k[i]);
		asked_end(&k[i]);
	}
	assert_true(silent(f));
	assert_int_equal(ask(f, &more, "{}\n", LONG_NS, 1 << 20), 0);
	asked_end(&more);
}

/* An answer shows where the next one begins; anything else in the port needs a sync again. */
static void test_command_after_an_answer_needs_no_sync(void **state)
{
	struct fixture *f = *state;
	uint64_t answered_ns = 0;
	struct asked k;

	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(ask(f, &k, "{\"n\":1}\n", LONG_NS, 1 << 20), 0);
		/* On a host that stands still, the answer is too old. */
		if (i % 2 == 0 || loop_now_ns() - answered_ns >= AGENT_SYNCED_NS)
			sync_answered(f);
		assert_string_equal(heard(f), "{\"n\":1}");
		answered_ns = loop_now_ns();
		line_says(f, i == 1 ? "garbage\n" : "{\"return\": 1}\n");
		ends(f, &k);
		asked_end(&k);
		if (i == 3)
			agent_restored(f->a, false);
	}
}

static void froze(void *opaque, int r, const struct err *e)
{
	(void)e;
	*(int *)opaque = r;
}

/* A revert brings back an agent that was at work on an earlier command, and answers that one. */
static void test_answer_of_a_restored_agent_is_of_no_later_command(void **state)
{
	struct fixture *f = *state;
	struct vm_addresses all;
	struct asked k, next;
	int looked = 1;
	struct err e;

	assert_int_equal(ask(f, &k, "{\"n\":1}\n", LONG_NS, 1 << 20), 0);
	assert_int_equal(ask(f, &next, "{\"n\":2}\n", LONG_NS, 1 << 20), 0);
	sync_answered(f);
	assert_string_equal(heard(f), "{\"n\":1}");
	agent_restored(f->a, false);
	line_says(f, "{\"return\": \"earlier\"}\n");
	ends(f, &k);
	assert_int_equal(k.r, -ECANCELED);
	sync_answered(f);
	assert_string_equal(heard(f), "{\"n\":2}");
	line_says(f, "{\"return\": 2}\n");
	ends(f, &next);
	answer_is(&next, "{\"return\": 2}", 13);
	assert_int_equal(agent_addresses(f->a, &all, froze, &looked, &e), 0);
	sync_answered(f);
	assert_string_equal(heard(f), "{\"execute\":\"guest-network-get-interfaces\"}");
	agent_restored(f->a, false);
	line_says(f, "{\"return\": []}\n");
	assert_int_equal(looked, -ECANCELED);
	asked_end(&k);
	asked_end(&next);
}

/* A command that waits for frozen file systems longer than its turn is not sent any more: its client may have given
 * up. */
static void test_command_that_waited_too_long_is_not_sent(void **state)
{
	struct fixture *f = *state;
	struct asked k;
	struct err e;
	int r = 1;

	assert_int_equal(agent_freeze(f->a, froze, &r, &e), 0);
	sync_answered(f);
	assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-freeze\"}");
	line_says(f, "{\"return\": 1}\n");
	while (r)
		loop_run_once(f->loop, 10 * MS);
	assert_int_equal(ask(f, &k, "{\"n\":1}\n", LONG_NS, 1 << 20), 0);
	k.x.begin_before_ns = 1;
	assert_true(silent(f));
	agent_thaw(f->a);
	sync_answered(f);
	assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-thaw\"}");
	line_says(f, "{\"return\": 1}\n");
	ends(f, &k);
	assert_int_equal(k.r, -EBUSY);
	assert_true(silent(f));
	asked_end(&k);
}

/* A client gave its command as much time as it may. A freeze comes after the time that commands wait for each other,
 * also when it is asked before the agent is ready for the command. */
static void freeze_overtakes(struct fixture *f, bool before_sync)
{
	struct asked k;
	struct err e;
	int r = 1;

	assert_int_equal(ask(f, &k, "{\"n\":1}\n", LONG_NS, 1 << 20), 0);
	if (before_sync)
		assert_int_equal(agent_freeze(f->a, froze, &r, &e), 0);
	sync_answered(f);
	assert_string_equal(heard(f), "{\"n\":1}");
	if (!before_sync)
		assert_int_equal(agent_freeze(f->a, froze, &r, &e), 0);
	ends(f, &k);
	assert_int_equal(k.r, -ETIMEDOUT);
	assert_non_null(strstr(k.e.msg, "needed the agent, for a snapshot"));
	line_says(f, "{\"return\": \"late\"}\n");
	sync_answered(f);
	assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-freeze\"}");
	line_says(f, "{\"return\": 1}\n");
	while (r)
		loop_run_once(f->loop, 10 * MS);
	asked_end(&k);
}

static void test_freeze_does_not_wait_for_a_slow_command(void **state)
{
	freeze_overtakes(*state, false);
}

static void test_freeze_does_not_wait_for_a_slow_command_that_was_not_sent_yet(void **state)
{
	freeze_overtakes(*state, true);
}

/* A shutdown that began later than its client waits would surprise: the client was told that it failed. A query of
 * addresses has no effect and is sent. */
static void test_shutdown_that_waited_too_long_is_not_sent(void **state)
{
	struct fixture *f = *state;
	struct vm_addresses all;
	int r = 1, looked = 1;
	struct err e;

	for (unsigned i = 0; i < 3; i++) {
		int off = 1;

		assert_int_equal(agent_freeze(f->a, froze, &r, &e), 0);
		if (i < 2)
			assert_int_equal(agent_shutdown(f->a, i, froze, &off, &e), 0);
		else
			assert_int_equal(agent_tell(f->a, "words", froze, &off, &e), 0);
		sync_answered(f);
		assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-freeze\"}");
		line_says(f, "{\"error\": {\"desc\": \"no\"}}\n");
		sync_answered(f);
		assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-thaw\"}");
		line_says(f, "{\"return\": 1}\n");
		while (off > 0)
			loop_run_once(f->loop, 10 * MS);
		assert_int_equal(off, -EBUSY);
		assert_true(silent(f));
	}
	assert_int_equal(agent_freeze(f->a, froze, &r, &e), 0);
	assert_int_equal(agent_addresses(f->a, &all, froze, &looked, &e), 0);
	sync_answered(f);
	(void)heard(f);
	line_says(f, "{\"error\": {\"desc\": \"no\"}}\n");
	sync_answered(f);
	(void)heard(f);
	line_says(f, "{\"return\": 1}\n");
	sync_answered(f);
	assert_string_equal(heard(f), "{\"execute\":\"guest-network-get-interfaces\"}");
	line_says(f, "{\"return\": []}\n");
	while (looked > 0)
		loop_run_once(f->loop, 10 * MS);
	assert_int_equal(looked, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_answer_comes_in_the_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_answers_are_complete, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_long_answer_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_answers_are_reported, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_answer_is_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_commands_take_turns_and_are_limited, setup, teardown),
		cmocka_unit_test_setup_teardown(test_command_after_an_answer_needs_no_sync, setup, teardown),
		cmocka_unit_test_setup_teardown(test_answer_of_a_restored_agent_is_of_no_later_command, setup, teardown),
		cmocka_unit_test_setup_teardown(test_command_that_waited_too_long_is_not_sent, setup, teardown),
		cmocka_unit_test_setup_teardown(test_freeze_does_not_wait_for_a_slow_command, setup_brisk, teardown),
		cmocka_unit_test_setup_teardown(test_freeze_does_not_wait_for_a_slow_command_that_was_not_sent_yet, setup_brisk, teardown),
		cmocka_unit_test_setup_teardown(test_shutdown_that_waited_too_long_is_not_sent, setup_hasty, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
