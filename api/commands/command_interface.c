/* Handler of vm-set-interface: the link and the limits of an interface of a running VM. Its egress rules:
 * api/net/egress_change.h. */
#include "api/access/authors.h"
#include "api/commands/command.h"
#include "api/net/egress_change.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SET_TIMEOUT_NS (20 * 1000000000ULL)

struct interface_change {
	struct call *call;
	char id[16];
	bool set_link, link_down, set_in, set_out;
	struct definition_bandwidth bandwidth;
};

/* The process has the change: note it in the definition that it runs with. */
static void live_change(struct vm *vm, const struct interface_change *w)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	struct definition *d = NULL;
	struct err e;

	if (definition_parse_stored(o, &d, &e) < 0)
		return;
	authors_copy(vm_live(vm), d);
	for (unsigned i = 0; i < d->ninterfaces; i++) {
		struct definition_interface *n = &d->interfaces[i];

		if (strcmp(n->id, w->id))
			continue;
		if (w->set_link)
			n->link = w->link_down;
		if (w->set_in)
			n->bandwidth.in = w->bandwidth.in;
		if (w->set_out)
			n->bandwidth.out = w->bandwidth.out;
	}
	vm_live_replace(vm, d);
}

static void change_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct interface_change *w = opaque;
	struct call *c = w->call;

	(void)a;
	if (r < 0) {
		call_fail(c, e);
	} else {
		live_change(c->vm, w);
		c->when_stored = true;
		call_return(c, NULL);
	}
	free(w);
}

static int limit_read(struct call *c, const char *name, struct definition_limit *ret, bool *ret_given, struct err *e)
{
	struct json_object *o = js_get(c->args, name);

	*ret_given = o != NULL;
	return o ? definition_parse_limit(o, name, ret, e) : 0;
}

static int change_read(struct call *c, struct interface_change *w, struct err *e)
{
	const char *which = js_get_str(c->args, "interface"), *link = js_get_str(c->args, "link");
	int r = 0, at;

	if (link && strcmp(link, "up") && strcmp(link, "down"))
		return err_set(e, -EINVAL, ERR_INVALID, "link: give up or down");
	w->set_link = link;
	w->link_down = link && !strcmp(link, "down");
	r = limit_read(c, "inbound", &w->bandwidth.in, &w->set_in, e);
	if (!r)
		r = limit_read(c, "outbound", &w->bandwidth.out, &w->set_out, e);
	if (!r && !w->set_link && !w->set_in && !w->set_out)
		r = err_set(e, -EINVAL, ERR_INVALID, "nothing to change: give link, inbound, outbound, egress or no-egress");
	at = r ? r : vm_live_interface(c->vm, which, e);
	if (at < 0)
		return at;
	snprintf(w->id, sizeof(w->id), "%s", vm_live(c->vm)->interfaces[at].id);
	return 0;
}

void command_vm_set_interface(struct call *c)
{
	struct interface_change *w = must_alloc(calloc(1, sizeof(*w)));
	struct vm_interface_set body;
	struct err e;
	int r;

	if (js_get(c->args, "egress") || js_get(c->args, "no-egress")) {
		free(w);
		egress_change(c);
		return;
	}
	r = vm_compat_check_live(c->vm, VM_KNOWS_INTERFACE_SET, &e);
	w->call = c;
	if (!r)
		r = change_read(c, w, &e);
	if (r < 0) {
		free(w);
		call_fail(c, &e);
		return;
	}
	body = (struct vm_interface_set){ .set_link = w->set_link, .link_down = w->link_down, .set_in = w->set_in, .set_out = w->set_out,
		.limits = { definition_limit_bytes(&w->bandwidth.in), definition_limit_bytes(&w->bandwidth.out) } };
	memcpy(body.id, w->id, sizeof(body.id));
	vm_process_request(c->vm->proc, VM_MSG_INTERFACE_SET, &body, sizeof(body), -1, SET_TIMEOUT_NS, change_done, w);
}
