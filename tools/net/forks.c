#include "tools/net/forks.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/inet_sum.h"
#include "base/util.h"
#include "tools/net/nft.h"
#include "tools/net/operation.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

/* Offsets in bits from the UDP header, with its 8 bytes, in a message of DHCP (RFC 2131, section 2): the client's
 * address, its new address, and its MAC address with two of the ten bytes behind it, which are 0 and which nobody
 * reads. */
#define DHCP_CIADDR "@th,160,32"
#define DHCP_YIADDR "@th,192,32"
#define DHCP_CHADDR "@th,288,64"
/* Offsets in bits from the header of an ICMP error (RFC 792): two unused bytes, and the addresses of the
 * packet that it is about. */
#define ICMP_UNUSED "@th,32,16"
#define ICMP_SOURCE "@th,160,32"
#define ICMP_TARGET "@th,192,32"
#define ICMP_IS_ERROR "icmp type { destination-unreachable, time-exceeded } " ICMP_UNUSED " 0"

/* Size of the sets that follow the guest's last frame. They have at most one element, but the kernel counts a deleted
 * one until its next collection, every second. */
#define CHANGES_MAX 64
/* Size of the maps that have an element for each fork with peers. */
#define GROUPED_MAX 65536

/* ---- the present forks ---- */

static void table_print(const struct network *n, char table[ID_MAX + 8])
{
	snprintf(table, ID_MAX + 8, "%s_forks", n->table);
}

/* An element of the set `forks`: the tap's name, the MAC and the IPv4 address. */
#define FORK_KEY_BYTES (IFNAMSIZ + 8 + 4)

static void fork_take(struct network *n, const struct nft_element *element)
{
	struct fork *f = &n->forks[n->nforks];

	if (element->key_bytes != FORK_KEY_BYTES || element->key[IFNAMSIZ - 1])
		return;
	*f = (struct fork){ .address = { .family = AF_INET } };
	memcpy(f->tap, element->key, IFNAMSIZ);
	memcpy(f->mac, element->key + IFNAMSIZ, MAC_BYTES);
	memcpy(f->address.bytes, element->key + IFNAMSIZ + 8, 4);
	if (!link_name_is_valid(f->tap))
		return;
	f->gone = !if_nametoindex(f->tap) && errno == ENODEV;
	n->nforks++;
}

/* Read the elements of a set that a table of an older cairn-net lacks. */
static int optional_elements(struct operation *o, const char *table, const char *set, struct nft_element **ret, size_t *ret_n, struct err *e)
{
	int r = nft_bridge_elements(o->nft, table, set, ret, ret_n, e);

	return r == -ENOENT ? 0 : r;
}

/* Find out which forks have peers, and the addresses that are entered for these. */
static int groups_read(struct operation *o, const char *table, struct err *e)
{
	CLEANUP_FREE struct nft_element *taps = NULL, *inner = NULL;
	struct network *n = &o->req->net;
	size_t ntaps = 0, ninner = 0;
	int r = optional_elements(o, table, "grouped", &taps, &ntaps, e);

	if (!r && ntaps)
		r = optional_elements(o, table, "group_inner", &inner, &ninner, e);
	for (size_t i = 0; i < n->nforks && !r; i++) {
		struct fork *f = &n->forks[i];

		for (size_t k = 0; k < ntaps; k++)
			f->grouped |= taps[k].key_bytes == IFNAMSIZ && !memcmp(taps[k].key, f->tap, IFNAMSIZ);
		for (size_t k = 0; k < ninner; k++)
			if (inner[k].data_bytes == 4 && !memcmp(inner[k].key, f->address.bytes, 4)) {
				f->inner.family = AF_INET;
				memcpy(f->inner.bytes, inner[k].data, 4);
			}
	}
	return r;
}

