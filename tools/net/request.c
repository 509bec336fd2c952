#include "tools/net/request.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/egress.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "base/uuid.h"
#include "tools/net/reading.h"
#include "tools/net/subnet.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 63
#define FOLDER_MAX_BYTES 1024
#define MTU_MIN 576
#define MTU_MIN_IPV6 1280
#define MTU_MAX 65535

bool link_name_is_valid(const char *name)
{
	static const char *const taken[] = { ".", "..", "all", "default", "lo" };

	if (!*name || strlen(name) >= IFNAMSIZ)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		if (!strcmp(name, taken[i]))
			return false;
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("._-+@", *c))
			return false;
	return true;
}

bool network_is_forwarded(const struct network *n)
{
	return n->mode == MODE_NAT || n->mode == MODE_ROUTE || n->mode == MODE_OPEN;
}

bool network_is_direct(const struct network *n)
{
	return n->mode > MODE_BRIDGE || (n->mode == MODE_BRIDGE && n->ndevs);
}

bool network_has_dnsmasq(const struct network *n)
{
	return n->mode < MODE_BRIDGE && (n->ipv4.given || n->ipv6.given) &&
		(n->ipv4.dhcp || n->ipv4.tftp_root || n->dns || n->ipv6.given);
}

bool network_is_apart(const struct network *n)
{
	return n->mode == MODE_ISOLATED && !n->ipv4.given && !n->ipv6.given && !n->egress;
}

bool network_has_names(const struct network *n)
{
	return n->egress && egress_has_names(n->egress);
}

static int link_name_check(const struct reading *r, const char *key, const char *name, struct err *e)
{
	if (strlen(name) >= IFNAMSIZ)
		return err_set(e, -EINVAL, ERR_INVALID, "%s.%s: '%.40s' has more than %d bytes; choose a shorter name", r->path, key, name,
			IFNAMSIZ - 1);
	if (!link_name_is_valid(name))
		return err_set(e, -EINVAL, ERR_INVALID, "%s.%s: a link's name consists of letters, digits and . _ - + @, and is "
			"not 'lo', 'all', 'default', '.' or '..'", r->path, key);
	return 0;
}

static int link_name(const struct reading *r, const char *key, bool needed, const char **ret, struct err *e)
{
	const char *name = NULL;
	int error = reading_text(r, key, needed, &name, e);

	if (!error && name)
		error = link_name_check(r, key, name, e);
	if (!error && name)
		*ret = name;
	return error;
}

/* The links of macvtap: dev, or devs. */
static int devs_read(const struct reading *r, struct network *n, struct err *e)
{
	struct json_object *array = NULL;
	int error = reading_array(r, "devs", DEVS_MAX, &array, e);

	if (!error && !array)
		error = link_name(r, "dev", n->mode > MODE_BRIDGE, &n->dev, e);
	for (size_t i = 0; !error && array && i < json_object_array_length(array); i++) {
		error = reading_text_at(r, "devs", array, i, &n->devs[i], e);
		if (!error)
			error = link_name_check(r, "devs", n->devs[i], e);
		n->ndevs = i + 1;
	}
	if (!error && n->dev && n->mode >= MODE_BRIDGE)
		n->devs[n->ndevs++] = n->dev;
	if (!error && n->mode > MODE_BRIDGE && !n->ndevs)
		return err_set(e, -EINVAL, ERR_INVALID, "%s.devs: at least one link", r->path);
	return error;
}

static int mac_read(const struct reading *r, const char *key, bool needed, uint8_t mac[MAC_BYTES], struct err *e)
{
	const char *text = NULL;
	int error = reading_text(r, key, needed, &text, e);

	if (error < 0 || !text)
		return error;
	if (mac_parse(text, mac) < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "%s.%s: a MAC address, such as 52:54:00:12:34:56, and no multicast one", r->path,
			key);
	return 0;
}

