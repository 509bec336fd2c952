#include "tools/net/port_rules.h"
#include "base/hex.h"
#include "base/util.h"

#include <stdarg.h>
#include <string.h>

/* Offsets in bits from the UDP header, with its 8 bytes, in a message of DHCP (RFC 2131, section 2): the type and the
 * length of the client's hardware address, the client's new address, its MAC address, and the first option, with which
 * dnsmasq says that the message is an ACK. */
#define DHCP_OF_OTHER_LINKS "@th,72,16 != 0x0106"
#define DHCP_YIADDR "@th,192,32"
#define DHCP_CHADDR "@th,288,48"
#define DHCP_IS_ACK "@th,1984,24 0x350105"
/* How many packets a port may send to dnsmasq, so that no guest keeps dnsmasq from serving the others. dnsmasq writes
 * its whole list of leases when one changes. It keeps a question without an answer for 10 s; DNS_QUESTIONS_MAX
 * (dnsmasq_config.c) is more than one port can ask in that time. */
#define DHCP_RATE "limit rate over 20/second burst 60 packets"
#define DNS_RATE "limit rate over 500/second burst 1000 packets"
/* MAC addresses beside its own for which a guest may have leases at a time. */
#define ASKS_MAX 8
/* Offset of the target in a neighbour advertisement (RFC 4861, section 4.4). */
#define ND_TARGET "@th,64,128"
/* The sender's address, of ARP and of IPv4, as bits: nft compares no field that it knows by name with a set of bits. */
#define ARP_SENDER "ether type arp @nh,112,32"
#define IP_SOURCE "meta protocol ip @nh,96,32"

#define RAW_TEXT_MAX 35 /* 0x and 16 bytes */

/* Bits that nft compares with raw expressions. Returns text. */
static const char *raw_print(const uint8_t *bytes, size_t n, char text[RAW_TEXT_MAX])
{
	strcpy(text, "0x");
	hex_print(bytes, n, text + 2);
	return text;
}

static __attribute__((format(printf, 3, 4))) void rule(const struct port_text *t, const char *chain, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(t->f, "add rule bridge %s %s ", t->table, chain);
	vfprintf(t->f, format, args);
	fputc('\n', t->f);
	va_end(args);
}

/* what: "add" or "delete". nft fails to delete a missing element, so add it first. */
static void element(const struct port_text *t, const char *what, const char *set, const char *text)
{
	if (!strcmp(what, "delete"))
		element(t, "add", set, text);
	fprintf(t->f, "%s element bridge %s %s { %s }\n", what, t->table, set, text);
}

/* An IPv6 address in a set, and its bits in another. */
static void element6(const struct port_text *t, const char *what, const char *set, const char *targets, const struct address *a)
{
	char text[ADDRESS_TEXT_MAX], raw[RAW_TEXT_MAX];

	element(t, what, set, address_print(a, text));
	element(t, what, targets, raw_print(a->bytes, sizeof(a->bytes), raw));
}

static void element_mac(const struct port_text *t, const char *what, const char *set, const char *clients, const uint8_t mac[MAC_BYTES])
{
	char text[MAC_TEXT_MAX], raw[RAW_TEXT_MAX];

	element(t, what, set, mac_print(mac, text));
	element(t, what, clients, raw_print(mac, MAC_BYTES, raw));
}

/* The address that Linux makes from a prefix and a MAC address (RFC 4291, appendix A). */
static struct address address_of_mac(const uint8_t prefix[8], const uint8_t m[MAC_BYTES])
{
	struct address a = { .family = AF_INET6, .bytes = { [8] = m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5] } };

	memcpy(a.bytes, prefix, 8);
	return a;
}

static struct address link_local(const uint8_t mac[MAC_BYTES])
{
	static const uint8_t prefix[8] = { 0xfe, 0x80 };

	return address_of_mac(prefix, mac);
}

