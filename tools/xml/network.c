#include "tools/xml/network.h"
#include "api/definition/network_definition.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "tools/xml/elements.h"
#include "tools/xml/extra.h"
#include "tools/xml/reading.h"
#include "tools/xml/round_trip.h"
#include "tools/xml/writer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libxml/tree.h>
#include <stdio.h>
#include <string.h>

/* ---- reading ---- */

/* Which keys they set is in docs/networks.md. */
static const struct element network_elements[] = {
	{ "", ELEMENT_READ, "connections", NULL },
	{ "name", ELEMENT_READ, "", NULL },
	{ "uuid", ELEMENT_READ, "", NULL },
	{ "metadata", ELEMENT_READ, "", NULL },
	{ "forward", ELEMENT_READ, "mode dev", NULL },
	{ "forward/nat", ELEMENT_READ, "ipv6", NULL },
	{ "forward/nat/port", ELEMENT_READ, "start end", NULL },
	{ "forward/interface", ELEMENT_REPEATED, "dev connections", NULL },
	{ "bridge", ELEMENT_READ, "name stp delay", NULL },
	{ "mac", ELEMENT_READ, "address", NULL },
	{ "mtu", ELEMENT_READ, "size", NULL },
	{ "domain", ELEMENT_READ, "name localOnly", NULL },
	{ "port", ELEMENT_READ, "isolated", NULL },
	{ "dns", ELEMENT_READ, "enable", NULL },
	{ "dns/forwarder", ELEMENT_REPEATED, "addr", NULL },
	{ "dns/forwarder/@domain", ELEMENT_SILENT, "", NULL },
	{ "dns/host", ELEMENT_REPEATED, "ip", NULL },
	{ "dns/host/hostname", ELEMENT_REPEATED, "", NULL },
	{ "ip", ELEMENT_REPEATED, "family address netmask prefix", NULL },
	{ "ip/tftp", ELEMENT_READ, "root", NULL },
	{ "ip/dhcp", ELEMENT_READ, "", NULL },
	{ "ip/dhcp/bootp", ELEMENT_READ, "file server", NULL },
	{ "ip/dhcp/range", ELEMENT_REPEATED, "start end", NULL },
	{ "ip/dhcp/host", ELEMENT_REPEATED, "mac id name ip", NULL },
	{ "vlan", ELEMENT_REFUSED, "", "VLAN tags are not supported, and the guests would be in another network; name a bridge in that VLAN" },
	{ "virtualport", ELEMENT_REFUSED, "", "virtual ports (Open vSwitch, 802.1Qbg) are not supported; name a Linux bridge" },
	{ "portgroup", ELEMENT_REFUSED, "", "networks have no port groups; define a network for each" },
	{ NULL, ELEMENT_NONE, NULL, NULL },
};

/* The elements that net-update takes. */
static const struct element range_elements[] = { { "", ELEMENT_READ, "start end", NULL }, { NULL, ELEMENT_NONE, NULL, NULL } };
static const struct element host_elements[] = { { "", ELEMENT_READ, "mac id name ip", NULL }, { NULL, ELEMENT_NONE, NULL, NULL } };
static const struct element dns_host_elements[] = {
	{ "", ELEMENT_READ, "ip", NULL }, { "hostname", ELEMENT_REPEATED, "", NULL }, { NULL, ELEMENT_NONE, NULL, NULL }
};

static void put_attr(struct json_object *o, const char *key, struct _xmlNode *n, const char *attr)
{
	CLEANUP_FREE char *v = node_attr(n, attr);

	js_put_str(o, key, v);
}

static struct json_object *member(struct json_object *o, const char *key, bool array)
{
	struct json_object *v = js_get(o, key);

	if (!v)
		js_put(o, key, v = array ? json_object_new_array() : json_object_new_object());
	return v;
}

static struct json_object *range_make(struct _xmlNode *n)
{
	struct json_object *o = json_object_new_object();

	put_attr(o, "start", n, "start");
	put_attr(o, "end", n, "end");
	return o;
}

static struct json_object *host_make(struct _xmlNode *n)
{
	struct json_object *o = json_object_new_object();

	put_attr(o, "mac", n, "mac");
	put_attr(o, "duid", n, "id");
	put_attr(o, "name", n, "name");
	put_attr(o, "address", n, "ip");
	return o;
}

static struct json_object *dns_host_make(struct _xmlNode *n)
{
	struct json_object *o = json_object_new_object(), *names = json_object_new_array();

