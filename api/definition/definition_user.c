/* Parses and prints the keys of an interface of type user: its network and its forwards. */
#include "api/definition/definition_key.h"
#include "api/wire/json.h"
#include "base/user_network.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Prefix lengths. The guest's address ends with the bits 01111, which in a network smaller than /27 would make it the
 * broadcast address. */
#define PREFIX_MIN 8
#define PREFIX_MAX 27

static const struct choice protocols[] = { { "tcp", DEFINITION_TCP }, { "udp", DEFINITION_UDP }, { NULL, 0 } };

/* ---- addresses and networks ---- */

int definition_parse_network(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 255), *slash = s ? strchr(s, '/') : NULL;
	char address[INET_ADDRSTRLEN], given[48], *end = NULL;
	struct in_addr a;
	unsigned long n = slash ? strtoul(slash + 1, &end, 10) : 0;
	uint32_t host;

	if (!s)
		return -EINVAL;
	key_quote(s, given);
	snprintf(address, sizeof(address), "%.*s", slash ? (int)(slash - s) : 0, s);
	if (!slash || slash - s >= (ptrdiff_t)sizeof(address) || slash[1] < '1' || slash[1] > '9' || *end || inet_pton(AF_INET, address, &a) != 1 ||
		n < PREFIX_MIN || n > PREFIX_MAX)
		return key_error(p, "\"%s\" is not a network such as 10.0.2.0/24, with /%d to /%d", given, PREFIX_MIN,
			PREFIX_MAX);
	host = ntohl(a.s_addr) & (0xffffffffu >> n);
	a.s_addr &= ~htonl(0xffffffffu >> n);
	inet_ntop(AF_INET, &a, address, sizeof(address));
	if (host)
		return key_error(p, "%s is an address of a host; its network is %s/%lu", given, address, n);
	if (!(ntohl(a.s_addr) >> 24) || ntohl(a.s_addr) >> 24 == 127 || ntohl(a.s_addr) >> 24 >= 224)
		return key_error(p, "%s cannot be a guest's network; use a private one such as 10.0.2.0/24", given);
	snprintf(into, DEFINITION_PREFIX_TEXT, "%s/%lu", address, n);
	return 0;
}

/* inet_pton() accepts exactly one text for each address, so texts can be compared. */
static int parse_address(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 255);
	struct in_addr a;
	char given[48];

	if (!s)
		return -EINVAL;
	key_quote(s, given);
	if (inet_pton(AF_INET, s, &a) != 1)
		return key_error(p, "\"%s\" is not an IPv4 address such as 127.0.0.1; names are not looked up", given);
	snprintf(into, DEFINITION_ADDRESS_TEXT, "%s", s);
	return 0;
}

/* An address of the host. An IPv6 one becomes the text that inet_ntop() prints, so that these can be compared, too. */
static int parse_host_address(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 255);
	struct in6_addr a;
	char given[48];

	if (!s || !strchr(s, ':'))
		return parse_address(p, v, into);
	key_quote(s, given);
	if (inet_pton(AF_INET6, s, &a) != 1)
		return key_error(p, "\"%s\" is not an IPv6 address such as ::1; names are not looked up", given);
	if (IN6_IS_ADDR_V4MAPPED(&a) || IN6_IS_ADDR_LINKLOCAL(&a) || IN6_IS_ADDR_MULTICAST(&a))
		return key_error(p, "%s cannot be listened on; use ::, ::1 or another IPv6 address of this host, or for IPv4 an address such as 0.0.0.0", given);
	inet_ntop(AF_INET6, &a, into, DEFINITION_HOST_ADDRESS_TEXT);
	return 0;
}

/* ---- forwards ---- */

#define FORWARD(field) offsetof(struct definition_forward, field)
static const struct key forward_rows[] = {
	{ "protocol", KEY_CHOICE, .offset = FORWARD(protocol), .choices = protocols, .about = "protocol of the forward",
		.initial = "\"tcp\"" },
	{ "address", KEY_CUSTOM, .offset = FORWARD(address), .parse = parse_host_address,
		.about = "address of this host to listen on; 0.0.0.0: all IPv4 ones; with type network also IPv6; ::: all of these",
		.initial = "\"127.0.0.1\"", .form = "{\"type\":\"string\",\"pattern\":\"^[0-9a-fA-F.:]{2,45}$\"}" },
	{ "port", KEY_NUMBER16, .offset = FORWARD(port), .min = 1, .max = 65535, .needed = true,
		.about = "port of this host to listen on" },
	{ "to", KEY_NUMBER16, .offset = FORWARD(to), .min = 1, .max = 65535, .needed = true,
		.about = "port of the guest" },
	{ "guest", KEY_CUSTOM, .offset = FORWARD(guest), .parse = parse_address,
		.about = "address of the guest [the one that it gets by DHCP]",
		.form = "{\"type\":\"string\",\"pattern\":\"^" KEY_IPV4_FORM "$\"}" },
};
const struct keys definition_forward_keys = { forward_rows, ARRAY_SIZE(forward_rows), NULL };

static int forward_parse(struct parse *p, struct json_object *v, struct definition_forward *f)
{
	int r;

	snprintf(f->address, sizeof(f->address), "127.0.0.1");
	r = keys_parse(p, v, &definition_forward_keys, f);
	if (r < 0)
		return r;
	if (!f->port)
		return key_error(p, "port is missing; give the port of this host to forward");
	if (!f->to)
		return key_error(p, "to is missing; give the port of the guest to forward to");
	return 0;
}

