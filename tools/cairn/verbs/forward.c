/* forward-add, forward-remove and forward-list: ports of the host that lead to a guest, also while it runs. */
#include "api/wire/json.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/forward.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- forward-add ---- */

/* Find the interface of --interface, or the first of type user, or else the first of type network. */
static struct json_object *interface_of(struct cli *c, struct json_object *definition, struct err *e)
{
	struct json_object *list = js_get_array(definition, "interfaces");
	const char *id = option_value(c, "interface");
	size_t n = list ? json_object_array_length(list) : 0;

	for (size_t i = 0; i < 2 * n; i++) {
		struct json_object *o = json_object_array_get_idx(list, i % n);

		if (!strcmp(js_get_str_or(o, "type", "-"), i < n ? "user" : "network") && (!id || !strcmp(js_get_str_or(o, "id", "-"), id)))
			return o;
	}
	err_set(e, -ENOENT, ERR_NOT_FOUND, "domain '%s' has no interface%s%s of type user or network. Next: cairn attach-interface %s user",
		c->pos[0], id ? " " : "", id ? id : "", shell_word(c->pos[0]).s);
	return NULL;
}

static int add_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct json_object *o = opaque, *interface = interface_of(c, definition, e);

	if (!interface)
		return -ENOENT;
	if (!js_get(o, "port"))
		return err_set(e, -EINVAL, ERR_INVALID, "auto finds a free port for a VM that runs; give a port for the next start");
	if (!js_get_array(interface, "forwards"))
		js_put(interface, "forwards", json_object_new_array());
	json_object_array_add(js_get_array(interface, "forwards"), json_object_get(o));
	return 0;
}

/* The daemon chooses the port if none is given. */
static int add_live(struct cli *c, void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *asked = NULL;
	struct json_object *o = opaque;
	int r;

	if (json_object_deep_copy(o, &asked, NULL) < 0)
		return err_set_errno(e, -ENOMEM, "forward");
	js_put_str(asked, "interface", option_value(c, "interface"));
	r = forward_publish(c, c->pos[0], asked, e);
	js_put_int(o, "port", js_get_int(asked, "port", 0));
	return r;
}

int verb_forward_add(struct cli *c)
{
	CLEANUP_JS struct json_object *o = forward_parse(c, "FORWARD", c->pos[1], true);
	struct err e;
	int r;

	if (!o)
		return CLI_USAGE;
	js_put_str(o, "guest", option_value(c, "guest"));
	r = change_plug_unchecked(c, add_live, add_edit, o, &e);
	if (r > 0)
		return r;
	if (r < 0)
		return cli_fail(&e, "Failed to add forward to domain '%s'", c->pos[0]);
	if (c->format == CLI_TABLE)
		forward_print(stdout, c->pos[0], o);
	else
		output_print(stdout, c->format, o);
	return CLI_OK;
}

/* ---- forward-remove ---- */

/* Parse "tcp:127.0.0.1:2222", "udp:53" or "2222". */
static struct json_object *port_parse(struct cli *c, const char *text)
{
	char whole[128];

	snprintf(whole, sizeof(whole), "%s:1", text);
	return forward_parse(c, "FORWARD", whole, false);
}

static bool forward_is(struct json_object *f, struct json_object *asked)
{
	const char *address = js_get_str(asked, "address");

	return js_get_int(f, "port", 0) == js_get_int(asked, "port", 0) &&
		!strcmp(js_get_str_or(f, "protocol", "tcp"), js_get_str_or(asked, "protocol", "tcp")) &&
		(!address || !strcmp(js_get_str_or(f, "address", "127.0.0.1"), address));
}

