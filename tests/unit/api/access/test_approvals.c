/* Rules and requests of approval: which commands are which acts, whom a rule binds, bounds, and the stored file. */
#include "api/access/approvals.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HOUR_NS (3600 * 1000000000LL)

static const gid_t groups[] = { 20, 30 };
static const struct peer alice = { 1000, 10, groups, 2 };
static const struct peer bob = { 1001, 11, NULL, 0 };
static const uint8_t WEB[16] = { 1 }, DB[16] = { 2 };

static unsigned acts_of(enum dialect d, const char *command, const char *text)
{
	CLEANUP_JS struct json_object *args = NULL;

	assert_int_equal(js_parse(text, strlen(text), "args", &args, NULL), 0);
	return approval_acts_of(d, command, args, NULL);
}

static void test_shutdown_is_what_the_definition_makes_of_it(void **state)
{
	struct definition d = { .shutdown_then = DEFINITION_DESTROY };
	struct json_object *args;
	unsigned destroy = approval_act_bit("destroy"), shutdown = approval_act_bit("shutdown");

	(void)state;
	assert_int_equal(approval_acts_of(DIALECT_DAEMON, "vm-shutdown", NULL, &d), shutdown | destroy);
	assert_int_equal(approval_acts_of(DIALECT_DAEMON, "vm-reboot", NULL, &d), shutdown);
	assert_int_equal(approval_acts_of(DIALECT_QEMU, "system_powerdown", NULL, &d), shutdown | destroy);
	args = json_object_new_object();
	json_object_object_add(args, "command-line", json_object_new_string("system_powerdown"));
	assert_int_equal(approval_acts_of(DIALECT_QEMU, "human-monitor-command", args, &d), shutdown | destroy);
	json_object_put(args);
	d.shutdown_then = DEFINITION_SAVE;
	assert_int_equal(approval_acts_of(DIALECT_DAEMON, "vm-shutdown", NULL, &d), shutdown);
}

static void test_commands_are_acts_in_both_dialects(void **state)
{
	unsigned destroy = approval_act_bit("destroy"), shutdown = approval_act_bit("shutdown");

	(void)state;
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-destroy", "{}"), destroy);
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-promote", "{}"), destroy);
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-shutdown", "{}"), shutdown);
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-shutdown", "{\"timeout\": 1}"), shutdown | destroy);
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-start", "{}"), 0);
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-start", "{\"force-boot\": true}"), destroy);
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-undefine", "{}"), approval_act_bit("undefine"));
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-undefine", "{\"managed-save\": true}"), approval_act_bit("undefine") | destroy);
	assert_int_equal(acts_of(DIALECT_DAEMON, "group-clone", "{}"), approval_act_bit("clone"));
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-dump", "{}"), approval_act_bit("dump"));
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-dump", "{\"then\": \"crash\"}"), approval_act_bit("dump") | destroy);
	assert_int_equal(acts_of(DIALECT_DAEMON, "vm-dump", "{\"then\": \"reset\"}"), approval_act_bit("dump") | approval_act_bit("reset"));
	assert_int_equal(acts_of(DIALECT_DAEMON, "snapshot-create", "{\"halt\": true}"), 0);
	assert_int_equal(acts_of(DIALECT_DAEMON, "snapshot-create", "{\"halt\": true, \"disks-only\": true}"), destroy);
	assert_int_equal(acts_of(DIALECT_DAEMON, "snapshot-delete", "{\"dry-run\": true}"), 0);
	assert_int_equal(acts_of(DIALECT_DAEMON, "snapshot-delete", "{\"dry-run\": false}"), approval_act_bit("snapshot-delete"));
	assert_int_equal(acts_of(DIALECT_QEMU, "snapshot-delete", "{}"), approval_act_bit("snapshot-delete"));
	assert_int_equal(acts_of(DIALECT_QEMU, "vm-destroy", "{}"), 0);
	assert_int_equal(acts_of(DIALECT_QEMU, "human-monitor-command", "{\"command-line\": \" \\t q \"}"), destroy);
	assert_int_equal(acts_of(DIALECT_QEMU, "human-monitor-command", "{\"command-line\": \"info status\"}"), 0);
	assert_int_equal(acts_of(DIALECT_QEMU, "human-monitor-command", "{\"command-line\": 5}"), 0);
	assert_int_equal(approval_act_bit("fly"), 0);
	assert_int_equal(approval_act_bit(NULL), 0);
	for (const char *p = approval_act_words(); *p; p += strspn(p, ", ")) {
		char word[32];

		snprintf(word, sizeof(word), "%.*s", (int)strcspn(p, ","), p);
		assert_true(approval_act_bit(word) != 0);
		p += strcspn(p, ",");
	}
}

