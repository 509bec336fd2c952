/* disk_doubt: the disk in doubt: the daemon does not know whether the VM's process has it (disk_change.h), in memory
 * and in state.json. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_DISK_DOUBT_H
#define CAIRN_API_VM_DISK_DOUBT_H

struct json_object;
struct vm;
struct err;
struct vm_disk_change;

/* No disk is in doubt, as the process has ended. */
void disk_doubt_clear(struct vm_disk_change *c);
/* Put the disk into the content of state.json. */
void disk_doubt_put(const struct vm_disk_change *c, struct json_object *state);
/* Get the VM's disk from the content of state.json. Returns as vm_load_state(). */
int disk_doubt_load(struct vm *vm, struct json_object *state, struct err *e);

#endif
