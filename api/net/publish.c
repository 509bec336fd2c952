#include "api/net/publish.h"
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/net/forwards.h"
#include "api/net/forward_check.h"
#include "api/net/network_ports.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* ---- checks ---- */

/* Find the interface that a forward names, or the first that can have forwards. Returns its index; -ENOENT. */
static int interface_find(const struct definition *d, const char *id, struct err *e)
{
	int at = forwards_interface_find(d, id);

	if (at >= 0)
		return at;
	return id ? err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.255s' has no interface '%.60s' of type user or network whose link is up", d->name, id) :
		    err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.255s' has no interface of type user or network, and only such an interface has "
			"forwards", d->name);
}

static int keys_check(struct json_object *forward, unsigned i, struct err *e)
{
	static const char *const keys[] = { "protocol", "address", "port", "to", "guest", "interface" };

	if (!json_object_is_type(forward, json_type_object))
		return err_set(e, -EINVAL, ERR_INVALID, "forwards[%u]: must be an object, such as {\"to\": 22}", i);
	json_object_object_foreach(forward, key, value)
	{
		bool known = false;

		(void)value;
		for (size_t k = 0; k < ARRAY_SIZE(keys); k++)
			known |= !strcmp(keys[k], key);
		if (!known)
			return err_set(e, -EINVAL, ERR_INVALID, "forwards[%u].%.60s: unknown; there are protocol, address, port, to, guest "
				"and interface", i, key);
	}
	return 0;
}

/* publish_define() checks the rest of the forward with the VM's definition. */
static int guest_check(struct vm_host *host, const struct definition *d, unsigned at, struct json_object *forward, struct err *e)
{
	struct definition_forward f = { 0 };

	snprintf(f.guest, sizeof(f.guest), "%.15s", js_get_str_or(forward, "guest", ""));
	return forward_check_network(host, &d->interfaces[at], at, true, &f, 1, e);
}

int publish_check_shared(struct json_object *forwards, struct err *e)
{
	for (size_t i = 0; i < json_object_array_length(forwards); i++) {
		struct json_object *f = json_object_array_get_idx(forwards, i);

		if (js_get(f, "port"))
			return err_set(e, -EINVAL, ERR_INVALID, "forwards[%zu].port: several clones cannot share port %lld; let each have a free one "
				"(--publish auto:%lld)", i, (long long)js_get_int(f, "port", 0), (long long)js_get_int(f, "to", 0));
	}
	return 0;
}

int publish_validate(struct vm_host *host, struct json_object *forwards, const struct definition *source, bool several, struct err *e)
{
	size_t n = json_object_array_length(forwards), max = (size_t)DEFINITION_FORWARDS_MAX * source->ninterfaces;
	int r = 0;

	if (n && !max)
		return err_set(e, -EINVAL, ERR_INVALID, "forwards: VM '%.255s' has no interface whose ports could be forwarded. Next: cairn "
			"attach-interface %s user", source->name, shell_word(source->name).s);
	if (n > max)
		return err_set(e, -EINVAL, ERR_INVALID, "forwards: %zu, and VM '%.255s' can have %zu, at most %d for each interface", n,
			source->name, max, DEFINITION_FORWARDS_MAX);
	for (size_t i = 0; i < n && !r; i++) {
		struct json_object *f = json_object_array_get_idx(forwards, i);
		int at;

		r = keys_check(f, (unsigned)i, e);
		at = r ? r : interface_find(source, js_get_str(f, "interface"), e);
		r = MIN(at, 0);
		if (!r)
			r = guest_check(host, source, (unsigned)at, f, e);
	}
	return !r && several ? publish_check_shared(forwards, e) : r;
}

/* ---- definitions ---- */

static struct json_object *forwards_of(struct json_object *definition, unsigned at)
{
	struct json_object *i = json_object_array_get_idx(js_get_array(definition, "interfaces"), at);

	if (!js_get_array(i, "forwards"))
		js_put(i, "forwards", json_object_new_array());
	return js_get_array(i, "forwards");
}

static bool port_is_given(struct json_object *forwards, int64_t port)
{
	for (size_t i = 0; i < json_object_array_length(forwards); i++)
		if (js_get_int(json_object_array_get_idx(forwards, i), "port", 0) == port)
			return true;
	return false;
}

static bool port_is_own(const struct definition *d, int port)
{
	for (unsigned i = 0; i < d->ninterfaces; i++)
		for (unsigned k = 0; k < d->interfaces[i].user.nforwards; k++)
			if (d->interfaces[i].user.forwards[k].port == port)
				return true;
	return false;
}

