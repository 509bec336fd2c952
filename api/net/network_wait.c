#include "api/net/network_wait.h"
#include "api/net/network.h"
#include "api/net/network_life.h"
#include "api/schema/call.h"
#include "api/vm/vm_host.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <stdlib.h>

/* A program that hangs is killed after 30 s, so a command waits for at most 8 minutes. */
#define WAITING_MAX 16

struct waiting {
	struct waiting *next;
	struct call *call;
	void (*run)(struct call *c);
};

struct network_waits {
	struct network *network;
	struct waiting *first;
	unsigned n;
	struct loop_timer *timer;
	const struct call *turn; /* the command that has waited and runs now, before the others */
};

unsigned network_waits_count(const struct network *n)
{
	return n->waits ? n->waits->n : 0;
}

/* turn: NULL, or set to the command before it runs. */
static void waiting_run(struct waiting *x, const struct call **turn)
{
	struct call *c = x->call;
	void (*run)(struct call *c) = x->run;
	struct err e;

	free(x);
	if (call_check_role(c, c->command->role, NULL, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	if (turn)
		*turn = c;
	run(c);
}

static struct waiting *first_take(struct network_waits *w)
{
	struct waiting *x = w->first;

	w->first = x->next;
	w->n--;
	return x;
}

/* The command may free the network. */
static void turn_come(void *opaque)
{
	struct network_waits *w = opaque;

	if (!w->first || network_is_busy(w->network))
		return;
	if (w->n > 1)
		loop_timer_arm(w->timer, loop_now_ns());
	waiting_run(first_take(w), &w->turn);
}

bool network_wait(struct network *n, void (*run)(struct call *c), struct call *c)
{
	struct network_waits *w = n->waits;
	struct waiting *x, **end;
	bool is_turn = w && w->turn == c;

	if (is_turn)
		w->turn = NULL;
	if (is_turn || (!network_is_busy(n) && !network_waits_count(n)) || network_waits_count(n) == WAITING_MAX)
		return false;
	if (!w) {
		n->waits = w = must_alloc(calloc(1, sizeof(*w)));
		w->network = n;
		if (loop_timer_new(n->host->loop, turn_come, w, &w->timer) < 0)
			abort();
	}
	x = must_alloc(malloc(sizeof(*x)));
	*x = (struct waiting){ .call = c, .run = run };
	for (end = &w->first; *end; end = &(*end)->next)
		;
	*end = x;
	w->n++;
	return true;
}

void network_waits_wake(struct network *n)
{
	if (network_waits_count(n))
		loop_timer_arm(n->waits->timer, loop_now_ns());
}

void network_waits_run(struct network_waits *w)
{
	while (w && w->first)
		waiting_run(first_take(w), NULL);
	network_waits_free(w);
}

void network_waits_free(struct network_waits *w)
{
	if (!w)
		return;
	while (w->first)
		free(first_take(w));
	loop_timer_free(w->timer);
	free(w);
}
