/* Handlers of vm-attach-disk, vm-attach-interface, vm-detach-device, vm-set-vcpus, vm-change-medium,
 * vm-blockjob-* and vm-disk-snapshot. */
#include "api/commands/command.h"
#include "api/net/interface_plug.h"
#include "api/vm/vm_copy.h"
#include "api/vm/vm_layers.h"
#include "api/vm/vm_medium.h"
#include "api/vm/vm_plug.h"
#include "api/vm/vm_vcpus.h"

void command_vm_attach_disk(struct call *c)
{
	vm_plug_attach(c);
}

void command_vm_attach_interface(struct call *c)
{
	interface_plug(c);
}

void command_vm_detach_device(struct call *c)
{
	vm_plug_detach(c);
}

void command_vm_set_vcpus(struct call *c)
{
	vm_vcpus_set(c);
}

void command_vm_change_medium(struct call *c)
{
	vm_medium_change(c);
}

void command_vm_blockjob_pivot(struct call *c)
{
	vm_copy_pivot(c, NULL);
}

void command_vm_blockjob_abort(struct call *c)
{
	vm_copy_abort(c);
}

void command_vm_disk_snapshot(struct call *c)
{
	vm_layers_snapshot(c);
}
