#include "api/net/network_ports.h"
#include "api/net/forward_check.h"
#include "api/net/forwards.h"
#include "api/net/network.h"
#include "api/net/network_life.h"
#include "api/net/network_process.h"
#include "api/net/port_calls.h"
#include "api/net/tap.h"
#include "api/store/store.h"
#include "api/definition/vm_config.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_NS (30 * 1000000000ULL)
#define STATE_KEY "guest_macs"
#define ADDRESSES_KEY "guest_addresses"
#define PORTS_KEY "ports"
#define PEERS_KEY "group_peers"

/* A tap with rules, or one on a network of which cairn-net makes the bridge. */
struct port {
	unsigned at; /* index of the interface */
	char network[NETWORK_NAME_MAX + 1], tap[IFNAMSIZ];
	char address[INET_ADDRSTRLEN]; /* in the network, of a live clone or reserved for forwards; empty: none */
	bool plain; /* no rules */
	bool direct; /* a macvtap link, which cairn-net makes before the guest runs */
};

/* The ports are being stored, so that the next daemon knows of them. */
struct ports_store {
	struct store_work work;
	struct vm *vm; /* whose start waits for it; NULL: none does any more */
};

struct network_ports {
	uint8_t guest_macs[DEFINITION_INTERFACES_MAX][DEFINITION_MAC_BYTES]; /* saved; all zero: the definition's */
	uint8_t sources[DEFINITION_INTERFACES_MAX][DEFINITION_MAC_BYTES]; /* own ones of a source that is a clone, until the first start */
	char guest_addresses[DEFINITION_INTERFACES_MAX][INET_ADDRSTRLEN]; /* saved; of a live clone; empty: unknown */
	struct json_object *peers[DEFINITION_INTERFACES_MAX]; /* owned; saved; as cairn-net gets them; NULL: none */
	struct port list[DEFINITION_INTERFACES_MAX];
	unsigned n, done;
	struct port_call *call; /* installs the rules of list[done]; NULL: none */
	struct ports_store *store; /* NULL: none under way */
	void (*ready)(struct vm *vm, int r, const struct err *e);
};

/* A removal, a reservation or the port of an attached interface under way; its VM may be gone. */
struct network_port_end {
	struct network_port_end *next;
	struct vm_host *host;
	struct network_process *process; /* of a reservation; NULL: none */
	struct port_call *call; /* of a removal or an attached interface; NULL: none */
	struct port port;
	/* A reservation or an attached interface: */
	uint8_t uuid[16]; /* of the VM */
	struct config *config; /* of an attached interface: gets the files of a macvtap link; borrowed */
	unsigned queues;       /* of an attached interface */
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

static const uint8_t no_mac[DEFINITION_MAC_BYTES];

static struct network_ports *ports_of(struct vm *vm)
{
	if (!vm->ports)
		vm->ports = must_alloc(calloc(1, sizeof(*vm->ports)));
	return vm->ports;
}

/* Let the start wait no longer until the ports are stored. */
static void store_forget(struct network_ports *p)
{
	if (p->store)
		STEAL_PTR(p->store)->vm = NULL;
}

static void ports_free(struct vm *vm)
{
	if (vm->ports) {
		port_call_free(vm->ports->call);
		store_forget(vm->ports);
	}
	for (unsigned i = 0; vm->ports && i < DEFINITION_INTERFACES_MAX; i++)
		json_object_put(vm->ports->peers[i]);
	free(STEAL_PTR(vm->ports));
}

/* ---- the permissions of a guest ---- */

/* In mode open the network has only rules that its definition requests, and in mode bridge the guests' addresses are
 * unknown. */
static enum network_filter filter_of(const struct network_definition *d)
{
	if (d->filter)
		return d->filter;
	return d->mode >= NETWORK_OPEN ? NETWORK_UNFILTERED : NETWORK_NO_SPOOFING;
}

static struct json_object *port_make(const struct port *p)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "tap", p->tap);
	return o;
}

static void mac_put(struct json_object *o, const char *key, const uint8_t mac[DEFINITION_MAC_BYTES])
{
	char text[DEFINITION_MAC_TEXT];

	mac_print(mac, text);
	js_put_str(o, key, text);
}

