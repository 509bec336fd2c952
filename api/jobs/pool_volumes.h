/* pool_volumes: lists and changes the volumes of a pool: the regular files in its folder. A process with the client's
 * rights (fork_as.h) does the work, so a client can do what its user may do with the files, and no more; new images and
 * changes of images are cairn-img's.
 * Threading: the daemon's loop, except for volume_work_run(), which runs in the process and takes no lock. */
#ifndef CAIRN_API_JOBS_POOL_VOLUMES_H
#define CAIRN_API_JOBS_POOL_VOLUMES_H

#include "api/jobs/volume_users.h"
#include "api/store/pools.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct call;
struct err;
struct fork_as_result;
struct vm_host;

#define VOLUME_BACKING_MAX 1023 /* bytes of a backing file's name in a qcow2 header */
#define VOLUME_VMS_MAX 8 /* VMs of a volume that are listed */
/* The file of progress: at first a text, whose last "(12.30/100%)" counts, and then the bytes in all, 64 bits. */
#define VOLUME_PROGRESS_BYTES 16384
#define VOLUME_PROGRESS_TOTAL_AT (VOLUME_PROGRESS_BYTES - 8)

enum volume_act { VOLUME_LIST, VOLUME_CREATE, VOLUME_CLONE, VOLUME_RESIZE, VOLUME_DELETE, VOLUME_OPEN };

struct volume_work {
	enum volume_act act;
	char folder[POOL_TARGET_MAX + 1];
	char name[NAME_MAX + 1]; /* VOLUME_LIST: list the names after this one; "": all */
	char copy[NAME_MAX + 1]; /* VOLUME_CLONE: the copy's name */
	enum volume_format format; /* VOLUME_CREATE */
	/* VOLUME_CREATE: the absolute path of the backing file; "": none. backing_format: VOLUME_NO_FORMAT: as VMs use
	 * the file, or else as its header says. */
	char backing[PATH_MAX];
	enum volume_format backing_format;
	bool backing_is_volume; /* of this pool, so it is no symbolic link */
	const char *preallocation; /* VOLUME_CREATE: cairn-img's word, static; NULL: none */
	uint64_t capacity_bytes;
	bool shrink;
	int carrier; /* VOLUME_OPEN, for done(), which owns it if r >= 0: the socket in which the file is */
	bool no_look; /* VOLUME_LIST: compare the paths of volumes and of VMs' files as texts */
	const struct vm_host *host; /* its VMs, which use volumes, and its paths */
};

/* A volume in the answer of VOLUME_LIST. */
struct volume_entry {
	char name[NAME_MAX + 1];
	enum volume_format format;
	uint64_t capacity_bytes, allocation_bytes, file_bytes;
	char backing[VOLUME_BACKING_MAX + 1]; /* as in the header; "": none */
	enum volume_format used_format; /* as VMs use it; VOLUME_NO_FORMAT: none does */
	unsigned nvms;
	uint8_t vms[VOLUME_VMS_MAX][16]; /* UUIDs of VMs with a disk on it */
};

/* Whether this may be the name of a volume: a file's name without a folder, which begins with neither '.' nor '-', in
 * UTF-8 without control characters. */
bool volume_name_is_valid(const char *name);
const char *volume_format_name(enum volume_format f);

/* Do the work, with the rights of the process.
 * arg: a struct volume_work. out: input: for a job, the file of progress. VOLUME_LIST: data has the entries, in the
 * order of their names, and count is 1 if there are more; sizes[0] is 1 if a file of a VM does not answer. VOLUME_OPEN:
 * input: the socket to which the open file is sent, with one byte. If it is not open for writing, data has a sentence
 * that says why.
 * Returns 0; -ENOENT; -EEXIST: the new name is taken; -EINVAL: it is no regular file, or has less than it has now and
 * shrink is false; -EBUSY: a VM or another volume in the folder uses it; -ETIMEDOUT: a file of a VM does not answer;
 * -EIO: cairn-img has failed; -errno. */
int volume_work_run(const void *arg, struct fork_as_result *out, struct err *e);
/* Take the next entry out of the data. Returns false at its end. */
bool volume_entry_take(const char **data, size_t *left, struct volume_entry *ret);

/* Begin work that is no job, for a call, with the rights of the call's client, who has a role for all VMs: errors
 * name them.
 * w: borrowed for the call. done: called once; answers the call. w: the work. res: see volume_work_run().
 * Returns 0; -errno, and then done() is not called. */
int pool_volumes_begin(struct call *c, const struct volume_work *w,
	void (*done)(struct call *c, const struct volume_work *w, int r, const struct fork_as_result *res, const struct err *e), struct err *e);
/* Answer the calls whose work is under way, at the daemon's end. Work that makes or changes a volume continues. */
void pool_volumes_free(struct vm_host *host);

#endif