static int name_read(const struct reading *r, const char **ret, struct err *e)
{
	int error = reading_text(r, "name", true, ret, e);

	if (error < 0)
		return error;
	if (strlen(*ret) > NAME_MAX_BYTES || strchr(".+-", **ret))
		goto bad;
	for (const char *c = *ret; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("_.+-", *c))
			goto bad;
	return 0;
bad:
	return err_set(e, -EINVAL, ERR_INVALID, "network.name: 1 to %d letters, digits, '_', '.', '+' or '-', first a letter, a digit or "
		"'_'", NAME_MAX_BYTES);
}

static int uuid_read(const struct reading *r, const char **ret, struct err *e)
{
	int error = reading_text(r, "uuid", true, ret, e);
	const char *u = *ret;

	if (error < 0)
		return error;
	if (strlen(u) != UUID_TEXT - 1)
		goto bad;
	for (int i = 0; i < UUID_TEXT - 1; i++)
		if (i == 8 || i == 13 || i == 18 || i == 23 ? u[i] != '-' : !strchr("0123456789abcdef", u[i]))
			goto bad;
	return 0;
bad:
	return err_set(e, -EINVAL, ERR_INVALID, "network.uuid: 32 hexadecimal digits in lower case, as 8-4-4-4-12");
}

/* Get a member that is one of n words. expected: the words, for the error. *ret: the word's index; untouched if the
 * member is absent. Returns 0; -EINVAL. */
static int word_read(const struct reading *r, const char *key, bool needed, const char *const *words, size_t n, const char *expected,
	unsigned *ret, struct err *e)
{
	const char *word = NULL;
	int error = reading_text(r, key, needed, &word, e);

	if (error < 0 || !word)
		return error;
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(words[i], word)) {
			*ret = i;
			return 0;
		}
	return err_set(e, -EINVAL, ERR_INVALID, "%s", expected);
}

static int mode_read(const struct reading *r, enum network_mode *ret, struct err *e)
{
	static const char *const words[] = { [MODE_NAT] = "nat", [MODE_ROUTE] = "route", [MODE_ISOLATED] = "isolated",
		[MODE_OPEN] = "open", [MODE_BRIDGE] = "bridge", [MODE_PRIVATE] = "private", [MODE_VEPA] = "vepa",
		[MODE_PASSTHROUGH] = "passthrough" };

	return word_read(r, "mode", true, words, ARRAY_SIZE(words), "network.mode: nat, route, isolated, open, bridge, private, vepa or "
		"passthrough", ret, e);
}

/* The names that are made from the UUID. The MAC addresses are local ones; their last five bytes are the UUID's. */
static void names_make(struct network *n, bool mac_given)
{
	char hex[2 * UUID_BYTES + 1];
	size_t len = 0;

	for (const char *c = n->uuid; *c; c++)
		if (*c != '-')
			hex[len++] = *c;
	hex[len] = 0;
	snprintf(n->table, sizeof(n->table), "cairn_%s", hex);
	snprintf(n->veth, sizeof(n->veth), "cn-%.12s", hex);
	for (size_t i = 0; i < MAC_BYTES; i++) {
		unsigned v = 0;

		sscanf(hex + 2 * i, "%2x", &v);
		n->veth_mac[i] = (uint8_t)v;
	}
	n->veth_mac[0] = 0xfe;
	if (mac_given)
		return;
	memcpy(n->mac, n->veth_mac, sizeof(n->mac));
	n->mac[0] = 0x52;
	n->mac[1] = 0x54;
}