int forks_read(struct operation *o, struct err *e)
{
	CLEANUP_FREE struct nft_element *list = NULL;
	struct network *n = &o->req->net;
	char table[ID_MAX + 8];
	bool exists = false;
	size_t count = 0;
	int r;

	table_print(n, table);
	r = nft_has_bridge_table(o->nft, table, &exists, e);
	if (!r && exists)
		r = nft_bridge_elements(o->nft, table, "forks", &list, &count, e);
	if (r < 0)
		return r;
	/* There is room for those of the request, which follow. */
	n->forks = must_alloc(realloc(n->forks, (count + PORTS_MAX) * sizeof(*n->forks)));
	for (size_t i = 0; i < count; i++)
		fork_take(n, &list[i]);
	return count ? groups_read(o, table, e) : 0;
}

/* Find the live fork with the MAC address, but none of the request. NULL: there is none. */
static const struct fork *fork_find(const struct network *n, const uint8_t mac[MAC_BYTES])
{
	for (size_t i = 0; i < n->nforks; i++)
		if (!n->forks[i].gone && n->forks[i].tap[0] && !memcmp(n->forks[i].mac, mac, MAC_BYTES))
			return &n->forks[i];
	return NULL;
}

int fork_source_read(struct operation *o, struct port *p, struct err *e)
{
	CLEANUP_FREE struct nft_element *macs = NULL, *inner = NULL;
	const struct fork *source = p->fork.has_source ? fork_find(&o->req->net, p->fork.source) : NULL;
	char table[ID_MAX + 8], name[IFNAMSIZ + 8];
	size_t nmacs = 0, ninner = 0;
	int r;

	if (!source)
		return 0;
	table_print(&o->req->net, table);
	snprintf(name, sizeof(name), "macs_%s", source->tap);
	r = nft_bridge_elements(o->nft, table, name, &macs, &nmacs, e);
	snprintf(name, sizeof(name), "inner_%s", source->tap);
	if (!r)
		r = nft_bridge_elements(o->nft, table, name, &inner, &ninner, e);
	if (r < 0)
		return r;
	if (!nmacs)
		memcpy(p->fork.mac, source->mac, MAC_BYTES);
	if (ninner && inner[0].data_bytes == 4) {
		p->fork.address = (struct address){ .family = AF_INET };
		memcpy(p->fork.address.bytes, inner[0].data, 4);
	} else if (!ninner && p->fork.address.family) {
		p->fork.address = source->address;
	}
	return 0;
}

/* ---- the unique address ---- */

static uint32_t number_of(const struct address *a)
{
	uint32_t n;

	memcpy(&n, a->bytes, sizeof(n));
	return ntohl(n);
}

static struct address address_of(uint32_t number)
{
	struct address a = { .family = AF_INET };

	number = htonl(number);
	memcpy(a.bytes, &number, sizeof(number));
	return a;
}

bool fork_is_host(const struct dhcp_host *h, const uint8_t mac[MAC_BYTES], const struct address *a)
{
	uint8_t other[MAC_BYTES];

	return (a && address_equal(a, &h->address)) || (h->mac && mac_parse(h->mac, other) == 0 && !memcmp(mac, other, MAC_BYTES));
}

static bool is_free(const struct network *n, const struct port *p, const struct address *service, const struct address *a)
{
	const struct subnet *s = &n->ipv4;
	bool free = !address_is_edge(a, s->prefix) && !address_equal(a, &s->address) && !address_equal(a, service) &&
		!address_equal(a, &p->fork.address);

	for (size_t i = 0; free && i < s->nhosts; i++)
		free = !address_equal(a, &s->hosts[i].address);
	for (size_t i = 0; free && i < n->nforks; i++)
		free = n->forks[i].gone || !address_equal(a, &n->forks[i].address);
	return free;
}

int forks_check(const struct network *n, struct err *e)
{
	char text[ADDRESS_TEXT_MAX], mac[MAC_TEXT_MAX];

	for (size_t k = 0; k < n->nforks; k++)
		for (size_t i = 0; i < n->ipv4.nhosts && !n->forks[k].gone; i++) {
			const struct dhcp_host *h = &n->ipv4.hosts[i];

			if (address_equal(&h->address, &n->forks[k].address) && !fork_is_host(h, n->forks[k].mac, NULL))
				return err_set(e, -EEXIST, ERR_EXISTS, "network '%s': the VM with the MAC address %s has the address %s, because it is a live "
					"clone or has published ports (cairn net-info %s); give the host another, or shut the VM down", n->name, mac_print(n->forks[k].mac, mac),
					address_print(&h->address, text), n->name);
		}
	return 0;
}

