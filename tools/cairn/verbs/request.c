/* request-permission, requests, approve, deny and approval-rule: requests for roles, and acts that wait for the
 * approval of another user. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/duration.h"
#include "base/util.h"
#include "tools/cairn/output.h"
#include "tools/cairn/user.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS 1000000000LL
#define EXPIRE_MAX_S (30 * 24 * 3600)
#define WAIT_LOOK_NS 500000000L /* interval of looks with --wait */

/* Parse the number of a request. Returns 0; CLI_USAGE after an error message. */
static int number_parse(struct cli *c, const char *text, int64_t *ret)
{
	char *end = NULL;

	*ret = *text >= '0' && *text <= '9' ? strtoll(text, &end, 10) : 0;
	return end && !*end && *ret > 0 && *ret < UINT32_MAX ? 0 : cli_usage(c, "\"%s\" is no number of a request; see cairn requests", text);
}

static int requests_fetch(struct cli *c, int64_t id, bool all, struct json_object **ret, struct err *e)
{
	struct json_object *args = json_object_new_object();

	if (id)
		js_put_int(args, "id", id);
	if (all)
		js_put_bool(args, "all", true);
	return cli_fetch_all(c, "query-requests", args, "requests", "after", ret, NULL, e);
}

/* ---- listing ---- */

static void requests_print(struct json_object *all)
{
	static const char *const heads[] = { "Request", "State", "User", "Domain", "Command", "Asked", "Expires", "By", "Reason" };
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		char id[24], user[64], by[64], asked[TIME_TEXT_BYTES], expires[TIME_TEXT_BYTES];

		snprintf(id, sizeof(id), "%lld", (long long)js_get_int(o, "id", 0));
		user_name(false, js_get_int(o, "user", -1), user, sizeof(user));
		user_name(false, js_get_int(o, "by", -1), by, sizeof(by));
		table_add(&t, (const char *const[]){ id, js_get_str_or(o, "state", "-"), user, js_get_str_or(o, "vm", "-"),
			js_get_str_or(o, "command", "-"), time_text(js_get_int(o, "asked", 0), false, asked),
			time_text(js_get_int(o, "expires", 0), false, expires), js_get(o, "by") ? by : "-", js_get_str_or(o, "reason", "-") });
	}
	table_finish(&t, stdout);
}

static void text_line(const char *label, const char *text)
{
	if (text)
		label_print(stdout, label, "%s", text);
}

static void time_line(const char *label, int64_t ns)
{
	char text[TIME_TEXT_BYTES];

	if (ns)
		label_print(stdout, label, "%s", time_text(ns, false, text));
}

static void user_line(const char *label, struct json_object *o, const char *key)
{
	char name[64];

	user_name(false, js_get_int(o, key, -1), name, sizeof(name));
	if (js_get(o, key))
		label_print(stdout, label, "%s", name);
}

