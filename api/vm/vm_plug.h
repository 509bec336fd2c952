/* vm_plug: disks that are attached to a running VM, and detached from it. The definition that the VM runs with
 * (vm_live()) is stored with a disk before the VM's process gets it, and without it after the process has lost it. A
 * daemon that starts in between compares it with what the process reports (vm_plug_adopted()), so no disk is in use
 * without being known.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_PLUG_H
#define CAIRN_API_VM_VM_PLUG_H

#include <stdint.h>

struct call;
struct err;
struct rights;
struct vm;
struct vm_event;
struct vm_info;

/* Attach the disk `args.disk` (a disk of a definition) to the VM that runs, and answer the call. */
void vm_plug_attach(struct call *c);
/* Ask the guest to release the device `args.device`, and answer the call when the device is gone, or with the reason
 * why it is not. */
void vm_plug_detach(struct call *c);

/* The process reports that a device is gone, or that the guest refuses to release it. */
void vm_plug_event(struct vm *vm, const struct vm_event *ev);
/* The process has ended: answer the calls that wait for it. */
void vm_plug_gone(struct vm *vm);
/* An adopted process reports its disks: remove those from the running definition that the process does not have. */
void vm_plug_adopted(struct vm *vm, const struct vm_info *info);

#endif
