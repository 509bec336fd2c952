/* job_impl: internals that job.c and job_recover.c share. */
#ifndef CAIRN_API_JOBS_JOB_IMPL_H
#define CAIRN_API_JOBS_JOB_IMPL_H

#include "api/jobs/job.h"

extern const char *const job_status_names[]; /* by enum job_status */

/* Set the status, and emit its event. */
void job_status_set(struct job *j, enum job_status s);
/* Add a job to the end of the host's list. */
void job_append(struct vm_host *host, struct job *j);
/* Check an id that a client chose. taken: a job has it already. */
int job_id_check(const char *id, bool taken, struct err *e);
/* Return the static name of a job type; NULL: unknown, or type is NULL. */
const char *job_type_known(const char *type);
/* Return the kind of operation of a job type. type: of a row of the table in job.c. */
enum vm_operation_kind job_type_kind(const char *type);
/* Return the content of jobs.json: the concluded jobs. Valid as long as these; owned. */
struct json_object *jobs_to_file(struct vm_host *host);

#endif
