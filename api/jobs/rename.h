/* rename: renames a VM that is off, with its state folder and its permissions.
 *
 * Order on disk: write the new definition beside the old one (STORE_RENAMED); rename the folder; change the
 * permissions; replace the old definition. Renaming the folder is the atomic step: a daemon that finds STORE_RENAMED in
 * a folder of the new name finishes the rename, and in another folder removes the file.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_RENAME_H
#define CAIRN_API_JOBS_RENAME_H

struct call;
struct err;
struct vm;
struct vm_host;

/* Rename a VM that is off.
 * name: checked when the offline process, for which the rename waits, has ended; borrowed until c is answered.
 * c: taken on success; answered when the new name is on stable storage, or with an error.
 * Returns 0; -EPERM: the VM is a template; -EBUSY: another operation is under way. */
int rename_begin(struct vm *vm, const char *name, struct call *c, struct err *e);

/* Finish the renames of an earlier daemon. Call it after the permissions and before the VMs are loaded. */
void rename_resume_pending(struct vm_host *host);

#endif