static void test_rules_bind_users_groups_and_vms(void **state)
{
	struct approval_rule group = { .is_group = true, .id = 30, .of_vm = true, .uuid = { 1 }, .acts = 1, .expire_ns = HOUR_NS },
			     all = { .everyone = true, .acts = 2, .expire_ns = HOUR_NS };
	struct approvals t = { 0 };

	(void)state;
	assert_int_equal(approvals_set_rule(&t, &group), 0);
	assert_non_null(approvals_find_rule(&t, &alice, WEB, 1));
	assert_null(approvals_find_rule(&t, &alice, WEB, 2));
	assert_null(approvals_find_rule(&t, &alice, DB, 1));
	assert_non_null(approvals_find_rule(&t, &alice, NULL, 1)); /* all VMs, so also this one */
	assert_null(approvals_find_rule(&t, &bob, WEB, 1));
	assert_int_equal(approvals_set_rule(&t, &all), 0);
	assert_non_null(approvals_find_rule(&t, &bob, DB, 2));
	group.acts = 4;
	assert_int_equal(approvals_set_rule(&t, &group), 0);
	assert_int_equal(t.nrules, 2);
	assert_null(approvals_find_rule(&t, &alice, WEB, 1));
	group.acts = 0;
	assert_int_equal(approvals_set_rule(&t, &group), 0);
	assert_int_equal(approvals_set_rule(&t, &group), -ENOENT);
	for (unsigned i = 1; i < APPROVAL_RULES_MAX; i++)
		assert_int_equal(approvals_set_rule(&t, &(struct approval_rule){ .id = i, .acts = 1, .expire_ns = 1 }), 0);
	assert_int_equal(approvals_set_rule(&t, &(struct approval_rule){ .id = 9999, .acts = 1, .expire_ns = 1 }), -ENOSPC);
	approvals_done(&t);
}

static struct approval_request *request_new(uid_t uid, int64_t now_ns)
{
	struct approval_request *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	r->asker = rights_new(uid, uid, 0);
	r->args = json_object_new_object();
	r->asked_ns = now_ns;
	r->expires_ns = now_ns + HOUR_NS;
	r->by = -1;
	snprintf(r->command, sizeof(r->command), "vm-destroy");
	return r;
}

static int add(struct approvals *t, uid_t uid, int64_t now_ns, bool ends)
{
	struct approval_request *r = request_new(uid, now_ns);
	struct err e;
	int res = approvals_add(t, r, now_ns, &e);

	if (res < 0) {
		assert_int_equal(e.cls, ERR_QUOTA);
		approval_request_free(r);
	} else if (ends) {
		approval_end(r, APPROVAL_DENIED, NULL, now_ns);
	}
	return res;
}

