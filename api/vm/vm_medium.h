/* vm_medium: changes the medium of a CD drive of a running VM. The definition that the VM runs with (vm_live()) has the
 * new medium before the VM's process gets it, and the old one again if the process refuses it, so no image is in use
 * without being known.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_MEDIUM_H
#define CAIRN_API_VM_VM_MEDIUM_H

struct call;

/* Give the drive `args.disk` the medium `args.medium` (path, format, data_file and backing, as in a definition), or
 * none, and answer the call. */
void vm_medium_change(struct call *c);

#endif
