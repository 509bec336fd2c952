#include "api/net/forward_change.h"
#include "api/access/authors.h"
#include "api/access/open_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/net/forwards.h"
#include "api/net/forward_check.h"
#include "api/net/network_ports.h"
#include "api/net/publish_restart.h"
#include "api/net/usernet.h"
#include "api/net/waiting_call.h"
#include "api/schema/call.h"
#include "api/vm/identity.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A change of forward-add or forward-remove that the interface's process has not confirmed yet. */
struct change {
	struct waiting_call waiting;
	char id[16];		     /* of the interface; "": not found yet */
	unsigned at;		     /* its index when vm_of() was called last: others may have been detached since */
	bool publishes;		     /* its process is a cairn-publish */
	struct definition_forward what;
	struct json_object *forward; /* forward-add: the forward with its port; NULL: forward-remove */
	struct rights *rights;	     /* of the user who adds the forward; owned; NULL: the daemon's own */
	struct open_as *opener;
	int fd; /* the port's socket; -1: not opened */
	struct publish_wait wait; /* for the interface's cairn-publish, which is started again */
};

static void change_answer(struct change *g, int r, const struct err *e)
{
	struct json_object *o = json_object_new_object();

	js_put_uint(o, "port", g->what.port);
	waiting_call_answer(&g->waiting, r, o, e);
}

static void change_end(struct change *g, int r, const struct err *e)
{
	change_answer(g, r, e);
	json_object_put(g->forward);
	if (g->fd >= 0)
		close(g->fd);
	free(g->rights);
	free(g);
}

/* ---- definitions with and without the forward ---- */

static struct json_object *forwards_of(struct json_object *definition, unsigned at)
{
	struct json_object *i = json_object_array_get_idx(js_get_array(definition, "interfaces"), at);

	if (!js_get_array(i, "forwards"))
		js_put(i, "forwards", json_object_new_array());
	return js_get_array(i, "forwards");
}

/* Get the running VM's definition with the forward, and with no other forward if `alone`. The caller owns *ret. */
static int definition_with(const struct change *g, const struct vm *vm, bool alone, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	struct definition *d = NULL;
	int r;

	if (alone)
		identity_drop_forwards(o);
	json_object_array_add(forwards_of(o, g->at), json_object_get(g->forward));
	r = definition_parse_stored(o, &d, e);
	if (!r && alone && !js_get(g->waiting.call->args, "port"))
		d->interfaces[g->at].user.forwards[0].port = 0;
	if (!r)
		r = rights_copy(g->rights, &d->rights);
	if (r < 0) {
		definition_free(d);
		return r;
	}
	authors_inherit(d, vm_live(vm));
	*ret = d;
	return 0;
}

static int definition_without(const struct vm *vm, unsigned at, unsigned forward, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	int r;

	json_object_array_del_idx(forwards_of(o, at), forward, 1);
	r = definition_parse_stored(o, ret, e);
	if (!r)
		authors_copy(vm_live(vm), *ret);
	return r;
}

/* ---- finding the forward ---- */

/* Return the VM if it is still the one that the call names, still runs, and has the interface. */
static struct vm *vm_of(struct change *g, struct err *e)
{
	struct vm *vm = waiting_call_vm(&g->waiting);
	int at;

	if (vm && vm->proc && vm_state_is_active(vm->state)) {
		at = g->id[0] ? vm_live_interface(vm, g->id, e) : 0;
		g->at = (unsigned)MAX(at, 0);
		return at < 0 ? NULL : vm;
	}
	if (vm)
		err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' does not run; change the forwards of its next start with: cairn "
			"forward-%s --config", vm->def->name, g->forward ? "add" : "remove");
	else
		err_set(e, -ENOENT, ERR_NOT_FOUND, "another user has undefined the VM meanwhile");
	return NULL;
}

/* Find the interface that the call names, or the first that can have forwards. Returns its index; -ENOENT. */
static int interface_find(const struct vm *vm, const char *id, struct err *e)
{
	const struct definition *d = vm_live(vm);
	int at = forwards_interface_find(d, id);

	if (at >= 0)
		return at;
	return id ? err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.255s' runs without an interface '%.60s' of type user or network whose link is up", vm->def->name, id) :
		    err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.255s' runs without an interface of type user or network, and only "
			"such an interface has forwards", vm->def->name);
}

