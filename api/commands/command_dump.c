/* Handler of vm-dump: writes a guest's memory into a file. */
#include "api/commands/command.h"
#include "api/jobs/dump.h"
#include "api/jobs/job.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <string.h>

static enum dump_then arg_then(struct call *c)
{
	const char *then = js_get_str(c->args, "then");

	return !then ? DUMP_THEN_NOTHING : strcmp(then, "crash") ? DUMP_THEN_RESET : DUMP_THEN_CRASH;
}

void command_vm_dump(struct call *c)
{
	struct dump_request q = { .file = &c->file, .then = arg_then(c), .job_id = js_get_str(c->args, "job-id") };
	struct job *j;
	struct err e;

	if (dump_begin(c->vm, &q, &j, &e) < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}
