/* The verbs of ports. port-up and port-down also remove the rules of taps that are gone, because a daemon that was
 * killed has not removed them; and they store the addresses of dnsmasq's leases and of the removed ports. */
#include "tools/net/port.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/net/direct.h"
#include "tools/net/dnsmasq.h"
#include "tools/net/forks.h"
#include "tools/net/leases.h"
#include "tools/net/operation.h"
#include "tools/net/port_rules.h"
#include "tools/net/remembered.h"

#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* A row of the set port_macs. */
struct port_mac {
	char tap[IFNAMSIZ];
	uint8_t mac[MAC_BYTES];
	bool removed;
};

struct lease {
	uint8_t mac[MAC_BYTES];
	struct address address;
	unsigned seconds; /* 0: forever */
};

/* MAC addresses that no port has, such as those that a guest without a filter makes up, can have as many leases as the
 * network has addresses. So many of them are looked at in one change, and they replace no other. */
#define STRANGERS_MAX 1024

struct change {
	struct operation *o;
	struct port_text text;
	bool table_exists;
	struct port_mac *macs; /* owned */
	size_t nmacs;
	struct lease *leases; /* owned; those that have not ended */
	size_t nleases;
	uint8_t (*known)[MAC_BYTES]; /* owned; those of the ports and the request, sorted */
	size_t nknown, nstrangers;
	struct remembered_list *remembered; /* owned; NULL: not read */
};

static void change_done(struct change *c)
{
	free(c->macs);
	free(c->leases);
	free(c->known);
	free(c->remembered);
}

/* ---- the present ports ---- */

/* An element of the set port_macs: the tap's name and the MAC address. */
#define PORT_MAC_KEY_BYTES (IFNAMSIZ + 8)

/* Whether the request makes the tap's rules anew, or removes them. A reserved address leaves them as they are. */
static bool is_changed(const struct request *req, const char *tap)
{
	for (size_t i = 0; i < req->nports && req->verb != VERB_PORT_RESERVE; i++)
		if (!strcmp(req->ports[i].tap, tap))
			return true;
	return false;
}

static void mac_take(struct change *c, const struct nft_element *element)
{
	struct port_mac *m = &c->macs[c->nmacs];

	if (element->key_bytes != PORT_MAC_KEY_BYTES || element->key[IFNAMSIZ - 1])
		return;
	memcpy(m->tap, element->key, IFNAMSIZ);
	memcpy(m->mac, element->key + IFNAMSIZ, MAC_BYTES);
	if (!link_name_is_valid(m->tap))
		return;
	m->removed = is_changed(c->o->req, m->tap) || (!if_nametoindex(m->tap) && errno == ENODEV);
	c->nmacs++;
}

static int macs_list(struct change *c, struct err *e)
{
	CLEANUP_FREE struct nft_element *list = NULL;
	size_t n = 0;
	int r = nft_bridge_elements(c->o->nft, c->text.table, "port_macs", &list, &n, e);

	if (r < 0 || !n)
		return r;
	c->macs = must_alloc(calloc(n, sizeof(*c->macs)));
	for (size_t i = 0; i < n; i++)
		mac_take(c, &list[i]);
	return 0;
}

static int mac_compare(const void *a, const void *b)
{
	return memcmp(a, b, MAC_BYTES);
}

static void known_list(struct change *c)
{
	const struct request *req = c->o->req;

	c->known = must_alloc(calloc(c->nmacs + 3 * req->nports, sizeof(*c->known)));
	for (size_t i = 0; i < c->nmacs; i++)
		memcpy(c->known[c->nknown++], c->macs[i].mac, MAC_BYTES);
	for (size_t i = 0; i < req->nports; i++) {
		const struct port *p = &req->ports[i];
		const uint8_t *const own[] = { p->mac, p->guest_mac, p->fork.mac };

		for (size_t k = 0; k < ARRAY_SIZE(own); k++)
			memcpy(c->known[c->nknown++], own[k], MAC_BYTES);
	}
	qsort(c->known, c->nknown, sizeof(*c->known), mac_compare);
}

