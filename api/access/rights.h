/* rights: with whose rights the files of a definition are opened: those of whoever defined the
 * VM last, as they were then. Kept beside the definition, as "definer". */
#ifndef CAIRN_API_ACCESS_RIGHTS_H
#define CAIRN_API_ACCESS_RIGHTS_H

#include <stddef.h>
#include <sys/types.h>

struct err;
struct json_object;
struct peer;

#define RIGHTS_GROUPS_MAX 65536 /* the kernel's NGROUPS_MAX */

struct rights {
	uid_t uid;
	gid_t gid;
	size_t ngroups;
	gid_t groups[]; /* further ones */
};

/* *ret: owned (free()); NULL: the daemon's own rights, which are those of root and of the
 * daemon's user. Returns 0; -EPERM: the daemon is not root, and can be nobody else; -ENOMEM. */
int rights_of_peer(const struct peer *who, struct rights **ret, struct err *e);

/* *ret: owned; NULL of NULL. Returns 0 or -ENOMEM. */
int rights_copy(const struct rights *r, struct rights **ret);

/* Into a definition that is to be kept, as "definer". */
void rights_put(struct json_object *definition, const struct rights *r);
/* Takes "definer" out of a kept definition. *ret as above; NULL when there was none.
 * Returns 0; -EINVAL: it makes no sense; -ENOMEM. */
int rights_take(struct json_object *definition, struct rights **ret, struct err *e);

/* Become that user, for good: of a process that does nothing else. No lock is taken.
 * Returns 0 or -errno. */
int rights_assume(const struct rights *r);

#endif
