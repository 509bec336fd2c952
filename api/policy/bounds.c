#include "api/policy/bounds.h"
#include "api/access/rights.h"
#include "api/vm/vm.h"
#include "base/util.h"

static const struct daemon_limits *limits_of(const struct vm *vm)
{
	return &vm->host->paths->limits;
}

uint32_t bounds_order(const struct vm *vm)
{
	return vm->def->rights ? MAX(vm->def->order, limits_of(vm)->user_order) : vm->def->order;
}

uint32_t bounds_start_delay_s(const struct vm *vm)
{
	return vm->def->rights ? MIN(vm->def->start_delay_s, limits_of(vm)->user_delay_s) : vm->def->start_delay_s;
}

uint32_t bounds_deadline_s(const struct vm *vm)
{
	uint32_t s = vm->def->shutdown_deadline_s;

	return vm->def->rights ? MIN(s, MAX(1, limits_of(vm)->user_deadline_s)) : s;
}

bool bounds_same_definer(const struct vm *a, const struct vm *b)
{
	const struct rights *x = a->def->rights, *y = b->def->rights;

	return x && y ? x->uid == y->uid : x == y;
}