/* Find the forward of the call's port. Returns its index in interface *ret_at; -ENOENT; -EINVAL: several. */
static int forward_find(const struct call *c, unsigned *ret_at, struct err *e)
{
	const char *address = js_get_str(c->args, "address"), *protocol = js_get_str(c->args, "protocol");
	const struct definition *d = vm_live(c->vm);
	bool udp = protocol && !strcmp(protocol, "udp");
	int64_t port = js_get_int(c->args, "port", 0);
	int found = -1;

	for (unsigned i = 0; i < d->ninterfaces; i++)
		for (unsigned k = 0; k < d->interfaces[i].user.nforwards; k++) {
			const struct definition_forward *f = &d->interfaces[i].user.forwards[k];

			if (f->port != port || (f->protocol == DEFINITION_UDP) != udp || (address && strcmp(address, f->address)))
				continue;
			if (found >= 0)
				return err_set(e, -EINVAL, ERR_INVALID, "VM '%.255s' has several forwards of %s port %d; give "
					"the address, too", c->vm->def->name, udp ? "udp" : "tcp", (int)port);
			found = (int)k;
			*ret_at = i;
		}
	return found >= 0 ? found : err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.255s' runs without a forward of %s port %lld; "
		"see: cairn forward-list %s", c->vm->def->name, udp ? "udp" : "tcp", (long long)port, shell_word(c->vm->def->name).s);
}

/* ---- asking cairn-slirp ---- */

static int order_failed(const struct change *g, int r, struct err *e)
{
	return usernet_order_failed(g->publishes ? "cairn-publish" : "cairn-slirp", g->id, r, e);
}

static void order_done(void *opaque, int r)
{
	struct change *g = opaque;
	struct definition *d = NULL;
	struct err e;
	struct vm *vm;
	int k = -1;

	if (r == -ETIMEDOUT) {
		order_failed(g, r, &e);
		change_answer(g, r, &e);
		return;
	}
	vm = vm_of(g, &e);
	if (r < 0 && vm)
		order_failed(g, r, &e);
	if (r < 0 || !vm) {
		change_end(g, r < 0 ? r : -ENOENT, &e);
		return;
	}
	if (g->forward) {
		r = definition_with(g, vm, false, &d, &e);
	} else {
		const struct definition_user *u = &vm_live(vm)->interfaces[g->at].user;

		for (unsigned i = 0; i < u->nforwards; i++)
			if (definition_forwards_meet(&u->forwards[i], &g->what))
				k = (int)i;
		if (k >= 0)
			r = definition_without(vm, g->at, (unsigned)k, &d, &e);
		forwards_unhold(vm, &g->what);
	}
	if (!r && d)
		vm_live_replace(vm, d);
	change_end(g, r, &e);
}

static void order_begin(struct change *g, struct vm *vm, const char *text)
{
	struct err e;
	int r = forwards_order(vm, g->at, text, g->fd, order_done, g);

	/* A cairn-publish that has ended has no forwards, and the next forward-add begins another one. */
	if (r == -ENOENT && !g->forward && g->publishes)
		order_done(g, 0);
	else if (r < 0)
		change_end(g, order_failed(g, r, &e), &e);
}

static void add_begin(struct change *g, struct vm *vm)
{
	char text[64];

	snprintf(text, sizeof(text), "{\"add\": \"%s:%s:%u\"}", g->what.protocol == DEFINITION_UDP ? "udp" : "tcp",
		g->what.guest[0] ? g->what.guest : "-", g->what.to);
	order_begin(g, vm, text);
}

/* The cairn-publish of a network's interface knows where to lead clients. */
static void add_led(void *opaque, int r, const struct err *e)
{
	struct change *g = opaque;
	struct err own;
	struct vm *vm = r < 0 ? NULL : vm_of(g, &own);

	if (vm)
		add_begin(g, vm);
	else
		change_end(g, r < 0 ? r : -ENOENT, r < 0 ? e : &own);
}

/* ---- forward-add ---- */

static int port_read(struct change *g, struct err *e)
{
	struct sockaddr_in6 address; /* an IPv4 one has its port at the same place */
	socklen_t size = sizeof(address);

	if (getsockname(g->fd, (struct sockaddr *)&address, &size) < 0)
		return err_set_errno(e, -errno, "port");
	g->what.port = ntohs(address.sin6_port);
	js_put_uint(g->forward, "port", g->what.port);
	return 0;
}

/* Start the interface's cairn-publish, unless it runs. */
static int publish_begin(struct vm *vm, unsigned at, struct err *e)
{
	const char *problem = publish_restart_problem(vm, at);

	if (!problem)
		return forwards_publish(vm, at, NULL, 0, e);
	return err_set(e, -EBUSY, ERR_BUSY, "interface %s: its published ports are closed, and are opened again soon, so none can be added "
		"now; try again: %s", vm_live(vm)->interfaces[at].id, problem);
}

static void publish_lead(struct change *g, struct vm *vm)
{
	struct err e;
	int r = publish_begin(vm, g->at, &e);

	if (r < 0)
		change_end(g, r, &e);
	else
		network_ports_lead(vm, g->at, add_led, g);
}

static void publish_restarted(struct publish_wait *w, bool ended)
{
	struct change *g = container_of(w, struct change, wait);
	struct err e;
	struct vm *vm = vm_of(g, &e);

	if (vm && !ended) {
		publish_lead(g, vm);
		return;
	}
	if (vm)
		err_set(&e, -ENOENT, ERR_NOT_FOUND, "interface %s is gone", g->id);
	change_end(g, -ENOENT, &e);
}

