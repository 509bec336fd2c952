/* attach-interface and detach-interface: change the interfaces of a running VM or of a definition. domiflist: list
 * them. */
#include "tools/cairn/change.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/egress_words.h"
#include "tools/cairn/forward.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/plug.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- attach-interface ---- */

/* Add the rules of --egress. Returns 0 or an exit code. */
static int egress_options(struct cli *c, struct json_object *o)
{
	const char *rules[CLI_GIVEN_MAX];
	size_t n = option_values(c, "egress", rules, CLI_GIVEN_MAX);
	struct json_object *egress = n ? json_object_new_object() : NULL;

	if (!n)
		return 0;
	js_put(o, "egress", egress);
	js_put(egress, "rules", json_object_new_array());
	for (size_t i = 0; i < n; i++)
		if (!egress_rule_add(egress, rules[i]))
			return cli_usage(c, "--egress " EGRESS_WORDS ", not \"%s\"", rules[i]);
	return 0;
}

/* Add the options of an interface of type user. Returns 0 or an exit code. */
static int user_options(struct cli *c, struct json_object *o)
{
	const char *forwards[CLI_GIVEN_MAX], *network = option_value(c, "network");
	size_t n = option_values(c, "forward", forwards, CLI_GIVEN_MAX);
	struct json_object *list = n ? json_object_new_array() : NULL;

	if (egress_options(c, o))
		return CLI_USAGE;
	js_put_str(o, "network", network);
	if (option_flag(c, "restrict"))
		js_put_bool(o, "restrict", true);
	if (option_flag(c, "host-loopback"))
		js_put_bool(o, "host_loopback", true);
	if (list)
		js_put(o, "forwards", list);
	for (size_t i = 0; i < n; i++) {
		struct json_object *one = forward_parse(c, "--forward", forwards[i], false);

		if (!one)
			return CLI_USAGE;
		json_object_array_add(list, one);
	}
	return 0;
}

/* Add --queues. Returns 0 or an exit code. */
static int queues_option(struct cli *c, struct json_object *o)
{
	const char *text = option_value(c, "queues");
	char *end;
	long n;

	if (!text)
		return 0;
	n = strtol(text, &end, 10);
	if (!isdigit((unsigned char)*text) || *end || n < 1 || n > 8)
		return cli_usage(c, "--queues must be a number from 1 to 8, not \"%s\"", text);
	js_put_int(o, "queues", n);
	return 0;
}

static struct json_object *interface_of_options(struct cli *c)
{
	struct json_object *o = json_object_new_object();
	const char *mac = option_value(c, "mac"), *model = option_value(c, "model"),
		   *target = option_value(c, "target");

	js_put_str(o, "id", target);
	js_put_str(o, "type", c->pos[1]);
	if (c->npos > 2)
		js_put_str(o, "source", c->pos[2]);
	js_put_str(o, "mac", mac);
	if (option_flag(c, "vhost"))
		js_put_bool(o, "vhost", true);
	if (model && strncmp(model, "virtio", 6)) /* as libvirt's XML: tools/xml/device.c */
		fprintf(stderr, "warning: --model %s becomes virtio: the guest needs a virtio driver, and may rename the interface\n", model);
	js_put_str(o, "model", "virtio");
	return o;
}

/* Choose an id that is free in the definition, and in that of the running VM. The id by position ("net2" for the third
 * interface) may be taken: when an interface is detached, the interfaces behind it keep their ids. */
static void id_choose(struct json_object *list, struct json_object *running, struct json_object *o)
{
	char id[16];
	unsigned i = 0;

	do {
		snprintf(id, sizeof(id), "net%u", i++);
	} while (change_find(list, "id", id) >= 0 || (running && change_find(running, "id", id) >= 0));
	js_put_str(o, "id", id);
}

struct attach {
	struct json_object *o; /* the interface */
	bool has_id;	       /* the user chose its id, or the running VM has it */
};

static int attach_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct json_object *list = js_get_array(definition, "interfaces");
	struct attach *w = opaque;

	(void)c;
	if (!w->has_id)
		id_choose(list, NULL, w->o);
	else if (change_find(list, "id", js_get_str(w->o, "id")) >= 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "target %s already exists", js_get_str(w->o, "id"));
	json_object_array_add(list, json_object_get(w->o));
	return 0;
}

/* Add the forwards to the interface, which the running VM has. */
static int forwards_live(struct cli *c, struct json_object *o, struct err *e)
{
	struct json_object *list = js_get_array(o, "forwards");
	int r = 0;

	for (size_t i = 0; list && i < json_object_array_length(list) && !r; i++) {
		CLEANUP_JS struct json_object *asked = NULL;

		if (json_object_deep_copy(json_object_array_get_idx(list, i), &asked, NULL) < 0)
			return err_set_errno(e, -ENOMEM, "forwards");
		js_put_str(asked, "interface", js_get_str(o, "id"));
		r = forward_publish(c, c->pos[0], asked, e);
	}
	return r;
}

