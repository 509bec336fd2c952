/* group_snapshot: the job that takes snapshots of several VMs at one instant, all of them or none.
 *
 * Each VM has a snapshot-create job of its own. The group's job owns no VM, and takes these jobs through the steps of
 * vmm/vm_snapshot_msg.h. The snapshots have the same name and a tag GROUP_TAG with the group's id. Until all
 * snapshots are complete, a file in the state folder names the VMs; a daemon that finds it at its start deletes the
 * snapshots.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_GROUP_SNAPSHOT_H
#define CAIRN_API_JOBS_GROUP_SNAPSHOT_H

#include <stddef.h>

struct call;
struct err;
struct job;
struct vm;
struct vm_host;
struct vm_snapshot_create;

#define GROUP_TAG "group:" /* followed by the group's id */

/* Start the job. Its result: name, group, total and spread (both in ns), vms (for each: vm, id, and if the VM was on,
 * instant and pause).
 * vms: n different VMs, at most GROUP_VMS_MAX, which can take a snapshot now (free for VM_CLAIM_SNAPSHOTS). id: from
 * group_id_make(). what: name, description and quiesce count. by: its user owns the jobs.
 * Returns 0; -errno: nothing was begun. */
int group_snapshot_begin(struct vm *const *vms, size_t n, const char *id, const struct vm_snapshot_create *what, const char *job_id,
	const struct call *by, struct job **ret_j, struct err *e);
/* Begin to delete the snapshots of groups that an earlier daemon has not completed. Call it when the running VMs are
 * adopted. */
void group_snapshot_clear_up(struct vm_host *host);

#endif
