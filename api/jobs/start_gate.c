#include "api/jobs/start_gate.h"
#include "api/definition/definition.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "base/cleanup.h"
#include "base/util.h"

/* Greatest number of starts that prepare, of all forks: each holds its files open in the daemon. A fork without any may
 * have one more, because no other fork's start tells it that there is room. */
#define PREPARING_MAX 64

bool gate_has_room(const struct start_gate *g)
{
	return g->working < g->max && (g->host->preparing < PREPARING_MAX || !(g->working + g->preparing));
}

static void prepares_set(struct gated *gated, bool prepares)
{
	int n = prepares - gated->prepares;

	gated->gate->preparing += (unsigned)n;
	gated->gate->host->preparing += (unsigned)n;
	gated->prepares = prepares;
}

static void gated_work(struct gated *gated)
{
	prepares_set(gated, false);
	gated->gate->working++;
}

/* A start that fails at once calls gate_leave(), which only counts then. */
static void gate_release(struct start_gate *g)
{
	if (g->releasing)
		return;
	g->releasing = true;
	while (g->waiting && g->working < g->max) {
		struct gated *gated = g->waiting;

		g->waiting = gated->next;
		gated_work(gated);
		STEAL_PTR(gated->ready)(gated->vm, 0, NULL);
	}
	g->releasing = false;
}

void gate_enter(struct start_gate *g, struct vm *vm, struct gated *gated)
{
	*gated = (struct gated){ .gate = g, .vm = vm };
	vm->gated = gated;
	g->working++;
}

void gate_leave(struct gated *gated)
{
	struct start_gate *g = gated->gate;

	gated->vm->gated = NULL;
	if (gated->prepares)
		prepares_set(gated, false);
	else
		g->working--;
	gate_release(g);
}

static bool has_network(const struct definition *d)
{
	for (unsigned i = 0; i < d->ninterfaces; i++)
		if (d->interfaces[i].type == DEFINITION_NETWORK && !d->interfaces[i].link)
			return true;
	return false;
}

/* The start is going to wait for its rules, so another one may begin. */
static int before_on_prepare(struct vm *vm, const struct config *c, void (*ready)(struct vm *vm, int r, const struct err *e), struct err *e)
{
	struct gated *gated = vm->gated;

	(void)c;
	(void)ready;
	(void)e;
	if (!gated || !has_network(vm->def))
		return 0;
	gated->gate->working--;
	prepares_set(gated, true);
	gate_release(gated->gate);
	gated->gate->has_room(gated->gate);
	return 0;
}

static int gate_on_prepare(struct vm *vm, const struct config *c, void (*ready)(struct vm *vm, int r, const struct err *e), struct err *e)
{
	struct gated *gated = vm->gated, **end;

	(void)c;
	(void)e;
	if (!gated || !gated->prepares)
		return 0;
	if (gated->gate->working < gated->gate->max) {
		gated_work(gated);
		return 0;
	}
	for (end = &gated->gate->waiting; *end;)
		end = &(*end)->next;
	*end = gated;
	gated->next = NULL;
	gated->ready = ready;
	return 1;
}

/* Returns whether the start was in `waiting`. */
static bool gated_unlink(struct gated *gated)
{
	struct gated **at = &gated->gate->waiting;

	while (*at && *at != gated)
		at = &(*at)->next;
	if (!*at)
		return false;
	*at = gated->next;
	return true;
}

static void called_off(struct loop_task *t)
{
	struct gated *gated = container_of(t, struct gated, task);

	STEAL_PTR(gated->ready)(gated->vm, 0, NULL); /* the thread finds the start cancelled */
}

static void gate_on_called_off(struct vm *vm)
{
	struct gated *gated = vm->gated;

	if (!gated || !gated_unlink(gated))
		return;
	gated->task.run = called_off;
	loop_post(gated->gate->host->loop, &gated->task);
}

static void gate_on_removed(struct vm *vm)
{
	if (vm->gated)
		gated_unlink(vm->gated);
}

const struct vm_observer start_gate_before_observer = { .start_prepare = before_on_prepare };
const struct vm_observer start_gate_observer = { .start_prepare = gate_on_prepare, .start_called_off = gate_on_called_off,
	.removed = gate_on_removed };
