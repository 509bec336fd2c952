/* groups: a user's present groups come from a program, whose answer is used for a while by all who ask. A program that
 * fails or hangs leaves the user without supplementary groups, and the loop goes on. */
#include "api/access/groups.h"
#include "api/access/rights.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/loop.h"
#include "tests/unit/lingering.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SECOND_NS 1000000000ULL
#define HOUR_NS (3600 * (int64_t)SECOND_NS)
#define USER 65533

/* The clock of groups.c stands, ahead of the loop's: answers become stale, and look-ups take too long, only when a test
 * says so. */
static uint64_t begin_ns;
static int64_t ahead_ns;
uint64_t __real_loop_now_ns(void);
uint64_t __wrap_loop_now_ns(void);
uint64_t __wrap_loop_now_ns(void)
{
	return begin_ns + (uint64_t)ahead_ns;
}

/* Return whether a killed process stays, like a process that is stuck in a file system. */
static bool deaf;
static unsigned kills;
int __real_pidfd_send_signal(int fd, int sig, siginfo_t *si, unsigned flags);
int __wrap_pidfd_send_signal(int fd, int sig, siginfo_t *si, unsigned flags);
int __wrap_pidfd_send_signal(int fd, int sig, siginfo_t *si, unsigned flags)
{
	kills += sig == SIGKILL;
	return deaf ? 0 : __real_pidfd_send_signal(fd, sig, si, flags);
}

struct fixture {
	char dir[96], program[128], answer[128], runs[128];
	struct loop *loop;
	struct groups *groups;
};

static void put(const char *path, const char *text, mode_t mode)
{
	assert_int_equal(file_write_atomic(path, text, strlen(text), mode, NULL), 0);
}

/* A program that counts its runs and prints the content of a file. */
static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char script[512];
	struct err e;

	begin_ns = __real_loop_now_ns();
	ahead_ns = HOUR_NS;
	deaf = false;
	snprintf(f->dir, sizeof(f->dir), "%s/cairn-groups-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->program, sizeof(f->program), "%s/program", f->dir);
	snprintf(f->answer, sizeof(f->answer), "%s/answer", f->dir);
	snprintf(f->runs, sizeof(f->runs), "%s/runs", f->dir);
	snprintf(script, sizeof(script), "#!/bin/sh\necho \"$@\" >>%s\n. %s\n", f->runs, f->answer);
	put(f->program, script, 0700);
	put(f->runs, "", 0600);
	assert_int_equal(loop_new(8, &f->loop, &e), 0);
	f->groups = groups_new(f->loop, f->program);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	groups_free(f->groups);
	loop_free(f->loop);
	unlink(f->program);
	unlink(f->answer);
	unlink(f->runs);
	rmdir(f->dir);
	free(f);
	return 0;
}

static unsigned runs(const struct fixture *f)
{
	CLEANUP_FREE char *text = NULL;
	unsigned n = 0;
	size_t len;

	assert_int_equal(file_read(f->runs, 4096, &text, &len, NULL), 0);
	for (size_t i = 0; i < len; i++)
		n += text[i] == '\n';
	return n;
}

struct asker {
	unsigned answers;
	gid_t gid;
	char groups[64]; /* "1 2" */
	char note[GROUPS_NOTE_BYTES];
	struct groups_ask *ask;
};

static void answered(void *opaque, const struct rights *now, const char *note)
{
	struct asker *a = opaque;
	size_t at = 0;

	assert_int_equal(now->uid, USER);
	a->answers++;
	a->gid = now->gid;
	a->groups[0] = 0;
	for (size_t i = 0; i < now->ngroups && at < sizeof(a->groups); i++)
		at += (size_t)snprintf(a->groups + at, sizeof(a->groups) - at, "%s%u", i ? " " : "", now->groups[i]);
	snprintf(a->note, sizeof(a->note), "%s", note);
	a->ask = NULL;
}

