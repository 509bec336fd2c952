#include "base/egress.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LABEL_MAX 63 /* RFC 1035 */

const uint8_t egress_ipv4_form[EGRESS_IPV4_AT] = { [10] = 0xff, [11] = 0xff };

static const struct {
	const char *name;
	uint8_t number;
} protocols[] = { { "any", 0 }, { "tcp", IPPROTO_TCP }, { "udp", IPPROTO_UDP }, { "icmp", IPPROTO_ICMP } };

int egress_protocol_parse(const char *text)
{
	for (size_t i = 0; i < ARRAY_SIZE(protocols); i++)
		if (!strcmp(text, protocols[i].name))
			return protocols[i].number;
	return -1;
}

const char *egress_protocol_name(uint8_t protocol)
{
	for (size_t i = 0; i < ARRAY_SIZE(protocols); i++)
		if (protocols[i].number == protocol)
			return protocols[i].name;
	return "any";
}

/* ---- targets ---- */

/* Returns the number at text, up to its end or a character of `ends`; -1: none, or above most. */
static long number_read(const char **text, long most, const char *ends)
{
	const char *c = *text;
	long n = 0;

	if (!isdigit((unsigned char)*c))
		return -1;
	for (; isdigit((unsigned char)*c); c++) {
		n = n * 10 + (*c - '0');
		if (n > most)
			return -1;
	}
	if (*c && !strchr(ends, *c))
		return -1;
	*text = c;
	return n;
}

static bool address_has_bits_beyond(const struct egress_rule *r)
{
	for (unsigned bit = r->bits; bit < 8 * EGRESS_ADDRESS_BYTES; bit++)
		if (r->address[bit / 8] & (0x80u >> bit % 8))
			return true;
	return false;
}

static const char *prefix_parse(const char *text, struct egress_rule *r)
{
	const char *slash = strchr(text, '/'), *rest = slash ? slash + 1 : NULL;
	char address[INET6_ADDRSTRLEN];
	bool ipv4;
	long bits;

	snprintf(address, sizeof(address), "%.*s", slash ? (int)(slash - text) : (int)sizeof(address), text);
	ipv4 = inet_pton(AF_INET, address, r->address + EGRESS_IPV4_AT) == 1;
	if (ipv4)
		memcpy(r->address, egress_ipv4_form, EGRESS_IPV4_AT);
	else if (inet_pton(AF_INET6, address, r->address) != 1)
		return "is neither an address such as 192.0.2.7, a prefix such as 192.0.2.0/24, a name such as "
		       "www.example.org or *.example.org, nor any";
	bits = ipv4 ? 32 : 128;
	if (slash)
		bits = number_read(&rest, bits, "");
	if (bits < 0)
		return "has a wrong length behind the slash; it is 0 to 32 for IPv4, 0 to 128 for IPv6";
	r->bits = (uint8_t)(bits + (ipv4 ? EGRESS_IPV4_BITS : 0));
	if (!ipv4 && !memcmp(r->address, egress_ipv4_form, EGRESS_IPV4_AT))
		return "is an IPv4 address in an IPv6 form; give the IPv4 address";
	if (address_has_bits_beyond(r))
		return "has bits beyond its length; give the first address of the network";
	r->target = EGRESS_PREFIX;
	return NULL;
}

static const char *name_parse(const char *text, struct egress_rule *r)
{
	size_t n = strlen(text), label = 0;

	if (n && text[n - 1] == '.')
		n--;
	if (!n || n >= sizeof(r->name))
		return "is no DNS name: it has 1 to 253 characters";
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '.' ? !label : !isalnum(c) && c != '-' && c != '_')
			return "is no DNS name: it consists of labels of letters, digits, - and _, with a dot between them; "
			       "* may stand for its first labels only";
		label = c == '.' ? 0 : label + 1;
		if (label > LABEL_MAX)
			return "is no DNS name: a label has at most 63 characters";
		r->name[i] = (char)tolower(c);
	}
	r->name[n] = 0;
	r->target = EGRESS_NAME;
	return NULL;
}

static bool is_name(const char *text)
{
	size_t n = strlen(text);
	const char *last;

	if (strchr(text, '/') || strchr(text, ':'))
		return false;
	if (n && text[n - 1] == '.')
		n--;
	/* The last label of a name is not a number, so a mistyped address is not taken for a name. */
	for (last = text + n; last > text && last[-1] != '.'; last--)
		;
	for (; last < text + n; last++)
		if (!isdigit((unsigned char)*last))
			return true;
	return false;
}

const char *egress_target_parse(const char *text, struct egress_rule *r)
{
	r->below = false;
	if (!strcmp(text, "any") || !strcmp(text, "*")) {
		r->target = EGRESS_ANY;
		return NULL;
	}
	if (!strncmp(text, "*.", 2)) {
		r->below = true;
		return name_parse(text + 2, r);
	}
	return is_name(text) ? name_parse(text, r) : prefix_parse(text, r);
}

