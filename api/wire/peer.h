/* peer: types for the client of a connection: user, role and QMP dialect. */
#ifndef CAIRN_API_WIRE_PEER_H
#define CAIRN_API_WIRE_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <unistd.h>

/* QMP dialect of a socket: the daemon's, or QEMU's on a VM's own socket. */
enum dialect { DIALECT_DAEMON, DIALECT_QEMU };

/* In rising order: each role includes the rights of the roles before it, except those of ROLE_CREATOR.
 * ROLE_CREATOR: may define VMs and owns these, but sees no other VM. A user may have it beside another role for all
 * VMs, so functions that return a user's role never return it; ask permissions_creates().
 * ROLE_GUEST: a viewer who may also run commands inside the guest. */
enum role { ROLE_NONE, ROLE_CREATOR, ROLE_VIEWER, ROLE_GUEST, ROLE_OPERATOR, ROLE_ADMIN };

/* A client's user, as the kernel reports it. */
struct peer {
	uid_t uid;
	gid_t gid;
	const gid_t *groups; /* supplementary groups */
	size_t ngroups;
};

/* Return whether this is root or the daemon's own user, whom no role and no limit binds. */
static inline bool uid_is_root_or_own(uid_t uid)
{
	return uid == 0 || uid == geteuid();
}

static inline bool peer_is_in_group(const struct peer *who, gid_t group)
{
	for (size_t i = 0; i < who->ngroups; i++)
		if (who->groups[i] == group)
			return true;
	return who->gid == group;
}

#endif
