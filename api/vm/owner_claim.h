/* owner_claim: makes a creator (the role creator, api/access/permissions.h) the owner of the VMs that the creator
 * makes. A claim reserves an entry of the table of permissions for each VM before the VM's definition is checked, so
 * that errors reveal no other VM. The entries are stored before the VMs are kept. If the daemon is killed in between,
 * the next one removes the entries of VMs that do not exist.
 *
 * The UUID of such a VM is always a new one: events, jobs and entries of an earlier VM belong to its UUID.
 *
 * An admin for all VMs gets no entries: the claim is NULL, which all functions accept, and they do nothing.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_OWNER_CLAIM_H
#define CAIRN_API_VM_OWNER_CLAIM_H

#include <stdbool.h>
#include <stdint.h>

struct call;
struct definition;
struct err;
struct owner_claim;
struct vm;
struct vm_host;

/* Return whether the call's user may make VMs only as a creator. */
bool creator_is(const struct call *c);
/* Check that the call's user is an admin for all VMs or a creator, and note the use of the role creator.
 * c: NULL: the daemon itself acts. Returns 0; -EPERM. */
int creator_check(const struct call *c, struct err *e);
/* The same for a copy of a VM. A copy keeps the authors of its source (api/access/authors.h), so a creator may copy
 * only a VM whose parts are all the creator's own. Returns 0; -EPERM. */
int creator_check_copy(const struct call *c, const struct vm *source, struct err *e);

/* Refuse a name for a creator who may not see its VM. Returns -EEXIST. */
int creator_name_taken(const struct vm *vm, struct err *e);

/* Refuse a UUID that a creator has chosen. Returns -EINVAL. */
int creator_uuid_chosen(struct err *e);

/* Begin a claim for the call's user. Returns an empty claim, owned by the caller; NULL: the user is no creator, or an
 * admin for all VMs. */
struct owner_claim *owner_claim_new(const struct call *c);
/* Reserve the entry of a VM. The definition has its name, and a new UUID.
 * Returns 0; -EEXIST: the name's folder has files of a VM that was not loaded; -EDQUOT, -ENOSPC: too many entries;
 * -ENOMEM. */
int owner_claim_add(struct owner_claim *o, const struct definition *def, struct err *e);
/* Store the entries. done: called once, from the loop, unless the claim is freed before. r: 0; -errno: the claim
 * must be freed, and its VMs removed. */
void owner_claim_store(struct owner_claim *o, void (*done)(void *opaque, int r, const struct err *e), void *opaque);
/* Let the user own a VM that is in the registry now. owner_claim_store() was called. */
void owner_claim_give(struct owner_claim *o, const uint8_t uuid[16]);
/* End the claim: remove the entries of VMs that were not given. */
void owner_claim_free(struct owner_claim *o);

#endif
