#include "tools/net/operation.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "tools/net/accept.h"
#include "tools/net/direct.h"
#include "tools/net/dnsmasq.h"
#include "tools/net/forks.h"
#include "tools/net/forwarding.h"
#include "tools/net/names.h"
#include "tools/net/overlap.h"
#include "tools/net/port.h"
#include "tools/net/rules.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void operation_note(void *o, const char *sentence)
{
	json_object_array_add(((struct operation *)o)->notes, json_object_new_string(sentence));
}

/* Earlier versions gave the bridge no alias. */
static bool alias_is_others(const struct network *n, const char *alias)
{
	return !strncmp(alias, ALIAS_PREFIX, strlen(ALIAS_PREFIX)) && strcmp(alias, n->alias) != 0;
}

/* Find the bridge of another daemon's network with the same UUID. ret: its name; "" if there is none.
 * Returns 0; -errno. */
static int others_bridge_find(struct operation *o, char ret[IFNAMSIZ], struct err *e)
{
	const struct network *n = &o->req->net;

	return links_find_other_alias(o->links, n->alias, strlen(ALIAS_PREFIX) + strlen(n->uuid), ret, e);
}

static int uuid_check(struct operation *o, struct err *e)
{
	const struct network *n = &o->req->net;
	char bridge[IFNAMSIZ];
	int r = others_bridge_find(o, bridge, e);

	if (r < 0 || !*bridge)
		return r;
	return err_set(e, -EEXIST, ERR_EXISTS, "network '%s': another daemon of this host runs a network with the same UUID (bridge '%s'); leave "
		"the uuid out of this network's definition, or, if no daemon has that network any more, run: ip link delete %s", n->name, bridge, bridge);
}

/* Find the network's bridge. Returns 1; 0: there is none; -EEXIST with a sentence: another link has its name;
 * -errno. */
static int operation_find_bridge(struct operation *o, struct link *ret, struct err *e)
{
	const struct network *n = &o->req->net;
	int r = link_find(o->links, n->bridge, ret, e);

	if (r < 0 || !ret->index)
		return r;
	if (!strcmp(ret->kind, "bridge") && (n->mode == MODE_BRIDGE || (!memcmp(ret->mac, n->mac, MAC_BYTES) && !alias_is_others(n, ret->alias))))
		return 1;
	if (n->mode == MODE_BRIDGE)
		return err_set(e, -EINVAL, ERR_INVALID, "network '%s': '%s' is not a bridge; give the name of a bridge (ip link show type bridge)",
			n->name, n->bridge);
	return err_set(e, -EEXIST, ERR_EXISTS, "network '%s': there is a link '%s' that is not this network's; give the network another bridge "
		"name, or, if nobody needs the link, run: ip link delete %s", n->name, n->bridge, n->bridge);
}

static int existing_bridge_needed(const struct network *n, int found, struct err *e)
{
	if (found)
		return found < 0 ? found : 0;
	return err_set(e, -ENODEV, ERR_NOT_FOUND, "network '%s': there is no bridge '%s'; create it with: ip link add %s type bridge && "
		"ip link set %s up", n->name, n->bridge, n->bridge, n->bridge);
}

/* ---- up ---- */

static int subnet_add(struct operation *o, int index, const struct subnet *s, struct err *e)
{
	return s->given ? link_add_address(o->links, index, &s->address, s->prefix, e) : 0;
}

#define ARP_SILENT 8 /* Documentation/networking/ip-sysctl.rst: "do not reply for all local addresses" */

/* Without addresses of its own, the bridge is silent about the host's addresses on other links. */
static int arp_set(const struct network *n, struct err *e)
{
	bool silent = link_sysctl_read("ipv4", n->bridge, "arp_ignore") == ARP_SILENT;

	return silent == network_is_apart(n) ? 0 : link_sysctl_write("ipv4", n->bridge, "arp_ignore", silent ? 0 : ARP_SILENT, e);
}