/* Begin as soon as the interface's cairn-publish, if it has ended, was started again. */
static void publish_lead_later(struct change *g, struct vm *vm)
{
	g->wait.go_on = publish_restarted;
	if (!publish_restart_wait(vm, g->at, &g->wait))
		publish_lead(g, vm);
}

static void forward_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct change *g = opaque;
	struct err own;
	struct vm *vm;

	g->opener = NULL;
	if (r < 0) {
		change_end(g, r, e);
		return;
	}
	g->fd = c->fds[0];
	c->nfds = 0;
	vm = vm_of(g, &own);
	r = vm ? port_read(g, &own) : -ENOENT;
	if (r < 0) {
		change_end(g, r, &own);
		return;
	}
	if (g->publishes)
		publish_lead_later(g, vm);
	else
		add_begin(g, vm);
}

/* Check the forward with the VM's others and with those of other VMs. *ret: a definition with this forward alone. */
static int forward_check(struct change *g, const struct vm *vm, struct definition **ret, struct err *e)
{
	struct definition *all CLEANUP(definition_free_p) = NULL;
	bool any_port = !js_get(g->waiting.call->args, "port");
	int r = 0;

	if (vm_live(vm)->interfaces[g->at].user.nforwards == DEFINITION_FORWARDS_MAX)
		return err_set(e, -ENOSPC, ERR_INVALID, "interface %s has %d forwards, which is the most; remove one first",
			vm_live(vm)->interfaces[g->at].id, DEFINITION_FORWARDS_MAX);
	if (!any_port)
		r = definition_with(g, vm, false, &all, e);
	if (!r)
		r = definition_with(g, vm, true, ret, e);
	if (!r)
		g->what = (*ret)->interfaces[g->at].user.forwards[0];
	if (!r)
		r = forward_check_network(g->waiting.host, &vm_live(vm)->interfaces[g->at], g->at, network_ports_is_clone(vm, g->at), &g->what, 1, e);
	return r || any_port ? r : forwards_check_others(vm, *ret, e);
}

static void interface_set(struct change *g, const struct vm *vm, unsigned at)
{
	const struct definition_interface *face = &vm_live(vm)->interfaces[at];

	g->at = at;
	g->publishes = face->type == DEFINITION_NETWORK;
	snprintf(g->id, sizeof(g->id), "%s", face->id);
}

static struct change *change_new(struct call *c)
{
	struct change *g = must_alloc(calloc(1, sizeof(*g)));

	waiting_call_begin(&g->waiting, c);
	g->fd = -1;
	return g;
}

static struct json_object *forward_of_args(struct json_object *args)
{
	static const char *const keys[] = { "protocol", "address", "port", "to", "guest" };
	struct json_object *o = json_object_new_object();

	js_put_uint(o, "port", FORWARD_SOME_PORT);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (js_get(args, keys[i]))
			js_put(o, keys[i], json_object_get(js_get(args, keys[i])));
	return o;
}

static int begin_check(struct change *g, struct err *e)
{
	const struct vm *vm = vm_of(g, e);

	return vm ? vm_live_check(vm, e) : -EPERM;
}

void forward_add(struct call *c)
{
	struct definition *alone CLEANUP(definition_free_p) = NULL;
	struct change *g = change_new(c);
	struct err e;
	int at, r;

	g->forward = forward_of_args(c->args);
	r = begin_check(g, &e);
	if (!r)
		r = rights_of_peer(&c->who, &g->rights, &e);
	at = r < 0 ? r : interface_find(c->vm, js_get_str(c->args, "interface"), &e);
	if (at >= 0) {
		interface_set(g, c->vm, (unsigned)at);
		r = forward_check(g, c->vm, &alone, &e);
	}
	if (r < 0 || at < 0) {
		change_end(g, -EINVAL, &e);
		return;
	}
	open_as_open(c->host->helpers, alone, OPEN_AS_FORWARDS, forward_opened, g, &g->opener);
}

/* ---- forward-remove ---- */

void forward_remove(struct call *c)
{
	struct change *g = change_new(c);
	struct err e;
	char text[128];
	unsigned at = 0;
	int k = begin_check(g, &e);

	if (!k)
		k = forward_find(c, &at, &e);
	if (k < 0) {
		change_end(g, k, &e);
		return;
	}
	interface_set(g, c->vm, at);
	g->what = vm_live(c->vm)->interfaces[at].user.forwards[k];
	snprintf(text, sizeof(text), "{\"remove\": %d, \"socket\": \"%s:%s:%u\"}", k, g->what.protocol == DEFINITION_UDP ? "udp" : "tcp",
		g->what.address, g->what.port);
	order_begin(g, c->vm, text);
}
