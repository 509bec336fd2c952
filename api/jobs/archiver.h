/* archiver: a run of cairn-archive (docs/archive.md), which packs a VM's files into an archive or unpacks them. It
 * parses images and archives, so it is a process of its own with the rights of the requesting user. It ends with the
 * daemon. */
#ifndef CAIRN_API_JOBS_ARCHIVER_H
#define CAIRN_API_JOBS_ARCHIVER_H

#include <stddef.h>
#include <stdint.h>

struct archiver;
struct err;
struct json_object;
struct loop;
struct rights;

/* Callbacks on the loop. done() is called once, as the last callback, and never after archiver_free(). */
struct archiver_ops {
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	/* An import has unpacked everything; call archiver_keep() to give the folder its name, or archiver_cancel(). o:
	 * borrowed. */
	void (*ready)(void *opaque, struct json_object *o);
	/* r: 0 with a result (borrowed), or -errno with an error. */
	void (*done)(void *opaque, int r, struct json_object *result, const struct err *e);
};

/* Start the program.
 * spec:  the task, borrowed; it names files by fd number.
 * fds:   borrowed; fds[i] becomes number ARCHIVER_FD + i in the process.
 * Returns 0 or -errno. */
#define ARCHIVER_FD 4
int archiver_start(struct loop *l, const char *program, const char *verb, struct json_object *spec,
	const int *fds, size_t nfds, const struct rights *rights, const struct archiver_ops *ops,
	void *opaque, struct archiver **ret_a, struct err *e);
/* Let an import that is ready give its folder the final name. */
void archiver_keep(struct archiver *a);
/* Make the process stop and remove its files; it is killed if that takes long. done() reports it. */
void archiver_cancel(struct archiver *a);
/* Free the run, after done() or instead of done(); in the latter case the process removes its files by itself. NULL
 * allowed. */
void archiver_free(struct archiver *a);

#endif
