/* Filters of a VM's tap, in a table of the bridge family: the guest uses its own MAC address, and IPv4 addresses that
 * are its own: fixed ones, and those that this network's dnsmasq has leased to it. A rule reads these from DHCP's
 * answers, so nobody has to follow the leases. Each change of the table also removes the rules of taps that are gone,
 * because a daemon that was killed has not removed them. */
#include "tools/net/operation.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "tools/net/dnsmasq.h"
#include "tools/net/leases.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Offsets in bits from the UDP header, with its 8 bytes, in an answer of DHCP (RFC 2131, section 2): the client's new
 * address, its MAC address, and the first option, with which dnsmasq says that the message is an ACK. */
#define DHCP_YIADDR "@th,192,32"
#define DHCP_CHADDR "@th,288,48"
#define DHCP_IS_ACK "@th,1984,24 0x350105"
/* Offset of the target in a neighbour advertisement (RFC 4861, section 4.4). */
#define ND_TARGET "@th,64,128"

/* The text of one port's commands. */
struct port_text {
	FILE *f;
	const struct request *req;
	const struct dnsmasq *d;
	char table[ID_MAX + 8];
	const char *tap;
};

/* ---- bringing the table into a known state ---- */

/* Remove what there may be of the port. Adding first makes each deletion possible. */
static void port_clear(const struct port_text *t)
{
	static const char *const maps[] = { "in", "out" };

	for (size_t i = 0; i < 2; i++) {
		fprintf(t->f, "add chain bridge %s %s_%s\nflush chain bridge %s %s_%s\n", t->table, maps[i], t->tap, t->table, maps[i], t->tap);
		fprintf(t->f, "add element bridge %s ports_%s { \"%s\" : jump %s_%s }\n", t->table, maps[i], t->tap, maps[i], t->tap);
		fprintf(t->f, "delete element bridge %s ports_%s { \"%s\" }\n", t->table, maps[i], t->tap);
		fprintf(t->f, "delete chain bridge %s %s_%s\n", t->table, maps[i], t->tap);
	}
}

static void sets_delete(const struct port_text *t, struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		const char *name = js_get_str_or(js_get(json_object_array_get_idx(list, i), "set"), "name", "");
		const char *tap = strchr(name, '_');

		if (tap && !strcmp(tap + 1, t->tap))
			fprintf(t->f, "delete set bridge %s %s\n", t->table, name);
	}
}

static void table_print(const struct port_text *t)
{
	fprintf(t->f, "add table bridge %s\n", t->table);
	fprintf(t->f, "add map bridge %s ports_in { type ifname : verdict; }\nadd map bridge %s ports_out { type ifname : verdict; }\n", t->table,
		t->table);
	fprintf(t->f, "add chain bridge %s prerouting { type filter hook prerouting priority filter; policy accept; }\n", t->table);
	fprintf(t->f, "add chain bridge %s forward { type filter hook forward priority filter; policy accept; }\n", t->table);
	fprintf(t->f, "flush chain bridge %s prerouting\nflush chain bridge %s forward\n", t->table, t->table);
	fprintf(t->f, "add rule bridge %s prerouting iifname vmap @ports_in\nadd rule bridge %s forward oifname vmap @ports_out\n", t->table,
		t->table);
}

/* ---- a port's rules ---- */

static void rule(const struct port_text *t, const char *chain, const char *text)
{
	fprintf(t->f, "add rule bridge %s %s_%s %s\n", t->table, chain, t->tap, text);
}

static void element_add(const struct port_text *t, const char *set, const struct address *a, unsigned seconds)
{
	char text[ADDRESS_TEXT_MAX];

	fprintf(t->f, "add element bridge %s %s_%s { %s", t->table, set, t->tap, address_print(a, text));
	if (seconds)
		fprintf(t->f, " timeout %us", seconds);
	fputs(" }\n", t->f);
}

static bool guest_has_second_mac(const struct port *p)
{
	return memcmp(p->mac, p->guest_mac, MAC_BYTES) != 0;
}

static bool mac_is_guests(const struct port *p, const char *text)
{
	uint8_t mac[MAC_BYTES];

	return text && mac_parse(text, mac) == 0 && (!memcmp(mac, p->mac, MAC_BYTES) || !memcmp(mac, p->guest_mac, MAC_BYTES));
}

