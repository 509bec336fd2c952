/* job_recover: the jobs of earlier daemons. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_JOB_RECOVER_H
#define CAIRN_API_JOBS_JOB_RECOVER_H

struct err;
struct job;
struct json_object;
struct vm;
struct vm_host;

/* Load the jobs that earlier daemons concluded. file: the content of jobs.json; borrowed; NULL: none. */
void jobs_load(struct vm_host *host, struct json_object *file);
/* Add the jobs that an earlier daemon left unfinished to the list, marked as `lost`, and those whose end is missing
 * in the file of jobs_load(). They are found in the event log. No generated id will be that of a job in the event
 * log. Call it after jobs_load(). file: NULL: there is none. */
void jobs_recover(struct vm_host *host, struct json_object *file);
/* Make the VM's lost job of that type its owner again, under the old id, because its work continues. Without such a
 * job, create a new one. Returns as job_new(). */
int job_adopt(struct vm *vm, const char *type, struct job **ret_j, struct err *e);
/* The work of the VM's lost job of that type, if there is one, was completed: jobs_recover_end() will report that.
 * Only for a job without a result. */
void job_lost_succeeded(const struct vm *vm, const char *type);
/* Fail the jobs that are still `lost` and not concluded, and emit the event of the end for each `lost` job. Call it
 * when all VMs are adopted. */
void jobs_recover_end(struct vm_host *host);

#endif
