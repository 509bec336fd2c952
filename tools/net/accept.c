#include "tools/net/accept.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/net/legacy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NFT_NAME_MAX 128
#define CHAINS_MAX 32
#define DOCKER_CHAIN "DOCKER-USER"
#define BRIDGED "/proc/sys/net/bridge/bridge-nf-call-"

/* A chain of somebody else's in which the rules belong. */
struct chain {
	char family[8], table[NFT_NAME_MAX], name[NFT_NAME_MAX];
	struct json_object *owner, *rules; /* the listing; owner is owned */
	bool drops;
	bool is_owned; /* the table belongs to another process, so Cairn cannot change the chain */
};

struct chains {
	struct chain list[CHAINS_MAX];
	size_t n;
};

static void chains_done(struct chains *c)
{
	for (size_t i = 0; i < c->n; i++)
		json_object_put(c->list[i].owner);
}

/* ---- reading ---- */

/* Whether a rule applies to every packet and ends its way: nothing but counters and logs before a drop. iptables' own
 * targets, such as REJECT, show as "xt". */
static bool rule_drops_all(struct json_object *rule)
{
	struct json_object *expr = js_get_array(rule, "expr");
	bool drops = false;

	for (size_t i = 0; expr && i < json_object_array_length(expr); i++) {
		struct json_object *x = json_object_array_get_idx(expr, i);

		if (json_object_object_get_ex(x, "drop", NULL) || json_object_object_get_ex(x, "reject", NULL) ||
			json_object_object_get_ex(x, "xt", NULL))
			drops = true;
		else if (!json_object_object_get_ex(x, "counter", NULL) && !json_object_object_get_ex(x, "log", NULL))
			return false;
	}
	return drops;
}

static bool chain_drops(const char *policy, struct json_object *list)
{
	struct json_object *last = NULL;

	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *rule = js_get(json_object_array_get_idx(list, i), "rule");

		last = rule ? rule : last;
	}
	return !strcmp(policy, "drop") || (last && rule_drops_all(last));
}

static bool is_own(struct json_object *rule, const struct network *n)
{
	return rule && strstr(js_get_str_or(rule, "comment", ""), n->uuid);
}

/* Return the link that a rule requires ("iifname", "oifname"); "": any. */
static const char *rule_link(struct json_object *rule, const char *key)
{
	struct json_object *expr = js_get_array(rule, "expr");

	for (size_t i = 0; expr && i < json_object_array_length(expr); i++) {
		struct json_object *match = js_get(json_object_array_get_idx(expr, i), "match");

		if (!strcmp(js_get_str_or(js_get(js_get(match, "left"), "meta"), "key", ""), key))
			return js_get_str_or(match, "right", "");
	}
	return "";
}

static int chain_list(struct nft *nft, struct chain *c, struct err *e)
{
	char command[3 * NFT_NAME_MAX];

	snprintf(command, sizeof(command), "list chain %s %s %s", c->family, c->table, c->name);
	return nft_list(nft, command, &c->owner, &c->rules, e);
}

static bool is_foreign(const char *family, const char *table)
{
	return (!strcmp(family, "ip") || !strcmp(family, "ip6") || !strcmp(family, "inet")) && strncmp(table, "cairn_", 6) != 0;
}

/* Return whether the table has Docker's chain for rules of users. */
static bool table_has_docker(struct json_object *list, const char *family, const char *table)
{
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *c = js_get(json_object_array_get_idx(list, i), "chain");

		if (c && !strcmp(js_get_str_or(c, "name", ""), DOCKER_CHAIN) && !strcmp(js_get_str_or(c, "family", ""), family) &&
			!strcmp(js_get_str_or(c, "table", ""), table))
			return true;
	}
	return false;
}

