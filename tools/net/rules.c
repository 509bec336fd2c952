#include "tools/net/rules.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/net/egress_rules.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DNS_PORTS "meta l4proto { tcp, udp } th dport 53"

struct prefix_text {
	char text[ADDRESS_TEXT_MAX + 4];
};

static const char *prefix_print(const struct subnet *s, struct prefix_text *buf)
{
	struct address first = address_network(&s->address, s->prefix);
	char text[ADDRESS_TEXT_MAX];

	snprintf(buf->text, sizeof(buf->text), "%s/%u", address_print(&first, text), s->prefix);
	return buf->text;
}

static void set_print(FILE *f, const char *name, const struct names *list)
{
	fprintf(f, "set %s { type ifname;", name);
	for (size_t i = 0; i < list->n; i++)
		fprintf(f, "%s\"%s\"", i ? ", " : " elements = { ", list->list[i]);
	fprintf(f, "%s }\n", list->n ? " };" : "");
}

/* Let packets of one family pass. The rules see packets of both directions. */
static void pass_print(FILE *f, const struct network *n, const struct subnet *s, const char *family)
{
	bool masked = n->mode == MODE_NAT && (!strcmp(family, "ip") || s->nat);
	char out[64] = "", in[64] = "";
	struct prefix_text net;

	if (!s->given)
		return;
	if (n->dev) {
		snprintf(out, sizeof(out), "oifname \"%s\" ", n->dev);
		snprintf(in, sizeof(in), "iifname \"%s\" ", n->dev);
	}
	prefix_print(s, &net);
	fprintf(f, "%soifname \"%s\" %s daddr %s %saccept\n", in, n->bridge, family, net.text,
		masked ? "ct state established,related " : "");
	fprintf(f, "iifname \"%s\" %s%s saddr %s accept\n", n->bridge, out, family, net.text);
}

static void forward_print(FILE *f, const struct network *n, const struct service *s)
{
	egress_rules_print(f, n, s);
	fputs("chain forward {\ntype filter hook forward priority filter; policy accept;\n", f);
	forwarding_guard_print(f, n);
	egress_forward_print(f, n);
	if (n->mode != MODE_OPEN) {
		fprintf(f, "iifname \"%s\" oifname \"%s\" accept\n", n->bridge, n->bridge);
		if (n->mode != MODE_ISOLATED) {
			pass_print(f, n, &n->ipv4, "ip");
			pass_print(f, n, &n->ipv6, "ip6");
		}
		fprintf(f, "oifname \"%s\" reject\niifname \"%s\" reject\n", n->bridge, n->bridge);
	}
	fputs("}\n", f);
}

/* The host answers no question of ARP there (operation.c), and takes no packet: guests may have addresses that it also
 * knows on other links. */
static void apart_print(FILE *f, const struct network *n)
{
	if (network_is_apart(n))
		fprintf(f, "chain input {\ntype filter hook input priority filter; policy accept;\niifname \"%s\" drop\n}\n", n->bridge);
}

/* Multicast on the link and broadcasts keep their source address. */
static void masquerade_print(FILE *f, const struct network *n, const struct subnet *s, const char *family, const char *local)
{
	struct prefix_text net;
	char out[64] = "";

	if (n->dev)
		snprintf(out, sizeof(out), "oifname \"%s\" ", n->dev);
	prefix_print(s, &net);
	fprintf(f, "%s saddr %s %s daddr { %s, %s } return\n", family, net.text, family, net.text, local);
	fprintf(f, "%s%s saddr %s meta l4proto { tcp, udp } masquerade to :1024-65535\n", out, family, net.text);
	fprintf(f, "%s%s saddr %s masquerade\n", out, family, net.text);
}

