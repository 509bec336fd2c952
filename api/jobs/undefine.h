/* undefine: removes a VM, with or without its images. If images are to be removed, their list is stored first, so that
 * after a crash the next daemon finishes the work. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_UNDEFINE_H
#define CAIRN_API_JOBS_UNDEFINE_H

#include <stdbool.h>

struct call;
struct err;
struct json_object;
struct vm;
struct vm_host;

#define UNDEFINE_FILE "undefine.json"

/* storage:             borrowed during undefine_begin(); array of disk ids or paths whose images to remove; NULL: none.
 * remove_all_storage:  remove all files that volumes.h selects.
 * managed_save:        drop a managed save; otherwise a managed save is an error.
 * snapshots_metadata:  do not look for snapshots in the images; otherwise snapshots there are an error.
 * backup:              with snapshots_metadata: look for a backup under way, which is an error.
 * nvram:               remove UEFI variables; otherwise they are an error.
 * keep_nvram:          keep them, which is an error for a VM that has some.
 * then_fail:           when the VM is gone, answer with this error; copied. NULL: with the result.
 * dry_run:             change nothing, only answer with the listed images and whether each would be removed. */
struct undefine_opts {
	struct json_object *storage;
	const struct err *then_fail;
	bool remove_all_storage, managed_save, snapshots_metadata, backup, nvram, keep_nvram, dry_run;
};

/* Undefine a VM that is off. An offline process or another operation is an error (-EBUSY), so the caller first waits
 * for the end of an offline process that belongs to no job.
 * c: taken on success; answered when the VM is gone, with the images if any were to be removed, or with an error.
 * Returns 0 or -errno. */
int undefine_begin(struct vm *vm, const struct undefine_opts *opts, struct call *c, struct err *e);

/* Finish the undefines of an earlier daemon. Call it when all VMs are loaded. */
void undefine_resume_pending(struct vm_host *host);

#endif
