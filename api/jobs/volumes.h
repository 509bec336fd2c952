/* volumes: the files of a VM that undefine with --storage or --remove-all-storage may delete: the disks' top images and
 * their data files, if the VM writes to them and no other VM uses them, and only regular files. Backing files, kernel
 * and initrd stay, except with --remove-all-storage for an imported VM: then every regular file in the import's folder
 * that the definition or former_files.h names and no other VM uses is deleted, too, and then the folder.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_VOLUMES_H
#define CAIRN_API_JOBS_VOLUMES_H

#include "base/channel.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>

struct err;
struct fork_as;
struct fork_as_result;
struct json_object;
struct stat;
struct vm;
struct vm_host;

/* Room for at least two files per disk. */
#define VOLUMES_MAX CHANNEL_FDS_MAX

/* Kind of file that the forked process found at a volume's path; it reports the kinds as notes (fork_as.h). */
enum volume_kind { VOLUME_UNSEEN, VOLUME_FILE, VOLUME_MISSING, VOLUME_DEVICE, VOLUME_LINK, VOLUME_OTHER, VOLUME_CHANGED };

struct volume {
	char id[16];
	char *path; /* owned */
	bool read_only; /* never deleted */
	uint64_t until_ns; /* not deleted if it was changed later, since it is another file then; 0: no such time */
	enum volume_kind kind;
};

struct volumes {
	struct volume list[VOLUMES_MAX];
	unsigned n;
	char *folder; /* owned; the import's folder to remove; NULL: none */
	bool unless_open; /* the check fails if another process has one of them open */
	int folder_errno; /* why the folder could not be removed; 0: it is removed, or there is none */
};

/* List a VM's volumes.
 * wanted:  array of disk ids or paths; NULL: all disks, and the definition's other files in `folder`.
 * folder:  the import's folder; NULL: the VM was not imported.
 * Returns 0; -ENOENT: a wanted disk does not exist; -EBUSY: another VM uses a file. The error names that VM if all
 * users who see `vm` also see it. */
int volumes_of(const struct vm *vm, struct json_object *wanted, const char *folder, struct volumes *ret_v,
	struct err *e);
/* Free the list's members, and empty it. */
void volumes_done(struct volumes *v);

/* Check each volume in a forked process with the definer's rights. remove: if all checks pass, delete the volumes that
 * are regular files and not read_only, then the folder if it is empty. done() gets the kinds as notes, the number of
 * deleted files as count, and folder_errno as bytes. The check alone has a time limit of 10 s. Returns 0 or -errno. */
int volumes_check_or_remove(const struct volumes *v, const struct vm *vm, bool remove,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct fork_as **ret, struct err *e);
/* Store the kinds that volumes_check_or_remove() found in the list. */
void volumes_take(struct volumes *v, const struct fork_as_result *res);

/* Return an array for clients, owned by the caller: id, path, removed; why, if the file stays. A folder that
 * stays is in the array, too. */
struct json_object *volumes_to_json(const struct volumes *v);
/* Return the paths to delete and the folder, in the form that is stored for the next daemon. The caller owns it. */
struct json_object *volumes_keep(const struct volumes *v);
/* Load a list that volumes_keep() made. */
void volumes_load(struct json_object *o, struct volumes *ret_v);

#endif