void forks_note_hosts(const struct network *n, void (*note)(void *opaque, const char *sentence), void *opaque)
{
	char text[ADDRESS_TEXT_MAX], other[ADDRESS_TEXT_MAX], mac[MAC_TEXT_MAX], sentence[256];

	for (size_t k = 0; k < n->nforks; k++)
		for (size_t i = 0; i < n->ipv4.nhosts && !n->forks[k].gone; i++) {
			const struct dhcp_host *h = &n->ipv4.hosts[i];
			const struct address *a = &n->forks[k].address;

			if (!h->address.family || address_equal(&h->address, a) || !fork_is_host(h, n->forks[k].mac, NULL))
				continue;
			snprintf(sentence, sizeof(sentence), "the VM with the MAC address %s is a live clone or has published ports, so it keeps "
				"the address %s until it is shut down, and has %s from its next start on", mac_print(n->forks[k].mac, mac),
				address_print(a, text), address_print(&h->address, other));
			note(opaque, sentence);
		}
}

int fork_choose(const struct network *n, const struct port *p, const struct address *service,
	const struct address *last, bool (*taken)(void *arg, const struct address *a, int pass), void *arg, struct address *ret, struct err *e)
{
	const struct subnet *s = &n->ipv4;
	const struct range all = { address_network(&s->address, s->prefix), address_last(&s->address, s->prefix) };
	const struct range *ranges = s->nranges ? s->ranges : &all;
	size_t nranges = s->nranges ? s->nranges : 1;
	uint32_t hash = 0x811c9dc5; /* FNV-1a */
	uint64_t total = 0;
	bool keeps = last->family && address_shares_prefix(last, &s->address, s->prefix) && is_free(n, p, service, last) && !taken(arg, last, 1);

	if (keeps && p->continues) {
		*ret = *last;
		return 0;
	}
	for (size_t i = 0; i < s->nhosts; i++)
		if (fork_is_host(&s->hosts[i], p->mac, NULL) && s->hosts[i].address.family) {
			*ret = s->hosts[i].address;
			return 0;
		}
	for (size_t i = 0; i < n->nforks; i++)
		if (!memcmp(n->forks[i].mac, p->mac, MAC_BYTES) && is_free(n, p, service, &n->forks[i].address)) {
			*ret = n->forks[i].address;
			return 0;
		}
	if (keeps) {
		*ret = *last;
		return 0;
	}
	for (size_t i = 0; i < MAC_BYTES; i++)
		hash = (hash ^ p->mac[i]) * 0x01000193;
	for (size_t i = 0; i < nranges; i++)
		total += number_of(&ranges[i].end) - number_of(&ranges[i].start) + 1ULL;
	for (uint64_t k = 0; k < 2 * total; k++) {
		uint64_t at = (hash + k) % total;
		size_t i = 0;

		for (; at > number_of(&ranges[i].end) - number_of(&ranges[i].start); i++)
			at -= number_of(&ranges[i].end) - number_of(&ranges[i].start) + 1ULL;
		*ret = address_of(number_of(&ranges[i].start) + (uint32_t)at);
		if (is_free(n, p, service, ret) && !taken(arg, ret, k >= total))
			return 0;
	}
	return err_set(e, -ENOSPC, ERR_HOST, "network '%s' has no free IPv4 address for a live clone or a VM with published ports; shut VMs down, or widen its DHCP ranges", n->name);
}

/* ---- rules ---- */

/* Parameters of one fork's rules. inner: the guest's address; family 0: unknown. service: dnsmasq's; family 0: none. */
struct text {
	FILE *f;
	char table[ID_MAX + 8], chain[24];
	const struct port *p;
	const struct address *unique, *inner, *service;
};

