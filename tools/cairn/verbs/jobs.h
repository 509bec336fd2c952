/* jobs: the daemon's jobs (job.c). */
#ifndef CAIRN_TOOLS_VERBS_JOBS_H
#define CAIRN_TOOLS_VERBS_JOBS_H

struct cli;
struct err;
struct json_object;

/* Fetch all pages of query-jobs as one array, which the caller owns. Returns 0 or -errno. */
int jobs_fetch(struct cli *c, struct json_object **ret_all, struct err *e);

#endif
