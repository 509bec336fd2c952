/* Handlers of jobs. */
#include "api/commands/command.h"
#include "api/jobs/job.h"
#include "api/jobs/job_wait.h"
#include "api/vm/vm_host.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>

#define WAIT_MAX_S 86400 /* as long as the daemon keeps results */

void command_query_jobs(struct call *c)
{
	const char *id = js_get_str(c->args, "id"), *after = js_get_str(c->args, "after");
	struct json_object *list;
	size_t bytes = 0;
	struct job *j;
	struct err e;

	jobs_trim(c->host);
	j = after ? job_find(c->host, after) : NULL;
	if (after && (!j || call_role_for(c, job_vm_uuid(j)) < ROLE_VIEWER)) {
		err_set(&e, -ENOENT, ERR_NOT_FOUND, "after: there is no job '%.63s' any more; list the jobs from the first page on", after);
		call_fail(c, &e);
		return;
	}
	list = json_object_new_array();
	for (j = j ? j->next : c->host->jobs; j; j = j->next) {
		struct json_object *o;

		if ((id && strcmp(id, j->id)) || call_role_for(c, job_vm_uuid(j)) < ROLE_VIEWER)
			continue;
		o = job_to_json(j);
		bytes += js_line_bytes(o);
		if (bytes > JS_ANSWER_MAX && json_object_array_length(list)) {
			json_object_put(o);
			break;
		}
		json_object_array_add(list, o);
	}
	call_return(c, list);
}

static struct job *job_of(struct call *c, struct err *e)
{
	const char *id = js_get_str_or(c->args, "id", "");
	struct job *j = job_find(c->host, id);

	if (!j)
		err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no job '%.63s'. Next: cairn jobs", id);
	return j;
}

static void job_act(struct call *c, int (*act)(struct job *j, struct err *e))
{
	struct err e;
	struct job *j = job_of(c, &e);

	call_done(c, j ? act(j, &e) : -ENOENT, &e);
}

void command_job_wait(struct call *c)
{
	int64_t timeout_s = js_get_int(c->args, "timeout", 0);
	struct err e;
	int r = 0;

	if (js_get(c->args, "timeout") && (timeout_s < 1 || timeout_s > WAIT_MAX_S))
		r = err_set(&e, -EINVAL, ERR_INVALID, "timeout: %lld is out of range; give 1 to %d seconds", (long long)timeout_s, WAIT_MAX_S);
	if (!r)
		r = job_wait_begin(c, js_get_str(c->args, "id"), (uint64_t)timeout_s * CLOCK_NS_PER_S, &e);
	if (r < 0)
		call_fail(c, &e);
}

void command_job_cancel(struct call *c)
{
	job_act(c, job_cancel);
}

void command_job_dismiss(struct call *c)
{
	job_act(c, job_dismiss);
}
