#include "api/definition/network_definition_check.h"
#include "api/definition/definition_key.h"
#include "api/definition/network_definition.h"
#include "api/wire/json.h"
#include "base/egress.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *network_address_print(const struct in6_addr *a, char text[INET6_ADDRSTRLEN])
{
	if (IN6_IS_ADDR_V4MAPPED(a))
		inet_ntop(AF_INET, a->s6_addr + 12, text, INET6_ADDRSTRLEN);
	else
		inet_ntop(AF_INET6, a, text, INET6_ADDRSTRLEN);
	return text;
}

static bool is_set(const struct in6_addr *a)
{
	return !IN6_IS_ADDR_UNSPECIFIED(a);
}

static int compare(const struct in6_addr *a, const struct in6_addr *b)
{
	return memcmp(a, b, sizeof(*a));
}

/* ---- one subnet ---- */

struct subnet_check {
	struct parse *p;
	const struct network_subnet *s;
	const char *key; /* "ipv4" */
	unsigned bits;	 /* of the mapped address that are the network's */
	bool has_broadcast;
};

static bool bit_of(const struct in6_addr *a, unsigned i)
{
	return a->s6_addr[i / 8] >> (7 - i % 8) & 1;
}

static bool is_inside(const struct subnet_check *c, const struct in6_addr *a)
{
	for (unsigned i = 0; i < c->bits; i++)
		if (bit_of(a, i) != bit_of(&c->s->address, i))
			return false;
	return true;
}

/* Return whether all bits of the host are equal to `bit`. */
static bool host_bits_are(const struct subnet_check *c, const struct in6_addr *a, bool bit)
{
	for (unsigned i = c->bits; i < 128; i++)
		if (bit_of(a, i) != bit)
			return false;
	return true;
}

static const char *network_print(const struct subnet_check *c, char text[INET6_ADDRSTRLEN + 8])
{
	struct in6_addr a = c->s->address;
	char address[INET6_ADDRSTRLEN];

	for (unsigned i = c->bits; i < 128; i++)
		a.s6_addr[i / 8] &= (uint8_t)~(0x80 >> i % 8);
	snprintf(text, INET6_ADDRSTRLEN + 8, "%s/%u", network_address_print(&a, address), c->s->prefix);
	return text;
}

/* Check that a host may have the address. what: its key, such as "dhcp.hosts[0].address". */
static int address_check(const struct subnet_check *c, const struct in6_addr *a, const char *what)
{
	char text[INET6_ADDRSTRLEN], network[INET6_ADDRSTRLEN + 8];

	network_address_print(a, text);
	if (!is_inside(c, a))
		return key_error(c->p, "%s.%s: %s is outside the network %s", c->key, what, text, network_print(c, network));
	if (host_bits_are(c, a, false))
		return key_error(c->p, "%s.%s: %s is the address of the network %s itself, not of a host", c->key, what, text,
			network_print(c, network));
	if (c->has_broadcast && host_bits_are(c, a, true))
		return key_error(c->p, "%s.%s: %s is the broadcast address of the network %s", c->key, what, text,
			network_print(c, network));
	return 0;
}

static int ranges_check(const struct subnet_check *c)
{
	const struct network_range *all = c->s->ranges;
	char what[48], text[INET6_ADDRSTRLEN];
	int r = 0;

	for (uint32_t i = 0; i < c->s->nranges && !r; i++) {
		snprintf(what, sizeof(what), "dhcp.ranges[%u].start", i);
		r = address_check(c, &all[i].start, what);
		snprintf(what, sizeof(what), "dhcp.ranges[%u].end", i);
		if (!r)
			r = address_check(c, &all[i].end, what);
		if (r < 0)
			return r;
		if (compare(&all[i].start, &all[i].end) > 0)
			return key_error(c->p, "%s.%s: comes before start", c->key, what);
		if (compare(&all[i].start, &c->s->address) <= 0 && compare(&c->s->address, &all[i].end) <= 0)
			return key_error(c->p, "%s.dhcp.ranges[%u]: includes %s, the host's own address; begin behind it", c->key, i,
				network_address_print(&c->s->address, text));
		for (uint32_t k = 0; k < i; k++)
			if (compare(&all[i].start, &all[k].end) <= 0 && compare(&all[k].start, &all[i].end) <= 0)
				return key_error(c->p, "%s.dhcp.ranges[%u]: overlaps dhcp.ranges[%u]", c->key, i, k);
	}
	return r;
}

