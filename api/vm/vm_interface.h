/* vm_interface: interfaces of the definition that a VM runs with (vm_live()), which come and go.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_INTERFACE_H
#define CAIRN_API_VM_VM_INTERFACE_H

struct vm;
struct vm_info;

/* Remove an interface that the VM's process does not have from the definition that the VM runs with, and let the
 * observers free its parts on the host. Does nothing if that has no such interface. */
void vm_interface_remove(struct vm *vm, const char *id);
/* Note the slot on the PCI bus of an interface that was attached to the running VM. */
void vm_interface_slot(struct vm *vm, const char *id, unsigned slot);
/* A process reports its interfaces on a new connection, or after a handover: remove those that it does not have. */
void vm_interfaces_compare(struct vm *vm, const struct vm_info *info);

#endif