/* The bridge takes no addresses from router advertisements, and without IPv6 no link-local one. */
static int bridge_sysctls(const struct network *n, struct err *e)
{
	int r;

	if (link_sysctl_read("ipv6", n->bridge, "disable_ipv6") < 0)
		return n->ipv6.given ? err_set(e, -ENOTSUP, ERR_HOST, "network '%s': this host has no IPv6; leave out ipv6", n->name) : 0;
	r = link_sysctl_write("ipv6", n->bridge, "accept_ra", 0, e);
	if (!r)
		r = link_sysctl_write("ipv6", n->bridge, "accept_dad", 0, e);
	return r ? r : link_sysctl_write("ipv6", n->bridge, "disable_ipv6", !n->ipv6.given, e);
}

static int bridge_make(struct operation *o, struct link *bridge, struct err *e)
{
	const struct network *n = &o->req->net;
	const struct bridge_config c = { .name = n->bridge, .mac = n->mac, .mtu = n->mtu, .stp = n->stp };
	int r = bridge->index ? 0 : link_make_bridge(o->links, &c, e);

	if (!r && !bridge->index)
		r = link_find(o->links, n->bridge, bridge, e);
	if (!r && strcmp(bridge->alias, n->alias) != 0)
		r = link_set_alias(o->links, bridge->index, n->alias, e);
	if (!r)
		r = link_protect_bridge(o->links, bridge->index, e);
	if (!r)
		r = arp_set(n, e);
	if (!r)
		r = bridge_sysctls(n, e);
	if (!r)
		r = subnet_add(o, bridge->index, &n->ipv4, e);
	if (!r)
		r = subnet_add(o, bridge->index, &n->ipv6, e);
	return r ? r : link_set_up(o->links, bridge->index, e);
}

static void uplink_note(struct operation *o, const struct uplinks *up)
{
	const struct network *n = &o->req->net;
	char text[400];

	if (!network_is_forwarded(n) || up->has_default)
		return;
	snprintf(text, sizeof(text), "this host has no default route, so the guests of network '%s' reach only networks to which the host "
		"has a route; the daemon notices when there is one; or run: cairn net-start %s", n->name, n->name);
	operation_note(o, text);
}

/* A bridge that was deleted leaves the veth without a master. */
static bool veth_is_there(struct operation *o, int bridge)
{
	struct link link;

	return link_find(o->links, o->req->net.veth, &link, NULL) == 0 && link.index && link.master == bridge;
}

static int dnsmasq_up(struct operation *o, struct dnsmasq *d, int bridge, struct err *e)
{
	bool same;
	int r;

	if (!network_has_dnsmasq(&o->req->net))
		return 0;
	r = dnsmasq_write(d, &same, operation_note, o, e);
	if (r < 0)
		return r;
	if (!d->pid || !veth_is_there(o, bridge))
		r = dnsmasq_start(d, o->links, bridge, e);
	else if (!same)
		r = dnsmasq_restart(d, e); /* rules with names move its DNS */
	return r ? r : names_up(d, e);
}

static int parts_make(struct operation *o, struct dnsmasq *d, struct link *bridge, const struct uplinks *up, struct err *e)
{
	const struct network *n = &o->req->net;
	struct forwarding f;
	int r = forwarding_plan(o->nft, n, bridge->index ? o->req->folder : NULL, up, &f, e);

	if (!r)
		r = rules_apply(o->nft, n, &d->service, &f, e);
	if (!r && network_is_forwarded(n))
		r = forwarding_note(o->req->folder, &f, e);
	if (!r)
		r = bridge_make(o, bridge, e);
	if (!r)
		r = forwarding_enable(n, &f, e);
	if (!r)
		r = accept_add(o->nft, n, up, operation_note, o, e);
	if (!r)
		r = ports_refresh(o, &d->service, e);
	return r ? r : dnsmasq_up(o, d, bridge->index, e);
}