static int dns_host_read(const struct reading *r, struct dns_host *h, struct err *e)
{
	static const char *const keys[] = { "address", "names", NULL };
	struct json_object *names = NULL;
	int error = reading_keys(r, keys, e);

	if (!error)
		error = reading_address(r, "address", true, AF_UNSPEC, &h->address, e);
	if (!error)
		error = reading_array(r, "names", DNS_NAMES_MAX, &names, e);
	if (!error && (!names || !json_object_array_length(names)))
		return err_set(e, -EINVAL, ERR_INVALID, "%s.names: at least one name", r->path);
	for (size_t i = 0; !error && i < json_object_array_length(names); i++) {
		error = reading_text_at(r, "names", names, i, &h->names[i], e);
		if (!error && !host_name_is_valid(h->names[i]))
			return err_set(e, -EINVAL, ERR_INVALID, "%s.names[%zu]: letters, digits, '-', '_' and '.'", r->path, i);
		h->nnames = i + 1;
	}
	return error;
}

static int dns_hosts_read(const struct reading *r, struct network *n, struct err *e)
{
	struct json_object *array = NULL;
	int error = reading_array(r, "hosts", DNS_HOSTS_MAX, &array, e);
	size_t count = array ? json_object_array_length(array) : 0;

	if (error < 0 || !count)
		return error;
	n->dns_hosts = must_alloc(calloc(count, sizeof(*n->dns_hosts)));
	for (size_t i = 0; i < count && !error; i++) {
		struct reading host;

		error = reading_member(r, "hosts", array, i, &host, e);
		if (!error)
			error = dns_host_read(&host, &n->dns_hosts[i], e);
		n->ndns_hosts = i + 1;
	}
	return error;
}

static int dns_read(const struct reading *up, struct network *n, struct err *e)
{
	static const char *const keys[] = { "enable", "forwarders", "hosts", NULL };
	struct json_object *array = NULL;
	struct reading r;
	int error = reading_object(up, "dns", &r, e);

	n->dns = true;
	if (error < 0 || !r.o)
		return error;
	error = reading_keys(&r, keys, e);
	if (!error)
		error = reading_bool(&r, "enable", &n->dns, e);
	if (!error)
		error = reading_array(&r, "forwarders", FORWARDERS_MAX, &array, e);
	for (size_t i = 0; !error && array && i < json_object_array_length(array); i++) {
		const char *text;

		error = reading_text_at(&r, "forwarders", array, i, &text, e);
		if (!error && (address_parse(text, AF_UNSPEC, &n->forwarders[i]) < 0 || !address_is_unicast(&n->forwarders[i])))
			return err_set(e, -EINVAL, ERR_INVALID, "network.dns.forwarders[%zu]: the IP address of a name server that is not on this "
				"host's loopback", i);
		n->nforwarders = i + 1;
	}
	return error ? error : dns_hosts_read(&r, n, e);
}

/* A bridge of somebody else's has no other keys. */
static int bridge_mode_check(const struct reading *r, bool is_direct, struct err *e)
{
	static const char *const keys[] = { "name", "uuid", "mode", "bridge", NULL };
	static const char *const direct_keys[] = { "name", "uuid", "mode", "dev", "devs", NULL };
	struct err why;

	if (reading_keys(r, is_direct ? direct_keys : keys, &why) < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "%s with this mode: only name, uuid and %s", why.msg, is_direct ? "dev" : "bridge");
	return 0;
}

static int mtu_check(const struct network *n, struct err *e)
{
	if (n->mtu && n->ipv6.given && n->mtu < MTU_MIN_IPV6)
		return err_set(e, -EINVAL, ERR_INVALID, "network.mtu: at least %d with IPv6", MTU_MIN_IPV6);
	return 0;
}

static int egress_read(const struct reading *r, struct network *n, struct err *e)
{
	CLEANUP_FREE char *copy = NULL;
	const char *text = NULL;
	int error = reading_text(r, "egress", false, &text, e);
	bool valid;

	if (error < 0 || !text)
		return error;
	copy = must_alloc(strdup(text));
	n->egress = must_alloc(calloc(1, sizeof(*n->egress)));
	valid = egress_parse(copy, n->egress);
	if (!valid || (n->mode != MODE_NAT && n->mode != MODE_ROUTE))
		return err_set(e, -EINVAL, ERR_INVALID, "network.egress: rules such as \"deny;allow tcp 443 *.example.org\", with mode nat or "
			"route");
	if (network_has_names(n) && !n->dns)
		return err_set(e, -EINVAL, ERR_INVALID, "network.egress: rules with names need the network's DNS");
	return 0;
}

