/* volumes: the files that a VM's disks are kept in, as candidates for removal. Only what the VM writes to,
 * and only regular files that nobody else uses; never what stands below a disk, nor what it boots. But of a VM that was
 * imported all that its definition names in the folder which the import made, and then that folder. */
#ifndef CAIRN_API_JOBS_VOLUMES_H
#define CAIRN_API_JOBS_VOLUMES_H

#include "base/channel.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stddef.h>

struct err;
struct fork_as;
struct fork_as_result;
struct json_object;
struct loop;
struct rights;
struct vm;

/* At least two a disk. */
#define VOLUMES_MAX CHANNEL_FDS_MAX

/* What was found in a file's place, as notes of the errand. */
enum volume_kind { VOLUME_UNSEEN, VOLUME_FILE, VOLUME_MISSING, VOLUME_DEVICE, VOLUME_LINK, VOLUME_OTHER };

struct volume {
	char id[16];
	char *path; /* owned */
	bool read_only; /* and so stays */
	enum volume_kind kind;
};

struct volumes {
	struct volume list[VOLUMES_MAX];
	unsigned n;
	char *folder; /* owned; NULL: none goes */
};

/* wanted: array of strings, ids or paths; NULL: all disks, and what is in `folder` (NULL: it was not imported).
 * Returns 0; -ENOENT for one that is none of the VM's; -EBUSY for a file that another VM uses, which is named. */
int volumes_of(const struct vm *vm, struct json_object *wanted, const char *folder, struct volumes *ret_v,
	struct err *e);
void volumes_done(struct volumes *v);

/* The errand: looks at each; with `remove`, and only when nothing speaks against any of them, removes those
 * that are files. done() gets the kinds as notes, and how many were removed as count. */
int volumes_errand(const struct volumes *v, const struct vm *vm, bool remove,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct fork_as **ret, struct err *e);
void volumes_take(struct volumes *v, const struct fork_as_result *res);

/* For clients: id, path, removed, why. */
struct json_object *volumes_to_json(const struct volumes *v);
/* To be kept over the daemon's end: the paths, and the folder. */
struct json_object *volumes_keep(const struct volumes *v);
void volumes_load(struct json_object *o, struct volumes *ret_v);

#endif
