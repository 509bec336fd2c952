#include "tools/slirp/egress_filter.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "base/dns_message.h"

#include <errno.h>
#include <net/ethernet.h>
#include <stdlib.h>
#include <string.h>

/* The table of open addresses: the sets are chosen by a hash; a new address replaces the one in its set that ends
 * first. So its size has a bound, and the guest replaces only addresses that it has opened itself. */
#define SETS 256
#define WAYS 8
#define NS_PER_S 1000000000ULL
#define DHCP_PORT 67
#define DHCP6_PORT 547
enum { ICMP_ECHO = 8, ICMP6_ECHO = 128, ICMP6_SOLICIT_ROUTER = 133, ICMP6_SOLICIT = 135, ICMP6_ADVERT = 136 };

struct open_address {
	uint8_t address[EGRESS_ADDRESS_BYTES];
	uint64_t rules;	      /* bits of the rules that it fits; 0: unused */
	uint64_t end_ns, idle_end_ns;
};

struct egress_filter {
	const struct options *options;
	struct egress_counts counts;
	struct open_address open[SETS][WAYS];
};

#define IPV4(bits, a, b, c) { EGRESS_IPV4_BITS + (bits), { [10] = 0xff, [11] = 0xff, (a), (b), (c) } }

static const struct egress_prefix ipv4 = { 96, { [10] = 0xff, [11] = 0xff } };
/* QEMU's and libslirp's network; stack.c sets it. */
static const struct egress_prefix own6 = { 64, { 0xfe, 0xc0 } };
static const struct egress_prefix multicast6 = { 8, { 0xff } }, link_local6 = { 10, { 0xfe, 0x80 } };
static const struct egress_prefix multicast4 = IPV4(4, 224, 0, 0);
static const uint8_t gateway6[] = { 0xfe, 0xc0, [15] = 2 }, resolver6[] = { 0xfe, 0xc0, [15] = 3 };
static const uint8_t resolver_local6[] = { 0xfe, 0x80, [15] = 3 }; /* libslirp answers there, too */
static const uint8_t dhcp6_servers[] = { 0xff, 2, [13] = 1, [15] = 2 };

int egress_filter_new(const struct options *o, struct egress_filter **ret_f, struct err *e)
{
	struct egress_filter *f = calloc(1, sizeof(*f));

	if (!f)
		return err_set_errno(e, -ENOMEM, "egress rules");
	f->options = o;
	*ret_f = f;
	return 0;
}

void egress_filter_free(struct egress_filter *f)
{
	free(f);
}

struct egress_counts *egress_filter_counts(struct egress_filter *f)
{
	return &f->counts;
}

/* ---- names and their addresses ---- */

bool egress_filter_takes_name(const struct egress_filter *f, const char *name)
{
	return egress_takes_name(&f->options->egress, name);
}

static bool address_is_own4(const struct options *o, const uint8_t *address)
{
	uint32_t a = load_be32(address + 12);

	return egress_prefix_has(&ipv4, address) &&
		((a & ntohl(o->mask.s_addr)) == ntohl(o->network.s_addr) || a == UINT32_MAX);
}

bool egress_filter_is_public(const struct egress_filter *f, const uint8_t address[EGRESS_ADDRESS_BYTES])
{
	return egress_address_is_public(address) && !address_is_own4(f->options, address);
}

static struct open_address *set_of(struct egress_filter *f, const uint8_t *address)
{
	uint64_t hash = (load_be64(address) ^ load_be64(address + 8)) * 0x9e3779b97f4a7c15ULL;

	return f->open[hash >> 56];
}

/* An address that several names have has an entry for each set of rules, since each name's time ends on its own. */
static struct open_address *open_find(struct egress_filter *f, const uint8_t *address, uint64_t rules)
{
	struct open_address *set = set_of(f, address);

	for (unsigned i = 0; i < WAYS; i++)
		if (set[i].rules == rules && !memcmp(set[i].address, address, EGRESS_ADDRESS_BYTES))
			return &set[i];
	return NULL;
}

