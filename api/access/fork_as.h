/* errand: something done with files by a short-lived process that has somebody's rights (rights.h), so
 * that a path leads nowhere that this user may not go, whatever links are on it and whenever they
 * change; and a file system that does not answer, or a large file that takes its time to go, holds up
 * nobody. */
#ifndef CAIRN_API_ACCESS_FORK_AS_H
#define CAIRN_API_ACCESS_FORK_AS_H

#include "base/channel.h"

#include <stdint.h>

struct err;
struct fork_as;
struct loop;
struct rights;

#define FORK_AS_NO_TIMEOUT UINT64_MAX

/* What run() leaves, also when it fails. */
struct fork_as_result {
	int fds[CHANNEL_FDS_MAX]; /* the callee's then; none come when it fails */
	unsigned nfds;
	unsigned count; /* run()'s own; so are the notes */
	uint8_t notes[CHANNEL_FDS_MAX];
};

struct fork_as_spec {
	const struct rights *rights; /* NULL: the daemon's own. Borrowed for the call alone */
	/* In the process, which has a copy of the daemon's memory, and none of its threads and files: system
	 * calls, and no lock. Returns 0, or -errno with a sentence. */
	int (*run)(const void *arg, struct fork_as_result *out, struct err *e);
	const void *arg; /* borrowed for the call alone */
	const char *what; /* "opening its files": for sentences; static */
	uint64_t timeout_ns;
	/* From the loop, once; not after fork_as_free(). */
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e);
	void *opaque;
};

/* *ret: valid until done() begins, or fork_as_free(). Returns 0; -errno: done() is not called. */
int fork_as_begin(struct loop *l, const struct fork_as_spec *s, struct fork_as **ret, struct err *e);
/* It ends early, and done() says so. NULL allowed. */
void fork_as_kill(struct fork_as *x);
/* Ends its process, and what that has started, without a word. NULL allowed. */
void fork_as_free(struct fork_as *x);

#endif
