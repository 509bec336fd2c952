/* The verbs of networks but net-list, net-dhcp-leases, net-edit and net-update, with virsh's words. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/net.h"
#include "tools/cairn/output.h"
#include "tools/cairn/xml.h"

#include <stdio.h>
#include <string.h>

struct json_object *cli_net_args(const char *name)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "network", name);
	return o;
}

/* ---- definitions ---- */

/* Send a definition file with a command. Returns 0; -errno. */
static int file_send(struct cli *c, const char *command, bool validate, struct json_object **ret_answer, struct err *e)
{
	struct definition_file f CLEANUP(definition_file_done) = { .is_network = true };
	struct json_object *args;
	int r = definition_file_read(c->pos[0], &f, e);

	if (r < 0)
		return r;
	args = json_object_new_object();
	js_put(args, "definition", json_object_get(f.definition));
	if (validate)
		js_put_bool(args, "validate-only", true);
	r = definition_file_locate(&f, cli_execute(c, command, args, ret_answer, NULL, e), e);
	if (r < 0)
		return r;
	warnings_print(f.warnings);
	warnings_print(js_get_array(*ret_answer, "warnings"));
	return 0;
}

int verb_net_define(struct cli *c)
{
	CLEANUP_JS struct json_object *answer = NULL;
	bool dry = option_flag(c, "dry-run");
	struct err e;

	if (file_send(c, "net-define", dry, &answer, &e) < 0)
		return cli_fail(&e, "Failed to define network from %s", c->pos[0]);
	if (dry)
		printf("%s validates\n", c->pos[0]);
	else
		say("Network %s defined from %s\n", js_get_str(answer, "name"), c->pos[0]);
	return CLI_OK;
}

int verb_net_create(struct cli *c)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct err e;

	if (file_send(c, "net-create", false, &answer, &e) < 0)
		return cli_fail(&e, "Failed to create network from %s", c->pos[0]);
	say("Network %s created from %s\n", js_get_str(answer, "name"), c->pos[0]);
	return CLI_OK;
}

int net_definition_read(struct cli *c, const char *name, bool inactive, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *args = cli_net_args(name);
	int r;

	js_put_bool(args, "inactive", inactive);
	r = cli_execute(c, "net-dump-definition", args, &o, NULL, e);
	if (!r)
		*ret = json_object_get(js_get(o, "definition"));
	return r;
}

int verb_net_dumpjson(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (net_definition_read(c, c->pos[0], option_flag(c, "inactive"), &o, &e) < 0)
		return cli_fail(&e, "failed to get network '%s'", c->pos[0]);
	output_print(stdout, c->format, o);
	return CLI_OK;
}

int verb_net_dumpxml(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	CLEANUP_FREE char *xml = NULL;
	struct err e;
	int r = net_definition_read(c, c->pos[0], option_flag(c, "inactive"), &o, &e);

	if (!r)
		r = xml_from_network(o, &xml, &e);
	if (r < 0)
		return cli_fail(&e, "failed to get network '%s'", c->pos[0]);
	puts(xml);
	return CLI_OK;
}

/* ---- acts on one network ---- */

static const struct {
	const char *verb, *command, *fail, *done;
} acts[] = {
	{ "net-start", "net-start", "start", "started" },
	{ "net-destroy", "net-destroy", "destroy", "destroyed" },
	{ "net-undefine", "net-undefine", "undefine", "has been undefined" },
};

int verb_net_act(struct cli *c)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct err e;
	size_t i = 0;

	while (strcmp(acts[i].verb, c->verb->name))
		i++;
	if (cli_execute(c, acts[i].command, cli_net_args(c->pos[0]), &answer, NULL, &e) < 0)
		return cli_fail(&e, "Failed to %s network %s", acts[i].fail, c->pos[0]);
	warnings_print(js_get_array(answer, "warnings"));
	say("Network %s %s\n", c->pos[0], acts[i].done);
	return CLI_OK;
}