/* The IPv6 addresses that a guest makes from its MAC address. */
static void mac_addresses(const struct port_text *t, const char *what, const char *set, const char *targets, const uint8_t mac[MAC_BYTES])
{
	const struct subnet *s = &t->req->net.ipv6;
	struct address a = link_local(mac);

	element6(t, what, set, targets, &a);
	if (!s->given || s->prefix != 64)
		return;
	a = address_of_mac(s->address.bytes, mac);
	element6(t, what, set, targets, &a);
}

/* ---- sets and chains of all ports ---- */

static void sets_print(const struct port_text *t)
{
	static const char *const sets[][2] = {
		{ "port_macs", "type ifname . ether_addr;" },
		{ "macs", "type ether_addr;" },
		{ "clients", "typeof " DHCP_CHADDR ";" },
		{ "known6", "type ipv6_addr;" },
		{ "targets", "typeof " ND_TARGET ";" },
		{ "leased", "typeof " DHCP_YIADDR "; size 65536; flags dynamic,timeout;" },
		{ "host_macs", "type ether_addr;" },
		{ "host_clients", "typeof " DHCP_CHADDR ";" },
		{ "reserved", "type ipv4_addr;" },
		{ "reserved_by", "type ether_addr . ipv4_addr;" },
		{ "host6", "type ipv6_addr;" },
		{ "host_targets", "typeof " ND_TARGET ";" },
	};

	fprintf(t->f, "add table bridge %s\nadd map bridge %s ports_in { type ifname : verdict; }\n", t->table, t->table);
	for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
		fprintf(t->f, "add set bridge %s %s { %s }\n", t->table, sets[i][0], sets[i][1]);
	for (size_t i = 6; i < ARRAY_SIZE(sets); i++)
		fprintf(t->f, "flush set bridge %s %s\n", t->table, sets[i][0]);
}

void port_reserve_print(const struct port_text *t, const uint8_t mac[MAC_BYTES], const struct address *a, bool add)
{
	char mac_text[MAC_TEXT_MAX], text[ADDRESS_TEXT_MAX], pair[MAC_TEXT_MAX + ADDRESS_TEXT_MAX + 4];
	const char *what = add ? "add" : "delete";

	element(t, what, "reserved", address_print(a, text));
	snprintf(pair, sizeof(pair), "%s . %s", mac_print(mac, mac_text), text);
	element(t, what, "reserved_by", pair);
}

static void hosts_print(const struct port_text *t, const struct subnet *s)
{
	char text[ADDRESS_TEXT_MAX];
	uint8_t mac[MAC_BYTES];

	for (size_t i = 0; i < s->nhosts; i++) {
		const struct dhcp_host *h = &s->hosts[i];
		bool has_mac = h->mac && mac_parse(h->mac, mac) == 0;

		if (has_mac)
			element_mac(t, "add", "host_macs", "host_clients", mac);
		if (h->address.family == AF_INET6)
			element6(t, "add", "host6", "host_targets", &h->address);
		if (h->address.family != AF_INET)
			continue;
		if (has_mac)
			port_reserve_print(t, mac, &h->address, true);
		else
			element(t, "add", "reserved", address_print(&h->address, text));
	}
}

/* The host's own addresses and those of dnsmasq, and the fixed hosts. */
static void network_print(const struct port_text *t)
{
	const struct network *n = &t->req->net;
	struct address local[] = { link_local(n->mac), link_local(n->veth_mac) };
	char text[ADDRESS_TEXT_MAX];

	element_mac(t, "add", "host_macs", "host_clients", n->mac);
	element_mac(t, "add", "host_macs", "host_clients", n->veth_mac);
	if (n->ipv4.given)
		element(t, "add", "reserved", address_print(&n->ipv4.address, text));
	if (t->service->ipv4.family)
		element(t, "add", "reserved", address_print(&t->service->ipv4, text));
	for (size_t i = 0; i < 2; i++)
		element6(t, "add", "host6", "host_targets", &local[i]);
	if (n->ipv6.given)
		element6(t, "add", "host6", "host_targets", &n->ipv6.address);
	if (t->service->ipv6.family)
		element6(t, "add", "host6", "host_targets", &t->service->ipv6);
	hosts_print(t, &n->ipv4);
	hosts_print(t, &n->ipv6);
	for (size_t i = 0; i < n->nforks; i++)
		if (!n->forks[i].gone)
			port_reserve_print(t, n->forks[i].mac, &n->forks[i].address, true);
}