static __attribute__((format(printf, 2, 3))) void rule(const struct text *t, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(t->f, "add rule bridge %s %s ", t->table, t->chain);
	vfprintf(t->f, format, args);
	fputc('\n', t->f);
	va_end(args);
}

/* Return the ones' complement sum (RFC 1071) of a MAC address and n times an IPv4 address. mac: NULL: none. */
static uint16_t sum_of(const uint8_t mac[MAC_BYTES], const struct address *a, unsigned n)
{
	uint64_t sum = mac ? sum_add(0, mac, MAC_BYTES) : 0;

	while (n--)
		sum = sum_add(sum, a->bytes, 4);
	return sum_fold(sum);
}

/* Return the number that, added to the sum `now`, gives the sum `before`. */
static uint16_t difference(uint16_t before, uint16_t now)
{
	return sum_fold((uint64_t)before + (uint16_t)~now);
}

struct raw {
	char text[24];
};

static const char *raw_address(const struct address *a, struct raw *buf)
{
	snprintf(buf->text, sizeof(buf->text), "0x%08x", number_of(a));
	return buf->text;
}

/* more: the two bytes behind the MAC address. */
static const char *raw_mac(const uint8_t m[MAC_BYTES], uint16_t more, struct raw *buf)
{
	snprintf(buf->text, sizeof(buf->text), "0x%02x%02x%02x%02x%02x%02x%04x", m[0], m[1], m[2], m[3], m[4], m[5], more);
	return buf->text;
}

/* Print the rules that make the guest's DHCP messages those of a client that has the unique address, or the reverse for
 * the answers. A guest that asks anew gets the unique address itself, and uses it afterwards.
 * in: for frames of the guest; else for frames to it. */
static void dhcp_print(const struct text *t, bool in)
{
	const uint8_t *own = t->p->mac, *guest = t->p->fork.mac;
	uint16_t plain = difference(sum_of(guest, NULL, 0), sum_of(own, NULL, 0));
	struct raw a, b, c, d;

	if (in) {
		if (t->inner->family) {
			uint16_t renews = difference(sum_of(guest, t->inner, 1), sum_of(own, t->unique, 1));

			rule(t, "meta protocol ip udp dport 67 " DHCP_CIADDR " %s " DHCP_CHADDR " %s " DHCP_CIADDR " set %s " DHCP_CHADDR " set %s",
				raw_address(t->inner, &a), raw_mac(guest, 0, &b), raw_address(t->unique, &c), raw_mac(own, renews, &d));
		}
		rule(t, "meta protocol ip udp dport 67 " DHCP_CHADDR " %s " DHCP_CHADDR " set %s", raw_mac(guest, 0, &a), raw_mac(own, plain, &b));
		return;
	}
	if (t->inner->family) {
		uint16_t renews = difference(sum_of(guest, t->inner, 1), sum_of(own, t->unique, 1));
		uint16_t was = sum_fold((uint64_t)sum_of(own, t->unique, 2) + renews);

		rule(t, "meta protocol ip udp sport 67 " DHCP_CIADDR " %s " DHCP_YIADDR " %s " DHCP_CHADDR " %s " DHCP_CIADDR " set %s " DHCP_YIADDR
			" set %s " DHCP_CHADDR " set %s", raw_address(t->unique, &a), a.text, raw_mac(own, renews, &b), raw_address(t->inner, &c), c.text,
			raw_mac(guest, difference(was, sum_of(guest, t->inner, 2)), &d));
		rule(t, "meta protocol ip udp sport 67 " DHCP_CHADDR " %s " DHCP_CHADDR " set %s", raw_mac(own, renews, &a),
			raw_mac(guest, difference(sum_fold((uint64_t)sum_of(own, NULL, 0) + renews), sum_of(guest, NULL, 0)), &b));
	}
	rule(t, "meta protocol ip udp sport 67 " DHCP_CHADDR " %s " DHCP_CHADDR " set %s", raw_mac(own, plain, &a), raw_mac(guest, 0, &b));
}

