/* Parses the keys of a network's definition. network_definition_check.c checks conditions on several keys, and
 * network_definition_json.c prints the keys. */
#include "api/definition/network_definition.h"
#include "api/definition/definition_key.h"
#include "api/definition/network_definition_check.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/host_name.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct choice modes[] = { { "nat", NETWORK_NAT }, { "route", NETWORK_ROUTE }, { "isolated", NETWORK_ISOLATED },
	{ "open", NETWORK_OPEN }, { "bridge", NETWORK_BRIDGE }, { "private", NETWORK_PRIVATE }, { "vepa", NETWORK_VEPA },
	{ "passthrough", NETWORK_PASSTHROUGH }, { NULL, 0 } };

static const struct choice filters[] = { { "no-spoofing", NETWORK_NO_SPOOFING }, { "clean-traffic", NETWORK_CLEAN_TRAFFIC },
	{ "none", NETWORK_UNFILTERED }, { NULL, 0 } };

const char *network_filter_name(unsigned filter)
{
	return filter && filter < ARRAY_SIZE(filters) ? filters[filter - 1].name : "unknown";
}

const char *network_mode_name(unsigned mode)
{
	return mode < ARRAY_SIZE(modes) - 1 ? modes[mode].name : "unknown";
}

bool network_is_direct(const struct network_definition *d)
{
	return d->mode > NETWORK_BRIDGE || (d->mode == NETWORK_BRIDGE && (d->dev[0] || d->devs.n));
}

/* ---- forms: the values that the parsers below accept, for the JSON Schema. The schema takes some addresses and
 * names that they refuse, such as 127.0.0.1 ---- */

#define TEXT_FORM(pattern) "{\"type\":\"string\",\"pattern\":\"^" pattern "$\"}"
#define LINK_FORM "{\"type\":\"string\",\"pattern\":\"^[A-Za-z0-9._+@-]{1,15}$\"," \
	"\"not\":{\"enum\":[\".\",\"..\",\"all\",\"default\",\"lo\"]}}"
#define LABEL_FORM "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define DOMAIN_FORM "{\"type\":\"string\",\"maxLength\":253,\"pattern\":\"^" LABEL_FORM "(\\\\." LABEL_FORM ")*$\"}"
/* Words that dnsmasq takes for a duration or a command are excluded. */
#define HOSTNAME_FORM "{\"type\":\"string\",\"pattern\":\"^" LABEL_FORM "$\"," \
	"\"not\":{\"pattern\":\"^([0-9]+[wdhmsWDHMS]?|ignore|infinite)$\"}}"
#define ADDRESS4_FORM TEXT_FORM(KEY_IPV4_FORM)
#define ADDRESS6_FORM TEXT_FORM("[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,40}")
#define ADDRESS_FORM "{\"anyOf\":[" ADDRESS4_FORM "," ADDRESS6_FORM "]}"
/* Words before a colon that dnsmasq takes for a tag are excluded. */
#define BOOT_FILE_FORM "{\"type\":\"string\",\"pattern\":\"^[A-Za-z0-9/][A-Za-z0-9/._~:?&=%+@-]{0,126}$\"," \
	"\"not\":{\"pattern\":\"^(tag|net):\"}}"
#define ID_FORM "{\"type\":\"integer\",\"minimum\":0,\"maximum\":4294967294}"

/* ---- names ---- */

/* Check a network's name. The error names no key. Returns 0; -EINVAL. */
static int network_definition_check_name(const char *name, struct err *e)
{
	size_t len = strlen(name);

	if (!len || len > NETWORK_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "must have 1 to %d characters", NETWORK_NAME_MAX);
	if (!isalnum((unsigned char)*name))
		return err_set(e, -EINVAL, ERR_INVALID, "must begin with a letter or a digit");
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("-_.", *c))
			return err_set(e, -EINVAL, ERR_INVALID, "may have letters, digits, \"-\", \"_\" and \".\" only");
	return 0;
}

static int parse_name(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 255);
	struct err why;

	if (!s)
		return -EINVAL;
	if (network_definition_check_name(s, &why) < 0)
		return key_error(p, "%s", why.msg);
	snprintf(into, NETWORK_NAME_MAX + 1, "%s", s);
	return 0;
}