/* Add an address that a lease in dnsmasq's file gives to the guest: one of before the port was there. */
static void lease_add(void *arg, const char *line)
{
	const struct port_text *t = arg;
	const struct subnet *s = &t->req->net.ipv4;
	char expires[24], mac[64], ip[64];
	struct address a;
	long long left;

	if (sscanf(line, "%23s %63s %63s", expires, mac, ip) != 3 || !mac_is_guests(&t->req->port, mac) || address_parse(ip, AF_INET, &a) < 0 ||
		!s->given || !address_shares_prefix(&a, &s->address, s->prefix))
		return;
	left = strtoll(expires, NULL, 10);
	left = left ? left - (long long)time(NULL) : 0;
	if (left >= 0 && left < UINT32_MAX)
		element_add(t, "leased", &a, s->lease_seconds == UINT32_MAX ? 0 : (unsigned)left);
}

static int addresses_print(const struct port_text *t, struct err *e)
{
	const struct subnet *s = &t->req->net.ipv4;
	const struct port *p = &t->req->port;
	bool ends = s->lease_seconds && s->lease_seconds != UINT32_MAX;

	fprintf(t->f, "add set bridge %s fixed_%s { type ipv4_addr; }\nadd set bridge %s fixed6_%s { type ipv6_addr; }\n", t->table, t->tap, t->table,
		t->tap);
	fprintf(t->f, "add set bridge %s leased_%s { type ipv4_addr; size 64; flags dynamic%s;", t->table, t->tap, ends ? ",timeout" : "");
	if (ends)
		fprintf(t->f, " timeout %us;", s->lease_seconds);
	fputs(" }\n", t->f);
	for (size_t i = 0; i < p->naddresses; i++)
		element_add(t, p->addresses[i].family == AF_INET ? "fixed" : "fixed6", &p->addresses[i], 0);
	for (size_t i = 0; i < s->nhosts; i++)
		if (s->hosts[i].address.family && mac_is_guests(p, s->hosts[i].mac))
			element_add(t, "fixed", &s->hosts[i].address, 0);
	return leases_each(t->req, lease_add, (void *)t, e);
}

/* The link-local address that Linux gives to a link with this MAC address (RFC 4291, appendix A). */
static struct address link_local(const uint8_t mac[MAC_BYTES])
{
	return (struct address){ .family = AF_INET6, .bytes = { 0xfe, 0x80, [8] = mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5] } };
}

/* Drop neighbour advertisements for an address that no guest has. */
static void advertisement_drop(const struct port_text *t, const struct address *a)
{
	char text[128];
	int len = snprintf(text, sizeof(text), "icmpv6 type nd-neighbor-advert " ND_TARGET " 0x");

	for (size_t i = 0; i < sizeof(a->bytes); i++)
		len += snprintf(text + len, sizeof(text) - (size_t)len, "%02x", a->bytes[i]);
	snprintf(text + len, sizeof(text) - (size_t)len, " drop");
	rule(t, "in", text);
}

static void ipv6_print(const struct port_text *t)
{
	const struct network *n = &t->req->net;
	struct address bridge = link_local(n->mac), service = link_local(n->veth_mac), first;
	char a[ADDRESS_TEXT_MAX], b[ADDRESS_TEXT_MAX], c[ADDRESS_TEXT_MAX], d[ADDRESS_TEXT_MAX], own[5 * ADDRESS_TEXT_MAX], text[8 * ADDRESS_TEXT_MAX];

	/* Not by "nexthdr", which sees the first header only: a guest could put another one before. */
	rule(t, "in", "meta protocol ip6 meta l4proto ipv6-icmp icmpv6 type { nd-router-advert, nd-redirect } drop");
	rule(t, "in", "meta protocol ip6 udp sport 547 drop");
	if (n->ipv6.given) {
		snprintf(own, sizeof(own), "{ %s, %s, %s, %s }", address_print(&bridge, a), address_print(&service, b),
			address_print(&n->ipv6.address, c), address_print(&t->d->service.ipv6, d));
		snprintf(text, sizeof(text), "ip6 saddr %s drop", own);
		rule(t, "in", text);
		advertisement_drop(t, &bridge);
		advertisement_drop(t, &service);
		advertisement_drop(t, &n->ipv6.address);
		advertisement_drop(t, &t->d->service.ipv6);
		first = address_network(&n->ipv6.address, n->ipv6.prefix);
		snprintf(text, sizeof(text), "ip6 saddr %s/%u accept", address_print(&first, a), n->ipv6.prefix);
		rule(t, "in", text);
	}
	snprintf(text, sizeof(text), "ip6 saddr @fixed6_%s accept", t->tap);
	rule(t, "in", text);
	rule(t, "in", "ip6 saddr { ::, fe80::/64 } accept");
}