static void icmp_print(const struct text *t, const char *field, const struct address *from, const struct address *to)
{
	struct raw a, b;

	if (t->inner->family)
		rule(t, ICMP_IS_ERROR " %s %s %s set %s " ICMP_UNUSED " set 0x%04x", field, raw_address(from, &a), field, raw_address(to, &b),
			difference(sum_of(NULL, from, 1), sum_of(NULL, to, 1)));
}

/* Print the rules that lead frames of the guest to its peers rather than to their sources. The bridge floods
 * ARP requests to all ports, and each peer's rules know its guest's address. */
static void to_peers_print(const struct text *t)
{
	const char *tap = t->p->tap;

	rule(t, "ether daddr set ether daddr map @to_%s", tap);
	rule(t, "arp daddr ether set arp daddr ether map @to_%s", tap);
	rule(t, "arp daddr ip set ether daddr . arp daddr ip map @group_unique");
	rule(t, "ip daddr set ether daddr . ip daddr map @group_unique");
}

/* Print the rules that give frames of peers the addresses that their sources had when the group was cloned. */
static void from_peers_print(struct text *t)
{
	const char *tap = t->p->tap;
	char unique[ADDRESS_TEXT_MAX], inner[ADDRESS_TEXT_MAX];

	rule(t, "ether saddr @sources_%s drop", tap);
	rule(t, "ether saddr @clones_%s jump peer_%s", tap, tap);
	snprintf(t->chain, sizeof(t->chain), "peer_%s", tap);
	rule(t, "ether saddr set ether saddr map @from_%s", tap);
	rule(t, "arp saddr ether set arp saddr ether map @from_%s", tap);
	rule(t, "arp saddr ip set arp saddr ip map @group_inner");
	rule(t, "ip saddr set ip saddr map @group_inner");
	/* Targets of ARP announcements; and of ARP requests for this guest, whose unique address the rules below
	 * translate if the guest uses its source's. */
	rule(t, "arp daddr ip != %s arp daddr ip set arp daddr ip map @group_inner", address_print(t->unique, unique));
	if (t->inner->family)
		rule(t, "arp daddr ip %s arp daddr ip set %s", address_print(t->inner, inner), unique);
	snprintf(t->chain, sizeof(t->chain), "out_%s", tap);
}

/* Print the rule that enters the first address that the guest sends from, for its peers. Addresses of others are left
 * out, so that the guest cannot be the gateway for its peers. A further address finds first_TAP full, so a guest cannot
 * fill group_unique, which all forks share.
 * source: field with the address. inner: addresses of the network. */
static void group_learn_print(const struct text *t, const struct subnet *s, const char *source, const char *inner)
{
	const char *tap = t->p->tap;
	char text[ADDRESS_TEXT_MAX], unique[ADDRESS_TEXT_MAX];

	address_print(t->unique, unique);
	fprintf(t->f, "add rule bridge %s %s %s %s %s != { %s, %s", t->table, t->chain, source, inner, source, unique, address_print(&s->address, text));
	if (t->service->family)
		fprintf(t->f, ", %s", address_print(t->service, text));
	for (size_t i = 0; i < s->nhosts; i++)
		if (s->hosts[i].address.family)
			fprintf(t->f, ", %s", address_print(&s->hosts[i].address, text));
	fprintf(t->f, " } add @first_%s { %s } add @group_inner { %s : %s } add @group_unique { ether saddr . %s : %s }\n", tap, source, unique, source,
		source, unique);
}