/* Ask for the user who was in group 7, the primary one, and in 8 and 9. */
static void ask(struct fixture *f, struct asker *a)
{
	struct rights *r = rights_new(USER, 7, 2);

	*a = (struct asker){ 0 };
	r->groups[0] = 8;
	r->groups[1] = 9;
	groups_ask(f->groups, r, answered, a, &a->ask);
	assert_true(!a->ask == (a->answers == 1));
	free(r);
}

static void await(struct fixture *f, const struct asker *a)
{
	while (!a->answers)
		loop_run_once(f->loop, SECOND_NS);
	assert_int_equal(a->answers, 1);
}

static struct asker ask_with(struct fixture *f, const char *script)
{
	struct asker a;

	put(f->answer, script, 0600);
	ask(f, &a);
	await(f, &a);
	return a;
}

static void test_present_groups_replace_recorded_ones(void **state)
{
	struct asker a = ask_with(*state, "echo groups 7 8 9 10");

	assert_int_equal(a.gid, 7);
	assert_string_equal(a.groups, "7 8 9 10");
	assert_string_equal(a.note, "");
}

/* The recorded primary group may be one of the others, after newgrp. */
static void test_recorded_primary_group_stays_while_user_is_in_it(void **state)
{
	struct asker a = ask_with(*state, "echo groups 20 7 8 9");

	assert_int_equal(a.gid, 7);
	assert_string_equal(a.note, "");
}

static void test_lost_groups_are_named(void **state)
{
	struct asker a = ask_with(*state, "echo groups 20 8");

	assert_int_equal(a.gid, 20);
	assert_string_equal(a.groups, "20 8");
	assert_string_equal(a.note, " and was in groups 7, 9 then, but is not now; let root add the user to the groups again");
}

static void test_unknown_user_has_no_supplementary_groups(void **state)
{
	struct asker a = ask_with(*state, "echo none");

	assert_int_equal(a.gid, 7);
	assert_string_equal(a.groups, "");
	assert_string_equal(a.note, " and was in groups 8, 9 then; the user database does not know the user, so only group 7 counts");
}

/* A script, and what the note says about it. */
static const struct {
	const char *script, *why;
} bad[] = {
	{ "echo error the user\\'s entry: Input/output error", "the user's entry: Input/output error" },
	{ "printf 'groups 7 8'", "ended without an answer" },
	{ "exit 1", "ended without an answer" },
	{ "kill -9 $$", "ended without an answer" },
	{ "echo", "malformed answer" },
	{ "echo groups", "malformed answer" },
	{ "echo groups -1", "malformed answer" },
	{ "echo groups 7 x", "malformed answer" },
	{ "echo groups 7,8", "malformed answer" },
	{ "echo 'groups 7  8'", "malformed answer" },
	{ "echo groups 4294967295", "malformed answer" },
	{ "echo groups 7 99999999999999999999999", "malformed answer" },
	{ "echo groups $(seq 16385)", "malformed answer" },
	{ "seq 100000", "ended without an answer" },
};

static void test_failed_look_up_leaves_primary_group_only(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct asker a = ask_with(f, bad[i].script);

		if (a.gid != 7 || a.groups[0] || !strstr(a.note, bad[i].why) || strncmp(a.note, "; the user's other groups", 25))
			fail_msg("%s: %u, %s, %s", bad[i].script, a.gid, a.groups, a.note);
		ahead_ns += (int64_t)GROUPS_FRESH_NS;
	}
}

static void test_missing_program_fails_look_up(void **state)
{
	struct fixture *f = *state;
	struct asker a;

	unlink(f->program);
	ask(f, &a);
	await(f, &a);
	assert_string_equal(a.groups, "");
	assert_non_null(strstr(a.note, "cairn-groups cannot be run"));
}