/* Everything that can be wrong before anything is made. */
static int up_check(struct operation *o, struct err *e)
{
	const struct network *n = &o->req->net;
	struct link dev;
	int r = network_has_dnsmasq(n) ? dnsmasq_check_installed(e) : 0;

	if (!r && n->dev) {
		r = link_find(o->links, n->dev, &dev, e);
		if (!r && !dev.index)
			return err_set(e, -ENODEV, ERR_NOT_FOUND, "network '%s': there is no link '%s' that could lead outside; see: ip link", n->name,
				n->dev);
	}
	return r ? r : overlap_check(o->links, n, e);
}

static void up_answer(struct operation *o, const struct dnsmasq *d, bool made)
{
	struct json_object *service = json_object_new_array();
	char text[ADDRESS_TEXT_MAX];

	js_put_str(o->answer, "bridge", o->req->net.bridge);
	js_put_bool(o->answer, "made", made);
	if (d->service.ipv4.family)
		json_object_array_add(service, json_object_new_string(address_print(&d->service.ipv4, text)));
	if (d->service.ipv6.family)
		json_object_array_add(service, json_object_new_string(address_print(&d->service.ipv6, text)));
	js_put(o->answer, "service", service);
	if (d->pid) {
		js_put_int(o->answer, "pid", d->pid);
		js_put_int(o->answer, "uid", d->uid);
		if (names_pid(d))
			js_put_int(o->answer, "names_pid", names_pid(d));
	}
}

static int everything_remove(struct operation *o, note_fn *removed, struct err *e);

static void ignore(void *arg, const char *sentence)
{
	(void)arg;
	(void)sentence;
}

/* Tell the daemon whether the taps of running VMs have their rules, and are ports of this bridge. */
static int ports_answer(struct operation *o, bool bridge_is_there, struct err *e)
{
	bool there;
	int r = ports_are_there(o, &there, e);

	if (!r)
		js_put_bool(o->answer, "ports", there && bridge_is_there);
	return r;
}

int network_up(struct operation *o, struct err *e)
{
	struct uplinks up;
	struct dnsmasq d = { 0 };
	struct link bridge;
	int found, r;

	if (network_is_direct(&o->req->net))
		return direct_up(o, e);
	found = operation_find_bridge(o, &bridge, e);
	if (o->req->net.mode == MODE_BRIDGE) {
		up_answer(o, &d, false);
		return existing_bridge_needed(&o->req->net, found, e);
	}
	r = uuid_check(o, e);
	if (!r)
		r = found < 0 ? found : up_check(o, e);
	if (!r)
		r = forks_read(o, e);
	if (!r)
		r = uplinks_find(o->links, &o->req->net, &up, e);
	if (!r)
		r = dnsmasq_init(&d, o->req, e);
	if (r < 0)
		return r;
	uplink_note(o, &up);
	r = ports_answer(o, found, e);
	if (!r)
		r = parts_make(o, &d, &bridge, &up, e);
	if (r < 0 && !found)
		everything_remove(o, ignore, NULL);
	up_answer(o, &d, !found);
	return r;
}

/* ---- down ---- */

static int dnsmasq_down(struct operation *o, note_fn *removed, struct err *e)
{
	char text[64];
	int pid = dnsmasq_stop(o->req, e);

	if (pid <= 0)
		return pid;
	snprintf(text, sizeof(text), "dnsmasq %d", pid);
	removed(o, text);
	return 0;
}

static int link_remove(struct operation *o, const char *name, const struct link *link, note_fn *removed, struct err *e)
{
	int r = link_delete(o->links, link->index, e);

	if (r > 0)
		removed(o, name);
	return r < 0 ? r : 0;
}

static int programs_remove(struct operation *o, note_fn *removed, struct err *e)
{
	int r = names_down(o->req, e), next = dnsmasq_down(o, removed, r < 0 ? NULL : e);

	return r < 0 ? r : next;
}