/* Print the rules for frames of the guest. */
static void in_print(struct text *t, const struct subnet *s)
{
	const char *tap = t->p->tap;
	char own[MAC_TEXT_MAX], guest[MAC_TEXT_MAX], unique[ADDRESS_TEXT_MAX], inner[ADDRESS_TEXT_MAX + 8];
	struct address first = address_network(&s->address, s->prefix);
	static const char *const sources[] = { "arp saddr ip", "ip saddr" };

	mac_print(t->p->mac, own);
	mac_print(t->p->fork.mac, guest);
	address_print(t->unique, unique);
	address_print(t->inner->family ? t->inner : &first, inner);
	if (!t->inner->family)
		snprintf(inner + strlen(inner), 8, "/%u", s->prefix);
	snprintf(t->chain, sizeof(t->chain), "in_%s", tap);
	rule(t, "ether type { 8021q, 8021ad } drop");
	if (t->p->fork.npeers)
		to_peers_print(t);
	rule(t, "ether saddr %s delete @macs_%s { ether saddr }", own, tap);
	for (size_t i = 0; i < ARRAY_SIZE(sources); i++)
		rule(t, "%s %s delete @inner_%s { %s : %s }", sources[i], unique, tap, sources[i], unique);
	rule(t, "ether saddr != %s return", guest);
	rule(t, "ether saddr set %s add @macs_%s { ether saddr }", own, tap);
	rule(t, "meta protocol ip6 drop");
	rule(t, "arp saddr ether %s arp saddr ether set %s", guest, own);
	/* Probes and announcements (RFC 5227). */
	if (t->inner->family)
		rule(t, "arp saddr ip { 0.0.0.0, %s } arp daddr ip %s arp daddr ip set %s", inner, inner, unique);
	for (size_t i = 0; i < ARRAY_SIZE(sources); i++) {
		rule(t, "%s %s %s != %s add @inner_%s { %s : %s }", sources[i], inner, sources[i], unique, tap, unique, sources[i]);
		if (t->p->fork.npeers && !t->inner->family)
			group_learn_print(t, s, sources[i], inner);
		rule(t, "%s %s %s set %s", sources[i], inner, sources[i], unique);
	}
	dhcp_print(t, true);
	/* A peer's packet had the addresses that its own guest knows. */
	if (t->p->fork.npeers)
		rule(t, "ether daddr @clones_%s return", tap);
	icmp_print(t, ICMP_TARGET, t->inner, t->unique);
}

/* Print the rules for frames to the guest. */
static void out_print(struct text *t)
{
	const char *tap = t->p->tap;
	char guest[MAC_TEXT_MAX], inner[ADDRESS_TEXT_MAX];

	mac_print(t->p->fork.mac, guest);
	snprintf(t->chain, sizeof(t->chain), "out_%s", tap);
	if (t->p->fork.npeers)
		from_peers_print(t);
	/* The source's: the bridge floods a frame whose port it does not know, and requests of ARP. */
	rule(t, "ether daddr %s drop", guest);
	if (t->inner->family && !address_equal(t->inner, t->unique))
		rule(t, "arp daddr ip %s drop", address_print(t->inner, inner));
	rule(t, "ether daddr @macs_%s ether daddr set %s", tap, guest);
	rule(t, "arp daddr ether @macs_%s arp daddr ether set %s", tap, guest);
	rule(t, "arp daddr ip set arp daddr ip map @inner_%s", tap);
	rule(t, "ip daddr set ip daddr map @inner_%s", tap);
	dhcp_print(t, false);
	if (!t->inner->family)
		return;
	snprintf(t->chain, sizeof(t->chain), "error_%s", tap);
	icmp_print(t, ICMP_SOURCE, t->unique, t->inner);
	snprintf(t->chain, sizeof(t->chain), "out_%s", tap);
	rule(t, "ip daddr %s jump error_%s", address_print(t->inner, inner), tap);
}

/* Print the table, with the chains and sets that all forks share. */
static void shared_print(const struct text *t)
{
	static const char *const directions[][3] = { { "in", "prerouting", "iifname" }, { "out", "postrouting", "oifname" } };
	const char *table = t->table;

	fprintf(t->f, "add table bridge %s\nadd set bridge %s forks { type ifname . ether_addr . ipv4_addr; }\n", table, table);
	for (size_t i = 0; i < ARRAY_SIZE(directions); i++) {
		const char *const *d = directions[i];

		fprintf(t->f, "add map bridge %s fork_%s { type ifname : verdict; }\n", table, d[0]);
		/* In front of the filters of ports, and behind them. */
		fprintf(t->f, "add chain bridge %s %s { type filter hook %s priority %s; policy accept; }\n", table, d[1], d[1], i ? "srcnat" : "dstnat");
		fprintf(t->f, "flush chain bridge %s %s\nadd rule bridge %s %s %s vmap @fork_%s\n", table, d[1], table, d[1], d[2], d[0]);
	}
}