static void macs_print(const struct port_text *t)
{
	const struct port *p = &t->req->port;
	char mac[MAC_TEXT_MAX], second[MAC_TEXT_MAX], macs[2 * MAC_TEXT_MAX + 8], text[200];

	mac_print(p->mac, mac);
	if (guest_has_second_mac(p))
		snprintf(macs, sizeof(macs), "{ %s, %s }", mac, mac_print(p->guest_mac, second));
	else
		snprintf(macs, sizeof(macs), "%s", mac);
	snprintf(text, sizeof(text), "ether saddr != %s drop", macs);
	rule(t, "in", text);
	snprintf(text, sizeof(text), "arp saddr ether != %s drop", macs);
	rule(t, "in", text);
}

/* Without DHCP, nobody says which addresses are whose: the guest may have each of the network but the host's own. */
static void unleased_print(const struct port_text *t)
{
	static const char *const protocols[] = { "arp saddr ip", "ip saddr" };
	const struct subnet *s = &t->req->net.ipv4;
	const struct address *service = &t->d->service.ipv4;
	char a[ADDRESS_TEXT_MAX], b[ADDRESS_TEXT_MAX], text[4 * ADDRESS_TEXT_MAX];
	struct address first = address_network(&s->address, s->prefix);

	for (size_t i = 0; i < 2 && s->given; i++) {
		snprintf(text, sizeof(text), "%s { %s%s%s } drop", protocols[i], address_print(&s->address, a), service->family ? ", " : "",
			service->family ? address_print(service, b) : "");
		rule(t, "in", text);
		snprintf(text, sizeof(text), "%s %s/%u accept", protocols[i], address_print(&first, a), s->prefix);
		rule(t, "in", text);
	}
	if (!s->given && !t->req->net.ipv6.given) /* the guests' own choice */
		rule(t, "in", "meta protocol { arp, ip, ip6 } accept");
}

static void filter_print(const struct port_text *t)
{
	char text[200];

	macs_print(t);
	snprintf(text, sizeof(text), "arp saddr ip @fixed_%s accept", t->tap);
	rule(t, "in", text);
	snprintf(text, sizeof(text), "arp saddr ip @leased_%s accept", t->tap);
	rule(t, "in", text);
	rule(t, "in", "arp saddr ip 0.0.0.0 accept"); /* a probe */
	rule(t, "in", "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept");
	rule(t, "in", "meta protocol ip udp sport 67 drop"); /* a DHCP server */
	snprintf(text, sizeof(text), "ip saddr @fixed_%s accept", t->tap);
	rule(t, "in", text);
	snprintf(text, sizeof(text), "ip saddr @leased_%s accept", t->tap);
	rule(t, "in", text);
	ipv6_print(t);
	if (!t->req->net.ipv4.dhcp)
		unleased_print(t);
	rule(t, "in", "drop");
}

/* Add addresses from this network's DHCP answers to the guest with this MAC address. */
static void learning_print(const struct port_text *t, const uint8_t m[MAC_BYTES])
{
	char text[300];

	snprintf(text, sizeof(text), "iifname \"%s\" udp sport 67 udp dport 68 " DHCP_CHADDR " 0x%02x%02x%02x%02x%02x%02x " DHCP_IS_ACK " "
		DHCP_YIADDR " != 0 update @leased_%s { " DHCP_YIADDR " }", t->req->net.veth, m[0], m[1], m[2], m[3], m[4], m[5], t->tap);
	rule(t, "out", text);
}

/* Ports with the flag "isolated" exchange no frames; this keeps them from doing so by the host, which would route. */
static void detour_print(const struct port_text *t, const struct subnet *s, const struct address *service, const char *family)
{
	char a[ADDRESS_TEXT_MAX], b[ADDRESS_TEXT_MAX], c[ADDRESS_TEXT_MAX], own[MAC_TEXT_MAX], veth[MAC_TEXT_MAX], text[5 * ADDRESS_TEXT_MAX];
	struct address first = address_network(&s->address, s->prefix);

	if (!s->given)
		return;
	snprintf(text, sizeof(text), "ether daddr { %s, %s } %s daddr %s/%u %s daddr != { %s%s%s } drop", mac_print(t->req->net.mac, own),
		mac_print(t->req->net.veth_mac, veth), family, address_print(&first, a), s->prefix, family, address_print(&s->address, b),
		service->family ? ", " : "", service->family ? address_print(service, c) : "");
	rule(t, "in", text);
}