static bool is_known(const struct change *c, const uint8_t mac[MAC_BYTES])
{
	return bsearch(mac, c->known, c->nknown, sizeof(*c->known), mac_compare) != NULL;
}

/* Store a lease's address, so that the work does not grow with the leases of unknown guests. */
static void lease_remember(struct change *c, const struct lease *l)
{
	if (is_known(c, l->mac) || (c->remembered->n < REMEMBERED_MAX && c->nstrangers++ < STRANGERS_MAX))
		remembered_add(c->remembered, l->mac, &l->address);
}

static void lease_read(void *arg, const char *line)
{
	struct change *c = arg;
	const struct subnet *s = &c->o->req->net.ipv4;
	char expires[24], mac[64], ip[64];
	struct lease l;
	long long left;

	if (sscanf(line, "%23s %63s %63s", expires, mac, ip) != 3 || mac_parse(mac, l.mac) < 0 || address_parse(ip, AF_INET, &l.address) < 0 ||
		!s->given || !address_shares_prefix(&l.address, &s->address, s->prefix))
		return;
	lease_remember(c, &l);
	left = strtoll(expires, NULL, 10);
	left = left ? left - (long long)time(NULL) : UINT32_MAX;
	if (left <= 0)
		return;
	l.seconds = left >= UINT32_MAX ? 0 : (unsigned)left;
	if (!(c->nleases & (c->nleases - 1)))
		c->leases = must_alloc(realloc(c->leases, MAX(2 * c->nleases, 1) * sizeof(*c->leases)));
	c->leases[c->nleases++] = l;
}

/* Store the addresses of the removed ports. */
static int removed_remember(struct change *c, struct err *e)
{
	for (size_t i = 0; i < c->nmacs; i++) {
		CLEANUP_FREE struct nft_element *list = NULL;
		size_t n = 0;
		char set[40];
		int r;

		if (!c->macs[i].removed)
			continue;
		snprintf(set, sizeof(set), "own_%s", c->macs[i].tap);
		r = nft_bridge_elements(c->o->nft, c->text.table, set, &list, &n, e);
		if (r < 0)
			return r;
		for (size_t k = 0; k < n; k++) {
			struct address a = { .family = AF_INET };

			memcpy(a.bytes, list[k].key, 4);
			if (list[k].key_bytes == 4)
				remembered_add(c->remembered, c->macs[i].mac, &a);
		}
	}
	return 0;
}

static void table_name_print(const struct network *n, char *buf, size_t size)
{
	snprintf(buf, size, "%s_ports", n->table);
}

static int change_begin(struct change *c, const struct service *service, struct err *e)
{
	const struct request *req = c->o->req;
	int r;

	c->text = (struct port_text){ .req = req, .service = service };
	table_name_print(&req->net, c->text.table, sizeof(c->text.table));
	r = nft_has_bridge_table(c->o->nft, c->text.table, &c->table_exists, e);
	return r < 0 || !c->table_exists ? r : macs_list(c, e);
}

/* Read the leases, and bring the file of remembered addresses up to date. */
static int addresses_collect(struct change *c, struct err *e)
{
	const struct request *req = c->o->req;
	struct err why;
	int r;

	known_list(c);
	c->remembered = must_alloc(calloc(1, sizeof(*c->remembered)));
	r = remembered_read(req->folder, c->remembered, e);
	if (!r)
		r = leases_each(req, lease_read, c, e);
	if (!r)
		r = removed_remember(c, e);
	if (!r && remembered_write(req->folder, c->remembered, &why) < 0)
		operation_note(c->o, why.msg);
	return r;
}

/* ---- forks and reserved addresses ---- */

/* Return whether the request gives the port an address. */
static bool wants_address(const struct request *req, const struct port *p)
{
	return req->verb != VERB_PORT_DOWN && (p->fork.given || p->reserve);
}

static int leases_compare(const void *a, const void *b)
{
	return address_compare(&((const struct lease *)a)->address, &((const struct lease *)b)->address);
}