/* A name of a link of the host. */
static int parse_link(struct parse *p, struct json_object *v, void *into)
{
	static const char *const taken[] = { ".", "..", "all", "default", "lo" };
	const char *s = key_text(p, v, 255);

	if (!s)
		return -EINVAL;
	if (strlen(s) >= IFNAMSIZ || !*s)
		return key_error(p, "has %zu characters; a link's name has 1 to %d", strlen(s), IFNAMSIZ - 1);
	for (const char *c = s; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("._-+@", *c))
			return key_error(p, "may have letters, digits, \".\", \"_\", \"-\", \"+\" and \"@\" only");
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		if (!strcmp(s, taken[i]))
			return key_error(p, "the kernel reserves the name \"%s\"; give another name", s);
	snprintf(into, IFNAMSIZ, "%s", s);
	return 0;
}

static int domain_parse(struct parse *p, struct json_object *v, size_t max, char *into)
{
	const char *s = key_text(p, v, 64 * 1024), *at = s;
	char given[48];

	if (!s)
		return -EINVAL;
	key_quote(s, given);
	for (size_t n; ; at += n + 1) {
		n = host_label_length(at);
		if (!n || strlen(s) > max)
			return key_error(p, "\"%s\" is not a %s of letters, digits and \"-\"", given,
				max > 63 ? "DNS name such as vms.example" : "host name without a dot");
		if (!at[n])
			break;
	}
	snprintf(into, max + 1, "%s", s);
	return 0;
}

static int parse_domain(struct parse *p, struct json_object *v, void *into)
{
	return domain_parse(p, v, NETWORK_DOMAIN_MAX, into);
}

/* Return whether dnsmasq would read the name as the duration of a lease, or as one of its own words. */
static bool is_dnsmasqs_word(const char *s)
{
	size_t digits = strspn(s, "0123456789");

	if (!strcmp(s, "ignore") || !strcmp(s, "infinite"))
		return true;
	return digits && (!s[digits] || (!s[digits + 1] && strchr("wdhmsWDHMS", s[digits])));
}

static int parse_hostname(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 64 * 1024);

	if (!s)
		return -EINVAL;
	if (is_dnsmasqs_word(s))
		return key_error(p, "has a special meaning for dnsmasq, like a number, \"12h\" and \"ignore\"; give another name");
	if (strchr(s, '.'))
		return key_error(p, "is a name with a dot; give the first part, and the rest as the network's domain");
	return domain_parse(p, v, 63, into);
}

/* ---- addresses ---- */

static int parse_mac(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 255);
	unsigned b[6];
	char given[48];
	int end = 0;

	if (!s)
		return -EINVAL;
	key_quote(s, given);
	if (strlen(s) != 17 || sscanf(s, "%2x:%2x:%2x:%2x:%2x:%2x%n", b, b + 1, b + 2, b + 3, b + 4, b + 5, &end) != 6 || end != 17)
		return key_error(p, "\"%s\" is not a MAC address such as 52:54:00:12:34:56", given);
	if (b[0] & 1)
		return key_error(p, "%s is a multicast address; give one whose first byte is even", given);
	if (!(b[0] | b[1] | b[2] | b[3] | b[4] | b[5]))
		return key_error(p, "must not be all zeros; omit it");
	snprintf(into, 18, "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
	return 0;
}

static void address_map(const struct in_addr *a, struct in6_addr *into)
{
	static const uint8_t prefix[12] = { [10] = 0xff, [11] = 0xff };

	memcpy(into->s6_addr, prefix, sizeof(prefix));
	memcpy(into->s6_addr + sizeof(prefix), a, sizeof(*a));
}