static void postrouting_print(FILE *f, const struct network *n, const struct service *s)
{
	char text[ADDRESS_TEXT_MAX];

	fputs("chain postrouting {\ntype nat hook postrouting priority srcnat; policy accept;\n", f);
	/* Answers to questions that were led to dnsmasq have to come back by the host. */
	if (s->ipv4.family)
		fprintf(f, "oifname \"%s\" ip daddr %s " DNS_PORTS " ct status dnat masquerade\n", n->bridge, address_print(&s->ipv4, text));
	if (s->ipv6.family)
		fprintf(f, "oifname \"%s\" ip6 daddr %s " DNS_PORTS " ct status dnat masquerade\n", n->bridge,
			address_print(&s->ipv6, text));
	if (n->mode == MODE_NAT && n->ipv4.given)
		masquerade_print(f, n, &n->ipv4, "ip", "224.0.0.0/24, 255.255.255.255");
	if (n->mode == MODE_NAT && n->ipv6.given && n->ipv6.nat)
		masquerade_print(f, n, &n->ipv6, "ip6", "ff00::/8");
	fputs("}\n", f);
}

/* Questions to the bridge's address, as guests of libvirt's networks ask them, are led to dnsmasq. */
static void gateway_dns_print(FILE *f, const char *from, const struct subnet *subnet, const struct address *service, const char *family)
{
	char gateway[ADDRESS_TEXT_MAX], text[ADDRESS_TEXT_MAX];

	if (service->family)
		fprintf(f, "%s%s daddr %s " DNS_PORTS " dnat %s to %s\n", from, family, address_print(&subnet->address, gateway), family,
			address_print(service, text));
}

static void dns_print(FILE *f, const struct network *n, const struct service *s)
{
	char from[48];

	if (!n->dns)
		return;
	snprintf(from, sizeof(from), "iifname \"%s\" ", n->bridge);
	fputs("chain prerouting {\ntype nat hook prerouting priority dstnat; policy accept;\n", f);
	gateway_dns_print(f, from, &n->ipv4, &s->ipv4, "ip");
	gateway_dns_print(f, from, &n->ipv6, &s->ipv6, "ip6");
	fputs("}\nchain output {\ntype nat hook output priority -100; policy accept;\n", f);
	gateway_dns_print(f, "", &n->ipv4, &s->ipv4, "ip");
	gateway_dns_print(f, "", &n->ipv6, &s->ipv6, "ip6");
	fputs("}\n", f);
}

/* dnsmasq sends router advertisements, so the guests take its end of the veth for the router. The bridge passes the
 * frames that they send through it to the host. */
static void bridge_print(FILE *f, const struct network *n, const struct service *s)
{
	char mac[MAC_TEXT_MAX], own[MAC_TEXT_MAX], text[ADDRESS_TEXT_MAX];

	fprintf(f, "add table bridge %s\ndelete table bridge %s\ntable bridge %s {\n", n->table, n->table, n->table);
	fprintf(f, "comment \"network %s\"\n", n->name);
	fputs("chain prerouting {\ntype filter hook prerouting priority dstnat; policy accept;\n", f);
	/* The address is the network's own, so the rules need not name the bridge: "meta ibrname" is a module that
	 * kernels may lack. */
	egress_bridge_print(f, n);
	if (s->ipv6.family)
		fprintf(f, "ether daddr %s ip6 daddr != { %s, fe80::/10, ff00::/8 } ether daddr set %s meta pkttype set host\n",
		mac_print(n->veth_mac, own), address_print(&s->ipv6, text), mac_print(n->mac, mac));
	fputs("}\n}\n", f);
}

/* ---- the present rules ---- */

static int tables_each(struct nft *nft, const struct network *n, void (*found)(void *, const char *family, const char *name),
	void *arg, struct err *e)
{
	CLEANUP_FREE struct nft_table *list = NULL;
	size_t count = 0;
	int r = nft_tables(nft, &list, &count, e);

	for (size_t i = 0; i < count; i++)
		if (!strncmp(list[i].name, n->table, strlen(n->table)) && nft_name_is_plain(list[i].name))
			found(arg, list[i].family, list[i].name);
	return r;
}

static void table_found(void *arg, const char *family, const char *name)
{
	(void)name;
	*(bool *)arg |= !strcmp(family, "inet");
}

int rules_are_there(struct nft *nft, const struct network *n, struct err *e)
{
	bool found = false;
	int r = tables_each(nft, n, table_found, &found, e);

	return r < 0 ? r : found;
}

