/* volume_job: makes a volume as a job, which belongs to no VM: a role for all VMs is needed to see it. When the job is
 * cancelled, or fails, there is no new volume. The work continues when the daemon ends.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_VOLUME_JOB_H
#define CAIRN_API_JOBS_VOLUME_JOB_H

struct call;
struct err;
struct job;
struct vm_host;
struct volume_work;

/* Of one user at a time; no limit applies to root and the daemon's own user. */
#define VOLUME_USER_JOBS_MAX 8

/* Begin the work with the rights of the call's client. w: borrowed for the call; volume_work_is_job(). id: of the job;
 * NULL: generated.
 * Returns 0; -EBUSY: the user has too many; -EEXIST, -EINVAL: see job_new(); -errno. */
int volume_job_begin(const struct call *c, const struct volume_work *w, const char *id, struct job **ret_j, struct err *e);
/* Cancel the jobs whose users have lost the role operator for all VMs. */
void volume_jobs_check_roles(struct vm_host *host);

#endif
