/* permissions: a table that gives users and groups (by number) a role, for all VMs or for one. Without an entry, root
 * and the daemon's own user may do everything, members of the socket's group (api/wire/listen.h) are operators, and all
 * others have no role (api/wire/conn.c). Stored in permissions.json.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_PERMISSIONS_H
#define CAIRN_API_ACCESS_PERMISSIONS_H

#include "api/wire/peer.h"

#include <stdbool.h>
#include <sys/types.h>

struct json_object;
struct store;
struct store_work;

#define PERMISSIONS_MAX 4096
#define PERMISSIONS_FILE "permissions.json"

struct permission {
	bool is_group;
	uid_t id;
	enum role role;
	char *vm; /* name; NULL: all VMs */
};

struct permissions {
	struct permission *list; /* owned array */
	size_t n;
	/* Called by permissions_keep(). NULL: not wanted. */
	void (*changed)(void *opaque);
	void *opaque;
};

/* Free the table's entries, and clear *p. */
void permissions_done(struct permissions *p);
/* Return the highest role that the entries give to `who`. vm: for this VM; NULL: for all VMs. */
enum role permissions_role(const struct permissions *p, const struct peer *who, const char *vm);
/* Whether any entry names the user or one of the groups. */
bool permissions_know(const struct permissions *p, const struct peer *who);
/* Whether every user or group with an entry for VM a also has one for VM b or for all VMs, so that a text about a may
 * name b. */
bool permissions_seen_together(const struct permissions *p, const char *a, const char *b);
/* Set the role of a user or group for a VM, or for all (vm is NULL), replacing the old one. ROLE_NONE removes the
 * entry.
 * Returns 0; -ENOENT: no entry to remove; -ENOSPC: the table is full; -ENOMEM. */
int permissions_set(struct permissions *p, bool is_group, uid_t id, const char *vm, enum role role);
/* Remove all entries for a VM that was undefined, so that a later VM of that name does not inherit them.
 * Returns whether there were any. */
bool permissions_forget_vm(struct permissions *p, const char *vm);
/* Remove the entries of all VMs for which there() is false. Returns whether there were any. */
bool permissions_prune(struct permissions *p, bool (*there)(void *opaque, const char *vm), void *opaque);

/* Change a VM's name in all entries. */
void permissions_rename_vm(struct permissions *p, const char *old, const char *name);

/* Return [{user or group, role, vm}], owned by the caller. */
struct json_object *permissions_to_json(const struct permissions *p);
/* Load entries; invalid ones are skipped. */
void permissions_load(struct permissions *p, struct json_object *list);
/* Return the role for a word; ROLE_NONE if there is none. of_vm: the role is for one VM; then the word for ROLE_ADMIN
 * is "owner", not "admin". */
enum role permissions_role_from_word(const char *word, bool of_vm);

/* Store the table and call changed(). To be called after each change of the table. w: done once the file is on stable
 * storage; NULL: nobody waits. */
void permissions_keep(struct permissions *p, struct store *s, struct store_work *w);

#endif
