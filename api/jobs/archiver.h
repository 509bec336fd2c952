/* archiver: a run of cairn-archive (docs/archive.md), which packs a VM's files into one or takes
 * them out: with the rights of the user who asks, and away from the daemon, as it looks at images
 * and at archives. It ends when the daemon does. */
#ifndef CAIRN_API_JOBS_ARCHIVER_H
#define CAIRN_API_JOBS_ARCHIVER_H

#include <stddef.h>
#include <stdint.h>

struct archiver;
struct err;
struct json_object;
struct loop;
struct rights;

/* From the loop. done: once, the last; not after archiver_free(). */
struct archiver_ops {
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	/* An import has all in place but its name: archiver_keep() or archiver_cancel(). o: borrowed. */
	void (*ready)(void *opaque, struct json_object *o);
	/* r: 0 and its result (borrowed), or -errno with a sentence. */
	void (*done)(void *opaque, int r, struct json_object *result, const struct err *e);
};

/* fds[i], borrowed, is number ARCHIVER_FD + i there: what the specification (borrowed) names. */
#define ARCHIVER_FD 4
int archiver_start(struct loop *l, const char *program, const char *verb, struct json_object *spec,
	const int *fds, size_t nfds, const struct rights *rights, const struct archiver_ops *ops,
	void *opaque, struct archiver **ret_a, struct err *e);
void archiver_keep(struct archiver *a);
/* It ends, clearing up unless it takes long, and done() says so. */
void archiver_cancel(struct archiver *a);
/* After done(), or instead of it: the process clears up by itself. NULL allowed. */
void archiver_free(struct archiver *a);

#endif
