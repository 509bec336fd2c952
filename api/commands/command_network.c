/* Handlers of networks. */
#include "api/access/rights.h"
#include "api/commands/command.h"
#include "api/definition/definition.h"
#include "api/net/network.h"
#include "api/net/network_blocked.h"
#include "api/net/network_life.h"
#include "api/net/network_ports.h"
#include "api/net/network_wait.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_NETWORKS 100 /* fit into one answer: an entry has at most 400 bytes */
#define PAGE_LEASES 60	  /* likewise: at most 1000 bytes */

static struct network *network_arg(struct call *c, struct err *e)
{
	const char *name = js_get_str(c->args, "network");
	struct network *n = network_find(c->host, name);

	if (!n && geteuid() != 0)
		err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no network '%.63s', and this daemon could not start it: networks need root's daemon; an "
			"interface of type user needs no network. Next: cairn net-list --all", name);
	else if (!n && !strcmp(name, "default") && !c->host->paths->system)
		err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no network 'default': a daemon with --state-dir has only the networks that you define. "
			"Next: cairn help net-define; docs/networks.md, \"Restarts\", has the command");
	else if (!n)
		err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no network '%.63s'. Next: cairn net-list --all", name);
	return n;
}

/* Return whether the active definition differs from the definition of the next start. */
static bool is_pending(const struct network *n)
{
	CLEANUP_JS struct json_object *live = NULL, *def = NULL;

	if (!n->live || !n->def)
		return false;
	live = network_definition_to_json(n->live);
	def = network_definition_to_json(n->def);
	return !json_object_equal(live, def);
}

/* ---- definitions ---- */

static int was_check(struct call *c, const struct network_definition *is, const char *name, struct err *e)
{
	struct json_object *was = js_get(c->args, "was");
	CLEANUP_JS struct json_object *now = was && is ? network_definition_to_json(is) : NULL;

	if (!was || (now && json_object_equal(was, now)))
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "the definition of network '%s' has changed meanwhile; read it again", name);
}

/* Parse the argument `definition`, and check it against the other networks. */
static int definition_arg(struct call *c, struct network_definition **ret, struct err *e)
{
	struct network_definition *d = NULL;
	int r = network_definition_parse(js_get(c->args, "definition"), &d, e);

	if (!r)
		r = network_complete(c->host, d, e);
	if (r < 0)
		network_definition_free(d);
	else
		*ret = d;
	return r;
}

static struct json_object *identity_put(const struct network_definition *d)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "name", d->name);
	js_put_uuid(o, "uuid", d->uuid);
	return o;
}

void command_net_define(struct call *c)
{
	struct network_definition *d = NULL;
	struct json_object *o;
	struct network *n;
	struct err e;
	bool created;
	int r = definition_arg(c, &d, &e);

	n = r ? NULL : network_find_name(c->host, d->name);
	created = !n || !n->def;
	if (!r)
		r = was_check(c, n ? n->def : NULL, d->name, &e);
	if (!r && !js_get_bool(c->args, "validate-only", false))
		r = network_define(c->host, d, false, &n, &created, &e);
	else if (!r)
		n = NULL;
	if (r < 0) {
		network_definition_free(d);
		call_fail(c, &e);
		return;
	}
	o = identity_put(d);
	js_put_bool(o, "created", created);
	js_put_bool(o, "pending", n && is_pending(n));
	if (!n)
		network_definition_free(d);
	c->when_stored = true;
	call_return(c, o);
}

void command_net_undefine(struct call *c)
{
	struct err e;
	struct network *n = network_arg(c, &e);
	int r = n ? 0 : -ENOENT;

	if (n && !n->def)
		r = err_set(&e, -EPERM, ERR_WRONG_STATE, "network '%s' is transient: it has no definition, and is gone after: cairn "
			"net-destroy %s", n->live->name, n->live->name);
	if (!r)
		r = network_undefine(n, &e);
	c->when_stored = !r;
	if (r < 0)
		call_fail(c, &e);
	else
		call_return(c, NULL);
}