	put_attr(o, "address", n, "ip");
	for (struct _xmlNode *h = node_child(n, "hostname"); h; h = node_next(h)) {
		CLEANUP_FREE char *name = node_text(h);

		json_object_array_add(names, json_object_new_string(name ? name : ""));
	}
	js_put(o, "names", names);
	return o;
}

static void dhcp_read(struct reading *r, struct _xmlNode *n, struct json_object *into, const char *key)
{
	struct json_object *dhcp = member(into, "dhcp", false);
	unsigned i = 0;

	for (struct _xmlNode *c = node_child(n, "range"); c; c = node_next(c)) {
		reading_origin(r, c, "%s.dhcp.ranges[%u]", key, i++);
		json_object_array_add(member(dhcp, "ranges", true), range_make(c));
	}
	i = 0;
	for (struct _xmlNode *c = node_child(n, "host"); c; c = node_next(c)) {
		reading_origin(r, c, "%s.dhcp.hosts[%u]", key, i++);
		json_object_array_add(member(dhcp, "hosts", true), host_make(c));
	}
	n = node_child(n, "bootp");
	if (n && !strcmp(key, "ipv6"))
		reading_warn(r, n, NULL, "has no effect: network boot needs IPv4");
	else if (n) {
		reading_origin(r, n, "%s.dhcp.boot_file", key);
		reading_origin(r, n, "%s.dhcp.boot_server", key);
		put_attr(dhcp, "boot_file", n, "file");
		put_attr(dhcp, "boot_server", n, "server");
	}
}

/* The length of a netmask's prefix, 24 for 255.255.255.0. */
static int mask_read(struct reading *r, struct _xmlNode *n, uint64_t *ret)
{
	CLEANUP_FREE char *mask = node_attr(n, "netmask");
	struct in_addr a;
	uint32_t bits;

	if (!mask)
		return 0;
	if (inet_pton(AF_INET, mask, &a) != 1 || (~ntohl(a.s_addr) & (~ntohl(a.s_addr) + 1)))
		return reading_error(r, n, "netmask", ERR_INVALID, "\"%.40s\" is not a netmask such as 255.255.255.0", mask);
	for (*ret = 0, bits = ntohl(a.s_addr); bits; bits <<= 1)
		++*ret;
	return 0;
}

static int ip_read(struct reading *r, struct _xmlNode *n)
{
	const char *key = node_attr_is(n, "family", "ipv6") ? "ipv6" : "ipv4";
	struct json_object *o;
	struct _xmlNode *dhcp = node_child(n, "dhcp"), *tftp = node_child(n, "tftp");
	uint64_t prefix = 0;

	if (js_get(r->definition, key))
		return reading_error(r, n, NULL, ERR_UNSUPPORTED, "a network has one address of each family");
	if (mask_read(r, n, &prefix) < 0 || node_attr_number(r, n, "prefix", 128, &prefix) < 0)
		return -EINVAL;
	o = member(r->definition, key, false);
	reading_origin(r, n, "%s", key);
	put_attr(o, "address", n, "address");
	if (prefix)
		js_put_uint(o, "prefix", prefix);
	if (tftp && !strcmp(key, "ipv6"))
		reading_warn(r, tftp, NULL, "has no effect: network boot needs IPv4");
	else if (tftp) {
		reading_origin(r, tftp, "%s.tftp_root", key);
		put_attr(o, "tftp_root", tftp, "root");
	}
	if (dhcp)
		dhcp_read(r, dhcp, o, key);
	return 0;
}

/* The ports that cairn-net takes, too, need no warning. */
static void nat_warn(struct reading *r, struct _xmlNode *nat)
{
	struct _xmlNode *port = node_child(nat, "port");

	if (port && (!node_attr_is(port, "start", "1024") || !node_attr_is(port, "end", "65535")))
		reading_warn(r, port, NULL, "has no effect");
}

/* libvirt prints the link that leads outside as an attribute and as an element. Several links are a choice for the
 * guests of a network of macvtap devices. */
static void forward_link_read(struct reading *r, struct _xmlNode *link, bool direct)
{
	struct json_object *devs = NULL;

	if (direct && node_next(link)) {
		json_object_object_del(r->definition, "dev"); /* the first one's */
		for (; link; link = node_next(link)) {
			CLEANUP_FREE char *dev = node_attr(link, "dev");

			if (!devs)
				js_put(r->definition, "devs", devs = json_object_new_array());
			json_object_array_add(devs, json_object_new_string(dev ? dev : ""));
		}
		return;
	}
	if (!js_get(r->definition, "dev"))
		put_attr(r->definition, "dev", link, "dev");
	for (struct _xmlNode *more = node_next(link); more; more = node_next(more))
		reading_warn(r, more, NULL, "has no effect: one link leads outside");
}