static int address_parse(struct parse *p, struct json_object *v, bool four, bool six, struct in6_addr *into)
{
	const char *s = key_text(p, v, 255);
	struct in6_addr a6;
	struct in_addr a4;
	char given[48];

	if (!s)
		return -EINVAL;
	key_quote(s, given);
	if (four && inet_pton(AF_INET, s, &a4) == 1) {
		address_map(&a4, into);
		if (ntohl(a4.s_addr) >> 24 && ntohl(a4.s_addr) >> 24 != 127 && ntohl(a4.s_addr) >> 28 < 14)
			return 0;
	} else if (six && inet_pton(AF_INET6, s, &a6) == 1) {
		*into = a6;
		if (!IN6_IS_ADDR_MULTICAST(&a6) && !IN6_IS_ADDR_UNSPECIFIED(&a6) && !IN6_IS_ADDR_LOOPBACK(&a6) &&
			!IN6_IS_ADDR_V4MAPPED(&a6) && !IN6_IS_ADDR_V4COMPAT(&a6) && !IN6_IS_ADDR_LINKLOCAL(&a6))
			return 0;
	} else {
		return key_error(p, "\"%s\" is not an %s address such as %s", given, !six ? "IPv4" : !four ? "IPv6" : "IP",
			six && !four ? "fd00:122::1" : "192.168.122.1");
	}
	return key_error(p, "%s is not an address for a host", given);
}

static int parse_address4(struct parse *p, struct json_object *v, void *into)
{
	return address_parse(p, v, true, false, into);
}

static int parse_address6(struct parse *p, struct json_object *v, void *into)
{
	return address_parse(p, v, false, true, into);
}

static int parse_address(struct parse *p, struct json_object *v, void *into)
{
	return address_parse(p, v, true, true, into);
}

/* Parse an address, also a loopback one: a name may stand for the guest that asks. */
static int address_any(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 255);
	struct in_addr a4;

	if (!s)
		return -EINVAL;
	if (inet_pton(AF_INET, s, &a4) == 1 && ntohl(a4.s_addr) >> 24 == 127) {
		address_map(&a4, into);
		return 0;
	}
	if (!strcmp(s, "::1")) {
		*(struct in6_addr *)into = in6addr_loopback;
		return 0;
	}
	return address_parse(p, v, true, true, into);
}

/* ---- lists ---- */

/* Parse each element of an array with one(), which gets the n-th place of the list. Returns 0; -EINVAL. */
static int list_parse(struct parse *p, struct json_object *v, size_t max, uint32_t *n, void *list, size_t size,
	int (*one)(struct parse *p, struct json_object *v, void *into))
{
	size_t len;

	if (!json_object_is_type(v, json_type_array))
		return key_error(p, "must be an array, not %s", js_type_words(v));
	len = json_object_array_length(v);
	if (len > max)
		return key_error(p, "has %zu entries; at most %zu", len, max);
	for (*n = 0; *n < len; ++*n) {
		size_t had = key_push_index(p, *n);
		int r = one(p, json_object_array_get_idx(v, *n), (char *)list + *n * size);

		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	return 0;
}

/* The same with a new list of the array's length. */
static int list_make(struct parse *p, struct json_object *v, size_t max, uint32_t *n, void *ret_list, size_t size,
	int (*one)(struct parse *p, struct json_object *v, void *into))
{
	size_t len = json_object_is_type(v, json_type_array) ? json_object_array_length(v) : 0;
	void **list = ret_list;

	free(*list);
	*list = calloc(MIN(len, max) + 1, size);
	*n = 0;
	return *list ? list_parse(p, v, max, n, *list, size, one) : err_set_errno(p->e, -ENOMEM, "network");
}

static int parse_id(struct parse *p, struct json_object *v, void *into)
{
	int64_t id = json_object_get_int64(v);

	if (!json_object_is_type(v, json_type_int) || id < 0 || id >= UINT32_MAX)
		return key_error(p, "must be the number of a user or group; the command id prints it");
	*(uint32_t *)into = (uint32_t)id;
	return 0;
}

static int parse_ids(struct parse *p, struct json_object *v, void *into)
{
	struct network_ids *ids = into;

	return list_parse(p, v, NETWORK_IDS_MAX, &ids->n, ids->list, sizeof(*ids->list), parse_id);
}

static int parse_devs(struct parse *p, struct json_object *v, void *into)
{
	struct network_devs *devs = into;

	return list_parse(p, v, NETWORK_DEVS_MAX, &devs->n, devs->list, sizeof(*devs->list), parse_link);
}

/* ---- DHCP ---- */

#define RANGE(field) offsetof(struct network_range, field)
#define RANGE_ROWS(parser, takes) { \
	{ "start", KEY_CUSTOM, .offset = RANGE(start), .parse = parser, .needed = true, .about = "first address", .form = takes }, \
	{ "end", KEY_CUSTOM, .offset = RANGE(end), .parse = parser, .needed = true, .about = "last address", .form = takes }, \
}
static const struct key range4_rows[] = RANGE_ROWS(parse_address4, ADDRESS4_FORM);
static const struct key range6_rows[] = RANGE_ROWS(parse_address6, ADDRESS6_FORM);
KEYS(range4_keys, range4_rows);
KEYS(range6_keys, range6_rows);

