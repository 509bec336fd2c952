#include "api/net/egress_change.h"
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/net/forwards.h"
#include "api/net/usernet.h"
#include "api/net/waiting_call.h"
#include "api/schema/call.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/egress.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* New rules that cairn-slirp has not confirmed yet. */
struct egress_order {
	struct waiting_call waiting;
	char id[16]; /* of the interface */
	struct json_object *egress; /* NULL: none */
};

static void order_end(struct egress_order *g, int r, const struct err *e)
{
	waiting_call_answer(&g->waiting, r, NULL, e);
	json_object_put(g->egress);
	free(g);
}

/* ---- the definition with other rules ---- */

/* Get the running VM's definition with the rules. The caller owns *ret. */
static int definition_with(const struct egress_order *g, const struct vm *vm, unsigned at, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	struct json_object *interface = json_object_array_get_idx(js_get_array(o, "interfaces"), at);
	int r;

	json_object_object_del(interface, "egress");
	if (g->egress)
		js_put(interface, "egress", json_object_get(g->egress));
	r = definition_parse_stored(o, ret, e);
	if (!r)
		authors_copy(vm_live(vm), *ret);
	return r;
}

static void live_note(const struct egress_order *g)
{
	struct vm *vm = waiting_call_vm(&g->waiting);
	struct definition *d;
	struct err e;
	int at = vm && vm->proc ? vm_live_interface(vm, g->id, &e) : -1;

	if (at >= 0 && !definition_with(g, vm, (unsigned)at, &d, &e))
		vm_live_replace(vm, d);
}

/* ---- asking cairn-slirp ---- */

static void order_done(void *opaque, int r)
{
	struct egress_order *g = opaque;
	struct err e;

	if (r < 0)
		usernet_order_failed("cairn-slirp", g->id, r, &e);
	if (r == -ETIMEDOUT) {
		waiting_call_answer(&g->waiting, r, NULL, &e);
		return;
	}
	if (!r)
		live_note(g);
	order_end(g, r, &e);
}

static int file_of_text(const char *text)
{
	int fd = memfd_create("egress", MFD_CLOEXEC);

	if (fd < 0 || write_full(fd, text, strlen(text)) < 0 || lseek(fd, 0, SEEK_SET) < 0) {
		int r = -errno;

		if (fd >= 0)
			close(fd);
		return r;
	}
	return fd;
}

static int order_send(struct egress_order *g, struct vm *vm, unsigned at, const struct egress *egress, struct err *e)
{
	CLEANUP_FREE char *text = must_alloc(egress ? egress_print(egress) : strdup(""));
	CLEANUP_CLOSE int fd = file_of_text(text);
	int r = fd < 0 ? fd : forwards_order(vm, at, "{\"egress\": true}", fd, order_done, g);

	return r < 0 ? usernet_order_failed("cairn-slirp", g->id, r, e) : 0;
}

/* ---- the call ---- */

/* The process has the rights of the interface's author, who may have chosen the rules to limit the use of these
 * rights. */
static int author_check(const struct call *c, const struct definition_interface *n, struct err *e)
{
	const struct rights *author = author_of_interface(vm_live(c->vm), n);

	if (!n->egress || !c->who.uid || c->who.uid == geteuid() || (author && author->uid == c->who.uid))
		return 0;
	return err_set(e, -EPERM, ERR_PERMISSION, "another user wrote the rules of interface %s, and cairn-slirp has that user's rights; "
		"change the rules of the next start, with --config", n->id);
}

static int call_check(const struct call *c, int *ret_at, struct err *e)
{
	static const char *const others[] = { "link", "inbound", "outbound" };
	const char *which = js_get_str(c->args, "interface");
	const struct definition_interface *n;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (js_get(c->args, others[i]))
			return err_set(e, -EINVAL, ERR_INVALID, "%s: give it in a call without egress", others[i]);
	if (js_get(c->args, "egress") && js_get_bool(c->args, "no-egress", false))
		return err_set(e, -EINVAL, ERR_INVALID, "give either egress or no-egress");
	r = vm_live_check(c->vm, e);
	*ret_at = r ? r : vm_live_interface(c->vm, which, e);
	if (*ret_at < 0)
		return *ret_at;
	n = &vm_live(c->vm)->interfaces[*ret_at];
	if (n->type == DEFINITION_NETWORK)
		return err_set(e, -EINVAL, ERR_INVALID, "interface %s is of type network; the rules are the network's: cairn net-update NETWORK add "
			"egress-rule RULE --live", n->id);
	if (n->type != DEFINITION_USER)
		return err_set(e, -EINVAL, ERR_INVALID, "interface %s is not of type user, and only such an interface has egress rules", n->id);
	return author_check(c, n, e);
}

void egress_change(struct call *c)
{
	struct egress_order *g = must_alloc(calloc(1, sizeof(*g)));
	struct definition *d CLEANUP(definition_free_p) = NULL;
	struct err e;
	int at = -1, r = call_check(c, &at, &e);

	waiting_call_begin(&g->waiting, c);
	g->egress = json_object_get(js_get(c->args, "egress"));
	if (!r) {
		snprintf(g->id, sizeof(g->id), "%s", vm_live(c->vm)->interfaces[at].id);
		r = definition_with(g, c->vm, (unsigned)at, &d, &e);
	}
	if (!r)
		r = order_send(g, c->vm, (unsigned)at, d->interfaces[at].egress, &e);
	if (r < 0)
		order_end(g, r, &e);
}
