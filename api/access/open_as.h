/* open_as: opens the files of a definition, each with the rights of its author (authors.h). One process for each
 * author, with that user's ids, opens the author's files (fork_as.h) and holds them until the process that needs them
 * takes them (base/relay.h); a thread does it for the daemon's own (file_thread.h). The loop neither opens, receives
 * nor closes them, because a file system may hang. It has only the sockets of forwards.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_OPEN_AS_H
#define CAIRN_API_ACCESS_OPEN_AS_H

#include <sys/types.h>

struct config;
struct definition;
struct err;
struct fork_as_result;
struct helpers;
struct open_as;

enum open_as_what {
	OPEN_AS_ALL,	    /* disks, kernel and initrd */
	OPEN_AS_IMAGES,	    /* disks only */
	OPEN_AS_IMAGES_READ, /* disks only, all read-only */
	/* the disks to which the guest may write, which snapshots and clones need; each other disk, such as a CD, is an
	 * empty file */
	OPEN_AS_WRITTEN,
	OPEN_AS_WRITTEN_READ, /* the same, all read-only */
	OPEN_AS_START,	    /* as OPEN_AS_ALL, with the sockets of vsock and of forwards */
	OPEN_AS_START_HELD,  /* the same without those of forwards: the daemon holds them */
	OPEN_AS_FORWARDS,    /* the sockets of forwards only */
};

/* Open the files of a definition.
 * d:      borrowed for the call.
 * done:   called exactly once, before the call returns or from the loop. r is 0 and done() owns c (config_done()), or r
 *         is -errno and e is set.
 * ret_o:  set if done() was not called yet; valid until done() is called or open_as_free(). */
void open_as_open(struct helpers *h, const struct definition *d, enum open_as_what what,
	void (*done)(void *opaque, int r, struct config *c, const struct err *e), void *opaque,
	struct open_as **ret_o);
/* Check the files of a definition in one process for each author, which opens and closes the author's files. If the
 * daemon itself is the author of all, a process only looks at them. None of the files enters the daemon.
 * d:      borrowed for the call.
 * old:    likewise; the definition that d replaces, or NULL. Files that it gives the guest in the same way, from the
 *         same author, are not checked: a CD that was deleted hinders no other change.
 * client: the user who sent the definition, and whose rights in it have the groups of the client's process; 0: none.
 * done:   fork_as_spec's; res is empty.
 * Returns 0; -errno, and then done() is not called. */
int open_as_check(struct helpers *h, const struct definition *d, const struct definition *old, uid_t client,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct err *e);
/* Stop opening the files and free o; done() is not called. NULL allowed. */
void open_as_free(struct open_as *o);

#endif