/* Check that no earlier host has the same name, MAC address or address. */
static int host_check_unique(const struct subnet_check *c, uint32_t i)
{
	const struct network_host *h = &c->s->hosts[i];
	char text[INET6_ADDRSTRLEN];

	for (uint32_t k = 0; k < i; k++) {
		const struct network_host *o = &c->s->hosts[k];

		if (h->mac[0] && !strcmp(h->mac, o->mac))
			return key_error(c->p, "%s.dhcp.hosts[%u].mac: %s is also the mac of hosts[%u]", c->key, i, h->mac, k);
		if (h->duid[0] && !strcmp(h->duid, o->duid))
			return key_error(c->p, "%s.dhcp.hosts[%u].duid: is also the duid of hosts[%u]", c->key, i, k);
		if (h->name[0] && !strcasecmp(h->name, o->name))
			return key_error(c->p, "%s.dhcp.hosts[%u].name: %s is also the name of hosts[%u]", c->key, i, h->name, k);
		if (is_set(&h->address) && !compare(&h->address, &o->address))
			return key_error(c->p, "%s.dhcp.hosts[%u].address: %s is also the address of hosts[%u]", c->key, i,
				network_address_print(&h->address, text), k);
	}
	return 0;
}

static int hosts_check(const struct subnet_check *c)
{
	char what[48];

	for (uint32_t i = 0; i < c->s->nhosts; i++) {
		const struct network_host *h = &c->s->hosts[i];

		snprintf(what, sizeof(what), "dhcp.hosts[%u].address", i);
		if (!h->mac[0] + !h->duid[0] != 1)
			return key_error(c->p, "%s.dhcp.hosts[%u]: give %s", c->key, i,
				c->has_broadcast ? "its mac" : "either its mac or its duid");
		if (!h->name[0] && !is_set(&h->address))
			return key_error(c->p, "%s.dhcp.hosts[%u]: has neither a name nor an address; give one", c->key, i);
		if (is_set(&h->address) && address_check(c, &h->address, what) < 0)
			return -EINVAL;
		if (is_set(&h->address) && !compare(&h->address, &c->s->address))
			return key_error(c->p, "%s.%s: is the host's own address", c->key, what);
		if (host_check_unique(c, i) < 0)
			return -EINVAL;
	}
	return 0;
}

static int subnet_check(struct parse *p, const struct network_subnet *s, const char *key, bool four)
{
	struct subnet_check c = { p, s, key, s->prefix + (four ? 96 : 0), four };
	int r;

	if (!s->given)
		return 0;
	if (!is_set(&s->address) || !s->prefix)
		return key_error(p, "%s: address or prefix is missing; give for example %s", key,
			four ? "\"address\": \"192.168.122.1\", \"prefix\": 24" : "\"address\": \"fd00:122::1\", \"prefix\": 64");
	if (!four && !network_subnet_has_dhcp(s) && s->prefix != 64)
		return key_error(p, "%s.prefix: guests choose their addresses in networks of /64 only; give 64, or dhcp", key);
	r = address_check(&c, &s->address, "address");
	if (!r && is_set(&s->boot_server) && !s->boot_file[0])
		return key_error(p, "%s.dhcp.boot_file is missing; boot_server needs the name of the file that it has", key);
	if (!r && s->dhcp_given && !network_subnet_has_dhcp(s) && !s->lease_seconds && !s->boot_file[0])
		return key_error(p, "%s.dhcp: has neither ranges nor hosts; give the addresses for guests", key);
	if (!r)
		r = ranges_check(&c);
	return r ? r : hosts_check(&c);
}

/* ---- a network ---- */

