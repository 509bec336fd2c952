/* domifaddr, and the choice of an address for wait --for ip. */
#include "tools/cairn/address.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int addresses_ask(struct cli *c, const char *vm, struct json_object **ret_interfaces, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	int r = cli_execute(c, "vm-addresses", cli_vm_args(vm), &o, NULL, e);

	if (r < 0)
		return r;
	if (js_get_bool(o, "cut", false))
		fprintf(stderr, "warning: the list of addresses is truncated\n");
	*ret_interfaces = json_object_get(js_get_array(o, "interfaces"));
	return 0;
}

/* ---- choosing one address ---- */

static bool is_of_the_link(const char *address)
{
	static const char *const prefixes[] = { "127.", "169.254.", "fe8", "fe9", "fea", "feb" };

	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (!strncmp(address, prefixes[i], strlen(prefixes[i])))
			return true;
	return !strcmp(address, "::1");
}

static const char *usable_of(struct json_object *interface, const char *type)
{
	struct json_object *list = js_get_array(interface, "addresses");

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		const char *address = js_get_str(o, "address"), *its = js_get_str(o, "type");

		if (address && its && !strcmp(its, type) && !is_of_the_link(address))
			return address;
	}
	return NULL;
}

bool address_pick(struct json_object *interfaces, char text[ADDRESS_TEXT])
{
	static const char *const types[] = { "ipv4", "ipv6" };
	size_t n = interfaces ? json_object_array_length(interfaces) : 0;
	bool any = true;

	for (size_t i = 0; i < n; i++)
		any = any && !js_get_bool(json_object_array_get_idx(interfaces, i), "own", false);
	for (size_t t = 0; t < ARRAY_SIZE(types); t++)
		for (size_t i = 0; i < n; i++) {
			struct json_object *o = json_object_array_get_idx(interfaces, i);
			const char *address = any || js_get_bool(o, "own", false) ? usable_of(o, types[t]) : NULL;

			if (address) {
				snprintf(text, ADDRESS_TEXT, "%s", address);
				return true;
			}
		}
	return false;
}

bool address_of_clone(struct json_object *info, const char *id, char text[ADDRESS_TEXT], unsigned *ret_prefix)
{
	struct json_object *list = js_get_array(info, "interfaces");

	_Static_assert(ADDRESS_TEXT > 46, "room for an address");
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		if (!strcmp(js_get_str_or(o, "id", ""), id))
			return sscanf(js_get_str_or(o, "network-address", ""), "%46[^/]/%u", text, ret_prefix) == 2;
	}
	return false;
}

/* ---- the verb domifaddr ---- */

static struct json_object *named_only(struct json_object *interfaces, const char *name)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < json_object_array_length(interfaces); i++) {
		struct json_object *o = json_object_array_get_idx(interfaces, i);

		if (!name || !strcmp(js_get_str(o, "name"), name))
			json_object_array_add(list, json_object_get(o));
	}
	return list;
}

/* Returns one row for each address, and one for an interface without addresses. */
static struct json_object *rows_of(struct json_object *interfaces)
{
	struct json_object *rows = json_object_new_array();

	for (size_t i = 0; i < json_object_array_length(interfaces); i++) {
		struct json_object *o = json_object_array_get_idx(interfaces, i), *list = js_get_array(o, "addresses");
		size_t n = json_object_array_length(list);

		for (size_t k = 0; k < MAX(n, 1); k++) {
			struct json_object *row = json_object_new_object(), *x = k < n ? json_object_array_get_idx(list, k) : NULL;

			js_put_str(row, "name", js_get_str(o, "name"));
			js_put_str(row, "mac", js_get_str(o, "mac") ? js_get_str(o, "mac") : "");
			js_put_str(row, "type", x ? js_get_str(x, "type") : "");
			js_put_str(row, "address", x ? js_get_str(x, "address") : "");
			js_put(row, "prefix", x ? json_object_get(js_get(x, "prefix")) : NULL);
			json_object_array_add(rows, row);
		}
	}
	return rows;
}

static const char *or_none(const char *s)
{
	return *s ? s : "N/A";
}

/* Print the table as virsh does: the interface's name only in its first row, unless --full is given. */
static void table_show(struct json_object *rows, bool full)
{
	static const char *const heads[] = { "Name", "MAC address", "Protocol", "Address" };
	const char *before = NULL;
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		struct json_object *row = json_object_array_get_idx(rows, i);
		const char *name = js_get_str(row, "name");
		bool again = !full && before && !strcmp(before, name);
		char address[ADDRESS_TEXT + 8];

		snprintf(address, sizeof(address), "%s/%lld", js_get_str(row, "address"), (long long)js_get_int(row, "prefix", 0));
		table_add(&t, (const char *const[]){ again ? "-" : name, again ? "-" : or_none(js_get_str(row, "mac")),
			or_none(js_get_str(row, "type")), *js_get_str(row, "address") ? address : "N/A" });
		before = name;
	}
	table_finish(&t, stdout);
}