static int forward_read(struct reading *r, struct _xmlNode *n)
{
	CLEANUP_FREE char *mode = n ? node_attr(n, "mode") : NULL;
	static const char *const modes[] = { "nat", "route", "open", "bridge", "private", "vepa", "passthrough" };
	size_t i = 0;

	js_put_str(r->definition, "mode", !n ? "isolated" : mode ? mode : "nat");
	if (!n)
		return 0;
	while (mode && i < ARRAY_SIZE(modes) && strcmp(modes[i], mode))
		i++;
	if (i == ARRAY_SIZE(modes))
		return reading_error(r, n, "mode", ERR_UNSUPPORTED, "\"%.40s\" is not supported; use nat, route, open, bridge, private, vepa or passthrough",
			mode);
	put_attr(r->definition, "dev", n, "dev");
	if (node_child(n, "interface"))
		forward_link_read(r, node_child(n, "interface"), i > 2);
	if (node_child(n, "nat"))
		nat_warn(r, node_child(n, "nat"));
	return 0;
}

static void dns_read(struct reading *r, struct _xmlNode *n)
{
	struct json_object *dns = member(r->definition, "dns", false);
	unsigned i = 0;

	if (node_attr_is(n, "enable", "no"))
		js_put_bool(dns, "enable", false);
	for (struct _xmlNode *c = node_child(n, "host"); c; c = node_next(c)) {
		reading_origin(r, c, "dns.hosts[%u]", i++);
		json_object_array_add(member(dns, "hosts", true), dns_host_make(c));
	}
	for (struct _xmlNode *c = node_child(n, "forwarder"); c; c = node_next(c)) {
		CLEANUP_FREE char *address = node_attr(c, "addr"), *domain = node_attr(c, "domain");

		if (domain)
			reading_warn(r, c, NULL, "has no effect: Cairn asks a server for all names, or for none");
		else if (address)
			json_object_array_add(member(dns, "forwarders", true), json_object_new_string(address));
		else
			reading_warn(r, c, NULL, "has no effect: it has no addr='...'");
	}
}

/* The kernel's smallest forward delay, which cairn-net uses. */
#define DELAY_SECONDS 2

static int bridge_read(struct reading *r, struct _xmlNode *n)
{
	uint64_t delay = 0;

	if (!n)
		return 0;
	put_attr(r->definition, "bridge", n, "name");
	reading_origin(r, n, "bridge");
	if (!node_attr_is(n, "stp", "on") || node_attr_is(node_child(n->parent, "forward"), "mode", "bridge"))
		return 0;
	js_put_bool(r->definition, "stp", true);
	if (node_attr_number(r, n, "delay", UINT32_MAX, &delay) < 0)
		return -EINVAL;
	if (delay > DELAY_SECONDS)
		reading_warn(r, n, "delay", "has no effect: the forward delay is %d seconds", DELAY_SECONDS);
	return 0;
}

int network_read(struct reading *r, struct _xmlDoc *doc)
{
	static const char *const texts[] = { "name", "uuid" };
	struct _xmlNode *root = xmlDocGetRootElement(doc), *n;
	uint64_t mtu = 0;
	int ret;

	if (!root || strcmp((const char *)root->name, "network"))
		return reading_error(r, root, NULL, ERR_INVALID, "is not libvirt's network XML, which begins with <network>");
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		CLEANUP_FREE char *text = (n = node_child(root, texts[i])) ? node_text(n) : NULL;

		js_put_str(r->definition, texts[i], text);
		if (n)
			reading_origin(r, n, "%s", texts[i]);
	}
	ret = elements_check(r, root, network_elements);
	if (!ret)
		ret = forward_read(r, node_child(root, "forward"));
	if (!ret)
		ret = bridge_read(r, node_child(root, "bridge"));
	if ((n = node_child(root, "mac")))
		put_attr(r->definition, "mac", n, "address");
	if (!ret && (n = node_child(root, "mtu")) && node_attr_number(r, n, "size", 65535, &mtu) < 0)
		return -EINVAL;
	if (mtu)
		js_put_uint(r->definition, "mtu", mtu);
	if ((n = node_child(root, "domain"))) {
		put_attr(r->definition, "domain", n, "name");
		if (node_attr_is(n, "localOnly", "yes"))
			js_put_bool(r->definition, "domain_local", true);
	}
	if ((n = node_child(root, "port")) && node_attr_is(n, "isolated", "yes"))
		js_put_bool(r->definition, "isolated_ports", true);
	for (n = node_child(root, "ip"); n && !ret; n = node_next(n))
		ret = ip_read(r, n);
	n = node_child(root, "forward");
	n = n ? node_child(n, "nat") : NULL;
	if (!ret && n && node_attr_is(n, "ipv6", "yes") && js_get(r->definition, "ipv6"))
		js_put_bool(js_get(r->definition, "ipv6"), "nat", true);
	if ((n = node_child(root, "dns")))
		dns_read(r, n);
	if (!ret)
		ret = extra_read(r, root);
	if (!ret)
		ret = reading_refused(r);
	reading_finish(r);
	return ret;
}