/* Go on after an error, which is returned at the end: the first one. */
static int everything_remove(struct operation *o, note_fn *removed, struct err *e)
{
	const struct network *n = &o->req->net;
	struct err why;
	struct link link;
	int first = 0, r;

#define STEP(call)                                                                                 \
	do {                                                                                       \
		r = (call);                                                                        \
		if (r < 0 && !first) {                                                             \
			first = r;                                                                 \
			if (e)                                                                     \
				*e = why;                                                          \
		}                                                                                  \
	} while (0)
	STEP(programs_remove(o, removed, &why));
	STEP(link_find(o->links, n->veth, &link, &why));
	if (!r && link.index && !strcmp(link.kind, "veth"))
		STEP(link_remove(o, n->veth, &link, removed, &why));
	STEP(accept_remove(o->nft, n, removed, o, &why));
	r = operation_find_bridge(o, &link, &why);
	STEP(forwarding_disable(o->nft, n, r > 0 ? o->req->folder : NULL, &why));
	STEP(rules_remove(o->nft, n, removed, o, &why));
	STEP(operation_find_bridge(o, &link, &why));
	if (r > 0)
		STEP(link_remove(o, n->bridge, &link, removed, &why));
	else if (r == -EEXIST)
		first = first == -EEXIST ? 0 : first; /* somebody else's link stays */
#undef STEP
	return first;
}

int network_down(struct operation *o, struct err *e)
{
	char bridge[IFNAMSIZ];
	int r;

	if (network_is_direct(&o->req->net))
		return direct_down(o, e);
	if (o->req->net.mode == MODE_BRIDGE)
		return 0;
	r = others_bridge_find(o, bridge, e);
	if (r < 0)
		return r;
	/* The parts named by the UUID alone are the other network's. */
	return *bridge ? programs_remove(o, operation_note, e) : everything_remove(o, operation_note, e);
}

/* ---- check ---- */

static void missing(struct operation *o, bool there, const char *what)
{
	if (!there)
		operation_note(o, what);
}

/* Returns 1, 0; -errno. */
static int addresses_are_there(struct operation *o, const struct link *bridge, struct err *e)
{
	const struct subnet *subnets[] = { &o->req->net.ipv4, &o->req->net.ipv6 };
	int r = bridge->is_up;

	for (size_t i = 0; i < 2 && r > 0; i++)
		if (subnets[i]->given)
			r = link_has_address(o->links, bridge->index, &subnets[i]->address, subnets[i]->prefix, e);
	return r;
}

static int parts_check(struct operation *o, const struct link *bridge, struct err *e)
{
	const struct network *n = &o->req->net;
	int address = addresses_are_there(o, bridge, e), rules, accepted, forwards, r;
	struct dnsmasq d;
	struct uplinks up;

	r = address < 0 ? address : dnsmasq_init(&d, o->req, e);
	if (!r)
		r = uplinks_find(o->links, n, &up, e);
	if (r < 0)
		return r;
	rules = rules_are_there(o->nft, n, e);
	accepted = rules < 0 ? rules : accept_is_complete(o->nft, n, &up, e);
	if (accepted < 0)
		return accepted;
	forwards = forwarding_is_complete(o->nft, n, &up, rules, e);
	if (forwards < 0)
		return forwards;
	missing(o, !strcmp(bridge->alias, n->alias), "alias");
	missing(o, address, "address");
	missing(o, !network_has_dnsmasq(n) || veth_is_there(o, bridge->index), "link");
	missing(o, !network_has_dnsmasq(n) || d.pid, "dnsmasq");
	missing(o, !d.pid || names_are_up(&d), "names");
	missing(o, rules, "rules");
	missing(o, forwards, "forwarding");
	missing(o, accepted, "accept");
	r = ports_answer(o, true, e);
	if (r < 0)
		return r;
	if (d.pid)
		js_put_int(o->answer, "pid", d.pid);
	if (d.pid && names_pid(&d))
		js_put_int(o->answer, "names_pid", names_pid(&d));
	return 0;
}