/* The leases are sorted: a guest can have as many as the network has addresses, each by another MAC address. */
static bool is_in_use(void *arg, const struct address *a, int pass)
{
	const struct change *c = arg;
	const uint8_t *own = c->text.port->mac;
	const struct lease key = { .address = *a }, *lease = NULL;
	bool used;

	if (c->nleases)
		lease = bsearch(&key, c->leases, c->nleases, sizeof(key), leases_compare);
	used = lease && memcmp(lease->mac, own, MAC_BYTES) != 0;
	/* A guest that is reverted or restored may still use the address. */
	for (size_t i = 0; i < c->remembered->n && !used && !pass; i++)
		used = address_equal(a, &c->remembered->list[i].address) && memcmp(c->remembered->list[i].mac, own, MAC_BYTES) != 0;
	return used;
}

/* Find the address of a MAC address: by its lease, its fixed host, or the stored addresses. */
static struct address address_of_mac(const struct change *c, const uint8_t mac[MAC_BYTES])
{
	const struct subnet *s = &c->o->req->net.ipv4;
	uint8_t other[MAC_BYTES];

	for (size_t i = 0; i < c->nleases; i++)
		if (!memcmp(c->leases[i].mac, mac, MAC_BYTES))
			return c->leases[i].address;
	for (size_t i = 0; i < s->nhosts; i++)
		if (s->hosts[i].mac && s->hosts[i].address.family && mac_parse(s->hosts[i].mac, other) == 0 && !memcmp(mac, other, MAC_BYTES))
			return s->hosts[i].address;
	for (size_t i = 0; i < c->remembered->n; i++)
		if (!memcmp(c->remembered->list[i].mac, mac, MAC_BYTES))
			return c->remembered->list[i].address;
	return (struct address){ 0 };
}

/* Add a port's address to the forks: the next ports do not get it, and dnsmasq leases it to its MAC address only. */
static void fork_add(struct network *n, const struct port *p)
{
	struct fork *f = &n->forks[n->nforks++];

	*f = (struct fork){ .address = p->unique };
	memcpy(f->mac, p->mac, MAC_BYTES);
}

/* Choose the addresses of the port's fork, or the one to reserve. */
static int address_plan(struct change *c, struct port *p, struct err *e)
{
	struct request *req = c->o->req;
	struct address last;
	int r = p->fork.given ? fork_source_read(c->o, p, e) : 0;

	if (r < 0)
		return r;
	if (p->fork.given && (!p->fork.address.family || !address_shares_prefix(&p->fork.address, &req->net.ipv4.address, req->net.ipv4.prefix)))
		p->fork.address = address_of_mac(c, p->fork.mac);
	last = address_of_mac(c, p->mac);
	c->text.port = p;
	r = fork_choose(&req->net, p, &c->text.service->ipv4, &last, is_in_use, c, &p->unique, e);
	if (r < 0)
		return r;
	if (p->naddresses < PORT_ADDRESSES_MAX)
		p->addresses[p->naddresses++] = p->unique;
	return 0;
}

static int addresses_plan(struct change *c, struct err *e)
{
	struct request *req = c->o->req;
	int r = 0;

	if (c->nleases)
		qsort(c->leases, c->nleases, sizeof(*c->leases), leases_compare);
	for (size_t i = 0; i < req->nports && !r; i++)
		if (wants_address(req, &req->ports[i])) {
			r = address_plan(c, &req->ports[i], e);
			if (!r)
				fork_add(&req->net, &req->ports[i]);
		}
	return r;
}

static void answer_put(const struct request *req, const struct port *p, struct json_object *o)
{
	char text[ADDRESS_TEXT_MAX], mac[MAC_TEXT_MAX];

	if (!wants_address(req, p))
		return;
	if (p->fork.given)
		js_put_str(o, "mac", mac_print(p->fork.mac, mac));
	js_put_str(o, "address", address_print(&p->unique, text));
	if (p->fork.address.family)
		js_put_str(o, "inner", address_print(&p->fork.address, text));
}