void egress_filter_open(struct egress_filter *f, const char *name, const uint8_t address[EGRESS_ADDRESS_BYTES],
	uint32_t ttl_s, uint64_t now_ns)
{
	const struct egress *e = &f->options->egress;
	struct open_address *at, *set = set_of(f, address);
	uint64_t rules = 0, end_ns = now_ns + MAX(EGRESS_TTL_MIN_S, MIN(ttl_s, EGRESS_TTL_MAX_S)) * NS_PER_S;

	for (uint32_t i = 0; i < e->nrules; i++)
		if (e->rules[i].target == EGRESS_NAME && egress_rule_has_name(&e->rules[i], name))
			rules |= 1ULL << i;
	if (!rules)
		return;
	at = open_find(f, address, rules);
	if (!at) {
		at = set;
		for (unsigned i = 1; i < WAYS; i++)
			if (set[i].end_ns < at->end_ns)
				at = &set[i];
		*at = (struct open_address){ .rules = rules };
		memcpy(at->address, address, sizeof(at->address));
	}
	at->end_ns = MAX(at->end_ns, end_ns);
	at->idle_end_ns = MAX(at->idle_end_ns, at->end_ns);
}

/* The rules that an address fits by a name. A new TCP connection needs an address that has not ended; what is
 * connected continues while it sends. libslirp opens a connection for a segment with SYN and without ACK only. */
static uint64_t rules_by_name(struct egress_filter *f, const struct guest_packet *p, uint64_t now_ns)
{
	struct open_address *set = set_of(f, p->to);
	uint64_t rules = 0;
	bool begins = p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6 ||
		(p->protocol == IPPROTO_TCP && (p->flags & TCP_SYN));

	for (struct open_address *at = set; at < set + WAYS; at++) {
		if (!at->rules || memcmp(at->address, p->to, EGRESS_ADDRESS_BYTES) != 0 ||
			now_ns >= (begins ? at->end_ns : at->idle_end_ns))
			continue;
		at->idle_end_ns = MAX(at->idle_end_ns, now_ns + EGRESS_IDLE_S * NS_PER_S);
		rules |= at->rules;
	}
	return rules;
}

/* ---- packets ---- */

/* How exact a rule must be to allow an address. */
static unsigned bits_needed(const struct egress_filter *f, const struct guest_packet *p)
{
	/* libslirp turns addresses of the guest's network into those of the host. */
	if (address_is_own4(f->options, p->to) || egress_prefix_has(&own6, p->to) || egress_prefix_has(&multicast6, p->to) ||
		egress_prefix_has(&link_local6, p->to))
		return 8 * EGRESS_ADDRESS_BYTES;
	return egress_address_is_translated(p->to) ? 32 : 0;
}

static bool rules_allow(struct egress_filter *f, const struct guest_packet *p, uint64_t now_ns)
{
	const struct egress *e = &f->options->egress;
	uint64_t named = rules_by_name(f, p, now_ns);
	uint8_t protocol = p->protocol == IPPROTO_ICMPV6 ? IPPROTO_ICMP : p->protocol;
	unsigned needed = bits_needed(f, p);

	for (uint32_t i = 0; i < e->nrules; i++) {
		const struct egress_rule *r = &e->rules[i];

		if (!egress_rule_fits_port(r, protocol, p->to_port))
			continue;
		if (!(named & 1ULL << i) && !egress_rule_has_address(r, p->to))
			continue;
		if (!r->allow || !needed || (r->target == EGRESS_PREFIX && r->bits >= needed))
			return r->allow;
	}
	/* Deny translated addresses by default: the rules for their IPv4 addresses would not be applied. */
	return e->allow && (!needed || needed == 8 * EGRESS_ADDRESS_BYTES);
}

bool egress_filter_allows(struct egress_filter *f, uint8_t protocol, const uint8_t to[EGRESS_ADDRESS_BYTES], uint16_t port,
	uint64_t now_ns)
{
	struct guest_packet p = { .protocol = protocol, .to_port = port };

	memcpy(p.to, to, sizeof(p.to));
	return rules_allow(f, &p, now_ns);
}

/* The rules of `e` with the same name as one of those rules of `old`. */
static uint64_t rules_translate(const struct egress *old, uint64_t rules, const struct egress *e)
{
	uint64_t ret = 0;

	for (uint32_t i = 0; i < old->nrules; i++)
		for (uint32_t k = 0; (rules & 1ULL << i) && k < e->nrules; k++)
			if (e->rules[k].target == EGRESS_NAME && e->rules[k].below == old->rules[i].below &&
				!strcmp(e->rules[k].name, old->rules[i].name))
				ret |= 1ULL << k;
	return ret;
}

void egress_filter_change(struct egress_filter *f, const struct egress *old)
{
	for (unsigned i = 0; i < SETS; i++)
		for (unsigned k = 0; k < WAYS; k++)
			f->open[i][k].rules = rules_translate(old, f->open[i][k].rules, &f->options->egress);
}

static bool address_is(const uint8_t *address, struct in_addr a)
{
	return egress_prefix_has(&ipv4, address) && !memcmp(address + 12, &a, sizeof(a));
}