static int network_read(const struct reading *r, struct network *n, struct err *e)
{
	static const char *const keys[] = { "name", "uuid", "mode", "bridge", "mac", "mtu", "stp", "dev", "devs", "domain",
		"domain_local", "ipv4", "ipv6", "dns", "egress", NULL };
	int error = reading_keys(r, keys, e);

	if (!error)
		error = name_read(r, &n->name, e);
	if (!error)
		error = uuid_read(r, &n->uuid, e);
	if (!error)
		error = mode_read(r, &n->mode, e);
	if (!error)
		error = devs_read(r, n, e);
	if (!error)
		error = link_name(r, "bridge", !network_is_direct(n), &n->bridge, e);
	if (!error && n->mode >= MODE_BRIDGE) {
		names_make(n, false);
		return bridge_mode_check(r, network_is_direct(n), e);
	}
	if (!error)
		error = mac_read(r, "mac", false, n->mac, e);
	if (!error)
		error = reading_number(r, "mtu", false, MTU_MIN, MTU_MAX, &n->mtu, e);
	if (!error)
		error = reading_bool(r, "stp", &n->stp, e);
	if (!error)
		error = reading_host_name(r, "domain", &n->domain, e);
	if (!error)
		error = reading_bool(r, "domain_local", &n->domain_local, e);
	if (!error)
		error = dns_read(r, n, e);
	if (!error)
		error = egress_read(r, n, e);
	if (error < 0)
		return error;
	names_make(n, js_get(r->o, "mac") != NULL);
	error = subnet_read(r, "ipv4", AF_INET, &n->ipv4, e);
	if (!error)
		error = subnet_read(r, "ipv6", AF_INET6, &n->ipv6, e);
	return error ? error : mtu_check(n, e);
}

bool port_has_guest_mac(const struct port *p)
{
	return memcmp(p->mac, p->guest_mac, MAC_BYTES) != 0;
}

static int filter_read(const struct reading *r, enum port_filter *ret, struct err *e)
{
	static const char *const words[] = { [FILTER_NO_SPOOFING] = "no-spoofing", [FILTER_CLEAN_TRAFFIC] = "clean-traffic", [FILTER_NONE] = "none" };

	return word_read(r, "filter", false, words, ARRAY_SIZE(words), "port.filter: no-spoofing, clean-traffic or none", ret, e);
}

/* Check that a guest's MAC address leads to one peer, and that the rows of a peer follow one another.
 * path: of the row, for sentences. */
static int peer_check(const struct peer *peers, size_t at, const char *path, struct err *e)
{
	const struct peer *p = &peers[at];
	char text[MAC_TEXT_MAX];

	for (size_t i = 0; i < at; i++) {
		if (!memcmp(peers[i].mac, p->mac, MAC_BYTES))
			return err_set(e, -EINVAL, ERR_INVALID, "%s.mac: %s is there twice", path, mac_print(p->mac, text));
		if (!memcmp(peers[i].own, p->own, MAC_BYTES) && memcmp(peers[at - 1].own, p->own, MAC_BYTES) != 0)
			return err_set(e, -EINVAL, ERR_INVALID, "%s.own: the rows of %s do not follow one another", path, mac_print(p->own, text));
	}
	return 0;
}