/* Whether the interface is a live clone's for which cairn-net translates addresses (docs/networks.md, "Forks"). */
static bool is_fork(const struct vm *vm, unsigned at, const struct network_definition *d)
{
	return memcmp(vm->ports->guest_macs[at], no_mac, sizeof(no_mac)) && d->mode < NETWORK_BRIDGE && d->ipv4.given;
}

static const struct definition_user *forwards_of(const struct vm *vm, unsigned at)
{
	static const struct definition_user none;

	return at < vm_live(vm)->ninterfaces ? &vm_live(vm)->interfaces[at].user : &none;
}

/* Return whether the guest's address has to be reserved, because a forward leads to it. */
static bool needs_address(const struct vm *vm, unsigned at, const struct network_definition *d)
{
	const struct definition_user *u = forwards_of(vm, at);

	for (unsigned i = 0; i < u->nforwards; i++)
		if (!u->forwards[i].guest[0] && !is_fork(vm, at, d))
			return true;
	return false;
}

/* Return whether the interface's tap needs rules. */
static bool needs_rules(const struct vm *vm, unsigned at, const struct network_definition *d)
{
	const struct definition_interface *i = &vm_live(vm)->interfaces[at];

	return needs_address(vm, at, d) || is_fork(vm, at, d) || filter_of(d) != NETWORK_UNFILTERED || d->isolated_ports || i->clean_traffic || i->isolated;
}

static void rules_put(const struct vm *vm, const struct port *p, const struct network_definition *d, struct json_object *port)
{
	const struct definition_interface *i = &vm_live(vm)->interfaces[p->at];
	const uint8_t *second = vm->ports->guest_macs[p->at];

	mac_put(port, "mac", i->mac);
	if (is_fork(vm, p->at, d)) {
		struct json_object *fork = json_object_new_object();

		mac_put(fork, "mac", second);
		if (vm->ports->guest_addresses[p->at][0])
			js_put_str(fork, "address", vm->ports->guest_addresses[p->at]);
		if (memcmp(vm->ports->sources[p->at], no_mac, sizeof(no_mac)))
			mac_put(fork, "source", vm->ports->sources[p->at]);
		if (vm->ports->peers[p->at])
			js_put(fork, "peers", json_object_get(vm->ports->peers[p->at]));
		js_put(port, "fork", fork);
	} else if (memcmp(second, no_mac, sizeof(no_mac))) {
		mac_put(port, "guest_mac", second);
	}
	js_put_str(port, "filter", network_filter_name(i->clean_traffic ? NETWORK_CLEAN_TRAFFIC : filter_of(d)));
	js_put_bool(port, "isolated", d->isolated_ports || i->isolated);
	if (needs_address(vm, p->at, d))
		js_put_bool(port, "reserve", true);
}

/* ---- forwards ---- */

bool network_ports_is_clone(const struct vm *vm, unsigned at)
{
	return vm->ports && memcmp(vm->ports->guest_macs[at], no_mac, sizeof(no_mac));
}

/* Tell the port's cairn-publish where its clients go. */
static void port_lead(struct vm *vm, const struct port *port)
{
	forwards_lead(vm, port->at, port->address[0] ? port->address : "0.0.0.0", port->tap);
}

/* ---- before the guest runs ---- */

static bool has_rules(const struct port *p)
{
	return !p->plain || p->address[0];
}

bool network_ports_has_rules(const struct vm *vm)
{
	unsigned i = 0;

	while (vm->ports && i < vm->ports->n && !has_rules(&vm->ports->list[i]))
		i++;
	return vm->ports && i < vm->ports->n;
}

static int port_begin(struct vm *vm, struct err *e);

/* Note the addresses of a live clone from cairn-net's answer. */
static void addresses_take(struct network_ports *p, struct port *port, struct json_object *answer)
{
	const char *mac = js_get_str(answer, "mac");

	snprintf(port->address, sizeof(port->address), "%s", js_get_str_or(answer, "address", ""));
	/* The source's guest may have started again, with other addresses than its own source's. */
	if (mac && memcmp(p->sources[port->at], no_mac, sizeof(no_mac)))
		mac_parse(mac, p->guest_macs[port->at]);
	memset(p->sources[port->at], 0, sizeof(no_mac));
	if (js_get_str(answer, "inner"))
		snprintf(p->guest_addresses[port->at], INET_ADDRSTRLEN, "%s", js_get_str(answer, "inner"));
}

