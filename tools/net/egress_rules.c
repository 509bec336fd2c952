#include "tools/net/egress_rules.h"
#include "api/wire/json.h"
#include "base/egress.h"
#include "base/egress_notice.h"
#include "base/err.h"
#include "tools/net/nft.h"
#include "tools/net/operation.h"
#include "tools/net/request.h"
#include "tools/net/rules.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#define EXACT_BITS 128
#define SET_SIZE 65536 /* addresses of one name */

/* A field of a notice, behind the header of ICMP, as arguments of FIELD. */
#define FIELD "@th,%d,%d"
#define FIELD_OF(at, bytes) 8 * (8 + (at)), 8 * (bytes)
#define ADDRESS_OF(ipv6) FIELD_OF(NOTICE_ADDRESS, (ipv6) ? 16 : 4)

/* The destination's address as bits: nft compares no field that it knows by name with a set of bits. */
#define IP_DESTINATION "meta nfproto ipv4 @nh,128,32"
#define IP6_DESTINATION "meta nfproto ipv6 @nh,192,128"

/* Nobody means these by an IPv6 prefix or by default: a translator or a tunnel makes IPv4 addresses of them. */
#define TRANSLATED "64:ff9b::/32, 2002::/16, 2001::/32"

/* ---- names ---- */

#define SET_MAX 32

/* Print the name of the set with the open addresses of a rule's name: the same with any other rules. The set
 * is of bits, as fields of notices are. used: that of addresses to which connections may continue; it is of addresses,
 * and it has the name that earlier versions gave it, so that connections outlast an upgrade. Returns buf. */
static const char *set_name(const struct egress_rule *r, bool ipv6, bool used, char buf[SET_MAX])
{
	snprintf(buf, SET_MAX, "%s%d%s_%016" PRIx64, used ? "name" : "open", ipv6 ? 6 : 4, used ? "u" : "", egress_rule_name_hash(r));
	return buf;
}

bool egress_has_set(const struct network *n, const char *name)
{
	char set[SET_MAX];

	for (uint32_t i = 0; n->egress && i < n->egress->nrules; i++)
		for (int k = 0; k < 4 && n->egress->rules[i].target == EGRESS_NAME; k++)
			if (!strcmp(set_name(&n->egress->rules[i], k & 1, k & 2, set), name))
				return true;
	return false;
}

/* Is it the first rule with this name? */
static bool name_is_new(const struct egress *e, uint32_t at)
{
	uint64_t hash = egress_rule_name_hash(&e->rules[at]);

	if (e->rules[at].target != EGRESS_NAME)
		return false;
	for (uint32_t i = 0; i < at; i++)
		if (e->rules[i].target == EGRESS_NAME && egress_rule_name_hash(&e->rules[i]) == hash)
			return false;
	return true;
}

static void sets_print(FILE *f, const struct egress *e)
{
	char set[SET_MAX], used[SET_MAX];

	for (uint32_t i = 0; i < e->nrules; i++)
		for (int v6 = 0; v6 < 2 && name_is_new(e, i); v6++)
			fprintf(f, "set %s { typeof " FIELD "; size %d; flags dynamic,timeout; }\nset %s { type %s; size %d; flags dynamic,timeout; }\n",
				set_name(&e->rules[i], v6, false, set), ADDRESS_OF(v6), SET_SIZE, set_name(&e->rules[i], v6, true, used),
				v6 ? "ipv6_addr" : "ipv4_addr", SET_SIZE);
}

/* A packet with dnsmasq's address comes from its namespace: egress_bridge_print(). */
static void service_print(FILE *f, const struct network *n, const struct address *service)
{
	char mac[MAC_TEXT_MAX], text[ADDRESS_TEXT_MAX];

	fprintf(f, "iifname \"%s\" ether saddr %s %s saddr %s ", n->bridge, mac_print(n->veth_mac, mac),
		service->family == AF_INET ? "ip" : "ip6", address_print(service, text));
}

/* A notice of cairn-dns puts an address into the set of a name. */
static void notice_rule_print(FILE *f, const struct egress_rule *r, unsigned time, bool ipv6)
{
	char set[SET_MAX];

	fprintf(f, FIELD " 0x%" PRIx64 " " FIELD " 0x%02x%02x ", FIELD_OF(NOTICE_NAME, 8), egress_rule_name_hash(r), FIELD_OF(NOTICE_TIME, 2),
		time, ipv6 ? 6 : 4);
	fprintf(f, "update @%s { " FIELD " timeout %us } return\n", set_name(r, ipv6, false, set), ADDRESS_OF(ipv6), notice_seconds(time));
}

