#include "api/net/group_network.h"
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/net/forwards.h"
#include "api/net/network.h"
#include "api/net/network_ports.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Greatest number of interfaces that the clones of a group have of a network on which they stay: cairn-net takes as
 * many peers of each. */
#define GROUP_PEERS_MAX 128

static bool has_interface(const struct definition *d, const char *network)
{
	for (uint32_t i = 0; d && i < d->ninterfaces; i++)
		if (d->interfaces[i].type == DEFINITION_NETWORK && !strcmp(d->interfaces[i].source, network))
			return true;
	return false;
}

struct json_object *group_networks_choose(struct vm *const *vms, size_t n, const char *id)
{
	struct json_object *all = json_object_new_object();
	char name[NETWORK_NAME_MAX + 1];

	for (size_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < vms[i]->def->ninterfaces; k++) {
			const struct definition_interface *face = &vms[i]->def->interfaces[k];
			bool shared = false;

			for (size_t other = i + 1; other < n && face->type == DEFINITION_NETWORK; other++)
				shared |= has_interface(vms[other]->def, face->source);
			if (!shared || js_get(all, face->source))
				continue;
			snprintf(name, sizeof(name), "group-%.16s-%d", id, json_object_object_length(all) + 1);
			js_put_str(all, face->source, name);
		}
	return all;
}

/* ---- clones that stay on the networks ---- */

static bool is_replaced(const struct definition_interface *face, struct json_object *networks)
{
	return face->type == DEFINITION_NETWORK && js_get(networks, face->source);
}

static void peer_add(struct json_object *list, const uint8_t mac[DEFINITION_MAC_BYTES], const uint8_t own[DEFINITION_MAC_BYTES])
{
	struct json_object *o = json_object_new_object();
	char text[DEFINITION_MAC_TEXT];

	mac_print(mac, text);
	js_put_str(o, "mac", text);
	mac_print(own, text);
	js_put_str(o, "own", text);
	json_object_array_add(list, o);
}

/* Add the interfaces that a VM and its clone have of the network. The guest of a VM that is a clone itself has its
 * source's MAC address or, if it has started again, its own. */
static void peers_add(struct json_object *list, const struct vm *vm, const struct definition *clone, const char *network)
{
	const struct definition *d = vm_live(vm);
	uint8_t other[DEFINITION_MAC_BYTES];

	for (uint32_t k = 0; k < d->ninterfaces && k < clone->ninterfaces; k++) {
		if (clone->interfaces[k].type != DEFINITION_NETWORK || strcmp(clone->interfaces[k].source, network) != 0)
			continue;
		if (network_ports_guest_mac(vm, k, other) && memcmp(other, d->interfaces[k].mac, sizeof(other)) != 0)
			peer_add(list, other, clone->interfaces[k].mac);
		peer_add(list, d->interfaces[k].mac, clone->interfaces[k].mac);
	}
}

struct json_object *group_network_peers(struct vm *const *vms, const struct definition *const *clones, size_t n, size_t at,
	struct json_object *networks)
{
	struct json_object *all = json_object_new_array();

	for (uint32_t i = 0; i < clones[at]->ninterfaces; i++) {
		const struct definition_interface *face = &clones[at]->interfaces[i];
		struct json_object *list = is_replaced(face, networks) ? json_object_new_array() : NULL;

		for (size_t k = 0; k < n && list; k++)
			if (k != at)
				peers_add(list, vms[k], clones[k], face->source);
		json_object_array_add(all, list);
	}
	return all;
}

/* Check the rows of all VMs: a clone tells its peers by the MAC addresses that its guest knows. */
static int peers_check(struct json_object *rows, const char *network, struct err *e)
{
	size_t n = json_object_array_length(rows);

	if (n > GROUP_PEERS_MAX)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VMs have more than %d interfaces of network '%s'; give the clones a network of their "
			"own (--network own)", GROUP_PEERS_MAX, network);
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < i; k++) {
			struct json_object *a = json_object_array_get_idx(rows, i), *b = json_object_array_get_idx(rows, k);
			const char *mac = js_get_str(a, "mac");

			if (!strcmp(mac, js_get_str(b, "mac")) && strcmp(js_get_str(a, "own"), js_get_str(b, "own")) != 0)
				return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "network '%s': the guests of two of the VMs have the MAC address %s, as a VM and its "
					"live clone do, so the network cannot tell their clones apart; clone them in different groups",
					network, mac);
		}
	return 0;
}

int group_networks_check_kept(struct vm *const *vms, size_t n, struct json_object *networks, struct err *e)
{
	json_object_object_foreach(networks, source, unused)
	{
		const struct network *network = network_find_name(vms[0]->host, source);
		const struct network_definition *d = network ? network->live : NULL;
		CLEANUP_JS struct json_object *rows = json_object_new_array();
		int r;

		(void)unused;
		if (d && (d->mode >= NETWORK_BRIDGE || !d->ipv4.given))
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "network '%s' has mode %s%s, and clones can stay only on a network with "
				"IPv4 whose bridge Cairn makes; give the clones a network of their own (--network own)",
				source, network_mode_name(d->mode),
				d->ipv4.given ? "" : " and no IPv4");
		for (size_t i = 0; i < n; i++)
			peers_add(rows, vms[i], vms[i]->def, source);
		r = peers_check(rows, source, e);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- forwards ---- */

/* Find the interface for forwards that name none, as forwards_interface_find() does among those whose network stays.
 * Returns its index; -ENOENT. */
static int interface_find(const struct definition *d, struct json_object *networks)
{
	int found = forwards_interface_find(d, NULL);

	for (uint32_t i = 0; found >= 0 && is_replaced(&d->interfaces[found], networks) && i < d->ninterfaces; i++)
		if (forwards_interface_find(d, d->interfaces[i].id) >= 0 && !is_replaced(&d->interfaces[i], networks))
			return (int)i;
	return found;
}

static int forward_place(const struct vm *vm, struct json_object *forward, struct json_object *networks, struct err *e)
{
	const struct definition *d = vm->def;
	const char *id = js_get_str(forward, "interface");
	int at = id ? forwards_interface_find(d, id) : interface_find(d, networks);

	if (at < 0 || !json_object_is_type(forward, json_type_object))
		return 0;
	if (is_replaced(&d->interfaces[at], networks))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "forwards: interface '%s' is on network '%s', which several of the VMs share, and the "
			"network that their clones get instead has no way to the host; give the VM an interface of type user or of another network",
			d->interfaces[at].id, d->interfaces[at].source);
	js_put_str(forward, "interface", d->interfaces[at].id);
	return 0;
}