static int port_print(const struct port_text *t, struct err *e)
{
	const struct port *p = &t->req->port;
	int r = 0;

	fprintf(t->f, "add chain bridge %s in_%s\nadd chain bridge %s out_%s\n", t->table, t->tap, t->table, t->tap);
	if (p->isolated) {
		detour_print(t, &t->req->net.ipv4, &t->d->service.ipv4, "ip");
		detour_print(t, &t->req->net.ipv6, &t->d->service.ipv6, "ip6");
	}
	if (p->filter) {
		r = addresses_print(t, e);
		filter_print(t);
		learning_print(t, p->mac);
		if (guest_has_second_mac(p))
			learning_print(t, p->guest_mac);
	}
	fprintf(t->f, "add element bridge %s ports_in { \"%s\" : jump in_%s }\n", t->table, t->tap, t->tap);
	fprintf(t->f, "add element bridge %s ports_out { \"%s\" : jump out_%s }\n", t->table, t->tap, t->tap);
	return r;
}

/* ---- verbs ---- */

/* List the sets of the ports' table. Returns 1; 0: there is no such table; -errno. */
static int sets_list(struct operation *o, const char *table, struct json_object **owner, struct json_object **list, struct err *e)
{
	CLEANUP_JS struct json_object *tables = NULL;
	struct json_object *all;
	char command[ID_MAX + 32];
	int r = nft_list(o->nft, "list tables bridge", &tables, &all, e), found = 0;

	for (size_t i = 0; !r && i < json_object_array_length(all); i++)
		found |= !strcmp(js_get_str_or(js_get(json_object_array_get_idx(all, i), "table"), "name", ""), table);
	if (!found)
		return r;
	snprintf(command, sizeof(command), "list table bridge %s", table);
	r = nft_list(o->nft, command, owner, list, e);
	return r < 0 ? r : 1;
}

/* Remove the ports of taps that are gone. */
static void gone_clear(struct operation *o, const struct port_text *t, struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		const char *chain = js_get_str_or(js_get(json_object_array_get_idx(list, i), "chain"), "name", "");
		struct port_text gone = *t;
		struct link tap;

		if (strncmp(chain, "in_", strlen("in_")))
			continue;
		gone.tap = chain + strlen("in_");
		if (!strcmp(gone.tap, t->tap) || !link_name_is_valid(gone.tap) || link_find(o->links, gone.tap, &tap, NULL) < 0 || tap.index)
			continue;
		port_clear(&gone);
		sets_delete(&gone, list);
	}
}

static int port_change(struct operation *o, const struct dnsmasq *d, bool up, struct err *e)
{
	CLEANUP_JS struct json_object *owner = NULL;
	struct json_object *list = NULL;
	CLEANUP_FREE char *text = NULL;
	struct port_text t = { .req = o->req, .d = d, .tap = o->req->port.tap };
	size_t len;
	int r;

	snprintf(t.table, sizeof(t.table), "%s_ports", o->req->net.table);
	r = sets_list(o, t.table, &owner, &list, e);
	if (r < 0 || (!r && !up))
		return r;
	t.f = open_memstream(&text, &len);
	if (!t.f)
		return err_set_errno(e, -ENOMEM, "rules");
	table_print(&t);
	port_clear(&t);
	sets_delete(&t, list);
	gone_clear(o, &t, list);
	r = up ? port_print(&t, e) : 0;
	if (fclose(t.f))
		return err_set_errno(e, -ENOMEM, "rules");
	return r < 0 ? r : nft_run(o->nft, text, e);
}

/* The flag belongs to a port of the bridge. */
static int isolate(struct operation *o, struct err *e)
{
	const struct port *p = &o->req->port;
	struct link tap, bridge;
	int r = link_find(o->links, p->tap, &tap, e);

	if (!r && !tap.index)
		return err_set(e, -ENODEV, ERR_NOT_FOUND, "port.tap: there is no link '%s'", p->tap);
	if (!r)
		r = link_find(o->links, o->req->net.bridge, &bridge, e);
	if (r < 0)
		return r;
	if (tap.master && tap.master == bridge.index)
		return link_set_isolated(o->links, tap.index, p->isolated, e);
	return p->isolated ? err_set(e, -EINVAL, ERR_WRONG_STATE, "port.tap: '%s' is no port of bridge '%s' yet", p->tap, o->req->net.bridge) : 0;
}

int network_port_up(struct operation *o, struct err *e)
{
	struct dnsmasq d;
	int r = dnsmasq_init(&d, o->req, e);

	if (!r)
		r = isolate(o, e);
	return r ? r : port_change(o, &d, true, e);
}

int network_port_down(struct operation *o, struct err *e)
{
	return port_change(o, NULL, false, e);
}