static void chain_print(const struct port_text *t, const char *chain, const char *hook)
{
	fprintf(t->f, "add chain bridge %s %s %s\n", t->table, chain, hook);
}

#define TIMEOUT_TEXT_MAX 24

/* The time of a lease, for an element of a set. Returns text. */
static const char *lease_time_print(const struct port_text *t, char text[TIMEOUT_TEXT_MAX])
{
	uint32_t seconds = t->req->net.ipv4.lease_seconds;

	text[0] = 0;
	if (seconds && seconds != UINT32_MAX)
		snprintf(text, TIMEOUT_TEXT_MAX, " timeout %us", seconds);
	return text;
}

void port_learn_reset(const struct port_text *t)
{
	char timeout[TIMEOUT_TEXT_MAX];

	lease_time_print(t, timeout);
	fprintf(t->f, "flush chain bridge %s learn\n", t->table);
	/* Not those of other clients: a guest may have changed its MAC address, or be a bridge itself. */
	rule(t, "learn", DHCP_CHADDR " @clients update @leased { " DHCP_YIADDR "%s }", timeout);
	rule(t, "learn", DHCP_CHADDR " @host_clients update @leased { " DHCP_YIADDR "%s }", timeout);
	rule(t, "learn", DHCP_CHADDR " != @clients " DHCP_CHADDR " != @host_clients delete @leased { " DHCP_YIADDR " }");
}

/* With every filter, a guest may be neither a DHCP server nor a router. It may not query the members of multicast
 * groups either: after the first query, the bridge would send a group's frames to known members only. A query that
 * gives them hours to answer would make it forget them after minutes, and with that cut off their IPv6. A frame with
 * a VLAN
 * tag could hide anything: Linux takes one with VLAN 0 as if it had none. Not by "nexthdr", which sees the first header
 * of IPv6 only. */
static void basic_print(const struct port_text *t)
{
	rule(t, "basic", "ether type { 8021q, 8021ad } drop");
	/* The rules for a request's MAC address would not see it in a later fragment. */
	rule(t, "basic", "meta protocol ip ip frag-off & 0x3fff != 0 udp dport 67 drop");
	/* dnsmasq tells clients apart by the type and 16 bytes of the hardware address, too; filters check 6 bytes. */
	rule(t, "basic", "meta protocol ip udp dport 67 " DHCP_OF_OTHER_LINKS " drop");
	rule(t, "basic", "meta protocol ip udp sport 67 drop");
	rule(t, "basic", "meta protocol ip udp dport 68 drop");
	rule(t, "basic", "meta protocol ip6 udp sport 547 drop");
	rule(t, "basic", "meta protocol ip6 udp dport 546 drop");
	rule(t, "basic", "meta protocol ip6 meta l4proto ipv6-icmp icmpv6 type { nd-router-advert, nd-redirect, mld-listener-query } drop");
	rule(t, "basic", "meta protocol ip igmp type membership-query drop");
}

/* Limit how many DNS questions a port may send to these addresses of the network, which are of one family. */
static void dns_limit_print(const struct port_text *t, const char *chain, const struct address *const *a, unsigned n)
{
	char list[3 * (ADDRESS_TEXT_MAX + 2)] = "", text[ADDRESS_TEXT_MAX];
	int family = 0;

	for (unsigned i = 0; i < n; i++)
		if (a[i]->family) {
			family = a[i]->family;
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", *list ? ", " : "", address_print(a[i], text));
		}
	if (family)
		rule(t, chain, "%s daddr { %s } meta l4proto { tcp, udp } th dport 53 " DNS_RATE " drop", family == AF_INET ? "ip" : "ip6", list);
}

