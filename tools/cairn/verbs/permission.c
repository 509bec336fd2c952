/* grant, revoke, permissions and permissions-review: change and list the roles of users and groups. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/output.h"
#include "tools/cairn/user.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int permission_act(struct cli *c, const char *command, const char *role, const char *vm)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = json_object_new_object();
	char who[USER_WORDS];
	struct err e;
	int r = !option_value(c, "user") == !option_value(c, "group") ? cli_usage(c, "%s needs --user or --group", c->verb->name) :
		user_option_put(c, args, who);

	if (r) {
		json_object_put(args);
		return r;
	}
	js_put_str(args, "role", role);
	js_put_str(args, "vm", vm);
	if (cli_execute(c, command, args, &answer, NULL, &e) < 0)
		return cli_fail(&e, "Failed to change the permissions of %s", who);
	warnings_print(js_get_array(answer, "warnings"));
	if (role && !strcmp(c->verb->name, "revoke"))
		say("%s no longer has the role %s%s%s\n", who, role, vm ? " for " : "", vm ? vm : "");
	else if (role && !strcmp(role, "creator"))
		say("%s may now define domains, and owns those\n", who);
	else if (role)
		say("%s is now %s of %s\n", who, role, vm ? vm : "all domains");
	else
		say("%s no longer has a role of its own for %s\n", who,
			vm ? vm : "all domains");
	return CLI_OK;
}

int verb_grant(struct cli *c)
{
	return permission_act(c, "permission-grant", c->pos[0], c->npos > 1 ? c->pos[1] : NULL);
}

int verb_revoke(struct cli *c)
{
	return permission_act(c, "permission-revoke", option_value(c, "role"), c->npos ? c->pos[0] : NULL);
}

/* A creator's role is for the domains that the user makes. */
static const char *domain_shown(struct json_object *o)
{
	return js_get_str_or(o, "vm", !strcmp(js_get_str_or(o, "role", ""), "creator") ? "own" : "all");
}

static void row_add(struct table *t, struct json_object *o)
{
	int64_t user = js_get_int(o, "user", -1), group = js_get_int(o, "group", -1);
	char name[64];

	user_name(group >= 0, group >= 0 ? group : user, name, sizeof(name));
	table_add(t, (const char *const[]){ group >= 0 ? "group" : "user", name,
		js_get_str_or(o, "role", "-"), domain_shown(o) });
}

int verb_permissions(struct cli *c)
{
	static const char *const heads[] = { "Kind", "Name", "Role", "Domain" };
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if (cli_fetch_all(c, "query-permissions", json_object_new_object(), "permissions", "from", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to list permissions");
	return cli_rows_show(c, all, heads, ARRAY_SIZE(heads), row_add);
}

/* ---- permissions-review ---- */

#define DAY_NS (24 * 3600 * 1000000000LL)
#define DAYS_MAX 36500
#define DAYS_HINT 90 /* roles that were not used for so many days are mentioned */

static void review_row_add(struct table *t, struct json_object *o)
{
	int64_t user = js_get_int(o, "user", -1), group = js_get_int(o, "group", -1), since = js_get_int(o, "since", 0),
		by = js_get_int(o, "by", -1), used = js_get_int(o, "last-used", 0);
	bool socket = js_get_bool(o, "socket", false);
	char name[64], giver[64], since_text[TIME_TEXT_BYTES] = "-", used_text[TIME_TEXT_BYTES], unused[24];

	user_name(group >= 0, group >= 0 ? group : user, name, sizeof(name));
	user_name(false, by, giver, sizeof(giver));
	if (since)
		time_text(since, false, since_text);
	if (used)
		time_text(used, false, used_text);
	snprintf(unused, sizeof(unused), "%lld d", (long long)(js_get_int(o, "unused", 0) / DAY_NS));
	table_add(t, (const char *const[]){ group >= 0 ? "group" : "user", name, js_get_str_or(o, "role", "-"), domain_shown(o),
		since_text, socket ? "(socket)" : by < 0 ? "-" : giver, used ? used_text : socket ? "-" : "never", socket ? "-" : unused });
}

static int review_print(struct json_object *all, bool limited)
{
	static const char *const heads[] = { "Kind", "Name", "Role", "Domain", "Since", "By", "Last used", "Unused" };
	size_t n = json_object_array_length(all), old = 0;
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		review_row_add(&t, o);
		old += js_get_int(o, "unused", 0) >= DAYS_HINT * DAY_NS;
	}
	table_finish(&t, stdout);
	if (old && !limited)
		printf("Nobody used %zu of these roles for %d days; list them: cairn permissions-review --unused-for %d; remove one: cairn revoke\n",
			old, DAYS_HINT, DAYS_HINT);
	return CLI_OK;
}

int verb_permissions_review(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	const char *text = option_value(c, "unused-for");
	struct json_object *args;
	char *end = NULL;
	unsigned long days = text && *text >= '0' && *text <= '9' ? strtoul(text, &end, 10) : 0;
	struct err e;

	if (text && (!end || *end || days > DAYS_MAX))
		return cli_usage(c, "--unused-for takes a number of days up to %d, such as 90, not \"%s\"", DAYS_MAX, text);
	args = json_object_new_object();
	if (text)
		js_put_int(args, "unused-for", (int64_t)days * DAY_NS);
	if (cli_fetch_all(c, "query-permissions-review", args, "permissions", "from", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to review permissions");
	if (c->format == CLI_TABLE)
		return review_print(all, text);
	cli_rows_print(c, all);
	return CLI_OK;
}
