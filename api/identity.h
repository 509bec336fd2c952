/* identity: what may be only once among the VMs of a daemon beside name and uuid: the MAC addresses
 * of their interfaces. */
#ifndef CAIRN_API_IDENTITY_H
#define CAIRN_API_IDENTITY_H

struct daemon;
struct definition;
struct err;
struct vm;

/* Gives each interface without an address that of old's with the same id, or a new one; old may be
 * NULL. Returns 0; -EEXIST: an address is another VM's, which the sentence names. */
int identity_complete(struct daemon *d, struct definition *def, const struct vm *old, struct err *e);

#endif
