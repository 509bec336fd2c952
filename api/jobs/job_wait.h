/* job_wait: calls of job-wait, which are answered when their job concludes. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_JOB_WAIT_H
#define CAIRN_API_JOBS_JOB_WAIT_H

#include <stdint.h>

struct call;
struct err;
struct vm_host;
struct vm_observer;

extern const struct vm_observer job_wait_observer;

/* Answer the call when the job `id` has concluded, or after the time limit, with the result of job_to_json() at that
 * time.
 * timeout_ns: 0: no limit.
 * Returns 0: the call is answered later; -ENOENT, -ENOMEM: it is left to the caller. */
int job_wait_begin(struct call *c, const char *id, uint64_t timeout_ns, struct err *e);
/* Refuse the calls whose users may not see their job any more. */
void job_waits_check_roles(struct vm_host *host);
/* Answer all waiting calls with an error. */
void job_waits_free(struct vm_host *host);

#endif
