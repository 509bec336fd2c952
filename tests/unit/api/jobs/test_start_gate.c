/* start_gate: how many clones of all forks may prepare at a time. */
#include "api/jobs/start_gate.h"
#include "api/definition/definition.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define STARTS 64

struct start {
	struct vm vm;
	struct definition def;
	struct definition_interface interface;
	struct gated gated;
};

static void no_more(struct start_gate *g)
{
	(void)g;
}

/* Begin a start whose tap waits for rules. */
static void prepare(struct start *s, struct start_gate *g)
{
	struct err e;

	s->interface.type = DEFINITION_NETWORK;
	s->def.interfaces = &s->interface;
	s->def.ninterfaces = 1;
	s->vm.def = &s->def;
	s->vm.host = g->host;
	assert_true(gate_has_room(g));
	gate_enter(g, &s->vm, &s->gated);
	assert_int_equal(start_gate_before_observer.start_prepare(&s->vm, NULL, NULL, &e), 0);
}

static void test_forks_share_the_room_for_starts_that_prepare(void **state)
{
	static struct start starts[STARTS], other;
	struct vm_host host = { .loop = NULL };
	struct start_gate a = { .host = &host, .max = 8, .has_room = no_more }, b = a;

	(void)state;
	for (unsigned i = 0; i < STARTS; i++)
		prepare(&starts[i], &a);
	assert_false(gate_has_room(&a));
	prepare(&other, &b); /* its fork's only one */
	assert_false(gate_has_room(&b));
	gate_leave(&starts[0].gated);
	gate_leave(&starts[1].gated);
	assert_true(gate_has_room(&a));
	assert_true(gate_has_room(&b));
	for (unsigned i = 2; i < STARTS; i++)
		gate_leave(&starts[i].gated);
	gate_leave(&other.gated);
	assert_int_equal(host.preparing, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_forks_share_the_room_for_starts_that_prepare) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