/* The answer has the keys of a single port itself. */
static void answers_put(const struct operation *o)
{
	const struct request *req = o->req;
	struct json_object *list = req->many ? json_object_new_array() : NULL;

	for (size_t i = 0; i < req->nports; i++) {
		struct json_object *each = list ? json_object_new_object() : o->answer;

		answer_put(req, &req->ports[i], each);
		if (list)
			json_object_array_add(list, each);
	}
	if (list)
		js_put(o->answer, "ports", list);
}

/* Mark the forks that the change removes. Returns whether dnsmasq's list of hosts changes. */
static bool forks_mark(struct change *c)
{
	struct request *req = c->o->req;
	bool any = false;

	for (size_t i = 0; i < req->nports; i++) {
		any |= wants_address(req, &req->ports[i]);
		for (size_t k = 0; k < req->net.nforks; k++)
			req->net.forks[k].gone |= !strcmp(req->net.forks[k].tap, req->ports[i].tap);
	}
	for (size_t k = 0; k < req->net.nforks; k++)
		any |= req->net.forks[k].gone;
	return any;
}

static void note_none(void *arg, const char *sentence)
{
	(void)arg;
	(void)sentence;
}

/* Have dnsmasq lease the forks' addresses to them only. */
static int leases_reserve(struct change *c, struct err *e)
{
	struct request *req = c->o->req;
	struct dnsmasq d;
	bool same;
	int r = 0;

	if (req->net.ipv4.dhcp)
		r = dnsmasq_init(&d, req, e);
	if (!req->net.ipv4.dhcp || r < 0 || !d.pid)
		return r;
	r = dnsmasq_write(&d, &same, note_none, NULL, e);
	if (r < 0)
		return r;
	return same ? dnsmasq_reload(&d, e) : dnsmasq_restart(&d, e); /* it reads its configuration only once */
}

/* ---- changes ---- */

static bool mac_stays(const struct change *c, const uint8_t mac[MAC_BYTES])
{
	for (size_t i = 0; i < c->nmacs; i++)
		if (!c->macs[i].removed && !memcmp(c->macs[i].mac, mac, MAC_BYTES))
			return true;
	return false;
}

/* Return whether an earlier row has the same tap. */
static bool is_second(const struct change *c, size_t at)
{
	for (size_t i = 0; i < at; i++)
		if (!strcmp(c->macs[i].tap, c->macs[at].tap))
			return true;
	return false;
}

static void removal_print(const struct change *c)
{
	size_t removed = 0;

	for (size_t i = 0; i < c->nmacs; i++)
		removed += c->macs[i].removed;
	if (!removed)
		return;
	port_learn_reset(&c->text);
	for (size_t i = 0; i < c->nmacs; i++) {
		const struct port_mac *m = &c->macs[i];

		if (m->removed)
			port_mac_clear(&c->text, m->tap, m->mac, !mac_stays(c, m->mac));
		if (m->removed && !is_second(c, i))
			port_clear(&c->text, m->tap);
		else if (!m->removed && !is_second(c, i))
			port_learn_print(&c->text, m->tap);
	}
}

static bool is_ports(const struct port *p, const uint8_t mac[MAC_BYTES])
{
	return !memcmp(mac, p->mac, MAC_BYTES) || !memcmp(mac, p->guest_mac, MAC_BYTES);
}

static bool other_has(const struct change *c, const struct address *a)
{
	for (size_t i = 0; i < c->nleases; i++)
		if (!is_ports(c->text.port, c->leases[i].mac) && address_equal(&c->leases[i].address, a))
			return true;
	return false;
}

/* The guest's addresses: its leases, and its earlier addresses that no other guest has now. */
static void own_print(const struct change *c)
{
	const struct port *p = c->text.port;
	const struct subnet *s = &c->o->req->net.ipv4;

	if (p->filter == FILTER_NONE)
		return;
	for (size_t i = 0; i < c->nleases; i++)
		if (is_ports(p, c->leases[i].mac)) {
			port_own_print(&c->text, &c->leases[i].address);
			port_leased_print(&c->text, &c->leases[i].address, c->leases[i].seconds);
		}
	for (size_t i = 0; i < c->remembered->n; i++) {
		const struct remembered *r = &c->remembered->list[i];

		if (is_ports(p, r->mac) && s->given && address_shares_prefix(&r->address, &s->address, s->prefix) && !other_has(c, &r->address))
			port_own_print(&c->text, &r->address);
	}
}

