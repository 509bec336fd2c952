/* forwards_check: the forwards of definitions, and conflicts between those of several VMs. Only forwards.c includes it;
 * the public functions are in forwards.h. Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_FORWARDS_CHECK_H
#define CAIRN_API_NET_FORWARDS_CHECK_H

#include "vmm/vm_msg.h"

#include <stdbool.h>

struct definition;
struct definition_forward;
struct err;
struct vm;

/* List the forwards of all interfaces that can have some, in order; borrowed from d. Returns their number. */
unsigned forwards_of(const struct definition *d, const struct definition_forward *ret[CHANNEL_FDS_MAX]);
/* Return whether the VM is saved, and a client of its forwards wakes it. */
bool forwards_sleeps_saved(const struct vm *vm);
/* Check that no other VM has a forward of the definition that the VM starts with. Returns 0; -EBUSY. */
int forwards_check_free(const struct vm *vm, struct err *e);

#endif