/* The next start's interface has the same id and MAC address. */
static int attach_live(struct cli *c, void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *next = NULL, *running = NULL, *answer = NULL;
	struct json_object *args = NULL, *plain = NULL;
	struct attach *w = opaque;
	int r = change_read(c, c->pos[0], &next, e);

	if (!r)
		r = change_read_running(c, c->pos[0], &running, e);
	if (!r && !w->has_id)
		id_choose(js_get_array(next, "interfaces"), js_get_array(running, "interfaces"), w->o);
	if (!r && json_object_deep_copy(w->o, &plain, NULL) < 0)
		r = err_set_errno(e, -ENOMEM, "attach-interface");
	if (r < 0)
		return r;
	json_object_object_del(plain, "forwards");
	args = cli_vm_args(c->pos[0]);
	js_put(args, "interface", plain);
	r = cli_execute(c, "vm-attach-interface", args, &answer, NULL, e);
	if (r < 0)
		return r;
	w->has_id = true;
	js_put_str(w->o, "mac", js_get_str(answer, "mac"));
	r = forwards_live(c, w->o, e);
	if (r < 0) /* only the guest can release the interface */
		err_set(e, r, e->cls, "%.200s. The VM has the interface %s without this forward. Next: cairn forward-add %s PORT:TO --interface %s, or "
			"cairn detach-interface %s %s --mac %s", strdupa(e->msg), js_get_str(w->o, "id"), shell_word(c->pos[0]).s, js_get_str(w->o, "id"),
			shell_word(c->pos[0]).s, js_get_str(w->o, "type"), js_get_str(w->o, "mac"));
	return r;
}

int plug_interface_attach(struct cli *c, struct json_object *o, bool has_id, struct err *e)
{
	struct attach w = { o, has_id };

	return change_plug(c, attach_live, attach_edit, &w, e);
}

int verb_attach_interface(struct cli *c)
{
	CLEANUP_JS struct json_object *o = interface_of_options(c);
	struct err e;
	int r = queues_option(c, o);

	if (!r)
		r = user_options(c, o);
	if (r)
		return r;
	r = plug_interface_attach(c, o, option_value(c, "target"), &e);
	return r == CLI_USAGE ? r : change_print(r, &e, "attach interface", "Interface attached");
}

/* ---- detach-interface ---- */

static bool interface_fits(struct json_object *o, const char *type, const char *mac)
{
	const char *its = js_get_str(o, "mac");

	return !strcmp(js_get_str_or(o, "type", "-"), type) &&
		(!mac || (its && !strcasecmp(its, mac)));
}

/* Find the interface of that type, and of that MAC unless it is NULL. Returns its index; -errno: none, or several. */
static int interface_meant(struct json_object *list, const char *type, const char *mac, struct err *e)
{
	int found = -1, n = 0;

	for (size_t i = 0; i < json_object_array_length(list); i++)
		if (interface_fits(json_object_array_get_idx(list, i), type, mac)) {
			found = (int)i;
			n++;
		}
	if (!n && mac)
		return err_set(e, -ENOENT, ERR_NOT_FOUND,
			"No interface with MAC address %s and type %s was found", mac, type);
	if (!n)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "No interface found whose type is %s", type);
	if (n > 1)
		return err_set(e, -EINVAL, ERR_INVALID,
			"Domain has %d interfaces of type %s. Please specify which one to detach using --mac",
			n, type);
	return found;
}

struct detach {
	const char *type, *mac;
};

static int detach_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct json_object *list = js_get_array(definition, "interfaces");
	const struct detach *w = opaque;
	int i = interface_meant(list, w->type, w->mac, e);

	(void)c;
	if (i < 0)
		return i;
	json_object_array_del_idx(list, (size_t)i, 1);
	return 0;
}

static int detach_live(struct cli *c, void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *running = NULL, *answer = NULL;
	const char *timeout = option_value(c, "timeout");
	const struct detach *w = opaque;
	struct json_object *args, *list;
	int r = change_read_running(c, c->pos[0], &running, e), at;

	if (r < 0)
		return r;
	list = js_get_array(running, "interfaces");
	at = interface_meant(list, w->type, w->mac, e);
	if (at < 0)
		return at;
	args = cli_vm_args(c->pos[0]);
	js_put_str(args, "device", js_get_str(json_object_array_get_idx(list, (size_t)at), "id"));
	if (timeout)
		js_put_int(args, "timeout", strtol(timeout, NULL, 10));
	return cli_execute(c, "vm-detach-device", args, &answer, NULL, e);
}

int plug_interface_detach(struct cli *c, const char *type, const char *mac, struct err *e)
{
	struct detach w = { type, mac };

	return change_plug(c, detach_live, detach_edit, &w, e);
}

int verb_detach_interface(struct cli *c)
{
	struct err e;
	int r = plug_interface_detach(c, c->pos[1], option_value(c, "mac"), &e);

	return r == CLI_USAGE ? r : change_print(r, &e, "detach interface", "Interface detached");
}

/* ---- domiflist ---- */

/* Print the forwards below the table: "net0: tcp 127.0.0.1:2222 leads to port 22". They go to stderr, because scripts
 * read virsh's table from stdout. */
static void forwards_print(struct json_object *interface)
{
	struct json_object *list = js_get_array(interface, "forwards");
	size_t n = list ? json_object_array_length(list) : 0;

	for (size_t i = 0; i < n; i++)
		forward_print(stderr, js_get_str_or(interface, "id", "-"), json_object_array_get_idx(list, i));
}

static void interfaces_print(struct json_object *list)
{
	static const char *const heads[] = { "Interface", "Type", "Source", "Model", "MAC" };
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		const char *cells[] = { js_get_str_or(o, "id", "-"), js_get_str_or(o, "type", "-"),
			js_get_str_or(o, "source", "-"), js_get_str_or(o, "model", "-"),
			js_get_str_or(o, "mac", "-") };

		table_add(&t, cells);
	}
	table_finish(&t, stdout);
	fflush(stdout);
	for (size_t i = 0; i < json_object_array_length(list); i++)
		forwards_print(json_object_array_get_idx(list, i));
}

int verb_domiflist(struct cli *c)
{
	CLEANUP_JS struct json_object *list = NULL;
	struct err e;

	if (change_read_list(c, c->pos[0], "interfaces", &list, &e) < 0)
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	if (c->format == CLI_TABLE)
		interfaces_print(list);
	else
		output_print(stdout, c->format, list);
	return CLI_OK;
}