/* Print the parts of a fork, with empty chains. */
static void parts_print(struct text *t, const struct network *n)
{
	char mac[MAC_TEXT_MAX], address[ADDRESS_TEXT_MAX];
	const char *table = t->table, *tap = t->p->tap;
	FILE *f = t->f;

	table_print(n, t->table);
	shared_print(t);
	fprintf(f, "add set bridge %s macs_%s { type ether_addr; size %d; flags dynamic; }\n", table, tap, CHANGES_MAX);
	fprintf(f, "add map bridge %s inner_%s { type ipv4_addr : ipv4_addr; size %d; flags dynamic; }\n", table, tap, CHANGES_MAX);
	fprintf(f, "add chain bridge %s in_%s\nadd chain bridge %s out_%s\nadd chain bridge %s error_%s\n", table, tap, table, tap, table, tap);
	fprintf(f, "add element bridge %s fork_in { \"%s\" : jump in_%s }\nadd element bridge %s fork_out { \"%s\" : jump out_%s }\n", table, tap, tap,
		table, tap, tap);
	fprintf(f, "add element bridge %s forks { \"%s\" . %s . %s }\n", table, tap, mac_print(t->p->mac, mac), address_print(t->unique, address));
}

/* Print a set or map with an element for each peer. is_from: of the peers' own MAC addresses, else of their
 * sources'. */
static void peers_print(const struct text *t, const char *name, bool is_map, bool is_from)
{
	char mac[MAC_TEXT_MAX];

	fprintf(t->f, "add %s bridge %s %s_%s { type ether_addr%s; }\nadd element bridge %s %s_%s {", is_map ? "map" : "set", t->table, name, t->p->tap,
		is_map ? " : ether_addr" : "", t->table, name, t->p->tap);
	for (size_t i = 0; i < t->p->fork.npeers; i++) {
		const struct peer *p = &t->p->fork.peers[i];

		/* A peer whose source is a fork has a row for each MAC address that its guest may have. */
		if (is_from && i && !memcmp(p->own, p[-1].own, MAC_BYTES))
			continue;
		fprintf(t->f, "%s %s", i ? "," : "", mac_print(is_from ? p->own : p->mac, mac));
		if (is_map)
			fprintf(t->f, " : %s", mac_print(is_from ? p->mac : p->own, mac));
	}
	fputs(" }\n", t->f);
}

/* Print the sets and maps of a fork with peers. */
static void group_print(const struct text *t)
{
	static const char *const names[] = { "sources", "clones", "to", "from" };
	char own[MAC_TEXT_MAX], unique[ADDRESS_TEXT_MAX], inner[ADDRESS_TEXT_MAX];
	const char *table = t->table, *tap = t->p->tap;
	FILE *f = t->f;

	fprintf(f, "add set bridge %s grouped { type ifname; }\nadd element bridge %s grouped { \"%s\" }\n", table, table, tap);
	fprintf(f, "add map bridge %s group_inner { type ipv4_addr : ipv4_addr; size %d; flags dynamic; }\n", table, GROUPED_MAX);
	fprintf(f, "add map bridge %s group_unique { type ether_addr . ipv4_addr : ipv4_addr; size %d; flags dynamic; }\n", table, GROUPED_MAX);
	fprintf(f, "add set bridge %s first_%s { type ipv4_addr; size 1; flags dynamic; }\n", table, tap);
	fprintf(f, "add chain bridge %s peer_%s\n", table, tap);
	for (size_t i = 0; i < 4; i++)
		peers_print(t, names[i], i >= 2, i % 2);
	if (!t->inner->family)
		return;
	address_print(t->unique, unique);
	address_print(t->inner, inner);
	fprintf(f, "add element bridge %s group_inner { %s : %s }\n", table, unique, inner);
	fprintf(f, "add element bridge %s group_unique { %s . %s : %s }\n", table, mac_print(t->p->mac, own), inner, unique);
}

