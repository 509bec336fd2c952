/* snapshot_job: work on snapshots, as jobs: make, delete, revert. */
#ifndef CAIRN_API_JOBS_SNAPSHOT_JOB_H
#define CAIRN_API_JOBS_SNAPSHOT_JOB_H

#include "api/jobs/save.h"
#include "vmm/vm_msg.h"

struct err;
struct job;
struct job_name;
struct snapshots;
struct vm;

/* Result: name, id, pause, total (ns), ram-bytes-written, ram-bytes-shared; disks-left-out (ids), if any. */
int snapshot_create(struct vm *vm, const struct vm_snapshot_create *c, const struct job_name *name,
	struct job **ret_j, struct err *e);

enum snapshot_victims { SNAPSHOT_ALONE, SNAPSHOT_WITH_CHILDREN, SNAPSHOT_CHILDREN_ONLY };

/* Refused as a whole when one of them has the tag "keep". Result: count,
 * deleted (names of the first of them). look_only: the same, and none is. */
int snapshot_delete(struct vm *vm, const char *snapshot, enum snapshot_victims victims, bool look_only,
	const struct job_name *name, struct job **ret_j, struct err *e);

/* Those that `choose` marks, children first; the VM's job keeps everybody else out meanwhile. opaque:
 * borrowed until the job concludes. Type and result as above. */
int snapshot_delete_where(struct vm *vm,
	void (*choose)(void *opaque, const struct snapshots *s, bool *victims), void *opaque,
	struct job **ret_j, struct err *e);

struct snapshot_revert {
	char name[VM_SNAPSHOT_NAME_MAX + 1]; /* "": the current one */
	enum save_then then;
	bool disks_only, eager, verify;
	bool with_memory; /* refuse one that has none */
	bool look_only;	  /* could it be done? Nothing is */
	char disk[16]; /* with disks_only: that one alone; "": all */
};

/* A running VM goes on from the snapshot in its own process; one that is off is started for it.
 * A snapshot of disks alone leaves the VM off (unless `then` says otherwise), and stops it
 * before. Result: name, id, stopped, state; with look_only as they would be, and what would be lost: memory-lost,
 * disks-lost (ids). */
int snapshot_revert(struct vm *vm, const struct snapshot_revert *opts, const struct job_name *name,
	struct job **ret_j, struct err *e);

#endif