/* ---- all rules ---- */

/* Print the removal of the table's content, except the open addresses of names that the rules still have. These must
 * never be missing, and cairn-dns adds to them at any time. */
static int table_empty(FILE *f, struct nft *nft, const struct network *n, struct err *e)
{
	static const char *const objects[] = { "chain forward", "chain input", "chain notices", "chain prerouting", "chain output",
		"chain postrouting", "chain egress", "chain egress_host", "chain notice", "chain denied", "counter " EGRESS_COUNTER,
		"counter " EGRESS_QUESTIONS };
	CLEANUP_JS struct json_object *owner = NULL;
	struct json_object *list;
	char command[ID_MAX + 64], kind[16];
	int r = rules_are_there(nft, n, e);

	if (r <= 0) {
		fprintf(f, "add table inet %s\n", n->table);
		return r;
	}
	snprintf(command, sizeof(command), "list sets table inet %s", n->table);
	r = nft_list(nft, command, &owner, &list, e);
	fprintf(f, "flush table inet %s\n", n->table);
	for (size_t i = 0; i < ARRAY_SIZE(objects); i++) {
		const char *name = strchr(objects[i], ' ') + 1;

		snprintf(kind, sizeof(kind), "%.*s", (int)(name - objects[i] - 1), objects[i]);
		/* Add missing elements first: old versions of nft have no "destroy". */
		fprintf(f, "add %s inet %s %s\ndelete %s inet %s %s\n", kind, n->table, name, kind, n->table, name);
	}
	for (size_t i = 0; !r && i < json_object_array_length(list); i++) {
		struct json_object *set = js_get(json_object_array_get_idx(list, i), "set");
		const char *name = js_get_str_or(set, "name", "");

		/* nft 1.0.6 lists the sets of all tables. */
		if (!strcmp(js_get_str_or(set, "family", ""), "inet") && !strcmp(js_get_str_or(set, "table", ""), n->table) &&
			nft_name_is_plain(name) && !egress_has_set(n, name))
			fprintf(f, "delete set inet %s %s\n", n->table, name);
	}
	return r < 0 ? r : 0;
}

int rules_apply(struct nft *nft, const struct network *n, const struct service *s, const struct forwarding *fw, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	int r;

	if (!f)
		return err_set_errno(e, -ENOMEM, "rules");
	r = table_empty(f, nft, n, e);
	fprintf(f, "table inet %s {\ncomment \"network %s\"\n", n->table, n->name);
	set_print(f, SET_IPV4, &fw->ipv4);
	set_print(f, SET_IPV6, &fw->ipv6);
	set_print(f, SET_GUARD_IPV4, &fw->guard_ipv4);
	set_print(f, SET_GUARD_IPV6, &fw->guard_ipv6);
	set_print(f, SET_ACCEPT_RA, &fw->accept_ra);
	forward_print(f, n, s);
	apart_print(f, n);
	postrouting_print(f, n, s);
	dns_print(f, n, s);
	fputs("}\n", f);
	if (s->ipv6.family || network_has_names(n))
		bridge_print(f, n, s);
	else
		fprintf(f, "add table bridge %s\ndelete table bridge %s\n", n->table, n->table);
	if (fclose(f))
		return err_set_errno(e, -ENOMEM, "rules");
	return r < 0 ? r : nft_run(nft, text, e);
}

/* ---- removal ---- */

static void table_delete(void *arg, const char *family, const char *name)
{
	fprintf(arg, "delete table %s %s\n", family, name);
}

int rules_remove(struct nft *nft, const struct network *n, void (*removed)(void *arg, const char *what), void *arg, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	int r = f ? tables_each(nft, n, table_delete, f, e) : -ENOMEM;

	if (!f || fclose(f))
		return err_set_errno(e, -ENOMEM, "rules");
	if (!r && len)
		r = nft_run(nft, text, e);
	for (char *save, *line = strtok_r(text, "\n", &save); !r && line; line = strtok_r(NULL, "\n", &save))
		removed(arg, line + strlen("delete table "));
	return r;
}
