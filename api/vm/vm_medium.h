/* vm_medium: changes the medium of a CD drive of a running VM, by disk_change.h. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_MEDIUM_H
#define CAIRN_API_VM_VM_MEDIUM_H

struct call;

/* Give the drive `args.disk` the medium `args.medium` (path, format, data_file and backing, as in a definition), or
 * none, and answer the call. */
void vm_medium_change(struct call *c);

#endif