/* Add a base chain of the forward hook, or DOCKER-USER. */
static int chain_add(struct nft *nft, struct chains *to, struct json_object *list, struct json_object *chain, struct err *e)
{
	const char *family = js_get_str_or(chain, "family", ""), *table = js_get_str_or(chain, "table", "");
	const char *name = js_get_str_or(chain, "name", "");
	struct chain *c = &to->list[to->n];
	int r;

	if (to->n == CHAINS_MAX || !is_foreign(family, table) || !nft_name_is_plain(table) || !nft_name_is_plain(name) ||
		strlen(table) >= NFT_NAME_MAX || strlen(name) >= NFT_NAME_MAX)
		return 0;
	memset(c, 0, sizeof(*c));
	snprintf(c->family, sizeof(c->family), "%s", family);
	snprintf(c->table, sizeof(c->table), "%s", table);
	snprintf(c->name, sizeof(c->name), "%s", name);
	if (!strcmp(name, DOCKER_CHAIN))
		r = chain_list(nft, c, e);
	else if (strcmp(js_get_str_or(chain, "hook", ""), "forward") != 0)
		return 0;
	else
		r = chain_list(nft, c, e);
	if (r < 0) {
		json_object_put(c->owner);
		return r;
	}
	c->drops = !strcmp(name, DOCKER_CHAIN) ||
		(chain_drops(js_get_str_or(chain, "policy", ""), c->rules) && !table_has_docker(list, family, table));
	to->n++;
	return 0;
}

static void owners_find(struct chains *c, const struct nft_table *tables, size_t n)
{
	for (size_t i = 0; i < c->n; i++)
		for (size_t k = 0; k < n; k++)
			if (!strcmp(c->list[i].family, tables[k].family) && !strcmp(c->list[i].table, tables[k].name))
				c->list[i].is_owned = tables[k].is_owned;
}

static int chains_find(struct nft *nft, struct chains *ret, struct err *e)
{
	CLEANUP_JS struct json_object *owner = NULL;
	CLEANUP_FREE struct nft_table *tables = NULL;
	struct json_object *list;
	size_t n = 0;
	int r = nft_list(nft, "list chains", &owner, &list, e);

	ret->n = 0;
	if (!r)
		r = nft_tables(nft, &tables, &n, e);
	for (size_t i = 0; !r && i < json_object_array_length(list); i++) {
		struct json_object *chain = js_get(json_object_array_get_idx(list, i), "chain");

		if (chain)
			r = chain_add(nft, ret, list, chain, e);
	}
	owners_find(ret, tables, n);
	return r;
}

/* Find out whether a rule of the table names the bridge, also by a pattern such as "virbr*": then the host's admin has
 * decided on its packets. Returns 0; -errno. */
static int table_names(struct nft *nft, const struct chain *c, const char *bridge, bool *ret, struct err *e)
{
	char command[2 * NFT_NAME_MAX];
	const char *text, *end;
	int r;

	*ret = false;
	snprintf(command, sizeof(command), "list table %s %s", c->family, c->table);
	r = nft_print(nft, command, &text, e);
	if (r < 0)
		return r;
	for (; (text = strchr(text, '"')) && (end = strchr(text + 1, '"')); text = end + 1) {
		size_t len = (size_t)(end - text - 1);
		bool is_pattern = len && end[-1] == '*';

		*ret |= is_pattern ? !strncmp(bridge, text + 1, len - 1) : len == strlen(bridge) && !strncmp(bridge, text + 1, len);
	}
	return 0;
}

/* ---- rules ---- */

/* Find the links to and from which the chain has to accept packets. One is the bridge, for packets from guest to guest:
 * where br_netfilter is on, the chains of both families see them, also those of a family in which the network has no
 * addresses. */
static void partners_find(const struct chain *c, const struct network *n, const struct uplinks *up, struct names *ret)
{
	bool v4 = strcmp(c->family, "ip6") != 0, v6 = strcmp(c->family, "ip") != 0;

	ret->n = 0;
	names_add(ret, n->bridge);
	for (size_t i = 0; v4 && i < up->ipv4.n; i++)
		names_add(ret, up->ipv4.list[i]);
	for (size_t i = 0; v6 && i < up->ipv6.n; i++)
		names_add(ret, up->ipv6.list[i]);
}