static void port_done(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct vm *vm = opaque;
	struct network_ports *p = vm->ports;
	const struct port *port = &p->list[p->done];
	struct err own = { 0 }, why;

	p->call = NULL; /* ends by itself */
	if (!r)
		addresses_take(p, &p->list[p->done], answer);
	if (!r)
		port_lead(vm, port);
	if (!r && port->direct) {
		r = tap_add_direct(vm->start.config, port->at, vm_live(vm)->interfaces[port->at].queues,
			vm_live(vm)->interfaces[port->at].vhost, port->tap, &own);
		e = &own;
	}
	if (r < 0) {
		why = *e;
		err_set(&own, r, why.cls, "interfaces[%u]: network '%s' cannot %s, so the VM was not started: %s", port->at, port->network,
			port->direct ? "connect the guest" : "filter the guest's frames", why.msg);
	} else {
		p->done++;
		r = port_begin(vm, &own);
		if (r > 0 || (!r && p->store))
			return;
	}
	store_forget(p);
	p->ready(vm, r, &own);
}

/* Have the rules of the next tap installed. Returns 1: port_done() follows; 0: there is no such tap; -errno. */
static int port_begin(struct vm *vm, struct err *e)
{
	struct network_ports *p = vm->ports;
	const struct port *port;
	const struct network *n;
	struct json_object *keys;

	for (; p->done < p->n && p->list[p->done].plain; p->done++)
		port_lead(vm, &p->list[p->done]);
	if (p->done == p->n)
		return 0;
	port = &p->list[p->done];
	n = network_find_name(vm->host, port->network);
	if (!n || !n->live)
		return err_set(e, -ENOENT, ERR_WRONG_STATE, "interfaces[%u].source: network '%s' has stopped; start it with: cairn net-start %s",
			port->at, port->network, port->network);
	keys = port_make(port);
	rules_put(vm, port, n->live, keys);
	if (vm->start.from_state)
		js_put_bool(keys, "continues", true);
	p->call = port_call_begin(vm->host, port->network, true, keys, port_done, vm);
	return 1;
}

/* Choose the name of a macvtap link, which delivers frames to one MAC address only. */
static int direct_begin(const struct vm *vm, struct port *port, struct err *e)
{
	port->plain = false;
	if (!network_ports_is_clone(vm, port->at))
		return tap_name_make(port->at, port->tap, e);
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "interfaces[%u]: network '%s' has macvtap devices, which deliver nothing to the MAC "
		"address that the guest of a live clone has from its source; clone the VM when it is off, or use a network of mode nat",
		port->at, vm_live(vm)->interfaces[port->at].source);
}

/* Add the port of interface `i` to the list if it needs one. tap: its tap. Returns 0; -errno. */
static int port_add(struct vm *vm, unsigned i, const char *tap, struct err *e)
{
	const struct definition_interface *face = &vm_live(vm)->interfaces[i];
	const struct network *n = face->type == DEFINITION_NETWORK && !face->link ? network_find_name(vm->host, face->source) : NULL;
	struct network_ports *p = ports_of(vm);
	struct port *port = &p->list[p->n];
	int r;

	if (!n || !n->live)
		return 0;
	r = forward_check_network(vm->host, face, i, network_ports_is_clone(vm, i), forwards_of(vm, i)->forwards, forwards_of(vm, i)->nforwards, e);
	if (r < 0)
		return r;
	*port = (struct port){ .at = i, .plain = !needs_rules(vm, i, n->live), .direct = network_is_direct(n->live) };
	if (port->plain && n->live->mode >= NETWORK_BRIDGE && !port->direct)
		return 0;
	if (n->live->mode >= NETWORK_BRIDGE && !port->plain)
		return err_set(e, -EINVAL, ERR_WRONG_STATE, "interfaces[%u]: filter and isolated need a network whose bridge Cairn makes, and "
			"'%s' has mode %s; remove them, or use another network", i, face->source,
			network_mode_name(n->live->mode));
	snprintf(port->network, sizeof(port->network), "%s", face->source);
	snprintf(port->tap, sizeof(port->tap), "%.*s", (int)sizeof(port->tap) - 1, tap);
	r = port->direct ? direct_begin(vm, port, e) : 0;
	p->n += !r;
	return r;
}

