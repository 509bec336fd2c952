/* rename: a VM that is off gets another name; its state folder, its permissions and what lies in the folder
 * follow.
 *
 * On disk, in this order: the definition with the new name beside the old one (STORE_RENAMED); the folder's
 * name; the permissions; the new definition instead of the old one. With the folder's name it is so: a daemon
 * that finds STORE_RENAMED in a folder of its name goes on, and else removes it. */
#ifndef CAIRN_API_JOBS_RENAME_H
#define CAIRN_API_JOBS_RENAME_H

struct call;
struct vm_host;

/* Handle vm-rename: the VM is off. Answers the call. */
void rename_begin(struct call *c);

/* Before the VMs are loaded, when the permissions are: ends what an earlier daemon began. */
void rename_resume_pending(struct vm_host *host);

#endif
