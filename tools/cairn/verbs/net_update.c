/* net-update: add, change or remove one host, range, name, egress rule or user in the definition of a network, now and
 * for its next start, with virsh's words. */
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/net.h"
#include "tools/cairn/user.h"
#include "tools/cairn/xml.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define TRIES_MAX 20 /* the daemon lets 16 commands wait for a network */

enum act { ACT_ADD_LAST, ACT_ADD_FIRST, ACT_MODIFY, ACT_DELETE, ACT_COUNT };
static const char *const act_words[][2] = { { "add-last", "add" }, { "add-first", "add-first" }, { "modify", "update" }, { "delete", "delete" } };

static const struct section {
	const char *name;
	const char *keys[4]; /* members that tell which entry is meant: the first that the entry has */
	bool all_keys;	     /* all of them */
} sections[] = {
	{ "ip-dhcp-host", { "mac", "duid", "name", "address" }, false },
	{ "ip-dhcp-range", { "start", "end" }, true },
	{ "dns-host", { "address" }, false },
	{ "egress", { NULL }, false },
	{ "egress-rule", { "allow", "deny" }, false },
	{ "user", { NULL }, false },
	{ "group", { NULL }, false },
};

struct change {
	enum act act;
	const struct section *section;
	struct json_object *entry; /* owned */
};

static int act_parse(struct cli *c, enum act *ret)
{
	for (*ret = 0; *ret < ACT_COUNT; ++*ret)
		if (!strcmp(c->pos[1], act_words[*ret][0]) || !strcmp(c->pos[1], act_words[*ret][1]))
			return 0;
	return cli_usage(c, "\"%s\" is not a change; use add, add-first, add-last, modify or delete", c->pos[1]);
}

static int section_parse(struct cli *c, const struct section **ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(sections); i++)
		if (!strcmp(c->pos[2], sections[i].name)) {
			*ret = &sections[i];
			return 0;
		}
	return cli_usage(c, "\"%s\" is not a part of a network that can be changed; use ip-dhcp-host, ip-dhcp-range, dns-host, "
		"egress, egress-rule, user or group", c->pos[2]);
}

static bool is_egress(const struct section *s)
{
	return !strcmp(s->name, "egress");
}

static bool is_id(const struct section *s)
{
	return !s->keys[0] && !is_egress(s);
}

static bool is_rule(const struct section *s)
{
	return !strcmp(s->name, "egress-rule");
}

/* Read an entry that is a file, as virsh's is unless it begins with "<". *ret: owned; NULL: the entry is the text
 * itself. */
static int entry_read(const char *entry, char **ret, struct err *e)
{
	struct err why;
	size_t len;
	int r;

	if (xml_is(entry, strlen(entry)) || entry[strspn(entry, " \t\r\n")] == '{')
		return 0;
	if (!strcmp(entry, "-"))
		return file_read_fd(0, "standard input", XML_FILE_MAX, ret, &len, e);
	r = file_read(entry, XML_FILE_MAX, ret, &len, &why);
	return r < 0 ? err_set(e, r, why.cls, "the entry is neither JSON ({...}) nor XML (<...>), so it names a file: %s", why.msg) : 0;
}

/* Parse the entry: a user or group by name or number; else JSON, or libvirt's XML. */
static int entry_parse(struct cli *c, struct change *x, struct err *e)
{
	CLEANUP_FREE char *content = NULL;
	CLEANUP_JS struct json_object *warnings = NULL;
	const char *text = c->pos[3];
	int64_t id;
	int r;

	if (is_id(x->section)) {
		id = user_number(!strcmp(x->section->name, "group"), text);
		if (id < 0)
			return err_set(e, -EINVAL, ERR_INVALID, "unknown %s \"%.60s\"", x->section->name, text);
		x->entry = json_object_new_int64(id);
		return 0;
	}
	r = entry_read(text, &content, e);
	text = content ? content : text;
	if (r < 0)
		return r;
	if (!xml_is(text, strlen(text)))
		return js_parse(text, strlen(text), "the entry", &x->entry, e);
	r = xml_network_entry(x->section->name, text, strlen(text), &x->entry, &warnings, e);
	warnings_print(warnings);
	return r;
}

/* ---- changing a definition ---- */

static struct json_object *member_make(struct json_object *o, const char *key, bool array)
{
	struct json_object *v = js_get(o, key);

	if (!v)
		js_put(o, key, v = array ? json_object_new_array() : json_object_new_object());
	return v;
}