static bool goes_to_resolver(const struct egress_filter *f, const struct guest_packet *p)
{
	return address_is(p->to, f->options->resolver) || !memcmp(p->to, resolver6, sizeof(resolver6)) ||
		!memcmp(p->to, resolver_local6, sizeof(resolver_local6));
}

static bool goes_to_gateway(const struct egress_filter *f, const struct guest_packet *p)
{
	return address_is(p->to, f->options->gateway) || !memcmp(p->to, gateway6, sizeof(gateway6));
}

/* Requests that the network itself answers: DHCP, neighbour discovery, pings of the gateway. */
static bool is_for_network(const struct egress_filter *f, const struct guest_packet *p)
{
	struct in_addr all = { .s_addr = INADDR_BROADCAST };

	switch (p->protocol) {
	case IPPROTO_UDP:
		return (p->to_port == DHCP_PORT && (address_is(p->to, all) || address_is(p->to, f->options->gateway))) ||
			(p->to_port == DHCP6_PORT && !memcmp(p->to, dhcp6_servers, sizeof(dhcp6_servers)));
	case IPPROTO_ICMP:
		return p->type == ICMP_ECHO && (goes_to_gateway(f, p) || goes_to_resolver(f, p));
	case IPPROTO_ICMPV6:
		return p->type == ICMP6_SOLICIT_ROUTER || p->type == ICMP6_SOLICIT || p->type == ICMP6_ADVERT ||
			(p->type == ICMP6_ECHO && (goes_to_gateway(f, p) || goes_to_resolver(f, p)));
	default:
		return false;
	}
}

static bool comes_from_one_of(const struct forward *forwards, unsigned n, const struct guest_packet *p)
{
	for (const struct forward *f = forwards; f < forwards + n; f++)
		if (!f->udp && f->port == p->from_port && address_is(p->from, f->guest))
			return true;
	return false;
}

/* Does the segment come from a port of the guest to which a forward leads, or has led? Connections of a removed forward
 * continue. */
static bool comes_from_forward(const struct egress_filter *f, const struct guest_packet *p)
{
	const struct options *o = f->options;

	return p->protocol == IPPROTO_TCP && (comes_from_one_of(o->forwards, o->nforwards, p) ||
		comes_from_one_of(o->removed, MIN(o->nremoved, FORWARDS_MAX), p));
}

static bool is_multicast(const uint8_t *address)
{
	return egress_prefix_has(&multicast4, address) || egress_prefix_has(&multicast6, address);
}

static enum egress_verdict packet_verdict(struct egress_filter *f, const struct guest_packet *p, uint64_t now_ns)
{
	if (is_for_network(f, p))
		return EGRESS_PASS;
	if (goes_to_resolver(f, p))
		return p->protocol == IPPROTO_UDP && p->to_port == DNS_PORT ? EGRESS_QUESTION : EGRESS_DENY;
	/* libslirp ignores other messages of ICMP. */
	if ((p->protocol == IPPROTO_ICMP && p->type != ICMP_ECHO) || (p->protocol == IPPROTO_ICMPV6 && p->type != ICMP6_ECHO))
		return EGRESS_DROP;
	/* The answers to a forward's clients pass. So that nothing else passes with them, the guest opens no connection
	 * from such a port. */
	if (comes_from_forward(f, p))
		return (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN ? EGRESS_DENY : EGRESS_PASS;
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP && p->protocol != IPPROTO_ICMP &&
		p->protocol != IPPROTO_ICMPV6)
		return is_multicast(p->to) ? EGRESS_DROP : EGRESS_DENY;
	if (rules_allow(f, p, now_ns))
		return EGRESS_PASS;
	return is_multicast(p->to) ? EGRESS_DROP : EGRESS_DENY;
}

enum egress_verdict egress_filter_verdict(struct egress_filter *f, const uint8_t *frame, size_t len, uint64_t now_ns,
	struct guest_packet *ret_p)
{
	enum egress_verdict verdict = EGRESS_DENY;
	bool whole = guest_packet_parse(frame, len, ret_p);

	if (whole)
		verdict = packet_verdict(f, ret_p, now_ns);
	else if (len >= ETHERNET_BYTES && load_be16(frame + FRAME_TYPE_AT) == ETHERTYPE_ARP)
		return EGRESS_PASS;
	else if (len < ETHERNET_BYTES || ((frame[0] & 1) && frame[0] != 0xff))
		return EGRESS_DROP;
	f->counts.packets += verdict == EGRESS_DENY;
	return verdict;
}
