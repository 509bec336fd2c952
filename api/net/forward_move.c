#include "api/net/forward_move.h"
#include "api/access/authors.h"
#include "api/access/open_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/net/forwards.h"
#include "api/net/network_ports.h"
#include "api/vm/identity.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TEXT_MAX 192
enum { ORDER_TAKE = 1, ORDER_GIVE = 2 };

struct port {
	struct forward_move *of;
	unsigned from_at, to_at; /* indices of the interfaces */
	struct definition_forward what;
	bool moved;
	unsigned waits; /* mask of the orders without an answer */
	unsigned late;	/* mask of the orders whose time limit has passed */
	uint64_t begun_ns;
	char why[160]; /* why it could not be opened; "": it was, or not tried */
};

struct forward_move {
	struct vm *from, *to;
	struct port list[CHANNEL_FDS_MAX];
	unsigned n, next;
	bool opens; /* forward_move_open() */
	struct open_as *opener;
	int fd; /* the socket that was opened; -1: none */
	uint64_t gap_ns;
	void (*done)(void *opaque);
	void *opaque;
	unsigned late; /* orders whose processes have not answered in time */
	bool freed;
};

static int interface_of(const struct definition *d, const char *id)
{
	for (unsigned i = 0; i < d->ninterfaces; i++)
		if (!strcmp(d->interfaces[i].id, id))
			return (int)i;
	return -1;
}

static const struct definition *held_by(const struct vm *vm)
{
	return vm->proc ? vm_live(vm) : vm->def;
}

int forward_move_check(const struct vm *from, const struct vm *to, struct err *e)
{
	const struct definition *d = held_by(from), *t = vm_live(to);

	for (unsigned i = 0; i < d->ninterfaces; i++) {
		int at = interface_of(t, d->interfaces[i].id);

		if (!d->interfaces[i].user.nforwards)
			continue;
		if (at < 0 || t->interfaces[at].type != d->interfaces[i].type)
			return err_set(e, -EPERM, ERR_WRONG_STATE, "interface %s of VM '%.255s' has forwards, and VM '%.255s' has no such "
				"interface; attach it first", d->interfaces[i].id, from->def->name, to->def->name);
		if (d->interfaces[i].user.nforwards + t->interfaces[at].user.nforwards > DEFINITION_FORWARDS_MAX)
			return err_set(e, -ENOSPC, ERR_INVALID, "interface %s would have more than %d forwards; remove some first",
				d->interfaces[i].id, DEFINITION_FORWARDS_MAX);
	}
	return 0;
}

struct forward_move *forward_move_new(struct vm *from, struct vm *to)
{
	struct forward_move *m = must_alloc(calloc(1, sizeof(*m)));
	const struct definition *d = held_by(from);

	m->from = from;
	m->to = to;
	m->fd = -1;
	for (unsigned i = 0; i < d->ninterfaces; i++) {
		int at = interface_of(vm_live(to), d->interfaces[i].id);

		for (unsigned k = 0; k < d->interfaces[i].user.nforwards && at >= 0 && m->n < CHANNEL_FDS_MAX; k++)
			m->list[m->n++] = (struct port){ .of = m, .from_at = i, .to_at = (unsigned)at, .what = d->interfaces[i].user.forwards[k] };
	}
	return m;
}

static const char *protocol_of(const struct port *p)
{
	return p->what.protocol == DEFINITION_UDP ? "udp" : "tcp";
}

static const char *guest_of(const struct port *p)
{
	return p->what.guest[0] ? p->what.guest : "-";
}

static void go_on(struct forward_move *m);

static void port_next(struct forward_move *m)
{
	m->next++;
	go_on(m);
}

static void freed_check(struct forward_move *m)
{
	if (m->freed && !m->late)
		free(m);
}

/* ---- handing a socket over ---- */

static void order_over(struct port *p, unsigned order, int r)
{
	struct forward_move *m = p->of;

	if (p->late & order) {
		p->late &= ~order;
		m->late--;
		p->moved |= order == ORDER_TAKE && !r;
		freed_check(m);
		return;
	}
	if (r == -ETIMEDOUT) {
		p->late |= order;
		m->late++;
	}
	p->moved |= order == ORDER_TAKE && !r;
	if (p->moved)
		m->gap_ns = MAX(m->gap_ns, loop_now_ns() - p->begun_ns);
	p->waits &= ~order;
	if (!p->waits)
		port_next(m);
}

static void taken(void *opaque, int r)
{
	order_over(opaque, ORDER_TAKE, r);
}

static void given(void *opaque, int r)
{
	order_over(opaque, ORDER_GIVE, r);
}

/* First the process that is to take the socket gets its end of the pair: so the socket is never lost, whoever ends. */
static void hand_over(struct port *p)
{
	struct forward_move *m = p->of;
	char text[TEXT_MAX];
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
		port_next(m);
		return;
	}
	p->begun_ns = loop_now_ns();
	snprintf(text, sizeof(text), "{\"take\": \"%s:%s:%u\", \"socket\": \"%s:%s:%u\"}", protocol_of(p), guest_of(p), p->what.to,
		protocol_of(p), p->what.address, p->what.port);
	if (forwards_order(m->to, p->to_at, text, pair[1], taken, p) == 0) {
		p->waits = ORDER_TAKE;
		snprintf(text, sizeof(text), "{\"give\": \"%s:%s:%u\"}", protocol_of(p), p->what.address, p->what.port);
		if (forwards_order(m->from, p->from_at, text, pair[0], given, p) == 0)
			p->waits |= ORDER_GIVE;
	}
	close(pair[0]);
	close(pair[1]);
	if (!p->waits)
		port_next(m);
}