static void notices_print(FILE *f, const struct network *n, const struct service *s)
{
	bool v4 = n->ipv4.given;
	char text[ADDRESS_TEXT_MAX];

	fputs("counter " EGRESS_QUESTIONS " { }\nchain notice {\n", f);
	fprintf(f, FIELD " 0 counter name " EGRESS_QUESTIONS " return\n", FIELD_OF(NOTICE_NAME, 8));
	for (uint32_t i = 0; i < n->egress->nrules; i++)
		for (unsigned k = 0; k < 2 * NOTICE_TIMES && name_is_new(n->egress, i); k++)
			notice_rule_print(f, &n->egress->rules[i], k / 2, k & 1);
	fputs("}\nchain notices {\ntype filter hook prerouting priority raw; policy accept;\n", f);
	service_print(f, n, v4 ? &s->ipv4 : &s->ipv6);
	fprintf(f, "%s daddr %s %s type echo-request jump notice\n}\n", v4 ? "ip" : "ip6",
		address_print(v4 ? &n->ipv4.address : &n->ipv6.address, text), v4 ? "icmp" : "icmpv6");
}

/* dnsmasq sends the queries that cairn-dns passes to the host's name servers, even if the rules deny their addresses.
 */
static void questions_print(FILE *f, const struct network *n, const struct address *service)
{
	if (!service->family)
		return;
	service_print(f, n, service);
	fputs("meta l4proto { tcp, udp } th dport 53 return\n", f);
}

void egress_bridge_print(FILE *f, const struct network *n)
{
	char mac[MAC_TEXT_MAX];

	if (network_has_names(n))
		fprintf(f, "iifname != \"%s\" ether saddr %s drop\n", n->veth, mac_print(n->veth_mac, mac));
}

/* ---- rules ---- */

static void target_print(FILE *f, const struct egress_rule *r)
{
	char text[EGRESS_TARGET_TEXT];
	bool ipv4 = r->bits >= EGRESS_IPV4_BITS && !memcmp(r->address, egress_ipv4_form, EGRESS_IPV4_AT);

	if (r->target != EGRESS_PREFIX)
		return;
	egress_target_print(r, text);
	if (r->bits == (ipv4 ? EGRESS_IPV4_BITS : 0))
		fprintf(f, "meta nfproto %s ", ipv4 ? "ipv4" : "ipv6");
	else
		fprintf(f, "%s daddr %s ", ipv4 ? "ip" : "ip6", text);
}

static void protocol_print(FILE *f, const struct egress_rule *r)
{
	if (r->protocol == IPPROTO_ICMP)
		fputs("meta l4proto { icmp, icmpv6 } ", f);
	else if (r->protocol)
		fprintf(f, "meta l4proto %s ", egress_protocol_name(r->protocol));
	else if (r->nports)
		fputs("meta l4proto { tcp, udp } ", f);
	for (unsigned i = 0; i < r->nports; i++)
		fprintf(f, "%s%u-%u", i ? ", " : "th dport { ", r->ports[i].from, r->ports[i].to);
	fputs(r->nports ? " } " : "", f);
}

/* A rule with a name fits the name's open addresses. Connections continue behind an address's time, as long as the
 * guest
 * sends: EGRESS_IDLE_S. */
static void name_rule_print(FILE *f, const struct egress_rule *r)
{
	char set[SET_MAX], used[SET_MAX];

	for (int v6 = 0; v6 < 2; v6++) {
		const char *family = v6 ? "ip6" : "ip";

		set_name(r, v6, false, set);
		set_name(r, v6, true, used);
		fprintf(f, "%s @%s ", v6 ? IP6_DESTINATION : IP_DESTINATION, set);
		protocol_print(f, r);
		if (!r->allow) {
			fputs("goto denied\n", f);
			continue;
		}
		fprintf(f, "update @%s { %s daddr timeout %us } return\n", used, family, EGRESS_TTL_MIN_S + EGRESS_IDLE_S);
		fprintf(f, "ct state established %s daddr @%s ", family, used);
		protocol_print(f, r);
		fprintf(f, "update @%s { %s daddr timeout %us } return\n", used, family, EGRESS_IDLE_S);
	}
}

