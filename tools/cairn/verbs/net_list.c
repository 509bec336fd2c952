/* net-list and net-dhcp-leases. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/net.h"
#include "tools/cairn/output.h"

#include <stdio.h>
#include <string.h>

/* ---- net-list ---- */

/* Like virsh: only active networks, unless --all or --inactive is given. */
static bool is_wanted(const struct cli *c, struct json_object *n)
{
	bool active = strcmp(js_get_str_or(n, "state", ""), "inactive") != 0, persistent = js_get_bool(n, "persistent", false),
	     autostart = js_get_bool(n, "autostart", false);

	if (option_flag(c, "inactive") ? active : !option_flag(c, "all") && !active)
		return false;
	if (option_flag(c, "persistent") != option_flag(c, "transient") && option_flag(c, "persistent") != persistent)
		return false;
	return option_flag(c, "autostart") == option_flag(c, "no-autostart") || option_flag(c, "autostart") == autostart;
}

static void rows_print(struct json_object *rows)
{
	static const char *const heads[] = { "Name", "State", "Autostart", "Persistent" };
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		struct json_object *n = json_object_array_get_idx(rows, i);

		table_add(&t, (const char *const[]){ js_get_str_or(n, "name", ""), js_get_str_or(n, "state", ""),
			js_get_bool(n, "autostart", false) ? "yes" : "no", js_get_bool(n, "persistent", false) ? "yes" : "no" });
	}
	table_finish(&t, stdout);
}

static void blocked_print(struct json_object *rows)
{
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		struct json_object *n = json_object_array_get_idx(rows, i);
		const char *name = js_get_str_or(n, "name", "");

		if (js_get_bool(n, "blocked", false))
			fprintf(stderr, "warning: another firewall of the host drops packets of network '%s'; see: cairn net-info %s\n", name, name);
	}
}

int verb_net_list(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL, *rows = json_object_new_array();
	struct err e;

	if (cli_fetch_all(c, "net-list", json_object_new_object(), "networks", "after", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to list networks");
	for (size_t i = 0; i < json_object_array_length(all); i++)
		if (is_wanted(c, json_object_array_get_idx(all, i)))
			json_object_array_add(rows, json_object_get(json_object_array_get_idx(all, i)));
	if (!cli_columns_print(c, rows))
		rows_print(rows);
	blocked_print(rows);
	return CLI_OK;
}

/* ---- net-dhcp-leases ---- */

static void lease_add(struct table *t, struct json_object *lease)
{
	int64_t expires = js_get_int(lease, "expires", 0);
	char time[TIME_TEXT_BYTES], address[80];

	snprintf(address, sizeof(address), "%s/%d", js_get_str_or(lease, "address", ""), (int)js_get_int(lease, "prefix", 0));
	table_add(t, (const char *const[]){ expires ? time_text(expires * 1000000000, false, time) : "never",
		js_get_str_or(lease, "mac", "-"), js_get_str_or(lease, "family", "-"), address, js_get_str_or(lease, "name", "-"),
		js_get_str_or(lease, "client_id", "-") });
}

int verb_net_dhcp_leases(struct cli *c)
{
	static const char *const heads[] = { "Expiry Time", "MAC address", "Protocol", "IP address", "Hostname", "Client ID or DUID" };
	struct json_object *args = cli_net_args(c->pos[0]);
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if (c->npos > 1)
		js_put_str(args, "mac", c->pos[1]);
	if (cli_fetch_all(c, "net-dhcp-leases", args, "leases", "from", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to get leases info for %s", c->pos[0]);
	return cli_rows_show(c, all, heads, ARRAY_SIZE(heads), lease_add);
}