static int range_parse(struct parse *p, struct json_object *v, const struct keys *keys, struct network_range *r)
{
	int ret = keys_parse(p, v, keys, r);

	if (!ret && (!json_object_object_get_ex(v, "start", NULL) || !json_object_object_get_ex(v, "end", NULL)))
		return key_error(p, "start or end is missing; give the first and the last address");
	return ret;
}

static int parse_range4(struct parse *p, struct json_object *v, void *into)
{
	return range_parse(p, v, &range4_keys, into);
}

static int parse_range6(struct parse *p, struct json_object *v, void *into)
{
	return range_parse(p, v, &range6_keys, into);
}

static int parse_duid(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 389); /* RFC 8415, section 11.1: at most 130 bytes, as "0a:" each */

	if (!s)
		return -EINVAL;
	for (size_t i = 0; i < strlen(s) || i % 3 != 2; i++)
		if (i >= strlen(s) || (i % 3 == 2 ? s[i] != ':' : !isxdigit((unsigned char)s[i])))
			return key_error(p, "must be bytes in hexadecimal such as 00:03:00:01:52:54:00:12:34:56");
	snprintf(into, sizeof(((struct network_host *)0)->duid), "%s", s);
	return 0;
}

#define HOST(field) offsetof(struct network_host, field)
#define HOST_ROWS(parser, takes) \
	{ "mac", KEY_CUSTOM, .offset = HOST(mac), .parse = parse_mac, .about = "MAC address of the guest", .form = KEY_MAC_FORM }, \
	{ "name", KEY_CUSTOM, .offset = HOST(name), .parse = parse_hostname, .about = "name that the guest gets", .form = HOSTNAME_FORM }, \
	{ "address", KEY_CUSTOM, .offset = HOST(address), .parse = parser, .about = "address that the guest gets", .form = takes }
#define NAME_OR_ADDRESS "\"anyOf\":[{\"required\":[\"name\"]},{\"required\":[\"address\"]}]"
static const struct key host4_rows[] = { HOST_ROWS(parse_address4, ADDRESS4_FORM) };
static const struct key host6_rows[] = { HOST_ROWS(parse_address6, ADDRESS6_FORM),
	{ "duid", KEY_CUSTOM, .offset = HOST(duid), .parse = parse_duid, .about = "DUID of the guest, in place of its MAC address",
		.form = TEXT_FORM("[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){0,129}") } };
static const struct keys host4_keys = { host4_rows, ARRAY_SIZE(host4_rows), "{" NAME_OR_ADDRESS ",\"required\":[\"mac\"]}" };
static const struct keys host6_keys = { host6_rows, ARRAY_SIZE(host6_rows),
	"{" NAME_OR_ADDRESS ",\"oneOf\":[{\"required\":[\"mac\"]},{\"required\":[\"duid\"]}]}" };

static int parse_host4(struct parse *p, struct json_object *v, void *into)
{
	return keys_parse(p, v, &host4_keys, into);
}

static int parse_host6(struct parse *p, struct json_object *v, void *into)
{
	return keys_parse(p, v, &host6_keys, into);
}

static int parse_ranges4(struct parse *p, struct json_object *v, void *into)
{
	struct network_subnet *s = into;

	return list_parse(p, v, NETWORK_RANGES_MAX, &s->nranges, s->ranges, sizeof(*s->ranges), parse_range4);
}

static int parse_ranges6(struct parse *p, struct json_object *v, void *into)
{
	struct network_subnet *s = into;

	return list_parse(p, v, NETWORK_RANGES_MAX, &s->nranges, s->ranges, sizeof(*s->ranges), parse_range6);
}

