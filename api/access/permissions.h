/* permissions: who may do what, beyond root and the daemon's own user, who may everything. A
 * table of users and groups (by number) with a role, for all VMs or for one. What is not in it
 * is denied. Kept in permissions.json. */
#ifndef CAIRN_API_ACCESS_PERMISSIONS_H
#define CAIRN_API_ACCESS_PERMISSIONS_H

#include "api/schema/schema.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct json_object;

#define PERMISSIONS_MAX 4096
#define PERMISSIONS_FILE "permissions.json"

struct permission {
	bool is_group;
	uid_t id;
	enum role role;
	char *vm; /* by name; NULL: all */
};

struct permissions {
	struct permission *list; /* owned */
	size_t n;
};

/* Who asks, as the kernel says. */
struct peer {
	uid_t uid;
	gid_t gid;
	const gid_t *groups; /* further ones */
	size_t ngroups;
};

void permissions_done(struct permissions *p);
/* The highest that any entry gives. vm: for that one; NULL: for all of them. */
enum role permissions_role(const struct permissions *p, const struct peer *who, const char *vm);
/* Is there any entry for them, of whatever VM? */
bool permissions_know(const struct permissions *p, const struct peer *who);
/* Does everybody who was let in to VM a for itself see VM b too? Then b may be named there. */
bool permissions_seen_together(const struct permissions *p, const char *a, const char *b);
/* Replaces what they had for the same VM(s). role ROLE_NONE: takes it away.
 * Returns 0; -ENOENT when there was nothing to take; -ENOSPC; -ENOMEM. */
int permissions_set(struct permissions *p, bool is_group, uid_t id, const char *vm, enum role role);
/* The VM is no more: a later one of that name is another's. Returns true when that changed it. */
bool permissions_forget_vm(struct permissions *p, const char *vm);
/* The same of each VM that is not there any more. */
bool permissions_prune(struct permissions *p, bool (*there)(void *opaque, const char *vm), void *opaque);

/* It has another name now. */
void permissions_rename_vm(struct permissions *p, const char *old, const char *name);

/* [{user or group, role, vm}]; the caller puts it. */
struct json_object *permissions_to_json(const struct permissions *p);
/* Entries that make no sense are left out. */
void permissions_load(struct permissions *p, struct json_object *list);
/* ROLE_NONE for a word that is none. "owner" is admin of one VM. */
enum role permissions_role_from_word(const char *word, bool of_vm);

#endif
