#include "api/net/publish_restart.h"
#include "api/access/authors.h"
#include "api/access/open_as.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/net/forwards.h"
#include "api/net/network_ports.h"
#include "api/vm/identity.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/backoff.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A cairn-publish ends with its VM's tap, and the daemon may see the end of the VM's process later. */
#define DELAY_MIN_NS (100 * 1000000ULL)

/* A minute's delay is reached after the seventh end in a row. When a process has run for five minutes, the delays begin
 * anew. */
static const struct backoff_rule rule = { .delay_s = 1, .max_delay_s = 60, .tries = 1, .window_s = 300 };

struct restart {
	struct vm *vm; /* NULL: the place is free */
	char id[16];   /* of the interface, which may have been detached */
	struct backoff backoff;
	char problem[ERR_SENTENCE_MAX]; /* empty: the process runs */
	bool untold; /* the problem is reported before the next try, if the VM runs then */
	struct loop_timer *timer;
	struct publish_wait *waits; /* calls that wait for the end of the next try */
	struct open_as *opener;
	struct definition *opening; /* of the last try: its forwards are those to open; owned; NULL: none */
};

struct publish_restarts {
	struct restart list[DEFINITION_INTERFACES_MAX];
};

/* Return the index of the interface in a definition; its ninterfaces: it has none. */
static unsigned index_in(const struct restart *r, const struct definition *d)
{
	unsigned at = 0;

	while (at < d->ninterfaces && strcmp(d->interfaces[at].id, r->id))
		at++;
	return at;
}

static const struct definition_interface *interface_of(const struct restart *r)
{
	const struct definition *d = vm_live(r->vm);
	unsigned at = index_in(r, d);

	return at < d->ninterfaces ? &d->interfaces[at] : NULL;
}

static bool is_needed(const struct restart *r)
{
	const struct definition_interface *i = interface_of(r);

	return r->vm->proc && !vm_process_is_ending(r->vm->proc) && vm_state_is_active(r->vm->state) && i && i->type == DEFINITION_NETWORK && forwards_may_lead_to(i) &&
		i->user.nforwards;
}

static void change_emit(const struct restart *r)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "device", interface_of(r)->id);
	js_put_bool(data, "open", !r->problem[0]);
	js_put_str(data, "detail", r->problem[0] ? r->problem : NULL);
	vm_emit(r->vm, EVENT_FORWARDS_CHANGE, data);
}

static void waits_end(struct publish_wait *waits, bool ended)
{
	while (waits) {
		struct publish_wait *w = waits;

		waits = w->next;
		w->go_on(w, ended);
	}
}

/* ---- starting the process again ---- */

static void problem_report(struct restart *r, uint64_t wait_ns)
{
	r->untold = false;
	if (!interface_of(r))
		return;
	log_error("usernet", "VM '%s': interface %s: its published ports are closed, and are opened again in %.1f s: %s", r->vm->def->name,
		interface_of(r)->id, (double)wait_ns / 1e9, r->problem);
	change_emit(r);
}

static void restart_later(struct restart *r, const char *why)
{
	uint64_t now = loop_now_ns(), wait = MAX(backoff_slow(&rule, &r->backoff, now), DELAY_MIN_NS);

	snprintf(r->problem, sizeof(r->problem), "%s", why);
	loop_timer_arm(r->timer, now + wait);
	if (!r->untold)
		problem_report(r, wait);
	waits_end(STEAL_PTR(r->waits), false);
}

/* Return whether the opened ports are those of the interface's forwards, which may have changed meanwhile. */
static bool ports_fit(const struct restart *r, const struct definition_user *opened)
{
	const struct definition_user *u = &interface_of(r)->user;

	for (unsigned i = 0; i < u->nforwards && opened->nforwards == u->nforwards; i++)
		if (!definition_forwards_meet(&u->forwards[i], &opened->forwards[i]))
			return false;
	return opened->nforwards == u->nforwards;
}

static void restart_done(struct restart *r)
{
	r->problem[0] = 0;
	network_ports_lead_all(r->vm);
	log_info("usernet", "VM '%s': interface %s: its published ports are open again", r->vm->def->name, interface_of(r)->id);
	change_emit(r);
	waits_end(STEAL_PTR(r->waits), false);
}

static void ports_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct restart *s = opaque;
	struct err own;

	s->opener = NULL;
	if (r < 0) {
		restart_later(s, e->msg);
		return;
	}
	if (!is_needed(s) || !ports_fit(s, &s->opening->interfaces[index_in(s, s->opening)].user)) {
		config_done(c);
		loop_timer_arm(s->timer, loop_now_ns());
		return;
	}
	r = forwards_publish(s->vm, index_in(s, vm_live(s->vm)), c->fds, c->nfds, &own);
	config_done(c);
	if (r < 0)
		restart_later(s, own.msg);
	else
		restart_done(s);
}

