/* permissions: a table that gives users and groups (by number) a role, for all VMs or for one. Without an entry, root
 * and the daemon's own user may do everything, members of the socket's group (api/wire/listen.h) are operators, and all
 * others have no role (api/wire/conn.c). Stored in permissions.json.
 *
 * The role creator has an entry of its own, beside that of another role for all VMs. A creator gets an entry as owner
 * for each VM that the creator makes (api/vm/owner_claim.h): it is reserved before the VM's definition is checked, and
 * stored before the definition.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_PERMISSIONS_H
#define CAIRN_API_ACCESS_PERMISSIONS_H

#include "api/wire/peer.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct json_object;
struct loop;
struct permissions_writer;
struct store;
struct store_work;

#define PERMISSIONS_MAX 4096
/* Entries that a creator got for VMs, and those of all creators: the rest is for entries that admins give. */
#define PERMISSIONS_CREATOR_MAX 256
#define PERMISSIONS_CREATED_MAX 2048
#define PERMISSIONS_FILE "permissions.json"

/* The giver of a role, and the time. */
struct permission_origin {
	int64_t since_ns; /* realtime; 0: not known, because an older Cairn stored the entry */
	uid_t by;	  /* (uid_t)-1: not known */
};

struct permission {
	bool is_group;
	uid_t id;
	bool made; /* the user, a creator, made the VM, and no admin has given a role for it since */
	enum role role; /* in effect */
	enum role promised; /* in effect once the table is stored; equal to role while promises is 0 */
	unsigned promises; /* roles that are being stored */
	uint64_t serial;   /* of the entry; ascending in the list; a later entry for the same user and VM has another one */
	struct permission_origin origin, promised_origin; /* of `role` and of `promised` */
	int64_t used_ns; /* realtime of the last command that the role allowed; 0: none */
	char *vm; /* name of the VM; NULL: all VMs */
	/* The VM. All zero: an older Cairn stored the name only, and permissions_find_vms() was not called yet. Such an
	 * entry gives no role. */
	uint8_t uuid[16];
};

/* The VM of an entry. */
struct permission_vm {
	const char *name;
	const uint8_t *uuid; /* NULL: the VM does not exist, and the entry is found by its name */
};

struct permissions {
	uint64_t serial; /* of the newest entry */
	int64_t uses_since_ns; /* uses are recorded since this time; 0: not yet */
	bool uses_unsaved;     /* a use, or uses_since_ns, is not stored yet */
	bool finished;	       /* the daemon ends: permissions_store() without a waiter does nothing */
	struct permission *list; /* owned array */
	size_t n;
	/* Called by permissions_store(). NULL: not wanted. */
	void (*changed)(void *opaque);
	void *opaque;
	struct permissions_writer *writer; /* owned; stores the table when nobody waits; NULL: not used yet */
};

/* Free the table's entries, and clear *p. */
void permissions_done(struct permissions *p);
/* Return the highest role that the entries give to `who`. uuid: for this VM; NULL: for all VMs. */
enum role permissions_role(const struct permissions *p, const struct peer *who, const uint8_t *uuid);
/* Return whether an entry gives `who` the role creator. */
bool permissions_creates(const struct permissions *p, const struct peer *who);
/* List the users (or the groups) to whom the entries give at least this role for a VM; an id may come twice.
 * ids: PERMISSIONS_MAX. Returns their number. */
size_t permissions_ids(const struct permissions *p, const uint8_t uuid[16], enum role role, bool groups, uint32_t *ids);
/* Return whether any entry names the user or one of the groups. */
bool permissions_know(const struct permissions *p, const struct peer *who);
/* Return a number that changes when the roles of the user and the groups change. */
uint64_t permissions_mark(const struct permissions *p, const struct peer *who);
/* Whether every user or group with an entry for VM a also has one for VM b or for all VMs, so that a text about a may
 * name b. */
bool permissions_seen_together(const struct permissions *p, const uint8_t a[16], const uint8_t b[16]);
/* Set the role of a user or group for a VM, or for all (vm is NULL), replacing the old one. ROLE_CREATOR (vm is NULL)
 * leaves another role for all VMs as it is.
 * Returns 0; -ENOSPC: the table is full; -ENOMEM. */
int permissions_set(struct permissions *p, bool is_group, uid_t id, const struct permission_vm *vm, enum role role);
/* Remove the role of a user or group for a VM, or for all VMs. only: only this role; ROLE_NONE: any, and for all VMs
 * also ROLE_CREATOR. Returns 0; -ENOENT: there is none. */
int permissions_remove(struct permissions *p, bool is_group, uid_t id, const struct permission_vm *vm, enum role only);
/* As permissions_set(), but the additional rights of the new role take effect only
 * after permissions_promise_end(). Until then, the entry is stored with the new role.
 * from: a role that the entry has already keeps its origin.
 * ret_serial: the entry's. Returns 0; -ENOSPC; -ENOMEM. */
