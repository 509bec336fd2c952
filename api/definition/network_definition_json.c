/* Prints a network's definition. */
#include "api/definition/definition.h"
#include "api/definition/definition_key.h"
#include "api/definition/network_definition.h"
#include "api/definition/network_definition_check.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/egress.h"
#include "base/uuid.h"

#include <netinet/in.h>

static void put_text(struct json_object *o, const char *key, const char *s)
{
	js_put_str(o, key, s[0] ? s : NULL);
}

static void put_address(struct json_object *o, const char *key, const struct in6_addr *a)
{
	char text[INET6_ADDRSTRLEN];

	if (!IN6_IS_ADDR_UNSPECIFIED(a))
		js_put_str(o, key, network_address_print(a, text));
}

static struct json_object *host_put(const struct network_host *h)
{
	struct json_object *o = json_object_new_object();

	put_text(o, "mac", h->mac);
	put_text(o, "duid", h->duid);
	put_text(o, "name", h->name);
	put_address(o, "address", &h->address);
	return o;
}

static struct json_object *dhcp_put(const struct network_subnet *s)
{
	struct json_object *o = json_object_new_object(), *ranges = json_object_new_array(), *hosts = json_object_new_array();

	for (uint32_t i = 0; i < s->nranges; i++) {
		struct json_object *range = json_object_new_object();

		put_address(range, "start", &s->ranges[i].start);
		put_address(range, "end", &s->ranges[i].end);
		json_object_array_add(ranges, range);
	}
	for (uint32_t i = 0; i < s->nhosts; i++)
		json_object_array_add(hosts, host_put(&s->hosts[i]));
	js_put(o, "ranges", ranges);
	js_put(o, "hosts", hosts);
	if (s->lease_seconds)
		js_put_uint(o, "lease_seconds", s->lease_seconds);
	put_text(o, "boot_file", s->boot_file);
	put_address(o, "boot_server", &s->boot_server);
	return o;
}

static void put_subnet(struct json_object *o, const char *key, const struct network_subnet *s)
{
	struct json_object *of;

	if (!s->given)
		return;
	of = json_object_new_object();
	put_address(of, "address", &s->address);
	js_put_uint(of, "prefix", s->prefix);
	if (s->nat)
		js_put_bool(of, "nat", true);
	js_put_str(of, "tftp_root", s->tftp_root);
	if (s->dhcp_given)
		js_put(of, "dhcp", dhcp_put(s));
	js_put(o, key, of);
}

static void put_dns(struct json_object *o, const struct network_dns *d)
{
	struct json_object *dns, *forwarders, *hosts;

	if (!d->given)
		return;
	dns = json_object_new_object();
	forwarders = json_object_new_array();
	hosts = json_object_new_array();
	for (uint32_t i = 0; i < d->nforwarders; i++) {
		char text[INET6_ADDRSTRLEN];

		json_object_array_add(forwarders, json_object_new_string(network_address_print(&d->forwarders[i], text)));
	}
	for (uint32_t i = 0; i < d->nhosts; i++) {
		struct json_object *host = json_object_new_object(), *names = json_object_new_array();

		put_address(host, "address", &d->hosts[i].address);
		for (uint32_t k = 0; k < d->hosts[i].nnames; k++)
			json_object_array_add(names, json_object_new_string(d->hosts[i].names[k]));
		js_put(host, "names", names);
		json_object_array_add(hosts, host);
	}
	js_put_bool(dns, "enable", !d->off);
	js_put(dns, "forwarders", forwarders);
	js_put(dns, "hosts", hosts);
	js_put(o, "dns", dns);
}

void network_definition_put_devs(struct json_object *o, const struct network_definition *d)
{
	struct json_object *list = d->devs.n ? json_object_new_array() : NULL;

	for (uint32_t i = 0; i < d->devs.n; i++)
		json_object_array_add(list, json_object_new_string(d->devs.list[i]));
	if (list)
		js_put(o, "devs", list);
}

struct json_object *network_definition_for_program(const struct network_definition *d)
{
	struct json_object *o = json_object_new_object();
	CLEANUP_FREE char *rules = NULL;

	js_put_str(o, "name", d->name);
	if (uuid_is_set(d->uuid))
		js_put_uuid(o, "uuid", d->uuid);
	js_put_str(o, "mode", network_mode_name(d->mode));
	put_text(o, "bridge", d->bridge);
	put_text(o, "mac", d->mac);
	if (d->mtu)
		js_put_uint(o, "mtu", d->mtu);
	if (d->stp)
		js_put_bool(o, "stp", true);
	put_text(o, "dev", d->dev);
	network_definition_put_devs(o, d);
	put_text(o, "domain", d->domain);
	if (d->domain_local)
		js_put_bool(o, "domain_local", true);
	put_subnet(o, "ipv4", &d->ipv4);
	put_subnet(o, "ipv6", &d->ipv6);
	put_dns(o, &d->dns);
	rules = d->egress ? egress_print(d->egress) : NULL;
	js_put_str(o, "egress", rules);
	return o;
}

static void put_ids(struct json_object *o, const char *key, const struct network_ids *ids)
{
	struct json_object *list = json_object_new_array();

	for (uint32_t i = 0; i < ids->n; i++)
		json_object_array_add(list, json_object_new_int64(ids->list[i]));
	js_put(o, key, list);
}

struct json_object *network_definition_to_json(const struct network_definition *d)
{
	struct json_object *o = network_definition_for_program(d);

	put_ids(o, "users", &d->users);
	put_ids(o, "groups", &d->groups);
	if (d->egress)
		definition_put_egress(o, d->egress); /* in place of the program's text */
	if (d->filter)
		js_put_str(o, "filter", network_filter_name(d->filter));
	if (d->isolated_ports)
		js_put_bool(o, "isolated_ports", true);
	return o;
}
