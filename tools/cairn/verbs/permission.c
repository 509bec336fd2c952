/* grant, revoke and permissions: change and list the roles of users and groups. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/output.h"
#include "tools/cairn/user.h"

#include <stdio.h>

/* Add --user or --group as a number. Returns 0; CLI_USAGE after an error message. */
static int subject_put(struct cli *c, struct json_object *args, char who[96])
{
	const char *user = option_value(c, "user"), *group = option_value(c, "group");
	int64_t n = user || group ? user_number(!user, user ? user : group) : -1;

	if (!user == !group)
		return cli_usage(c, "%s needs --user or --group", c->verb->name);
	if (n < 0)
		return cli_usage(c, "unknown %s \"%s\"", user ? "user" : "group",
			user ? user : group);
	js_put_int(args, user ? "user" : "group", n);
	snprintf(who, 96, "%s %.80s", user ? "user" : "group", user ? user : group);
	return 0;
}

static int permission_act(struct cli *c, const char *command, const char *role, const char *vm)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = json_object_new_object();
	char who[96];
	struct err e;
	int r = subject_put(c, args, who);

	if (r) {
		json_object_put(args);
		return r;
	}
	js_put_str(args, "role", role);
	js_put_str(args, "vm", vm);
	if (cli_execute(c, command, args, &answer, NULL, &e) < 0)
		return cli_fail(&e, "Failed to change the permissions of %s", who);
	warnings_print(js_get_array(answer, "warnings"));
	if (role)
		printf("%s is now %s of %s\n", who, role, vm ? vm : "all domains");
	else
		printf("%s no longer has a role of its own for %s\n", who,
			vm ? vm : "all domains");
	return CLI_OK;
}

int verb_grant(struct cli *c)
{
	return permission_act(c, "permission-grant", c->pos[0], c->npos > 1 ? c->pos[1] : NULL);
}

int verb_revoke(struct cli *c)
{
	return permission_act(c, "permission-revoke", NULL, c->npos ? c->pos[0] : NULL);
}

static void row_add(struct table *t, struct json_object *o)
{
	int64_t user = js_get_int(o, "user", -1), group = js_get_int(o, "group", -1);
	char name[64];

	user_name(group >= 0, group >= 0 ? group : user, name, sizeof(name));
	table_add(t, (const char *const[]){ group >= 0 ? "group" : "user", name,
		js_get_str_or(o, "role", "-"), js_get_str_or(o, "vm", "all") });
}

int verb_permissions(struct cli *c)
{
	static const char *const heads[] = { "Kind", "Name", "Role", "Domain" };
	CLEANUP_JS struct json_object *all = NULL;
	struct table t;
	struct err e;

	if (cli_fetch_all(c, "query-permissions", json_object_new_object(), "permissions", "from", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to list permissions");
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, all);
		return CLI_OK;
	}
	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(all); i++)
		row_add(&t, json_object_array_get_idx(all, i));
	table_finish(&t, stdout);
	return CLI_OK;
}