static int remove_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct json_object *interfaces = js_get_array(definition, "interfaces");

	for (size_t i = 0; interfaces && i < json_object_array_length(interfaces); i++) {
		struct json_object *list = js_get_array(json_object_array_get_idx(interfaces, i), "forwards");

		for (size_t k = 0; list && k < json_object_array_length(list); k++)
			if (forward_is(json_object_array_get_idx(list, k), opaque)) {
				json_object_array_del_idx(list, k, 1);
				return 0;
			}
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "the next start of domain '%s' has no such forward. Next: cairn forward-list "
		"--inactive %s", c->pos[0], shell_word(c->pos[0]).s);
}

static int remove_live(struct cli *c, void *opaque, struct err *e)
{
	struct json_object *args = cli_vm_args(c->pos[0]), *o = opaque;

	json_object_object_foreach(o, key, value)
		js_put(args, key, json_object_get(value));
	return cli_execute(c, "forward-remove", args, NULL, NULL, e);
}

int verb_forward_remove(struct cli *c)
{
	CLEANUP_JS struct json_object *o = port_parse(c, c->pos[1]);
	struct err e;
	int r;

	if (!o)
		return CLI_USAGE;
	json_object_object_del(o, "to");
	r = change_plug(c, remove_live, remove_edit, o, &e);
	return r > 0 ? r : change_print(r, &e, "remove forward", "Forward removed");
}

/* ---- forward-list ---- */

static void forwards_print(struct json_object *list)
{
	static const char *const heads[] = { "Interface", "Protocol", "Host", "Guest" };
	char host[64], guest[64];
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *f = json_object_array_get_idx(list, i);
		const char *address = js_get_str_or(f, "address", "-");

		snprintf(host, sizeof(host), strchr(address, ':') ? "[%s]:%d" : "%s:%d", address, (int)js_get_int(f, "port", 0));
		snprintf(guest, sizeof(guest), "%s:%d", js_get_str_or(f, "guest", ""), (int)js_get_int(f, "to", 0));
		table_add(&t, (const char *const[]){ js_get_str_or(f, "interface", "-"), js_get_str_or(f, "protocol", "-"), host,
			guest });
	}
	table_finish(&t, stdout);
}

/* Return why the running VM's ports of an interface are closed, borrowed; NULL: nothing is wrong. */
static const char *problem_of(struct json_object *info, const char *id)
{
	struct json_object *list = js_get_array(info, "interfaces");

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		if (!strcmp(js_get_str_or(o, "id", ""), id))
			return js_get_str(o, "forwards-problem");
	}
	return NULL;
}

static void problems_print(struct json_object *list)
{
	const char *last = "";

	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *f = json_object_array_get_idx(list, i);
		const char *id = js_get_str_or(f, "interface", "-"), *problem = js_get_str(f, "problem");

		if (problem && strcmp(last, id) != 0)
			printf("Interface %s: the ports are closed, and are opened again when possible: %s\n", id, problem);
		last = id;
	}
}

int verb_forward_list(struct cli *c)
{
	CLEANUP_JS struct json_object *list = NULL;
	CLEANUP_JS struct json_object *info = NULL;
	CLEANUP_JS struct json_object *all = json_object_new_array();
	struct err e;

	if (change_read_list(c, c->pos[0], "interfaces", &list, &e) < 0 ||
		(!option_flag(c, "inactive") && cli_execute(c, "vm-info", cli_vm_args(c->pos[0]), &info, NULL, &e) < 0))
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *interface = json_object_array_get_idx(list, i);
		struct json_object *forwards = js_get_array(interface, "forwards");

		for (size_t k = 0; forwards && k < json_object_array_length(forwards); k++) {
			struct json_object *f = json_object_array_get_idx(forwards, k);

			js_put_str(f, "interface", js_get_str(interface, "id"));
			js_put_str(f, "problem", problem_of(info, js_get_str_or(interface, "id", "")));
			json_object_array_add(all, json_object_get(f));
		}
	}
	if (c->format == CLI_TABLE) {
		forwards_print(all);
		problems_print(all);
	} else {
		output_print(stdout, c->format, all);
	}
	return CLI_OK;
}
