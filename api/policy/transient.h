/* transient: VMs that vm-create made, and ephemeral clones. The daemon undefines such a VM when it has ended and no
 * restart is pending; its images stay, but those of an ephemeral one are removed when no other VM uses them. A daemon
 * that finds one off at its start undefines it, too. A managed save keeps the VM until its next end. vm-define without
 * `was` makes the VM persistent. vm-destroy returns when the VM is undefined, if that is possible at once.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_TRANSIENT_H
#define CAIRN_API_POLICY_TRANSIENT_H

struct err;
struct transients;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer transient_observer;

/* Begin to undefine the transient VMs that have ended. Call it when all VMs are loaded. Returns 0; -errno. */
int transients_new(struct vm_host *host, struct transients **ret, struct err *e);
void transients_free(struct transients *t); /* NULL allowed */
/* The start of a new transient VM has failed, so undefine the VM soon. */
void transient_over(struct vm *vm);

#endif