/* exact: only rules with a whole address allow. */
static void rules_print(FILE *f, const struct egress *e, bool exact)
{
	for (uint32_t i = 0; i < e->nrules; i++) {
		const struct egress_rule *r = &e->rules[i];
		bool all = r->target == EGRESS_ANY || r->bits < 32;

		if (r->target == EGRESS_NAME) {
			if (!exact)
				name_rule_print(f, r);
			continue;
		}
		if (r->allow && exact && (r->target != EGRESS_PREFIX || r->bits != EXACT_BITS))
			continue;
		target_print(f, r);
		if (r->allow && all)
			fprintf(f, "ip6 daddr != { " TRANSLATED " } ");
		protocol_print(f, r);
		fputs(r->allow ? "return\n" : "goto denied\n", f);
		/* "ip6 daddr" fits IPv6 only. */
		if (r->allow && r->target == EGRESS_ANY) {
			fputs("meta nfproto ipv4 ", f);
			protocol_print(f, r);
			fputs("return\n", f);
		}
	}
	if (e->allow)
		fprintf(f, "ip6 daddr { " TRANSLATED " } goto denied\nreturn\n");
	fputs("goto denied\n", f);
}

/* The answers of connections that others have opened to a guest pass; what a guest opens is judged packet by packet, so
 * a change of the rules ends it, too. egress_forward_print() drops packets of guests with others' addresses: one from
 * X to the guest itself would make conntrack take the guest's packets to X for answers. */
#define ANSWERS                                                                                    \
	"ct direction reply ct state established return\n"                                         \
	"ct state related meta l4proto { icmp, icmpv6 } return\n"

static void sources_print(FILE *f, const char *bridge, const struct subnet *s, const char *family, const char *local)
{
	struct address first = address_network(&s->address, s->prefix);
	char net[ADDRESS_TEXT_MAX], own[ADDRESS_TEXT_MAX];

	if (!s->given)
		return;
	fprintf(f, "iifname \"%s\" %s saddr != { %s, %s/%u } counter name " EGRESS_COUNTER " drop\n", bridge, family, local,
		address_print(&first, net), s->prefix);
	fprintf(f, "iifname \"%s\" %s saddr %s counter name " EGRESS_COUNTER " drop\n", bridge, family, address_print(&s->address, own));
}

void egress_forward_print(FILE *f, const struct network *n)
{
	if (!n->egress)
		return;
	sources_print(f, n->bridge, &n->ipv4, "ip", "0.0.0.0");
	sources_print(f, n->bridge, &n->ipv6, "ip6", "::, fe80::/10");
	fprintf(f, "iifname \"%s\" oifname != \"%s\" jump egress\n", n->bridge, n->bridge);
}

void egress_rules_print(FILE *f, const struct network *n, const struct service *s)
{
	bool names = network_has_names(n);

	if (!n->egress)
		return;
	if (names) {
		sets_print(f, n->egress);
		notices_print(f, n, s);
	}
	fprintf(f, "counter " EGRESS_COUNTER " { }\n");
	fputs("chain denied {\nmeta pkttype { broadcast, multicast } drop\ncounter name " EGRESS_COUNTER "\n"
	      "meta l4proto tcp reject with tcp reset\nreject with icmpx admin-prohibited\n}\n", f);
	fputs("chain egress {\n" ANSWERS, f);
	if (names) {
		questions_print(f, n, &s->ipv4);
		questions_print(f, n, &s->ipv6);
	}
	rules_print(f, n->egress, false);
	fputs("}\nchain egress_host {\n" ANSWERS
	      "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld2-listener-report } return\n"
	      "icmp type echo-request return\nicmpv6 type echo-request return\n", f);
	rules_print(f, n->egress, true);
	fprintf(f, "}\nchain input {\ntype filter hook input priority filter; policy accept;\niifname \"%s\" jump egress_host\n}\n", n->bridge);
}

static int counter_read(struct operation *o, const char *counter, const char *key, struct err *e)
{
	CLEANUP_JS struct json_object *owner = NULL;
	struct json_object *list;
	char command[ID_MAX + 64];
	int64_t packets = 0;
	int r;

	snprintf(command, sizeof(command), "list counter inet %s %s", o->req->net.table, counter);
	r = nft_list(o->nft, command, &owner, &list, e);
	for (size_t i = 0; !r && i < json_object_array_length(list); i++)
		packets += js_get_int(js_get(json_object_array_get_idx(list, i), "counter"), "packets", 0);
	js_put_int(o->answer, key, packets);
	return r;
}

int network_denied(struct operation *o, struct err *e)
{
	int r;

	if (!o->req->net.egress)
		return 0;
	o->nft = nft_open(e);
	if (!o->nft)
		return -EIO;
	r = counter_read(o, EGRESS_COUNTER, "packets", e);
	return r || !network_has_names(&o->req->net) ? r : counter_read(o, EGRESS_QUESTIONS, "questions", e);
}