/* The forwards to add to a definition. */
struct addition {
	struct json_object *forwards;
	const struct definition *own; /* the definition without them */
	int placeholder; /* the last port that stands for one of the kernel's; from FORWARD_SOME_PORT down */
};

/* Add a forward to the VM's definition. */
static void forward_put(struct json_object *o, unsigned at, struct json_object *forward, struct addition *a)
{
	struct json_object *copy = json_object_new_object();

	json_object_object_foreach(forward, key, value)
	{
		if (strcmp(key, "interface") != 0)
			js_put(copy, key, json_object_get(value));
	}
	if (!js_get(copy, "port")) {
		do
			a->placeholder--;
		while (port_is_given(a->forwards, a->placeholder) || port_is_own(a->own, a->placeholder));
		js_put_int(copy, "port", a->placeholder);
	}
	json_object_array_add(forwards_of(o, at), copy);
}

/* Give the definition d its authors: those of `own`, and for everything that `own` lacks the user with these
 * rights. */
static int authors_set(struct definition *d, const struct definition *own, const struct rights *rights, struct err *e)
{
	if (rights_copy(rights, &d->rights) < 0)
		return err_set_errno(e, -ENOMEM, "forwards");
	authors_inherit(d, own);
	return 0;
}

int publish_define(struct json_object *forwards, const struct rights *rights, const struct definition *own, struct definition **ret,
	struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(own);
	struct addition a = { forwards, own, FORWARD_SOME_PORT + 1 };
	struct definition *d = NULL;
	int r;

	for (size_t i = 0; i < json_object_array_length(forwards); i++) {
		struct json_object *f = json_object_array_get_idx(forwards, i);

		r = interface_find(own, js_get_str(f, "interface"), e);
		if (r < 0)
			return r;
		forward_put(o, (unsigned)r, f, &a);
	}
	r = definition_parse_stored(o, &d, e);
	for (unsigned i = 0; !r && i < d->ninterfaces; i++)
		for (unsigned k = own->interfaces[i].user.nforwards; k < d->interfaces[i].user.nforwards; k++)
			if (!port_is_given(forwards, d->interfaces[i].user.forwards[k].port))
				d->interfaces[i].user.forwards[k].port = 0;
	if (!r)
		r = authors_set(d, own, rights, e);
	if (r < 0)
		definition_free(d);
	else
		*ret = d;
	return r;
}

/* ---- ports ---- */

static int port_of(int fd, uint16_t *ret, struct err *e)
{
	struct sockaddr_in6 address; /* an IPv4 one has its port at the same place */
	socklen_t size = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &size) < 0)
		return err_set_errno(e, -errno, "port");
	*ret = ntohs(address.sin6_port);
	return 0;
}

int publish_record_ports(struct vm *vm, const struct config *c, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	const int *fds = c->fds + c->nfds - c->nforwards;
	struct definition *d = vm->live, *learnt = NULL;
	const struct rights *rights = NULL;
	unsigned n = 0;
	bool any = false;
	int r = 0;

	for (unsigned i = 0; d && i < d->ninterfaces; i++)
		for (unsigned k = 0; !d->interfaces[i].link && k < d->interfaces[i].user.nforwards && n < c->nforwards && !r; k++, n++) {
			struct definition_forward *f = &d->interfaces[i].user.forwards[k];

			if (f->port)
				continue;
			if (!any)
				rights = author_of_forward(d, f);
			any = true;
			r = port_of(fds[n], &f->port, e);
		}
	if (r < 0 || !any)
		return r;
	/* The authors are found by the forwards' ports. */
	o = definition_to_json(d);
	r = definition_parse_stored(o, &learnt, e);
	if (!r)
		r = authors_set(learnt, vm->def, rights, e);
	if (r < 0) {
		definition_free(learnt);
		return r;
	}
	definition_free(vm->live);
	vm->live = learnt;
	return 0;
}

void publish_list(const struct vm *vm, const uint32_t *own, struct json_object *list)
{
	const struct definition *d = vm->live;

	/* publish_define() puts them behind those of the definition. */
	for (unsigned i = 0; d && i < d->ninterfaces; i++)
		for (unsigned k = own ? own[i] : 0; k < d->interfaces[i].user.nforwards; k++) {
			struct json_object *o = json_object_new_object();

			js_put_str(o, "name", vm->def->name);
			definition_put_forward(o, &d->interfaces[i].user.forwards[k]);
			json_object_array_add(list, o);
		}
}
