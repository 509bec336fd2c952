#include "tools/cairn/forward.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool port_put(struct json_object *o, const char *key, const char *text)
{
	char *end;
	long n = strtol(text, &end, 10);

	js_put_int(o, key, n); /* the daemon checks the range */
	return *text && !*end;
}

/* Cut the next part off, up to a colon; an IPv6 address stands in brackets. */
static char *part_take(char **rest)
{
	char *end = **rest == '[' ? strchr(*rest, ']') : NULL, *part = *rest + 1;

	if (!end || (end[1] && end[1] != ':'))
		return strsep(rest, ":");
	*rest = end[1] ? end + 2 : NULL;
	*end = 0;
	return part;
}

static void forward_refuse(struct cli *c, const char *option, const char *text, const char *auto_to, bool any)
{
	const char *slash = strrchr(text, '/');

	if (auto_to)
		cli_usage(c, "%s %s: auto is for a running VM of the daemon (cairn forward-add); name a port, as in 8080:%s", option, text, auto_to);
	else if (slash && (!strcmp(slash + 1, "tcp") || !strcmp(slash + 1, "udp")))
		cli_usage(c, "%s %s: the protocol comes first: %s:%.*s", option, text, slash + 1, (int)(slash - text), text);
	else
		cli_usage(c, "%s must be like tcp:127.0.0.1:2222:22, [::]:2222:22 or, for short, 2222:22%s, not \"%s\"", option,
			any ? " or auto:22" : "", text);
}

struct json_object *forward_parse(struct cli *c, const char *option, const char *text, bool any)
{
	struct json_object *o = json_object_new_object();
	char copy[128], *rest = copy, *parts[4] = { NULL };
	size_t n = 0, at = 0;
	bool good, is_auto;

	snprintf(copy, sizeof(copy), "%s", text);
	while (rest && n < ARRAY_SIZE(parts))
		parts[n++] = part_take(&rest);
	if (n > 2 && (n == 4 || !strcmp(parts[0], "tcp") || !strcmp(parts[0], "udp")))
		js_put_str(o, "protocol", parts[at++]);
	if (n - at == 3)
		js_put_str(o, "address", parts[at++]);
	is_auto = n - at == 2 && !strcmp(parts[at], "auto");
	good = !rest && n - at == 2 && strlen(text) < sizeof(copy) && ((any && is_auto) || port_put(o, "port", parts[at])) &&
		port_put(o, "to", parts[at + 1]);
	if (good)
		return o;
	json_object_put(o);
	forward_refuse(c, option, text, is_auto && !any ? parts[at + 1] : NULL, any);
	return NULL;
}

void forward_print(FILE *f, const char *whose, struct json_object *forward)
{
	const char *guest = js_get_str(forward, "guest"), *address = js_get_str_or(forward, "address", "127.0.0.1");

	fprintf(f, strchr(address, ':') ? "%s: %s [%s]:%d leads to port %d%s%s\n" : "%s: %s %s:%d leads to port %d%s%s\n", whose, js_get_str_or(forward, "protocol", "tcp"),
		address, (int)js_get_int(forward, "port", 0),
		(int)js_get_int(forward, "to", 0), guest ? " of " : "", guest ? guest : "");
}

int forward_publish(struct cli *c, const char *vm, struct json_object *forward, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(vm);
	int r;

	json_object_object_foreach(forward, key, value)
		js_put(args, key, json_object_get(value));
	r = cli_execute(c, "forward-add", args, &answer, NULL, e);
	if (!r)
		js_put_int(forward, "port", js_get_int(answer, "port", 0));
	return r;
}

int publish_check(struct cli *c)
{
	const char *texts[CLI_GIVEN_MAX];
	size_t n = option_values(c, "publish", texts, CLI_GIVEN_MAX);

	for (size_t i = 0; i < n; i++) {
		CLEANUP_JS struct json_object *o = forward_parse(c, "--publish", texts[i], true);

		if (!o)
			return CLI_USAGE;
	}
	return 0;
}

void publish_put(struct cli *c, struct json_object *args)
{
	const char *texts[CLI_GIVEN_MAX];
	size_t n = option_values(c, "publish", texts, CLI_GIVEN_MAX);
	struct json_object *list = n ? json_object_new_array() : NULL;

	for (size_t i = 0; i < n; i++)
		json_object_array_add(list, forward_parse(c, "--publish", texts[i], true)); /* publish_check() has read them */
	if (n)
		js_put(args, "forwards", list);
}

int publish_all(struct cli *c, const char *vm)
{
	const char *texts[CLI_GIVEN_MAX];
	size_t n = option_values(c, "publish", texts, CLI_GIVEN_MAX);
	struct err e;

	for (size_t i = 0; i < n; i++) {
		CLEANUP_JS struct json_object *o = forward_parse(c, "--publish", texts[i], true);

		if (!o)
			return CLI_USAGE;
		if (forward_publish(c, vm, o, &e) < 0)
			return cli_fail(&e, "Domain '%s' runs, but --publish %s failed", vm, texts[i]);
		if (c->format == CLI_TABLE)
			forward_print(stdout, vm, o);
	}
	return 0;
}

void published_print(struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		forward_print(stdout, js_get_str_or(o, "name", "?"), o);
	}
}