/* Return the list that the entry belongs to: with IPv6 addresses that of ipv6. */
static struct json_object *list_of(struct json_object *definition, const struct change *x)
{
	const char *address = js_get_str(x->entry, "address");

	if (is_id(x->section))
		return member_make(definition, !strcmp(x->section->name, "user") ? "users" : "groups", true);
	if (is_rule(x->section))
		return member_make(js_get(definition, "egress"), "rules", true);
	if (!strcmp(x->section->name, "dns-host"))
		return member_make(member_make(definition, "dns", false), "hosts", true);
	if (!address)
		address = js_get_str_or(x->entry, "start", js_get(x->entry, "duid") ? ":" : "");
	return member_make(member_make(member_make(definition, strchr(address, ':') ? "ipv6" : "ipv4", false), "dhcp", false),
		!strcmp(x->section->name, "ip-dhcp-host") ? "hosts" : "ranges", true);
}

static bool text_is_same(struct json_object *a, struct json_object *b, const char *key)
{
	const char *x = js_get_str(a, key), *y = js_get_str(b, key);

	return x && y && !strcasecmp(x, y);
}

/* Return whether two egress rules have the same members: a port may be a number or a text. */
static bool rule_is_same(struct json_object *a, struct json_object *b)
{
	static const char *const keys[][2] = { { "allow", "" }, { "deny", "" }, { "protocol", "any" }, { "ports", "" } };
	bool same = true;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		struct json_object *x = js_get(a, keys[i][0]), *y = js_get(b, keys[i][0]);

		same &= !strcasecmp(x ? json_object_get_string(x) : keys[i][1], y ? json_object_get_string(y) : keys[i][1]);
	}
	return same;
}

/* Return whether the entry of the definition is the one that the change means. */
static bool is_meant(const struct change *x, struct json_object *o)
{
	if (is_id(x->section))
		return json_object_equal(o, x->entry);
	/* Two rules may have one target, with other ports; modify means the first. */
	if (is_rule(x->section) && x->act != ACT_MODIFY)
		return rule_is_same(o, x->entry);
	for (size_t i = 0; i < ARRAY_SIZE(x->section->keys) && x->section->keys[i]; i++) {
		bool same = text_is_same(o, x->entry, x->section->keys[i]);

		if (x->section->all_keys && !same)
			return false;
		if (!x->section->all_keys && js_get(x->entry, x->section->keys[i]))
			return same;
	}
	return x->section->all_keys;
}

static int entry_missing(struct cli *c, const struct change *x, struct err *e)
{
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "network '%s' has no such %s. Next: cairn net-dumpjson %s", c->pos[0], x->section->name,
		c->pos[0]);
}

/* Change all egress rules at once. */
static int egress_apply(struct cli *c, const struct change *x, struct json_object *definition, struct err *e)
{
	bool has = js_get(definition, "egress");

	if (x->act >= ACT_MODIFY && !has)
		return entry_missing(c, x, e);
	if (x->act < ACT_MODIFY && has)
		return err_set(e, -EEXIST, ERR_EXISTS, "network '%s' has egress rules already; to change them, use modify", c->pos[0]);
	if (x->act == ACT_DELETE)
		json_object_object_del(definition, "egress");
	else
		js_put(definition, "egress", json_object_get(x->entry));
	return 0;
}

/* Change the definition in place. */
static int change_apply(struct cli *c, const struct change *x, struct json_object *definition, struct err *e)
{
	struct json_object *list;
	size_t n, at = 0;

	if (is_egress(x->section))
		return egress_apply(c, x, definition, e);
	/* With rules, the default is "deny": a first rule would also deny all destinations that no rule names. */
	if (is_rule(x->section) && !js_get(definition, "egress"))
		return err_set(e, -EPERM, ERR_WRONG_STATE, "network '%s' has no egress rules; give it a default first: cairn net-update %s add egress "
			"'{\"default\": \"allow\"}'", c->pos[0], c->pos[0]);
	list = list_of(definition, x);
	n = json_object_array_length(list);
	while (at < n && !is_meant(x, json_object_array_get_idx(list, at)))
		at++;
	if (x->act >= ACT_MODIFY && at == n)
		return entry_missing(c, x, e);
	if (x->act < ACT_MODIFY && at < n)
		return err_set(e, -EEXIST, ERR_EXISTS, "network '%s' has this %s already%s", c->pos[0], x->section->name,
			x->section->keys[0] ? "; to change it, use modify" : "");
	if (x->act == ACT_DELETE)
		json_object_array_del_idx(list, at, 1);
	else if (x->act == ACT_MODIFY)
		json_object_array_put_idx(list, at, json_object_get(x->entry));
	else if (x->act == ACT_ADD_LAST || !n)
		json_object_array_add(list, json_object_get(x->entry));
	else {
		json_object_array_add(list, NULL);
		for (size_t i = n; i; i--)
			json_object_array_put_idx(list, i, json_object_get(json_object_array_get_idx(list, i - 1)));
		json_object_array_put_idx(list, 0, json_object_get(x->entry));
	}
	return 0;
}