int permissions_promise(struct permissions *p, bool is_group, uid_t id, const struct permission_vm *vm, enum role role,
	const struct permission_origin *from, uint64_t *ret_serial);
/* End a promise. stored: the table is on stable storage; false: the old role stays, and the table has to be stored
 * again. Does nothing if the entry was removed meanwhile. */
void permissions_promise_end(struct permissions *p, uint64_t serial, enum role role, bool stored);

/* Reserve the entry of the owner of a VM that a creator is going to make. It gives no role and is not stored yet.
 * permissions_promise_end() with ROLE_ADMIN ends the reservation.
 * Returns 0; -EDQUOT: the user has PERMISSIONS_CREATOR_MAX of them; -ENOSPC: the table is full, or creators have
 * PERMISSIONS_CREATED_MAX of them; -ENOMEM. */
int permissions_reserve(struct permissions *p, uid_t uid, const struct permission_vm *vm, uint64_t *ret_serial);
/* Let a reserved entry be stored with the role owner, which takes effect with permissions_promise_end(). */
void permissions_promise_reserved(struct permissions *p, uint64_t serial, const struct permission_origin *from);

/* Remove all entries for a VM that was undefined. Returns whether there were any. */
bool permissions_remove_vm(struct permissions *p, const uint8_t uuid[16]);
/* Remove the entries of all VMs for which there() is false. Returns whether there were any. */
bool permissions_prune(struct permissions *p, bool (*there)(void *opaque, const struct permission *e), void *opaque);
/* Set the uuids of entries that an older Cairn stored with the name only. find: returns the uuid of the VM of that
 * name; NULL: there is none, or it was not loaded. Returns whether any were set. */
bool permissions_find_vms(struct permissions *p, const uint8_t *(*find)(void *opaque, const char *name), void *opaque);

/* The VM `uuid` is called `name` now, and no entry is for `left` any more.
 * roles: the entries for the VM `old`, by permissions_of_vm(); NULL: as for `uuid`. */
void permissions_promote(struct permissions *p, const uint8_t uuid[16], const char *name, const uint8_t left[16], const uint8_t old[16],
	const char *old_name, struct json_object *roles);
/* Change a VM's name in all entries. */
void permissions_rename_vm(struct permissions *p, const char *old, const char *name);

/* Note that a command was allowed: the entries for the user that give at least this role for the VM are in use.
 * role: ROLE_CREATOR: only the entries that give this role.
 * uuid: NULL: the command needs the role for all VMs. lists: the command lists what the user may see; this also uses
 * the user's entries with the role viewer for one VM.
 * Stores the table at most once an hour; permissions_finish() stores the rest. */
void permissions_note_use(struct permissions *p, struct loop *l, struct store *s, const struct peer *who, const uint8_t *uuid,
	enum role role, bool lists);
/* Store the uses that are not stored yet, at the daemon's end, and no later changes. */
void permissions_finish(struct permissions *p, struct store *s);
/* Return for how many ns the entry was not used, at most since it was given and since uses are recorded. */
int64_t permission_unused_ns(const struct permissions *p, const struct permission *e, int64_t now_ns);
/* Return whether the entry is for the user or one of the user's groups. */
bool permission_is_about(const struct permission *e, const struct peer *who);

/* Return {user or group, role, vm, vm-uuid}, owned by the caller; NULL: the entry gives no role. */
struct json_object *permission_to_json(const struct permission *e);
/* The same with since, by, last-used and unused, as far as known. */
struct json_object *permission_to_review(const struct permissions *p, const struct permission *e, int64_t now_ns);
/* Return the entries for one VM as they are in PERMISSIONS_FILE, owned by the caller. */
struct json_object *permissions_of_vm(const struct permissions *p, const uint8_t uuid[16]);
/* Return the content of PERMISSIONS_FILE, owned by the caller, with the roles that are in effect once it is stored. */
struct json_object *permissions_to_file(const struct permissions *p);
/* Load entries; invalid ones are skipped. */
void permissions_load(struct permissions *p, struct json_object *list);
/* Load the content of PERMISSIONS_FILE into an empty table. file: NULL: there is none. Returns 0; -EINVAL: an entry is
 * invalid; -ENOTSUP: an entry has a role that a newer Cairn may know. On errors the table is empty. */
int permissions_load_file(struct permissions *p, struct json_object *file, struct err *e);
/* Return the role for a word; ROLE_NONE if there is none. of_vm: the role is for one VM; then the word for ROLE_ADMIN
 * is "owner", not "admin". */
enum role permissions_role_from_word(const char *word, bool of_vm);

/* Store the table and call changed(). To be called after each change of the table. w: done once the file is on stable
 * storage; the caller then repeats a failed write with permissions_store(…, NULL). NULL: nobody waits, and a write that
 * fails is repeated until one succeeds. */
void permissions_store(struct permissions *p, struct loop *l, struct store *s, struct store_work *w);

#endif
