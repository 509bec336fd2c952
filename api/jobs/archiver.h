/* archiver: a run of cairn-archive (docs/archive.md), which packs a VM's files into an archive or unpacks them, or of
 * cairn-diff (tools/diff/diff.h). They parse images and archives, so each is a process of its own, with a user's
 * rights. When the daemon ends, a process that imports gets SIGTERM, so that it removes its files; any other gets
 * SIGKILL.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_ARCHIVER_H
#define CAIRN_API_JOBS_ARCHIVER_H

#include <stddef.h>
#include <stdint.h>

struct archiver;
struct definition_disk;
struct err;
struct json_object;
struct loop;
struct rights;
struct vm_disk;

/* Callbacks on the loop. done() is called once, as the last callback, and never after archiver_free(). */
struct archiver_ops {
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	/* The files of an import take so many bytes now. NULL allowed. */
	void (*space)(void *opaque, uint64_t bytes);
	/* An import has unpacked everything into a folder with a temporary name. The callee calls archiver_keep() to
	 * give the folder its final name, or archiver_cancel(). o: what the process reported; borrowed. */
	void (*ready)(void *opaque, struct json_object *o);
	/* The process has ended. r: 0, and result is set (borrowed); -errno, and e is set. */
	void (*done)(void *opaque, int r, struct json_object *result, const struct err *e);
};

/* Start the program.
 * verb:  "export", "import", "clear" or "diff".
 * spec:  the task, borrowed; it names files by fd number.
 * fds:   borrowed; fds[i] becomes number ARCHIVER_FD + i in the process.
 * Returns 0 or -errno. */
#define ARCHIVER_FD 4
/* Key of a spec: true: ARCHIVER_FD is a relay from which the process takes its archive (base/relay.h). */
#define ARCHIVER_RELAYED "relayed"
int archiver_start(struct loop *l, const char *program, const char *verb, struct json_object *spec,
	const int *fds, size_t nfds, const struct rights *rights, const struct archiver_ops *ops,
	void *opaque, struct archiver **ret_a, struct err *e);
/* Returns the layers of a disk for a spec; owned by the caller. first: number of the file in the process whose index in
 * the configuration is 0. */
struct json_object *archiver_layers(const struct definition_disk *d, const struct vm_disk *v, int first);
/* Tell an import, after ready() was called for it, to give its folder the final name. */
void archiver_keep(struct archiver *a);
/* Make the process stop and remove its files: send SIGTERM, and SIGKILL some seconds later. done() follows. */
void archiver_cancel(struct archiver *a);
/* Free a; done() is not called any more. A process that still runs gets SIGTERM. NULL allowed. */
void archiver_free(struct archiver *a);

#endif