int network_entry_read(struct reading *r, struct _xmlDoc *doc, const char *section)
{
	struct _xmlNode *root = xmlDocGetRootElement(doc);
	bool is_range = !strcmp(section, "ip-dhcp-range"), is_dns = !strcmp(section, "dns-host");
	const char *name = is_range ? "range" : "host";
	int ret;

	if (!root || strcmp((const char *)root->name, name))
		return reading_error(r, root, NULL, ERR_INVALID, "is not a <%s>, which %s needs", name, section);
	ret = elements_check(r, root, is_range ? range_elements : is_dns ? dns_host_elements : host_elements);
	if (!ret)
		ret = reading_refused(r);
	json_object_put(r->definition);
	r->definition = is_range ? range_make(root) : is_dns ? dns_host_make(root) : host_make(root);
	reading_finish(r);
	return ret;
}

/* ---- printing ---- */

static void dhcp_print(struct writer *w, struct json_object *dhcp)
{
	struct json_object *ranges = js_get_array(dhcp, "ranges"), *hosts = js_get_array(dhcp, "hosts");

	writer_open(w, "dhcp", NULL);
	for (size_t i = 0; ranges && i < json_object_array_length(ranges); i++) {
		struct json_object *o = json_object_array_get_idx(ranges, i);

		writer_leaf(w, "range", "start", js_get_str(o, "start"), "end", js_get_str(o, "end"), NULL);
	}
	for (size_t i = 0; hosts && i < json_object_array_length(hosts); i++) {
		struct json_object *o = json_object_array_get_idx(hosts, i);

		writer_leaf(w, "host", "mac", js_get_str(o, "mac"), "id", js_get_str(o, "duid"), "name", js_get_str(o, "name"), "ip",
			js_get_str(o, "address"), NULL);
	}
	if (js_get_str(dhcp, "boot_file"))
		writer_leaf(w, "bootp", "file", js_get_str(dhcp, "boot_file"), "server", js_get_str(dhcp, "boot_server"), NULL);
	writer_close(w, "dhcp");
}

static bool is_empty(struct json_object *array)
{
	return !array || !json_object_array_length(array);
}

static void ip_print(struct writer *w, struct json_object *o, const char *family)
{
	struct json_object *dhcp = js_get(o, "dhcp");
	const char *tftp = js_get_str(o, "tftp_root");
	char prefix[16];

	if (!o)
		return;
	snprintf(prefix, sizeof(prefix), "%d", (int)js_get_int(o, "prefix", 0));
	/* lease_seconds alone has no element. */
	if (is_empty(js_get_array(dhcp, "ranges")) && is_empty(js_get_array(dhcp, "hosts")) && !js_get(dhcp, "boot_file"))
		dhcp = NULL;
	if (!dhcp && !tftp) {
		writer_leaf(w, "ip", "family", family, "address", js_get_str(o, "address"), "prefix", prefix, NULL);
		return;
	}
	writer_open(w, "ip", "family", family, "address", js_get_str(o, "address"), "prefix", prefix, NULL);
	if (tftp)
		writer_leaf(w, "tftp", "root", tftp, NULL);
	if (dhcp)
		dhcp_print(w, dhcp);
	writer_close(w, "ip");
}