/* ---- opening a port ---- */

static void open_over(struct forward_move *m, int r, const struct err *e)
{
	struct port *p = &m->list[m->next];

	p->moved = !r;
	snprintf(p->why, sizeof(p->why), "%s", r < 0 ? e->msg : "");
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
	port_next(m);
}

static void added(void *opaque, int r)
{
	struct port *p = opaque;
	struct err e;

	if (p->late & ORDER_TAKE) {
		order_over(p, ORDER_TAKE, r);
		return;
	}
	if (r == -ETIMEDOUT) {
		p->late |= ORDER_TAKE;
		p->of->late++;
	}
	if (r < 0)
		err_set_errno(&e, r, "its process does not take the port");
	open_over(p->of, r, &e);
}

static void opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct forward_move *m = opaque;
	struct port *p = &m->list[m->next];
	char text[TEXT_MAX];
	struct err own;

	m->opener = NULL;
	if (r < 0) {
		open_over(m, r, e);
		return;
	}
	m->fd = c->fds[0];
	c->nfds = 0;
	config_done(c);
	snprintf(text, sizeof(text), "{\"add\": \"%s:%s:%u\"}", protocol_of(p), guest_of(p), p->what.to);
	r = m->to->proc ? forwards_order(m->to, p->to_at, text, m->fd, added, p) : -ENOENT;
	if (r < 0) {
		err_set_errno(&own, r, "its process does not take the port");
		open_over(m, r, &own);
	}
}

/* Make a definition with this forward alone. Its author's rights open the port. */
static int definition_alone(const struct port *p, struct definition **ret, struct err *e)
{
	const struct definition *d = vm_live(p->of->to);
	CLEANUP_JS struct json_object *o = definition_to_json(d), *list = json_object_new_array(), *f = json_object_new_object();
	struct json_object *i = json_object_array_get_idx(js_get_array(o, "interfaces"), p->to_at);
	int r;

	identity_drop_forwards(o);
	definition_put_forward(f, &p->what);
	json_object_array_add(list, json_object_get(f));
	js_put(i, "forwards", json_object_get(list));
	r = definition_parse_stored(o, ret, e);
	return r ? r : rights_copy(author_of_forward(d, &p->what), &(*ret)->rights);
}

static void port_open(struct port *p)
{
	struct definition *d CLEANUP(definition_free_p) = NULL;
	struct forward_move *m = p->of;
	struct err e;
	int r = definition_alone(p, &d, &e);

	if (r < 0)
		open_over(m, r, &e);
	else
		open_as_open(m->to->host->helpers, d, OPEN_AS_FORWARDS, opened, m, &m->opener);
}

/* ---- one port after the other ---- */

static void port_begin(struct forward_move *m)
{
	struct port *p = &m->list[m->next];

	if (m->opens)
		port_open(p);
	else
		hand_over(p);
}

static void led(void *opaque, int r, const struct err *e)
{
	struct forward_move *m = opaque;

	if (r < 0)
		log_warn("promote", "VM '%s': %s", m->to->def->name, e->msg);
	port_begin(m);
}

static bool is_due(const struct forward_move *m, const struct port *p)
{
	return m->to->proc && !p->moved && !p->late && p->to_at < vm_live(m->to)->ninterfaces && (m->opens || m->from->proc);
}

static void go_on(struct forward_move *m)
{
	const struct port *p;
	struct err e;

	while (m->next < m->n && !is_due(m, &m->list[m->next]))
		m->next++;
	if (m->next == m->n) {
		m->done(m->opaque);
		return;
	}
	p = &m->list[m->next];
	if (vm_live(m->to)->interfaces[p->to_at].type != DEFINITION_NETWORK)
		port_begin(m);
	else if (forwards_publish(m->to, p->to_at, NULL, 0, &e) < 0)
		led(m, -EREMOTEIO, &e);
	else
		network_ports_lead(m->to, p->to_at, led, m);
}

static void move_run(struct forward_move *m, bool opens, void (*done)(void *opaque), void *opaque)
{
	m->next = 0;
	m->opens = opens;
	m->done = done;
	m->opaque = opaque;
	go_on(m);
}

void forward_move_begin(struct forward_move *m, void (*done)(void *opaque), void *opaque)
{
	move_run(m, false, done, opaque);
}

void forward_move_open(struct forward_move *m, void (*done)(void *opaque), void *opaque)
{
	move_run(m, true, done, opaque);
}

void forward_move_return(struct forward_move *m, void (*done)(void *opaque), void *opaque)
{
	m->to = m->from;
	for (unsigned i = 0; i < m->n; i++) {
		m->list[i].moved = !m->list[i].moved;
		m->list[i].to_at = m->list[i].from_at;
	}
	move_run(m, true, done, opaque);
}

struct json_object *forward_move_lost(const struct forward_move *m)
{
	struct json_object *list = NULL;
	char text[300];

	for (unsigned i = 0; i < m->n; i++) {
		const struct port *p = &m->list[i];

		if (!p->why[0])
			continue;
		if (!list)
			list = json_object_new_array();
		snprintf(text, sizeof(text), "port %s:%u (%s): %s", p->what.address, p->what.port, protocol_of(p), p->why);
		json_object_array_add(list, json_object_new_string(text));
	}
	return list;
}

uint64_t forward_move_gap(const struct forward_move *m)
{
	return m->gap_ns;
}

void forward_move_free(struct forward_move *m)
{
	if (!m)
		return;
	open_as_free(m->opener);
	if (m->fd >= 0)
		close(m->fd);
	m->opener = NULL;
	m->fd = -1;
	m->freed = true;
	freed_check(m);
}
