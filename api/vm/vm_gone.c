#include "api/vm/vm_gone.h"
#include "api/schema/call.h"
#include "api/vm/vm.h"

void vm_answer_gone(struct vm *vm)
{
	while (vm->stop.calls) {
		struct call *c = vm->stop.calls;

		vm->stop.calls = c->next;
		call_return(c, NULL);
	}
}

void vm_when_gone(struct vm *vm, void (*gone)(struct vm *v, void *opaque), void *opaque)
{
	vm->stop.when_gone = gone;
	vm->stop.when_gone_opaque = opaque;
}

void vm_tell_gone(struct vm *vm)
{
	void (*gone)(struct vm *v, void *o) = vm->stop.when_gone;

	vm->stop.when_gone = NULL;
	if (gone)
		gone(vm, vm->stop.when_gone_opaque);
}