/* ---- addresses by leases ---- */

/* Make an interface of vm-addresses from one of the definition, with the leases of its network's dnsmasq. */
static int leased_make(struct cli *c, struct json_object *interface, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *leases = NULL;
	struct json_object *args = json_object_new_object(), *list;
	int r;

	js_put_str(args, "network", js_get_str(interface, "source"));
	js_put_str(args, "mac", js_get_str(interface, "mac"));
	r = cli_fetch_all(c, "net-dhcp-leases", args, "leases", "from", &leases, NULL, e);
	if (r < 0)
		return r;
	*ret = json_object_new_object();
	js_put_str(*ret, "name", js_get_str(interface, "id"));
	js_put_str(*ret, "mac", js_get_str(interface, "mac"));
	js_put_bool(*ret, "own", true);
	js_put(*ret, "addresses", list = json_object_new_array());
	for (size_t i = 0; i < json_object_array_length(leases); i++) {
		struct json_object *lease = json_object_array_get_idx(leases, i), *o = json_object_new_object();

		js_put_str(o, "type", js_get_str_or(lease, "family", ""));
		js_put_str(o, "address", js_get_str_or(lease, "address", ""));
		js_put_int(o, "prefix", js_get_int(lease, "prefix", 0));
		json_object_array_add(list, o);
	}
	return 0;
}

/* Add the address that the network has for a live clone, unless its lease is listed. */
static void clone_address_add(struct json_object *info, struct json_object *interface)
{
	struct json_object *list = js_get_array(interface, "addresses"), *o;
	char address[ADDRESS_TEXT];
	unsigned prefix;

	if (!address_of_clone(info, js_get_str_or(interface, "name", ""), address, &prefix))
		return;
	for (size_t k = 0; k < json_object_array_length(list); k++)
		if (!strcmp(js_get_str_or(json_object_array_get_idx(list, k), "address", ""), address))
			return;
	json_object_array_add(list, o = json_object_new_object());
	js_put_str(o, "type", "ipv4");
	js_put_str(o, "address", address);
	js_put_int(o, "prefix", (int)prefix);
}

static int leased_ask(struct cli *c, const char *vm, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL;
	CLEANUP_JS struct json_object *all = NULL, *found = json_object_new_array();
	int r = change_read_list(c, vm, "interfaces", &all, e);

	if (!r)
		r = cli_execute(c, "vm-info", cli_vm_args(vm), &info, NULL, e);

	for (size_t i = 0; !r && all && i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i), *interface;

		if (strcmp(js_get_str_or(o, "type", ""), "network") != 0)
			continue;
		r = leased_make(c, o, &interface, e);
		if (r < 0)
			break;
		clone_address_add(info, interface);
		json_object_array_add(found, interface);
	}
	if (!r)
		*ret = json_object_get(found);
	return r;
}

/* No agent has answered: return whether the networks know an address, as virsh shows by default. */
static bool leases_instead(struct cli *c, struct json_object **ret)
{
	CLEANUP_JS struct json_object *found = NULL;
	struct err ignored;
	size_t n = 0;

	if (leased_ask(c, c->pos[0], &found, &ignored) < 0)
		return false;
	for (size_t i = 0; i < json_object_array_length(found); i++)
		n += json_object_array_length(js_get_array(json_object_array_get_idx(found, i), "addresses"));
	if (n)
		*ret = json_object_get(found);
	return n;
}

int verb_domifaddr(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL, *shown = NULL, *rows = NULL;
	const char *source = option_value(c, "source"), *name = c->npos > 1 ? c->pos[1] : NULL;
	struct err e;
	int r;

	if (source && strcmp(source, "agent") && strcmp(source, "lease"))
		return cli_usage(c, "--source must be agent or lease, not \"%s\"", source);
	r = source && !strcmp(source, "lease") ? leased_ask(c, c->pos[0], &all, &e) : addresses_ask(c, c->pos[0], &all, &e);
	if (r < 0 && !source && leases_instead(c, &all))
		r = 0;
	if (!r) {
		shown = named_only(all, name);
		if (name && !json_object_array_length(shown))
			r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "the guest has no interface '%s'; cairn domifaddr %s%s shows all", name,
				shell_word(c->pos[0]).s, source && !strcmp(source, "lease") ? " --source lease" : "");
	}
	if (r < 0)
		return cli_fail(&e, "Failed to query for interfaces addresses of domain '%s'", c->pos[0]);
	rows = rows_of(shown);
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, c->format == CLI_CSV ? rows : shown);
	else
		table_show(rows, option_flag(c, "full"));
	return CLI_OK;
}