void command_net_dump_definition(struct call *c)
{
	struct err e;
	struct network *n = network_arg(c, &e);
	const struct network_definition *d;
	struct json_object *o;

	if (!n) {
		call_fail(c, &e);
		return;
	}
	d = n->live && !(js_get_bool(c->args, "inactive", false) && n->def) ? n->live : network_any(n);
	o = json_object_new_object();
	js_put(o, "definition", network_definition_to_json(d));
	call_return(c, o);
}

void command_net_autostart(struct call *c)
{
	struct err e;
	struct network *n = network_arg(c, &e);
	bool on = !js_get_bool(c->args, "disable", false);
	int r = n ? 0 : -ENOENT;

	if (n && !n->def)
		r = err_set(&e, -EPERM, ERR_WRONG_STATE, "network '%s' is transient, so it cannot start with the host; define it with: "
			"cairn net-define", n->live->name);
	if (!r) {
		bool was = n->autostart;

		n->autostart = on;
		r = network_save(n, &e);
		if (r < 0)
			n->autostart = was;
	}
	c->when_stored = !r;
	if (r < 0)
		call_fail(c, &e);
	else
		call_return(c, NULL);
}

/* ---- operations ---- */

/* A call that waits for an operation, and its answer so far. */
struct waiting {
	struct call *call;
	struct json_object *o; /* owned */
};

static struct waiting *waiting_new(struct call *c)
{
	struct waiting *w = must_alloc(calloc(1, sizeof(*w)));

	*w = (struct waiting){ c, json_object_new_object() };
	return w;
}

static void waiting_fail(struct waiting *w, const struct err *e)
{
	call_fail(w->call, e);
	json_object_put(w->o);
	free(w);
}

/* Add members of the program's answer under the same name, and its notes as warnings. */
static void operation_done(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct waiting *w = opaque;
	struct json_object *notes = js_get_array(answer, "notes"), *restarted = js_get(answer, "restarted");

	if (r < 0) {
		waiting_fail(w, e);
		return;
	}
	if (notes && json_object_array_length(notes))
		js_put(w->o, "warnings", json_object_get(notes));
	if (restarted)
		js_put(w->o, "restarted", json_object_get(restarted));
	w->call->when_stored = true;
	call_return(w->call, json_object_get(w->o));
	json_object_put(w->o);
	free(w);
}

static void link_put(struct json_object *o, const struct network_definition *d)
{
	network_definition_put_devs(o, d);
	if (!network_is_direct(d))
		js_put_str(o, "bridge", d->bridge);
	else if (!d->devs.n)
		js_put_str(o, "dev", d->dev);
}

void command_net_start(struct call *c)
{
	struct waiting *w;
	struct err e;
	struct network *n = network_arg(c, &e);
	int r;

	if (n && network_wait(n, command_net_start, c))
		return;
	w = waiting_new(c);
	r = n ? network_start(n, false, operation_done, w, &e) : -ENOENT;
	if (r < 0)
		waiting_fail(w, &e);
	else
		link_put(w->o, n->live);
}

void command_net_create(struct call *c)
{
	struct waiting *w = waiting_new(c);
	struct network_definition *d = NULL;
	struct err e;
	int r = definition_arg(c, &d, &e);

	if (!r && network_find_name(c->host, d->name)) {
		r = err_set(&e, -EEXIST, ERR_EXISTS, "network '%s' exists; start it with: cairn net-start %s", d->name, d->name);
		network_definition_free(d);
	}
	if (!r) {
		json_object_put(w->o);
		w->o = identity_put(d);
		link_put(w->o, d);
		r = network_start(network_add_transient(c->host, d), true, operation_done, w, &e);
	}
	if (r < 0)
		waiting_fail(w, &e);
}