static void dns_print(struct writer *w, struct json_object *dns)
{
	struct json_object *forwarders = js_get_array(dns, "forwarders"), *hosts = js_get_array(dns, "hosts");

	if (!dns)
		return;
	writer_open(w, "dns", "enable", js_get_bool(dns, "enable", true) ? NULL : "no", NULL);
	for (size_t i = 0; forwarders && i < json_object_array_length(forwarders); i++)
		writer_leaf(w, "forwarder", "addr", json_object_get_string(json_object_array_get_idx(forwarders, i)), NULL);
	for (size_t i = 0; hosts && i < json_object_array_length(hosts); i++) {
		struct json_object *o = json_object_array_get_idx(hosts, i), *names = js_get_array(o, "names");

		writer_open(w, "host", "ip", js_get_str(o, "address"), NULL);
		for (size_t k = 0; names && k < json_object_array_length(names); k++)
			writer_text(w, "hostname", json_object_get_string(json_object_array_get_idx(names, k)), NULL);
		writer_close(w, "host");
	}
	writer_close(w, "dns");
}

static void forward_print(struct writer *w, struct json_object *o)
{
	const char *mode = js_get_str_or(o, "mode", "nat"), *dev = js_get_str(o, "dev");
	struct json_object *devs = js_get_array(o, "devs");

	if (!strcmp(mode, "isolated"))
		return;
	if (devs) {
		writer_open(w, "forward", "dev", json_object_get_string(json_object_array_get_idx(devs, 0)), "mode", mode, NULL);
		for (size_t i = 0; i < json_object_array_length(devs); i++)
			writer_leaf(w, "interface", "dev", json_object_get_string(json_object_array_get_idx(devs, i)), NULL);
		writer_close(w, "forward");
		return;
	}
	if (dev && !js_get(o, "bridge") && !js_get(o, "ipv4") && !js_get(o, "ipv6")) { /* as libvirt prints macvtap's */
		writer_open(w, "forward", "dev", dev, "mode", mode, NULL);
		writer_leaf(w, "interface", "dev", dev, NULL);
		writer_close(w, "forward");
		return;
	}
	if (!js_get_bool(js_get(o, "ipv6"), "nat", false)) {
		writer_leaf(w, "forward", "mode", mode, "dev", dev, NULL);
		return;
	}
	writer_open(w, "forward", "mode", mode, "dev", dev, NULL);
	writer_leaf(w, "nat", "ipv6", "yes", NULL);
	writer_close(w, "forward");
}

static char *network_write(struct json_object *o, const char *id, struct json_object *extra)
{
	struct writer w;
	char mtu[16];

	(void)id;
	if (writer_init(&w) < 0)
		return NULL;
	snprintf(mtu, sizeof(mtu), "%d", (int)js_get_int(o, "mtu", 0));
	writer_open(&w, "network", NULL);
	writer_text(&w, "name", js_get_str_or(o, "name", ""), NULL);
	if (js_get_str(o, "uuid"))
		writer_text(&w, "uuid", js_get_str(o, "uuid"), NULL);
	extra_print(&w, extra);
	forward_print(&w, o);
	if (js_get_str(o, "bridge"))
		writer_leaf(&w, "bridge", "name", js_get_str(o, "bridge"), "stp", js_get_bool(o, "stp", false) ? "on" : NULL, NULL);
	if (js_get(o, "mtu"))
		writer_leaf(&w, "mtu", "size", mtu, NULL);
	if (js_get_str(o, "mac"))
		writer_leaf(&w, "mac", "address", js_get_str(o, "mac"), NULL);
	if (js_get_str(o, "domain"))
		writer_leaf(&w, "domain", "name", js_get_str(o, "domain"), "localOnly", js_get_bool(o, "domain_local", false) ? "yes" : NULL, NULL);
	if (js_get_bool(o, "isolated_ports", false))
		writer_leaf(&w, "port", "isolated", "yes", NULL);
	dns_print(&w, js_get(o, "dns"));
	ip_print(&w, js_get(o, "ipv4"), NULL);
	ip_print(&w, js_get(o, "ipv6"), "ipv6");
	writer_close(&w, "network");
	return writer_finish(&w);
}

static int network_canonical(struct json_object *o, struct json_object **ret_o, struct err *e)
{
	struct network_definition *d;
	int r = network_definition_parse(o, &d, e);

	if (r < 0)
		return r;
	*ret_o = network_definition_to_json(d);
	network_definition_free(d);
	return 0;
}

int network_print(struct json_object *o, char **ret_xml, struct err *e)
{
	static const struct round_trip kind = { network_write, network_read, network_canonical };

	return round_trip_print(&kind, o, NULL, ret_xml, e);
}