/* Get the running VM's definition with the interface's forwards only. The caller owns *ret. */
static int definition_with(const struct restart *r, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(r->vm));
	struct json_object *i = json_object_array_get_idx(js_get_array(o, "interfaces"), index_in(r, vm_live(r->vm)));
	struct json_object *forwards = json_object_get(js_get(i, "forwards"));
	int got;

	identity_drop_forwards(o);
	js_put(i, "forwards", forwards);
	got = definition_parse_stored(o, ret, e);
	if (!got)
		authors_copy(vm_live(r->vm), *ret);
	return got;
}

static void restart_try(void *opaque)
{
	struct restart *r = opaque;
	struct err e;

	definition_free(STEAL_PTR(r->opening));
	if (!is_needed(r)) {
		r->problem[0] = 0;
		r->untold = false;
		waits_end(STEAL_PTR(r->waits), false);
		return;
	}
	if (r->untold)
		problem_report(r, 0);
	if (definition_with(r, &r->opening, &e) < 0)
		restart_later(r, e.msg);
	else
		open_as_open(r->vm->host->helpers, r->opening, OPEN_AS_FORWARDS, ports_opened, r, &r->opener);
}

/* ---- begin and end ---- */

static void restart_end(struct restart *r)
{
	struct publish_wait *waits;

	loop_timer_free(r->timer);
	open_as_free(r->opener);
	definition_free(r->opening);
	waits = r->waits;
	*r = (struct restart){ 0 };
	waits_end(waits, true);
}

static struct restart *restart_find(const struct vm *vm, const char *id)
{
	struct publish_restarts *all = vm->publish_restarts;

	for (unsigned i = 0; all && i < DEFINITION_INTERFACES_MAX; i++)
		if (!strcmp(all->list[i].id, id))
			return &all->list[i];
	return NULL;
}

/* Return the place of an interface, or a new one: that of a detached interface may be used again. */
static struct restart *restart_get(struct vm *vm, const char *id)
{
	struct restart *r = restart_find(vm, id);

	if (r)
		return r;
	if (!vm->publish_restarts)
		vm->publish_restarts = must_alloc(calloc(1, sizeof(*vm->publish_restarts)));
	for (r = vm->publish_restarts->list; r->vm && interface_of(r);)
		r++;
	restart_end(r);
	r->vm = vm;
	snprintf(r->id, sizeof(r->id), "%s", id);
	return r;
}

void publish_restart_begin(struct vm *vm, unsigned at, const siginfo_t *si)
{
	char why[80] = "its cairn-publish has ended";
	struct restart *r;

	if (at >= vm_live(vm)->ninterfaces || (si->si_pid && si->si_code == CLD_EXITED && !si->si_status))
		return;
	if (si->si_pid)
		snprintf(why, sizeof(why), "its cairn-publish has ended with %s %d", si->si_code == CLD_EXITED ? "exit status" : "signal", si->si_status);
	r = restart_get(vm, vm_live(vm)->interfaces[at].id);
	if (r->problem[0] || !is_needed(r))
		return;
	if (!r->timer && loop_timer_new(vm->host->loop, restart_try, r, &r->timer) < 0)
		abort();
	/* How a process has ended that an earlier daemon started is not known: perhaps with its VM, which ends now. */
	r->untold = !si->si_pid;
	restart_later(r, why);
}

void publish_restarts_take_up(struct vm *vm)
{
	for (unsigned at = 0; at < vm_live(vm)->ninterfaces; at++)
		if (!forwards_has_process(vm, at))
			publish_restart_begin(vm, at, &(siginfo_t){ 0 });
}

const char *publish_restart_problem(const struct vm *vm, unsigned at)
{
	const struct restart *r = at < vm_live(vm)->ninterfaces ? restart_find(vm, vm_live(vm)->interfaces[at].id) : NULL;

	return r && r->problem[0] ? r->problem : NULL;
}

bool publish_restart_wait(struct vm *vm, unsigned at, struct publish_wait *w)
{
	struct restart *r = publish_restart_problem(vm, at) ? restart_find(vm, vm_live(vm)->interfaces[at].id) : NULL;
	struct publish_wait **end;

	if (!r)
		return false;
	for (end = &r->waits; *end; end = &(*end)->next)
		;
	w->next = NULL;
	*end = w;
	return true;
}

void publish_restart_show(const struct vm *vm, unsigned at, struct json_object *o)
{
	js_put_str(o, "forwards-problem", publish_restart_problem(vm, at));
}

void publish_restarts_end(struct vm *vm)
{
	struct publish_restarts *all = STEAL_PTR(vm->publish_restarts);

	for (unsigned i = 0; all && i < DEFINITION_INTERFACES_MAX; i++)
		restart_end(&all->list[i]);
	free(all);
}