int network_check(struct operation *o, struct err *e)
{
	struct link bridge;
	struct err why;
	int found, r = 0;

	if (network_is_direct(&o->req->net))
		return direct_check(o, e);
	found = operation_find_bridge(o, &bridge, &why);
	/* Another link of that name: this network is not there. */
	if (found < 0 && found != -EEXIST && found != -EINVAL) {
		*e = why;
		return found;
	}
	if (found > 0 && o->req->net.mode != MODE_BRIDGE)
		r = parts_check(o, &bridge, e);
	else if (found <= 0)
		operation_note(o, "bridge");
	js_put_bool(o->answer, "active", found > 0);
	js_put_bool(o->answer, "complete", found > 0 && !json_object_array_length(o->notes));
	return r;
}

/* ---- update ---- */

static int not_updatable(const struct network *n, const char *what, struct err *e)
{
	return err_set(e, -EBUSY, ERR_WRONG_STATE, "network '%s': its %s cannot change while it runs; run: cairn net-destroy %s && cairn net-start %s",
		n->name, what, n->name, n->name);
}

static int update_check(struct operation *o, struct link *bridge, struct err *e)
{
	const struct network *n = &o->req->net;
	int r = operation_find_bridge(o, bridge, e);

	if (!r)
		return err_set(e, -ENODEV, ERR_WRONG_STATE, "network '%s' does not run; start it with: cairn net-start %s", n->name, n->name);
	if (r > 0 && n->mtu && bridge->mtu != n->mtu)
		return not_updatable(n, "MTU", e);
	if (r > 0 && n->mode != MODE_BRIDGE)
		r = addresses_are_there(o, bridge, e);
	if (!r)
		return not_updatable(n, "address", e);
	return r < 0 ? r : 0;
}

/* A new host may have an address that dnsmasq has at present. */
static int service_check(const struct network *n, const struct dnsmasq *d, const struct service *running, struct err *e)
{
	char text[ADDRESS_TEXT_MAX];
	const struct address *taken = NULL;

	if (running->ipv4.family && !address_equal(&running->ipv4, &d->service.ipv4))
		taken = &running->ipv4;
	else if (running->ipv6.family && !address_equal(&running->ipv6, &d->service.ipv6))
		taken = &running->ipv6;
	if (!taken)
		return 0;
	return err_set(e, -EEXIST, ERR_EXISTS, "network '%s': DHCP and DNS have the address %s; give the host another, or run: cairn net-destroy %s && "
		"cairn net-start %s", n->name, address_print(taken, text), n->name, n->name);
}

int network_update(struct operation *o, struct err *e)
{
	struct link bridge;
	struct dnsmasq d;
	struct service running;
	bool same = true;
	int r;

	if (network_is_direct(&o->req->net)) /* nothing of it is on the host */
		return direct_check(o, e);
	r = update_check(o, &bridge, e);
	if (!r)
		r = forks_read(o, e);
	if (!r)
		r = forks_check(&o->req->net, e);
	if (!r)
		r = dnsmasq_init(&d, o->req, e);
	if (r < 0)
		return r;
	dnsmasq_addresses(o->req, &running);
	if (network_has_dnsmasq(&o->req->net) && d.pid) {
		r = service_check(&o->req->net, &d, &running, e);
		if (!r)
			r = dnsmasq_write(&d, &same, operation_note, o, e);
		if (!r)
			r = same ? dnsmasq_reload(&d, e) : dnsmasq_restart(&d, e);
		if (!r)
			r = names_up(&d, e);
	} else if (network_has_dnsmasq(&o->req->net) || d.pid)
		return not_updatable(&o->req->net, "DHCP and DNS as a whole", e);
	if (!r && o->req->net.mode != MODE_BRIDGE)
		r = ports_refresh(o, &d.service, e);
	if (!r)
		forks_note_hosts(&o->req->net, operation_note, o);
	js_put_bool(o->answer, "restarted", !same);
	return r;
}

/* ---- blocked ---- */

int network_blocked(struct operation *o, struct err *e)
{
	const struct network *n = &o->req->net;
	struct uplinks up;
	int r;

	if (network_is_direct(n) || n->mode == MODE_BRIDGE)
		return 0;
	r = uplinks_find(o->links, n, &up, e);
	if (!r)
		accept_legacy_notes(n, &up, operation_note, o);
	return r;
}
