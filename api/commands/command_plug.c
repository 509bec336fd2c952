/* Handlers of vm-attach-disk and vm-detach-device. */
#include "api/commands/command.h"
#include "api/vm/vm_plug.h"

void command_vm_attach_disk(struct call *c)
{
	vm_plug_attach(c);
}

void command_vm_detach_device(struct call *c)
{
	vm_plug_detach(c);
}
