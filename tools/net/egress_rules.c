#include "tools/net/egress_rules.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/egress.h"
#include "base/err.h"
#include "tools/net/nft.h"
#include "tools/net/operation.h"
#include "tools/net/request.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#define EXACT_BITS 128
#define IPV4_BITS 96

/* Nobody means these by an IPv6 prefix or by default: a translator or a tunnel makes IPv4 addresses of them. */
#define TRANSLATED "64:ff9b::/32, 2002::/16, 2001::/32"

static void target_print(FILE *f, const struct egress_rule *r)
{
	char text[EGRESS_TARGET_TEXT];
	bool ipv4 = r->bits >= IPV4_BITS && !memcmp(r->address, egress_ipv4_form, EGRESS_IPV4_AT);

	if (r->target != EGRESS_PREFIX)
		return;
	egress_target_print(r, text);
	if (r->bits == (ipv4 ? IPV4_BITS : 0))
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

/* exact: only rules with a whole address allow. */
static void rules_print(FILE *f, const struct egress *e, bool exact)
{
	for (uint32_t i = 0; i < e->nrules; i++) {
		const struct egress_rule *r = &e->rules[i];
		bool all = r->target == EGRESS_ANY || r->bits < 32;

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

void egress_rules_print(FILE *f, const struct network *n)
{
	if (!n->egress)
		return;
	fprintf(f, "counter " EGRESS_COUNTER " { }\n");
	fputs("chain denied {\nmeta pkttype { broadcast, multicast } drop\ncounter name " EGRESS_COUNTER "\n"
	      "meta l4proto tcp reject with tcp reset\nreject with icmpx admin-prohibited\n}\n", f);
	fputs("chain egress {\n" ANSWERS, f);
	rules_print(f, n->egress, false);
	fputs("}\nchain egress_host {\n" ANSWERS
	      "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld2-listener-report } return\n"
	      "icmp type echo-request return\nicmpv6 type echo-request return\n", f);
	rules_print(f, n->egress, true);
	fprintf(f, "}\nchain input {\ntype filter hook input priority filter; policy accept;\niifname \"%s\" jump egress_host\n}\n", n->bridge);
}

int network_denied(struct operation *o, struct err *e)
{
	CLEANUP_JS struct json_object *owner = NULL;
	struct json_object *list;
	char command[ID_MAX + 64];
	int64_t packets = 0;
	int r;

	if (!o->req->net.egress)
		return 0;
	o->nft = nft_open();
	if (!o->nft)
		return err_set(e, -ENOMEM, ERR_HOST, "libnftables does not start");
	snprintf(command, sizeof(command), "list counter inet %s " EGRESS_COUNTER, o->req->net.table);
	r = nft_list(o->nft, command, &owner, &list, e);
	for (size_t i = 0; !r && i < json_object_array_length(list); i++)
		packets += js_get_int(js_get(json_object_array_get_idx(list, i), "counter"), "packets", 0);
	js_put_int(o->answer, "packets", packets);
	return r;
}
