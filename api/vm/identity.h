/* identity: properties besides name and uuid that no two VMs of a daemon may share: MAC addresses and forwards. */
#ifndef CAIRN_API_VM_IDENTITY_H
#define CAIRN_API_VM_IDENTITY_H

struct definition;
struct err;
struct json_object;
struct vm;
struct vm_host;

/* Give each interface without a MAC address the address that the interface with the same id has in `old`, or else a
 * generated one.
 * old: the VM that is redefined; NULL: none.
 * Returns 0; -EEXIST: another VM has one of the addresses; the error names it if the users of `def` may see it;
 * -EIO. */
int identity_complete(struct vm_host *host, struct definition *def, const struct vm *old, struct err *e);
/* Replace each MAC address in `def` that `other` has too. Both definitions are new. Returns 0; -EIO. */
int identity_differ(struct vm_host *host, struct definition *def, const struct definition *other, struct err *e);

/* Remove the forwards from a definition in JSON. A port of the host leads to one VM, so clones get no forwards. */
void identity_drop_forwards(struct json_object *o);
/* Add the forwards that the clones of `source` do not get to the job's result, as "forwards-left-out". */
void identity_tell_forwards(const struct definition *source, struct json_object *result);

#endif
