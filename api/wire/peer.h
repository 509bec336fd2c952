/* peer: types for the client of a connection: user, role and QMP dialect. */
#ifndef CAIRN_API_WIRE_PEER_H
#define CAIRN_API_WIRE_PEER_H

#include <stddef.h>
#include <sys/types.h>

/* QMP dialect of a socket: the daemon's, or QEMU's on a VM's own socket. */
enum dialect { DIALECT_DAEMON, DIALECT_QEMU };

/* In rising order: each role includes the rights of the roles before it. */
enum role { ROLE_NONE, ROLE_VIEWER, ROLE_OPERATOR, ROLE_ADMIN };

/* A client's user, as the kernel reports it. */
struct peer {
	uid_t uid;
	gid_t gid;
	const gid_t *groups; /* supplementary groups */
	size_t ngroups;
};

#endif