static int parse_hosts4(struct parse *p, struct json_object *v, void *into)
{
	struct network_subnet *s = into;

	return list_make(p, v, NETWORK_HOSTS_MAX, &s->nhosts, &s->hosts, sizeof(*s->hosts), parse_host4);
}

static int parse_hosts6(struct parse *p, struct json_object *v, void *into)
{
	struct network_subnet *s = into;

	return list_make(p, v, NETWORK_HOSTS_MAX, &s->nhosts, &s->hosts, sizeof(*s->hosts), parse_host6);
}

/* Parse the name of a file that guests get by TFTP, or a URL. It becomes a line of dnsmasq's configuration. */
static int parse_boot_file(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, BOOT_FILE_BYTES);

	if (!s)
		return -EINVAL;
	if (!boot_file_has_characters(s))
		return key_error(p, "must be the name of a file below tftp_root, or a URL, of %s", BOOT_FILE_CHARACTERS);
	if (boot_file_is_tag(s))
		return key_error(p, "must not begin with \"%.4s\", which has a special meaning for dnsmasq", s);
	snprintf(into, BOOT_FILE_BYTES + 1, "%s", s);
	return 0;
}

#define SUBNET(field) offsetof(struct network_subnet, field)
#define DHCP_ROWS(parse_ranges, range_keys, parse_hosts, host_keys) \
	{ "ranges", KEY_ARRAY, .max = NETWORK_RANGES_MAX, .of = &range_keys, .parse = parse_ranges, .about = "addresses for guests" }, \
	{ "hosts", KEY_ARRAY, .max = NETWORK_HOSTS_MAX, .of = &host_keys, .parse = parse_hosts, .about = "guests with a fixed address or name" }, \
	{ "lease_seconds", KEY_NUMBER, .offset = SUBNET(lease_seconds), .min = 120, .max = UINT32_MAX, \
		.about = "duration of a lease", .initial = "3600" }
static const struct key dhcp4_rows[] = { DHCP_ROWS(parse_ranges4, range4_keys, parse_hosts4, host4_keys),
	{ "boot_file", KEY_CUSTOM, .offset = SUBNET(boot_file), .parse = parse_boot_file, .about = "file that guests boot from the network",
		.form = BOOT_FILE_FORM },
	{ "boot_server", KEY_CUSTOM, .offset = SUBNET(boot_server), .parse = parse_address4, .about = "TFTP server with that file [the network's own]",
		.form = ADDRESS4_FORM },
};
static const struct key dhcp6_rows[] = { DHCP_ROWS(parse_ranges6, range6_keys, parse_hosts6, host6_keys) };
#define ANY_OF_THEM "{\"minProperties\":1}"
static const struct keys dhcp4_keys = { dhcp4_rows, ARRAY_SIZE(dhcp4_rows), ANY_OF_THEM };
static const struct keys dhcp6_keys = { dhcp6_rows, ARRAY_SIZE(dhcp6_rows), ANY_OF_THEM };

static int prepare_dhcp(struct parse *p, struct json_object *v, void *into)
{
	(void)p;
	(void)v;
	((struct network_subnet *)into)->dhcp_given = true;
	return 0;
}

/* ---- subnets and DNS ---- */

static int prepare_subnet(struct parse *p, struct json_object *v, void *into)
{
	(void)p;
	(void)v;
	((struct network_subnet *)into)->given = true;
	return 0;
}

static const struct key ipv4_rows[] = {
	{ "address", KEY_CUSTOM, .offset = SUBNET(address), .parse = parse_address4, .needed = true, .about = "address of the host",
		.form = ADDRESS4_FORM },
	{ "prefix", KEY_NUMBER, .offset = SUBNET(prefix), .min = 8, .max = 29, .needed = true, .about = "length of the prefix" },
	{ "tftp_root", KEY_PATH, .offset = SUBNET(tftp_root), .about = "folder whose files guests get by TFTP [none]" },
	{ "dhcp", KEY_OBJECT, .offset = 0, .of = &dhcp4_keys, .parse = prepare_dhcp, .about = "addresses for the guests" },
};
static const struct key ipv6_rows[] = {
	{ "address", KEY_CUSTOM, .offset = SUBNET(address), .parse = parse_address6, .needed = true, .about = "address of the host",
		.form = ADDRESS6_FORM },
	{ "prefix", KEY_NUMBER, .offset = SUBNET(prefix), .min = 64, .max = 120, .needed = true, .about = "length of the prefix" },
	{ "nat", KEY_BOOL, .offset = SUBNET(nat), .about = "translate addresses", .initial = "false" },
	{ "dhcp", KEY_OBJECT, .offset = 0, .of = &dhcp6_keys, .parse = prepare_dhcp, .about = "addresses for the guests" },
};
KEYS(ipv4_keys, ipv4_rows);
KEYS(ipv6_keys, ipv6_rows);