int definition_parse_forwards(struct parse *p, struct json_object *v, void *into)
{
	struct definition_user *u = into;
	size_t n;

	if (!json_object_is_type(v, json_type_array))
		return key_error(p, "must be an array of {port, to}, not %s", js_type_words(v));
	n = json_object_array_length(v);
	if (n > DEFINITION_FORWARDS_MAX)
		return key_error(p, "has %zu forwards; at most %d", n, DEFINITION_FORWARDS_MAX);
	for (size_t i = 0; i < n; i++) {
		size_t had = key_push_index(p, i);
		int r = forward_parse(p, json_object_array_get_idx(v, i), &u->forwards[i]);

		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	u->nforwards = (uint32_t)n;
	return 0;
}

/* ---- checks across keys ---- */

bool definition_user_is_plain(const struct definition_user *u)
{
	return !u->network[0] && !u->restricted && !u->host_loopback;
}

static bool address_is_any(const char *address)
{
	return !strcmp(address, "0.0.0.0") || !strcmp(address, "::");
}

static bool is_ipv6(const struct definition_forward *f)
{
	return strchr(f->address, ':');
}

bool definition_forwards_meet(const struct definition_forward *a, const struct definition_forward *b)
{
	if (a->protocol != b->protocol || a->port != b->port || !a->port || is_ipv6(a) != is_ipv6(b))
		return false;
	return address_is_any(a->address) || address_is_any(b->address) || !strcmp(a->address, b->address);
}

void definition_forward_print(const struct definition_forward *f, char text[DEFINITION_FORWARD_TEXT])
{
	snprintf(text, DEFINITION_FORWARD_TEXT, is_ipv6(f) ? "%s [%s]:%u" : "%s %s:%u", protocols[MIN(f->protocol, 1)].name, f->address, f->port);
}

static int guest_check(struct parse *p, unsigned i, unsigned k, const struct definition_user *u)
{
	const char *slash = strchr(u->network, '/');
	struct in_addr guest, net;
	char address[INET_ADDRSTRLEN];
	uint32_t host, mask;

	if (!u->forwards[k].guest[0] || !slash)
		return 0;
	snprintf(address, sizeof(address), "%.*s", (int)(slash - u->network), u->network);
	if (inet_pton(AF_INET, address, &net) != 1 || inet_pton(AF_INET, u->forwards[k].guest, &guest) != 1)
		return -EINVAL;
	mask = 0xffffffffu >> strtoul(slash + 1, NULL, 10);
	host = ntohl(guest.s_addr) & mask;
	if ((ntohl(guest.s_addr) & ~mask) == ntohl(net.s_addr) && host && host != mask && host != (USER_NETWORK_GATEWAY & mask) &&
		host != (USER_NETWORK_RESOLVER & mask))
		return 0;
	return key_error(p, "interfaces[%u].forwards[%u].guest: %s is not an address that the guest can have in %s",
		i, k,
		u->forwards[k].guest, u->network);
}

static int forward_check(struct parse *p, unsigned i, unsigned k)
{
	const struct definition_interface *n = p->d->interfaces;
	char text[DEFINITION_FORWARD_TEXT];

	if (is_ipv6(&n[i].user.forwards[k]) && n[i].type != DEFINITION_NETWORK)
		return key_error(p, "interfaces[%u].forwards[%u].address: %s is an IPv6 address, which requires type network; use an IPv4 address", i, k,
			n[i].user.forwards[k].address);
	for (unsigned j = 0; j <= i; j++)
		for (unsigned l = 0; l < (j == i ? k : n[j].user.nforwards); l++) {
			if (!definition_forwards_meet(&n[i].user.forwards[k], &n[j].user.forwards[l]))
				continue;
			definition_forward_print(&n[i].user.forwards[k], text);
			return key_error(p,
				"interfaces[%u].forwards[%u]: %s is also used by interfaces[%u].forwards[%u]", i, k,
				text, j, l);
		}
	return guest_check(p, i, k, &n[i].user);
}

int definition_check_forwards(struct parse *p)
{
	int r = 0;

	for (unsigned i = 0; i < p->d->ninterfaces && !r; i++)
		for (unsigned k = 0; k < p->d->interfaces[i].user.nforwards && !r; k++)
			r = forward_check(p, i, k);
	return r;
}

/* ---- printing JSON ---- */

void definition_put_forward(struct json_object *o, const struct definition_forward *f)
{
	js_put_str(o, "protocol", protocols[MIN(f->protocol, 1)].name);
	js_put_str(o, "address", f->address);
	js_put_uint(o, "port", f->port);
	js_put_uint(o, "to", f->to);
	if (f->guest[0])
		js_put_str(o, "guest", f->guest);
}

static struct json_object *forwards_to_json(const struct definition_user *u)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; i < u->nforwards; i++) {
		struct json_object *one = json_object_new_object();

		definition_put_forward(one, &u->forwards[i]);
		json_object_array_add(list, one);
	}
	return list;
}

void definition_put_published(struct json_object *o, const struct definition_user *u)
{
	if (u->nforwards)
		js_put(o, "forwards", forwards_to_json(u));
}

void definition_put_user(struct json_object *o, const struct definition_user *u)
{
	js_put_str(o, "network", u->network);
	js_put(o, "forwards", forwards_to_json(u));
	js_put_bool(o, "restrict", u->restricted);
	js_put_bool(o, "host_loopback", u->host_loopback);
}