static void rule_print(FILE *f, const struct chain *c, const struct network *n, const char *in, const char *out)
{
	fprintf(f, "insert rule %s %s %s iifname \"%s\" oifname \"%s\" counter accept comment \"network %s %s\"\n", c->family, c->table,
		c->name, in, out, n->name, n->uuid);
}

static void rules_print(FILE *f, const struct chain *c, const struct network *n, const struct uplinks *up)
{
	struct names links;

	partners_find(c, n, up, &links);
	for (size_t i = 0; i < links.n; i++) {
		rule_print(f, c, n, n->bridge, links.list[i]);
		if (strcmp(links.list[i], n->bridge) != 0)
			rule_print(f, c, n, links.list[i], n->bridge);
	}
}

/* Return whether the network's rules in the chain are those that rules_print() prints. */
static bool rules_are_complete(const struct chain *c, const struct network *n, const struct uplinks *up)
{
	size_t count = 0, expected = 0;
	struct names links;

	partners_find(c, n, up, &links);
	for (size_t i = 0; i < json_object_array_length(c->rules); i++) {
		struct json_object *rule = js_get(json_object_array_get_idx(c->rules, i), "rule");
		const char *in = rule_link(rule, "iifname"), *out = rule_link(rule, "oifname");

		if (!is_own(rule, n))
			continue;
		count++;
		expected += (!strcmp(in, n->bridge) && names_have(&links, out)) || (!strcmp(out, n->bridge) && names_have(&links, in));
	}
	return count == expected && count == 2 * links.n - 1;
}

static void deletions_print(FILE *f, const struct chain *c, const struct network *n)
{
	for (size_t i = 0; i < json_object_array_length(c->rules); i++) {
		struct json_object *rule = js_get(json_object_array_get_idx(c->rules, i), "rule");

		if (is_own(rule, n))
			fprintf(f, "delete rule %s %s %s handle %lld\n", c->family, c->table, c->name,
				(long long)js_get_int(rule, "handle", 0));
	}
}

/* Run the commands for one chain. Returns 1; 0: there are none; -errno. */
static int chain_change(struct nft *nft, const struct chain *c, const struct network *n, const struct uplinks *up, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	int r;

	if (!f)
		return err_set_errno(e, -ENOMEM, "rules");
	deletions_print(f, c, n);
	if (up && c->drops)
		rules_print(f, c, n, up);
	if (fclose(f))
		return err_set_errno(e, -ENOMEM, "rules");
	r = len ? nft_run(nft, text, e) : 0;
	return r < 0 ? r : len > 0;
}

/* Name the command that lets the packets pass. */
static void chain_note(const struct chain *c, const struct network *n, const struct err *why, note_fn *note, void *arg)
{
	char text[ERR_SENTENCE_MAX + 512];
	bool firewalld = !strcmp(c->table, "firewalld");

	snprintf(text, sizeof(text), "the chain '%s %s %s' of another firewall drops what network '%s' forwards, and cannot be changed "
		"(%.120s); run: %s%s%s", c->family, c->table, c->name, n->name, why->msg,
		firewalld ? "firewall-cmd --zone=trusted --add-interface=" : "ufw route allow in on ", n->bridge,
		firewalld ? "" : " (with ufw), or accept its packets there");
	note(arg, text);
}

static bool file_has(const char *path, const char *what)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;

	return file_read(path, 4096, &text, &len, NULL) == 0 && strstr(text, what);
}

/* ---- iptables-legacy ---- */

/* The effect of one family's filter table on packets from one link to another. */
struct legacy_family {
	bool given; /* the network has packets that this family's table sees */
	bool ipv6;
	const struct names *uplinks;
	const char *program, *bridged;
};

static size_t command_print(FILE *f, const struct legacy_family *l, const struct legacy_table *t, const char *in, const char *out,
	bool answers, size_t before)
{
	if (t->entries && !legacy_table_drops(t, in, out, answers))
		return 0;
	fprintf(f, "%s%s -I FORWARD -i %s -o %s -j ACCEPT", before ? " && " : "", l->program, in, out);
	return 1;
}