static void test_requests_are_bounded(void **state)
{
	struct approvals t = { 0 };
	unsigned n = 0;

	(void)state;
	for (n = 0; n < APPROVAL_OPEN_MAX; n++)
		assert_int_equal(add(&t, 1000, 1, false), 0);
	assert_int_equal(add(&t, 1000, 1, false), -EDQUOT);
	assert_int_equal(add(&t, 1001, 1, false), 0);
	for (n = 0; n < APPROVAL_OPEN_MAX; n++)
		approval_end(t.requests[n], APPROVAL_DENIED, NULL, 1);
	for (n = APPROVAL_OPEN_MAX; n < APPROVAL_USER_MAX; n++)
		assert_int_equal(add(&t, 1000, 2, true), 0);
	assert_int_equal(add(&t, 1000, 3, true), -EDQUOT);
	assert_int_equal(add(&t, 1000, HOUR_NS + 1, true), 0); /* the oldest one goes */
	assert_int_equal(t.nrequests, APPROVAL_USER_MAX + 1);
	assert_null(approvals_find(&t, 1));
	assert_int_equal(t.requests[t.nrequests - 1]->id, t.last_id);
	/* Ended ones go after 30 days, open ones do not. */
	assert_int_equal(add(&t, 1002, APPROVAL_KEEP_NS + 2 * HOUR_NS, false), 0);
	assert_int_equal(t.nrequests, 2);
	for (uid_t uid = 2000; t.nrequests < APPROVAL_REQUESTS_MAX; uid++)
		assert_int_equal(add(&t, uid, APPROVAL_KEEP_NS + 2 * HOUR_NS, false), 0);
	assert_int_equal(add(&t, 1003, APPROVAL_KEEP_NS + 2 * HOUR_NS, false), -ENOSPC);
	approval_end(t.requests[5], APPROVAL_DENIED, NULL, APPROVAL_KEEP_NS + 2 * HOUR_NS);
	assert_int_equal(add(&t, 1003, APPROVAL_KEEP_NS + 2 * HOUR_NS, false), 0);
	approvals_done(&t);
}

static void test_clock_that_was_ahead_locks_nobody_out(void **state)
{
	const int64_t years = 3 * 365 * 24 * HOUR_NS;
	struct approvals t = { 0 };

	(void)state;
	for (unsigned n = 0; n < APPROVAL_USER_MAX; n++)
		assert_int_equal(add(&t, 1000, years, true), 0);
	assert_int_equal(add(&t, 1000, years - HOUR_NS / 2, true), -EDQUOT);
	assert_int_equal(add(&t, 1000, 1, true), 0);
	assert_int_equal(t.nrequests, 1);
	approvals_done(&t);
}

static int add_grant(struct approvals *t, uid_t uid, int64_t now_ns, bool stranger, bool ends)
{
	struct approval_request *r = request_new(uid, now_ns);
	struct err e;
	int res;

	snprintf(r->command, sizeof(r->command), APPROVAL_GRANT);
	r->stranger = stranger;
	res = approvals_add(t, r, now_ns, &e);
	if (res < 0)
		approval_request_free(r);
	else if (ends)
		approval_end(r, APPROVAL_DENIED, NULL, now_ns);
	return res;
}

static void test_users_without_a_role_share_their_room(void **state)
{
	struct approvals t = { 0 };
	unsigned n;

	(void)state;
	for (n = 0; n < APPROVAL_STRANGERS_OPEN_MAX; n++)
		assert_int_equal(add_grant(&t, 3000 + n, 1, true, false), 0);
	assert_int_equal(add_grant(&t, 4000, 1, true, false), -EDQUOT);
	for (n = 0; n < APPROVAL_GRANTS_MAX; n++)
		assert_int_equal(add_grant(&t, 1000, 1, false, false), 0);
	assert_int_equal(add_grant(&t, 1000, 1, false, false), -EDQUOT);
	for (n = 0; n < t.nrequests; n++)
		approval_end(t.requests[n], APPROVAL_DENIED, NULL, 1);
	for (n = APPROVAL_STRANGERS_OPEN_MAX; n < APPROVAL_STRANGERS_HOUR_MAX; n++)
		assert_int_equal(add_grant(&t, 5000 + n, 2, true, true), 0);
	assert_int_equal(add_grant(&t, 4000, 3, true, true), -EDQUOT);
	for (int64_t now = 2 * HOUR_NS; now < 20 * HOUR_NS; now += 2 * HOUR_NS)
		for (n = 0; n < APPROVAL_STRANGERS_HOUR_MAX; n++)
			assert_int_equal(add_grant(&t, 7000 + n, now, true, true), 0);
	assert_int_equal(t.nrequests, APPROVAL_STRANGERS_MAX + APPROVAL_GRANTS_MAX); /* those of others stay */
	approvals_done(&t);
}

