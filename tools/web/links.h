/* links: connections to the daemon and to guests: by this process, or by the delegate of a user who has logged in. Any
 * thread. */
#ifndef CAIRN_TOOLS_WEB_LINKS_H
#define CAIRN_TOOLS_WEB_LINKS_H

#include "tools/delegate/link.h"

struct client;

/* The user who connects. */
struct links {
	const char *daemon; /* its socket */
	int delegate;	    /* -1: this process; borrowed */
};

/* Connect, as link_connect() does. */
int links_open(const struct links *l, enum link_kind kind, const char *vm, int *ret_fd, struct err *e);
/* Connect to the daemon, and negotiate. Returns as client_connect(). */
int links_client(const struct links *l, struct client **ret_c, struct err *e);

#endif