/* Print the commands that accept the packets that the table drops. Returns their number. */
static size_t commands_print(FILE *f, const struct legacy_family *l, const struct legacy_table *t, const struct network *n)
{
	size_t count = 0;

	if (file_has(l->bridged, "1"))
		count += command_print(f, l, t, n->bridge, n->bridge, false, count);
	for (size_t i = 0; i < l->uplinks->n; i++) {
		count += command_print(f, l, t, n->bridge, l->uplinks->list[i], false, count);
		count += command_print(f, l, t, l->uplinks->list[i], n->bridge, true, count);
	}
	return count;
}

static void legacy_note(const struct network *n, const struct legacy_family *l, note_fn *note, void *arg)
{
	struct legacy_table t CLEANUP(legacy_table_done) = { 0 };
	int r = legacy_table_read(l->ipv6, &t);
	CLEANUP_FREE char *text = NULL;
	size_t len, count;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return;
	fprintf(f, "the firewall of %s, which nftables does not show (as Docker's may be), %s packets of network '%s'; run: ", l->program,
		r < 0 ? "may drop" : "drops", n->name);
	count = commands_print(f, l, &t, n);
	if (!fclose(f) && count)
		note(arg, text);
}

void accept_legacy_notes(const struct network *n, const struct uplinks *up, note_fn *note, void *arg)
{
	bool forwarded = network_is_forwarded(n);
	const struct legacy_family families[] = {
		{ n->ipv4.given || !forwarded, false, &up->ipv4, "iptables-legacy", BRIDGED "iptables" },
		{ n->ipv6.given || !forwarded, true, &up->ipv6, "ip6tables-legacy", BRIDGED "ip6tables" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		if (families[i].given && legacy_table_exists(families[i].ipv6))
			legacy_note(n, &families[i], note, arg);
}

int accept_add(struct nft *nft, const struct network *n, const struct uplinks *up, note_fn *note, void *arg, struct err *e)
{
	struct chains chains CLEANUP(chains_done) = { .n = 0 };
	int r = n->mode == MODE_OPEN ? 0 : chains_find(nft, &chains, e);

	for (size_t i = 0; i < chains.n && !r; i++) {
		bool done = false;
		struct err why;

		if (chain_change(nft, &chains.list[i], n, up, &why) >= 0)
			continue;
		if (chains.list[i].is_owned)
			r = table_names(nft, &chains.list[i], n->bridge, &done, e);
		if (!r && !done)
			chain_note(&chains.list[i], n, &why, note, arg);
	}
	if (!r)
		accept_legacy_notes(n, up, note, arg);
	return r;
}

int accept_remove(struct nft *nft, const struct network *n, note_fn *removed, void *arg, struct err *e)
{
	struct chains chains CLEANUP(chains_done) = { .n = 0 };
	int r = chains_find(nft, &chains, e);

	for (size_t i = 0; i < chains.n && r >= 0; i++) {
		const struct chain *c = &chains.list[i];
		char text[3 * NFT_NAME_MAX];

		r = chain_change(nft, c, n, NULL, e);
		if (r <= 0)
			continue;
		snprintf(text, sizeof(text), "rules in %s %s %s", c->family, c->table, c->name);
		removed(arg, text);
	}
	return r < 0 ? r : 0;
}

int accept_is_complete(struct nft *nft, const struct network *n, const struct uplinks *up, struct err *e)
{
	struct chains chains CLEANUP(chains_done) = { .n = 0 };
	int r = n->mode == MODE_OPEN ? 0 : chains_find(nft, &chains, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < chains.n; i++) {
		bool done = !chains.list[i].drops || rules_are_complete(&chains.list[i], n, up);

		if (!done && chains.list[i].is_owned)
			r = table_names(nft, &chains.list[i], n->bridge, &done, e);
		if (r < 0 || !done)
			return r;
	}
	return 1;
}