void egress_target_print(const struct egress_rule *r, char text[EGRESS_TARGET_TEXT])
{
	bool ipv4 = r->bits >= EGRESS_IPV4_BITS && !memcmp(r->address, egress_ipv4_form, EGRESS_IPV4_AT);
	unsigned bits = r->bits - (ipv4 ? EGRESS_IPV4_BITS : 0);
	char address[INET6_ADDRSTRLEN];

	if (r->target == EGRESS_ANY) {
		snprintf(text, EGRESS_TARGET_TEXT, "any");
	} else if (r->target == EGRESS_NAME) {
		snprintf(text, EGRESS_TARGET_TEXT, "%s%s", r->below ? "*." : "", r->name);
	} else {
		inet_ntop(ipv4 ? AF_INET : AF_INET6, r->address + (ipv4 ? EGRESS_IPV4_AT : 0), address, sizeof(address));
		if (bits == (ipv4 ? 32 : 128))
			snprintf(text, EGRESS_TARGET_TEXT, "%s", address);
		else
			snprintf(text, EGRESS_TARGET_TEXT, "%s/%u", address, bits);
	}
}

/* ---- ports ---- */

const char *egress_ports_parse(const char *text, struct egress_rule *r)
{
	r->nports = 0;
	for (;;) {
		long from = number_read(&text, UINT16_MAX, ",-"), to = from;

		if (*text == '-') {
			text++;
			to = number_read(&text, UINT16_MAX, ",");
		}
		if (from < 1 || to < from)
			return "must be ports from 1 to 65535, such as 443 or 80,8000-8100";
		if (r->nports == EGRESS_PORTS_MAX)
			return "has more than 8 ports and ranges; add another rule";
		r->ports[r->nports].from = (uint16_t)from;
		r->ports[r->nports++].to = (uint16_t)to;
		if (!*text)
			return NULL;
		text++;
	}
}

void egress_ports_print(const struct egress_rule *r, char text[EGRESS_PORTS_TEXT])
{
	size_t n = 0;

	text[0] = 0;
	for (unsigned i = 0; i < r->nports; i++) {
		n += (size_t)snprintf(text + n, EGRESS_PORTS_TEXT - n, "%s%u", i ? "," : "", r->ports[i].from);
		if (r->ports[i].to != r->ports[i].from)
			n += (size_t)snprintf(text + n, EGRESS_PORTS_TEXT - n, "-%u", r->ports[i].to);
	}
}

/* ---- rules as text ---- */

/* Print a rule, such as "allow tcp 443 *.example.org". */
static void egress_rule_print(const struct egress_rule *r, char text[EGRESS_RULE_TEXT])
{
	char target[EGRESS_TARGET_TEXT], ports[EGRESS_PORTS_TEXT];

	egress_target_print(r, target);
	egress_ports_print(r, ports);
	snprintf(text, EGRESS_RULE_TEXT, "%s %s %s %s", r->allow ? "allow" : "deny", egress_protocol_name(r->protocol),
		ports[0] ? ports : "-", target);
}

char *egress_print(const struct egress *e)
{
	char *text = malloc(8 + (size_t)e->nrules * (EGRESS_RULE_TEXT + 1)), *at = text;

	if (!text)
		return NULL;
	at += sprintf(at, "%s", e->allow ? "allow" : "deny");
	for (uint32_t i = 0; i < e->nrules; i++) {
		*at++ = ';';
		egress_rule_print(&e->rules[i], at);
		at += strlen(at);
	}
	return text;
}

static bool action_parse(const char *text, bool *ret_allow)
{
	*ret_allow = text && !strcmp(text, "allow");
	return text && (*ret_allow || !strcmp(text, "deny"));
}

static bool rule_parse(char *text, struct egress_rule *r)
{
	const char *action = strsep(&text, " "), *protocol = strsep(&text, " "), *ports = strsep(&text, " ");
	int number = protocol ? egress_protocol_parse(protocol) : -1;

	if (!action_parse(action, &r->allow) || number < 0 || !ports || !text)
		return false;
	r->protocol = (uint8_t)number;
	if (strcmp(ports, "-") && egress_ports_parse(ports, r))
		return false;
	return !egress_target_parse(text, r);
}

bool egress_parse(char *text, struct egress *ret_e)
{
	char *rest = text;

	memset(ret_e, 0, sizeof(*ret_e));
	if (!action_parse(strsep(&rest, ";"), &ret_e->allow))
		return false;
	while (rest) {
		if (ret_e->nrules == EGRESS_RULES_MAX || !rule_parse(strsep(&rest, ";"), &ret_e->rules[ret_e->nrules]))
			return false;
		ret_e->nrules++;
	}
	return true;
}

/* ---- matching rules ---- */

