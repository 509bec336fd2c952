/* opener: opens the files of a definition with the rights it was defined with (rights.h). What
 * is the daemon's own is opened at once. For another user a process with that user's ids does
 * it and hands the open files over: a path leads nowhere that user may not go, whatever links
 * are on it and whenever they change; and a file system that does not answer holds up nobody. */
#ifndef CAIRN_API_ACCESS_OPEN_AS_H
#define CAIRN_API_ACCESS_OPEN_AS_H

#include <stdbool.h>

struct config;
struct definition;
struct err;
struct loop;
struct open_as;

enum open_as_what {
	OPEN_AS_ALL,
	OPEN_AS_IMAGES,	    /* no kernel and no initrd */
	OPEN_AS_IMAGES_READ, /* the same, and none for writing */
	OPEN_AS_START,	    /* all, and the sockets of forwards */
	OPEN_AS_FORWARDS,    /* these alone */
};

/* d: borrowed for this call alone.
 * done: exactly once, at once or from the loop. r is 0 and c is the callee's (config_done()), or
 * -errno with a sentence.
 * *ret_o: set when it is not at once; valid until done() begins, or open_as_free(). */
void open_as_open(struct loop *l, const struct definition *d, enum open_as_what what,
	void (*done)(void *opaque, int r, struct config *c, const struct err *e), void *opaque,
	struct open_as **ret_o);
/* Ends it; done() is not called. NULL allowed. */
void open_as_free(struct open_as *o);

#endif
