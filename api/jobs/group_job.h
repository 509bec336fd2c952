/* group_job: the common part of the jobs group-snapshot and group-clone. Each makes one snapshot or one clone of each
 * of several VMs at one instant: all of them or none.
 *
 * Each VM has a job of its own, called a member. The group's job owns no VM, and takes the members through the steps
 * of vmm/vm_snapshot_msg.h. If a member fails, the group cancels the others and removes their snapshots or clones.
 * Until all are complete, a file in the state folder names them; a daemon that finds the file at its start removes
 * them.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_GROUP_JOB_H
#define CAIRN_API_JOBS_GROUP_JOB_H

#include "api/jobs/group_steps.h"
#include "api/store/store.h"
#include "base/err.h"
#include "base/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct call;
struct group_job;
struct job;
struct json_object;
struct vm;

struct group_member {
	struct group_job *group;
	struct job *job; /* NULL: not begun, or concluded */
	uint8_t uuid[16]; /* of the VM that gets the snapshot, or of the clone; all 0: nothing was made */
	char name[VM_NAME_MAX + 1]; /* of the VM */
	struct json_object *result; /* owned: the job's; NULL: none */
};

struct group_kind {
	size_t size; /* of the kind's struct, whose first member is a struct group_job */
	const char *type; /* of the group's job */
	const char *noun, *unit; /* name of the job's products: "clone", "clones" */
	const char *prefix; /* of the file's name, before the group's id */
	const char *remedy; /* advice if some products could not be removed */
	/* All members have succeeded, and nothing is under way: end with group_keep(), or begin another part. */
	void (*complete)(struct group_job *g);
	/* Return the members of the result other than spread and total (both in ns), owned by the caller. */
	struct json_object *(*result_make)(const struct group_job *g);
	/* Begin or continue to remove the snapshot or clone with the member's uuid. Returns false if it is removed. */
	bool (*remove)(struct group_member *m);
	void (*end)(struct group_job *g);     /* called before the group's job ends; NULL: nothing to do */
	void (*release)(struct group_job *g); /* free the members of the kind's struct; NULL: none */
};

struct group_job {
	const struct group_kind *kind;
	struct vm_host *host;
	struct job *job; /* NULL: a group of an earlier daemon, which is being removed */
	char id[GROUP_ID_TEXT], file[sizeof(STORE_GROUPS) + GROUP_ID_TEXT + 16];
	struct group_member members[GROUP_VMS_MAX];
	size_t n;
	struct group_steps steps; /* of the VMs, in the order of the members */
	unsigned busy; /* parts under way besides the members; the VMs' processes and the end wait for them */
	bool failed;
	struct err e;
	uint64_t begun_ns;
	struct store_work work;
	struct loop_task task;
	struct loop_timer *retry; /* owned; NULL: not needed yet */
	unsigned retries;
};

/* Create a group's job with a member for each VM, of which none has begun, and with the file as a part under way. The
 * caller begins the members, and then calls group_record(). id: from group_id_make().
 * *ret_g: owned by its job. Returns 0; -errno. */
int group_begin(const struct group_kind *kind, struct vm *const *vms, size_t n, const char *id, const char *job_id, struct group_job **ret_g,
	struct err *e);
/* Take a member's job, which has just begun. uuid: see struct group_member. by: its user owns the job. */
void group_member_begun(struct group_member *m, struct job *j, const uint8_t uuid[16], const struct call *by);
/* Write the file. r: negative: a member could not begin, and g->e says why, so the group fails from the loop. */
void group_record(struct group_job *g, int r);

/* Return whether the VM was on when the group began. */
bool group_member_is_on(const struct group_member *m);
/* A member's process has reached a stage (enum vm_fork_stage): let all continue if all wait. */
void group_member_stage(struct group_member *m, int64_t stage);
/* End a part, which had raised g->busy by one, and let the group continue. r: negative: the group fails with e. vm: the
 * VM that the error concerns; NULL: none. May free the group. */
void group_part_done(struct group_job *g, const char *vm, int r, const struct err *e);
/* End the group with success: without its file it is complete. */
void group_keep(struct group_job *g);

/* Put the VM's name before the error, unless the error begins with it. */
void group_error_name(struct err *e, const char *vm);

/* Begin to remove the snapshots and clones of groups that an earlier daemon did not complete. */
void group_clear_up(const struct group_kind *kind, struct vm_host *host);

#endif