static void ports_stored(struct store_work *w)
{
	struct ports_store *s = container_of(w, struct ports_store, work);
	struct vm *vm = s->vm;

	free(s);
	if (!vm)
		return;
	vm->ports->store = NULL;
	if (!vm->ports->call)
		vm->ports->ready(vm, 0, NULL);
}

/* Store the ports before the guest runs. If the daemon is killed soon, the next one then knows which rules, or which
 * link, to remove after the VM's end. The clones of a fork are stored before its job ends. If the state cannot be
 * stored, the VM starts nevertheless. */
static void ports_store(struct vm *vm)
{
	struct network_ports *p = vm->ports;

	if (vm->start.opts.forked || !network_ports_has_rules(vm))
		return;
	p->store = must_alloc(malloc(sizeof(*p->store)));
	*p->store = (struct ports_store){ { .done = ports_stored, .loop = vm->host->loop }, vm };
	vm_save_first(vm, &p->store->work);
}

static int ports_begin(struct vm *vm, const struct config *c, void (*ready)(struct vm *vm, int r, const struct err *e), struct err *e)
{
	struct network_ports *p = vm->ports || vm_live(vm)->ninterfaces ? ports_of(vm) : NULL;
	int r = 0;

	if (!p)
		return 0;
	p->n = p->done = 0;
	p->ready = ready;
	for (unsigned i = 0; i < vm_live(vm)->ninterfaces && !r; i++)
		r = port_add(vm, i, c->vm.interfaces[i].target, e);
	if (r < 0)
		return r;
	ports_store(vm);
	r = port_begin(vm, e);
	if (r < 0)
		store_forget(p);
	return r || !p->store ? r : 1;
}

/* ---- after the VM's end ---- */

bool network_ports_has_tap(const struct vm_host *host, const char *network, const char *tap)
{
	for (size_t i = 0; i < host->nvms; i++) {
		const struct network_ports *p = host->vms[i]->ports;

		for (unsigned k = 0; p && k < p->n; k++)
			if (has_rules(&p->list[k]) && !strcmp(p->list[k].tap, tap) && !strcmp(p->list[k].network, network))
				return true;
	}
	return false;
}

static void end_free(struct network_port_end *end)
{
	struct network_port_end **at = &end->host->port_ends;

	while (*at != end)
		at = &(*at)->next;
	*at = end->next;
	free(end);
}

static void end_done(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct network_port_end *end = opaque;

	(void)answer;
	if (r < 0)
		log_warn("network", "network '%s': the rules of tap %s stay until the next VM starts or ends on the network: %s",
			end->port.network, end->port.tap, e->msg);
	end_free(end);
}

static void port_end(struct vm_host *host, const struct port *port)
{
	struct network_port_end *end = must_alloc(calloc(1, sizeof(*end)));

	*end = (struct network_port_end){ .next = host->port_ends, .host = host, .port = *port };
	host->port_ends = end;
	end->call = port_call_begin(host, port->network, false, port_make(port), end_done, end);
}

static void ports_end(struct vm *vm)
{
	struct network_ports *p = vm->ports;

	for (unsigned i = 0; p && i < p->n; i++)
		if (has_rules(&p->list[i]))
			port_end(vm->host, &p->list[i]);
	if (p)
		p->n = 0;
}

/* An interface was detached from the running VM. */
static void port_on_interface_gone(struct vm *vm, unsigned at)
{
	const unsigned last = DEFINITION_INTERFACES_MAX - 1;
	struct network_ports *p = vm->ports;
	unsigned kept = 0;

	if (!p || at > last)
		return;
	memmove(&p->guest_macs[at], &p->guest_macs[at + 1], (last - at) * sizeof(p->guest_macs[0]));
	memmove(&p->sources[at], &p->sources[at + 1], (last - at) * sizeof(p->sources[0]));
	memmove(&p->guest_addresses[at], &p->guest_addresses[at + 1], (last - at) * sizeof(p->guest_addresses[0]));
	json_object_put(p->peers[at]);
	memmove(&p->peers[at], &p->peers[at + 1], (last - at) * sizeof(p->peers[0]));
	p->peers[last] = NULL;
	memset(&p->guest_macs[last], 0, sizeof(p->guest_macs[0]));
	memset(&p->sources[last], 0, sizeof(p->sources[0]));
	memset(&p->guest_addresses[last], 0, sizeof(p->guest_addresses[0]));
	for (unsigned i = 0; i < p->n; i++) {
		if (p->list[i].at == at) {
			if (!p->list[i].plain || p->list[i].address[0])
				port_end(vm->host, &p->list[i]);
			continue;
		}
		p->list[kept] = p->list[i];
		p->list[kept++].at -= p->list[i].at > at;
	}
	p->n = kept;
}

