/* snapshot_job: jobs that create, delete and revert to snapshots. The functions return 0 and set *ret_j, or -errno.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_SNAPSHOT_JOB_H
#define CAIRN_API_JOBS_SNAPSHOT_JOB_H

#include "api/jobs/save.h"
#include "vmm/vm_msg.h"

struct err;
struct job;
struct job_name;
struct snapshots;
struct vm;
struct vm_observer;

/* Adopts the work of an earlier daemon's job that continues in the VM's process. */
extern const struct vm_observer snapshot_job_observer;

/* Create a snapshot. The job's result: name, id, pause, total (both in ns), ram-bytes-written, ram-bytes-shared;
 * disks-left-out (ids), if any; the members of job_put_tracking(), if memory was saved. */
int snapshot_create(struct vm *vm, const struct vm_snapshot_create *c, const struct job_name *name,
	struct job **ret_j, struct err *e);

enum snapshot_victims { SNAPSHOT_ALONE, SNAPSHOT_WITH_CHILDREN, SNAPSHOT_CHILDREN_ONLY };

/* Delete a snapshot, its descendants, or both, children first. If one of the snapshots has the tag "keep", the job
 * fails and deletes none. The job's result: name, count, deleted (names of the first 20).
 * look_only: report the same result without deleting. */
int snapshot_delete(struct vm *vm, const char *snapshot, enum snapshot_victims victims, bool look_only,
	const struct job_name *name, struct job **ret_j, struct err *e);

/* Delete the snapshots that choose() marks, children first. The job owns the VM from before choose() is called, so no
 * other operation changes the snapshots. Type and result as for snapshot_delete(), but the result has no name.
 * opaque: borrowed until the job concludes. */
int snapshot_delete_where(struct vm *vm,
	void (*choose)(void *opaque, const struct snapshots *s, bool *victims), void *opaque,
	struct job **ret_j, struct err *e);

struct snapshot_revert {
	char name[VM_SNAPSHOT_NAME_MAX + 1]; /* name or id; "": the current snapshot */
	enum save_then then;
	bool disks_only, eager, verify;
	bool with_memory; /* refuse a snapshot without memory */
	bool look_only;	  /* check and report only; change nothing */
	char disk[16]; /* with disks_only: id of the only disk to revert; "": all */
};

/* Revert to a snapshot. If the snapshot has memory, an active VM reverts in its process, and a VM that is off is
 * started; a VM whose process is preserved after a crash or is being stopped gets a new process.
 * If the snapshot has no memory, or with disks_only, the job stops the VM first and leaves it off, unless `then`
 * requests a start. The job's result: name, id, stopped, state; pause (in ns) and the members of job_put_tracking(), if
 * memory was loaded. With look_only: the expected name, id, stopped and state; memory-lost; disks-lost (ids). */
int snapshot_revert(struct vm *vm, const struct snapshot_revert *opts, const struct job_name *name,
	struct job **ret_j, struct err *e);

#endif