void command_net_destroy(struct call *c)
{
	struct waiting *w;
	struct err e;
	struct network *n = network_arg(c, &e);
	int r;

	if (n && network_wait(n, command_net_destroy, c))
		return;
	w = waiting_new(c);
	r = n ? network_stop(n, operation_done, w, &e) : -ENOENT;
	if (r < 0)
		waiting_fail(w, &e);
}

/* Return the keys that an update cannot change: the program gives DHCP, DNS and names to an active network, and leaves
 * its links, addresses and rules as they are. The taps of running VMs keep their rules, too. */
static struct json_object *fixed_part(const struct network_definition *d)
{
	static const char *const subnets[] = { "ipv4", "ipv6" };
	struct json_object *o = network_definition_to_json(d);

	for (size_t i = 0; i < ARRAY_SIZE(subnets); i++)
		if (js_get(o, subnets[i]))
			json_object_object_del(js_get(o, subnets[i]), "dhcp");
	js_put_bool(o, "dns.enable", !d->dns.off);
	return o;
}

static int fixed_check(const struct network *n, const struct network_definition *d, struct err *e)
{
	static const char *const keys[] = { "mode", "bridge", "mac", "mtu", "stp", "dev", "devs", "ipv4", "ipv6", "dns.enable", "filter",
		"isolated_ports" };
	CLEANUP_JS struct json_object *is = NULL, *next = NULL;

	is = fixed_part(n->live);
	next = fixed_part(d);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!json_object_equal(js_get(is, keys[i]), js_get(next, keys[i])))
			return err_set(e, -EPERM, ERR_WRONG_STATE, "network '%s': another %s needs net-destroy and net-start, after "
				"net-define", d->name, keys[i]);
	return 0;
}

void command_net_update(struct call *c)
{
	struct waiting *w;
	struct network_definition *d = NULL;
	struct err e;
	struct network *n = network_arg(c, &e);
	int r;

	if (n && network_wait(n, command_net_update, c))
		return;
	w = waiting_new(c);
	r = n ? definition_arg(c, &d, &e) : -ENOENT;
	if (!r && strcmp(d->name, network_any(n)->name))
		r = err_set(&e, -EINVAL, ERR_INVALID, "definition.name: \"%s\" differs from the network's name '%s', which cannot change",
			d->name, network_any(n)->name);
	if (!r && n->live) /* otherwise network_update() says that the network is inactive */
		r = was_check(c, n->live, d->name, &e);
	if (!r && n->live)
		r = fixed_check(n, d, &e);
	if (r < 0)
		network_definition_free(d);
	else
		r = network_update(n, d, operation_done, w, &e);
	if (r < 0)
		waiting_fail(w, &e);
}

/* ---- lists ---- */

static void entry_fill(struct json_object *o, const struct network *n)
{
	const struct network_definition *d = n->live ? n->live : n->def;

	js_put_str(o, "state", network_state_word(n->state));
	js_put_bool(o, "persistent", n->def);
	js_put_bool(o, "autostart", n->autostart);
	js_put_str(o, "mode", network_mode_name(d->mode));
	link_put(o, d);
}

void command_net_list(struct call *c)
{
	const char *after = js_get_str_or(c->args, "after", "");
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	CLEANUP_FREE struct rights *rights = must_alloc(rights_of_ids(&c->who));
	bool sees_all = call_role_for(c, NULL) >= ROLE_VIEWER;
	struct network *n;

	for (size_t i = 0; (n = network_at(c->host, i)); i++) {
		struct json_object *entry;

		if (strcmp(network_any(n)->name, after) <= 0 || (!sees_all && !network_permits(n, rights)))
			continue;
		if (json_object_array_length(list) == PAGE_NETWORKS) {
			entry = json_object_array_get_idx(list, PAGE_NETWORKS - 1);
			js_put_str(o, "next", js_get_str(entry, "name"));
			break;
		}
		entry = identity_put(network_any(n));
		entry_fill(entry, n);
		if (n->blocked)
			js_put_bool(entry, "blocked", true);
		json_object_array_add(list, entry);
	}
	js_put(o, "networks", list);
	call_return(c, o);
}