static int parse_dns_name(struct parse *p, struct json_object *v, void *into)
{
	return domain_parse(p, v, NETWORK_DOMAIN_MAX, into);
}

static int parse_dns_names(struct parse *p, struct json_object *v, void *into)
{
	struct network_dns_host *h = into;

	return list_parse(p, v, NETWORK_DNS_NAMES_MAX, &h->nnames, h->names, sizeof(*h->names), parse_dns_name);
}

static const struct key dns_host_rows[] = {
	{ "address", KEY_CUSTOM, .offset = offsetof(struct network_dns_host, address), .parse = address_any, .needed = true,
		.about = "address of the names", .form = ADDRESS_FORM },
	{ "names", KEY_LIST, .max = NETWORK_DNS_NAMES_MAX, .parse = parse_dns_names, .needed = true, .about = "names that guests may ask for",
		.form = DOMAIN_FORM },
};
KEYS(dns_host_keys, dns_host_rows);

static int parse_dns_host(struct parse *p, struct json_object *v, void *into)
{
	return keys_parse(p, v, &dns_host_keys, into);
}

static int parse_dns_hosts(struct parse *p, struct json_object *v, void *into)
{
	struct network_dns *d = into;

	return list_make(p, v, NETWORK_DNS_HOSTS_MAX, &d->nhosts, &d->hosts, sizeof(*d->hosts), parse_dns_host);
}

static int parse_forwarders(struct parse *p, struct json_object *v, void *into)
{
	struct network_dns *d = into;

	return list_parse(p, v, NETWORK_FORWARDERS_MAX, &d->nforwarders, d->forwarders, sizeof(*d->forwarders), parse_address);
}

static int parse_dns_enable(struct parse *p, struct json_object *v, void *into)
{
	if (!json_object_is_type(v, json_type_boolean))
		return key_error(p, "must be true or false, not %s", js_type_words(v));
	((struct network_dns *)into)->off = !json_object_get_boolean(v);
	return 0;
}

static int prepare_dns(struct parse *p, struct json_object *v, void *into)
{
	(void)p;
	(void)v;
	((struct network_dns *)into)->given = true;
	return 0;
}

static const struct key dns_rows[] = {
	{ "enable", KEY_CUSTOM, .offset = 0, .parse = parse_dns_enable, .about = "answer the guests' questions", .initial = "true",
		.form = "{\"type\":\"boolean\"}" },
	{ "forwarders", KEY_LIST, .max = NETWORK_FORWARDERS_MAX, .parse = parse_forwarders, .about = "resolvers to ask [the host's]",
		.form = ADDRESS_FORM },
	{ "hosts", KEY_ARRAY, .max = NETWORK_DNS_HOSTS_MAX, .of = &dns_host_keys, .parse = parse_dns_hosts, .about = "names with their addresses" },
};
KEYS(dns_keys, dns_rows);

/* ---- a network ---- */