static int devs_check(struct parse *p, const struct network_definition *d)
{
	if (d->devs.n && d->dev[0])
		return key_error(p, "devs: has all links of the network; remove dev");
	for (uint32_t i = 0; i < d->devs.n; i++)
		for (uint32_t k = 0; k < i; k++)
			if (!strcmp(d->devs.list[i], d->devs.list[k]))
				return key_error(p, "devs[%u]: \"%s\" is there twice; remove one", i, d->devs.list[i]);
	return 0;
}

/* A bridge or link that exists is the admin's: Cairn sets nothing up there. */
static int bridge_check(struct parse *p, const struct network_definition *d)
{
	const char *mode = network_mode_name(d->mode);
	bool has_link = d->dev[0] || d->devs.n;

	if (devs_check(p, d) < 0)
		return -EINVAL;
	if (d->mode != NETWORK_BRIDGE && !has_link)
		return key_error(p, "dev is missing; mode %s needs the name of a link of the host, such as eth0", mode);
	if (has_link && d->bridge[0])
		return key_error(p, "bridge: mode %s has a bridge that exists or macvtap devices on dev; remove bridge or dev", mode);
	if (!has_link && !d->bridge[0])
		return key_error(p, "bridge is missing; mode bridge needs the name of a bridge that exists, or with dev a link of the host for "
			"macvtap devices");
	if (d->mac[0] || d->mtu || d->stp || d->domain[0] || d->domain_local || d->ipv4.given || d->ipv6.given ||
		d->dns.given || d->egress || d->filter || d->isolated_ports)
		return key_error(p, "mode %s uses a %s that exists as it is; remove all keys but name, uuid, mode, %s, users and groups",
			mode, has_link ? "link" : "bridge", d->devs.n ? "devs" : has_link ? "dev" : "bridge");
	return 0;
}

static int dns_check(struct parse *p, const struct network_definition *d)
{
	for (uint32_t i = 0; i < d->dns.nhosts; i++)
		if (!is_set(&d->dns.hosts[i].address) || !d->dns.hosts[i].nnames)
			return key_error(p, "dns.hosts[%u]: address or names are missing", i);
	if (d->domain_local && !d->domain[0])
		return key_error(p, "domain_local: there is no domain; give one");
	return 0;
}

static int egress_check(struct parse *p, const struct network_definition *d)
{
	if (!d->egress)
		return 0;
	if (d->mode != NETWORK_NAT && d->mode != NETWORK_ROUTE)
		return key_error(p, "egress: needs mode nat or route");
	if (egress_has_names(d->egress) && d->dns.off)
		return key_error(p, "egress: rules with names need the network's DNS; remove \"enable\": false from dns");
	return 0;
}

int network_definition_check(struct parse *p, const struct network_definition *d)
{
	CLEANUP_JS struct json_object *o = NULL;
	int r;

	if (!d->name[0])
		return key_error(p, "name is missing; give the network a name");
	if (d->mode >= NETWORK_BRIDGE)
		return bridge_check(p, d);
	if (d->mode != NETWORK_ISOLATED && !d->ipv4.given && !d->ipv6.given)
		return key_error(p, "ipv4 is missing; mode %s needs an address of the host, such as "
			"{\"address\": \"192.168.122.1\", \"prefix\": 24}", network_mode_name(d->mode));
	if (egress_check(p, d) < 0)
		return -EINVAL;
	if (d->dev[0] && d->mode != NETWORK_NAT && d->mode != NETWORK_ROUTE)
		return key_error(p, "dev: needs mode nat or route");
	if (d->devs.n)
		return key_error(p, "devs: needs mode bridge, private, vepa or passthrough; one link leads outside: dev");
	if (d->ipv6.given && d->mtu && d->mtu < 1280)
		return key_error(p, "mtu: %u is too small for IPv6; give at least 1280", d->mtu);
	r = subnet_check(p, &d->ipv4, "ipv4", true);
	if (!r)
		r = subnet_check(p, &d->ipv6, "ipv6", false);
	if (!r)
		r = dns_check(p, d);
	if (r < 0)
		return r;
	o = network_definition_to_json(d);
	if (js_line_bytes(o) > NETWORK_TEXT_MAX)
		return key_error(p, "the definition is longer than %d bytes; give fewer hosts", NETWORK_TEXT_MAX);
	return 0;
}
