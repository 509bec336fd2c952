/* identity: what may be only once among the VMs of a daemon beside name and uuid: the MAC addresses
 * of their interfaces, and forwards to them. */
#ifndef CAIRN_API_VM_IDENTITY_H
#define CAIRN_API_VM_IDENTITY_H

struct definition;
struct err;
struct json_object;
struct vm;
struct vm_host;

/* Gives each interface without an address that of old's with the same id, or a new one; old may be
 * NULL. Returns 0; -EEXIST: an address is another VM's, which the sentence names. */
int identity_complete(struct vm_host *host, struct definition *def, const struct vm *old, struct err *e);
/* Of two that are both new: each address of def's that `other` has, too, becomes a new one. Returns 0; -EIO. */
int identity_differ(struct vm_host *host, struct definition *def, const struct definition *other, struct err *e);

/* A port of this host's leads to one VM: clones of a VM have none of its forwards. Out of its JSON. */
void identity_drop_forwards(struct json_object *o);
/* Those that its clones have not, as "forwards-left-out" into the result of cloning it. */
void identity_tell_forwards(const struct definition *source, struct json_object *result);

#endif