static int peers_read(const struct reading *up, struct port *p, struct err *e)
{
	static const char *const keys[] = { "mac", "own", NULL };
	struct json_object *array = NULL;
	int error = reading_array(up, "peers", PEERS_MAX, &array, e);
	size_t n = array ? json_object_array_length(array) : 0;

	if (error < 0 || !n)
		return error;
	p->fork.peers = must_alloc(calloc(n, sizeof(*p->fork.peers)));
	p->fork.npeers = n;
	for (size_t i = 0; i < n && !error; i++) {
		struct reading r;

		error = reading_member(up, "peers", array, i, &r, e);
		if (!error)
			error = reading_keys(&r, keys, e);
		if (!error)
			error = mac_read(&r, "mac", true, p->fork.peers[i].mac, e);
		if (!error)
			error = mac_read(&r, "own", true, p->fork.peers[i].own, e);
		if (!error)
			error = peer_check(p->fork.peers, i, r.path, e);
	}
	return error;
}

static int fork_read(const struct reading *up, struct port *p, struct err *e)
{
	static const char *const keys[] = { "mac", "address", "source", "peers", NULL };
	const char *text = NULL;
	struct reading r;
	int error = reading_object(up, "fork", &r, e);

	if (error < 0 || !r.o)
		return error;
	p->fork.given = true;
	error = reading_keys(&r, keys, e);
	if (!error)
		error = mac_read(&r, "mac", true, p->fork.mac, e);
	if (!error)
		error = mac_read(&r, "source", false, p->fork.source, e);
	p->fork.has_source = js_get(r.o, "source");
	if (!error)
		error = peers_read(&r, p, e);
	if (!error)
		error = reading_text(&r, "address", false, &text, e);
	if (!error && text && (address_parse(text, AF_INET, &p->fork.address) < 0 || !address_is_unicast(&p->fork.address)))
		return err_set(e, -EINVAL, ERR_INVALID, "%s.address: the IPv4 address of a host", r.path);
	return error;
}

static int port_read(const struct reading *r, bool up, struct port *p, struct err *e)
{
	static const char *const keys[] = { "tap", "mac", "guest_mac", "filter", "isolated", "addresses", "fork", "reserve", "continues", NULL };
	struct json_object *array = NULL;
	int error = reading_keys(r, keys, e);

	if (!error)
		error = link_name(r, "tap", true, &p->tap, e);
	if (!error && strpbrk(p->tap, "+@"))
		return err_set(e, -EINVAL, ERR_INVALID, "%s.tap: a name with letters, digits, '.', '_' and '-' only", r->path);
	if (!error)
		error = mac_read(r, "mac", up, p->mac, e);
	memcpy(p->guest_mac, p->mac, sizeof(p->guest_mac));
	if (!error)
		error = mac_read(r, "guest_mac", false, p->guest_mac, e);
	if (!error)
		error = filter_read(r, &p->filter, e);
	if (!error)
		error = reading_bool(r, "isolated", &p->isolated, e);
	if (!error)
		error = reading_bool(r, "reserve", &p->reserve, e);
	if (!error)
		error = reading_bool(r, "continues", &p->continues, e);
	if (!error)
		error = fork_read(r, p, e);
	p->fork.given = p->fork.given && memcmp(p->fork.mac, p->mac, MAC_BYTES) != 0; /* the clone has taken its source's place */
	if (!error)
		error = reading_array(r, "addresses", PORT_ADDRESSES_MAX, &array, e);
	for (size_t i = 0; !error && array && i < json_object_array_length(array); i++) {
		const char *text;

		error = reading_text_at(r, "addresses", array, i, &text, e);
		if (!error && (address_parse(text, AF_UNSPEC, &p->addresses[i]) < 0 || !address_is_unicast(&p->addresses[i])))
			return err_set(e, -EINVAL, ERR_INVALID, "%s.addresses[%zu]: the IP address of a host", r->path, i);
		p->naddresses = i + 1;
	}
	return error;
}

