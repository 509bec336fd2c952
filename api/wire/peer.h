/* peer: the other side of a connection: the user, what they may do, and in whose words they speak. */
#ifndef CAIRN_API_WIRE_PEER_H
#define CAIRN_API_WIRE_PEER_H

#include <stddef.h>
#include <sys/types.h>

/* Whose words a socket speaks: the daemon's, or (a VM's own socket) QEMU's. */
enum dialect { DIALECT_DAEMON, DIALECT_QEMU };

/* In rising order: each may do what those before it may. */
enum role { ROLE_NONE, ROLE_VIEWER, ROLE_OPERATOR, ROLE_ADMIN };

/* A client's user, as the kernel reports it. */
struct peer {
	uid_t uid;
	gid_t gid;
	const gid_t *groups; /* supplementary groups */
	size_t ngroups;
};

#endif