#define NETWORK(field) offsetof(struct network_definition, field)
static const struct key network_rows[] = {
	{ "name", KEY_CUSTOM, .offset = NETWORK(name), .parse = parse_name, .needed = true, .about = "name of the network",
		.form = TEXT_FORM("[A-Za-z0-9][A-Za-z0-9._-]{0,62}") },
	{ "uuid", KEY_CUSTOM, .offset = NETWORK(uuid), .parse = key_parse_uuid, .about = "UUID, unique in the daemon [generated]",
		.form = KEY_UUID_FORM },
	{ "mode", KEY_CHOICE, .offset = NETWORK(mode), .choices = modes, .about = "how guests reach other networks", .initial = "\"nat\"" },
	{ "bridge", KEY_CUSTOM, .offset = NETWORK(bridge), .parse = parse_link, .about = "name of the bridge [virbr0, ...]", .form = LINK_FORM },
	{ "mac", KEY_CUSTOM, .offset = NETWORK(mac), .parse = parse_mac, .about = "MAC address of the bridge [generated]", .form = KEY_MAC_FORM },
	{ "mtu", KEY_NUMBER, .offset = NETWORK(mtu), .min = 576, .max = 65535, .about = "MTU of the bridge", .initial = "1500" },
	{ "stp", KEY_BOOL, .offset = NETWORK(stp), .about = "spanning tree protocol", .initial = "false" },
	{ "dev", KEY_CUSTOM, .offset = NETWORK(dev), .parse = parse_link, .about = "the only link that leads outside [any]; the link for macvtap",
		.form = LINK_FORM },
	{ "devs", KEY_LIST, .max = NETWORK_DEVS_MAX, .offset = NETWORK(devs), .parse = parse_devs, .about = "several links for macvtap, of which each guest gets one",
		.form = LINK_FORM },
	{ "domain", KEY_CUSTOM, .offset = NETWORK(domain), .parse = parse_domain, .about = "DNS domain of the guests", .form = DOMAIN_FORM },
	{ "domain_local", KEY_BOOL, .offset = NETWORK(domain_local), .about = "never ask others for the domain's names", .initial = "false" },
	{ "ipv4", KEY_OBJECT, .offset = NETWORK(ipv4), .of = &ipv4_keys, .parse = prepare_subnet, .about = "addresses of IPv4" },
	{ "ipv6", KEY_OBJECT, .offset = NETWORK(ipv6), .of = &ipv6_keys, .parse = prepare_subnet, .about = "addresses of IPv6" },
	{ "dns", KEY_OBJECT, .offset = NETWORK(dns), .of = &dns_keys, .parse = prepare_dns, .about = "answers to the guests' questions for names" },
	{ "users", KEY_LIST, .max = NETWORK_IDS_MAX, .offset = NETWORK(users), .parse = parse_ids, .about = "users whose VMs may connect, by number [none]", .form = ID_FORM },
	{ "groups", KEY_LIST, .max = NETWORK_IDS_MAX, .offset = NETWORK(groups), .parse = parse_ids, .about = "groups whose members' VMs may connect, by number [none]",
		.form = ID_FORM },
	{ "egress", KEY_OBJECT_OWNED, .offset = NETWORK(egress), .of = &definition_egress_keys, .parse = definition_parse_egress,
		.about = "egress rules [the guests reach everything]" },
	{ "filter", KEY_CHOICE, .offset = NETWORK(filter), .choices = filters, .about = "whose addresses guests may use [none for mode open, else no-spoofing]" },
	{ "isolated_ports", KEY_BOOL, .offset = NETWORK(isolated_ports), .about = "keep guests from one another", .initial = "false" },
};
const struct keys network_definition_keys = { network_rows, ARRAY_SIZE(network_rows), NULL };

static int parse(struct json_object *o, bool stored, struct network_definition **ret_d, struct err *e)
{
	struct network_definition *d = calloc(1, sizeof(*d));
	struct parse p = { .e = e, .stored = stored };
	int r = d ? keys_parse(&p, o, &network_definition_keys, d) : err_set_errno(e, -ENOMEM, "network");

	p.path[0] = 0;
	if (!r)
		r = network_definition_check(&p, d);
	if (r < 0)
		network_definition_free(d);
	else
		*ret_d = d;
	return r;
}

int network_definition_parse(struct json_object *o, struct network_definition **ret_d, struct err *e)
{
	return parse(o, false, ret_d, e);
}

int network_definition_parse_stored(struct json_object *o, struct network_definition **ret_d, struct err *e)
{
	return parse(o, true, ret_d, e);
}

void network_definition_free(struct network_definition *d)
{
	if (!d)
		return;
	free(d->ipv4.hosts);
	free(d->ipv4.tftp_root);
	free(d->ipv6.hosts);
	free(d->dns.hosts);
	free(d->egress);
	free(d);
}