static int used_read(const struct reading *r, struct request *q, struct err *e)
{
	struct json_object *array = NULL;
	int error = reading_array(r, "used", USED_MAX, &array, e);

	for (size_t i = 0; !error && array && i < json_object_array_length(array); i++) {
		const char *text;
		struct address a;
		unsigned prefix;
		char ip[ADDRESS_TEXT_MAX], digits[4], end;

		error = reading_text_at(r, "used", array, i, &text, e);
		if (error < 0)
			return error;
		prefix = sscanf(text, "%45[^/]/%3[0-9]%c", ip, digits, &end) == 2 ? (unsigned)atoi(digits) : UINT_MAX;
		if (prefix == UINT_MAX || address_parse(ip, AF_UNSPEC, &a) < 0 || prefix > address_len(&a) * 8)
			return err_set(e, -EINVAL, ERR_INVALID, "used[%zu]: a network, such as 192.168.122.0/24", i);
		q->used[q->nused++] = (struct range){ address_network(&a, prefix), address_last(&a, prefix) };
	}
	return error;
}

static int verb_read(const struct reading *r, enum verb *ret, struct err *e)
{
	static const char *const words[] = { [VERB_UP] = "up", [VERB_DOWN] = "down", [VERB_UPDATE] = "update",
		[VERB_LEASES] = "leases", [VERB_CHECK] = "check", [VERB_FREE] = "free", [VERB_PORT_UP] = "port-up",
		[VERB_PORT_DOWN] = "port-down", [VERB_PORT_RESERVE] = "port-reserve", [VERB_DENIED] = "denied",
		[VERB_BLOCKED] = "blocked" };

	return word_read(r, "verb", true, words, ARRAY_SIZE(words), "verb: up, down, update, leases, check, free, port-up, port-down, port-reserve, denied or blocked",
		ret, e);
}

static int folder_read(const struct reading *r, const char **ret, struct err *e)
{
	int error = reading_text(r, "folder", true, ret, e);

	if (!error && (**ret != '/' || strlen(*ret) > FOLDER_MAX_BYTES))
		return err_set(e, -EINVAL, ERR_INVALID, "folder: an absolute path of at most %d bytes", FOLDER_MAX_BYTES);
	return error;
}

static uint64_t path_hash(const char *path)
{
	uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */

	for (const char *c = path; *c; c++)
		hash = (hash ^ (uint8_t)*c) * 0x100000001b3;
	return hash;
}

/* Make names that differ from those of another daemon's network with the same UUID. The alias has the real path,
 * because two daemons, one after the other, may reach the folder by different symbolic links. */
static void marks_make(struct network *n, const char *folder)
{
	CLEANUP_FREE char *real = realpath(folder, NULL);

	snprintf(n->config, sizeof(n->config), "%s-%016" PRIx64 ".conf", n->uuid, path_hash(folder));
	snprintf(n->alias, sizeof(n->alias), ALIAS_PREFIX "%s-%016" PRIx64, n->uuid, path_hash(real ? real : folder));
}

static int part_needed(const struct reading *r, struct err *e)
{
	return r->o ? 0 : err_set(e, -EINVAL, ERR_INVALID, "%s: this key is missing", r->path);
}

/* path: of the port, for sentences. */
static int port_check(const struct request *q, const struct port *p, const char *path, struct err *e)
{
	const struct network *n = &q->net;

	if (p->fork.given && (n->mode >= MODE_BRIDGE || !n->ipv4.given))
		return err_set(e, -EINVAL, ERR_INVALID, "%s.fork: only in a network with IPv4 of which cairn-net makes the bridge", path);
	if (p->reserve && (n->mode >= MODE_BRIDGE || !n->ipv4.given || !n->ipv4.dhcp))
		return err_set(e, -EINVAL, ERR_INVALID, "%s.reserve: only in a network with DHCP for IPv4 of which cairn-net makes the bridge", path);
	for (const struct port *other = q->ports; other < p; other++)
		if (!strcmp(other->tap, p->tap))
			return err_set(e, -EINVAL, ERR_INVALID, "%s.tap: '%s' is there twice", path, p->tap);
	return 0;
}