int group_network_place_forwards(const struct vm *vm, struct json_object *forwards, struct json_object *networks, struct json_object **ret,
	struct err *e)
{
	CLEANUP_JS struct json_object *list = NULL;
	int r = 0;

	if (json_object_deep_copy(forwards, &list, NULL) < 0)
		return err_set_errno(e, -ENOMEM, "forwards");
	for (size_t i = 0; i < json_object_array_length(list) && !r; i++)
		r = forward_place(vm, json_object_array_get_idx(list, i), networks, e);
	if (!r)
		*ret = STEAL_PTR(list);
	return r;
}

/* ---- making ---- */

static void user_add(struct json_object *users, const struct rights *r)
{
	for (size_t i = 0; r && i < json_object_array_length(users); i++)
		if (json_object_get_int64(json_object_array_get_idx(users, i)) == (int64_t)r->uid)
			return;
	if (r && json_object_array_length(users) < NETWORK_IDS_MAX)
		json_object_array_add(users, json_object_new_int64(r->uid));
}

/* The users whose rights connect the clones: see authors_clone(). */
static struct json_object *users_make(struct vm *const *vms, size_t n, const char *source)
{
	struct json_object *users = json_object_new_array();
	const struct rights *r;
	struct err e;

	for (size_t i = 0; i < n; i++)
		if (has_interface(vms[i]->def, source))
			user_add(users, authors_of_disks(vms[i]->def, &r, &e) < 0 ? vms[i]->def->rights : r);
	return users;
}

int group_network_make(struct vm *const *vms, size_t n, const char *source, const char *name, network_done *done, void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct vm_host *host = vms[0]->host;
	const struct network *old = network_find_name(host, source);
	struct network_definition *d = NULL;
	struct network *made;
	bool created;
	int r;

	js_put_str(o, "name", name);
	js_put_str(o, "mode", "isolated");
	js_put(o, "users", users_make(vms, n, source));
	if (old && network_any(old)->mtu)
		js_put_uint(o, "mtu", network_any(old)->mtu);
	r = network_definition_parse(o, &d, e);
	if (!r)
		r = network_complete(host, d, e);
	if (!r)
		r = network_define(host, d, true, &made, &created, e);
	if (r < 0) {
		network_definition_free(d);
		return r;
	}
	r = network_start(made, false, done, opaque, e);
	if (r < 0)
		network_undefine(made, NULL);
	return r;
}

/* ---- removing ---- */

static bool is_wanted(const struct vm_host *host, const char *network)
{
	for (size_t i = 0; i < host->nvms; i++)
		if (has_interface(host->vms[i]->def, network) || has_interface(host->vms[i]->live, network))
			return true;
	return false;
}

/* Stop and undefine the network, unless it is being made, or a VM has an interface of it. */
static void network_sweep(struct network *n)
{
	struct err e = { 0 };
	bool active = n->state == NETWORK_ACTIVE;
	int r = 0;

	if (!n->of_group || (n->def && !n->group_is_complete) || is_wanted(n->host, network_any(n)->name) || network_is_busy(n))
		return;
	/* An active network is transient then, and gone when it has stopped. */
	if (n->def)
		r = network_undefine(n, &e);
	if (!r && active)
		r = network_stop(n, NULL, NULL, &e);
	if (r < 0)
		log_info("network", "the network of a group of clones stays for now: %s", e.msg);
}

static void sweep(struct vm_host *host)
{
	for (size_t i = networks_count(host); i--;)
		network_sweep(network_at(host, i));
}

void group_network_keep(struct vm_host *host, const char *name)
{
	struct network *n = network_find_name(host, name);
	struct err e;

	if (!n || !n->def || !n->of_group || n->group_is_complete)
		return;
	n->group_is_complete = true;
	n->autostart = true; /* the clones' guests need it after a boot of the host, too */
	if (network_save(n, &e) < 0)
		log_warn("network", "%s", e.msg);
}

void group_networks_adopt(struct vm_host *host)
{
	for (size_t i = 0; i < networks_count(host); i++)
		group_network_keep(host, network_any(network_at(host, i))->name);
	sweep(host);
}

/* A VM that is being removed is not in the registry any more. At the daemon's end there is no server. */
static void vm_removed(struct vm *vm)
{
	if (vm->host->server)
		sweep(vm->host);
}

static void job_concluded(struct vm_host *host, const char *name)
{
	(void)name;
	if (host->server)
		sweep(host);
}

const struct vm_observer group_network_observer = { .removed = vm_removed, .job_concluded = job_concluded };