static void test_file_keeps_rules_and_requests(void **state)
{
	struct approval_rule rule = { .id = 1000, .of_vm = true, .uuid = { 7 }, .acts = 5, .expire_ns = HOUR_NS };
	CLEANUP_JS struct json_object *file = NULL, *again = NULL;
	struct approvals t = { 0 }, u = { 0 };

	(void)state;
	assert_int_equal(approvals_set_rule(&t, &rule), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(add(&t, 1000, 5, false), 0);
	t.requests[1]->state = APPROVAL_RUNNING;
	t.requests[2]->state = APPROVAL_RUNNING;
	snprintf(t.requests[2]->job, sizeof(t.requests[2]->job), "job-1");
	file = approvals_to_json(&t);
	assert_int_equal(approvals_parse(&u, file, 9), 0);
	assert_int_equal(u.nrules, 1);
	assert_memory_equal(u.rules[0].uuid, rule.uuid, 16);
	assert_int_equal(u.rules[0].acts, 5);
	assert_int_equal(u.nrequests, 3);
	assert_int_equal(u.requests[0]->state, APPROVAL_WAITING);
	assert_int_equal(u.requests[1]->state, APPROVAL_FAILED); /* it may have run */
	assert_int_equal(u.requests[1]->ended_ns, 9);
	assert_int_equal(u.requests[2]->state, APPROVAL_RUNNING);
	assert_int_equal(u.last_id, 3);
	assert_ptr_equal(approvals_find_same(&u, 1000, "vm-destroy", u.requests[0]->args, NULL), u.requests[0]);
	assert_null(approvals_find_same(&u, 1000, "vm-destroy", u.requests[0]->args, WEB));
	approvals_done(&u);
	approvals_done(&t);
}

static void test_invalid_rule_makes_the_file_invalid(void **state)
{
	static const char *const bad[] = { "{}", "{\"rules\": 5}", "{\"rules\": [5]}", "{\"rules\": [{\"acts\": []}]}",
		"{\"rules\": [{\"acts\": [\"fly\"]}]}", "{\"rules\": [{\"acts\": [\"destroy\"], \"user\": \"x\"}]}",
		"{\"rules\": [{\"acts\": [\"destroy\"], \"user\": 4294967295}]}", "{\"rules\": [{\"acts\": [\"destroy\"], \"vm-uuid\": 3}]}",
		"{\"rules\": [{\"acts\": [\"destroy\"], \"expire\": -1}]}" };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		CLEANUP_JS struct json_object *o = NULL;
		struct approvals t = { 0 };

		assert_int_equal(js_parse(bad[i], strlen(bad[i]), "file", &o, NULL), 0);
		assert_int_equal(approvals_parse(&t, o, 1), -EINVAL);
		approvals_done(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shutdown_is_what_the_definition_makes_of_it),
		cmocka_unit_test(test_commands_are_acts_in_both_dialects),
		cmocka_unit_test(test_rules_bind_users_groups_and_vms),
		cmocka_unit_test(test_requests_are_bounded),
		cmocka_unit_test(test_clock_that_was_ahead_locks_nobody_out),
		cmocka_unit_test(test_users_without_a_role_share_their_room),
		cmocka_unit_test(test_file_keeps_rules_and_requests),
		cmocka_unit_test(test_invalid_rule_makes_the_file_invalid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