/* Print the effect of the command according to its dry run as this user. */
static void dry_run_print(struct cli *c, struct json_object *o)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = NULL;
	struct err e;

	if (!js_get_bool(o, "dry-run", false) || strcmp(js_get_str_or(o, "state", ""), "waiting") != 0 ||
		json_object_deep_copy(js_get(o, "arguments"), &args, NULL) < 0)
		return;
	js_put_str(args, "vm", js_get_str(o, "vm-uuid"));
	js_put_bool(args, "dry-run", true);
	if (cli_execute(c, js_get_str_or(o, "command", ""), args, &answer, NULL, &e) < 0)
		label_print(stdout, "Dry run:", "not possible: %s", e.msg);
	else
		label_print(stdout, "Dry run:", "%s", json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static void request_print(struct cli *c, struct json_object *o)
{
	label_print(stdout, "Request:", "%lld", (long long)js_get_int(o, "id", 0));
	text_line("State:", js_get_str(o, "state"));
	user_line("User:", o, "user");
	text_line("Domain:", js_get_str(o, "vm"));
	text_line("Command:", js_get_str(o, "command"));
	label_print(stdout, "Arguments:", "%s", json_object_to_json_string_ext(js_get(o, "arguments"),
		JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	text_line("Does:", js_get_str(o, "does"));
	dry_run_print(c, o);
	text_line("Note:", js_get_str(o, "note"));
	time_line("Asked:", js_get_int(o, "asked", 0));
	time_line("Expires:", js_get_int(o, "expires", 0));
	user_line("Answered by:", o, "by");
	text_line("Reason:", js_get_str(o, "reason"));
	text_line("Job:", js_get_str(o, "job"));
	time_line("Ended:", js_get_int(o, "ended", 0));
	text_line("Detail:", js_get_str(o, "detail"));
}

static bool is_one_of(struct json_object *o, const char *words)
{
	return words_have(words, '|', js_get_str_or(o, "state", ""));
}

/* Wait until the request has ended, or its asker has to act. An approved request has a detail if its act was refused.
 * Returns the exit code. */
static int request_wait(struct cli *c, int64_t id, struct json_object **all)
{
	static const struct timespec pause = { .tv_nsec = WAIT_LOOK_NS };
	struct json_object *o = json_object_array_get_idx(*all, 0);
	struct err e;

	while (o && is_one_of(o, "waiting|running")) {
		nanosleep(&pause, NULL);
		json_object_put(*all);
		*all = NULL;
		if (requests_fetch(c, id, true, all, &e) < 0)
			return cli_fail(&e, "Failed to wait for request %lld", (long long)id);
		o = json_object_array_get_idx(*all, 0);
	}
	return o && (is_one_of(o, "done") || (is_one_of(o, "approved") && !js_get(o, "detail"))) ? CLI_OK : CLI_FAILURE;
}

int verb_requests(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	bool wait = option_flag(c, "wait");
	struct err e;
	int64_t id = 0;
	int r = c->npos ? number_parse(c, c->pos[0], &id) : 0;

	if (!r && wait && !id)
		r = cli_usage(c, "--wait needs the number of a request");
	if (r)
		return r;
	if (requests_fetch(c, id, option_flag(c, "all"), &all, &e) < 0)
		return cli_fail(&e, "Failed to list requests");
	if (id && !json_object_array_length(all)) {
		err_set(&e, -1, ERR_NOT_FOUND, "there is no request %lld, or you may not see it. Next: cairn requests --all", (long long)id);
		return cli_fail(&e, "Failed to show the request");
	}
	if (wait)
		r = request_wait(c, id, &all);
	if (c->format != CLI_TABLE)
		cli_rows_print(c, all);
	else if (id && all && json_object_array_length(all))
		request_print(c, json_object_array_get_idx(all, 0));
	else if (all)
		requests_print(all);
	return r;
}

/* ---- asking for a role ---- */

int verb_request_permission(struct cli *c)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = json_object_new_object();
	struct err e;

	js_put_str(args, "role", c->pos[0]);
	js_put_str(args, "vm", c->npos > 1 ? c->pos[1] : NULL);
	js_put_str(args, "note", option_value(c, "reason"));
	if (cli_execute(c, "request-permission", args, &answer, NULL, &e) < 0)
		return cli_fail(&e, "Failed to ask for the role %s", c->pos[0]);
	say("Request %lld waits for an admin; see it: cairn requests %lld\n", (long long)js_get_int(answer, "request", 0),
		(long long)js_get_int(answer, "request", 0));
	return CLI_OK;
}

/* ---- answering ---- */

static int request_answer(struct cli *c, const char *command, const char *what)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args;
	struct err e;
	int64_t id;
	int r = number_parse(c, c->pos[0], &id);

	if (r)
		return r;
	args = json_object_new_object();
	js_put_int(args, "id", id);
	js_put_str(args, "reason", option_value(c, "reason"));
	if (cli_execute(c, command, args, &answer, NULL, &e) < 0)
		return cli_fail(&e, "Failed to %s request %lld", what, (long long)id);
	say("Request %lld is %s\n", (long long)id, js_get_str_or(answer, "state", "answered"));
	return CLI_OK;
}

int verb_approve(struct cli *c)
{
	return request_answer(c, "request-approve", "approve");
}

int verb_deny(struct cli *c)
{
	return request_answer(c, "request-deny", "deny");
}

/* ---- rules ---- */

static int rules_list(struct cli *c)
{
	static const char *const heads[] = { "Domain", "Kind", "Name", "Acts", "Expires after" };
	CLEANUP_JS struct json_object *answer = NULL, *all = NULL;
	struct table t;
	struct err e;

	if (cli_fetch_all(c, "query-approval-rules", json_object_new_object(), "rules", "after", &all, &answer, &e) < 0)
		return cli_fail(&e, "Failed to list the rules of approval");
	if (c->format != CLI_TABLE) {
		cli_rows_print(c, all);
		return CLI_OK;
	}
	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i), *acts = js_get(o, "acts");
		int64_t user = js_get_int(o, "user", -1), group = js_get_int(o, "group", -1);
		char name[64], length[DURATION_TEXT], words[256] = "";

		user_name(group >= 0, MAX(user, group), name, sizeof(name));
		for (size_t k = 0; k < json_object_array_length(acts); k++)
			snprintf(words + strlen(words), sizeof(words) - strlen(words), "%s%s", k ? "," : "",
				json_object_get_string(json_object_array_get_idx(acts, k)));
		duration_print_units(js_get_int(o, "expire", 0) / NS, "dhms", length);
		table_add(&t, (const char *const[]){ js_get_str_or(o, "vm", "all"), group >= 0 ? "group" : user >= 0 ? "user" : "all",
			MAX(user, group) >= 0 ? name : "-", words, length });
	}
	table_finish(&t, stdout);
	if (js_get_str(answer, "unknown"))
		fprintf(stderr, "warning: the rules could not be loaded: %s\n", js_get_str(answer, "unknown"));
	return CLI_OK;
}