static bool is_fixed_host(const struct network *n, const struct address *a)
{
	for (size_t i = 0; i < n->ipv4.nhosts; i++)
		if (address_equal(a, &n->ipv4.hosts[i].address))
			return true;
	return false;
}

/* The forks whose taps are gone, and the request's. */
static void forks_print(const struct change *c)
{
	const struct request *req = c->o->req;
	const struct network *n = &req->net;

	forks_clear_print(c->text.f, n);
	for (size_t i = 0; i < n->nforks; i++)
		if (n->forks[i].gone && !is_fixed_host(n, &n->forks[i].address))
			port_reserve_print(&c->text, n->forks[i].mac, &n->forks[i].address, false);
	for (size_t i = 0; i < req->nports; i++) {
		const struct port *p = &req->ports[i];

		if (!wants_address(req, p))
			continue;
		port_reserve_print(&c->text, p->mac, &p->unique, true);
		if (!p->fork.given)
			reservation_print(c->text.f, n, p, &p->unique);
		else
			fork_print(c->text.f, n, p, &p->unique, &p->fork.address, &c->text.service->ipv4);
	}
}

static void change_print(struct change *c)
{
	const struct request *req = c->o->req;

	if (!c->table_exists)
		port_table_print(&c->text);
	forks_print(c);
	removal_print(c);
	for (size_t i = 0; i < req->nports && req->verb == VERB_PORT_UP; i++) {
		c->text.port = &req->ports[i];
		port_print(&c->text);
		own_print(c);
	}
}

/* Run the commands that print() makes. */
static int change_run(struct change *c, void (*print)(struct change *c), struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;

	c->text.f = open_memstream(&text, &len);
	if (!c->text.f)
		return err_set_errno(e, -ENOMEM, "rules");
	print(c);
	if (fclose(c->text.f))
		return err_set_errno(e, -ENOMEM, "rules");
	return len ? nft_run(c->o->nft, text, e) : 0;
}

/* Find the address that the port has already. */
static void reserved_take(struct operation *o)
{
	const struct network *n = &o->req->net;
	struct port *p = o->req->ports;

	for (size_t i = 0; i < n->nforks; i++)
		if (!n->forks[i].gone && !strcmp(n->forks[i].tap, p->tap))
			p->unique = n->forks[i].address;
}

static int rules_change(struct change *c, struct err *e)
{
	bool reserves = forks_mark(c);
	int r = addresses_plan(c, e);

	if (!r)
		r = change_run(c, change_print, e);
	return !r && reserves ? leases_reserve(c, e) : r;
}

static int port_change(struct operation *o, const struct service *service, struct err *e)
{
	struct change c = { .o = o };
	int r = change_begin(&c, service, e);

	if (!r && (c.table_exists || o->req->verb != VERB_PORT_DOWN)) {
		/* Write the file first: the rules, which have the addresses, are removed afterwards. */
		r = addresses_collect(&c, e);
		if (!r)
			r = forks_read(o, e);
		if (!r && o->req->verb == VERB_PORT_RESERVE)
			reserved_take(o);
		if (!r && !(o->req->verb == VERB_PORT_RESERVE && o->req->ports->unique.family))
			r = rules_change(&c, e);
	}
	if (!r)
		answers_put(o);
	change_done(&c);
	return r;
}