/* If there is a process, its end follows. */
static void ports_on_start_failed(struct vm *vm)
{
	if (!vm->proc)
		ports_end(vm);
}

/* ---- an address for a running VM's forwards ---- */

static const struct port *port_find(const struct vm *vm, unsigned at)
{
	for (unsigned i = 0; vm->ports && i < vm->ports->n; i++)
		if (vm->ports->list[i].at == at)
			return &vm->ports->list[i];
	return NULL;
}

static void reserved(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct network_port_end *end = opaque;
	struct vm *vm = vm_find_uuid(end->host, end->uuid);

	/* Its VM may have started again meanwhile, and its interface may have another place. */
	for (unsigned i = 0; !r && vm && vm->proc && vm->ports && i < vm->ports->n; i++) {
		struct port *port = &vm->ports->list[i];

		if (strcmp(port->tap, end->port.tap))
			continue;
		snprintf(port->address, sizeof(port->address), "%s", js_get_str_or(answer, "address", ""));
		port_lead(vm, port);
		vm_save(vm);
	}
	end->done(end->opaque, r, e);
	end_free(end);
}

void network_ports_lead(struct vm *vm, unsigned at, void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	CLEANUP_JS struct json_object *request = NULL;
	const struct port *port = port_find(vm, at);
	const struct network *n = port ? network_find_name(vm->host, port->network) : NULL;
	struct network_port_end *end;
	struct json_object *keys;
	struct err e;
	int r;

	if (!n || !n->live) {
		r = err_set(&e, -ENOENT, ERR_WRONG_STATE, "interfaces[%u]: an earlier release of Cairn started the VM, so its tap is not known; "
			"restart the VM", at);
		done(opaque, r, &e);
		return;
	}
	if (port->address[0] || !network_subnet_has_dhcp(&n->live->ipv4)) { /* else the forward names the guest's address */
		port_lead(vm, port);
		done(opaque, 0, NULL);
		return;
	}
	end = must_alloc(calloc(1, sizeof(*end)));
	*end = (struct network_port_end){ .next = vm->host->port_ends, .host = vm->host, .port = *port, .done = done, .opaque = opaque };
	memcpy(end->uuid, vm->def->uuid, sizeof(end->uuid));
	vm->host->port_ends = end;
	keys = port_make(port);
	mac_put(keys, "mac", vm_live(vm)->interfaces[at].mac);
	r = network_request_make(n, "port-reserve", n->live, &request, &e);
	if (!r)
		js_put(request, "port", json_object_get(keys));
	json_object_put(keys);
	if (!r)
		r = network_process_start(vm->host->loop, vm->host->paths->net_program, request, TIMEOUT_NS, reserved, end, &end->process, &e);
	if (r < 0)
		reserved(end, r, NULL, &e);
}

/* ---- an interface that is attached to a running VM ---- */

static void plugged(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct network_port_end *end = opaque;
	struct vm *vm = vm_find_uuid(end->host, end->uuid);
	struct err own, why;

	(void)answer;
	if (vm)
		vm_save(vm);
	if (!r && end->port.direct) {
		r = tap_add_direct(end->config, 0, end->queues, false, end->port.tap, &own);
		e = &own;
	}
	if (r < 0) {
		why = *e;
		err_set(&own, r, why.cls, "network '%s' cannot %s, so the interface was not attached: %s", end->port.network,
			end->port.direct ? "connect the guest" : "filter the guest's frames", why.msg);
	}
	end->done(end->opaque, r, &own);
	end_free(end);
}