/* Limit what the port sends to DHCP, TFTP and DNS. Questions to the gateway's address reach dnsmasq, too. */
static void limits_print(const struct port_text *t, const char *chain)
{
	const struct network *n = &t->req->net;
	struct address own = link_local(n->veth_mac);
	const struct address *ipv4[] = { &n->ipv4.address, &t->service->ipv4 }, *ipv6[] = { &n->ipv6.address, &t->service->ipv6, &own };

	rule(t, chain, "udp dport { 67, 69, 547 } " DHCP_RATE " drop");
	dns_limit_print(t, chain, ipv4, ARRAY_SIZE(ipv4));
	dns_limit_print(t, chain, ipv6, ARRAY_SIZE(ipv6));
}

void port_table_print(const struct port_text *t)
{
	static const char *const chains[] = { "basic", "foreign_mac", "foreign_arp", "foreign_client", "foreign_target", "reserve", "others", "learn" };

	sets_print(t);
	network_print(t);
	for (size_t i = 0; i < ARRAY_SIZE(chains); i++)
		chain_print(t, chains[i], "");
	chain_print(t, "prerouting", "{ type filter hook prerouting priority filter; policy accept; }");
	for (size_t i = 0; i < ARRAY_SIZE(chains) - 1; i++) /* port_learn_reset() is for the last one */
		fprintf(t->f, "flush chain bridge %s %s\n", t->table, chains[i]);
	fprintf(t->f, "flush chain bridge %s prerouting\n", t->table);
	basic_print(t);
	rule(t, "foreign_mac", "ether saddr @macs drop");
	rule(t, "foreign_mac", "ether saddr @host_macs drop");
	rule(t, "foreign_arp", "arp saddr ether @macs drop");
	rule(t, "foreign_arp", "arp saddr ether @host_macs drop");
	rule(t, "foreign_client", DHCP_CHADDR " @clients drop");
	rule(t, "foreign_client", DHCP_CHADDR " @host_clients drop");
	rule(t, "foreign_target", ND_TARGET " @targets drop");
	rule(t, "foreign_target", ND_TARGET " @host_targets drop");
	rule(t, "reserve", "arp saddr ether . arp saddr ip @reserved_by accept");
	rule(t, "reserve", "arp saddr ip @reserved drop");
	rule(t, "reserve", "ether saddr . ip saddr @reserved_by accept");
	rule(t, "reserve", "ip saddr @reserved drop");
	rule(t, "others", ARP_SENDER " @leased drop");
	rule(t, "others", IP_SOURCE " @leased drop");
	rule(t, "others", "ip6 saddr @known6 drop");
	rule(t, "others", "ip6 saddr @host6 drop");
	rule(t, "others", "accept");
	rule(t, "prerouting", "iifname vmap @ports_in");
	rule(t, "prerouting", "iifname \"%s\" udp sport 67 udp dport 68 " DHCP_IS_ACK " " DHCP_YIADDR " != 0 jump learn", t->req->net.veth);
	port_learn_reset(t);
}

void port_leased_print(const struct port_text *t, const struct address *a, unsigned seconds)
{
	char text[RAW_TEXT_MAX + 32];

	raw_print(a->bytes, 4, text);
	if (seconds)
		snprintf(text + strlen(text), 32, " timeout %us", seconds);
	element(t, "add", "leased", text);
}

/* ---- a port ---- */

