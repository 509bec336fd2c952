/* identity: what an interface keeps and others may not have: its MAC address and its PCI slot; and forwards, which a
 * clone does not take from its source. Threading: the daemon's loop. */
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
 * Returns 0; -EEXIST: another VM has one of the addresses, and the error names that VM if all users who may view
 * `def` may also view it; -EIO: no random bytes. */
int identity_complete(struct vm_host *host, struct definition *def, const struct vm *old, struct err *e);
/* Let each interface stay in the slot of the PCI bus that the interface with the same id has in `old`: Linux names
 * interfaces by their slots. def, old: of one VM; both have their machine version. */
void identity_keep_slots(struct definition *def, const struct definition *old);
/* Let an interface that the running VM has, and whose slot was noted, keep it at the next start. */
void identity_take_slots(struct definition *def, const struct definition *live);
/* Replace each MAC address in `def` that `other` has, too, by a generated one. No VM has either definition yet. Returns
 * 0; -EIO: no random bytes. */
int identity_differ(struct vm_host *host, struct definition *def, const struct definition *other, struct err *e);

/* Remove the forwards and the path of the vsock device from a definition in JSON. A port or a socket of the host leads
 * to one VM, so clones get none. */
void identity_drop_forwards(struct json_object *o);
/* Add the forwards that the clones of `source` do not get to the job's result, as "forwards-left-out". */
void identity_put_forwards(const struct definition *source, struct json_object *result);

#endif
