/* job_owner: the user whose job works on a VM. A job outlives the client that began it, so the daemon cancels the job
 * when its user loses the role that the job needs: the role of the command for the VM, and, for a job that makes VMs,
 * admin for all VMs or creator.
 *
 * Work in the VM's process also outlives the daemon, so the owner is part of the VM's state.json. Jobs of root, of the
 * daemon's own user and of the daemon itself have no owner. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_JOB_OWNER_H
#define CAIRN_API_JOBS_JOB_OWNER_H

#include <sys/types.h>

struct call;
struct job;
struct vm;
struct vm_host;

extern const struct vm_observer job_owner_observer;

/* Note that the call's user owns the job. A second call for the same job does nothing. */
void job_owner_set(struct job *j, const struct call *c);
/* Forget the owner, because the VM's job has concluded. */
void job_owner_end(struct vm *vm);
/* Cancel the jobs of VMs whose owners have lost the role. Call it when permissions have changed, and when the daemon
 * begins to listen. */
void job_owners_check(struct vm_host *host);
/* Add a line to the audit log: the daemon cancels the job, because its user lost the role. vm_name: NULL: a job of no
 * VM. */
void job_denial_audit(const struct vm_host *host, const char *vm_name, const char *id, uid_t uid, const char *why);

#endif