static void tap_sets_print(const struct port_text *t, const char *tap, const char *command, bool types)
{
	static const char *const sets[][2] = {
		{ "own", "{ typeof " DHCP_YIADDR "; size 64; flags dynamic; }" },
		{ "fixed", "{ type ipv4_addr; }" },
		{ "own6", "{ type ipv6_addr; }" },
		{ "own_nd", "{ typeof " ND_TARGET "; }" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
		fprintf(t->f, "%s bridge %s %s_%s %s\n", command, t->table, sets[i][0], tap, types ? sets[i][1] : "");
}

static void asks_set_print(const struct port_text *t, const char *tap)
{
	fprintf(t->f, "add set bridge %s asks_%s { typeof " DHCP_CHADDR "; size %d; flags dynamic,timeout; }\n", t->table, tap, ASKS_MAX);
}

/* Its sets, and the addresses that the other ports may not use from now on. */
static void port_sets_print(const struct port_text *t)
{
	const struct port *p = t->port;
	char fixed[40], own6[40], targets[40], text[ADDRESS_TEXT_MAX];

	tap_sets_print(t, p->tap, "add set", true);
	asks_set_print(t, p->tap);
	snprintf(fixed, sizeof(fixed), "fixed_%s", p->tap);
	snprintf(own6, sizeof(own6), "own6_%s", p->tap);
	snprintf(targets, sizeof(targets), "own_nd_%s", p->tap);
	for (size_t i = 0; i < p->naddresses; i++)
		if (p->addresses[i].family == AF_INET6)
			element6(t, "add", own6, targets, &p->addresses[i]);
		else
			element(t, "add", fixed, address_print(&p->addresses[i], text));
	for (size_t i = 0; i < 2; i++) {
		const uint8_t *mac = i ? p->guest_mac : p->mac;
		char mac_text[MAC_TEXT_MAX];

		if (i && !port_has_guest_mac(p))
			break;
		snprintf(text, sizeof(text), "\"%s\" . %s", p->tap, mac_print(mac, mac_text));
		element(t, "add", "port_macs", text);
		if (p->filter == FILTER_NONE)
			continue;
		element_mac(t, "add", "macs", "clients", mac);
		mac_addresses(t, "add", "known6", "targets", mac);
		mac_addresses(t, "add", own6, targets, mac);
		port_hosts6_print(t, p->tap, mac);
	}
}

void port_hosts6_print(const struct port_text *t, const char *tap, const uint8_t mac[MAC_BYTES])
{
	const struct subnet *s = &t->req->net.ipv6;
	char own6[40], targets[40];
	uint8_t other[MAC_BYTES];

	snprintf(own6, sizeof(own6), "own6_%s", tap);
	snprintf(targets, sizeof(targets), "own_nd_%s", tap);
	for (size_t i = 0; i < s->nhosts; i++)
		if (s->hosts[i].mac && s->hosts[i].address.family && mac_parse(s->hosts[i].mac, other) == 0 && !memcmp(mac, other, MAC_BYTES))
			element6(t, "add", own6, targets, &s->hosts[i].address);
}

void port_own_print(const struct port_text *t, const struct address *a)
{
	char set[40], raw[RAW_TEXT_MAX];

	snprintf(set, sizeof(set), "own_%s", t->port->tap);
	element(t, "add", set, raw_print(a->bytes, 4, raw));
}

/* Drop packets that go to a guest of the network through the host. host: its MAC addresses. */
static void detour_print(const struct port_text *t, const char *chain, const char *host, const struct subnet *s, const struct address *service,
	const char *family)
{
	char a[ADDRESS_TEXT_MAX], b[ADDRESS_TEXT_MAX], c[ADDRESS_TEXT_MAX];
	struct address first = address_network(&s->address, s->prefix);

	if (!s->given)
		return;
	rule(t, chain, "ether daddr %s %s daddr %s/%u %s daddr != { %s%s%s } drop", host, family, address_print(&first, a), s->prefix, family,
		address_print(&s->address, b), service->family ? ", " : "", service->family ? address_print(service, c) : "");
}

/* Ports with the flag "isolated" exchange no frames; these rules keep them from doing so by the host, which would
 * route. */
static void isolation_print(const struct port_text *t, const char *chain)
{
	const struct network *n = &t->req->net;
	char own[MAC_TEXT_MAX], veth[MAC_TEXT_MAX], host[2 * MAC_TEXT_MAX + 8];

	snprintf(host, sizeof(host), "{ %s, %s }", mac_print(n->mac, own), mac_print(n->veth_mac, veth));
	/* The host removes tags of VLAN 0, also several, and the next rules see no address behind them. */
	rule(t, chain, "ether daddr %s ether type { 8021q, 8021ad } drop", host);
	detour_print(t, chain, host, &n->ipv4, &t->service->ipv4, "ip");
	detour_print(t, chain, host, &n->ipv6, &t->service->ipv6, "ip6");
}

#define CLIENTS_TEXT_MAX (2 * RAW_TEXT_MAX + 8)

/* The bits of the guest's MAC address, or the set of its two. Returns text. */
static const char *clients_print(const struct port *p, char text[CLIENTS_TEXT_MAX])
{
	char first[RAW_TEXT_MAX], second[RAW_TEXT_MAX];

	snprintf(text, CLIENTS_TEXT_MAX, port_has_guest_mac(p) ? "{ %s, %s }" : "%s", raw_print(p->mac, MAC_BYTES, first),
		raw_print(p->guest_mac, MAC_BYTES, second));
	return text;
}

/* Frames with other MAC addresses than the guest's: dropped if strict; else if somebody else is known to have the
 * address. */
static void macs_print(const struct port_text *t, const char *chain, bool strict)
{
	const struct port *p = t->port;
	char a[MAC_TEXT_MAX], b[MAC_TEXT_MAX], macs[2 * MAC_TEXT_MAX + 8], clients[CLIENTS_TEXT_MAX];

	snprintf(macs, sizeof(macs), port_has_guest_mac(p) ? "{ %s, %s }" : "%s", mac_print(p->mac, a), mac_print(p->guest_mac, b));
	rule(t, chain, "ether saddr != %s %s", macs, strict ? "drop" : "jump foreign_mac");
	rule(t, chain, "arp saddr ether != %s %s", macs, strict ? "drop" : "jump foreign_arp");
	clients_print(p, clients);
	if (strict)
		rule(t, chain, "meta protocol ip udp dport 67 " DHCP_CHADDR " != %s drop", clients);
	else
		rule(t, chain, "meta protocol ip udp dport 67 " DHCP_CHADDR " != %s jump asks_%s", clients, p->tap);
}

/* Bound the leases for MAC addresses that the guest makes up: a full set takes no element, and the rule does not match.
 * chain: the port's chain asks_TAP, for DHCP's requests with other MAC addresses than the guest's. */
static void asks_print(const struct port_text *t, const char *chain)
{
	char timeout[TIMEOUT_TEXT_MAX];

	rule(t, chain, "jump foreign_client");
	rule(t, chain, "update @%s { " DHCP_CHADDR "%s } return", chain, lease_time_print(t, timeout));
	rule(t, chain, "drop");
}

static void filter_print(const struct port_text *t, const char *chain)
{
	const char *tap = t->port->tap;
	bool strict = t->port->filter == FILTER_CLEAN_TRAFFIC;

	rule(t, chain, "jump basic");
	macs_print(t, chain, strict);
	limits_print(t, chain); /* only what the rules above let pass counts */
	rule(t, chain, "jump reserve");
	rule(t, chain, "arp saddr ip @fixed_%s accept", tap);
	rule(t, chain, "ip saddr @fixed_%s accept", tap);
	rule(t, chain, ARP_SENDER " @own_%s accept", tap);
	rule(t, chain, IP_SOURCE " @own_%s accept", tap);
	rule(t, chain, "meta protocol ip6 meta l4proto ipv6-icmp icmpv6 type nd-neighbor-advert " ND_TARGET " != @own_nd_%s %s", tap,
		strict ? "drop" : "jump foreign_target");
	rule(t, chain, "ip6 saddr @own6_%s accept", tap);
	if (!strict) {
		rule(t, chain, "goto others");
		return;
	}
	rule(t, chain, "arp saddr ip 0.0.0.0 accept"); /* a probe */
	rule(t, chain, "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept");
	rule(t, chain, "ip6 saddr :: meta l4proto ipv6-icmp accept");
	rule(t, chain, "drop");
}

/* Addresses from this network's DHCP answers: those to this guest are its own, those to others no more. */
static void learning_print(const struct port_text *t, const char *chain)
{
	const struct port *p = t->port;
	char clients[CLIENTS_TEXT_MAX];

	clients_print(p, clients);
	rule(t, chain, DHCP_CHADDR " %s update @own_%s { " DHCP_YIADDR " }", clients, p->tap);
	rule(t, chain, DHCP_CHADDR " != %s delete @own_%s { " DHCP_YIADDR " }", clients, p->tap);
}

void port_learn_print(const struct port_text *t, const char *tap)
{
	rule(t, "learn", "jump ack_%s", tap);
}

void port_print(const struct port_text *t)
{
	const struct port *p = t->port;
	char in[40], ack[40], asks[40], text[80];

	snprintf(in, sizeof(in), "in_%s", p->tap);
	snprintf(ack, sizeof(ack), "ack_%s", p->tap);
	snprintf(asks, sizeof(asks), "asks_%s", p->tap);
	chain_print(t, in, "");
	chain_print(t, ack, "");
	chain_print(t, asks, "");
	port_sets_print(t);
	if (p->isolated)
		isolation_print(t, in);
	if (p->filter == FILTER_NO_SPOOFING)
		asks_print(t, asks);
	if (p->filter == FILTER_NONE) {
		limits_print(t, in);
	} else {
		filter_print(t, in);
		learning_print(t, ack);
		port_learn_print(t, p->tap);
	}
	snprintf(text, sizeof(text), "\"%s\" : jump %s", p->tap, in);
	element(t, "add", "ports_in", text);
}

/* ---- removal ---- */

void port_clear(const struct port_text *t, const char *tap)
{
	static const char *const chains[] = { "in", "ack", "asks" };
	char text[80];

	for (size_t i = 0; i < ARRAY_SIZE(chains); i++)
		fprintf(t->f, "add chain bridge %s %s_%s\n", t->table, chains[i], tap);
	snprintf(text, sizeof(text), "\"%s\" : jump in_%s", tap, tap);
	element(t, "add", "ports_in", text);
	fprintf(t->f, "delete element bridge %s ports_in { \"%s\" }\n", t->table, tap);
	for (size_t i = 0; i < ARRAY_SIZE(chains); i++)
		fprintf(t->f, "flush chain bridge %s %s_%s\n", t->table, chains[i], tap);
	for (size_t i = 0; i < ARRAY_SIZE(chains); i++)
		fprintf(t->f, "delete chain bridge %s %s_%s\n", t->table, chains[i], tap);
	/* A port of an earlier version has none. */
	asks_set_print(t, tap);
	fprintf(t->f, "delete set bridge %s asks_%s\n", t->table, tap);
	/* Not by "add set" first: in a table of an earlier version, own_TAP has another type. */
	tap_sets_print(t, tap, "delete set", false);
}

void port_mac_clear(const struct port_text *t, const char *tap, const uint8_t mac[MAC_BYTES], bool last)
{
	char text[80], mac_text[MAC_TEXT_MAX];

	snprintf(text, sizeof(text), "\"%s\" . %s", tap, mac_print(mac, mac_text));
	element(t, "delete", "port_macs", text);
	if (!last)
		return;
	element_mac(t, "delete", "macs", "clients", mac);
	mac_addresses(t, "delete", "known6", "targets", mac);
}
