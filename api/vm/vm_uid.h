/* vm_uid: the user ids of VMs' processes, each VM with one of its own from the range of cairnd --uid-range, so that the
 * kernel itself keeps a process that escaped its sandbox from other VMs' processes and from root's files.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_UID_H
#define CAIRN_API_VM_VM_UID_H

#include <stdint.h>
#include <sys/types.h>

struct err;
struct vm;
struct vm_host;

/* Set vm->uid for a process of the VM that is about to be spawned: the same as before, if no other VM and no process on
 * the host but the VM's own has it. 0: the daemon's user, as there is no range.
 * Returns 0; -EAGAIN: all ids of the range are in use. */
int vm_uid_choose(struct vm *vm, struct err *e);
/* The same for a process of a VM that may not exist yet.
 * vm: NULL: none. *uid: the id before; gets the chosen one. */
int vm_uid_find(const struct vm_host *host, const uint8_t uuid[16], const struct vm *vm, uid_t *uid, struct err *e);

#endif
