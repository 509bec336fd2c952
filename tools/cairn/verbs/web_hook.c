/* web-hook, web-hook-list, web-hook-remove and web-hook-test: URLs that get the events of VMs. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SECRET_FILE_BYTES 4096

static struct json_object *hook_args(const struct cli *c)
{
	struct json_object *args = json_object_new_object();

	js_put_str(args, "vm", option_value(c, "vm"));
	js_put_str(args, "name", c->pos[0]);
	return args;
}

/* Parse "crashed,threshold"; the option may be repeated. */
static void events_add(const struct cli *c, struct json_object *args)
{
	const char *values[CLI_GIVEN_MAX];
	size_t n = option_values(c, "event", values, ARRAY_SIZE(values));
	struct json_object *list = n ? json_object_new_array() : NULL;

	for (size_t i = 0; i < n; i++)
		for (const char *at = values[i]; *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ','))
			json_object_array_add(list, json_object_new_string_len(at, (int)strcspn(at, ",")));
	if (list)
		js_put(args, "events", list);
}

/* Read the first line of the file, or of standard input for "-". */
static int secret_add(const struct cli *c, struct json_object *args)
{
	const char *path = option_value(c, "secret-file");
	char text[SECRET_FILE_BYTES];
	FILE *f;

	if (!path)
		return 0;
	f = strcmp(path, "-") ? fopen(path, "re") : stdin;
	if (!f || !fgets(text, sizeof(text), f))
		return cli_usage(c, "--secret-file %s: %s", path, !f || ferror(f) ? strerror(errno) : "the file is empty");
	if (f != stdin)
		fclose(f);
	text[strcspn(text, "\r\n")] = 0;
	js_put_str(args, "secret", text);
	explicit_bzero(text, sizeof(text));
	return 0;
}

int verb_web_hook(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *args;
	struct err e;
	int r;

	if (!option_value(c, "url"))
		return cli_usage(c, "web-hook needs --url, such as --url https://chat.example.org/hook");
	args = hook_args(c);
	js_put_str(args, "url", option_value(c, "url"));
	if (option_flag(c, "private"))
		js_put_bool(args, "private", true);
	events_add(c, args);
	r = secret_add(c, args);
	if (r) {
		json_object_put(args);
		return r;
	}
	if (cli_execute(c, "web-hook-set", args, &o, NULL, &e) < 0)
		return cli_fail(&e, "Failed to set web hook '%s'", c->pos[0]);
	say("Web hook '%s' set\n", c->pos[0]);
	if (js_get_str(o, "secret"))
		printf("Its secret, which nothing shows again: %s\n", js_get_str(o, "secret"));
	return CLI_OK;
}

static void words_join(struct json_object *list, char *buf, size_t size)
{
	size_t at = 0;

	buf[0] = 0;
	for (size_t i = 0; list && i < json_object_array_length(list) && at < size; i++)
		at += (size_t)snprintf(buf + at, size - at, "%s%s", i ? "," : "", json_object_get_string(json_object_array_get_idx(list, i)));
}

static void hook_add(struct table *t, struct json_object *o)
{
	static const char *const counts[] = { "waiting", "delivered", "failed", "dropped" };
	char events[128], texts[ARRAY_SIZE(counts)][24];

	words_join(js_get_array(o, "events"), events, sizeof(events));
	for (size_t k = 0; k < ARRAY_SIZE(counts); k++)
		snprintf(texts[k], sizeof(texts[k]), "%lld", (long long)js_get_int(o, counts[k], 0));
	table_add(t, (const char *const[]){ js_get_str_or(o, "name", "-"), js_get_str_or(o, "vm", "-"), js_get_str_or(o, "url", "-"), events,
		texts[0], texts[1], texts[2], texts[3], js_get_str_or(o, "last", "-") });
}

int verb_web_hook_list(struct cli *c)
{
	static const char *const heads[] = { "Name", "Domain", "URL", "Events", "Waiting", "Delivered", "Failed", "Dropped", "Last" };
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if (cli_fetch_all(c, "query-web-hooks", json_object_new_object(), "hooks", "after", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to list web hooks");
	return cli_rows_show(c, all, heads, ARRAY_SIZE(heads), hook_add);
}

int verb_web_hook_remove(struct cli *c)
{
	struct err e;

	if (cli_execute(c, "web-hook-remove", hook_args(c), NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to remove web hook '%s'", c->pos[0]);
	say("Web hook '%s' removed\n", c->pos[0]);
	return CLI_OK;
}

int verb_web_hook_test(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (cli_execute(c, "web-hook-test", hook_args(c), &o, NULL, &e) < 0)
		return cli_fail(&e, "Web hook '%s' did not get the event", c->pos[0]);
	say("Web hook '%s' got the event: %s\n", c->pos[0], js_get_str_or(o, "outcome", "-"));
	return CLI_OK;
}