bool egress_rule_fits_port(const struct egress_rule *r, uint8_t protocol, uint16_t port)
{
	if (r->protocol && r->protocol != protocol)
		return false;
	if (r->nports && protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return false;
	for (unsigned i = 0; i < r->nports; i++)
		if (port >= r->ports[i].from && port <= r->ports[i].to)
			return true;
	return !r->nports;
}

bool egress_rule_has_address(const struct egress_rule *r, const uint8_t address[EGRESS_ADDRESS_BYTES])
{
	if (r->target != EGRESS_PREFIX)
		return r->target == EGRESS_ANY;
	/* ::/0 means all of IPv6, and 0.0.0.0/0 all of IPv4. */
	if (r->bits < EGRESS_IPV4_BITS && !memcmp(address, egress_ipv4_form, EGRESS_IPV4_AT))
		return false;
	return bits_are_equal(r->address, address, r->bits);
}

bool egress_rule_has_name(const struct egress_rule *r, const char *name)
{
	size_t n = strlen(name), own = strlen(r->name);

	if (r->target != EGRESS_NAME && r->target != EGRESS_ANY)
		return false;
	if (r->target == EGRESS_ANY)
		return true;
	if (!r->below)
		return !strcmp(name, r->name);
	return n > own + 1 && name[n - own - 1] == '.' && !strcmp(name + n - own, r->name);
}

/* ---- addresses that a name may open ---- */

#define IPV4(bits, a, b, c) { EGRESS_IPV4_BITS + (bits), { [10] = 0xff, [11] = 0xff, (a), (b), (c) } }

/* IPv4 addresses that are not public (IANA's special-purpose registry). The prefixes for documentation are left out,
 * because no host has such an address. */
static const struct egress_prefix special[] = {
	IPV4(8, 0, 0, 0), IPV4(8, 10, 0, 0), IPV4(10, 100, 64, 0), IPV4(8, 127, 0, 0), IPV4(16, 169, 254, 0),
	IPV4(12, 172, 16, 0), IPV4(24, 192, 0, 0), IPV4(24, 192, 88, 99), IPV4(16, 192, 168, 0), IPV4(15, 198, 18, 0),
	IPV4(4, 224, 0, 0), IPV4(4, 240, 0, 0),
};

static const struct egress_prefix translated[] = {
	{ 32, { 0x00, 0x64, 0xff, 0x9b } },
	{ 16, { 0x20, 0x02 } },
	{ 32, { 0x20, 0x01, 0x00, 0x00 } },
};

static const struct egress_prefix ipv4 = { EGRESS_IPV4_BITS, { [10] = 0xff, [11] = 0xff } };
static const struct egress_prefix global = { 3, { 0x20 } }; /* RFC 4291: all public IPv6 addresses */

bool egress_prefix_has(const struct egress_prefix *p, const uint8_t address[EGRESS_ADDRESS_BYTES])
{
	return bits_are_equal(p->address, address, p->bits);
}

static bool one_has(const struct egress_prefix *list, size_t n, const uint8_t *address)
{
	for (size_t i = 0; i < n; i++)
		if (egress_prefix_has(&list[i], address))
			return true;
	return false;
}

bool egress_address_is_translated(const uint8_t address[EGRESS_ADDRESS_BYTES])
{
	return one_has(translated, ARRAY_SIZE(translated), address);
}

bool egress_address_is_public(const uint8_t address[EGRESS_ADDRESS_BYTES])
{
	if (egress_prefix_has(&ipv4, address))
		return !one_has(special, ARRAY_SIZE(special), address);
	return egress_prefix_has(&global, address) && !egress_address_is_translated(address);
}

/* ---- names that guests may look up ---- */

uint64_t egress_rule_name_hash(const struct egress_rule *r)
{
	uint64_t hash = hash_add(HASH_BEGIN ^ r->below, r->name, strlen(r->name));

	return hash ? hash : 1;
}

bool egress_has_names(const struct egress *e)
{
	for (uint32_t i = 0; i < e->nrules; i++)
		if (e->rules[i].target == EGRESS_NAME)
			return true;
	return false;
}

static bool rule_is_whole(const struct egress_rule *r)
{
	return !r->protocol && !r->nports;
}

static bool rule_means_all(const struct egress_rule *r)
{
	return r->target == EGRESS_PREFIX &&
		(!r->bits || (r->bits == EGRESS_IPV4_BITS && !memcmp(r->address, egress_ipv4_form, EGRESS_IPV4_AT)));
}

bool egress_takes_name(const struct egress *e, const char *name)
{
	for (uint32_t i = 0; i < e->nrules; i++) {
		const struct egress_rule *r = &e->rules[i];

		if ((r->allow || rule_is_whole(r)) && (egress_rule_has_name(r, name) || rule_means_all(r)))
			return r->allow;
	}
	return e->allow;
}
