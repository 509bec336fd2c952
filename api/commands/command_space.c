/* The handler of vm-space. */
#include "api/commands/command.h"
#include "api/policy/vm_space.h"
#include "api/vm/vm.h"

static void space_known(void *opaque)
{
	command_vm_info(opaque);
}

void command_vm_space(struct call *c)
{
	vm_space_fetch(c->vm, space_known, c);
}