void network_ports_plug(struct vm *vm, unsigned at, struct config *c, void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	unsigned before = ports_of(vm)->n;
	struct network_port_end *end;
	const struct network *n;
	struct json_object *keys;
	const struct port *port;
	struct err e;
	int r;

	r = port_add(vm, at, c->vm.interfaces[0].target, &e);
	port = &vm->ports->list[before];
	if (r < 0 || vm->ports->n == before || port->plain) {
		done(opaque, r, &e);
		return;
	}
	n = network_find_name(vm->host, port->network);
	end = must_alloc(calloc(1, sizeof(*end)));
	*end = (struct network_port_end){ .next = vm->host->port_ends, .host = vm->host, .port = *port, .done = done, .opaque = opaque, .config = c,
		.queues = vm_live(vm)->interfaces[at].queues };
	memcpy(end->uuid, vm->def->uuid, sizeof(end->uuid));
	vm->host->port_ends = end;
	keys = port_make(port);
	rules_put(vm, port, n->live, keys);
	end->call = port_call_begin(vm->host, port->network, true, keys, plugged, end);
}

void network_ports_lead_all(struct vm *vm)
{
	for (unsigned i = 0; vm->ports && i < vm->ports->n; i++)
		port_lead(vm, &vm->ports->list[i]);
}

/* ---- rules and bridges that another program has removed ---- */

static void restored(void *opaque, int r, const struct err *e)
{
	const struct network_port_end *end = opaque;

	if (!r)
		log_info("network", "network '%s': the rules of tap %s are installed again", end->port.network, end->port.tap);
	else if (if_nametoindex(end->port.tap)) /* its VM still runs */
		log_error("network", "network '%s': the rules of tap %s cannot be installed again, so restart its VM: %s", end->port.network,
			end->port.tap, e->msg);
}

static void port_restore(struct vm *vm, const struct port *port, const struct network *n)
{
	struct network_port_end *end;
	struct json_object *keys;
	struct err e;

	if (tap_attach(port->tap, n->live->bridge, &e) < 0) {
		log_error("network", "VM '%s': tap %s cannot be attached to bridge '%s' again, so restart the VM: %s", vm->def->name, port->tap,
			n->live->bridge, e.msg);
		return;
	}
	if (port->plain)
		return;
	end = must_alloc(calloc(1, sizeof(*end)));
	*end = (struct network_port_end){ .next = vm->host->port_ends, .host = vm->host, .port = *port, .done = restored, .opaque = end };
	memcpy(end->uuid, vm->def->uuid, sizeof(end->uuid));
	vm->host->port_ends = end;
	keys = port_make(port);
	rules_put(vm, port, n->live, keys);
	js_put_bool(keys, "continues", true);
	end->call = port_call_begin(vm->host, port->network, true, keys, reserved, end);
}

static void ports_restore(struct vm *vm, const char *network)
{
	const struct network *n = network_find_name(vm->host, network);

	for (unsigned i = 0; n && n->live && !network_is_direct(n->live) && vm->ports && !vm->ports->call && i < vm->ports->n; i++)
		if (!strcmp(vm->ports->list[i].network, network) && vm->ports->list[i].at < vm_live(vm)->ninterfaces)
			port_restore(vm, &vm->ports->list[i], n);
}

/* The daemon that started the VM may have ended before it stored an address, which cairn-net chooses again. */
static void ports_adopted(struct vm *vm, const struct vm_info *info)
{
	(void)info;
	for (unsigned i = 0; vm->ports && i < vm->ports->n; i++) {
		const struct port *port = &vm->ports->list[i];
		const struct network *n = network_find_name(vm->host, port->network);

		if (n && n->live && !network_is_direct(n->live) && !port->address[0] && port->at < vm_live(vm)->ninterfaces &&
			(needs_address(vm, port->at, n->live) || is_fork(vm, port->at, n->live)))
			port_restore(vm, port, n);
	}
}

/* Return whether a running VM may have a link of the network that its ports do not name, since they were not stored. */
static bool may_have_others(const struct vm *vm, const struct network *n)
{
	for (unsigned i = 0; vm->proc && i < vm_live(vm)->ninterfaces; i++) {
		const struct definition_interface *face = &vm_live(vm)->interfaces[i];

		if (face->type == DEFINITION_NETWORK && !face->link && !strcmp(face->source, n->live->name) && !port_find(vm, i))
			return true;
	}
	return false;
}

void network_ports_sweep(const struct network *n)
{
	for (size_t i = 0; n->live && i < n->host->nvms; i++)
		if (may_have_others(n->host->vms[i], n))
			return;
	for (size_t i = 0; n->live && !store_has_unread(n->host->store) && n->links && i < json_object_array_length(n->links); i++) {
		struct port port = { 0 };

		snprintf(port.network, sizeof(port.network), "%s", n->live->name);
		snprintf(port.tap, sizeof(port.tap), "%s", json_object_get_string(json_object_array_get_idx(n->links, i)));
		if (!network_ports_has_tap(n->host, port.network, port.tap))
			port_end(n->host, &port);
	}
}