static int rule_put(struct cli *c, struct json_object *args)
{
	const char *acts = option_value(c, "acts"), *length = option_value(c, "expire");
	struct json_object *list = json_object_new_array();
	char who[USER_WORDS];
	int64_t s = 0;

	js_put(args, "acts", list);
	for (const char *p = acts; p; p = *p ? p + 1 : NULL) {
		size_t n = strcspn(p, ",");

		json_object_array_add(list, json_object_new_string_len(p, (int)n));
		p += n;
		if (!*p)
			break;
	}
	if (length && (duration_parse_units(length, strlen(length), "dhms", EXPIRE_MAX_S, &s) < 0 || !s))
		return cli_usage(c, "--expire must be a time such as 30m, 8h or 2d, at most 30d, not \"%s\"", length);
	if (length)
		js_put_int(args, "expire", s * NS);
	js_put_str(args, "vm", c->npos ? c->pos[0] : NULL);
	if (option_value(c, "user") && option_value(c, "group"))
		return cli_usage(c, "%s takes one of --user and --group", c->verb->name);
	return user_option_put(c, args, who);
}

int verb_approval_rule(struct cli *c)
{
	bool removes = option_flag(c, "remove");
	struct json_object *args;
	struct err e;
	int r;

	if (!removes && !option_value(c, "acts")) {
		if (c->npos || option_value(c, "user") || option_value(c, "group") || option_value(c, "expire"))
			return cli_usage(c, "approval-rule needs --acts or --remove, or nothing else to list the rules");
		return rules_list(c);
	}
	if (removes && option_value(c, "acts"))
		return cli_usage(c, "approval-rule takes one of --acts and --remove");
	args = json_object_new_object();
	r = rule_put(c, args);
	if (r) {
		json_object_put(args);
		return r;
	}
	if (cli_execute(c, "approval-rule-set", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to %s the rule", removes ? "remove" : "set");
	say(removes ? "Rule removed\n" : "Rule set\n");
	return CLI_OK;
}