static void denied_answered(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct waiting *w = opaque;

	(void)e;
	if (!r)
		js_put_int(w->o, "denied-packets", js_get_int(answer, "packets", 0));
	if (!r && js_get(answer, "questions"))
		js_put_int(w->o, "denied-questions", js_get_int(answer, "questions", 0));
	call_return(w->call, w->o);
	free(w);
}

/* Answer with o and, if cairn-net reports them, the counters of the egress rules' denials. */
static void denied_add(struct call *c, struct network *n, struct json_object *o)
{
	struct waiting *w = must_alloc(malloc(sizeof(*w)));
	struct err e;

	*w = (struct waiting){ c, o };
	if (network_query(n, "denied", NULL, denied_answered, w, &e) < 0)
		denied_answered(w, -EBUSY, NULL, &e);
}

static void addresses_put(struct call *c, const struct network *n, struct json_object *o, const char *key,
	void (*each)(const struct vm *vm, const char *network, struct json_object *list))
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < c->host->nvms && json_object_array_length(list) < PAGE_NETWORKS; i++)
		each(c->host->vms[i], network_any(n)->name, list);
	if (json_object_array_length(list))
		js_put(o, key, list);
	else
		json_object_put(list);
}

/* The live clones, and the VMs with published ports, with their addresses. */
static void forks_put(struct call *c, const struct network *n, struct json_object *o)
{
	addresses_put(c, n, o, "clones", network_ports_list);
	addresses_put(c, n, o, "reserved", network_ports_list_reserved);
}

static void info_return(struct call *c, struct network *n)
{
	struct json_object *o = identity_put(network_any(n)), *vms = json_object_new_array();

	entry_fill(o, n);
	js_put_bool(o, "pending", is_pending(n));
	for (size_t i = 0; i < c->host->nvms && json_object_array_length(vms) < PAGE_NETWORKS; i++)
		if (network_is_used_by(n, c->host->vms[i]))
			json_object_array_add(vms, json_object_new_string(c->host->vms[i]->def->name));
	js_put(o, "vms", vms);
	forks_put(c, n, o);
	if (n->blocked)
		js_put(o, "warnings", json_object_get(n->blocked));
	if (n->live && n->live->egress)
		denied_add(c, n, o);
	else
		call_return(c, o);
}

static void blocked_answered(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct call *c = opaque;
	struct err own;
	struct network *n = network_arg(c, &own); /* it may be gone */

	(void)r, (void)answer, (void)e;
	if (n)
		info_return(c, n);
	else
		call_fail(c, &own);
}

void command_net_info(struct call *c)
{
	struct err e;
	struct network *n = network_arg(c, &e);

	if (!n)
		call_fail(c, &e);
	else if (network_blocked_ask(n, blocked_answered, c) <= 0)
		info_return(c, n);
}

static void leases_answered(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct call *c = opaque;
	int64_t next = js_get_int(answer, "next", -1);

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	if (next >= 0)
		js_put_int(answer, "next", COMMAND_PAGE_KEYS + next);
	call_return(c, json_object_get(answer));
}

/* cairn-net chooses the page: guests make the leases, and the daemon reads a limited answer. */
void command_net_dhcp_leases(struct call *c)
{
	struct json_object *page = json_object_new_object();
	int64_t from = js_get_int(c->args, "from", 0);
	struct err e;
	struct network *n = network_arg(c, &e);
	int r;

	js_put_str(page, "mac", js_get_str(c->args, "mac"));
	js_put_int(page, "skip", from < COMMAND_PAGE_KEYS ? MIN(MAX(from, 0), UINT32_MAX) : 0);
	js_put_int(page, "after", from < COMMAND_PAGE_KEYS ? -1 : from - COMMAND_PAGE_KEYS);
	js_put_int(page, "most", PAGE_LEASES);
	r = n ? network_query(n, "leases", page, leases_answered, c, &e) : -ENOENT;
	if (r < 0)
		call_fail(c, &e);
	json_object_put(page);
}