/* Lists of DHCP that became empty go with the last entry: a definition has ranges, hosts, lease_seconds or
 * boot_file, or no DHCP. */
static void dhcp_clean(struct json_object *definition)
{
	static const char *const families[] = { "ipv4", "ipv6" };

	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		struct json_object *of = js_get(definition, families[i]), *dhcp = js_get(of, "dhcp"),
				   *ranges = js_get_array(dhcp, "ranges"), *hosts = js_get_array(dhcp, "hosts");

		if (dhcp && !js_get(dhcp, "lease_seconds") && !js_get(dhcp, "boot_file") && (!ranges || !json_object_array_length(ranges)) &&
			(!hosts || !json_object_array_length(hosts)))
			json_object_object_del(of, "dhcp");
	}
}

/* Change a definition and send it. was: as it was read. inactive: that of the next start. */
static int change_send_from(struct cli *c, const struct change *x, bool inactive, struct json_object *was, struct err *e)
{
	CLEANUP_JS struct json_object *now = NULL, *answer = NULL;
	struct json_object *args;
	int r = 0;

	if (json_object_deep_copy(was, &now, NULL) < 0)
		r = err_set_errno(e, -ENOMEM, "the definition");
	if (!r)
		r = change_apply(c, x, now, e);
	if (r < 0)
		return r;
	dhcp_clean(now);
	args = inactive ? json_object_new_object() : cli_net_args(c->pos[0]);
	js_put(args, "definition", json_object_get(now));
	js_put(args, "was", json_object_get(was));
	r = cli_execute(c, inactive ? "net-define" : "net-update", args, &answer, NULL, e);
	if (!r)
		warnings_print(js_get_array(answer, "warnings"));
	return r;
}

/* Read the definition again into *ret. Returns whether it has changed. */
static bool has_changed(struct cli *c, bool inactive, struct json_object *was, struct json_object **ret)
{
	struct err e;

	return !net_definition_read(c, c->pos[0], inactive, ret, &e) && !json_object_equal(*ret, was);
}

/* Read a definition, change it and send it. If another client has changed it meanwhile, begin anew. */
static int change_send(struct cli *c, const struct change *x, bool inactive, struct err *e)
{
	CLEANUP_JS struct json_object *now = NULL;
	int r = net_definition_read(c, c->pos[0], inactive, &now, e);

	for (unsigned tries = 1; !r; tries++) {
		CLEANUP_JS struct json_object *was = STEAL_PTR(now);

		r = change_send_from(c, x, inactive, was, e);
		if (r >= 0 || e->cls != ERR_BUSY || tries == TRIES_MAX || !has_changed(c, inactive, was, &now))
			return r;
		r = 0;
	}
	return r;
}

static int network_is_active(struct cli *c, bool *ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	int r = cli_execute(c, "net-info", cli_net_args(c->pos[0]), &o, NULL, e);

	*ret = !strcmp(js_get_str_or(o, "state", ""), "active");
	return r;
}

int verb_net_update(struct cli *c)
{
	bool live = option_flag(c, "live"), config = option_flag(c, "config"), active = false, half = false;
	struct change x = { .entry = NULL };
	struct err e;
	int r = act_parse(c, &x.act);

	if (!r)
		r = section_parse(c, &x.section);
	if (r)
		return r;
	if (option_flag(c, "current") && (live || config))
		return cli_usage(c, "--current excludes --live and --config");
	r = entry_parse(c, &x, &e);
	if (!r && !live && !config) {
		r = network_is_active(c, &active, &e);
		live = active;
		config = !active;
	}
	if (!r && live)
		r = change_send(c, &x, false, &e);
	if (!r && config) {
		r = change_send(c, &x, true, &e);
		half = live && r < 0;
	}
	json_object_put(x.entry);
	if (r < 0)
		return cli_fail(&e, "Failed to update network %s%s", c->pos[0], half ? "; its live state is changed, but not its persistent config" : "");
	say("Updated network %s %s\n", c->pos[0], live && config ? "persistent config and live state" : live ? "live state" : "persistent config");
	return CLI_OK;
}