/* ---- figures for clients ---- */

/* Find the port of an interface that has an address as a live clone; NULL: none. */
static const struct port *clone_port_find(const struct vm *vm, unsigned at)
{
	for (unsigned i = 0; vm->ports && i < vm->ports->n; i++)
		if (vm->ports->list[i].at == at && vm->ports->list[i].address[0] && network_ports_is_clone(vm, at))
			return &vm->ports->list[i];
	return NULL;
}

void network_ports_show(const struct vm *vm, unsigned at, struct json_object *o)
{
	const struct port *port = clone_port_find(vm, at);
	const struct network *n = port ? network_find_name(vm->host, port->network) : NULL;
	char text[INET_ADDRSTRLEN + 8];

	if (!n || !n->live)
		return;
	snprintf(text, sizeof(text), "%s/%u", port->address, n->live->ipv4.prefix);
	js_put_str(o, "network-address", text);
	if (vm->ports->guest_addresses[at][0])
		js_put_str(o, "guest-address", vm->ports->guest_addresses[at]);
}

static void ports_list(const struct vm *vm, const char *network, bool clones, struct json_object *list)
{
	for (unsigned i = 0; vm->ports && i < vm->ports->n; i++) {
		const struct port *port = &vm->ports->list[i];
		struct json_object *o;

		if (!port->address[0] || port->at >= vm_live(vm)->ninterfaces || network_ports_is_clone(vm, port->at) != clones ||
			(network && strcmp(network, port->network)))
			continue;
		o = json_object_new_object();
		js_put_str(o, "name", vm->def->name);
		js_put_str(o, "interface", vm_live(vm)->interfaces[port->at].id);
		js_put_str(o, "network", port->network);
		js_put_str(o, "address", port->address);
		if (clones && vm->ports->guest_addresses[port->at][0])
			js_put_str(o, "guest-address", vm->ports->guest_addresses[port->at]);
		json_object_array_add(list, o);
	}
}

void network_ports_list(const struct vm *vm, const char *network, struct json_object *list)
{
	ports_list(vm, network, true, list);
}

void network_ports_list_reserved(const struct vm *vm, const char *network, struct json_object *list)
{
	ports_list(vm, network, false, list);
}

void network_ports_free(struct vm_host *host)
{
	while (host->port_ends) {
		network_process_free(host->port_ends->process);
		port_call_free(host->port_ends->call);
		end_free(host->port_ends);
	}
	port_calls_free(host);
}

/* ---- clones ---- */

bool network_ports_guest_mac(const struct vm *vm, unsigned at, uint8_t *mac)
{
	if (!network_ports_is_clone(vm, at))
		return false;
	memcpy(mac, vm->ports->guest_macs[at], sizeof(no_mac));
	return true;
}

static void peers_take(struct vm *clone, unsigned at, struct json_object *list)
{
	json_object_put(ports_of(clone)->peers[at]);
	clone->ports->peers[at] = json_object_get(list);
}

void network_ports_set_peers(struct vm *clone, struct json_object *peers)
{
	size_t n = json_object_array_length(peers);

	for (unsigned i = 0; i < MIN(n, DEFINITION_INTERFACES_MAX); i++)
		if (json_object_is_type(json_object_array_get_idx(peers, i), json_type_array))
			peers_take(clone, i, json_object_array_get_idx(peers, i));
}

void network_ports_clone(struct vm *clone, const struct vm *source, bool present)
{
	const struct definition *d = vm_live(source);

	for (unsigned i = 0; i < d->ninterfaces; i++) {
		const uint8_t *second = source->ports ? source->ports->guest_macs[i] : no_mac;

		if (source->ports)
			memcpy(ports_of(clone)->guest_addresses[i], source->ports->guest_addresses[i], INET_ADDRSTRLEN);
		if (source->ports && source->ports->peers[i])
			peers_take(clone, i, source->ports->peers[i]);
		if (present && memcmp(second, no_mac, sizeof(no_mac)))
			memcpy(ports_of(clone)->sources[i], d->interfaces[i].mac, sizeof(no_mac));
		memcpy(ports_of(clone)->guest_macs[i], memcmp(second, no_mac, sizeof(no_mac)) ? second : d->interfaces[i].mac, sizeof(no_mac));
	}
}

