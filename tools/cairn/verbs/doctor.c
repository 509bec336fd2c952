/* doctor: check which features this host offers to the VMs of the calling user. Needs no daemon. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/host_probe.h"
#include "tools/cairn/output.h"

#include <stdio.h>
#include <string.h>

static const char *const status_words[] = { [HOST_OK] = "ok", [HOST_SLOW] = "slow", [HOST_MISSING] = "missing", [HOST_UNSURE] = "unsure" };

static void checks_print(const struct host_check *all, size_t n)
{
	int width = 0;

	for (size_t i = 0; i < n; i++)
		width = MAX(width, (int)strlen(all[i].name));
	for (size_t i = 0; i < n; i++) {
		printf("%-8s %-*s %s: %s\n", status_words[all[i].status], width, all[i].name, all[i].purpose, all[i].found);
		if (all[i].remedy[0])
			printf("%*s%s\n", 8 + 1 + width + 1, "", all[i].remedy);
	}
}

static struct json_object *checks_to_json(const struct host_check *all, size_t n)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "check", all[i].name);
		js_put_str(o, "status", status_words[all[i].status]);
		js_put_bool(o, "required", all[i].required);
		js_put_str(o, "for", all[i].purpose);
		js_put_str(o, "found", all[i].found);
		if (all[i].remedy[0])
			js_put_str(o, "remedy", all[i].remedy);
		json_object_array_add(list, o);
	}
	return list;
}

int verb_doctor(struct cli *c)
{
	struct host_check all[HOST_CHECKS_MAX];
	size_t n = host_checks_run(all);
	int status = CLI_OK;

	for (size_t i = 0; i < n; i++)
		if (all[i].required && all[i].status == HOST_MISSING)
			status = CLI_FAILURE;
	if (c->format == CLI_TABLE) {
		checks_print(all, n);
	} else {
		CLEANUP_JS struct json_object *list = checks_to_json(all, n);

		output_print(stdout, c->format, list);
	}
	return status;
}
