/* jail: starts dnsmasq in namespaces of its own, as another user, with three capabilities. */
#ifndef CAIRN_TOOLS_NET_JAIL_H
#define CAIRN_TOOLS_NET_JAIL_H

#include "tools/net/link.h"
#include "tools/net/rules.h"

#include <sys/types.h>

struct jail {
	const struct network *net; /* borrowed */
	const struct service *service; /* borrowed */
	const char *folder; /* becomes SERVICE_FOLDER; borrowed */
	const char *program; /* its path; borrowed */
	uid_t uid;
	gid_t gid;
	int netns; /* of an earlier dnsmasq; -1: a new one */
	struct links *links; /* of the host, for a new namespace's veth; borrowed */
	int bridge; /* index */
};

/* Start it, and wait until it serves.
 * ret: its process id. It is no child of this process.
 * Returns 0; -errno with a sentence; then no process remains. */
int jail_start(const struct jail *j, pid_t *ret, struct err *e);

#endif
