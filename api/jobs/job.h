/* job: long-running work, mostly on a VM. A command or a policy of the daemon starts the job; a command returns the
 * job's id. Events report the progress, and the result stays until a client dismisses it, within bounds of number and
 * age.
 *
 * The status words are those of QMP's jobs. A job that succeeds passes through created, running, waiting, pending and
 * concluded; a job that fails passes through created, running, aborting and concluded. Dismissing makes it null. A job
 * owns its VM (api/vm/operation.h), so a VM has at most one job that is not concluded. The commit of an active layer
 * that QMP began is ready before it is waiting, and owns nothing then (commit_ready.h).
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_JOB_H
#define CAIRN_API_JOBS_JOB_H

#include "api/vm/operation.h"
#include "base/err.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct call;
struct json_object;
struct vm;
struct vm_host;

#define JOB_ID_MAX 63
/* Bounds of the list of concluded jobs: number, those of them that jobs.json has, and age. */
#define JOBS_KEPT_MAX 256
#define JOBS_STORED_MAX 64
#define JOBS_KEPT_NS (24 * 3600 * 1000000000ULL)

enum job_status {
	JOB_CREATED,
	JOB_RUNNING,
	JOB_READY, /* the work is done; the client still has to complete or cancel the job */
	JOB_ABORTING,
	JOB_WAITING,
	JOB_PENDING,
	JOB_CONCLUDED,
	JOB_NULL,
};

/* Names of a job, chosen by a client. */
struct job_name {
	const char *id;	    /* NULL: generated */
	const char *qmp_id; /* unique on the VM's QMP socket; NULL: same as id; "": hidden there */
	bool keeps_qmp_id;  /* a concluded block job has its qmp_id until it is dismissed, not only until another takes it */
};

struct job {
	struct job *next; /* the daemon's list, oldest first */
	struct vm_host *host;
	struct vm *vm; /* NULL once concluded, while `lost`, and for a job of no VM */
	char id[JOB_ID_MAX + 1];
	char qmp_id[JOB_ID_MAX + 1]; /* name on the VM's QMP socket; "": hidden there */
	bool keeps_qmp_id;	     /* as in struct job_name */
	char vm_name[VM_NAME_MAX + 1]; /* when the job began; may belong to another VM now; "": a job of no VM */
	uint8_t vm_uuid[16]; /* all zero: an older daemon stored the job, or a job of no VM */
	uid_t uid; /* of the user who began the job; 0: also the daemon's policies */
	const char *type; /* "save", "snapshot-create", …; static */
	const char *unit; /* unit of done and total: "bytes", "snapshots" or "clones"; static */
	enum job_status status;
	uint64_t done, total;
	uint64_t begun_ns, ended_ns; /* monotonic */
	uint64_t begun_realtime_ns;
	uint64_t told_ns; /* time of the last JOB_PROGRESS */
	char *pool, *volume; /* names of the volume that the job makes, and of its pool; owned; NULL: it makes none, or unknown */
	char disk[16]; /* id of the disk that a block job works on; "": another job */
	uint64_t speed; /* the limit that the client gave, in bytes/s; 0: none */
	bool stored; /* jobs.json has it, or is about to */
	bool outpaced; /* the guest wrote faster than the job copied a disk, so its writes went to both images */
	bool cancelling;
	char denied[160]; /* why the daemon cancels the job: its user has lost the role (job_deny()); "": not so */
	bool concluding; /* clients are being notified of its end; jobs_trim() keeps it */
	bool lost; /* the job of an earlier daemon, whose end no event reported (jobs_recover()) */
	bool failed;
	struct err e;
	struct json_object *result; /* NULL: none */
	char *text; /* of a concluded job in jobs.json; owned; NULL: not made yet */
	/* Output of a program in the guest (exec.h), which viewers may not see; NULL: none. Freed with the job. */
	void *output;
	void (*output_free)(struct job *j);
	/* Ask the work to stop; the implementation then calls job_fail(), unless the work is done first. NULL: the job
	 * cannot be cancelled now. */
	void (*cancel)(struct job *j);
	/* Handle VM_EVENT_PROGRESS of the VM's process or offline process. NULL: if unit is "bytes", the event's values
	 * become the job's progress. */
	void (*progress)(struct job *j, const struct vm_event *ev);
	void (*fork_stage)(struct job *j, int64_t stage); /* handle VM_EVENT_FORK_READY; NULL: ignore it */
	/* Free opaque; called when the job concludes. NULL: nothing to free. */
	void (*release)(struct job *j);
	void *opaque; /* belongs to the job's implementation */
	/* Called once when the job has concluded and the VM is free; may dismiss the job. NULL allowed. */
	void (*concluded)(struct job *j, void *opaque);
	void *concluded_opaque;
};

extern const struct vm_observer job_observer;

/* Create a job that owns the VM, and emit the events for the statuses created and running.
 * type: one of the types listed in job.c. id: chosen by the client; NULL: generated.
 * Returns 0; -EBUSY: an operation under way excludes a job; -EEXIST: the id is in use; -EINVAL: the id is malformed. */
