/* interface_plug: attaches an interface to a VM that runs. Its tap or its cairn-slirp is made as at a start, by the
 * rules of the interface's author. The definition that the VM runs with (vm_live()) is stored with the interface before
 * the VM's process gets it; a daemon that starts in between removes the interface again, because the process does not
 * report it (vm_interfaces_compare()). Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_INTERFACE_PLUG_H
#define CAIRN_API_NET_INTERFACE_PLUG_H

struct call;

/* Attach the interface `args.interface` (as in a definition) to the VM that runs, and answer the call. */
void interface_plug(struct call *c);

#endif