/* The flags belong to a port of the bridge. */
static int flags_set(struct operation *o, const struct port *p, int bridge, struct err *e)
{
	struct link tap;
	int r = link_find(o->links, p->tap, &tap, e);

	if (!r && !tap.index)
		return err_set(e, -ENODEV, ERR_NOT_FOUND, "port.tap: there is no link '%s'", p->tap);
	if (r < 0)
		return r;
	if (tap.master && tap.master == bridge)
		return link_set_port(o->links, tap.index, p->isolated, p->filter != FILTER_NONE, e);
	return p->isolated ? err_set(e, -EINVAL, ERR_WRONG_STATE, "port.tap: '%s' is no port of bridge '%s' yet", p->tap, o->req->net.bridge) : 0;
}

static int all_flags_set(struct operation *o, struct err *e)
{
	struct link bridge;
	int r = link_find(o->links, o->req->net.bridge, &bridge, e);

	for (size_t i = 0; i < o->req->nports && !r; i++)
		r = flags_set(o, &o->req->ports[i], bridge.index, e);
	return r;
}

/* Enter the clones, whose guests are about to continue, in the bridge's table and the host's. Otherwise the host asks
 * for each by ARP, and the bridge sends each question to all guests: 50 clones that are contacted at once get 2,500
 * frames. A missing entry only costs time. */
static void clones_add_neighbours(struct operation *o)
{
	const struct network *n = &o->req->net;
	struct link bridge, tap;
	struct err e;
	int r = link_find(o->links, n->bridge, &bridge, &e);

	for (size_t i = 0; i < o->req->nports && !r; i++) {
		const struct port *p = &o->req->ports[i];

		if (!p->fork.given || !p->fork.address.family)
			continue;
		r = link_find(o->links, p->tap, &tap, &e);
		if (!r && bridge.index && tap.master == bridge.index)
			r = link_add_neighbour(o->links, bridge.index, tap.index, p->mac, &p->unique, &e);
	}
	if (r < 0)
		operation_note(o, e.msg);
}

int network_port_up(struct operation *o, struct err *e)
{
	struct service service;
	int r = network_is_direct(&o->req->net) ? direct_ports_up(o, e) : all_flags_set(o, e);

	if (network_is_direct(&o->req->net)) {
		answers_put(o);
		return r;
	}
	dnsmasq_addresses(o->req, &service);
	r = r ? r : port_change(o, &service, e);
	if (!r)
		clones_add_neighbours(o);
	return r;
}

int network_port_down(struct operation *o, struct err *e)
{
	static const struct service none;

	if (network_is_direct(&o->req->net)) {
		answers_put(o);
		return direct_ports_down(o, e);
	}
	return port_change(o, &none, e);
}

/* An address for the tap of a running VM. */
int network_port_reserve(struct operation *o, struct err *e)
{
	const char *tap = o->req->ports->tap;
	struct service service;

	if (!if_nametoindex(tap) && errno == ENODEV)
		return err_set(e, -ENODEV, ERR_NOT_FOUND, "port.tap: there is no link '%s'", tap);
	dnsmasq_addresses(o->req, &service);
	return port_change(o, &service, e);
}

/* The set of leased addresses is new if an earlier version made the table, and guests renew their leases later. */
static void refresh_print(struct change *c)
{
	port_table_print(&c->text);
	for (size_t i = 0; i < c->nleases; i++)
		if (is_known(c, c->leases[i].mac))
			port_leased_print(&c->text, &c->leases[i].address, c->leases[i].seconds);
	for (size_t i = 0; i < c->nmacs; i++) {
		if (!is_second(c, i))
			port_learn_print(&c->text, c->macs[i].tap);
		port_hosts6_print(&c->text, c->macs[i].tap, c->macs[i].mac);
	}
}

int ports_are_there(struct operation *o, bool *ret, struct err *e)
{
	struct port_text t;

	table_name_print(&o->req->net, t.table, sizeof(t.table));
	return nft_has_bridge_table(o->nft, t.table, ret, e);
}

int ports_refresh(struct operation *o, const struct service *service, struct err *e)
{
	struct change c = { .o = o };
	int r = change_begin(&c, service, e);

	if (!r && c.table_exists)
		r = addresses_collect(&c, e);
	if (!r && c.table_exists)
		r = change_run(&c, refresh_print, e);
	change_done(&c);
	return r;
}