int job_new(struct vm *vm, const char *type, const char *id, struct job **ret_j, struct err *e);
/* Create a job as job_new() does, with both of its names. name: NULL: generated. */
int job_new_named(struct vm *vm, const char *type, const struct job_name *name, struct job **ret_j,
	struct err *e);
/* Create a job that does not own its VM: the VM may have other jobs meanwhile, and may end. j->vm is NULL. */
int job_new_beside(struct vm *vm, const char *type, const struct job_name *name, struct job **ret_j, struct err *e);
/* Create a job that belongs to no VM, as job_new_beside() does. Roles for all VMs decide who may see it. */
int job_new_of_host(struct vm_host *host, const char *type, const char *id, struct job **ret_j, struct err *e);
/* Store the names of the volume that the job makes: if the daemon ends meanwhile, the next one names it. */
void job_note_volume(struct job *j, const char *pool, const char *volume);
/* Make the job the owner of one more VM, which must have no owner. The caller ends the ownership with
 * vm_operation_end(). */
void job_own(struct job *j, struct vm *vm, enum vm_operation_kind kind);
/* Set the progress. Emits at most four events a second, besides one whenever done equals total. */
void job_progress(struct job *j, uint64_t done, uint64_t total);
/* Let the job be ready: its VM may have other jobs meanwhile, and may end, and j->vm is NULL. */
void job_ready(struct job *j);
const char *job_status_name(const struct job *j);
/* Conclude the job with success, when the VM's offline process, if there is one, has ended. The VM has no owner then.
 * result: taken; NULL: none. */
void job_succeed(struct job *j, struct json_object *result);
/* Conclude the job with an error, like job_succeed(). */
void job_fail(struct job *j, const struct err *e);
/* Add memory-rounds, memory-throttle and memory-stopped to a result. Does nothing without rounds. */
void job_put_rounds(struct json_object *result, unsigned rounds, unsigned throttle, bool stopped);
/* Add to a result how the guest's memory was tracked: memory-tracking; memory-tracking-reason, if the VM's process gave
 * one; memory-rounds, memory-throttle and memory-stopped, if the memory was copied in rounds.
 * d: NULL, or VM_TRACKING_UNKNOWN: add nothing. */
void job_put_tracking(struct json_object *result, const struct vm_snapshot_done *d);
/* Return the UUID of the job's VM, which decides who may see the job; NULL: not known, or a job of no VM, so only roles
 * for all VMs count. */
const uint8_t *job_vm_uuid(const struct job *j);
/* Return whether the job is the VM's. If its UUID is not known, the name decides. */
bool job_is_of(const struct job *j, const struct vm *vm);
/* Return the job for clients; owned by the caller. */
struct json_object *job_to_json(const struct job *j);

/* Return the numbers of jobs of each type for clients; owned by the caller. */
struct json_object *jobs_count(const struct vm_host *host);

/* Return QEMU's name for the job's type; NULL: QEMU has no such job. */
const char *job_qmp_type(const struct job *j);
/* Return whether QEMU's jobs of that type are block jobs, which have events of their own. */
bool job_qmp_is_block(const struct job *j);
/* Find a job by its name on the VM's QMP socket. NULL: none. */
struct job *job_find_qmp(const struct vm *vm, const char *qmp_id);
/* Hide all jobs of the VM so far from clients of its QMP socket. Call it when a run of the VM begins and when the run
 * has ended. */
void jobs_dismiss_qmp(const struct vm *vm);

/* Answer a call with {"job": its id}. The call's user owns the job (job_owner.h). */
void call_return_job(struct call *c, struct job *j);
/* Find a job by id. NULL: none. */
struct job *job_find(struct vm_host *host, const char *id);
/* Ask a job to stop; it concludes later. Returns 0; -EPERM: it is concluded; -ENOTSUP: it cannot be cancelled. */
int job_cancel(struct job *j, struct err *e);
/* Do as job_cancel(), with the client's name of the job in the error: its id or its qmp_id. */
int job_cancel_named(struct job *j, const char *name, struct err *e);
/* Cancel a job because its user lost the role for it; `why` becomes part of its error. Returns as job_cancel(). The job
 * may be freed. */
int job_deny(struct job *j, const char *why, struct err *e);
/* Return whether jobs of this type create VMs. */
bool job_makes_vms(const struct job *j);
/* Remove a concluded job from the list, and free it. Returns 0; -EBUSY: the job is not concluded. */
int job_dismiss(struct job *j, struct err *e);
int job_dismiss_named(struct job *j, const char *name, struct err *e);
/* Drop concluded jobs that are too old. If there are too many, drop the oldest job of the user with the most jobs. */
void jobs_trim(struct vm_host *host);
/* Free all jobs at the daemon's end. Work that the processes of running VMs do for them continues, except forks and
 * pulls. */
void jobs_free(struct vm_host *host);

#endif
