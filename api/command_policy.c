/* Handlers: when VMs come up and go down by themselves. */
#include "api/command.h"
#include "api/autostart.h"
#include "api/daemon.h"
#include "api/js.h"
#include "api/vm.h"
#include "base/err.h"

void command_vm_autostart(struct call *c)
{
	struct err e;

	if (autostart_set(c->vm, !js_get_bool(c->args, "disable", false), &e) < 0)
		call_fail(c, &e);
	else
		call_return(c, NULL);
}