static void group_clear_print(FILE *f, const char *table, const struct fork *k)
{
	char mac[MAC_TEXT_MAX], unique[ADDRESS_TEXT_MAX], inner[ADDRESS_TEXT_MAX];

	fprintf(f, "flush chain bridge %s peer_%s\ndelete chain bridge %s peer_%s\n", table, k->tap, table, k->tap);
	fprintf(f, "delete set bridge %s sources_%s\ndelete set bridge %s clones_%s\ndelete set bridge %s first_%s\n", table, k->tap, table, k->tap,
		table, k->tap);
	fprintf(f, "delete map bridge %s to_%s\ndelete map bridge %s from_%s\n", table, k->tap, table, k->tap);
	fprintf(f, "delete element bridge %s grouped { \"%s\" }\n", table, k->tap);
	if (!k->inner.family)
		return;
	address_print(&k->address, unique);
	address_print(&k->inner, inner);
	fprintf(f, "delete element bridge %s group_inner { %s }\n", table, unique);
	fprintf(f, "delete element bridge %s group_unique { %s . %s }\n", table, mac_print(k->mac, mac), inner);
}

void fork_print(FILE *f, const struct network *n, const struct port *p, const struct address *unique, const struct address *inner,
	const struct address *service)
{
	struct text t = { .f = f, .p = p, .unique = unique, .inner = inner, .service = service };
	char mac[MAC_TEXT_MAX], address[ADDRESS_TEXT_MAX], inside[ADDRESS_TEXT_MAX];

	parts_print(&t, n);
	fprintf(f, "add element bridge %s macs_%s { %s }\n", t.table, p->tap, mac_print(p->mac, mac));
	if (inner->family)
		fprintf(f, "add element bridge %s inner_%s { %s : %s }\n", t.table, p->tap, address_print(unique, address), address_print(inner, inside));
	if (p->fork.npeers)
		group_print(&t);
	in_print(&t, &n->ipv4);
	out_print(&t);
}

void reservation_print(FILE *f, const struct network *n, const struct port *p, const struct address *a)
{
	struct text t = { .f = f, .p = p, .unique = a };

	parts_print(&t, n);
}

static void fork_clear_print(FILE *f, const char *table, const struct fork *k)
{
	static const char *const chains[] = { "in", "out", "error" };
	char mac[MAC_TEXT_MAX], address[ADDRESS_TEXT_MAX];

	fprintf(f, "delete element bridge %s forks { \"%s\" . %s . %s }\n", table, k->tap, mac_print(k->mac, mac), address_print(&k->address, address));
	fprintf(f, "delete element bridge %s fork_in { \"%s\" }\ndelete element bridge %s fork_out { \"%s\" }\n", table, k->tap, table, k->tap);
	for (size_t i = 0; i < ARRAY_SIZE(chains); i++)
		fprintf(f, "flush chain bridge %s %s_%s\n", table, chains[i], k->tap);
	for (size_t i = 0; i < ARRAY_SIZE(chains); i++)
		fprintf(f, "delete chain bridge %s %s_%s\n", table, chains[i], k->tap);
	fprintf(f, "delete set bridge %s macs_%s\ndelete map bridge %s inner_%s\n", table, k->tap, table, k->tap);
	if (k->grouped)
		group_clear_print(f, table, k);
}

void forks_clear_print(FILE *f, const struct network *n)
{
	char table[ID_MAX + 8];
	size_t gone = 0;

	table_print(n, table);
	for (size_t i = 0; i < n->nforks; i++)
		gone += n->forks[i].gone;
	if (gone == n->nforks && gone)
		fprintf(f, "delete table bridge %s\n", table);
	for (size_t i = 0; i < n->nforks && gone < n->nforks; i++)
		if (n->forks[i].gone)
			fork_clear_print(f, table, &n->forks[i]);
}
