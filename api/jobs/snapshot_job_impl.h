/* snapshot_job_impl: internals of api/jobs/snapshot_job.h that its source files share. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_SNAPSHOT_JOB_IMPL_H
#define CAIRN_API_JOBS_SNAPSHOT_JOB_IMPL_H

#include "api/jobs/job.h"
#include "api/jobs/snapshot_job.h"
#include "api/jobs/snapshots.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "base/err.h"

/* Data of a snapshot job; freed when it concludes. */
struct snapshot_work {
	struct store_work stored;
	struct job *job;
	struct vm *vm;
	struct vm_snapshot_create create;
	char name[VM_SNAPSHOT_NAME_MAX + 1];
	char id[VM_SNAPSHOT_ID_MAX + 1];
	struct json_object *result;
	struct json_object *devices; /* only for a job that creates: snapshot_devices_json() */
	/* only for a job that deletes */
	enum snapshot_victims mode;
	void (*choose)(void *opaque, const struct snapshots *s, bool *victims); /* NULL: name and mode choose */
	void *choose_opaque;
	struct victim *victims;
	size_t nvictims, at;
	bool look_only;
	/* only for a job that reverts */
	struct snapshot_revert revert;
	struct vm_snapshot_revert body;
	struct definition *definition; /* of a new process, which the revert needs; NULL: it needs none */
	struct definition *then; /* what the VM ran with at the snapshot; NULL: unknown */
	struct json_object *warnings; /* owned: sentences about drives that the revert empties; NULL: none was looked at */
	uint32_t checked; /* only for a dry run: number of disks of the definition that are checked */
	bool has_memory, stopped;
	uint64_t stopped_at_ns; /* when a VM that ran was stopped for the revert; 0: none was */
	uint8_t taken; /* enum vm_snapshot_state of the snapshot */
	struct {
		bool known;
		enum vm_state state;
		enum vm_reason reason;
		char detail[VM_DETAIL_MAX];
		int64_t value;
	} before; /* of a VM that is started to be reverted */
	struct err e; /* the job's error, kept until the VM's process has ended */
	uint8_t adopted; /* enum vm_msg_type: the request of an earlier daemon, of which only this is known; 0: none */
};

/* ---- snapshot_job.c ---- */

/* Begin a job without work. Returns 0; -errno. */
int snapshot_work_begin(struct vm *vm, const char *type, const struct job_name *name, struct snapshot_work **ret_w, struct err *e);
void snapshot_work_release(struct job *j);
void snapshot_work_succeed(struct snapshot_work *w);
/* Emit the event about the job's snapshot. */
void snapshot_work_emit(const struct snapshot_work *w, enum event_id id, const char *snapshot);
/* Add the figures of a new snapshot that the VM's process reports. */
void snapshot_put_created(struct json_object *result, const struct vm *vm, const struct vm_snapshot_done *d);

/* ---- snapshot_revert.c ---- */

void snapshot_revert_succeed(struct snapshot_work *w);
/* The memory is reverted. d: NULL: the VM's process has said nothing about it. */
void snapshot_revert_note(struct snapshot_work *w, const struct vm_snapshot_done *d);
/* Fail with w->e: the VM was started only for the revert, and its process has ended. opaque: the work. */
void snapshot_revert_failed(struct vm *vm, void *opaque);

#endif