static void test_askers_share_one_look_up(void **state)
{
	struct fixture *f = *state;
	struct asker a, b, c, gone;

	put(f->answer, "echo groups 7 8 9", 0600);
	ask(f, &a);
	ask(f, &gone);
	ask(f, &b);
	groups_ask_free(gone.ask);
	await(f, &a);
	await(f, &b);
	assert_int_equal(gone.answers, 0);
	ask(f, &c);
	assert_int_equal(c.answers, 1); /* before the call returned */
	assert_string_equal(c.groups, "7 8 9");
	assert_int_equal(runs(f), 1);
}

static void test_answer_is_used_until_it_is_stale(void **state)
{
	struct fixture *f = *state;
	struct asker a = ask_with(f, "echo groups 7 8 9");

	put(f->answer, "echo groups 7", 0600);
	ahead_ns += (int64_t)(GROUPS_FRESH_NS / 2);
	ask(f, &a);
	assert_int_equal(a.answers, 1);
	assert_string_equal(a.groups, "7 8 9");
	ahead_ns += (int64_t)(GROUPS_FRESH_NS / 2);
	ask(f, &a);
	assert_int_equal(a.answers, 0);
	await(f, &a);
	assert_string_equal(a.groups, "7");
	assert_int_equal(runs(f), 2);
}

static void test_failure_is_not_repeated_at_once(void **state)
{
	struct fixture *f = *state;
	struct asker a = ask_with(f, "exit 1");

	put(f->answer, "echo groups 7 8 9", 0600);
	ask(f, &a);
	assert_int_equal(a.answers, 1);
	assert_string_equal(a.groups, "");
	ahead_ns += (int64_t)GROUPS_FRESH_NS;
	ask(f, &a);
	await(f, &a);
	assert_string_equal(a.groups, "7 8 9");
}

static void test_hanging_program_is_killed_and_askers_go_on(void **state)
{
	struct fixture *f = *state;
	struct asker a, b;
	unsigned n;
	pid_t pid;

	put(f->answer, "kill -STOP $$", 0600);
	ahead_ns = -(int64_t)GROUPS_TIMEOUT_NS; /* so the timer is due */
	deaf = true;
	kills = 0;
	ask(f, &a);
	assert_int_equal(a.answers, 0);
	pid = last_child(&n);
	assert_int_equal(n, 1);
	await(f, &a);
	assert_string_equal(a.groups, "");
	assert_non_null(strstr(a.note, "the user database does not answer; try again later"));
	assert_int_equal(kills, 1);
	/* While the process has not ended, nobody starts another one. */
	ahead_ns = HOUR_NS;
	ask(f, &b);
	assert_int_equal(b.answers, 1);
	assert_string_equal(b.groups, "");
	last_child(&n);
	assert_int_equal(n, 1);
	assert_int_equal(kill(pid, SIGKILL), 0);
	while (kill(pid, 0) == 0)
		loop_run_once(f->loop, SECOND_NS);
	put(f->answer, "echo groups 7 8 9", 0600);
	ask(f, &b);
	await(f, &b);
	assert_string_equal(b.groups, "7 8 9");
}

static void test_freed_groups_leave_no_process(void **state)
{
	struct fixture *f = *state;
	struct asker a;
	unsigned n;

	put(f->answer, "kill -STOP $$", 0600);
	ask(f, &a);
	assert_true(last_child(&n) > 0);
	groups_free(f->groups);
	f->groups = NULL;
	assert_true(wait(NULL) > 0);
	assert_int_equal(a.answers, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_present_groups_replace_recorded_ones, setup, teardown),
		cmocka_unit_test_setup_teardown(test_recorded_primary_group_stays_while_user_is_in_it, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lost_groups_are_named, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unknown_user_has_no_supplementary_groups, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failed_look_up_leaves_primary_group_only, setup, teardown),
		cmocka_unit_test_setup_teardown(test_missing_program_fails_look_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_askers_share_one_look_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_answer_is_used_until_it_is_stale, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failure_is_not_repeated_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hanging_program_is_killed_and_askers_go_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_freed_groups_leave_no_process, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