int verb_net_autostart(struct cli *c)
{
	struct json_object *args = cli_net_args(c->pos[0]);
	bool disable = option_flag(c, "disable");
	struct err e;

	if (disable)
		js_put_bool(args, "disable", true);
	if (cli_execute(c, "net-autostart", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "failed to %smark network %s as autostarted", disable ? "un" : "", c->pos[0]);
	say("Network %s %smarked as autostarted\n", c->pos[0], disable ? "un" : "");
	return CLI_OK;
}

/* ---- facts of one network ---- */

static int info_read(struct cli *c, struct json_object **ret_o)
{
	struct err e;

	return cli_execute(c, "net-info", cli_net_args(c->pos[0]), ret_o, NULL, &e) < 0 ?
		cli_fail(&e, "failed to get network '%s'", c->pos[0]) : CLI_OK;
}

static void vms_print(struct json_object *vms)
{
	for (size_t i = 0; vms && i < json_object_array_length(vms); i++)
		label_print(stdout, i ? "" : "Domains:", "%s", json_object_get_string(json_object_array_get_idx(vms, i)));
}

static void clones_print(struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		label_print(stdout, i ? "" : "Live clones:", "%s %s, in the guest %s", js_get_str_or(o, "name", "-"), js_get_str_or(o, "address", "-"),
			js_get_str_or(o, "guest-address", "unknown"));
	}
}

static void reserved_print(struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		label_print(stdout, i ? "" : "Reserved:", "%s %s, for its published ports", js_get_str_or(o, "name", "-"), js_get_str_or(o, "address", "-"));
	}
}

int verb_net_info(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *devs;
	const char *state;
	int r = info_read(c, &o);

	if (r)
		return r;
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	state = js_get_str_or(o, "state", "");
	devs = js_get_array(o, "devs");
	label_print(stdout, "Name:", "%s", js_get_str_or(o, "name", "-"));
	label_print(stdout, "UUID:", "%s", js_get_str_or(o, "uuid", "-"));
	label_print(stdout, "Active:", "%s", !strcmp(state, "active") ? "yes" : !strcmp(state, "inactive") ? "no" : state);
	label_print(stdout, "Persistent:", "%s", js_get_bool(o, "persistent", false) ? "yes" : "no");
	label_print(stdout, "Autostart:", "%s", js_get_bool(o, "autostart", false) ? "yes" : "no");
	for (size_t i = 0; devs && i < json_object_array_length(devs); i++)
		label_print(stdout, i ? "" : "Devices:", "%s", json_object_get_string(json_object_array_get_idx(devs, i)));
	if (js_get(o, "dev"))
		label_print(stdout, "Device:", "%s", js_get_str(o, "dev"));
	else if (!devs)
		label_print(stdout, "Bridge:", "%s", js_get_str_or(o, "bridge", "-"));
	label_print(stdout, "Mode:", "%s", js_get_str_or(o, "mode", "-"));
	if (js_get(o, "denied-packets"))
		label_print(stdout, "Denied packets:", "%lld", (long long)js_get_int(o, "denied-packets", 0));
	if (js_get(o, "denied-questions"))
		label_print(stdout, "Denied names:", "%lld", (long long)js_get_int(o, "denied-questions", 0));
	if (js_get_bool(o, "pending", false))
		label_print(stdout, "Pending:", "yes, changes for the next start");
	vms_print(js_get_array(o, "vms"));
	clones_print(js_get_array(o, "clones"));
	reserved_print(js_get_array(o, "reserved"));
	putchar('\n');
	warnings_print(js_get_array(o, "warnings"));
	return CLI_OK;
}

int verb_net_name(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	int r = info_read(c, &o);

	if (!r)
		printf("%s\n", js_get_str_or(o, !strcmp(c->verb->name, "net-uuid") ? "uuid" : "name", ""));
	return r;
}
