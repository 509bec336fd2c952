/* vm_compat: VM processes that an older version of Cairn started and that speak an older message version
 * (vmm/vm_msg.h). The daemon manages them with the requests and fields that they know, and refuses other requests.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_COMPAT_H
#define CAIRN_API_VM_VM_COMPAT_H

#include "api/vm/vm_process.h"

#include <stdbool.h>
#include <stddef.h>

struct err;
struct vm;
struct vm_host;

/* Return whether the VM's process speaks an older message version. */
bool vm_compat_is_old(const struct vm *vm);
/* Let a thread find out which build the program of VM processes is now, at most once a second: its file system may
 * hang. */
void vm_compat_look(struct vm_host *host);
/* Return whether the VM's process runs another build of the program than a VM that starts now, as far as the last look
 * has shown. Begins the next look. */
bool vm_compat_is_outdated(const struct vm *vm);
/* Check that the VM has no process of an older version, for work that such a process cannot do.
 * Returns 0; -ENOTSUP with an error that names the VM and the remedy. */
int vm_compat_check(const struct vm *vm, struct err *e);

/* Check that the VM has a process that a change can be made in (vm_live_check()), and that knows this. In vm.c, so
 * that vm_process.c does not call its caller.
 * Returns 0; -EPERM or -ENOTSUP with an error. */
int vm_compat_check_live(const struct vm *vm, enum vm_known what, struct err *e);
/* Set the error for a request that an older VM process lacks. Returns -ENOTSUP. */
int vm_compat_refuse(const char *vm_name, struct err *e);
/* Shorten a request's body to the length that a process of that version accepts. len: in: the body's length; out: the
 * length to send.
 * Returns false if that version lacks the request. */
bool vm_compat_fit(unsigned version, enum vm_msg_type type, size_t *len);

#endif
