/* rights: the ids with which the daemon opens the files of a VM. They are those of the VM's definer, who is the user
 * who first defined it, and of the other authors of its definition (authors.h). Stored in the definition file as
 * "definer". The groups are those of the client's process at that time; groups_ask() (groups.h) has those that the
 * user is in now. */
#ifndef CAIRN_API_ACCESS_RIGHTS_H
#define CAIRN_API_ACCESS_RIGHTS_H

#include <stdbool.h>
#include <sys/types.h>

struct err;
struct json_object;
struct peer;

#define RIGHTS_KEY "definer"
#define RIGHTS_GROUPS_MAX 65536 /* the kernel's NGROUPS_MAX */

struct rights {
	uid_t uid;
	gid_t gid;
	size_t ngroups;
	gid_t groups[]; /* supplementary groups */
};

/* Return rights with room for so many groups, owned by the caller; NULL: no memory. */
struct rights *rights_new(uid_t uid, gid_t gid, size_t ngroups);

/* Get the rights of a client. *ret: owned, free with free(); NULL for root and the daemon's own user, whose files the
 * daemon opens with its own rights. Returns 0; -EPERM: the daemon is not root and cannot change its ids; -ENOMEM. */
int rights_of_peer(const struct peer *who, struct rights **ret, struct err *e);

/* Return a client's ids, owned by the caller; NULL: no memory. */
struct rights *rights_of_ids(const struct peer *who);
/* The same without the groups, for those who ask for them later (groups.h). */
struct rights *rights_of_user(const struct peer *who);
/* Return the ids as a peer that borrows the groups of r. */
struct peer rights_peer(const struct rights *r);

/* Copy rights. *ret: owned; NULL for NULL. Returns 0; -ENOMEM. */
int rights_copy(const struct rights *r, struct rights **ret);

/* Return whether all ids are the same. NULL allowed. */
bool rights_are_same(const struct rights *a, const struct rights *b);

/* Return the user id. r: NULL: the daemon's own. */
uid_t rights_uid(const struct rights *r);

/* Return {"user", "group", "groups"}, owned by the caller. */
struct json_object *rights_to_json(const struct rights *r);
/* Parse that object. *ret: owned. Returns 0; -EINVAL: it is malformed, or the user is root; -ENOMEM. */
int rights_parse(struct json_object *o, struct rights **ret, struct err *e);
/* Add "definer" to a definition that is about to be stored. */
void rights_put(struct json_object *definition, const struct rights *r);
/* Parse "definer" in a stored definition, and remove it there. *ret: owned; NULL if there was none.
 * Returns 0; -EINVAL: it is malformed; -ENOMEM. */
int rights_take(struct json_object *definition, struct rights **ret, struct err *e);

/* Change the ids of the calling process, which must have only one thread, permanently; also make it undumpable and set
 * no_new_privs. Takes no lock, so a forked process may call it. Returns 0 or -errno. */
int rights_assume(const struct rights *r);

/* The same for a process that is about to execute a program. execve() makes a process dumpable again if its real and
 * its effective user id are equal, and then the user could take its fds. So the real one stays root's until the
 * program calls program_begin() (base/program.h), which also sets no_new_privs: with it set, execve() would turn the
 * effective id into the real one. with_groups: with the supplementary groups. Returns 0 or -errno. */
int rights_assume_for_exec(const struct rights *r, bool with_groups);

#endif
