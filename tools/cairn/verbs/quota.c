/* quota: list, set and remove limits on the resources of users' and groups' VMs. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/output.h"
#include "tools/cairn/user.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name, *head;
	bool is_size;
} items[] = { { "vms", "VMs", false }, { "running", "Running", false }, { "memory", "Memory", true },
	{ "vcpus", "vCPUs", false }, { "disk", "Disk", true }, { "snapshots", "Snapshots", false } };

/* Add --user, --group or --default. *ret_given: whether any was given. Returns 0; CLI_USAGE after an error message. */
static int subject_put(struct cli *c, struct json_object *args, char who[USER_WORDS], bool *ret_given)
{
	bool user = option_value(c, "user"), group = option_value(c, "group"), is_default = option_flag(c, "default");

	*ret_given = user || group || is_default;
	if (user + group + is_default > 1)
		return cli_usage(c, "%s takes one of --user, --group and --default", c->verb->name);
	if (is_default)
		js_put_bool(args, "default", true);
	snprintf(who, USER_WORDS, "users without a quota");
	return user_option_put(c, args, who);
}

static int limit_parse(const char *text, bool is_size, int64_t *ret)
{
	uint64_t bytes;
	char *end;

	*ret = -1;
	if (!strcmp(text, "none"))
		return 0;
	if (is_size && strcmp(text, "0")) {
		if (size_parse(text, 0, &bytes) < 0 || bytes > INT64_MAX)
			return -EINVAL;
		*ret = (int64_t)bytes;
		return 0;
	}
	errno = 0;
	*ret = strtoll(text, &end, 10);
	return errno || *end || end == text || *ret < 0 ? -EINVAL : 0;
}

/* Add the limits. *ret_given: whether any was given. Returns 0; CLI_USAGE after an error message. */
static int limits_put(struct cli *c, struct json_object *args, bool *ret_given)
{
	*ret_given = false;
	for (size_t i = 0; i < ARRAY_SIZE(items); i++) {
		const char *text = option_value(c, items[i].name);
		int64_t v;

		if (!text)
			continue;
		if (limit_parse(text, items[i].is_size, &v) < 0)
			return cli_usage(c, "--%s: \"%.40s\" is not %s", items[i].name, text,
				items[i].is_size ? "a size such as 8G, or none" : "a number or none");
		js_put_int(args, items[i].name, v);
		*ret_given = true;
	}
	return 0;
}

/* ---- listing ---- */

static void value_print(bool is_size, struct json_object *values, const char *name, char *buf, size_t size)
{
	int64_t v = js_get_int(values, name, -1);

	if (v < 0)
		snprintf(buf, size, "-");
	else if (!is_size)
		snprintf(buf, size, "%lld", (long long)v);
	else if (!v || v % (1 << 30))
		snprintf(buf, size, "%lld MiB", (long long)(v / (1 << 20) + (v % (1 << 20) != 0)));
	else
		snprintf(buf, size, "%lld GiB", (long long)(v >> 30));
}

static void row_add(struct table *t, struct json_object *o)
{
	int64_t user = js_get_int(o, "user", -1), group = js_get_int(o, "group", -1);
	bool is_default = user < 0 && group < 0;
	struct json_object *limits = js_get(o, "limits"), *used = js_get(o, "used");
	char name[64], cells[ARRAY_SIZE(items)][64], limit[32], use[32];
	const char *row[3 + ARRAY_SIZE(items)];

	user_name(group >= 0, group >= 0 ? group : user, name, sizeof(name));
	row[0] = is_default ? "default" : group >= 0 ? "group" : "user";
	row[1] = is_default ? "-" : name;
	row[2] = js_get_bool(o, "default", false) ? "default" : "own";
	for (size_t i = 0; i < ARRAY_SIZE(items); i++) {
		value_print(items[i].is_size, limits, items[i].name, limit, sizeof(limit));
		value_print(items[i].is_size, used, items[i].name, use, sizeof(use));
		snprintf(cells[i], sizeof(cells[i]), "%s%s%s", is_default ? "" : use, is_default ? "" : " of ", limit);
		row[3 + i] = cells[i];
	}
	table_add(t, row);
}

static bool is_wanted(struct json_object *o, struct json_object *args)
{
	static const char *const keys[] = { "user", "group" };

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (js_get(args, keys[i]))
			return js_get_int(o, keys[i], -1) == js_get_int(args, keys[i], -2);
	return !js_get(args, "default") || (!js_get(o, "user") && !js_get(o, "group"));
}

static int quotas_show(struct cli *c, struct json_object *args)
{
	const char *heads[3 + ARRAY_SIZE(items)] = { "Kind", "Name", "Quota" };
	CLEANUP_JS struct json_object *all = NULL, *wanted = json_object_new_array();
	struct err e;

	if (cli_fetch_all(c, "query-quotas", json_object_new_object(), "quotas", "from", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to list quotas");
	for (size_t i = 0; i < json_object_array_length(all); i++)
		if (is_wanted(json_object_array_get_idx(all, i), args))
			json_object_array_add(wanted, json_object_get(json_object_array_get_idx(all, i)));
	for (size_t i = 0; i < ARRAY_SIZE(items); i++)
		heads[3 + i] = items[i].head;
	return cli_rows_show(c, wanted, heads, ARRAY_SIZE(heads), row_add);
}

int verb_quota(struct cli *c)
{
	CLEANUP_JS struct json_object *args = json_object_new_object();
	bool removes = option_flag(c, "remove"), names, limits;
	char who[USER_WORDS];
	struct err e;
	int r = subject_put(c, args, who, &names);

	if (!r)
		r = limits_put(c, args, &limits);
	if (r)
		return r;
	if (removes && limits)
		return cli_usage(c, "--remove takes no limits");
	if (!removes && !limits)
		return quotas_show(c, args);
	if (!names)
		return cli_usage(c, "%s needs --user, --group or --default", c->verb->name);
	if (cli_execute(c, removes ? "quota-remove" : "quota-set", json_object_get(args), NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to %s the quota of %s", removes ? "remove" : "set", who);
	say("Quota of %s %s\n", who, removes ? "removed" : "set");
	return CLI_OK;
}
