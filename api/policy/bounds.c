#include "api/policy/bounds.h"
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/vm/vm.h"
#include "base/util.h"

static const struct daemon_limits *limits_of(const struct vm *vm)
{
	return &vm->host->paths->limits;
}

uint32_t bounds_order(const struct vm *vm)
{
	uint32_t order = vm->def->order;

	return author_of_setting(vm->def, "order", order) ? MAX(order, limits_of(vm)->user_order) : order;
}

uint32_t bounds_start_delay_s(const struct vm *vm)
{
	uint32_t s = vm->def->start_delay_s;

	return author_of_setting(vm->def, "start_delay", s) ? MIN(s, limits_of(vm)->user_delay_s) : s;
}

uint32_t bounds_deadline_s(const struct vm *vm)
{
	uint32_t s = vm->def->shutdown_deadline_s;

	return author_of_setting(vm->def, "deadline", s) ? MIN(s, MAX(1, limits_of(vm)->user_deadline_s)) : s;
}

uid_t bounds_definer(const struct vm *vm)
{
	return vm->def->rights ? vm->def->rights->uid : 0;
}
