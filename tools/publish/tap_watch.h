/* tap_watch: reports when a VM's tap is removed. The VM has ended then, even if no daemon runs that could report it. */
#ifndef CAIRN_TOOLS_PUBLISH_TAP_WATCH_H
#define CAIRN_TOOLS_PUBLISH_TAP_WATCH_H

#include <net/if.h>
#include <stdbool.h>

struct tap_watch {
	int fd;	     /* rtnetlink; readable: call tap_is_gone() */
	int sock;    /* any socket, for ioctl() */
	char name[IFNAMSIZ]; /* empty: none yet */
	int index; /* the link's; another link may get its name */
};

/* Open the sockets, before the sandbox. Returns 0 or -errno. */
int tap_watch_init(struct tap_watch *w);
/* Watch the tap of that name. Returns false if there is none. */
bool tap_watch_begin(struct tap_watch *w, const char *name);
bool tap_is_gone(struct tap_watch *w);

#endif