static int port_take(const struct reading *r, struct request *q, struct err *e)
{
	struct port *p = &q->ports[q->nports];
	int error = part_needed(r, e);

	if (!error)
		error = port_read(r, q->verb != VERB_PORT_DOWN, p, e);
	p->reserve |= q->verb == VERB_PORT_RESERVE;
	p->continues |= q->verb == VERB_PORT_RESERVE;
	if (!error)
		error = port_check(q, p, r->path, e);
	q->nports++;
	return error;
}

/* Read "port", or "ports" with several. */
static int ports_read(const struct reading *up, struct request *q, struct err *e)
{
	struct json_object *array = NULL;
	struct reading r;
	int error = reading_array(up, "ports", PORTS_MAX, &array, e);

	if (error < 0)
		return error;
	q->many = array;
	q->ports = must_alloc(calloc(array ? MAX(json_object_array_length(array), 1) : 1, sizeof(*q->ports)));
	if (!array) {
		error = reading_object(up, "port", &r, e);
		return error ? error : port_take(&r, q, e);
	}
	if (!json_object_array_length(array) || js_get(up->o, "port") || q->verb == VERB_PORT_RESERVE)
		return err_set(e, -EINVAL, ERR_INVALID, "ports: at least one, of port-up or port-down, and no port beside it");
	for (size_t i = 0; !error && i < json_object_array_length(array); i++) {
		error = reading_member(up, "ports", array, i, &r, e);
		if (!error)
			error = port_take(&r, q, e);
	}
	return error;
}

/* Read which leases are wanted; all, without that part. */
static int leases_read(const struct reading *up, struct request *q, struct err *e)
{
	static const char *const keys[] = { "mac", "skip", "after", "most", NULL };
	struct reading r;
	int error = reading_object(up, "leases", &r, e);

	q->leases.most = UINT32_MAX;
	q->leases.after = -1;
	if (error < 0 || !r.o)
		return error;
	error = reading_keys(&r, keys, e);
	if (!error)
		error = reading_text(&r, "mac", false, &q->leases.mac, e);
	if (!error)
		error = reading_number(&r, "skip", true, 0, UINT32_MAX, &q->leases.skip, e);
	q->leases.after = js_get_int(r.o, "after", -1);
	return error ? error : reading_number(&r, "most", true, 1, UINT32_MAX, &q->leases.most, e);
}

int request_parse(const char *text, size_t len, struct request *ret, struct err *e)
{
	static const char *const keys[] = { "verb", "network", "folder", "port", "ports", "used", "leases", NULL };
	struct reading r = { 0 }, net;
	int error = js_parse(text, len, "the request", &ret->json, e);

	if (error < 0)
		return error;
	r.o = ret->json;
	if (!json_object_is_type(r.o, json_type_object))
		return err_set(e, -EINVAL, ERR_INVALID, "the request is no object");
	error = reading_keys(&r, keys, e);
	if (!error)
		error = verb_read(&r, &ret->verb, e);
	if (!error && ret->verb == VERB_FREE)
		return used_read(&r, ret, e);
	if (!error)
		error = folder_read(&r, &ret->folder, e);
	if (!error)
		error = reading_object(&r, "network", &net, e);
	if (!error)
		error = part_needed(&net, e);
	if (!error)
		error = network_read(&net, &ret->net, e);
	if (!error)
		marks_make(&ret->net, ret->folder);
	if (!error && ret->verb == VERB_LEASES)
		return leases_read(&r, ret, e);
	if (error < 0 || (ret->verb != VERB_PORT_UP && ret->verb != VERB_PORT_DOWN && ret->verb != VERB_PORT_RESERVE))
		return error;
	return ports_read(&r, ret, e);
}

void request_done(struct request *r)
{
	free(r->net.ipv4.hosts);
	free(r->net.ipv6.hosts);
	free(r->net.dns_hosts);
	free(r->net.egress);
	free(r->net.forks);
	for (size_t i = 0; i < r->nports; i++)
		free(r->ports[i].fork.peers);
	free(r->ports);
	json_object_put(r->json);
}
