/* job: work on a VM that takes longer than a blink. A command starts it and returns its id;
 * events tell how it goes; its result stays until dismissed, within bounds of number and age.
 *
 * Status words and their order are QMP's: created, running, [aborting] waiting, pending,
 * concluded, null. A VM has one job at a time. */
#ifndef CAIRN_API_JOBS_JOB_H
#define CAIRN_API_JOBS_JOB_H

#include "api/vm/operation.h"
#include "base/err.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stdint.h>

struct call;
struct json_object;
struct vm;
struct vm_host;

#define JOB_ID_MAX 63
/* Concluded jobs that are kept; the oldest goes first. */
#define JOBS_KEPT_MAX 64
#define JOBS_KEPT_NS (24 * 3600 * 1000000000ULL)

enum job_status {
	JOB_CREATED,
	JOB_RUNNING,
	JOB_ABORTING,
	JOB_WAITING,
	JOB_PENDING,
	JOB_CONCLUDED,
	JOB_NULL,
};

/* What a client calls a job. */
struct job_name {
	const char *id;	    /* NULL: one is made */
	const char *qmp_id; /* on the VM's own socket, unique there; NULL: the same; "": unseen */
};

struct job {
	struct job *next; /* the daemon's list, oldest first */
	struct vm_host *host;
	struct vm *vm; /* NULL once concluded */
	char id[JOB_ID_MAX + 1];
	char qmp_id[JOB_ID_MAX + 1]; /* on the VM's own socket; "": not to be seen there */
	char vm_name[VM_NAME_MAX + 1];
	const char *type; /* "save", "snapshot-create", …: borrowed, static */
	const char *unit; /* of done and total: "bytes", "snapshots" */
	enum job_status status;
	uint64_t done, total;
	uint64_t begun_ns, ended_ns; /* monotonic */
	uint64_t begun_realtime_ns;
	uint64_t told_ns; /* of the last JOB_PROGRESS */
	bool cancelling;
	bool lost; /* of an earlier daemon, which did not see its end */
	bool failed;
	struct err e;
	struct json_object *result; /* NULL: none */
	/* Ask the work to stop; it ends by job_fail(). NULL: it cannot be stopped. */
	void (*cancel)(struct job *j);
	/* What a process on images tells of how far it is. NULL: bytes, as they come. */
	void (*progress)(struct job *j, const struct vm_event *ev);
	/* Frees opaque; called when it concludes. NULL: nothing to free. */
	void (*release)(struct job *j);
	void *opaque; /* whose work it is */
	/* Once, when it has concluded and the VM is free; may dismiss it. NULL: nobody waits. */
	void (*concluded)(struct job *j, void *opaque);
	void *concluded_opaque;
};

extern const struct vm_observer job_observer;

/* id: chosen by the client, or NULL. Emits created and running.
 * Returns 0; -EBUSY; -EEXIST for an id that is there; -EINVAL for one that is none. */
int job_new(struct vm *vm, const char *type, const char *id, struct job **ret_j, struct err *e);
/* The same with both names. NULL: made ones. */
int job_new_named(struct vm *vm, const char *type, const struct job_name *name, struct job **ret_j,
	struct err *e);
/* Make the job the owner of one more VM, which has none. The caller ends that by vm_operation_end(). */
void job_own(struct job *j, struct vm *vm, enum vm_operation_kind kind);
/* Events of it come four times a second at most. */
void job_progress(struct job *j, uint64_t done, uint64_t total);
/* Both end the work; the VM is free for another. result: taken, NULL: none. */
void job_succeed(struct job *j, struct json_object *result);
void job_fail(struct job *j, const struct err *e);
/* What a client sees. The caller puts it. */
struct json_object *job_to_json(const struct job *j);

/* As QEMU calls its type; NULL: it knows none such. */
const char *job_qmp_type(const struct job *j);
/* By its name on the VM's own socket. NULL: none. */
struct job *job_find_qmp(const struct vm *vm, const char *qmp_id);
/* A new run of the VM begins, or one has ended: its socket shows no job of before. */
void jobs_forget_qmp(const struct vm *vm);

/* Answer a call with {"job": its id}. */
void call_return_job(struct call *c, const struct job *j);
/* NULL: none. */
struct job *job_find(struct vm_host *host, const char *id);
/* Ask a running one to end. Returns 0; -errno with a sentence. */
int job_cancel(struct job *j, struct err *e);
/* Forget a concluded one. Returns 0; -EBUSY while it runs. */
int job_dismiss(struct job *j, struct err *e);
/* What an earlier daemon had under way when it ended, by what it told: to be called when the
 * kept ones are loaded. Their names are not given again. */
void jobs_recover(struct vm_host *host);
/* The VM still does that: its job goes on, with the name it had, or a new one. As job_new(). */
int job_take_back(struct vm *vm, const char *type, struct job **ret_j, struct err *e);
/* Every VM was looked at: what was recovered and not taken back has failed. */
void jobs_settle(struct vm_host *host);
/* Drops concluded ones that are too old or too many. */
void jobs_trim(struct vm_host *host);
/* The daemon ends; what is under way goes on in the VMs' processes. */
void jobs_free(struct vm_host *host);
/* Of jobs that an earlier daemon concluded. Objects are borrowed. */
void jobs_load(struct vm_host *host, struct json_object *file);

#endif