static void guest_addresses_put(const struct vm *vm, struct json_object *state)
{
	struct json_object *list = NULL, *addresses = NULL, *peers = NULL;
	char text[DEFINITION_MAC_TEXT];
	bool any = false;
	unsigned n = vm->ports ? DEFINITION_INTERFACES_MAX : 0;

	while (n && !memcmp(vm->ports->guest_macs[n - 1], no_mac, sizeof(no_mac)))
		n--;
	if (n) {
		js_put(state, STATE_KEY, list = json_object_new_array());
		js_put(state, ADDRESSES_KEY, addresses = json_object_new_array());
	}
	for (unsigned i = 0; i < n; i++)
		any |= vm->ports->peers[i] != NULL;
	if (any)
		js_put(state, PEERS_KEY, peers = json_object_new_array());
	for (unsigned i = 0; i < n; i++) {
		if (any)
			json_object_array_add(peers, json_object_get(vm->ports->peers[i]));
		json_object_array_add(addresses, json_object_new_string(vm->ports->guest_addresses[i]));
		mac_print(vm->ports->guest_macs[i], text);
		json_object_array_add(list, json_object_new_string(text));
	}
}

static void ports_put(const struct vm *vm, struct json_object *state)
{
	struct json_object *list = vm->ports && vm->ports->n ? json_object_new_array() : NULL;

	guest_addresses_put(vm, state);
	if (list)
		js_put(state, PORTS_KEY, list);
	for (unsigned i = 0; list && i < vm->ports->n; i++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "network", vm->ports->list[i].network);
		js_put_str(o, "tap", vm->ports->list[i].tap);
		js_put_uint(o, "at", vm->ports->list[i].at);
		if (vm->ports->list[i].plain)
			js_put_bool(o, "plain", true);
		if (vm->ports->list[i].address[0])
			js_put_str(o, "address", vm->ports->list[i].address);
		json_object_array_add(list, o);
	}
}

static void guest_addresses_load(struct vm *vm, struct json_object *state)
{
	struct json_object *list = js_get_array(state, STATE_KEY), *addresses = js_get_array(state, ADDRESSES_KEY);
	struct json_object *peers = js_get_array(state, PEERS_KEY);
	size_t n = list ? json_object_array_length(list) : 0;

	if (peers)
		network_ports_set_peers(vm, peers);
	for (size_t i = 0; i < MIN(n, DEFINITION_INTERFACES_MAX); i++) {
		const char *text = json_object_get_string(json_object_array_get_idx(list, i));

		if (text && mac_parse(text, ports_of(vm)->guest_macs[i]) < 0)
			memset(vm->ports->guest_macs[i], 0, sizeof(no_mac));
		text = addresses ? json_object_get_string(json_object_array_get_idx(addresses, i)) : NULL;
		if (text)
			snprintf(ports_of(vm)->guest_addresses[i], INET_ADDRSTRLEN, "%s", text);
	}
}

/* The taps of a VM that a daemon of before has started. */
static void ports_load(struct vm *vm, struct json_object *state)
{
	struct json_object *list = js_get_array(state, PORTS_KEY);
	size_t n = list ? json_object_array_length(list) : 0;

	guest_addresses_load(vm, state);
	for (size_t i = 0; i < MIN(n, DEFINITION_INTERFACES_MAX); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		struct port *port = &ports_of(vm)->list[vm->ports->n++];

		snprintf(port->network, sizeof(port->network), "%s", js_get_str_or(o, "network", ""));
		snprintf(port->tap, sizeof(port->tap), "%s", js_get_str_or(o, "tap", ""));
		port->at = (unsigned)js_get_int(o, "at", 0);
		port->plain = js_get_bool(o, "plain", false);
		snprintf(port->address, sizeof(port->address), "%s", js_get_str_or(o, "address", ""));
	}
}

const struct vm_observer network_ports_observer = { .removed = ports_free, .state_put = ports_put, .state_load = ports_load,
	.start_waits = network_start_waits, .start_prepare = ports_begin, .start_failed = ports_on_start_failed, .interface_gone = port_on_interface_gone,
	.ports_lost = ports_restore, .process_gone = ports_end, .adopted = ports_adopted };
