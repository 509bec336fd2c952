/* vm_plug: disks that are attached to a running VM, by disk_change.h, and disks and interfaces that are detached from
 * it. The definition that the VM runs with (vm_live()) is stored without a device after the process has lost it. If a
 * daemon misses that, it finds out later, when it compares the definition with the devices that the process reports
 * (disk_change_compare(), vm_interfaces_compare()).
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_PLUG_H
#define CAIRN_API_VM_VM_PLUG_H

struct call;
struct vm;
struct vm_event;

/* Attach the disk `args.disk` (a disk of a definition) to the VM that runs, and answer the call. */
void vm_plug_attach(struct call *c);
/* Ask the guest to release the device `args.device`. Answer the call when the device is removed, or with the error. */
void vm_plug_detach(struct call *c);
/* Ask the guest to release the device `id`, and answer the call when the guest is asked. */
void vm_plug_ask(struct call *c, const char *id);

/* The process reports that a device is removed, or that the guest refuses to release it. */
void vm_plug_event(struct vm *vm, const struct vm_event *ev);

#endif
